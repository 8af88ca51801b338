"""The yamux state machine: tables of frames, and two machines joined by random fragments."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.errors import PeerFault, PeerGone, UsageError
from p2p.yamux import Code, Kind, Limits, Machine, Stream
from p2p.yamux.frames import HEADER, INITIAL_WINDOW, MAX_UINT32, MAX_WINDOW, Flag, Type
from p2p.yamux.machine import LINGER, MAX_BACKLOG
from p2p.yamux.pulse import DEAD_AFTER, PING_AFTER, RTT_EVERY

BIG = 1 << 30


def frame(kind: int, flags: int, id: int, length: int, body: bytes = b"") -> bytes:
    """One frame as the specification draws it."""
    return HEADER.pack(0, kind, flags, id, length) + body


def data(id: int, body: bytes, flags: int = 0) -> bytes:
    """A data frame."""
    return frame(Type.DATA, flags, id, len(body), body)


def machine(*, client: bool = True, limits: Limits | None = None) -> Machine:
    """A machine at time 0 whose first ping has gone out."""
    made = Machine(client=client, now=0.0, limits=limits or Limits())
    sent(made)
    return made


def sent(one: Machine, limit: int = BIG) -> bytes:
    """Everything that it wants to send."""
    out = b""
    while one.wants_to_send:
        parts, _ = one.gather(limit)
        out += b"".join(parts)
    return out


def frames(raw: bytes) -> list[tuple[int, int, int, int]]:
    """(type, flags, stream, length) of every frame."""
    found = []
    while raw:
        _, kind, flags, id, length = HEADER.unpack_from(raw)
        found.append((kind, flags, id, length))
        raw = raw[HEADER.size + (length if kind == Type.DATA else 0) :]
    return found


def accept(one: Machine, id: int = 2, body: bytes = b"") -> Stream:
    """Let the peer open a stream; its acknowledgement has gone."""
    events = one.receive(frame(Type.WINDOW, Flag.SYN, id, 0) + (data(id, body) if body else b""), 0)
    stream = events[0][1]
    assert events[0][0] is Kind.OPENED
    assert stream is not None
    sent(one)
    return stream


def opened(one: Machine) -> Stream:
    """Open a stream whose SYN has gone and was acknowledged."""
    stream = one.open()
    sent(one)
    one.receive(frame(Type.WINDOW, Flag.ACK, stream.id, 0), 0)
    return stream


# -- opening, closing ----------------------------------------------------------------------------


def test_first_frame() -> None:
    """A new connection measures its round trip at once."""
    one = Machine(client=True, now=0.0)
    assert frames(sent(one)) == [(Type.PING, Flag.SYN, 0, 1)]
    one.receive(frame(Type.PING, Flag.ACK, 0, 1), 0.25)
    assert one.rtt == 0.25
    one.receive(frame(Type.PING, Flag.ACK, 0, 1), 9.0)
    assert one.rtt == 0.25


def test_stream_ids() -> None:
    """The side that dialled opens odd streams, the other even ones; SYN goes in a window update."""
    for client, ids in ((True, [1, 3]), (False, [2, 4])):
        one = machine(client=client)
        assert [one.open().id, one.open().id] == ids
        assert frames(sent(one)) == [(Type.WINDOW, Flag.SYN, id, 0) for id in ids]
        assert one.streams == 2


def test_accept() -> None:
    """A stream that the peer opens is reported once and acknowledged."""
    one = machine()
    [(kind, stream)] = one.receive(frame(Type.WINDOW, Flag.SYN, 2, 0), 0)
    assert kind is Kind.OPENED
    assert stream is not None
    assert (stream.id, stream.outbound) == (2, False)
    assert frames(sent(one)) == [(Type.WINDOW, Flag.ACK, 2, 0)]


def test_accept_with_data() -> None:
    """A stream may be opened by its first data, and ended by the same frame."""
    one = machine()
    events = one.receive(data(2, b"hello", Flag.SYN | Flag.FIN), 0)
    stream = events[0][1]
    assert stream is not None
    assert [kind for kind, _ in events] == [Kind.OPENED, Kind.READABLE, Kind.READABLE]
    assert one.read(stream) == b"hello"
    assert stream.fin_received
    assert one.read(stream) == b""


def test_half_close() -> None:
    """After our end of a stream the peer's data still comes; after both it is forgotten."""
    one = machine()
    stream = opened(one)
    one.finish(stream)
    one.finish(stream)
    assert frames(sent(one)) == [(Type.WINDOW, Flag.FIN, 1, 0)]
    with pytest.raises(UsageError):
        one.write(stream, b"late")
    one.receive(data(1, b"answer"), 0)
    assert not stream.dead
    one.receive(frame(Type.WINDOW, Flag.FIN, 1, 0), 0)
    assert stream.dead
    assert one.streams == 0
    assert one.read(stream) == b"answer"
    assert not stream.reset
    one.finish(stream)
    assert sent(one) == b""


