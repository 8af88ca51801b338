"""Requests with a body: which are read, how far, and what ends them; answers that are made live."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

from p2p.errors import (
    AllodError,
    Busy,
    EngineError,
    NoMemory,
    NotFound,
    PeerFault,
    PeerGone,
    PeerRefused,
    Unsupported,
)
from p2p.http import (
    MAX_BODY,
    Handler,
    HttpClient,
    HttpLimits,
    LiveBody,
    Request,
    Response,
    Start,
    serve_http,
)

LIMITS = HttpLimits()
Ended = Callable[[], BaseException | None]
JSON = {"content-type": "application/json"}


class Rule:
    """Bodies of at most ``most`` bytes under /take; counts what is held."""

    def __init__(self, most: int = MAX_BODY, refusal: AllodError | None = None) -> None:
        self.most = most
        self.refusal = refusal
        self.full = False
        self.held = 0

    def limit(self, request: Request) -> int:
        if self.refusal is not None:
            raise self.refusal
        return self.most if request.path == "/take" else 0

    @contextmanager
    def hold(self, request: Request, size: int) -> Iterator[None]:
        if self.full:
            raise PeerRefused("Full.", status=429, retry_after=7)
        self.held += size
        try:
            yield
        finally:
            self.held -= size


async def count(request: Request) -> Response:
    """Answer with what came."""
    said = {"method": request.method, "size": len(request.body), "path": request.path}
    return Response(200, JSON, json.dumps(said).encode())


@asynccontextmanager
async def serving(
    handler: Handler = count, rule: Rule | None = None, limits: HttpLimits = LIMITS
) -> AsyncIterator[tuple[trio.StapledStream, Ended]]:
    """A server that takes bodies; ``ended()`` is what its task raised."""
    ours, theirs = trio.testing.memory_stream_pair()
    faults: list[BaseException] = []

    async def run() -> None:
        try:
            await serve_http(theirs, handler, peer="p", limits=limits, bodies=rule or Rule())
        except Exception as exc:
            faults.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield ours, lambda: faults[0] if faults else None
        await ours.aclose()


async def read_all(stream: trio.StapledStream) -> bytes:
    parts = bytearray()
    while data := await stream.receive_some(65536):
        parts += data
    return bytes(parts)


async def post(client: HttpClient, body: bytes, path: str = "/take") -> tuple[int, bytes]:
    answer = await client.ask(path, method="POST", body=body)
    return answer.status, b"".join([piece async for piece in answer])


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
async def test_a_body_arrives(size: int) -> None:
    """A POST brings its body whole, and the stream carries the next request of either kind."""
    rule = Rule()
    async with serving(rule=rule) as (stream, ended), HttpClient(stream) as client:
        for _ in range(2):
            status, body = await post(client, b"x" * size)
            assert (status, json.loads(body)["size"]) == (200, size)
        got = await client.get("/other", limit=1000)
        assert (got[0], json.loads(got[2])["method"]) == (200, "GET")
    assert ended() is None
    assert rule.held == 0


HEAD = b"POST /take HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"PUT /take HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"GET /take HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413),
        (HEAD + b"\r\n", 411),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 411),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 411),
        (HEAD + b"Content-Length: 1001\r\n\r\n", 413),
        (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (HEAD + b"Content-Length: -5\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5, 6\r\n\r\n", 400),
        (HEAD + b"Content-Length: five\r\n\r\n", 400),
    ],
)
async def test_bodies_that_are_not_read(raw: bytes, status: int) -> None:
    """No length, another length, too much, or where none is wanted: refused by the head alone."""
    read: list[Request] = []

    async def handler(request: Request) -> Response:
        read.append(request)
        return Response(200)

    rule = Rule(most=1000)
    async with serving(handler, rule) as (stream, ended):
        await stream.send_all(raw)
        with trio.fail_after(60):
            assert (await read_all(stream)).startswith(b"HTTP/1.1 %d " % status)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(ended(), PeerFault)
    assert not read
    assert rule.held == 0


async def test_what_comes_behind_a_body_is_the_next_request() -> None:
    """A body is as long as it says; what follows is read as a request, not as more of it."""
    async with serving() as (stream, ended):
        await stream.send_all(
            HEAD + b"Content-Length: 5\r\n\r\nhello"
            b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        answer = await read_all(stream)
        assert answer.index(b'"size": 5') < answer.index(b'"/2"')
        assert ended() is None


async def test_a_body_that_ends_early() -> None:
    """A peer that closes inside its body is gone, and its room is free."""
    rule = Rule()
    async with serving(rule=rule) as (stream, ended):
        await stream.send_all(HEAD + b"Content-Length: 5\r\n\r\nhel")
        await stream.send_stream.aclose()
        assert await read_all(stream) == b""
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(ended(), PeerGone)
    assert rule.held == 0


async def test_a_slow_body(autojump_clock: trio.testing.MockClock) -> None:
    """A body that drips gets 408 after the body time, however steadily it comes."""
    rule = Rule()
    async with serving(rule=rule) as (stream, ended):
        await stream.send_all(HEAD + b"Content-Length: 1000\r\n\r\n")
        start = trio.current_time()

        async def drip() -> None:
            while trio.current_time() < start + 200:
                await stream.send_all(b"x")
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")
            assert trio.current_time() - start == pytest.approx(LIMITS.body)
            nursery.cancel_scope.cancel()
        assert isinstance(ended(), PeerRefused)
    assert rule.held == 0


async def test_a_peer_that_waits_to_be_told() -> None:
    """Who expects 100 Continue before a body gets it."""
    async with serving() as (stream, _):
        await stream.send_all(
            HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"hello")
        assert b'"size": 5' in await read_all(stream)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(NotFound("Not shared."), 404), (PeerRefused("Not you.", status=403), 403)],
)
async def test_a_rule_that_refuses(refusal: AllodError, status: int) -> None:
    """Who may not bring a body is told why, unread, and that is no fault of his."""
    rule = Rule(refusal=refusal)
    async with serving(rule=rule) as (stream, ended), HttpClient(stream) as client:
        with trio.fail_after(60):
            got, body = await post(client, b"x" * 200_000)
        assert (got, json.loads(body)["error"]["message"]) == (status, refusal.message)
        assert not client.usable
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert ended() is None


async def test_no_room(autojump_clock: trio.testing.MockClock) -> None:
    """A body for which there is no room gets 429; one that never ends is not waited for."""
    rule = Rule()
    rule.full = True
    async with serving(rule=rule) as (stream, ended):
        await stream.send_all(HEAD + b"Content-Length: 1000000\r\n\r\n")
        answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 7" in answer
        await trio.testing.wait_all_tasks_blocked()
        assert ended() is None


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (Busy("All slots are taken.", retry_after=4), 429, "4"),
        (NoMemory("No room."), 503, None),
        (EngineError("secret"), 503, None),
        (Unsupported("No tools."), 501, None),
    ],
)
async def test_errors_of_engines(error: AllodError, status: int, again: str | None) -> None:
    """What an engine cannot do has a status; what went wrong inside is not told."""

    async def handler(request: Request) -> Response:
        raise error

    async with serving(handler) as (stream, _), HttpClient(stream) as client:
        answer = await client.ask("/take", method="POST", body=b"{}")
        body = b"".join([piece async for piece in answer])
        assert (answer.status, answer.headers.get("retry-after")) == (status, again)
        assert (b"secret" in body) is False


# -- answers that are made while they are sent


def live(*pieces: bytes, fails: Exception | None = None, early: bool = False) -> Handler:
    """A handler whose answer comes in pieces; ``fails`` at its end, or before its head."""

    async def run(start: Start) -> None:
        if fails is not None and early:
            raise fails
        send = await start(203, {"x-made": "live"})
        for piece in pieces:
            await send(piece)
        if fails is not None:
            raise fails

    async def handler(request: Request) -> Response:
        return Response(200, {"x-of": "all"}, LiveBody(run))

    return handler


async def test_a_live_answer() -> None:
    """Status, headers and pieces are what ``run`` says, and the stream lives on."""
    async with serving(live(b"a", b"b" * 1000)) as (stream, ended), HttpClient(stream) as client:
        for _ in range(2):
            answer = await client.ask("/take", method="POST", body=b"{}")
            assert (answer.status, answer.headers["x-made"]) == (203, "live")
            assert answer.headers["x-of"] == "all"
            assert b"".join([piece async for piece in answer]) == b"a" + b"b" * 1000
        head = await client.ask("/take", method="HEAD")
        assert [piece async for piece in head] == []
        assert client.usable
    assert ended() is None


async def test_a_live_answer_that_fails_early() -> None:
    """What fails before the head is an answer like any other."""
    failing = live(fails=Busy("Full.", retry_after=2), early=True)
    async with serving(failing) as (stream, ended), HttpClient(stream) as client:
        assert (await post(client, b"{}"))[0] == 429
        assert client.usable
    assert ended() is None


@pytest.mark.parametrize("error", [EngineError("It died."), ZeroDivisionError("a bug")])
async def test_a_live_answer_that_fails_late(error: Exception) -> None:
    """What fails after the head breaks the stream: the asker never takes it for whole."""
    async with serving(live(b"half", fails=error)) as (stream, ended), HttpClient(stream) as client:
        answer = await client.ask("/take", method="POST", body=b"{}")
        assert await anext(answer) == b"half"
        with pytest.raises(PeerGone):
            await anext(answer)
        assert not client.usable
        await trio.testing.wait_all_tasks_blocked()
        assert ended() is error


async def test_a_bug_before_the_head_of_a_live_answer() -> None:
    """A bug gives a bare 500 and reaches the stream's owner."""
    bug = live(fails=ZeroDivisionError("secret"), early=True)
    async with serving(bug) as (stream, ended), HttpClient(stream) as client:
        status, body = await post(client, b"{}")
        assert (status, b"secret" in body) == (500, False)
    assert isinstance(ended(), ZeroDivisionError)


