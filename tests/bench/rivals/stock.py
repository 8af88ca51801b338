"""A stream of py-libp2p as it comes: noise and yamux of its own, bytes counted and thrown away.

It gives only a part of the work: its rate is steady, and a GiB would take it half a minute.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from tests.bench.agent import AgentRival, Fetch, Json, run_agent
from tests.bench.mux import SEND, make_host, take
from tests.bench.works import MIB, folder_size

RIVALS = [AgentRival("py-libp2p", __name__)]
MOST = 256 * MIB  # bytes that it moves


@contextmanager
def serve(folder: Path, home: Path, option: str) -> Iterator[Json]:
    """The far end of the bench of sessions, which sends as much as it is asked for."""
    size = folder_size(folder)
    part = min(size, MOST) // MIB * MIB
    words = [sys.executable, "-m", "tests.bench.mux", "--only", "stock", "--role", "serve"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield {"address": process.stdout.readline().strip(), "size": part, "part": part / size}
        process.stdin.close()


@contextmanager
def receive(card: Json, home: Path, option: str) -> Iterator[Fetch]:
    """Ask for the bytes on one stream."""

    async def run() -> float:
        host = make_host()
        info = info_from_p2p_addr(Multiaddr(card["address"]))
        async with host.run([]):
            begin = time.perf_counter()
            await host.connect(info)
            stream = await host.new_stream(info.peer_id, [SEND])
            await stream.write(int(card["size"]).to_bytes(8, "big"))
            await take(stream, card["size"])
            return time.perf_counter() - begin

    yield lambda: trio.run(run)


if __name__ == "__main__":
    run_agent(serve, receive)