def test_finish_after_peer() -> None:
    """The stream is also forgotten when the peer ended first; its FIN twice is one FIN."""
    one = machine()
    stream = accept(one)
    assert one.receive(frame(Type.DATA, Flag.FIN, 2, 0), 0) == [(Kind.READABLE, stream)]
    assert one.receive(frame(Type.WINDOW, Flag.FIN, 2, 0), 0) == []
    one.write(stream, b"last")
    one.finish(stream)
    assert not stream.fin_sent
    parts, done = one.gather(BIG)
    assert done == [stream]
    assert frames(b"".join(parts)) == [(Type.DATA, 0, 2, 4), (Type.WINDOW, Flag.FIN, 2, 0)]
    assert stream.dead


def test_reset_by_us() -> None:
    """Our reset goes out once, and what was under way to it is skipped."""
    one = machine()
    stream = accept(one, body=b"unread")
    assert one.buffered == 6
    one.reset(stream)
    assert (one.streams, one.buffered, stream.reset) == (0, 0, True)
    assert frames(sent(one)) == [(Type.WINDOW, Flag.RST, 2, 0)]
    assert one.receive(data(2, b"x" * 1000) + frame(Type.WINDOW, 0, 2, 5), 0)[:1] == [
        (Kind.RESET, stream)
    ]
    one.reset(stream)
    assert sent(one) == b""


def test_reset_before_syn() -> None:
    """A stream that is reset before its SYN went leaves no trace on the wire."""
    one = machine()
    stream = one.open()
    one.reset(stream)
    assert sent(one) == b""
    assert one.open().id == 3


@pytest.mark.parametrize("kind", [Type.DATA, Type.WINDOW])
def test_reset_by_peer(kind: Type) -> None:
    """The peer's reset drops what was unread and what was to be written."""
    one = machine()
    stream = accept(one, body=b"unread")
    one.write(stream, b"never goes")
    assert one.receive(frame(kind, Flag.RST, 2, 0), 0) == [(Kind.RESET, stream)]
    assert (stream.reset, one.read(stream), sent(one)) == (True, b"", b"")
    with pytest.raises(UsageError):
        one.write(stream, b"late")


def test_reset_inside_frame() -> None:
    """A reset in the middle of a data frame skips the rest of it."""
    one = machine()
    stream = accept(one)
    one.receive(data(2, bytes(100))[:50], 0)
    one.reset(stream)
    one.receive(data(2, bytes(100))[50:] + frame(Type.PING, Flag.SYN, 0, 9), 0)
    assert frames(sent(one)) == [(Type.PING, Flag.ACK, 0, 9), (Type.WINDOW, Flag.RST, 2, 0)]


# -- windows -------------------------------------------------------------------------------------


