"""The lane on real sockets: right answers, and every wrong thing that either end can do."""

import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from p2p.address import Address
from p2p.cid import CID, Codec
from p2p.errors import NotFound, PeerFault, PeerGone, PeerRefused
from p2p.http import FileBody, HttpLimits, Request, Response, content_range, parse_range
from p2p.lane import (
    Door,
    Encryption,
    Lane,
    LaneLimits,
    LaneServer,
    LaneSettings,
    Offer,
    Tickets,
    open_lane,
    open_lane_server,
)
from p2p.lane.offer import MAX_PER_PEER, MAX_TICKETS, TICKET_TIME, TICKETS
from p2p.lane.tls import client_context, make_certificate
from p2p.rates import Rates

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
SIZE = (3 << 20) + 12345
DATA = bytes(range(251)) * (SIZE // 251 + 1)
DATA = DATA[:SIZE]
FILE = CID.of(DATA, Codec.RAW)
QUICK = HttpLimits(head=0.5, stall=0.5, send=0.5)
SETTINGS = LaneSettings(hosts=("127.0.0.1",), limits=LaneLimits(http=HttpLimits(send=5, stall=5)))


@dataclass
class House:
    """A lane server over one file, and what its host heard."""

    path: Path
    server: LaneServer = field(init=False)
    faults: list[tuple[str, BaseException]] = field(default_factory=list)
    kept_out: set[str] = field(default_factory=set)
    asked: list[Request] = field(default_factory=list)
    ended: int = 0
    heard: trio.Event = field(default_factory=trio.Event)

    async def handler(self, request: Request) -> Response:
        self.asked.append(request)
        if request.path != f"/ipfs/{FILE}":
            raise NotFound("Not here.")
        span = parse_range(request.headers.get("range"), SIZE)
        start, stop = span or (0, SIZE)
        headers = {"content-range": content_range(start, stop, SIZE)}
        body = FileBody(self.path, start, stop - start)
        return Response(206 if span else 200, headers, body, self.end)

    def end(self) -> None:
        self.ended += 1

    async def fault(self, peer: str, error: BaseException) -> None:
        self.faults.append((peer, error))
        self.heard.set()

    def banned(self, peer: str) -> bool:
        return peer in self.kept_out

    @property
    def port(self) -> int:
        return self.server.addresses[0].port

    async def lane(self, *, wants: Encryption = "tls", offer: Offer | None = None) -> Lane:
        offer = offer or self.server.offer(PEER, wants)
        return await open_lane(
            PEER, offer, offer.tickets[0], Rates().of(PEER), HttpLimits(stall=5), reaching
        )

    async def empty(self) -> None:
        """Return when no connection, and so no thread, is left."""
        while len(self.server):  # noqa: ASYNC110 - a real thread's end rings no bell
            await trio.sleep(0.005)


def reaching(address: Address) -> bool:
    return True


@asynccontextmanager
async def house(
    path: Path, settings: LaneSettings = SETTINGS, rates: Rates | None = None
) -> AsyncIterator[House]:
    """A lane server on loopback for as long as the block lasts; then no thread of it is left."""
    await trio.Path(path).write_bytes(DATA)
    built = House(path)
    door = Door(
        built.handler, built.fault, built.banned, lambda: [Address.parse("/ip4/127.0.0.1/tcp/1")]
    )
    with trio.fail_after(60):
        async with open_lane_server(door, settings, rates or Rates()) as server:
            built.server = server
            yield built
    assert not len(server)


def ask(lane: Lane, start: int, stop: int, cid: CID = FILE) -> None:
    """Ask for one range, and read the head of the answer."""
    lane.ask((cid, start, stop))
    lane.answer()


async def read(lane: Lane, start: int = 0, stop: int = SIZE) -> bytes:
    """Read a range through a lane's thread."""

    def work() -> bytes:
        ask(lane, start, stop)
        found = bytearray(stop - start)
        with memoryview(found) as view:
            for at in range(0, len(view), 1 << 20):
                lane.fill(view[at : at + (1 << 20)])
        return bytes(found)

    return await lane.in_thread(work)


@asynccontextmanager
async def closing(lane: Lane) -> AsyncIterator[Lane]:
    try:
        yield lane
    finally:
        lane.close()


# -- what works


@pytest.mark.parametrize("wants", ["tls", "off"])
async def test_a_lane_carries_ranges(tmp_path: Path, wants: Encryption) -> None:
    """Ranges come whole and right, one after the other on one lane, under the ticket's peer."""
    async with house(tmp_path / "f", replace(SETTINGS, encryption=wants)) as there:
        async with closing(await there.lane(wants=wants)) as lane:
            assert lane.encrypted == (wants == "tls")
            for start, stop in [(0, SIZE), (5, 6), (1 << 20, SIZE - 1)]:
                assert await read(lane, start, stop) == DATA[start:stop]
                assert lane.usable
        assert {request.peer for request in there.asked} == {PEER}
        assert there.server.counts["lanes"] == 1
        await there.empty()
    assert there.faults == []


async def test_many_ranges_are_asked_for_in_one_breath(tmp_path: Path) -> None:
    """The answers come in the order of the requests, and the lane is good once all are read."""
    spans = [(at, at + 1 + at % 7000) for at in range(0, SIZE - 7000, SIZE // 60)]
    async with house(tmp_path / "f") as there, closing(await there.lane()) as lane:

        def work() -> list[bytes]:
            lane.ask(*((FILE, start, stop) for start, stop in spans))
            came = []
            for _ in spans:
                assert not lane.usable
                data = memoryview(bytearray(lane.answer()))
                lane.fill(data)
                came.append(bytes(data))
            return came

        assert await lane.in_thread(work) == [DATA[start:stop] for start, stop in spans]
        assert lane.usable
    assert there.faults == []


async def test_every_answer_is_ended_even_when_the_lane_breaks(tmp_path: Path) -> None:
    """What was prepared for a peer that hangs up is not held for ever."""
    async with house(tmp_path / "f") as there:
        lane = await there.lane()

        def work() -> None:
            rest = ((FILE, 0, SIZE) for _ in range(40))  # 120 MiB: more than a socket holds
            lane.ask((FILE, 0, 10), *rest)
            lane.fill(memoryview(bytearray(lane.answer())))
            lane.answer()

        await lane.in_thread(work)
        lane.close()
        await there.empty()
        assert 1 < len(there.asked) < 10  # few are prepared where the files are large
        assert there.ended == len(there.asked)


async def test_a_refusal_among_many_is_told_apart(tmp_path: Path) -> None:
    """What was asked for before the refused one comes; then the lane is not used any more."""
    async with house(tmp_path / "f") as there, closing(await there.lane()) as lane:

        def work() -> None:
            lane.ask((FILE, 0, 9), (CID.of(b"x", Codec.RAW), 0, 9), (FILE, 9, 18))
            data = memoryview(bytearray(lane.answer()))
            lane.fill(data)
            assert data == DATA[:9]
            lane.answer()

        with pytest.raises(PeerRefused) as caught:
            await lane.in_thread(work)
        assert caught.value.status == 404
        assert not lane.usable


async def test_a_refusal_leaves_the_lane_good(tmp_path: Path) -> None:
    """404 and 416 are answers like others: the next request goes on the same lane."""
    async with house(tmp_path / "f") as there, closing(await there.lane()) as lane:
        other = CID.of(b"x", Codec.RAW)
        for cid, status in [(other, 404), (FILE, 416)]:
            with pytest.raises(PeerRefused) as caught:
                await lane.in_thread(lambda cid=cid: ask(lane, SIZE, SIZE + 10, cid))  # type: ignore[misc]
            assert caught.value.status == status
        assert await read(lane, 0, 10) == DATA[:10]
    assert there.faults == []


async def test_a_short_rest_is_read_a_long_one_ends_the_lane(tmp_path: Path) -> None:
    """Whoever needs no more of an answer keeps the lane if little is left of it."""
    async with house(tmp_path / "f") as there:
        for taken, usable in [(SIZE - 1000, True), (1000, False)]:
            async with closing(await there.lane()) as lane:

                def part(lane: Lane = lane, taken: int = taken) -> None:
                    ask(lane, 0, SIZE)
                    lane.fill(memoryview(bytearray(taken)))
                    lane.leave()

                await lane.in_thread(part)
                assert lane.usable == usable


async def test_a_plain_lane_needs_two(tmp_path: Path) -> None:
    """Who asks for TLS gets it from a node set to off; who asks for off, from one set to tls."""
    for mine, theirs in [("off", "tls"), ("tls", "off")]:
        settings = replace(SETTINGS, encryption=mine)  # type: ignore[arg-type]
        async with (
            house(tmp_path / "f", settings) as there,
            closing(await there.lane(wants=theirs)) as lane,  # type: ignore[arg-type]
        ):
            assert lane.encrypted
            assert await read(lane, 0, 100) == DATA[:100]


async def test_a_cancelled_read_gives_its_thread_back(tmp_path: Path) -> None:
    """A cancel in the middle of a range ends the thread at once, on both sides."""
    rates = Rates()
    rates.change(up=100_000)  # 30 s for the file
    async with house(tmp_path / "f", rates=rates) as there:
        async with closing(await there.lane()) as lane:
            with trio.move_on_after(0.3) as scope:
                await read(lane)
            assert scope.cancelled_caught
        await there.empty()


# -- hostile ends that ask


async def refused(there: House, ticket: str, wants: Encryption = "tls") -> None:
    """A lane with this ticket is answered 401 and ends."""
    offer = replace(there.server.offer(PEER, wants), tickets=(ticket,))
    async with closing(await there.lane(offer=offer)) as lane:
        with pytest.raises(PeerRefused) as caught:
            await read(lane, 0, 10)
        assert caught.value.status == 401
    assert there.asked == []
    await there.empty()


async def test_a_made_up_ticket_is_refused(tmp_path: Path) -> None:
    """A ticket that was never given opens nothing, and is counted."""
    async with house(tmp_path / "f") as there:
        await refused(there, "0" * 48)
        await refused(there, "")
        assert there.server.counts["refused: ticket"] == 2


async def test_a_used_ticket_is_refused(tmp_path: Path) -> None:
    """A ticket is good once."""
    async with house(tmp_path / "f") as there:
        offer = there.server.offer(PEER, "tls")
        async with closing(await there.lane(offer=offer)) as lane:
            await read(lane, 0, 10)
        there.asked.clear()
        await refused(there, offer.tickets[0])


async def test_a_ticket_of_a_banned_peer_is_refused(tmp_path: Path) -> None:
    """Who is kept out gets no lane, and one that is open carries nothing more."""
    async with house(tmp_path / "f") as there:
        async with closing(await there.lane()) as lane:
            await read(lane, 0, 10)
            there.kept_out.add(PEER)
            with pytest.raises(PeerRefused):
                await read(lane, 0, 10)
        there.asked.clear()
        await refused(there, there.server.offer(PEER, "tls").tickets[0])


async def test_a_plain_ticket_is_no_good_on_tls(tmp_path: Path) -> None:
    """The ticket says how the lane is to be encrypted."""
    async with house(tmp_path / "f", replace(SETTINGS, encryption="off")) as there:
        await refused(there, there.server.offer(PEER, "off").tickets[0])


def test_tickets_end() -> None:
    """A ticket is its asker's for a minute; a peer has few, and all together are bounded."""
    tickets = Tickets()
    tickets.give("a", ["one", "two"], "tls", 0.0)
    assert tickets.take("one", "tls", TICKET_TIME - 1) == "a"
    assert tickets.take("one", "tls", 1.0) is None
    assert tickets.take("two", "tls", TICKET_TIME) is None
    for number in range(100):
        tickets.give("b", [f"b{number}"], "tls", 0.0)
    assert len(tickets) == MAX_PER_PEER
    assert tickets.take("b83", "tls", 0.0) is None
    assert tickets.take("b84", "tls", 0.0) == "b"
    for number in range(2 * MAX_TICKETS):
        tickets.give(f"peer{number}", [f"c{number}"], "tls", 0.0)
    assert len(tickets) == MAX_TICKETS


def dialled(port: int, room: int = 0) -> ssl.SSLSocket:
    """A TLS connection to a lane's port; ``room`` bytes are what it can take in."""
    sock = socket.socket()
    if room:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", port))
    return client_context().wrap_socket(sock)


async def talk(there: House, said: bytes) -> bytes:
    """Say something to the lane's port, and return all that comes until it closes."""

    def work() -> bytes:
        with socket.create_connection(("127.0.0.1", there.port), 10) as sock:
            found = b""
            try:
                sock.sendall(said)
                while data := sock.recv(65536):
                    found += data
            except OSError:
                pass
            return found

    return await trio.to_thread.run_sync(work)


GARBAGE = [b"\x16\x03\x01\xff\xff" + bytes(100), b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5000, b"\xff"]


@pytest.mark.parametrize("said", GARBAGE)
@pytest.mark.parametrize("encryption", ["tls", "off"])
async def test_garbage_instead_of_tls_ends_the_connection(
    tmp_path: Path, said: bytes, encryption: Encryption
) -> None:
    """What is no handshake, and on a plain port no request, is closed, counted and answered not."""
    limits = LaneLimits(prove_time=0.5, http=QUICK)
    settings = replace(SETTINGS, encryption=encryption, limits=limits)
    async with house(tmp_path / "f", settings) as there:
        answer = await talk(there, said)
        assert b"200" not in answer
        await there.empty()
        counts = there.server.counts
        assert counts["faults"] + counts["gone"] + counts["refused: ticket"] >= 1
        assert there.asked == []


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"POST / HTTP/1.1\r\nhost: x\r\n", b"405"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n", b"413"),
        (b"GET /%ff HTTP/1.1\r\nhost: x\r\n", b"400"),
        (b"BLAH\r\n", b""),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: " + b"y" * 40000 + b"\r\n", b""),
    ],
)
async def test_a_bad_request_ends_the_lane_and_is_charged(
    tmp_path: Path, said: bytes, status: bytes
) -> None:
    """Requests that nobody who keeps to the protocol makes: an answer, an end, a fault."""
    async with house(tmp_path / "f") as there:
        ticket = there.server.offer(PEER, "tls").tickets[0].encode()
        good = b"GET /ipfs/x HTTP/1.1\r\nhost: x\r\nallod-ticket: " + ticket + b"\r\n\r\n"

        def work() -> bytes:
            with dialled(there.port) as wire:
                wire.sendall(good)
                first = wire.recv(65536)
                assert b" 404 " in first
                found = b""
                try:
                    wire.sendall(said + b"\r\n")
                    while data := wire.recv(65536):
                        found += data
                except OSError:
                    pass
                return found

        answer = await trio.to_thread.run_sync(work)
        await there.empty()
        assert status in answer
        assert [peer for peer, _ in there.faults] == [PEER]


async def test_a_slow_head_ends(tmp_path: Path) -> None:
    """A request that comes byte by byte ends the connection when its time is over."""
    limits = LaneLimits(prove_time=0.5, http=replace(QUICK, head=0.5))
    async with house(tmp_path / "f", replace(SETTINGS, limits=limits)) as there:

        def work() -> None:
            with dialled(there.port) as wire:
                wire.settimeout(0.02)
                for byte in b"GET /" + b"x" * 1000:
                    try:
                        wire.sendall(bytes([byte]))
                        if not wire.recv(1):
                            return
                    except TimeoutError:
                        continue
                    except OSError:
                        return
            raise AssertionError("it was never closed")

        await trio.to_thread.run_sync(work)
        await there.empty()
        assert there.asked == []


@pytest.mark.parametrize("encryption", ["tls", "off"])
async def test_a_slow_reader_loses_its_lane(tmp_path: Path, encryption: Encryption) -> None:
    """Who reads a byte now and then holds a thread for no longer than one piece's time."""
    settings = LaneSettings(
        hosts=("127.0.0.1",), encryption=encryption, limits=LaneLimits(http=QUICK)
    )
    async with house(tmp_path / "f", settings) as there:
        ticket = there.server.offer(PEER, encryption).tickets[0]
        ask = f"GET /ipfs/{FILE} HTTP/1.1\r\nhost: x\r\nallod-ticket: {ticket}\r\n\r\n".encode()
        stop = threading.Event()

        def work() -> None:
            wire: socket.socket
            if encryption == "tls":
                wire = dialled(there.port, 4096)
            else:
                wire = socket.create_connection(("127.0.0.1", there.port), 10)
            with wire:
                wire.sendall(ask)
                while not stop.wait(0.05):
                    try:
                        wire.recv(1)
                    except OSError:
                        return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, work)
            while there.server.counts["gone"] < 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await there.empty()
            stop.set()


