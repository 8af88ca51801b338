"""``hf download`` of a file that the node holds, and of the same file from a web server, in turn.

    python -m tests.bench.hub [--rounds N] [--size BYTES] [--json FILE]

The client is the real one, a process of its own with an empty cache each time, and the rate is that
of its download alone, not of Python's start. The web server is nginx if it is installed. The ratio
is the median of the ratios within a round.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.bench.machine import describe
from tests.bench.rivals.web import REPO, serve
from tests.network.people import Person

DOWNLOAD = """
import json, sys, time
from huggingface_hub import snapshot_download
begin = time.perf_counter()
snapshot_download(sys.argv[1], cache_dir=sys.argv[2])
print(json.dumps(time.perf_counter() - begin))
"""


@asynccontextmanager
async def served(folder: Path, home: Path) -> AsyncIterator[dict[str, tuple[str, str]]]:
    """The same folder by a node and by a web server: name -> (endpoint, repository)."""
    alice = Person(home / "alice")
    with ExitStack() as stack:
        web = home / "web"
        web.mkdir()
        server = stack.enter_context(serve(folder, web, ""))
        async with alice.node("--offline") as node:
            await alice.publish(folder, "work")
            yield {"node": (node.status["http"], "alice/work"), "web": (server["http"], REPO)}


async def download(endpoint: str, repo: str, cache: Path) -> float:
    """Download a repository; seconds."""
    environ = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", DOWNLOAD, repo, str(cache / "hub")]
    done = await trio.run_process(command, env=environ, capture_stdout=True)
    shutil.rmtree(cache)
    seconds: float = json.loads(done.stdout)
    return seconds


async def measure(rounds: int, size: int, home: Path) -> dict[str, Any]:
    """Download from both in turn, the order changing."""
    folder = home / "work"
    folder.mkdir()
    with (folder / "model.bin").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    seconds: dict[str, list[float]] = {"node": [], "web": []}
    async with served(folder, home) as servers:
        for endpoint, repo in servers.values():  # once, to have everything loaded
            await download(endpoint, repo, home / "cache")
        for number in range(rounds):
            for name in sorted(servers, reverse=bool(number % 2)):
                seconds[name].append(await download(*servers[name], home / "cache"))
    pairs = list(zip(seconds["node"], seconds["web"], strict=True))
    return {
        "size": size,
        "node_MB_s": statistics.median(size / one / 1e6 for one in seconds["node"]),
        "web_MB_s": statistics.median(size / one / 1e6 for one in seconds["web"]),
        "ratio": statistics.median(web / node for node, web in pairs),
        "ratios": [round(web / node, 3) for node, web in pairs],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and say what came out."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hub", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    shm = Path("/dev/shm")
    place = shm if shm.is_dir() and os.statvfs(shm).f_bavail * 4096 > 6 * given.size else None
    with tempfile.TemporaryDirectory(prefix="allod-", dir=place) as name:
        home = Path(name)
        machine = describe(home)
        found = trio.run(measure, given.rounds, given.size, home)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, **found}, indent=1))
    for topic, text in machine.items():
        print(f"{topic}: {text}")
    rates = f"node {found['node_MB_s']:.0f} MB/s, web server {found['web_MB_s']:.0f} MB/s"
    print(f"\n{rates}, ratio {found['ratio']:.3f} {found['ratios']}")


if __name__ == "__main__":
    main()