def test_send_window() -> None:
    """No more is sent than the peer's window allows, and the rest when it opens."""
    one = machine()
    stream = opened(one)
    one.write(stream, bytes(INITIAL_WINDOW + 10))
    parts, done = one.gather(BIG)
    assert frames(b"".join(parts)) == [(Type.DATA, 0, 1, INITIAL_WINDOW)]
    assert (done, one.wants_to_send) == ([], False)
    with pytest.raises(UsageError):
        one.write(stream, b"second")
    one.receive(frame(Type.WINDOW, 0, 1, 4), 0)
    assert frames(sent(one)) == [(Type.DATA, 0, 1, 4)]
    one.receive(frame(Type.WINDOW, 0, 1, 100), 0)
    parts, done = one.gather(BIG)
    assert (frames(b"".join(parts)), done) == ([(Type.DATA, 0, 1, 6)], [stream])


def test_give_up() -> None:
    """A write can be given up; what went of it is told, and a waiting FIN then goes."""
    one = machine()
    stream = opened(one)
    one.write(stream, bytes(INITIAL_WINDOW + 10))
    sent(one)
    one.finish(stream)
    assert one.give_up(stream) == 10
    assert one.give_up(stream) == 0
    assert frames(sent(one)) == [(Type.WINDOW, Flag.FIN, 1, 0)]
    other = opened(one)
    one.write(other, b"abc")
    assert one.give_up(other) == 3
    assert sent(one) == b""


def test_fair() -> None:
    """Streams take turns: a small write waits for one turn of each large one, not for all."""
    one = machine()
    large, small = opened(one), opened(one)
    one.write(large, bytes(INITIAL_WINDOW))
    one.write(small, b"hi")
    order = [(id, length) for _, _, id, length in frames(sent(one, 100 << 10))]
    assert order == [(1, 64 << 10), (3, 2), (1, 100 << 10), (1, 92 << 10)]


def test_updates_are_coalesced() -> None:
    """Window updates go when half a window was read, once per gather."""
    one = machine()
    stream = accept(one)
    one.receive(data(2, bytes(INITIAL_WINDOW)), 1.0)
    assert len(one.read(stream, 1000)) == 1000
    assert not one.wants_to_send
    while one.read(stream, 10_000):
        pass
    assert frames(sent(one)) == [(Type.WINDOW, 0, 2, INITIAL_WINDOW)]


def test_window_grows() -> None:
    """A stream that the window holds back gets a larger one, up to 16 MiB; a slow one doesn't."""
    one = machine()
    stream = accept(one)
    for size in (1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24, 1 << 24):
        assert stream.window == size
        one.receive(data(2, bytes(size)), 0.01)
        one.read(stream)
        sent(one)
    one.receive(frame(Type.WINDOW, Flag.SYN, 4, 0), 0.01)
    slow = accept(one, 6)
    one.receive(data(6, bytes(INITIAL_WINDOW)), 60.0)
    one.read(slow)
    assert frames(sent(one)) == [(Type.WINDOW, 0, 6, INITIAL_WINDOW)]
    assert slow.window == INITIAL_WINDOW


def test_growth_is_bounded() -> None:
    """All windows together grow only so far, and a stream that ends gives its share back."""
    one = machine(limits=Limits(max_growth=INITIAL_WINDOW))
    first, second = accept(one, 2), accept(one, 4)
    for stream in (first, second):
        one.receive(data(stream.id, bytes(INITIAL_WINDOW)), 0.01)
        one.read(stream)
        sent(one)
    assert (first.window, second.window) == (2 * INITIAL_WINDOW, INITIAL_WINDOW)
    one.reset(first)
    one.receive(data(4, bytes(INITIAL_WINDOW)), 0.02)
    one.read(second)
    sent(one)
    assert second.window == 2 * INITIAL_WINDOW


def test_no_update_after_the_end() -> None:
    """A stream that the peer has ended gets no more window."""
    one = machine()
    stream = accept(one)
    one.receive(data(2, bytes(INITIAL_WINDOW)), 0)
    one.read(stream)
    one.receive(frame(Type.WINDOW, Flag.FIN, 2, 0), 0)
    assert sent(one) == b""


