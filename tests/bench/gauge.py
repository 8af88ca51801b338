"""Measuring from outside: processor time, memory and the wire, the same for every program.

Memory is anonymous memory, resident less shared of /proc/PID/statm: pages of mapped files, which
some programs touch by the gigabyte and the kernel takes back when it likes, don't count.
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

EVERY = 0.1  # seconds between two looks at the memory
PAGE = resource.getpagesize()


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:  # grows meanwhile
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all below it, ended children included."""
    total = 0.0
    for one in tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(psutil.Process(one).cpu_times()[:4])
    return total


def memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and all below it."""
    total = 0
    for one in tree(pid):
        with suppress(OSError):
            _, resident, shared, *_ = Path(f"/proc/{one}/statm").read_text().split()
            total += (int(resident) - int(shared)) * PAGE
    return total


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
        while not self._over.wait(EVERY):
            for number, pid in enumerate(self._pids):
                self.peaks[number] = max(self.peaks[number], memory(pid))


def seconds_to_flow(since: int, size: int, patience: float) -> float:
    """Wait until ``size`` more bytes than ``since`` have passed the wire; how long that took."""
    begin = time.perf_counter()
    while wire() < since + size:
        if time.perf_counter() > begin + patience:
            raise TimeoutError(f"{size} bytes did not pass within {patience} s")
        time.sleep(0.002)
    return time.perf_counter() - begin
