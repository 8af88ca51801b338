"""The muxer against js-libp2p, the reference implementation in JavaScript, in both directions."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.mux import MuxConnection, install
from tests.compat.npm import NODE, install_or_skip, started

FOLDER = Path(__file__).parent / "js_libp2p"
ECHO = TProtocol("/echo")
MIB = 1 << 20
MANY = 300


@pytest.fixture(scope="module")
def peer() -> list[str]:
    """The command that runs the JavaScript node; its packages are installed at the first use."""
    install_or_skip(FOLDER)
    return [NODE, str(FOLDER / "peer.mjs")]


@asynccontextmanager
async def our_host() -> AsyncIterator[IHost]:
    """A listening host with our sessions, that echoes."""
    install()
    keys = create_new_key_pair()
    noise = Transport(keys, noise_privkey=create_noise_key().private_key)
    host = new_host(
        key_pair=keys, sec_opt={PROTOCOL_ID: noise}, muxer_opt=create_yamux_muxer_option()
    )

    async def echo(stream: INetStream) -> None:
        assert isinstance(stream.muxed_conn, MuxConnection)
        try:
            while True:
                await stream.write(await stream.read(MIB))
        except StreamEOF:
            await stream.close()

    host.set_stream_handler(ECHO, echo)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host


async def exchange(host: IHost, peer_id: ID, size: int, number: int) -> None:
    """Send ``size`` bytes to the echo and take them back at the same time."""
    stream = await host.new_stream(peer_id, [ECHO])
    body = (bytes((i * 7 + number) % 251 for i in range(251)) * (size // 251 + 1))[:size]

    async def send() -> None:
        for at in range(0, size, MIB):
            await stream.write(body[at : at + MIB])
        await stream.close_write()  # type: ignore[attr-defined]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        got = bytearray()
        try:
            while True:
                got += await stream.read(MIB)
        except StreamEOF:
            assert got == body
    await stream.close()


async def test_we_dial(peer: list[str]) -> None:
    """We dial js-libp2p: an echo, 64 MiB each way at once, and many streams."""
    with trio.fail_after(90):
        async with our_host() as host, started(peer) as address:
            info = info_from_p2p_addr(Multiaddr(address))
            await host.connect(info)
            await exchange(host, info.peer_id, 1000, 1)
            await exchange(host, info.peer_id, 64 * MIB, 2)
            async with trio.open_nursery() as nursery:
                for number in range(MANY):
                    nursery.start_soon(exchange, host, info.peer_id, 2000, number)


@pytest.mark.parametrize("job", ["echo", "bulk", "many"])
async def test_js_dials(peer: list[str], job: str) -> None:
    """js-libp2p dials us: an echo, 64 MiB each way at once, and many streams."""
    with trio.fail_after(60):
        async with our_host() as host:
            address = str(host.get_addrs()[0])
            done = await trio.run_process(
                [*peer, address, job], capture_stdout=True, stdin=subprocess.DEVNULL
            )
            assert done.stdout == b"ok\n"