async def test_a_thousand_connections_are_bounded(tmp_path: Path) -> None:
    """Strangers get a few threads; the others are closed at once; a ticket opens a lane after."""
    limits = LaneLimits(prove_time=1.0, http=QUICK)
    async with house(tmp_path / "f", replace(SETTINGS, limits=limits)) as there:
        before = threading.active_count()
        socks: list[socket.socket] = []

        def flood() -> None:
            for _ in range(1000):
                sock = socket.socket()
                sock.settimeout(5)
                sock.connect(("127.0.0.1", there.port))
                socks.append(sock)

        await trio.to_thread.run_sync(flood)
        counts = there.server.counts
        while len(there.server) + counts.total() < 1000:
            assert len(there.server) <= limits.strangers
            assert threading.active_count() <= before + limits.strangers + 1
            await trio.sleep(0.01)
        for sock in socks:
            sock.close()
        await there.empty()
        assert counts["refused: too many"] >= 100
        assert counts["lanes"] == 0
        async with closing(await there.lane()) as lane:
            assert await read(lane, 0, 10) == DATA[:10]


async def test_one_peer_has_few_lanes(tmp_path: Path) -> None:
    """A peer's tickets open no more than its share of the threads."""
    limits = replace(SETTINGS.limits, lanes_per_peer=2)
    async with house(tmp_path / "f", replace(SETTINGS, limits=limits)) as there:
        offer = there.server.offer(PEER, "tls")
        assert len(offer.tickets) == TICKETS
        lanes = []
        for word in offer.tickets[:3]:
            lane = await there.lane(offer=replace(offer, tickets=(word,)))
            lanes.append(lane)
        for lane in lanes[:2]:
            await read(lane, 0, 10)
        with pytest.raises(PeerRefused) as caught:
            await read(lanes[2], 0, 10)
        assert caught.value.status == 429
        for lane in lanes:
            lane.close()


