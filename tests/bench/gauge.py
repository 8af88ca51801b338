"""Measuring from outside: processor time, memory and the wire, the same for every program.

Memory is anonymous memory (``RssAnon`` of /proc/PID/status): pages of mapped files, which some
programs touch by the gigabyte and the kernel takes back when it likes, don't count.
The wire is the loopback interface's counter: it counts what was sent twice, and headers too.
"""

import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

EVERY = 0.02  # seconds between two looks at the memory
TREE_EVERY = 10  # looks between two looks for new child processes


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        return [pid, *(one.pid for one in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all below it, ended children included."""
    total = 0.0
    for one in tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(psutil.Process(one).cpu_times()[:4])
    return total


def anonymous(pids: Sequence[int]) -> int:
    """Bytes of anonymous memory of these processes."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
    return total


def memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and all below it."""
    return anonymous(tree(pid))


def wire() -> int:
    """Bytes that have passed through the loopback interface."""
    return psutil.net_io_counters(pernic=True, nowrap=False)["lo"].bytes_recv


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all below it."""
    for one in tree(pid):
        with suppress(ProcessLookupError):
            os.kill(one, 9)


def command_cpu(words: Sequence[str], environ: dict[str, str]) -> float:
    """Processor seconds of one command, from cold to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Watch:
    """Processor time and peak memory of some processes' trees while the block lasts."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.cpu = 0.0
        """Seconds, all together."""
        self.peaks = [0] * len(pids)
        """Bytes, one number for each process's tree."""
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._before = [cpu_seconds(pid) for pid in self._pids]
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self.cpu = sum(map(cpu_seconds, self._pids)) - sum(self._before)

    def _look(self) -> None:
        count, trees = 0, [tree(pid) for pid in self._pids]
        while not self._over.wait(EVERY):
            count += 1
            if not count % TREE_EVERY:
                trees = [tree(pid) for pid in self._pids]
            for number, pids in enumerate(trees):
                self.peaks[number] = max(self.peaks[number], anonymous(pids))


def seconds_to_flow(since: int, size: int, patience: float) -> float:
    """Wait until ``size`` more bytes than ``since`` have passed the wire; how long that took."""
    begin = time.perf_counter()
    while wire() < since + size:
        if time.perf_counter() > begin + patience:
            raise TimeoutError(f"{size} bytes did not pass within {patience} s")
        time.sleep(0.002)
    return time.perf_counter() - begin
