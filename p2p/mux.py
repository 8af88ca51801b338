"""yamux connections for py-libp2p: the thin trio driver of `p2p.yamux`.

What it knows: which task waits for what.  What it must not know: the frames.

The rules that it keeps:

- Three tasks a connection, all in the nursery of `MuxConnection.start`: one reads and never waits
  for writing; one writes whatever the machine wants to send; one watches the time.
- Everyone else only changes the machine between two awaits and wakes the writer, so there are no
  locks but the one that keeps two writes to one stream apart.
- A connection holds what its windows allow and one batch of outgoing bytes, nothing else.
- A write that is cancelled after a part of it went resets its stream: the peer must not take half
  a message for a whole one.
- What ends, ends for all: when `start` returns, no task and no waiter is left behind.

`install` puts this class and the noise session of `p2p.channel` in the place of py-libp2p's own.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.security.noise import transport as noise_transport
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)

from p2p.channel import NoisePattern, NoiseSession, PlainWire, Wire
from p2p.errors import PeerFault
from p2p.yamux import Code, Data, Event, Kind, Machine, Stream

log = logging.getLogger(__name__)

BATCH = 256 << 10  # bytes encrypted and written at once: they stay in the processor's cache
PROGRESS = 64 << 10  # a write of this size that the transport took shows that it moves
FAREWELL = 1.0  # seconds that the last frames have to go out when a connection is closed

# What the transport raises when it ends under us.
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, BaseLibp2pError)


class MuxStream(IMuxedStream):
    """One stream; what py-libp2p wraps in its NetStream."""

    def __init__(self, conn: "MuxConnection", state: Stream) -> None:
        self.muxed_conn = conn
        self.stream_id = state.id
        self._conn = conn
        self._machine = conn.machine
        self._state = state
        state.owner = self
        self._writing = trio.Lock()
        self._readers = trio.lowlevel.ParkingLot()
        self._written = trio.lowlevel.ParkingLot()

    @property
    def is_closed(self) -> bool:
        """Whether both directions have come to their end."""
        return self._state.dead

    async def read(self, n: int | None = None) -> bytes:
        """At least one byte and at most ``n`` (all that is there, without ``n``).

        `MuxedStreamEOF` at the end that the peer set, `MuxedStreamReset` at any other.
        """
        limit = None if n is None or n < 0 else n
        await trio.lowlevel.checkpoint()
        while True:
            if data := self._machine.read(self._state, limit):
                self._conn.wake_writer()
                return data
            if limit == 0:
                return b""
            if self._state.reset:
                raise MuxedStreamReset(f"stream {self.stream_id} was reset")
            if self._state.fin_received:
                raise MuxedStreamEOF(f"stream {self.stream_id} has ended")
            await self._readers.park()

    async def write(self, data: Data) -> None:
        """All of ``data``, as fast as the peer takes it; back when it is on its way.

        Cancelled half-way, it resets the stream.  `MuxedStreamClosed`, `MuxedStreamReset`.
        """
        async with self._writing:
            self._check_writable()
            if not data:
                return
            state, machine = self._state, self._machine
            machine.write(state, data)
            self._conn.wake_writer()
            finished = False
            try:
                await self._written.park()
                finished = True
            finally:
                if not finished and 0 < machine.give_up(state) < len(data):
                    self._reset_now()
            if state.reset or (state.dead and not state.fin_sent):
                raise MuxedStreamReset(f"stream {self.stream_id} was reset")

    def _check_writable(self) -> None:
        if self._state.finishing and not self._state.reset:
            raise MuxedStreamClosed(f"stream {self.stream_id} is closed for writing")
        if self._state.dead:
            raise MuxedStreamReset(f"stream {self.stream_id} was reset")

    async def close_write(self) -> None:
        """Send the end of this direction; the other stays open."""
        self._machine.finish(self._state)
        self._conn.wake_writer()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Send the end of this direction and give the peer a minute for its own.

        What the peer still sends can be read until then.
        """
        self._machine.finish(self._state, linger=True)
        self._conn.wake_writer()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """End both directions at once; what is unread is dropped."""
        self._reset_now()
        await trio.lowlevel.checkpoint()

    async def wait_reset(self) -> None:
        """Return once either side has reset it, or the connection has ended; reads nothing."""
        await trio.lowlevel.checkpoint()
        while not self._state.reset:
            await self._readers.park()

    def _reset_now(self) -> None:
        self._machine.reset(self._state)
        self.wake()
        self._conn.forget(self._state)
        self._conn.wake_writer()

    def wake(self) -> None:
        """Something ended: let everyone look again."""
        self._readers.unpark_all()
        self._written.unpark_all()

    def wake_readers(self) -> None:
        """Bytes came, or the end of them."""
        self._readers.unpark_all()

    def wake_written(self) -> None:
        """The write under way has gone."""
        self._written.unpark_all()

    def set_deadline(self, ttl: int) -> None:
        """Not supported: use trio's own timeouts."""
        raise NotImplementedError("put trio.fail_after around the call instead")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The address and port of the peer."""
        return self._conn.get_remote_address()

    async def __aenter__(self) -> "MuxStream":
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()


class MuxConnection(IMuxedConn):
    """One connection; py-libp2p makes it, and runs `start` in a task of its own."""

    def __init__(
        self,
        conn: ISecureConn,
        peer_id: ID,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self.secured_conn = conn
        self.peer_id = peer_id
        self.on_close = on_close  # py-libp2p's swarm puts its own here
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self._initiator = conn.is_initiator if is_initiator is None else is_initiator
        self.machine = Machine(client=self._initiator, now=trio.current_time())
        self._wire: Wire = conn if isinstance(conn, NoiseSession) else PlainWire(conn)
        self._waiting: dict[Stream, MuxStream] = {}  # opened by the peer, not yet accepted
        self._writer = trio.lowlevel.ParkingLot()
        self._acceptors = trio.lowlevel.ParkingLot()
        self._openers = trio.lowlevel.ParkingLot()
        self._said_all = trio.Event()  # GO_AWAY has gone
        self._scope = trio.CancelScope()

    # -- what py-libp2p calls ----------------------------------------------------------------

    @property
    def is_initiator(self) -> bool:
        """Whether this side dialled."""
        return self._initiator

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self.machine.ended

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, with all of its tasks."""
        return self.event_closed.is_set()

    def rtt(self) -> float:
        """The last measured round-trip time, in seconds."""
        return self.machine.rtt

    def get_remote_address(self) -> tuple[str, int] | None:
        """The address and port of the peer."""
        return self.secured_conn.get_remote_address()

    def get_transport_addresses(self) -> list[Any]:
        """The peer's addresses as multiaddresses."""
        return self.secured_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        return self.secured_conn.get_connection_type()

    async def open_stream(self) -> MuxStream:
        """A new stream; waits while too many are open.  `MuxedConnUnavailable` at the end."""
        await trio.lowlevel.checkpoint()
        while not self.machine.can_open:
            if self.machine.ended:
                raise MuxedConnUnavailable(f"the connection to {self.peer_id} has ended")
            await self._openers.park()
        stream = MuxStream(self, self.machine.open())
        self.wake_writer()
        return stream

    async def accept_stream(self) -> MuxStream:
        """The next stream that the peer opened.  `MuxedConnUnavailable` at the end."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self.machine.closing:
                raise MuxedConnUnavailable(f"the connection to {self.peer_id} has ended")
            await self._acceptors.park()
        return self._waiting.pop(next(iter(self._waiting)))

    async def start(self) -> None:
        """Run the connection until it ends; py-libp2p gives it a task."""
        if self.event_started.is_set():
            return
        self.event_started.set()
        try:
            if not self.machine.closing:
                with self._scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._read)
                        nursery.start_soon(self._write)
                        nursery.start_soon(self._watch)
        except Exception:
            # A bug of ours that a stranger's bytes have found: py-libp2p would end the whole host
            # with it, so it ends this connection and leaves its traceback.
            log.exception("the connection to %s ends by a bug", self.peer_id)
        finally:
            await self._end()
        if self.on_close is not None:
            await self.on_close()

    async def close(self) -> None:
        """Send what is owed and GO_AWAY, within a second, and end all tasks."""
        if not self.event_started.is_set():
            self.machine.close()
            self.event_started.set()
            await self._end()
            return
        self.machine.close()
        self.wake_writer()
        try:
            with trio.move_on_after(FAREWELL):
                await self.event_closed.wait()
        finally:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self.event_closed.wait()

    # -- the three tasks ---------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while data := await self._wire.receive():
                events = self.machine.receive(data, trio.current_time())
                del data  # it belongs to the next read
                for event in events:
                    self._handle(event)
                self._wake_openers()
                self.wake_writer()
            self._stop("the peer closed it")
        except BROKEN as exc:
            self._stop(f"the transport broke ({exc!r})")
        except PeerFault as fault:
            log.info("%s broke the protocol: %s", self.peer_id, fault)
            self.machine.close(Code.PROTOCOL_ERROR)  # noise knows nothing of it
            self._reset_all()
            self.wake_writer()
            await self._drain()

    async def _drain(self) -> None:
        """Read on, to nowhere: closing a socket with unread bytes can destroy what was sent."""
        with trio.move_on_after(FAREWELL):
            with suppress(PeerFault, *BROKEN):
                while await self._wire.receive():
                    pass
            await self._said_all.wait()
        self._stop("the peer broke the protocol")

    async def _write(self) -> None:
        machine = self.machine
        try:
            while True:
                if not machine.wants_to_send:
                    if machine.closing:
                        break
                    await self._writer.park()
                    continue
                parts, sent = machine.gather(BATCH)
                for state in sent:
                    if isinstance(state.owner, MuxStream):
                        state.owner.wake_written()
                self._wake_openers()
                if not parts:
                    continue
                size = sum(map(len, parts))
                await self._wire.send(parts)
                if size >= PROGRESS:
                    machine.progressed(trio.current_time())
            await self._wire.finish()
            self._said_all.set()
            await trio.sleep(FAREWELL)  # the reader ends it sooner, when the peer closes too
            self._stop("it was closed")
        except BROKEN as exc:
            self._stop(f"the transport broke ({exc!r})")

    async def _watch(self) -> None:
        try:
            while True:
                await trio.sleep_until(self.machine.due)
                for event in self.machine.tick(trio.current_time()):
                    self._handle(event)
                self.wake_writer()
        except PeerFault as fault:
            self._stop(fault.message)

    # -- between them ------------------------------------------------------------------------

    def wake_writer(self) -> None:
        """Let the writer look, if there is something for it."""
        if self._writer and self.machine.wants_to_send:
            self._writer.unpark()

    def forget(self, state: Stream) -> None:
        """The stream is no more: nobody accepts it, and another may be opened."""
        self._waiting.pop(state, None)
        self._wake_openers()

    def _wake_openers(self) -> None:
        if self._openers and (self.machine.can_open or self.machine.ended):
            self._openers.unpark_all()

    def _handle(self, event: Event) -> None:
        kind, state = event
        if state is None:
            if self.machine.gone != Code.NORMAL or not self.machine.streams:
                self._stop(f"the peer said GO_AWAY ({self.machine.gone})")
        elif kind is Kind.OPENED:
            self._waiting[state] = MuxStream(self, state)
            self._acceptors.unpark()
        elif isinstance(state.owner, MuxStream):
            if kind is Kind.RESET:
                self.forget(state)
                state.owner.wake()
            else:
                state.owner.wake_readers()

    def _stop(self, reason: str) -> None:
        log.debug("the connection to %s ends: %s", self.peer_id, reason)
        self._scope.cancel()

    def _reset_all(self) -> None:
        for event in self.machine.lost():
            self._handle(event)
        self._waiting.clear()
        self._openers.unpark_all()
        self._acceptors.unpark_all()

    async def _end(self) -> None:
        """Leave nobody waiting, and no socket open."""
        self._reset_all()
        with trio.CancelScope(deadline=trio.current_time() + FAREWELL, shield=True):
            try:
                await self._wire.close()
            except BROKEN as exc:
                log.debug("closing the connection to %s: %r", self.peer_id, exc)
        self.event_closed.set()


def install() -> None:
    """Put the muxer and the noise session of this package into py-libp2p 0.8.1; idempotent.

    Both classes are hard-coded there, each under one module's name: the muxer in
    ``muxer_multistream``, whatever the host's options say, and the handshake in the noise
    transport.  Connections that exist already keep what they have.
    """
    muxer_multistream.Yamux = MuxConnection  # type: ignore[attr-defined,assignment]
    noise_transport.PatternXX = NoisePattern  # type: ignore[attr-defined]
