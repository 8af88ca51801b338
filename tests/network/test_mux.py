"""Muxed connections: over real sockets, against py-libp2p's own, and over time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import IHost, IMuxedConn, INetStream, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p.channel import NoisePattern, NoiseSession
from p2p.mux import MuxConnection, MuxStream, install
from p2p.yamux.frames import HEADER, INITIAL_WINDOW, Flag, Type
from p2p.yamux.machine import MAX_BACKLOG
from p2p.yamux.pulse import DEAD_AFTER

MIB = 1 << 20


class Kind(NamedTuple):
    """Whose sessions one side uses."""

    pattern: type[PatternXX]
    muxer: type[Any]


OURS, STOCK = Kind(NoisePattern, MuxConnection), Kind(PatternXX, Yamux)
MIXED = {
    "ours": (OURS, OURS),
    "ours dials stock": (OURS, STOCK),
    "stock dials ours": (STOCK, OURS),
}
mixed = pytest.mark.parametrize("kinds", MIXED.values(), ids=MIXED.keys())
Handler = Callable[[Any], Awaitable[None]]


async def handshake(kind: Kind, raw: RawConnection, peer: ID | None) -> ISecureConn:
    """The noise handshake, as the dialling side without ``peer``."""
    keys = create_new_key_pair()
    pattern = kind.pattern(
        ID.from_pubkey(keys.public_key), keys.private_key, create_noise_key().private_key
    )
    if peer is None:
        return await pattern.handshake_outbound(raw, None)
    return await pattern.handshake_inbound(raw)


async def upgrade(kind: Kind, stream: trio.SocketStream, peer: ID | None) -> IMuxedConn:
    """Handshake and muxer, as py-libp2p's upgrader does them."""
    raw = RawConnection(TrioTCPStream(stream), peer is None)
    secured = await handshake(kind, raw, peer)
    made: IMuxedConn = kind.muxer(secured, secured.get_remote_peer())
    return made


async def noise_pair(left: Any, right: Any) -> tuple[NoiseSession, NoiseSession]:
    """Two noise sessions over two raw connections, with no muxer."""
    made: dict[bool, Any] = {}

    async def shake(raw: Any, dials: bool) -> None:
        made[dials] = await handshake(OURS, raw, None if dials else ID(b""))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, left, True)
        nursery.start_soon(shake, right, False)
    return made[True], made[False]


@asynccontextmanager
async def joined(kinds: tuple[Kind, Kind] = (OURS, OURS)) -> AsyncIterator[tuple[Any, Any]]:
    """Two running connections, joined by TCP; at the end both have closed."""
    dialled, accepted = trio.open_memory_channel[IMuxedConn](2)
    some = ID(b"")

    async def serve(stream: trio.SocketStream) -> None:
        conn = await upgrade(kinds[1], stream, some)
        await dialled.send(conn)
        await conn.start()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(_serve_tcp, serve)
        port = listener.socket.getsockname()[1]
        near = await upgrade(kinds[0], await trio.open_tcp_stream("127.0.0.1", port), None)
        nursery.start_soon(near.start)
        far = await accepted.receive()
        yield near, far
        with trio.fail_after(60):
            await near.close()
            await far.close()
        nursery.cancel_scope.cancel()


async def _serve_tcp(handler: Handler, task_status: Any) -> None:
    await trio.serve_tcp(handler, 0, host="127.0.0.1", task_status=task_status)


async def accept_all(conn: Any, handler: Handler) -> None:
    """Handle every stream of the connection until it ends."""
    async with trio.open_nursery() as nursery:
        try:
            while True:
                nursery.start_soon(handler, await conn.accept_stream())
        except MuxedConnUnavailable:
            pass


async def read_exactly(stream: Any, size: int) -> bytes:
    """``size`` bytes."""
    data = bytearray()
    while len(data) < size:
        data += await stream.read(size - len(data))
    return bytes(data)


