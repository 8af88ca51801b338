"""What is small but felt every day: cold commands, a new connection; and the floor of a publish."""

import mmap
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3
import trio

from p2p.host import HostSettings, open_host
from p2p.keys import SecretKey
from p2p.sources import PeerSource
from tests.bench.gauge import command_cpu
from tests.bench.rivals.allod import Nodes
from tests.bench.works import MIB

CONNECTIONS = 15
COMMANDS = 5
MAX_MANIFEST = 4 * MIB


def blake3_seconds(file: Path) -> float:
    """BLAKE3 over the leaves of a file, from an mmap, on all cores: the floor of a publish."""
    begin = time.perf_counter()
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data,
        memoryview(data) as view,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):

        def leaf(start: int) -> bytes:
            with view[start : start + MIB] as piece:
                return blake3.blake3(piece).digest()

        for _ in pool.map(leaf, range(0, len(view), MIB)):
            pass
    return time.perf_counter() - begin


def command_seconds(nodes: Nodes) -> dict[str, list[float]]:
    """Processor seconds of ``allod --version``, and of ``allod ls`` against a running node."""
    found: dict[str, list[float]] = {}
    for word in ("--version", "ls"):
        words = [sys.executable, "-m", "node.cli", word]
        command_cpu(words, nodes.nodes[0].environ)  # once, to have the bytecode there
        found[word] = [command_cpu(words, nodes.nodes[0].environ) for _ in range(COMMANDS)]
    return found


def first_byte_ms(nodes: Nodes) -> float:
    """Milliseconds from no connection to a whole manifest; the median of some connections."""
    address = nodes.nodes[0].address
    peer = address.rpartition("/")[2]

    async def run() -> float:
        found = []
        settings = HostSettings(listen_hosts=("127.0.0.1",), mdns=False, dht="client")
        async with open_host(SecretKey.generate(), settings) as host:
            for _ in range(CONNECTIONS):
                begin = time.perf_counter()
                async with PeerSource(host, peer, [address]).open() as session:
                    await session.get(f"/allod/v1/manifest/{nodes.manifest}", limit=MAX_MANIFEST)
                    found.append(time.perf_counter() - begin)
                await host.disconnect(peer)
        return statistics.median(found) * 1000

    return trio.run(run)
