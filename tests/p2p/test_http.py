"""HTTP over memory streams and real sockets: what is answered, and what ends a stream."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import NotFound, PeerFault, PeerGone, PeerRefused, Refused, StoreError, UsageError
from p2p.http import (
    FileBody,
    Handler,
    HttpClient,
    HttpLimits,
    Request,
    Response,
    content_range,
    parse_content_range,
    parse_range,
    serve_http,
)

LIMITS = HttpLimits()
Ended = Callable[[], BaseException | None]


async def echo(request: Request) -> Response:
    """Answer with what was asked."""
    said = {"path": request.path, "query": dict(request.query), "peer": request.peer}
    return Response(200, {"content-type": "application/json"}, json.dumps(said).encode())


@asynccontextmanager
async def serving(
    handler: Handler = echo, limits: HttpLimits = LIMITS
) -> AsyncIterator[tuple[trio.StapledStream, Ended]]:
    """A server at the other end of a memory stream; ``ended()`` is what its task raised."""
    ours, theirs = trio.testing.memory_stream_pair()
    faults: list[BaseException] = []

    async def run() -> None:
        try:
            await serve_http(theirs, handler, peer="12D3KooWtest", limits=limits)
        except Exception as exc:
            faults.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield ours, lambda: faults[0] if faults else None
        await ours.aclose()


@asynccontextmanager
async def answering(*pieces: bytes, close: bool = True) -> AsyncIterator[HttpClient]:
    """A client whose peer reads one request and then sends exactly ``pieces``."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def run() -> None:
        await theirs.receive_some(65536)
        for piece in pieces:
            await theirs.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        if close:
            await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        async with HttpClient(ours, peer="12D3KooWtest") as client:
            yield client
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.StapledStream) -> bytes:
    """Everything up to the end of the stream."""
    parts = bytearray()
    while data := await stream.receive_some(65536):
        parts += data
    return bytes(parts)


def handler_of(response: Response) -> Handler:
    """A handler that always gives ``response``."""

    async def handler(request: Request) -> Response:
        return response

    return handler


def handler_raising(error: Exception) -> Handler:
    """A handler that always raises ``error``."""

    async def handler(request: Request) -> Response:
        raise error

    return handler


async def test_request_and_answer() -> None:
    """Path, query and peer arrive decoded, and the stream carries many requests."""
    async with serving() as (stream, ended), HttpClient(stream) as client:
        for n in range(3):
            status, headers, body = await client.get(f"/a%20b/c?x={n}&y=%2F", limit=1000)
            assert status == 200
            assert headers["content-type"] == "application/json"
            assert "date" in headers
            assert json.loads(body) == {
                "path": "/a b/c",
                "query": {"x": str(n), "y": "/"},
                "peer": "12D3KooWtest",
            }
            assert client.usable
    assert ended() is None


async def test_file_body(tmp_path: Path) -> None:
    """A range of a file arrives byte for byte, over many pieces."""
    data = bytes(range(256)) * 12_000
    (tmp_path / "f").write_bytes(data)
    response = Response(206, {}, FileBody(tmp_path / "f", 1000, 3_000_000))
    async with serving(handler_of(response)) as (stream, _), HttpClient(stream) as client:
        async with client.stream("/") as answer:
            assert answer.length == 3_000_000
            got = b"".join([part async for part in answer])
        assert got == data[1000:3_001_000]
        assert client.usable


@pytest.mark.parametrize("length", [0, 5])
async def test_file_body_that_is_not_there(tmp_path: Path, length: int) -> None:
    """A file that is missing or too short gives 503 before any byte of it is promised."""
    (tmp_path / "short").write_bytes(b"abc")
    for name in ("missing", "short") if length else ("missing",):
        response = Response(200, {}, FileBody(tmp_path / name, 0, length))
        async with serving(handler_of(response)) as (stream, _), HttpClient(stream) as client:
            status, _, body = await client.get("/", limit=1000)
            assert status == 503
            assert str(tmp_path).encode() not in body
            assert client.usable