class Resetting:
    """A memory stream that can be reset, as those of libp2p can."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self.aclose = stream.aclose
        self.reset = trio.Event()

    async def wait_reset(self) -> None:
        await self.reset.wait()


@pytest.mark.parametrize("when", ["in the handler", "between pieces"])
async def test_hanging_up_cancels(when: str) -> None:
    """A reset cancels the work on an answer at once, wherever it is, and frees its room."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream, rule = Resetting(theirs), Rule()
    begun, cancelled = trio.Event(), trio.Event()

    async def work() -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def run(start: Start) -> None:
        send = await start(200, {})
        await send(b"some")
        await work()

    async def handler(request: Request) -> Response:
        if when == "in the handler":
            await work()
        return Response(200, {}, LiveBody(run))

    async def serve() -> None:
        with pytest.raises(PeerGone):
            await serve_http(stream, handler, peer="p", bodies=rule)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await ours.send_all(HEAD + b"Content-Length: 2\r\n\r\n{}")
            await begun.wait()
            assert rule.held == 2
            stream.reset.set()
            await cancelled.wait()
    assert rule.held == 0


async def test_a_watched_stream_lives_on() -> None:
    """An answer of a stream that could be reset, and is not, leaves it good for the next."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream = Resetting(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http(stream, count, peer="p", bodies=Rule()))
        async with HttpClient(ours) as client:
            for _ in range(3):
                assert (await post(client, b"{}"))[0] == 200


async def test_a_bug_while_watched_comes_as_it_is() -> None:
    """A handler's bug reaches the stream's owner in no group."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream = Resetting(theirs)

    async def serve() -> None:
        with pytest.raises(ZeroDivisionError):
            await serve_http(stream, live(fails=ZeroDivisionError()), peer="p", bodies=Rule())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await ours.send_all(HEAD + b"Content-Length: 2\r\n\r\n{}")


