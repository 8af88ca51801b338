"""Requests with a body over real libp2p streams: which are read, and what hanging up does."""

from contextlib import suppress

import pytest
import trio
import trio.testing
from libp2p.abc import INetStream

from p2p.errors import NotFound, PeerGone
from p2p.http import HttpClient, LiveBody, Request, Response, Start
from p2p.limits import PeerLimits
from p2p.sources import PeerSource
from tests.network.hosts import Running, crew, hello

LIMITS = PeerLimits()


def takes(request: Request) -> int:
    """Bodies of up to 1 MB under /take."""
    if request.path == "/secret":
        raise NotFound("Nothing for you.")
    return 1_000_000 if request.path == "/take" else 0


async def count(request: Request) -> Response:
    """Answer with how much came, and of whom."""
    return Response(200, {}, f"{len(request.body)} {request.peer}".encode())


async def post(asker: Running, peer: str, path: str, body: bytes) -> tuple[int, bytes]:
    """One POST over a stream of its own."""
    stream = await asker.host.open_stream(peer)
    async with HttpClient(stream, peer=peer) as client:
        answer = await client.ask(path, method="POST", body=body)
        return answer.status, b"".join([piece async for piece in answer])


async def test_bodies_and_faults() -> None:
    """A body arrives where it is wanted, whatever its size; elsewhere it is a fault, unread."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        await b.host.connect(a.host.addresses[0])
        a.host.set_handler(count, takes)
        account = a.host.book.account(b.host.peer_id, trio.current_time())
        for size in (0, 5, 1_000_000):
            expected = f"{size} {b.host.peer_id}".encode()
            assert await post(b, a.host.peer_id, "/take", b"x" * size) == (200, expected)
        assert (account.held, a.host.book.held) == (0, 0)
        status, said = await post(b, a.host.peer_id, "/secret", b"x" * 300_000)
        assert (status, b"Nothing for you" in said) == (404, True)
        assert account._faults._tokens == LIMITS.fault_burst  # that was no fault
        for path, size in (("/other", 1), ("/take", 1_000_001)):
            with suppress(PeerGone):  # the stream is reset, perhaps before its answer was read
                assert (await post(b, a.host.peer_id, path, b"x" * size))[0] in (405, 413)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert account._faults._tokens < LIMITS.fault_burst - 1


async def test_nobody_takes_bodies_unasked() -> None:
    """A host whose handler says nothing of bodies takes none."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        await b.host.connect(a.host.addresses[0])
        a.host.set_handler(hello)
        with suppress(PeerGone):
            assert (await post(b, a.host.peer_id, "/take", b"x"))[0] == 405


async def test_the_budget_of_a_peer() -> None:
    """Past its bytes a peer gets 429 and a time, before its body is read."""
    limits = PeerLimits(body_rate=1000.0, body_burst=150_000.0)
    async with crew() as hosts:
        a, b = await hosts.host(limits=limits), await hosts.host()
        await b.host.connect(a.host.addresses[0])
        a.host.set_handler(count, takes)
        assert (await post(b, a.host.peer_id, "/take", b"x" * 100_000))[0] == 200
        stream = await b.host.open_stream(a.host.peer_id)
        async with HttpClient(stream) as client:
            answer = await client.ask("/take", method="POST", body=b"x" * 100_000)
            assert answer.status == 429
            assert 40 < int(answer.headers["retry-after"]) <= 50
        assert a.host.book.held == 0


@pytest.mark.parametrize("how", ["leaving", "dying"])
async def test_hanging_up_cancels(how: str) -> None:
    """An asker that leaves, or whose whole node ends, cancels the work on its answer at once."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        await b.host.connect(a.host.addresses[0])
        cancelled = trio.Event()

        async def run(start: Start) -> None:
            try:
                send = await start(200, {})
                await send(b"first")
                await trio.sleep_forever()
            finally:
                cancelled.set()

        async def live(request: Request) -> Response:
            return Response(200, {}, LiveBody(run))

        a.host.set_handler(live, takes)
        async with PeerSource(b.host, a.host.peer_id).open() as session:
            answer = await session.post("/take", b"{}")
            assert await anext(answer) == b"first"
            if how == "dying":
                await b.stop()
                await cancelled.wait()
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert a.host.book.held == 0


async def test_half_closed_streams_are_answered() -> None:
    """An asker that ends its side with its request is answered all the same."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        await b.host.connect(a.host.addresses[0])

        async def slow(request: Request) -> Response:
            await trio.sleep(0.2)  # the real clock's: sockets don't jump
            return await count(request)

        a.host.set_handler(slow, takes)
        stream = await b.host.open_stream(a.host.peer_id)
        await stream.send_all(b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        await stream._muxed.close_write()
        got = bytearray()
        while data := await stream.receive_some():
            got += data
        assert got.endswith(f"2 {b.host.peer_id}".encode())


async def test_a_peer_that_stops_reading_its_request() -> None:
    """A peer that resets instead of taking a body is gone, and no fault of ours."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        await b.host.connect(a.host.addresses[0])

        async def refuse(stream: INetStream) -> None:
            await stream.read(100)
            await stream.reset()

        a.host.set_stream_handler("/http/1.1", refuse)
        async with PeerSource(b.host, a.host.peer_id).open() as session:
            with pytest.raises(PeerGone):
                await session.post("/take", b"x" * 5_000_000)
