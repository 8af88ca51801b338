"""What strangers send to the door of a whole node: it says so once, and goes on serving."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from p2p.errors import NetworkError
from p2p.streams import PeerStream
from tests.network.hosts import Crew, Running, crew
from tests.network.people import Node, Person, same_files
from tests.releases import MIB, noise, write_folder

GET = b"GET /ipfs/x HTTP/1.1\r\nHost: a\r\n"
MALFORMED = (
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET nowhere\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",  # no host
    b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /%ff%fe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /ipfs/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    GET + b"Range: bytes=5-1\r\n\r\n",
    GET + b"Content-Length: 99999999999\r\n\r\nabc",  # a wrong length
    GET + b"Content-Length: -1\r\n\r\n",
    GET + b"Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\n",
    os.urandom(3000),
)
ENDLESS = 4 * MIB  # bytes of headers or of data that nobody may swallow
MANY = 1000


async def send(attacker: Running, victim: str, *pieces: bytes) -> None:
    """Open a stream, send, and read what comes until the node has had enough."""
    with suppress(NetworkError, trio.BrokenResourceError):
        stream = await attacker.host.open_stream(victim)
        for piece in pieces:
            await stream.send_all(piece)
        await stream.aclose()
        while await stream.receive_some(65536):
            pass


async def open_many(attacker: Running, victim: str) -> list[PeerStream]:
    """Open a thousand streams and say nothing on any of them."""
    streams: list[PeerStream] = []

    async def one() -> None:
        with suppress(NetworkError):
            streams.append(await attacker.host.open_stream(victim))

    async with trio.open_nursery() as nursery:
        for _ in range(MANY):
            nursery.start_soon(one)
    return streams


@asynccontextmanager
async def attacker(hosts: Crew, node: Node) -> AsyncIterator[Running]:
    """A stranger who is connected to the node; afterwards the node still knows nothing of it."""
    stranger = await hosts.host()
    await stranger.host.connect(node.address)
    yield stranger
    said = [line for line in node.running.logged if stranger.host.peer_id in line]
    assert len(said) <= 3, said  # what it did, that it is dropped: once a minute
    await stranger.stop()


async def test_strangers_at_the_door_of_a_whole_node(tmp_path: Path) -> None:
    """Malformed HTTP, endless headers, wrong lengths, silence, floods: the node goes on."""
    folder = write_folder(tmp_path / "tiny", {"model.bin": noise(3 * MIB, 1)})
    alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
    release = await alice.publish(folder, "tiny")
    async with alice.node() as node, crew(100) as hosts:
        before = node.status
        async with attacker(hosts, node) as silent, attacker(hosts, node) as many:
            quiet = await silent.host.open_stream(node.peer)  # opened, and not a word
            slow = await silent.host.open_stream(node.peer)
            await slow.send_all(GET[:10])  # and one that stops in the middle of a word
            held = await open_many(many, node.peer)
            assert len(held) < MANY
            async with attacker(hosts, node) as rude:
                for raw in MALFORMED:
                    await send(rude, node.peer, raw)
                await send(rude, node.peer, GET, *[b"X-More: yes\r\n" * 1000] * (ENDLESS // 13000))
                await send(rude, node.peer, GET + b"\r\n", *[bytes(MIB)] * (ENDLESS // MIB))
                for _ in range(30):  # and again, until it is dropped
                    await send(rude, node.peer, b"nonsense\r\n\r\n")
                assert node.running.process.poll() is None
                async with attacker(hosts, node) as polite:  # others are answered meanwhile
                    await send(polite, node.peer, GET + b"\r\n")
                answer = await bob.run("fetch", release["manifest"], "--peer", node.address)
                assert answer["bytes"]["fetched"] == 3 * MIB
                same_files(Path(answer["path"]), folder)
            await quiet.abort()
        now = await alice.run("status")
        assert (now["peer"], now["serving"]) == (before["peer"], before["serving"])
        assert (await alice.run("verify"))["leaves"]["bad"] == 0
        assert "Traceback" not in "\n".join(node.running.logged)
        assert any("dropped" in line for line in node.running.logged)
        assert await node.running.stop() == 0
