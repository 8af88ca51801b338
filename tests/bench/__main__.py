"""Allod against what people would use instead, in one run on one machine, over loopback.

    python -m tests.bench [--quick] [--json FILE] [--only WORK,...] [--rounds N]

Everybody serves all the time and has their turn in every round, so that a machine that is slow for
a while is slow for all. A receiver is a new process with nothing, each time.
Peers that are not installed are left out and named (``pip install -e '.[bench]'`` has them; nginx,
curl and b3sum come from the system). ``--quick`` ends within eight minutes: fewer peers, and
no further round of anything once its share of the time is spent.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.bench.gauge import Watch, kill_tree, seconds_to_flow, wire
from tests.bench.machine import describe
from tests.bench.rivals import Rival, Sender, allod, curl, hub, iroh_blobs, stock, torrent
from tests.bench.small import blake3_seconds, command_seconds, first_byte_ms
from tests.bench.table import TARGETS, KillSample, Results, Sample, markdown
from tests.bench.works import MIB, Work, make_f1g, make_many, make_modeldir

WORKS = ("f1g", "modeldir", "many", "publish", "kill", "small")
QUICK = {"f1g": 170.0, "modeldir": 60.0, "many": 25.0, "publish": 30.0, "kill": 30.0}
"""Seconds that the rounds of a work may take in a quick run; the first round is always run."""
QUICKLY_KILLED = ("tls", "libtorrent-v2", "iroh")
KILLED = ("tls", "plain", "stream", "libtorrent-v1", "libtorrent-v2", "iroh", "huggingface-hub")
HASHED = ("libtorrent-v1", "libtorrent-v2", "iroh")
MEMORY = Path("/dev/shm")
ROOM = 10  # times the size of f1g that must be free in memory for the files to lie there
PATIENCE = 120.0  # seconds for a part of a work to come

OURS: list[Rival] = [*allod.RIVALS]
OTHERS: list[Rival] = [
    *torrent.RIVALS, *iroh_blobs.RIVALS, *hub.RIVALS, *curl.RIVALS, *stock.RIVALS,
]  # fmt: skip


class Bench:
    """One run."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.results = Results()
        self._folder = folder
        self._args = args
        self._homes = 0
        self.peers = [one for one in [*OURS, *OTHERS] if self._wanted(one)]

    def _wanted(self, rival: Rival) -> bool:
        args = self._args
        if args.peers and not {rival.name, "allod" if rival in OURS else ""} & set(args.peers):
            return False
        in_targets = any(rival.name in key.split("/") for key in TARGETS)
        if args.quick and not in_targets and rival.name != "tls-command":
            return False
        if why := rival.missing():
            self.results.skipped[rival.name] = why
        return not why

    def _home(self) -> Path:
        self._homes += 1
        return self._folder / f"home-{self._homes}"

    def _rounds(self, work: str) -> Iterator[int]:
        begin = time.monotonic()
        for number in range(self._args.rounds):
            spent = time.monotonic() - begin
            if self._args.quick and number and spent * (number + 1) / number > QUICK[work]:
                return
            say(f"{work}, round {number + 1}")
            yield number

    def _among(self, names: Sequence[str]) -> list[Rival]:
        return [one for one in self.peers if one.name in names]

    def fetches(self, work: Work) -> None:
        """All peers fetch a work, in turn."""
        peers = self.peers
        if work.name != "f1g":
            peers = [one for one in peers if not one.name.endswith(("-4", "-command", "py-libp2p"))]
        with ExitStack() as stack:
            senders = [
                (peer.name, stack.enter_context(peer.share(work, self._home()))) for peer in peers
            ]
            for _ in self._rounds(work.name):
                for name, sender in senders:
                    sample = self._fetch(work, sender)
                    say(f"  {name:28} {sample.mb_s:8.0f} MB/s")
                    self.results.samples[work.name, name].append(sample)

    def _fetch(self, work: Work, sender: Sender) -> Sample:
        home = self._home()
        with sender.receiver(home) as receiver:
            touch_memory(self._folder, work.size)
            with Watch(sender.pids) as there, Watch([receiver.pid]) as here:
                seconds = receiver.fetch()
        shutil.rmtree(home)
        return Sample(
            mb_s=work.size * sender.part / seconds / 1e6,
            seconds=seconds,
            cpu_send=there.cpu,
            cpu_receive=here.cpu,
            mb_send=(max(there.peaks) - sender.idle) / 1e6,
            mb_receive=(max(here.peaks) - receiver.idle) / 1e6,
        )

    def publishes(self, work: Work) -> None:
        """All peers that hash publish a work, in place, each time with nothing known of it."""
        peers: list[Rival] = [allod.Allod("in-place", "tls"), *self._among(HASHED)]
        for _ in self._rounds("publish"):
            for peer in peers:
                home = self._home()
                with peer.share(work, home) as sender:
                    assert sender.publish is not None
                    self._published(work, peer.name, sender.publish)
                shutil.rmtree(home)
            [file] = work.folder.iterdir()
            self._published(work, "blake3", blake3_seconds(file))

    def _published(self, work: Work, name: str, seconds: float) -> None:
        say(f"  {name:28} {seconds:8.2f} s")
        self.results.samples["publish", name].append(Sample(work.size / seconds / 1e6, seconds))

    def kills(self, work: Work) -> None:
        """Peers fetch a work, are killed at half, and fetch it again."""
        peers = self._among(QUICKLY_KILLED if self._args.quick else KILLED)
        for _ in self._rounds("kill"):
            for peer in peers:
                with peer.share(work, self._home()) as sender:
                    sample = self._kill(work, sender)
                say(f"  {peer.name:28} {sample.again_mb:8.1f} MB, {sample.flow_seconds:.2f} s")
                self.results.kills[work.name, peer.name].append(sample)

    def _kill(self, work: Work, sender: Sender) -> KillSample:
        passed = []
        home = self._home()
        for share in (1.0, 0.5, 0.0):  # nobody kills; killed at half; begun again
            with sender.receiver(home) as receiver:
                start = wire()
                fetching = _Fetching(receiver.fetch)
                flow = seconds_to_flow(start, min(MIB, work.size // 4), PATIENCE)
                if share == 0.5:
                    seconds_to_flow(start, work.size // 2, PATIENCE)
                    kill_tree(receiver.pid)
                fetching.join()
                passed.append(wire() - start)
            if share == 1.0:
                shutil.rmtree(home)
        shutil.rmtree(home)
        return KillSample((passed[1] + passed[2] - passed[0]) / 1e6, flow)

    def small(self, work: Work) -> None:
        """The small things."""
        with allod.RIVALS[0].share(work, self._home()) as nodes:
            for word, seconds in command_seconds(nodes).items():
                self.results.small[f"allod {word}, CPU s"] = sorted(seconds)[len(seconds) // 2]
            self.results.small["new connection to manifest, ms"] = first_byte_ms(nodes)


def touch_memory(folder: Path, size: int) -> None:
    """Write and delete as much as is about to come.

    A virtual machine gives memory that it does not use back to its host, and to get it again
    costs seconds a GiB: nobody's fetch should pay for that, or some would and others not.
    """
    piece = os.urandom(MIB)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(size // MIB + 64):
            file.write(piece)


def place(mib: int) -> Path | None:
    """Where files are put if nobody says: in memory, since disks are another thing to measure."""
    with suppress(OSError):
        if shutil.disk_usage(MEMORY).free > ROOM * mib * MIB:
            return MEMORY
    return None


class _Fetching(threading.Thread):
    """A fetch in a thread; ``join`` raises what went wrong, but for the death of the process."""

    def __init__(self, fetch: Callable[[], float]) -> None:
        super().__init__()
        self._fetch = fetch
        self.start()

    def run(self) -> None:
        with suppress(ConnectionError):
            self._fetch()


def say(text: str) -> None:
    """Tell how far it is, beside the result."""
    print(text, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="end within eight minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, rows and ratios")
    parser.add_argument("--only", type=_words, metavar="WORK,...", default=[], help=str(WORKS))
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="5 if left out")
    parser.add_argument(
        "--peers", type=_words, metavar="NAME,...", default=[], help="allod is ours"
    )
    parser.add_argument("--mib", type=int, default=1024, metavar="N", help="size of f1g, 1024")
    parser.add_argument("--folder", type=Path, help="where the files are put; in memory if it fits")
    args = parser.parse_args(argv)
    if unknown := set(args.only) - set(WORKS):
        parser.error(f"there is no work named {', '.join(sorted(unknown))}")
    return args


def _words(text: str) -> list[str]:
    return text.split(",")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, then print the tables and write the file."""
    args = parse(argv)
    top = args.folder or place(args.mib)
    with tempfile.TemporaryDirectory(prefix="allod-bench-", dir=top) as temporary:
        folder = Path(temporary)
        machine = describe(folder)
        bench = Bench(folder, args)
        f1g = make_f1g(folder / "f1g", args.mib)
        jobs: dict[str, Callable[[], None]] = {
            "small": lambda: bench.small(f1g),
            "publish": lambda: bench.publishes(f1g),
            "f1g": lambda: bench.fetches(f1g),
            "modeldir": lambda: bench.fetches(make_modeldir(folder / "modeldir", args.mib)),
            "many": lambda: bench.fetches(make_many(folder / "many", args.mib)),
            "kill": lambda: bench.kills(f1g),
        }
        for name, job in jobs.items():
            if not args.only or name in args.only:
                job()
    machine["load at the end"] = f"{os.getloadavg()[0]:.1f}"
    results = bench.results
    answer = {
        "command": " ".join(["python -m tests.bench", *(argv or sys.argv[1:])]),
        "machine": machine,
        "rows": results.rows(),
        "ratios": results.ratios([one.name for one in OURS] + ["in-place"]),
        "skipped": results.skipped,
    }
    if args.json:
        args.json.write_text(json.dumps(answer, indent=1) + "\n")
    print(markdown(answer))


if __name__ == "__main__":
    main()