async def read_end(stream: Any) -> bytes:
    """All bytes up to the end."""
    data = bytearray()
    try:
        while True:
            data += await stream.read(MIB)
    except MuxedStreamEOF:
        return bytes(data)


async def echo(stream: Any) -> None:
    """Send everything back, then end."""
    try:
        while True:
            await stream.write(await stream.read(MIB))
    except MuxedStreamEOF:
        await stream.close()


async def ask(conn: Any, text: bytes) -> None:
    """Have ``text`` echoed on a stream of its own."""
    stream = await conn.open_stream()
    await stream.write(text)
    assert await read_exactly(stream, len(text)) == text
    await stream.close()
    with pytest.raises(MuxedStreamEOF):
        await stream.read()


def pattern_of(size: int, seed: int) -> bytes:
    """Bytes that differ everywhere."""
    return bytes((i * 7 + seed) % 251 for i in range(997)) * (size // 997 + 1)


async def bulk(conn: Any, size: int, seed: int) -> None:
    """Send ``size`` bytes to an echo and take them back, both at once."""
    stream = await conn.open_stream()
    body = pattern_of(size, seed)[:size]

    async def send() -> None:
        for at in range(0, size, 200_000):
            await stream.write(body[at : at + 200_000])
        await stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await read_end(stream) == body


# -- the work ------------------------------------------------------------------------------------


@mixed
async def test_echo(kinds: tuple[Kind, Kind]) -> None:
    """Both sides open streams, write, half-close and read to the end."""
    with trio.fail_after(60):
        async with joined(kinds) as (near, far), trio.open_nursery() as nursery:
            nursery.start_soon(accept_all, far, echo)
            nursery.start_soon(accept_all, near, echo)
            for conn in (near, far):
                for size in (1, 1000, 70_000):
                    await ask(conn, pattern_of(size, size)[:size])
            nursery.cancel_scope.cancel()


@mixed
async def test_many_streams(kinds: tuple[Kind, Kind]) -> None:
    """Two hundred streams at once, from each side."""
    with trio.fail_after(60):
        async with joined(kinds) as (near, far), trio.open_nursery() as nursery:
            nursery.start_soon(accept_all, far, echo)
            nursery.start_soon(accept_all, near, echo)
            async with trio.open_nursery() as asking:
                for number in range(200):
                    asking.start_soon(ask, near, b"near %d" % number)
                    asking.start_soon(ask, far, b"far %d" % number)
            nursery.cancel_scope.cancel()


@mixed
async def test_bulk_both_ways(kinds: tuple[Kind, Kind]) -> None:
    """16 MiB there and 16 MiB back at once, from each side."""
    with trio.fail_after(60):
        async with joined(kinds) as (near, far), trio.open_nursery() as nursery:
            nursery.start_soon(accept_all, far, echo)
            nursery.start_soon(accept_all, near, echo)
            async with trio.open_nursery() as asking:
                asking.start_soon(bulk, near, 16 * MIB, 1)
                asking.start_soon(bulk, far, 16 * MIB, 2)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("run", range(10))
async def test_no_deadlock(run: int) -> None:
    """Bulk both ways on eight streams a side, and 200 new streams meanwhile, never hang."""
    with trio.fail_after(60):
        async with joined() as (near, far), trio.open_nursery() as nursery:
            nursery.start_soon(accept_all, far, echo)
            nursery.start_soon(accept_all, near, echo)
            async with trio.open_nursery() as asking:
                for number in range(8):
                    asking.start_soon(bulk, near, 2 * MIB, number + run)
                    asking.start_soon(bulk, far, 2 * MIB, number)
                for number in range(200):
                    asking.start_soon(ask, near if number % 2 else far, b"%d" % number)
            assert near.machine.streams == far.machine.streams == 0
            nursery.cancel_scope.cancel()


async def test_thousand_streams() -> None:
    """A thousand streams are open at once, and each carries its own bytes."""
    opened: list[MuxStream] = []
    with trio.fail_after(60):
        async with joined() as (near, far), trio.open_nursery() as nursery:
            nursery.start_soon(accept_all, far, echo)
            opened.extend([await near.open_stream() for _ in range(1000)])

            async def use(number: int) -> None:
                text = b"stream %d" % number
                await opened[number].write(text)
                assert await read_exactly(opened[number], len(text)) == text

            for _ in range(2):
                async with trio.open_nursery() as asking:
                    for number in range(1000):
                        asking.start_soon(use, number)
            assert near.machine.streams == 1000
            nursery.cancel_scope.cancel()


async def test_paused_reader() -> None:
    """A reader that pauses holds up its own stream alone, within its window, and loses nothing."""
    go_on = trio.Event()
    body = pattern_of(4 * MIB, 3)[: 4 * MIB]
    with trio.fail_after(60):
        async with joined() as (near, far), trio.open_nursery() as nursery:
            paused = await near.open_stream()

            async def send() -> None:
                await paused.write(body)
                await paused.close()

            async def read_late() -> None:
                stream = await far.accept_stream()
                await go_on.wait()
                assert await read_end(stream) == body

            nursery.start_soon(send)
            async with trio.open_nursery() as reading:
                reading.start_soon(read_late)
                await trio.testing.wait_all_tasks_blocked(0.05)
                async with trio.open_nursery() as others:
                    others.start_soon(accept_all, far, echo)
                    for number in range(8):
                        await bulk(near, MIB, number)
                    others.cancel_scope.cancel()
                assert far.machine.buffered == INITIAL_WINDOW
                go_on.set()


async def test_reads_are_cut_to_size() -> None:
    """A read returns at most what was asked for, at once; without a number, all that is there."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            stream = await near.open_stream()
            await stream.write(b"0123456789")
            other = await far.accept_stream()
            assert await other.read(0) == b""
            assert await other.read(3) == b"012"
            assert await other.read(-1) == b"3456789"
            await stream.write(b"")
            await stream.write(bytearray(b"more"))
            assert await other.read() == b"more"
            assert other.get_remote_address()[0] == "127.0.0.1"
            assert len(near.get_transport_addresses()) == 1
            assert near.get_connection_type() is ConnectionType.DIRECT
            assert not other.is_closed
            with pytest.raises(NotImplementedError):
                other.set_deadline(1)


# -- ends ----------------------------------------------------------------------------------------


async def test_closed_for_writing() -> None:
    """After its end a stream is not written to, but still read from."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            async with await near.open_stream() as stream:
                await stream.write(b"question")
            with pytest.raises(MuxedStreamClosed):
                await stream.write(b"late")
            other = await far.accept_stream()
            assert await read_end(other) == b"question"
            await other.write(b"answer")
            await other.close_write()
            assert await read_end(stream) == b"answer"
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert stream.is_closed
            assert near.machine.streams == 0


async def test_reset() -> None:
    """A reset wakes the reader and the writer of the other side, and our own."""
    with trio.fail_after(60):
        async with joined() as (near, far), trio.open_nursery() as nursery:
            stream = await near.open_stream()
            await stream.write(b"x")
            other = await far.accept_stream()
            await other.read()

            async def reset_read(end: MuxStream) -> None:
                with pytest.raises(MuxedStreamReset):
                    await end.read()

            async def reset_write(end: MuxStream) -> None:
                with pytest.raises(MuxedStreamReset):
                    await end.write(bytes(2 * INITIAL_WINDOW))

            nursery.start_soon(reset_read, stream)
            nursery.start_soon(reset_write, stream)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await stream.reset()
            await reset_write(stream)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await reset_read(other)
            await reset_write(other)


async def test_reset_before_accepted() -> None:
    """A stream that was reset before anyone accepted it is not handed out."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            gone = await near.open_stream()
            await gone.write(b"x")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await gone.reset()
            kept = await near.open_stream()
            await kept.write(b"kept")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await (await far.accept_stream()).read() == b"kept"


async def test_cancelled_write() -> None:
    """A write that is cancelled half-way resets its stream; before its first byte it does not."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            stream = await near.open_stream()
            await stream.write(bytes(INITIAL_WINDOW))
            other = await far.accept_stream()
            with trio.move_on_after(0.02):
                await stream.write(b"not one byte of this went")
            await read_exactly(other, INITIAL_WINDOW)
            await stream.write(b"still good")
            assert await other.read() == b"still good"
            with trio.move_on_after(0.02):
                await stream.write(bytes(32 * MIB))
            with pytest.raises(MuxedStreamReset):
                await stream.write(b"broken")
            with pytest.raises(MuxedStreamReset):
                await read_end(other)


async def test_cancelled_read() -> None:
    """A read that is cancelled loses no bytes."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            stream = await near.open_stream()
            await stream.write(b"1")
            other = await far.accept_stream()
            assert await other.read() == b"1"
            with trio.move_on_after(0.02):
                await other.read()
            await stream.write(b"2")
            assert await other.read() == b"2"


async def test_close() -> None:
    """Closing ends both sides: what waits is woken, an end that came stays an end."""
    with trio.fail_after(60):
        async with joined() as (near, far), trio.open_nursery() as nursery:
            cut, done = await near.open_stream(), await near.open_stream()
            await cut.write(b"part")
            await done.write(b"whole")
            await done.close()
            far_cut, far_done = await far.accept_stream(), await far.accept_stream()
            await far_cut.read()

            async def cut_off() -> None:
                with pytest.raises(MuxedStreamReset):
                    await far_cut.read()

            async def accept_none() -> None:
                with pytest.raises(MuxedConnUnavailable):
                    await far.accept_stream()

            nursery.start_soon(cut_off)
            nursery.start_soon(accept_none)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await near.close()
            await near.close()
            await far.event_closed.wait()
            assert near.is_closed
            assert not near.is_established
            assert await read_end(far_done) == b"whole"
            for conn in (near, far):
                with pytest.raises(MuxedConnUnavailable):
                    await conn.open_stream()
            with pytest.raises(MuxedStreamReset):
                await done.read()


async def test_close_calls_back() -> None:
    """The swarm's hook is called once, when everything has ended."""
    calls = []
    with trio.fail_after(60):
        async with joined() as (near, far):

            async def closed() -> None:
                calls.append(far.is_closed)
                await far.close()

            far.on_close = closed
            await near.close()
            await far.event_closed.wait()
    assert calls == [True]


async def test_hostile_peer() -> None:
    """A peer that breaks the protocol is told so and dropped, and everyone who waited is woken."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            stream = await near.open_stream()
            await stream.write(b"x")
            other = await far.accept_stream()
            await other.read()
            await trio.testing.wait_all_tasks_blocked(0.05)  # the writers are done
            await near.secured_conn.send([HEADER.pack(9, 9, 9, 9, 9)])
            with pytest.raises(MuxedStreamReset):
                await other.read()
            await far.event_closed.wait()
            await near.event_closed.wait()
            assert near.machine.gone == 1


async def test_tampered_frame() -> None:
    """Bytes that do not decrypt end the connection."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            await trio.testing.wait_all_tasks_blocked(0.05)
            await near.secured_conn._raw.write(bytes([0, 20]) + bytes(20))
            await far.event_closed.wait()
            await near.event_closed.wait()
            assert near.machine.gone == 1


async def test_cut_inside_frame() -> None:
    """A connection that ends inside a frame has not ended cleanly, but it has ended."""
    with trio.fail_after(60):
        async with joined() as (near, far):
            await trio.testing.wait_all_tasks_blocked(0.05)
            await near.secured_conn._raw.write(bytes([0, 20]) + bytes(3))
            await near.secured_conn.close()
            await far.event_closed.wait()
            await near.event_closed.wait()


async def test_closed_while_negotiating() -> None:
    """A connection that ends before its muxer runs says so, whoever ended it."""
    left, right = (trio.SocketStream(end) for end in trio.socket.socketpair())
    with trio.fail_after(60):
        near, far = await noise_pair(
            RawConnection(TrioTCPStream(left), True), RawConnection(TrioTCPStream(right), False)
        )
        await near.write(b"hello")
        assert await far.read(2) == b"he"
        assert await far.read() == b"llo"
        await near.close()
        with pytest.raises(ConnectionClosedError):
            await far.read(1)
        with pytest.raises(trio.ClosedResourceError):
            await near.read(1)
        await far.close()


async def test_any_transport() -> None:
    """A noise session also runs over what is not a socket."""
    left, right = trio.testing.memory_stream_pair()
    with trio.fail_after(60):
        near, far = await noise_pair(MemoryConn(left, True), MemoryConn(right, False))
        await near.write(b"in memory")
        assert await far.read() == b"in memory"


# -- over time -----------------------------------------------------------------------------------


class MemoryConn(ISecureConn):
    """A secure connection that is only memory, for tests that let time jump."""

    def __init__(self, stream: Any, is_initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = is_initiator

    async def read(self, n: int | None = None) -> bytes:
        try:
            return bytes(await self.stream.receive_some(n))
        except trio.ClosedResourceError as exc:
            raise ConnectionClosedError("closed") from exc

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> Any:
        return None

    def get_local_peer(self) -> Any:
        raise NotImplementedError

    def get_local_private_key(self) -> Any:
        raise NotImplementedError

    def get_remote_peer(self) -> Any:
        raise NotImplementedError

    def get_remote_public_key(self) -> Any:
        raise NotImplementedError


def memory_pair() -> tuple[MuxConnection, MuxConnection]:
    """Two connections over memory, not started."""
    near, far = trio.testing.memory_stream_pair()
    return (
        MuxConnection(MemoryConn(near, True), ID(b"far")),
        MuxConnection(MemoryConn(far, False), ID(b"near")),
    )


async def test_stopped_peer(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that stops is noticed within 15 seconds, and the reader that waited is told."""
    conn, _ = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        stream = await conn.open_stream()
        with pytest.raises(MuxedStreamReset):
            await stream.read()
        assert trio.current_time() == pytest.approx(DEAD_AFTER)
    assert conn.is_closed


async def test_idle_connection_lives(autojump_clock: trio.testing.MockClock) -> None:
    """Two hours of silence, and a reader that pauses as long, end nothing."""
    near, far = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.start)
        nursery.start_soon(far.start)
        stream = await near.open_stream()
        nursery.start_soon(stream.write, bytes(2 * INITIAL_WINDOW))
        other = await far.accept_stream()
        await trio.sleep(7200)
        assert len(await read_exactly(other, 2 * INITIAL_WINDOW)) == 2 * INITIAL_WINDOW
        assert near.rtt() < 1
        assert near.get_connection_type() is None
        assert near.get_transport_addresses() == []
        await near.close()


async def test_unread_stream_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    """A stream that one side closed and the other never ends is reset after a minute."""
    near, far = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.start)
        nursery.start_soon(far.start)
        stream = await near.open_stream()
        await stream.write(b"x")
        await stream.close()
        other = await far.accept_stream()
        assert await read_end(other) == b"x"
        for _ in range(6):
            await other.write(bytes(1000))
            await trio.sleep(9.9)
        await trio.sleep(10)
        with pytest.raises(MuxedStreamReset):
            await other.write(bytes(1000))
        await near.close()


async def test_opening_waits(autojump_clock: trio.testing.MockClock) -> None:
    """Opening waits while too many streams are unanswered, and goes on when one is."""
    ours, theirs = trio.testing.memory_stream_pair()
    conn = MuxConnection(MemoryConn(ours, True), ID(b"far"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        streams = [await conn.open_stream() for _ in range(MAX_BACKLOG)]
        with trio.move_on_after(1) as scope:
            await conn.open_stream()
        assert scope.cancelled_caught
        nursery.start_soon(theirs.send_all, HEADER.pack(0, Type.WINDOW, Flag.ACK, 1, 0))
        await conn.open_stream()
        nursery.start_soon(streams[7].reset)
        await conn.open_stream()
        nursery.start_soon(theirs.send_all, HEADER.pack(0, Type.GO_AWAY, 0, 0, 0))
        with pytest.raises(MuxedConnUnavailable):
            await conn.open_stream()
        assert not conn.is_closed
        await theirs.aclose()
        await conn.event_closed.wait()


async def test_close_while_stuck(autojump_clock: trio.testing.MockClock) -> None:
    """Closing does not wait for a peer that takes nothing."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    conn = MuxConnection(MemoryConn(ours, True), ID(b"far"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        await trio.testing.wait_all_tasks_blocked()
        stream = await conn.open_stream()
        nursery.start_soon(conn.close)
        with pytest.raises(MuxedStreamReset):
            await stream.write(bytes(100))
        await conn.event_closed.wait()
        assert trio.current_time() <= 1.1
    await theirs.aclose()


async def test_close_before_start() -> None:
    """A connection that never ran is closed like any other, and does not start any more."""
    near, far = memory_pair()
    await near.close()
    await near.start()
    assert near.is_closed
    with pytest.raises(MuxedConnUnavailable):
        await near.accept_stream()
    far.machine.close()
    await far.start()
    assert far.is_closed


async def test_bug_ends_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody expected ends its connection, not the host, and leaves a traceback."""

    class Broken(MemoryConn):
        async def read(self, n: int | None = None) -> bytes:
            raise ValueError("nobody expected this")

    conn = MuxConnection(Broken(trio.testing.memory_stream_pair()[0], True), ID(b"far"))
    await conn.start()
    assert conn.is_closed
    assert "nobody expected this" in caplog.text


async def test_cancelled_start() -> None:
    """When its task is cancelled the connection leaves no waiter and no open socket."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            extra = MuxConnection(MemoryConn(trio.testing.memory_stream_pair()[0], True), ID(b"x"))
            nursery.start_soon(extra.start)
            stream = await extra.open_stream()
            nursery.cancel_scope.cancel()
        assert extra.is_closed
        with pytest.raises(MuxedStreamReset):
            await stream.read()


# -- inside py-libp2p ----------------------------------------------------------------------------


def make_host() -> IHost:
    """A whole py-libp2p host with noise and yamux."""
    keys = create_new_key_pair()
    noise = Transport(keys, noise_privkey=create_noise_key().private_key)
    return new_host(
        key_pair=keys, sec_opt={PROTOCOL_ID: noise}, muxer_opt=create_yamux_muxer_option()
    )


async def test_whole_hosts() -> None:
    """After `install`, twice or once, hosts of py-libp2p use these sessions unchanged."""
    from multiaddr import Multiaddr  # type: ignore[import-untyped]

    install()
    install()
    name = TProtocol("/test/echo")

    async def handle(stream: INetStream) -> None:
        await stream.write(await stream.read(100))
        await stream.close()

    with trio.fail_after(60):
        near, far = make_host(), make_host()
        far.set_stream_handler(name, handle)
        async with far.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]), near.run([]):
            info = info_from_p2p_addr(far.get_addrs()[0])
            await near.connect(info)
            stream = await near.new_stream(info.peer_id, [name])
            await stream.write(b"through the host")
            assert await stream.read(100) == b"through the host"
            assert isinstance(stream.muxed_conn, MuxConnection)
            assert isinstance(stream.muxed_conn.secured_conn, NoiseSession)
            await near.disconnect(info.peer_id)
            await stream.muxed_conn.event_closed.wait()
            await near.connect(info)