async def test_a_body_in_crumbs_is_a_fault() -> None:
    """Chunks of one byte are refused long before they cost more than they carry."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with answering(head, b"1\r\nx\r\n" * 100_000, b"0\r\n\r\n") as client:
        start = time.process_time()
        with pytest.raises(PeerFault, match="crumbs"):
            await client.get("/", limit=1 << 20)
        assert time.process_time() - start < 0.5


async def test_chunked_body() -> None:
    """A body of unknown length is sent chunked and the stream lives on."""

    async def parts() -> AsyncIterator[bytes]:
        for n in range(100):
            yield bytes([n]) * 1000

    async def handler(request: Request) -> Response:
        return Response(200, {}, parts())

    async with serving(handler) as (stream, _), HttpClient(stream) as client:
        for _ in range(2):
            status, headers, body = await client.get("/", limit=1_000_000)
            assert (status, headers["transfer-encoding"], len(body)) == (200, "chunked", 100_000)


async def test_head_has_no_body() -> None:
    """HEAD gives the length and no bytes, and the next request works."""
    async with serving() as (stream, _), HttpClient(stream) as client:
        async with client.stream("/", method="HEAD") as answer:
            assert int(answer.headers["content-length"]) > 0
            assert [part async for part in answer] == []
        status, _, _ = await client.get("/", limit=1000)
        assert status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("No such file."), 404),
        (Refused("Denied by this node."), 410),
        (UsageError("That is no CID."), 400),
        (PeerRefused("Too much.", status=429, retry_after=2.6), 429),
        (StoreError("/home/secret is gone."), 503),
        (PeerFault("Odd."), 500),
    ],
)
async def test_errors_become_answers(error: Exception, status: int) -> None:
    """An AllodError of the handler becomes its status; inner failures tell no details."""
    async with serving(handler_raising(error)) as (stream, ended), HttpClient(stream) as client:
        got, headers, body = await client.get("/", limit=1000)
        assert got == status
        said = json.loads(body)["error"]
        assert said["code"] == error.code  # type: ignore[attr-defined]
        assert "secret" not in said["message"]
        assert headers.get("retry-after") == ("3" if status == 429 else None)
        assert client.usable
    assert ended() is None


async def test_bug_in_handler() -> None:
    """A bug gives the peer a bare 500, ends the stream, and reaches the stream's owner."""
    bug = handler_raising(ZeroDivisionError("secret"))
    async with serving(bug) as (stream, ended), HttpClient(stream) as client:
        status, _, body = await client.get("/", limit=1000)
        assert status == 500
        assert b"secret" not in body
        assert not client.usable
    assert isinstance(ended(), ZeroDivisionError)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\x01\x02 garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000, 431),
        (b"GET /" + b"a" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?a=1&a=2 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?a&&b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?" + b"a=1&" * 40 + b"b=1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"HTTP/1.1 200 OK\r\n\r\n", 400),
    ],
)
async def test_malformed_requests(raw: bytes, status: int) -> None:
    """What is no request of ours gets its status, closes the stream and is the peer's fault."""
    async with serving() as (stream, ended):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_stream.send_all, raw)
                answer = await read_all(stream)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:80]
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(ended(), PeerFault)


async def test_upgrade_is_ignored() -> None:
    """A request to switch protocols is answered as a plain request."""
    async with serving() as (stream, _):
        await stream.send_all(
            b"GET /x HTTP/1.1\r\nHost: a\r\n"
            b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
        )
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200 ")


