"""What strangers send, against real hosts: each time the host goes on serving others.

Faults are logged once a minute a peer, and who commits too many of them is dropped.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from p2p.errors import NetworkError, PeerGone
from p2p.host import HTTP
from p2p.http import HttpClient, HttpLimits
from p2p.limits import PeerLimits
from p2p.streams import PeerStream
from tests.network.hosts import Running, crew, hello

NOISE = b"\x13/multistream/1.0.0\n\x07/noise\n"


@dataclass
class Stage:
    """A host under attack, its attacker, and an honest peer."""

    victim: Running
    attacker: Running
    honest: Running

    @property
    def port(self) -> int:
        """Where the victim listens."""
        return self.victim.host.own_addresses()[0].port

    async def still_serves(self) -> None:
        """The honest peer is answered."""
        stream = await self.honest.host.open_stream(self.victim.host.peer_id)
        async with HttpClient(stream, peer=self.victim.host.peer_id) as client:
            assert (await client.get("/x", limit=1000))[0] == 200

    async def stream(self) -> PeerStream:
        """A stream of the attacker."""
        return await self.attacker.host.open_stream(self.victim.host.peer_id)

    def dropped(self) -> bool:
        """Whether the attacker is banned."""
        return self.victim.host.banned(self.attacker.host.peer_id)


@asynccontextmanager
async def stage(
    limits: PeerLimits | None = None, http: HttpLimits | None = None
) -> AsyncIterator[Stage]:
    """Three hosts, the last two connected to the first."""
    async with crew() as hosts:
        victim = await hosts.host(limits=limits or PeerLimits(), http=http or HttpLimits())
        attacker, honest = await hosts.host(), await hosts.host()
        victim.host.set_handler(hello)
        for each in (attacker, honest):
            await each.host.connect(victim.host.addresses[0])
        play = Stage(victim, attacker, honest)
        yield play
        await play.still_serves()


async def read_to_end(stream: PeerStream | trio.SocketStream) -> bytes:
    """Everything up to the end or a reset."""
    got = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            got += data
    return got


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00" * 100,
        os.urandom(5000),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a negotiation message of 2^62 bytes
        b"\xff\xff\xff\x7f" + b"a" * 100_000,
        b"\x05\xff\xfe\xfd\xfc\n",  # not UTF-8
        b"\x13/multistream/1.0.0\n\x0b/plaintext\n",
        b"\x13/multistream/1.0.0\n" + b"\x03na\n" * 5000,
        NOISE + b"\xff\xff" + b"\x00" * 70_000,
        NOISE + b"\x00\x00" * 1000,
        NOISE + os.urandom(3000),
    ],
)
async def test_garbage_before_the_handshake(raw: bytes) -> None:
    """Bytes that are no handshake end their own connection, quickly."""
    limits = PeerLimits(handshake_time=0.5)
    async with stage(limits) as play:
        sock = await trio.open_tcp_stream("127.0.0.1", play.port)
        async with sock:
            with contextlib.suppress(trio.BrokenResourceError):
                await sock.send_all(raw)
            with trio.fail_after(60):
                await read_to_end(sock)
        assert len(play.victim.host.peers()) == 2


async def test_half_open_connections() -> None:
    """Sockets that say nothing are closed after the handshake time and take few places."""
    limits = PeerLimits(handshake_time=0.5, handshakes=8, handshakes_per_address=4)
    async with stage(limits) as play:
        socks = [await trio.open_tcp_stream("127.0.0.1", play.port) for _ in range(40)]
        with trio.fail_after(60):
            for sock in socks:
                assert len(await read_to_end(sock)) < 100
                await sock.aclose()
        await play.still_serves()


async def test_connections_per_address() -> None:
    """One address cannot take all places."""
    limits = PeerLimits(connections_per_address=4)
    async with crew() as hosts:
        victim = await hosts.host(limits=limits)
        joined = 0
        for _ in range(8):
            other = await hosts.host()
            try:
                await other.host.connect(victim.host.addresses[0])
                joined += 1
            except NetworkError:
                pass
        assert joined == 4


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Y: " + b"z" * 100_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\nabc", b"413"),
        (b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"405"),
    ],
)
async def test_malformed_http(raw: bytes, status: bytes) -> None:
    """Malformed requests get an error, end their stream, and are counted as faults."""
    async with stage() as play:
        stream = await play.stream()
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(raw)
        answer = await read_to_end(stream)
        assert not answer or answer.startswith((b"HTTP/1.1 " + status, b"HTTP/1.1 400"))
        assert play.attacker.host.connected(play.victim.host.peer_id)


async def test_endless_headers() -> None:
    """Headers without end are cut off at the bound."""
    async with stage() as play:
        stream = await play.stream()
        sent = 0
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n")
            with trio.move_on_after(2):
                while sent < 5_000_000:
                    await stream.send_all(b"X-Endless: yes\r\n" * 100)
                    sent += 1600
        assert sent < 5_000_000


async def test_faults_are_logged_once_and_the_peer_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A peer that breaks the protocol again and again is logged once, then dropped and kept out."""
    async with stage() as play:
        with caplog.at_level(logging.INFO, logger="p2p"):
            with contextlib.suppress(NetworkError):
                for _ in range(30):
                    stream = await play.stream()
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.send_all(b"nonsense\r\n\r\n")
                    await read_to_end(stream)
            with trio.fail_after(60):
                while not play.dropped():
                    await trio.testing.wait_all_tasks_blocked(0.01)
        lines = [
            record for record in caplog.records if "Expected an HTTP request" in record.message
        ]
        assert len(lines) == 1
        with pytest.raises(NetworkError):
            await play.stream()