async def test_the_end_of_the_askers_side_is_no_hanging_up() -> None:
    """An asker may end its own side with its request, as go-libp2p's does, and be answered."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream = Resetting(theirs)

    async def handler(request: Request) -> Response:
        await trio.testing.wait_all_tasks_blocked()
        return Response(200, {}, b"whole")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http(stream, handler, peer="p", bodies=Rule()))
        await ours.send_all(HEAD + b"Content-Length: 2\r\n\r\n{}")
        await ours.send_stream.aclose()
        assert (await read_all(ours)).endswith(b"whole")


async def test_patience_for_the_head_alone(autojump_clock: trio.testing.MockClock) -> None:
    """An asker waits for the head as long as it said, and for what follows no longer than ever."""

    async def run(start: Start) -> None:
        await trio.sleep(500)
        send = await start(200, {})
        await send(b"some")
        await trio.sleep_forever()

    async def handler(request: Request) -> Response:
        return Response(200, {}, LiveBody(run))

    ours, theirs = trio.testing.memory_stream_pair()
    patient = HttpLimits(answer=600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http(theirs, handler, peer="p", bodies=Rule()))
        async with HttpClient(ours, limits=patient) as client:
            answer = await client.ask("/take", method="POST", body=b"{}")
            assert await anext(answer) == b"some"
            start = trio.current_time()
            with pytest.raises(PeerGone, match="sent nothing for 30 s"):
                await anext(answer)
            assert trio.current_time() - start == pytest.approx(30)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_takes_no_request(autojump_clock: trio.testing.MockClock) -> None:
    """A body that the peer does not take is given up after the stall time."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with HttpClient(ours) as client:
        with pytest.raises(PeerGone, match="take a request"):
            await client.ask("/take", method="POST", body=b"x" * 3_000_000)
    await theirs.aclose()