async def test_pipelined_requests() -> None:
    """Requests that come in one piece are answered in order."""
    async with serving() as (stream, ended):
        await stream.send_all(
            b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        answer = await read_all(stream)
        assert answer.index(b'"/1"') < answer.index(b'"/2"')
        assert ended() is None


async def test_idle_stream_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    """A stream without requests is closed after the idle time, which is nobody's fault."""
    async with serving() as (stream, ended):
        start = trio.current_time()
        assert await read_all(stream) == b""
        assert trio.current_time() - start == pytest.approx(LIMITS.idle)
        assert ended() is None


async def test_slow_head(autojump_clock: trio.testing.MockClock) -> None:
    """A head that comes one byte at a time gets 408 after the head time."""
    async with serving() as (stream, ended):
        start = trio.current_time()

        async def drip() -> None:
            try:
                for byte in b"GET / HTTP/1.1\r\n" + b"X-Slow: 1\r\n" * 100:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(1)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")
            assert trio.current_time() - start == pytest.approx(LIMITS.head)
            nursery.cancel_scope.cancel()
        assert isinstance(ended(), PeerRefused)


async def test_reader_that_takes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that asks and never reads is dropped after the send time."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    await_answer = handler_of(Response(200, {}, b"x" * 100_000))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(PeerGone):
                await serve_http(theirs, await_answer, peer="p")

        nursery.start_soon(run)
        await ours.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await ours.aclose()


async def test_peer_vanishes_in_the_middle() -> None:
    """A peer that closes while it is answered is PeerGone, not a bug of ours."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(PeerGone):
                await serve_http(theirs, handler_of(Response(200, {}, b"x")), peer="p")

        nursery.start_soon(run)
        await ours.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await ours.aclose()


async def test_peer_closes_inside_a_head() -> None:
    """A request that ends in its head is a peer that is gone, and no fault."""
    async with serving() as (stream, ended):
        await stream.send_all(b"GET / HT")
        await stream.send_stream.aclose()
        assert await read_all(stream) == b""
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(ended(), PeerGone)


async def test_file_that_shrinks_while_sent(tmp_path: Path) -> None:
    """A file cut short under the sender breaks the stream: the reader never takes it for whole."""
    path = tmp_path / "f"
    path.write_bytes(b"x" * 3_000_000)
    body = FileBody(path, 0, 3_000_000)
    ours, theirs = trio.testing.lockstep_stream_pair()
    faults: list[BaseException] = []

    async def run() -> None:
        try:
            await serve_http(theirs, handler_of(Response(200, {}, body)), peer="p")
        except Exception as exc:
            faults.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        async with HttpClient(ours) as client:

            async def read_and_cut() -> None:
                async with client.stream("/") as answer:
                    async for _ in answer:
                        path.write_bytes(b"")

            with pytest.raises(PeerGone):
                await read_and_cut()
            assert not client.usable
    assert type(faults[0]).__name__ == "SourceChanged"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x00\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 60_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000,
        b"",
    ],
)
async def test_malformed_answers(raw: bytes) -> None:
    """An answer that is malformed, short, too long or missing is a fault that names the peer."""
    async with answering(raw) as client:
        with pytest.raises(PeerFault) as caught:
            await client.get("/", limit=1000)
        assert caught.value.peer == "12D3KooWtest"
        assert not client.usable
        with pytest.raises(PeerGone):
            await client.get("/", limit=1000)


async def test_answer_up_to_the_end_of_the_stream() -> None:
    """An answer without a length ends with the stream, which then carries nothing more."""
    async with answering(b"HTTP/1.0 200 OK\r\n\r\nab", b"cd") as client:
        assert (await client.get("/", limit=10))[2] == b"abcd"
        assert not client.usable


async def test_unsolicited_bytes_after_an_answer() -> None:
    """Bytes that nobody asked for end the stream at the next request."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n"
    async with answering(raw, close=False) as client:
        assert (await client.get("/", limit=10))[2] == b"ab"
        with pytest.raises(PeerFault, match="nobody asked for"):
            await client.get("/", limit=10)


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"])
async def test_silent_answer(autojump_clock: trio.testing.MockClock, raw: bytes) -> None:
    """A peer that falls silent before or inside an answer is given up after the stall time."""
    async with answering(raw, close=False) as client:
        start = trio.current_time()
        with pytest.raises(PeerGone, match="sent nothing for 30 s"):
            await client.get("/", limit=1000)
        assert trio.current_time() - start == pytest.approx(LIMITS.stall)


async def test_leaving_a_body_unread() -> None:
    """A body that is not read to its end makes the stream unusable."""
    body = handler_of(Response(200, {}, b"x" * 10))
    async with serving(body) as (stream, _), HttpClient(stream) as client:
        async with client.stream("/"):
            pass
        assert not client.usable


async def test_over_a_real_socket() -> None:
    """trio's own SocketStream is a ByteStream."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        await serve_http(stream, echo, peer="127.0.0.1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
        async with HttpClient(stream) as client:
            assert (await client.get("/x", limit=1000))[0] == 200
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=0-1000", (0, 100)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=0-9999999999999999", None),
        ("bytes=٣-4", None),
    ],
)
def test_parse_range(value: str | None, expected: tuple[int, int] | None) -> None:
    """A Range header gives the half-open range, or None where the whole is to be sent."""
    assert parse_range(value, 100) == expected


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=200-300", "bytes=-0"])
def test_unsatisfiable_range(value: str) -> None:
    """A range with nothing in it is status 416."""
    with pytest.raises(PeerRefused) as caught:
        parse_range(value, 100)
    assert caught.value.status == 416


@given(st.integers(0, 2**49), st.integers(1, 2**40), st.integers(0, 2**40))
def test_content_range_round_trip(start: int, length: int, more: int) -> None:
    """What content_range writes, parse_content_range reads."""
    size = start + length + more
    value = content_range(start, start + length, size)
    assert parse_content_range(value) == (start, start + length, size)


@pytest.mark.parametrize(
    "value", [None, "", "bytes 5-4/10", "bytes 0-10/10", "bytes */10", "bytes 0-1", "0-1/10"]
)
def test_malformed_content_range(value: str | None) -> None:
    """A Content-Range that is missing or contradicts itself is the peer's fault."""
    with pytest.raises(PeerFault):
        parse_content_range(value)
    assert parse_content_range("bytes 0-1/*") == (0, 2, None)