def test_buffer_is_bounded() -> None:
    """The stream whose data would pass the connection's buffer is reset, the others go on."""
    one = machine(limits=Limits(max_buffered=1000))
    first, second = accept(one, 2), accept(one, 4)
    one.receive(data(2, bytes(900)), 0)
    assert one.receive(data(4, bytes(101)), 0) == [(Kind.RESET, second)]
    assert one.buffered == 900
    assert one.read(first) == bytes(900)


def test_update_inside_frame() -> None:
    """A window update that leaves while a frame has come in part grants nothing twice."""
    one = machine()
    stream = accept(one)
    one.receive(data(2, bytes(INITIAL_WINDOW))[:100_000], 60.0)
    one.read(stream, 1)
    one._make_urgent(stream)
    assert sent(one) == b""
    one.receive(bytes(INITIAL_WINDOW + HEADER.size - 100_000), 60.0)
    one.read(stream)
    assert frames(sent(one)) == [(Type.WINDOW, 0, 2, INITIAL_WINDOW)]


@pytest.mark.parametrize("piece", [1, 7, 4096, 70_000])
def test_reading_sizes(piece: int) -> None:
    """Whatever the sizes of frames and reads, the bytes come out in order."""
    one = machine()
    stream = accept(one)
    whole = bytes(i % 251 for i in range(200_000))
    for at in range(0, len(whole), piece):
        one.receive(data(2, whole[at : at + piece]), 0)
        if at > 1000 * piece:
            break
    out = bytearray()
    assert one.read(stream, 0) == b""
    for size in (1, 2, 5000, 4096, 100_000, 1 << 20):
        out += one.read(stream, size)
    assert out == whole[: len(out)]
    assert one.read(stream) == b""


def test_tiny_frames_are_joined() -> None:
    """Frames of two bytes cost no object each."""
    one = machine()
    stream = accept(one)
    for _ in range(10):
        one.receive(data(2, b"ab") * 1000, 0)
    assert stream.inbox.chunks <= 2


# -- limits --------------------------------------------------------------------------------------


def test_backlog() -> None:
    """So many streams wait for their acknowledgement, and no more are opened meanwhile."""
    one = machine()
    streams = [one.open() for _ in range(MAX_BACKLOG)]
    assert not one.can_open
    with pytest.raises(UsageError):
        one.open()
    one.receive(frame(Type.WINDOW, Flag.ACK, 1, 0), 0)
    assert one.can_open
    one.receive(frame(Type.WINDOW, Flag.ACK, 1, 0), 0)
    one.open()
    assert not one.can_open
    one.reset(streams[5])
    assert one.can_open


def test_max_streams() -> None:
    """A stream over the limit is refused with RST; both directions count apart."""
    one = machine(limits=Limits(max_streams=1))
    accept(one, 2)
    assert one.receive(data(4, b"no room", Flag.SYN), 0) == []
    assert frames(sent(one)) == [(Type.WINDOW, Flag.RST, 4, 0)]
    opened(one)
    assert not one.can_open


def test_ids_run_out() -> None:
    """A connection that used all stream ids opens no more."""
    one = machine()
    one._next_id = MAX_UINT32
    one.open()
    assert one.ended
    assert not one.can_open


def syn(id: int) -> bytes:
    """The peer opens a stream."""
    return frame(Type.WINDOW, Flag.SYN, id, 0)