async def test_silence_between_requests() -> None:
    """An idle stream is closed by the host, without a fault."""
    async with stage(http=HttpLimits(idle=0.2)) as play:
        stream = await play.stream()
        assert await read_to_end(stream) == b""
        assert not play.dropped()


async def test_a_slow_header_is_cut_off() -> None:
    """A header that never ends gets 408 after the head time."""
    async with stage(http=HttpLimits(head=0.2)) as play:
        stream = await play.stream()
        await stream.send_all(b"GET / HT")
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 408")


async def test_a_thousand_streams() -> None:
    """Of a thousand streams of one peer, most are refused, and others are served meanwhile."""
    async with stage(PeerLimits(streams=32)) as play:
        opened: list[PeerStream] = []
        refused = 0

        async def one() -> None:
            nonlocal refused
            try:
                opened.append(await play.stream())
            except NetworkError:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(one)
            await play.still_serves()
        account = play.victim.host.book.account(play.attacker.host.peer_id, trio.current_time())
        assert account.streams <= 32
        assert refused > 900
        assert play.dropped()


async def test_unsolicited_data() -> None:
    """Data on a stream after the request is no more than further requests, and bounded."""
    async with stage() as play:
        stream = await play.stream()
        with contextlib.suppress(trio.BrokenResourceError):
            with trio.move_on_after(1):
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"\x00" * 3_000_000)
        answer = await read_to_end(stream)
        assert not answer or answer.startswith(b"HTTP/1.1 ")


async def test_pipelined_flood() -> None:
    """Requests sent without waiting are answered up to the budget and then with 429."""
    async with stage(PeerLimits(request_rate=1.0, request_burst=10.0)) as play:
        stream = await play.stream()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
        await stream.aclose()
        answer = await read_to_end(stream)
        assert answer.count(b"HTTP/1.1 200") == 10
        assert answer.count(b"HTTP/1.1 429") == 40


async def test_a_reader_that_takes_nothing() -> None:
    """A peer that asks for much and reads nothing is let go after the send time."""
    async with stage(http=HttpLimits(send=0.3)) as play:

        async def much(request: object) -> object:
            from p2p.http import Response

            return Response(200, {}, b"x" * 20_000_000)

        play.victim.host.set_handler(much)  # type: ignore[arg-type]
        stream = await play.stream()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        account = play.victim.host.book.account(play.attacker.host.peer_id, trio.current_time())
        with trio.fail_after(60):
            while account.streams or not account.bytes_in:
                await trio.testing.wait_all_tasks_blocked(0.05)
        play.victim.host.set_handler(hello)


async def test_streams_that_never_say_what_they_want() -> None:
    """Streams without a protocol count against the peer and end with the negotiation time."""
    async with stage(PeerLimits(streams=8)) as play:
        (conn,) = play.attacker.host._network.get_connections()
        raw = [await conn.new_stream() for _ in range(20)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        await play.still_serves()
        account = play.victim.host.book.account(play.attacker.host.peer_id, trio.current_time())
        assert account.streams <= 8
        for stream in raw:
            with contextlib.suppress(Exception):
                await stream.reset()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x05\xff\xfe\xfd\xfc\n",  # not UTF-8: it would end a stock host
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x00",
        b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n",
        b"\x13/multistream/1.0.0\n\x01\n",
        b"\x13/multistream/1.0.0\n" + b"\x03ls\n" * 100,
    ],
)
async def test_malformed_negotiation_on_a_stream(raw: bytes) -> None:
    """Whatever comes instead of a protocol's name ends one stream."""
    async with stage() as play:
        (conn,) = play.attacker.host._network.get_connections()
        stream = await conn.new_stream()
        with contextlib.suppress(Exception):  # the other side may reset at any point
            await stream.write(raw)
            await stream.close()
            while await stream.read(1024):
                pass
        assert play.attacker.host.connected(play.victim.host.peer_id)


async def test_a_peer_that_vanishes_while_it_is_answered() -> None:
    """A connection that breaks in the middle of answers is an everyday end."""
    async with stage() as play:
        for _ in range(5):
            stream = await play.stream()
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        await play.attacker.stop()
        with trio.fail_after(60):
            while len(play.victim.host.peers()) > 1:
                await trio.testing.wait_all_tasks_blocked(0.02)
        assert not play.dropped()


async def test_gone_is_not_a_fault() -> None:
    """Resetting streams is allowed: it costs a peer nothing."""
    async with stage() as play:
        for _ in range(40):
            with contextlib.suppress(PeerGone):
                stream = await play.stream()
                await stream.send_all(b"GET / HT")
                await stream.abort()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not play.dropped()
        assert HTTP in play.victim.host._basic.get_mux().get_protocols()
