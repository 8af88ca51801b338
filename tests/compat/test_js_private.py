"""Private networks against js-libp2p's `@libp2p/pnet`, in both directions."""

import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.network.stream.exceptions import StreamEOF

from node.config import child_environ
from p2p.errors import NoSources
from p2p.host import Host
from p2p.swarmkey import SwarmKey
from tests.compat.npm import NODE, install_or_skip
from tests.network.hosts import crew

FOLDER = Path(__file__).parent / "js_libp2p"
ECHO = "/echo"
MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def peer() -> list[str]:
    """The command that runs the JavaScript node; its packages are installed at the first use."""
    install_or_skip(FOLDER)
    return [NODE, str(FOLDER / "peer.mjs")]


@pytest.fixture
def key(tmp_path: Path) -> SwarmKey:
    """A key, and its file where the JavaScript node is told that it is."""
    made = SwarmKey.generate()
    (tmp_path / "swarm.key").write_text(made.text)
    return made


def environ(home: Path) -> dict[str, str]:
    """The environment of a JavaScript node in the network."""
    return child_environ(home) | {"SWARM_KEY": str(home / "swarm.key")}


async def answer(stream: INetStream) -> None:
    """Echo until the other side ends."""
    try:
        while True:
            await stream.write(await stream.read(MIB))
    except StreamEOF:
        await stream.close()


async def echoed(host: Host, other: str) -> None:
    """Send bytes to the echo and take the same back."""
    stream = await host.open_stream(other, ECHO)
    body = bytes(range(256)) * (SIZE // 256)
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, body)
        while len(got) < SIZE:
            got += await stream.receive_some(MIB)
    assert got == body
    await stream.aclose()


async def test_we_dial(peer: list[str], key: SwarmKey, tmp_path: Path) -> None:
    """A node with the key talks to js-libp2p; one with another hears what is wrong."""
    async with crew(60) as hosts, trio.open_nursery() as nursery:
        run = partial(
            trio.run_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ(tmp_path)
        )
        process = await nursery.start(run, peer)
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        address = line.decode().strip()
        ours = await hosts.host(swarm_key=key)
        await echoed(ours.host, await ours.host.connect(address))
        for other in (SwarmKey.generate(), None):
            stranger = await hosts.host(swarm_key=other)
            with pytest.raises(NoSources):
                await stranger.host.connect(address)
        await process.stdin.aclose()


async def test_js_dials(peer: list[str], key: SwarmKey, tmp_path: Path) -> None:
    """js-libp2p with the key talks to us."""
    async with crew(60) as hosts:
        ours = await hosts.host(swarm_key=key)
        ours.host.set_stream_handler(ECHO, answer)
        command = [*peer, ours.host.addresses[0], "echo"]
        done = await trio.run_process(
            command, capture_stdout=True, stdin=subprocess.DEVNULL, env=environ(tmp_path)
        )
        assert done.stdout == b"ok\n"