HOSTILE: dict[str, bytes] = {
    "another version": b"\x01" + bytes(11),
    "an unknown type": frame(4, 0, 0, 0),
    "data for stream 0": data(0, b"x"),
    "a window for stream 0": frame(Type.WINDOW, 0, 0, 1),
    "a ping for a stream": frame(Type.PING, Flag.SYN, 2, 1),
    "an unknown type for a stream": frame(9, 0, 2, 1),
    "a ping without a flag": frame(Type.PING, 0, 0, 1),
    "SYN for one of our ids": syn(1),
    "SYN twice": syn(2) + syn(2),
    "data for an id never opened": data(2, b"x"),
    "data for one of our ids never opened": data(7, b"x"),
    "one byte over the window": syn(2) + frame(Type.DATA, 0, 2, INITIAL_WINDOW + 1),
    "SYN with too much data": frame(Type.DATA, Flag.SYN, 2, INITIAL_WINDOW + 1),
    "a huge frame for a stream that is gone": syn(2)
    + frame(Type.WINDOW, Flag.RST, 2, 0)
    + frame(Type.DATA, 0, 2, MAX_WINDOW + 1),
    "a window over 2^32": syn(2) + frame(Type.WINDOW, 0, 2, MAX_UINT32),
    "data after FIN": syn(2) + data(2, b"x", Flag.FIN) + data(2, b"y"),
    "pings and no reading": frame(Type.PING, Flag.SYN, 0, 1) * 4097,
    "SYNs over the limit and no reading": b"".join(syn(2 * i) for i in range(1, 1024 + 4098)),
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile(raw: bytes) -> None:
    """A broken rule is one fault, then GO_AWAY, then silence."""
    one = machine()
    with pytest.raises(PeerFault):
        one.receive(raw, 0)
    one.lost()
    assert frames(sent(one))[-1] == (Type.GO_AWAY, 0, 0, Code.PROTOCOL_ERROR)
    assert one.receive(raw, 0) == []
    assert (one.ended, one.streams, one.buffered) == (True, 0, 0)
    assert not one.wants_to_send


HARMLESS: dict[str, bytes] = {
    "a window for a stream that never was": frame(Type.WINDOW, 0, 8, 9),
    "a reset for one of ours that never was": frame(Type.WINDOW, Flag.RST, 9, 0),
    "an empty data frame for nobody": data(8, b""),
    "an answer to no ping": frame(Type.PING, Flag.ACK, 0, 77),
    "SYN and RST together": frame(Type.WINDOW, Flag.SYN | Flag.RST, 2, 0),
    "SYNs out of order": syn(4) + syn(2) + data(2, b"x"),
    "unknown flags": frame(Type.WINDOW, 0x80 | Flag.SYN, 2, 0),
    "a full window": syn(2) + data(2, bytes(INITIAL_WINDOW)),
}


@pytest.mark.parametrize("raw", HARMLESS.values(), ids=HARMLESS.keys())
def test_harmless(raw: bytes) -> None:
    """What other implementations may send, or frames that crossed, do no harm."""
    one = machine()
    one.receive(raw, 0)
    assert not one.failed


# -- the end, and time ---------------------------------------------------------------------------


def test_close() -> None:
    """Closing sends what is owed, then GO_AWAY; writes that waited and new streams are refused."""
    one = machine()
    stream = opened(one)
    one.write(stream, b"not gone yet")
    finished = one.open()
    one.finish(finished)
    one.close()
    one.close()
    assert frames(sent(one))[-2:] == [
        (Type.WINDOW, Flag.FIN, finished.id, 0),
        (Type.GO_AWAY, 0, 0, Code.NORMAL),
    ]
    assert one.receive(syn(2), 0) == []
    assert frames(sent(one)) == [(Type.WINDOW, Flag.RST, 2, 0)]
    assert one.ended
    assert (Kind.RESET, stream) in one.lost()


def test_lost() -> None:
    """When the transport goes, an end that came stays an end; everything else was cut off."""
    one = machine()
    ended, cut = accept(one, 2, b"all of it"), accept(one, 4, b"a part")
    one.receive(frame(Type.WINDOW, Flag.FIN, 2, 0), 0)
    one.write(ended, b"unsent")
    assert one.lost() == [(Kind.RESET, ended), (Kind.RESET, cut)]
    assert (ended.reset, cut.reset) == (False, True)
    assert (one.read(ended), one.read(cut)) == (b"all of it", b"")
    assert one.lost() == []


def test_go_away() -> None:
    """The peer's GO_AWAY lets streams go on, but no new ones be opened."""
    one = machine()
    stream = opened(one)
    assert one.receive(frame(Type.GO_AWAY, 0, 0, 2), 0) == [(Kind.GONE, None)]
    assert (one.gone, one.can_open) == (2, False)
    one.receive(data(1, b"still here"), 0)
    assert one.read(stream) == b"still here"


def test_silence() -> None:
    """A silent peer is asked after 5 s and given up after 14."""
    one = machine()
    one.receive(frame(Type.PING, Flag.ACK, 0, 1), 0.0)
    one.tick(PING_AFTER)
    assert frames(sent(one)) == [(Type.PING, Flag.SYN, 0, 2)]
    one.tick(one.due)
    assert one.due == DEAD_AFTER
    with pytest.raises(PeerGone):
        one.tick(DEAD_AFTER)


def test_answered_at_once() -> None:
    """The answer to one ping does not put off the next."""
    one = machine()
    one.receive(frame(Type.PING, Flag.ACK, 0, 1), 0.0)
    asked = []
    while one.due < 60:
        now = one.due
        one.tick(now)
        for kind, _, _, value in frames(sent(one)):
            asked.append((kind, now))
            one.receive(frame(Type.PING, Flag.ACK, 0, value), now)
    assert asked == [(Type.PING, 5.0 * i) for i in range(1, 12)]


def test_silence_while_stuck() -> None:
    """Nobody is woken again for a ping that cannot go out because the transport is stuck."""
    one = machine()
    one.receive(frame(Type.PING, Flag.ACK, 0, 1), 0.0)
    one.tick(PING_AFTER)
    assert one.due == 2 * PING_AFTER
    one.progressed(9.0)
    one.tick(10.0)
    one.tick(15.0)
    one.tick(20.0)
    assert one.due == 9.0 + DEAD_AFTER


def test_any_byte_is_life() -> None:
    """A peer that sends is not asked, but for the round trip every half minute."""
    one = machine()
    asked = []
    for second in range(1, 65):
        one.receive(frame(Type.WINDOW, 0, 2, 0), float(second))
        if second >= one.due:
            one.tick(float(second))
        asked += [second for kind, *_ in frames(sent(one)) if kind == Type.PING]
    assert asked == [RTT_EVERY, 2 * RTT_EVERY]


def test_asleep() -> None:
    """When this side was suspended the peer gets its time anew."""
    one = machine()
    one.tick(3600)
    one.tick(one.due)
    one.tick(one.due)
    assert one.due == 3600 + DEAD_AFTER
    with pytest.raises(PeerGone):
        one.tick(one.due)


def test_linger() -> None:
    """A stream that we closed and the peer never ends is reset after a minute."""
    one = machine()
    kept, closed, done = opened(one), opened(one), opened(one)
    one.finish(kept)
    one.finish(closed, linger=True)
    one.finish(done, linger=True)
    sent(one)
    one.receive(frame(Type.WINDOW, Flag.FIN, done.id, 0), LINGER - 1)
    one.tick(one.due)
    one.receive(frame(Type.WINDOW, 0, kept.id, 0), LINGER - 1)
    sent(one)
    one.tick(LINGER - 1)
    assert one.due == LINGER
    assert one.tick(LINGER) == [(Kind.RESET, closed)]
    assert (kept.dead, done.reset) == (False, False)
    assert frames(sent(one))[-1] == (Type.WINDOW, Flag.RST, closed.id, 0)


# -- two machines --------------------------------------------------------------------------------


class Side:
    """A machine, what it wrote and what it read, by stream."""

    def __init__(self, client: bool) -> None:
        self.machine = Machine(client=client, now=0.0)
        self.pipe = bytearray()  # what it sent and the other has not received
        self.streams: list[Stream] = []
        self.writing: dict[int, bytes] = {}
        self.wrote: dict[int, bytearray] = {}
        self.got: dict[int, bytearray] = {}

    def deliver(self, other: "Side", size: int, now: float) -> None:
        """Let the other side receive up to ``size`` bytes."""
        chunk = bytes(self.pipe[:size])
        del self.pipe[:size]
        for kind, stream in other.machine.receive(chunk, now):
            if kind is Kind.OPENED and stream is not None:
                other.streams.append(stream)

    def send(self, limit: int) -> None:
        """Put the next batch into the pipe."""
        parts, done = self.machine.gather(limit)
        self.pipe += b"".join(parts)
        for stream in done:
            del self.writing[stream.id]

    def read(self, stream: Stream, size: int) -> None:
        """Read once."""
        self.got.setdefault(stream.id, bytearray()).extend(self.machine.read(stream, size))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_two_machines(draw: st.DataObject) -> None:
    """Any interleaving of two machines, however cut, delivers the exact bytes in order."""
    sides = Side(True), Side(False)
    now = 0.0

    def act(index: int) -> None:
        nonlocal now
        side, other = sides[index], sides[1 - index]
        machine = side.machine
        action = draw.draw(st.sampled_from(["open", "write", "send", "deliver", "read", "finish"]))
        if action == "open" and machine.can_open and len(side.streams) < 6:
            side.streams.append(machine.open())
        elif action == "send":
            side.send(draw.draw(st.sampled_from([1, 1000, 1 << 16, 1 << 20])))
        elif action == "deliver":
            now += draw.draw(st.sampled_from([0.0, 0.001, 0.3]))
            side.deliver(other, draw.draw(st.sampled_from([1, 11, 500, 1 << 17, 1 << 22])), now)
        elif side.streams:
            stream = draw.draw(st.sampled_from(side.streams))
            if action == "read":
                side.read(stream, draw.draw(st.sampled_from([1, 100, 1 << 16, 1 << 22])))
            elif action == "finish":
                machine.finish(stream)
            elif action == "write" and not stream.finishing and stream.id not in side.writing:
                size = draw.draw(st.sampled_from([1, 300, 5000, 1 << 18, 700_000]))
                body = bytes([stream.id & 255, size & 255]) * (size // 2 + 1)
                side.writing[stream.id] = body
                side.wrote.setdefault(stream.id, bytearray()).extend(body)
                machine.write(stream, body)

    for _ in range(draw.draw(st.integers(0, 120))):
        act(draw.draw(st.integers(0, 1)))
        for stream in sides[0].streams + sides[1].streams:
            assert stream.recv_window + stream.inbox.size <= stream.window
    for _ in range(40):  # then let everything flow
        for side, other in (sides, sides[::-1]):
            while side.machine.wants_to_send:
                side.send(1 << 18)
            side.deliver(other, 1 << 30, now)
            for stream in side.streams:
                side.read(stream, 1 << 30)
    for side, other in (sides, sides[::-1]):
        assert not side.writing
        assert {id: body for id, body in other.got.items() if body} == side.wrote
        assert {s.id for s in side.streams} == {s.id for s in other.streams}
        assert side.machine.buffered == 0
        finished = {s.id for s in side.streams if s.finishing}
        assert all(s.fin_received for s in other.streams if s.id in finished)


HEADERS = st.builds(
    frame,
    st.integers(0, 5),
    st.integers(0, 31),
    st.integers(0, 9),
    st.sampled_from([0, 1, 12, 4000, INITIAL_WINDOW, INITIAL_WINDOW + 1, MAX_UINT32]),
    st.binary(max_size=4000),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(HEADERS, st.binary(max_size=40)), max_size=30), st.booleans())
def test_any_bytes(pieces: list[bytes], client: bool) -> None:
    """Whatever a stranger sends is either harmless or one fault, and memory stays bounded."""
    one = machine(client=client)
    for _ in range(4):
        one.open()
    faults = 0
    for piece in pieces:
        try:
            one.receive(piece, 0)
        except PeerFault:
            faults += 1
            one.lost()
    assert faults <= 1
    assert one.buffered <= sum(map(len, pieces))
    sent(one)