# -- hostile ends that answer


@asynccontextmanager
async def liar(say: Callable[[ssl.SSLSocket], None]) -> AsyncIterator[Offer]:
    """Somebody with a good certificate who answers one request with what ``say`` sends."""
    certificate = make_certificate()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        with listener:
            sock, _ = listener.accept()
            sock.settimeout(10)
            try:
                with certificate.context.wrap_socket(sock, server_side=True) as wire:
                    wire.recv(65536)
                    say(wire)
            except OSError:  # the other end has hung up, as it should
                sock.close()

    address = Address.parse(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve)
            yield Offer((address,), certificate.sha256, ("ab",), 60.0, "tls")


async def lane_to(offer: Offer) -> Lane:
    return await open_lane(PEER, offer, "ab", Rates().of(PEER), QUICK, reaching)


HEAD = b"HTTP/1.1 206 -\r\ncontent-range: bytes 0-99/1000\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (HEAD % 99 + bytes(99), PeerFault),  # a length that isn't the range's
        (HEAD % 101 + bytes(101), PeerFault),
        (HEAD.replace(b"0-99", b"1-100") % 100 + bytes(100), PeerFault),  # another range
        (HEAD.replace(b"content-range", b"x") % 100 + bytes(100), PeerFault),
        (HEAD % 100 + bytes(101), PeerFault),  # more than the promised length
        (HEAD % 100 + bytes(99), PeerGone),  # less, and then the end
        (HEAD % 100, PeerGone),
        (b"", PeerGone),
        (b"\x00" * 20000, PeerFault),
        (b"HTTP/1.1 200 -\r\nx: " + b"y" * 20000, PeerFault),
        (b"HTTP/1.1 206 -\r\ntransfer-encoding: chunked\r\n\r\n", PeerFault),
        (b"HTTP/1.1 100 -\r\n\r\n" * 50, PeerFault),
        (b"HTTP/1.0 206 -\r\ncontent-length: 100\r\n\r\n", PeerFault),
        (b"HTTP/1.1 206 -\r\ncontent-length: -1\r\n\r\n", PeerFault),
        (HEAD.replace(b"content-length", b"Content-Length") % 100 + bytes(100), PeerFault),
        (HEAD.replace(b"\r\n\r\n", b"\r\ncontent-length: 100\r\n\r\n") % 99, PeerFault),
        (HEAD.replace(b"\r\n\r\n", b"\r\n folded\r\n\r\n") % 100 + bytes(100), PeerFault),
        (b"HTTP/1.1 429 -\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n", PeerRefused),
        (b"HTTP/1.1 500 -\r\ncontent-length: 999999999999\r\n\r\n", PeerRefused),
    ],
)
async def test_a_wrong_answer_is_found_out(said: bytes, error: type[PeerFault]) -> None:
    """Short, long, other or malformed answers are the peer's fault, and the lane is over."""
    async with (
        liar(lambda wire: wire.sendall(said)) as offer,
        closing(await lane_to(offer)) as lane,
    ):

        def work() -> None:
            ask(lane, 0, 100)
            lane.fill(memoryview(bytearray(100)))

        with pytest.raises(error) as caught:
            await lane.in_thread(work)
        assert type(caught.value) is error
        if isinstance(caught.value, PeerRefused) and caught.value.status == 429:
            assert caught.value.retry_after == 7
        else:
            assert not lane.usable


