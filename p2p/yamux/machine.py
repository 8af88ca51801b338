"""The state machine of one yamux connection; its rules are in the package's docstring."""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from p2p.errors import PeerFault, UsageError
from p2p.yamux.frames import (
    HEADER,
    HEADER_SIZE,
    INITIAL_WINDOW,
    MAX_UINT32,
    MAX_WINDOW,
    Code,
    Data,
    Flag,
    Type,
)
from p2p.yamux.pulse import Pulse
from p2p.yamux.stream import Stream

MAX_STREAMS = 1024  # open at once, each way; js-libp2p allows 1,000
MAX_BACKLOG = 256  # streams that we opened and the peer has not acknowledged; as in go and rust
MAX_BUFFERED = 64 << 20  # unread bytes of all streams: past it the stream that gets more is reset
MAX_GROWTH = 32 << 20  # what all windows together may grow; half of MAX_BUFFERED, so that 128
# streams in their first window still fit beside the grown ones
MAX_OWED = 4096  # answers a peer may make us owe (pongs, refusals) before it reads any of them
QUANTUM = 64 << 10  # bytes a stream may send before the next stream has its turn
LINGER = 60.0  # seconds that a stream which we closed waits for the peer's FIN before its RST


class Kind(Enum):
    """What `Machine.receive` tells about a stream, or (with no stream) about the connection."""

    OPENED = auto()  # the peer opened it
    READABLE = auto()  # it has bytes, or came to its end
    RESET = auto()  # it is no more
    GONE = auto()  # the peer sent GO_AWAY: see Machine.gone


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one connection, in streams and bytes; the constants above say why."""

    max_streams: int = MAX_STREAMS
    max_buffered: int = MAX_BUFFERED
    max_growth: int = MAX_GROWTH
    max_owed: int = MAX_OWED


DEFAULT_LIMITS = Limits()

Event = tuple[Kind, Stream | None]


class Machine:
    """One yamux connection.  ``client`` is the side that dialled: its stream ids are odd."""

    def __init__(self, *, client: bool, now: float, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._next_id = 1 if client else 2
        self._highest_seen = 0
        self._streams: dict[int, Stream] = {}
        self._counts = {False: 0, True: 0}  # by Stream.outbound
        self._backlog = 0
        self._buffered = 0
        self._grown = 0
        self._events: list[Event] = []
        # Parsing: a header that came in pieces, and the data frame whose body is being read.
        self._header = bytearray()
        self._body_left = 0
        self._body_flags = 0
        self._body_stream: Stream | None = None
        # Owed to the peer, in the order in which `gather` pays.
        self._pongs: deque[int] = deque()
        self._resets: deque[int] = deque()
        self._urgent: deque[Stream] = deque()
        self._ready: deque[Stream] = deque()
        self._go_away: Code | None = None
        # State of the connection.
        self.closing = False
        self.failed = False
        self.gone: int | None = None  # the code of the peer's GO_AWAY
        self._now = now  # as last told
        self._pulse = Pulse(now)
        self._lingering: dict[Stream, float] = {}

    # -- the connection ----------------------------------------------------------------------

    @property
    def rtt(self) -> float:
        """The last measured round-trip time, in seconds."""
        return self._pulse.rtt

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def buffered(self) -> int:
        """Unread bytes of all open streams."""
        return self._buffered

    @property
    def can_open(self) -> bool:
        """Whether `open` would succeed now; `receive`, `gather` and `reset` may change that."""
        return (
            not self.ended
            and self._counts[True] < self._limits.max_streams
            and self._backlog < MAX_BACKLOG
        )

    @property
    def ended(self) -> bool:
        """Whether no stream will ever be opened again."""
        return self.closing or self.gone is not None or self._next_id > MAX_UINT32

    @property
    def wants_to_send(self) -> bool:
        """Whether `gather` has something."""
        return bool(
            self._urgent
            or self._ready
            or self._pongs
            or self._pulse.ping_due
            or self._resets
            or self._go_away is not None
        )

    @property
    def due(self) -> float:
        """When `tick` wants to be called next."""
        return (
            min(self._pulse.due, *self._lingering.values()) if self._lingering else self._pulse.due
        )

    def tick(self, now: float) -> list[Event]:
        """Let time pass: ask a silent peer for a sign of life.  `PeerGone` if it gave none."""
        self._now = now
        self._pulse.tick(now)
        for stream in [s for s, until in self._lingering.items() if until <= now]:
            self.reset(stream)
        return self._take_events()

    def progressed(self, now: float) -> None:
        """The transport took a large piece: that counts as a sign of life too."""
        self._pulse.heard(now)

    def close(self, code: Code = Code.NORMAL) -> None:
        """Say GO_AWAY after all that is owed; writes that still wait are given up."""
        if not self.closing:
            self.closing = True
            self._go_away = code
            self._ready.clear()

    def lost(self) -> list[Event]:
        """The transport is gone: every stream that had not come to its end is reset."""
        self.closing = True
        for stream in list(self._streams.values()):
            if stream.fin_received:
                self._remove(stream)
                stream.pending = None
            else:
                self._drop(stream)
            self._events.append((Kind.RESET, stream))
        return self._take_events()

    # -- streams -----------------------------------------------------------------------------

    def open(self) -> Stream:
        """A new stream.  `UsageError` unless `can_open`."""
        if not self.can_open:
            raise UsageError("no stream can be opened on this connection now")
        stream = Stream(self._next_id, True, self._now)
        self._next_id += 2
        self._backlog += 1
        self._add(stream)
        return stream

    def read(self, stream: Stream, limit: int | None = None) -> bytes:
        """Take what is there, at most ``limit`` bytes; ``b""`` when nothing is."""
        data = stream.inbox.take(limit)
        if data and not stream.dead:
            self._buffered -= len(data)
            if stream.owed:
                self._make_urgent(stream)
        return data

    def write(self, stream: Stream, data: Data) -> None:
        """Queue ``data``, which must stay unchanged until `gather` names the stream as sent."""
        if stream.finishing or stream.dead or stream.pending is not None:
            raise UsageError("the stream is closed for writing, or a write is under way")
        stream.pending = memoryview(data).cast("B")
        self._make_ready(stream)

    def give_up(self, stream: Stream) -> int:
        """Forget the write under way; how many of its bytes had not gone."""
        left = len(stream.pending) if stream.pending is not None else 0
        stream.pending = None
        if stream.finishing and not stream.dead:
            self._make_urgent(stream)
        return left

    def finish(self, stream: Stream, *, linger: bool = False) -> None:
        """Write no more: FIN.  ``linger`` also gives the peer `LINGER` seconds for its own."""
        if stream.dead:
            return
        if linger:
            self._lingering.setdefault(stream, self._now + LINGER)
        if not stream.finishing:
            stream.finishing = True
            if stream.pending is None:
                self._make_urgent(stream)

    def reset(self, stream: Stream) -> None:
        """End the stream both ways, at once."""
        if stream.dead:
            stream.inbox.clear()
            return
        if not stream.outbound or not stream.flag:  # else the peer never heard of it
            self._resets.append(stream.id)
        self._drop(stream)
        self._events.append((Kind.RESET, stream))

    # -- bytes out ---------------------------------------------------------------------------

    def gather(self, limit: int) -> tuple[list[Data], list[Stream]]:
        """The next bytes to send, about ``limit`` of them, and the streams whose write is done.

        What is owed goes first; data goes round robin.  The parts alias what the writers gave:
        encrypt or copy them before any writer runs again.
        """
        parts: list[Data] = []
        sent: list[Stream] = []
        self._gather_owed(parts)
        size = sum(map(len, parts))
        while self._ready and size < limit:
            stream = self._ready.popleft()
            stream.queued = False
            pending = stream.pending
            if pending is None:
                continue
            share = min(QUANTUM, limit) if self._ready else limit
            take = min(len(pending), stream.send_window, share)
            parts.append(HEADER.pack(0, Type.DATA, 0, stream.id, take))
            parts.append(pending[:take])
            size += HEADER_SIZE + take
            stream.send_window -= take
            if take < len(pending):
                stream.pending = pending[take:]
                self._make_ready(stream)
                continue
            stream.pending = None
            sent.append(stream)
            if stream.finishing:
                parts.append(self._fin(stream))
        if self._go_away is not None:
            parts.append(HEADER.pack(0, Type.GO_AWAY, 0, 0, self._go_away))
            self._go_away = None
        return parts, sent

    def _gather_owed(self, parts: list[Data]) -> None:
        if self._pulse.ping_due:
            value = self._pulse.take_ping(self._now)
            parts.append(HEADER.pack(0, Type.PING, Flag.SYN, 0, value))
        while self._pongs:
            parts.append(HEADER.pack(0, Type.PING, Flag.ACK, 0, self._pongs.popleft()))
        while self._resets:
            parts.append(HEADER.pack(0, Type.WINDOW, Flag.RST, self._resets.popleft(), 0))
        while self._urgent:
            stream = self._urgent.popleft()
            stream.urgent = False
            if stream.dead:
                continue
            delta = self._grant(stream)
            if stream.flag or delta:
                parts.append(HEADER.pack(0, Type.WINDOW, stream.flag, stream.id, delta))
                stream.flag = Flag(0)
            if stream.finishing and stream.pending is None and not stream.fin_sent:
                parts.append(self._fin(stream))

    def _fin(self, stream: Stream) -> bytes:
        stream.fin_sent = True
        if stream.fin_received:
            self._remove(stream)
        return HEADER.pack(0, Type.WINDOW, Flag.FIN, stream.id, 0)

    def _grant(self, stream: Stream) -> int:
        """How much the peer may send more, counted as granted; the window grows with its speed."""
        owed = stream.owed
        if not owed:
            return 0
        # As in go-yamux: half a window within four round trips means that the window, and not
        # the reader, holds the peer back.
        more = min(stream.window, MAX_WINDOW - stream.window)
        quick = self._now - stream.epoch < 4 * self._pulse.rtt
        if quick and self._grown + more <= self._limits.max_growth:
            stream.window += more
            self._grown += more
            owed += more
        stream.epoch = self._now
        stream.recv_window += owed
        return owed

    # -- bytes in ----------------------------------------------------------------------------

    def receive(self, data: Data, now: float) -> list[Event]:
        """Take bytes, however cut; what they meant.  `PeerFault` once, and then no more events."""
        self._now = now
        self._pulse.heard(now)
        if self.failed:
            return []
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if self._body_left:
                take = min(self._body_left, end - at)
                self._body_left -= take
                self._body(view[at : at + take])
                at += take
            elif self._header or end - at < HEADER_SIZE:
                take = min(HEADER_SIZE - len(self._header), end - at)
                self._header += view[at : at + take]
                at += take
                if len(self._header) == HEADER_SIZE:
                    fields = HEADER.unpack(self._header)
                    self._header.clear()
                    self._frame(*fields)
            else:
                self._frame(*HEADER.unpack_from(view, at))
                at += HEADER_SIZE
        return self._take_events()

    def _fault(self, message: str) -> PeerFault:
        """Close the door: nothing more is read, and only GO_AWAY is sent; call `lost` next."""
        self.failed = True
        self.closing = True
        for queue in (self._pongs, self._resets, self._urgent, self._ready):
            queue.clear()
        self._pulse.ping_due = False
        self._go_away = Code.PROTOCOL_ERROR
        return PeerFault(message)

    def _frame(self, version: int, kind: int, flags: int, id: int, length: int) -> None:
        if version != 0:
            raise self._fault(f"yamux version 0 was expected, {version} came")
        if kind in (Type.DATA, Type.WINDOW):
            if id == 0:
                raise self._fault("a yamux frame for a stream came with stream 0")
            self._stream_frame(kind, flags, id, length)
        elif id != 0:
            raise self._fault(f"a yamux frame of type {kind} came with stream {id}, not 0")
        elif kind == Type.PING:
            self._ping(flags, length)
        elif kind == Type.GO_AWAY:
            self.gone = length
            self._events.append((Kind.GONE, None))
        else:
            raise self._fault(f"a yamux frame of unknown type {kind} came")

    def _ping(self, flags: int, value: int) -> None:
        if flags & Flag.SYN:
            self._owe(self._pongs, value)
        elif not flags & Flag.ACK:
            raise self._fault("a yamux ping came that is neither question nor answer")
        else:
            self._pulse.answered(value, self._now)

    def _owe(self, queue: deque[int], value: int) -> None:
        if len(queue) >= self._limits.max_owed:
            raise self._fault(f"the peer asked for {len(queue)} answers and read none of them")
        queue.append(value)

    def _stream_frame(self, kind: int, flags: int, id: int, length: int) -> None:
        stream = self._streams.get(id)
        if flags & Flag.SYN:
            if stream is not None or self._is_ours(id):
                raise self._fault(f"the peer opened stream {id}, which is not its to open")
            stream = self._accept(id)
        elif stream is None:
            never = id >= self._next_id if self._is_ours(id) else id > self._highest_seen
            if never and kind == Type.DATA and length:
                raise self._fault(f"data came for stream {id}, which was never opened")
        if kind == Type.DATA:
            self._data_frame(stream, flags, length)
        elif stream is not None:
            if stream.send_window + length > MAX_UINT32:
                raise self._fault(f"the window of stream {id} would pass 2^32 bytes")
            stream.send_window += length
            self._make_ready(stream)
            self._apply(stream, flags)

    def _data_frame(self, stream: Stream | None, flags: int, length: int) -> None:
        if length > (MAX_WINDOW if stream is None else stream.recv_window):
            raise self._fault(f"a data frame of {length} bytes came, more than the window allows")
        if stream is not None and length:
            if stream.fin_received:
                raise self._fault(f"data came after the end of stream {stream.id}")
            if self._buffered + length > self._limits.max_buffered:
                self.reset(stream)
        self._body_left = length
        self._body_stream = stream
        self._body_flags = flags
        if not length:
            self._body(memoryview(b""))

    def _body(self, piece: memoryview) -> None:
        stream = self._body_stream
        if stream is None or stream.dead:
            return
        size = len(piece)
        if size:
            if not stream.inbox.size:
                self._events.append((Kind.READABLE, stream))
            stream.inbox.put(piece)
            # Granted bytes become unread bytes as they come, so that their sum stays right when
            # an update is sent while a frame has come in part.
            stream.recv_window -= size
            self._buffered += size
        if not self._body_left:
            self._apply(stream, self._body_flags)

    def _apply(self, stream: Stream, flags: int) -> None:
        if flags & Flag.ACK and not stream.acked:
            stream.acked = True
            self._backlog -= 1
        if flags & Flag.RST:
            self._drop(stream)
            self._events.append((Kind.RESET, stream))
        elif flags & Flag.FIN and not stream.fin_received:
            stream.fin_received = True
            self._events.append((Kind.READABLE, stream))
            if stream.fin_sent:
                self._remove(stream)

    def _accept(self, id: int) -> Stream | None:
        # Not only upwards: go opens streams from many threads, and their SYNs may overtake.
        self._highest_seen = max(self._highest_seen, id)
        if self.closing or self._counts[False] >= self._limits.max_streams:
            self._owe(self._resets, id)
            return None
        stream = Stream(id, False, self._now)
        self._add(stream)
        self._events.append((Kind.OPENED, stream))
        return stream

    # -- bookkeeping -------------------------------------------------------------------------

    def _is_ours(self, id: int) -> bool:
        return (id ^ self._next_id) & 1 == 0

    def _add(self, stream: Stream) -> None:
        self._streams[stream.id] = stream
        self._counts[stream.outbound] += 1
        self._make_urgent(stream)

    def _remove(self, stream: Stream) -> None:
        """Forget the stream; what is unread stays with it, for whoever still holds it."""
        del self._streams[stream.id]
        stream.dead = True
        self._counts[stream.outbound] -= 1
        self._buffered -= stream.inbox.size
        self._grown -= stream.window - INITIAL_WINDOW
        self._lingering.pop(stream, None)
        if not stream.acked:
            self._backlog -= 1

    def _drop(self, stream: Stream) -> None:
        self._remove(stream)
        stream.drop()

    def _make_ready(self, stream: Stream) -> None:
        if stream.pending is not None and stream.send_window and not stream.queued:
            stream.queued = True
            self._ready.append(stream)

    def _make_urgent(self, stream: Stream) -> None:
        if not stream.urgent:
            stream.urgent = True
            self._urgent.append(stream)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events
