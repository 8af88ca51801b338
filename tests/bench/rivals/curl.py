"""curl over HTTP or HTTPS, then b3sum of what came: the least that a careful person would do.

Where there is no b3sum the Python package blake3 does the same, with all cores, from an mmap.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3

from tests.bench.agent import AgentRival, Fetch, Json, run_agent
from tests.bench.rivals.web import FILES, serve


def _programs() -> str:
    return "" if shutil.which("curl") else "the program curl is not installed"


NAMES = ("http", "https")
RIVALS = [AgentRival(f"curl-{name}", __name__, name, (), _programs) for name in NAMES]


def hasher_name() -> str:
    """What hashes the files."""
    return "b3sum" if shutil.which("b3sum") else "the Python package blake3"


@contextmanager
def receive(card: Json, home: Path, option: str) -> Iterator[Fetch]:
    """Run curl once for all files, on one connection, and then the hash."""
    got = home / "got"
    lines = ["insecure", "fail", "silent", "show-error", "create-dirs"]
    for name in card["names"]:
        lines += [f'url = "{card[option]}{FILES}{name}"', f'output = "{got / name}"']
    (home / "curlrc").write_text("\n".join(lines))
    files = [str(got / name) for name in card["names"]]

    def fetch() -> float:
        begin = time.perf_counter()
        subprocess.run(["curl", "-q", "-K", str(home / "curlrc")], check=True)
        if shutil.which("b3sum"):
            subprocess.run(["b3sum", *files], check=True, stdout=subprocess.DEVNULL)
        else:
            for file in files:
                hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
                hasher.update_mmap(file).digest()
        return time.perf_counter() - begin

    yield fetch


if __name__ == "__main__":
    run_agent(serve, receive)