async def test_bytes_after_an_answer_are_found_out() -> None:
    """What nobody asked for spoils the next answer, and is the peer's fault."""
    body = HEAD % 100 + bytes(100)

    def say(wire: ssl.SSLSocket) -> None:
        wire.sendall(body)
        wire.sendall(b"and more")
        wire.recv(65536)
        wire.sendall(body)

    async with liar(say) as offer, closing(await lane_to(offer)) as lane:

        def work() -> None:
            for _ in range(2):
                ask(lane, 0, 100)
                lane.fill(memoryview(bytearray(100)))

        with pytest.raises(PeerFault):
            await lane.in_thread(work)


@pytest.mark.parametrize("said", [b"", HEAD % 100 + bytes(50)])
async def test_silence_ends_the_wait(said: bytes) -> None:
    """A peer that stops sending is gone after the stall time."""
    over = threading.Event()

    def say(wire: ssl.SSLSocket) -> None:
        wire.sendall(said)
        over.wait(10)

    async with liar(say) as offer, closing(await lane_to(offer)) as lane:

        def work() -> None:
            ask(lane, 0, 100)
            lane.fill(memoryview(bytearray(100)))

        with pytest.raises(PeerGone, match="silent"):
            await lane.in_thread(work)
        over.set()


async def test_another_certificate_is_refused() -> None:
    """The lane is to the owner of the promised certificate, or to nobody; no ticket is shown."""
    heard: list[bytes] = []
    async with liar(lambda wire: None) as offer:
        with pytest.raises(PeerFault, match="certificate"):
            await lane_to(replace(offer, certificate_sha256="00" * 32))
    assert heard == []


async def test_an_older_tls_is_refused() -> None:
    """Nothing below TLS 1.3 is spoken, by either end."""
    certificate = make_certificate()
    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert client_context().minimum_version is ssl.TLSVersion.TLSv1_3


async def test_nobody_there_is_told_within_three_seconds() -> None:
    """A port that is closed, or an address that isn't dialled, gives the stream its turn."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    offer = Offer((Address.parse(f"/ip4/127.0.0.1/tcp/{port}"),), "00" * 32, ("ab",), 60.0, "tls")
    with trio.fail_after(60):
        with pytest.raises(PeerGone):
            await lane_to(offer)
        with pytest.raises(PeerGone):
            await open_lane(PEER, offer, "ab", Rates().of(PEER), QUICK, lambda address: False)


async def test_a_handshake_that_hangs_is_given_up() -> None:
    """Somebody who accepts and says nothing costs three seconds, no more."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = Address.parse(f"/ip4/127.0.0.1/tcp/{port}")
        with trio.fail_after(60), pytest.raises(PeerGone):
            await lane_to(Offer((address,), "00" * 32, ("ab",), 60.0, "tls"))


# -- offers


GOOD = {
    "addresses": ["/ip4/192.0.2.7/tcp/40123", "/ip4/1.2.3.4/udp/5/quic"],
    "certificate_sha256": "ab" * 32,
    "tickets": ["aa", "bb"],
    "expires": 60.0,
    "encryption": "tls",
}


def test_an_offer_is_read_and_written() -> None:
    """An offer survives the wire; addresses of kinds that we don't know are left out."""
    offer = Offer.decode(json.dumps(GOOD).encode())
    assert [str(one) for one in offer.addresses] == ["/ip4/192.0.2.7/tcp/40123"]
    assert Offer.decode(offer.encode()) == offer


@pytest.mark.parametrize(
    "change",
    [
        {"certificate_sha256": "ab"},
        {"certificate_sha256": 7},
        {"tickets": "aa"},
        {"tickets": ["a\r\nb"]},
        {"tickets": [7]},
        {"expires": "soon"},
        {"encryption": "rot13"},
        {"addresses": 5},
        {"addresses": [5]},
    ],
)
def test_a_malformed_offer_is_a_fault(change: dict[str, object]) -> None:
    """Every field has its kind."""
    with pytest.raises(PeerFault):
        Offer.decode(json.dumps(GOOD | change).encode(), "peer")
    for data in (b"", b"[]", b"{", b"\xff", b"[" * 5000):
        with pytest.raises(PeerFault):
            Offer.decode(data)
