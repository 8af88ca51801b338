"""Reading ranges from peers: right answers, and every wrong one that a peer can give."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from libp2p.abc import INetStream

from p2p.cid import CID, Codec
from p2p.errors import NoSources, NotFound, PeerFault, PeerGone, PeerRefused
from p2p.host import HTTP
from p2p.http import (
    FileBody,
    Handler,
    HttpLimits,
    Request,
    Response,
    content_range,
    parse_range,
)
from p2p.keys import SecretKey
from p2p.sources import PeerSource, Session
from p2p.streams import PeerStream
from tests.network.hosts import Running, crew

DATA = bytes(range(256)) * 4096  # 1 MiB
FILE = CID.of(DATA, Codec.RAW)


def serving_file(path: Path) -> Handler:
    """A handler that serves one file as a node does."""
    path.write_bytes(DATA)

    async def handler(request: Request) -> Response:
        if request.path != f"/ipfs/{FILE}":
            raise NotFound("Not here.")
        span = parse_range(request.headers.get("range"), len(DATA))
        if span is None:
            return Response(200, {}, FileBody(path, 0, len(DATA)))
        start, stop = span
        headers = {"content-range": content_range(start, stop, len(DATA))}
        return Response(206, headers, FileBody(path, start, stop - start))

    return handler


@asynccontextmanager
async def reading(
    serve: Handler | Callable[[PeerStream], Awaitable[None]],
    *,
    raw: bool = False,
    limits: HttpLimits | None = None,
) -> AsyncIterator[tuple[Session, Running]]:
    """A session with a peer that serves with a handler, or, if ``raw``, does as it likes."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        if raw:

            async def on_stream(stream: INetStream) -> None:
                account = a.host.book.account(b.host.peer_id, trio.current_time())
                await serve(PeerStream(stream, account))  # type: ignore[arg-type]

            a.host.set_stream_handler(HTTP, on_stream)
        else:
            a.host.set_handler(serve)  # type: ignore[arg-type]
        source = PeerSource(b.host, a.host.peer_id, a.host.addresses, limits)
        assert (source.kind, source.peer) == ("stream", a.host.peer_id)
        async with source.open() as session:
            yield session, a


def saying(*pieces: bytes) -> Callable[[PeerStream], Awaitable[None]]:
    """A peer that reads one request and answers with exactly these bytes."""

    async def serve(stream: PeerStream) -> None:
        await stream.receive_some(65536)
        for piece in pieces:
            await stream.send_all(piece)
        await stream.aclose()

    return serve


async def read(session: Session, start: int, stop: int) -> bytes:
    """All bytes of a range."""
    return b"".join([piece async for piece in session.read(FILE, start, stop)])


async def test_ranges(tmp_path: Path) -> None:
    """Ranges and whole files arrive exactly, many over one stream."""
    async with reading(serving_file(tmp_path / "f")) as (session, a):
        assert await read(session, 0, len(DATA)) == DATA
        assert await read(session, 1, 1000) == DATA[1:1000]
        assert await read(session, len(DATA) - 1, len(DATA)) == DATA[-1:]
        assert await session.get(f"/ipfs/{FILE}", limit=len(DATA)) == DATA
        with pytest.raises(PeerRefused) as caught:
            await session.get("/other", limit=100)
        assert caught.value.status == 404
        assert await read(session, 5, 6) == DATA[5:6]
        (account,) = [each for each in a.host.book._accounts.values() if each.bytes_out]
        assert account.streams <= 2  # one for all of it, and one for identify


async def test_a_range_left_in_the_middle(tmp_path: Path) -> None:
    """A reader that stops in the middle can go on with another range."""
    async with reading(serving_file(tmp_path / "f")) as (session, _):
        pieces = session.read(FILE, 0, len(DATA))
        async for _ in pieces:
            break
        await pieces.aclose()  # type: ignore[attr-defined]
        assert await read(session, 7, 9) == DATA[7:9]


async def test_cancelled_in_the_middle(tmp_path: Path) -> None:
    """A cancelled read leaves a session that still works."""
    async with reading(serving_file(tmp_path / "f")) as (session, _):
        with trio.CancelScope() as scope:
            async for _ in session.read(FILE, 0, len(DATA)):
                scope.cancel()
        assert scope.cancelled_caught
        assert await read(session, 7, 9) == DATA[7:9]


async def test_a_stream_that_the_peer_closed_while_idle(tmp_path: Path) -> None:
    """A session survives the peer's idle time-out: the next request opens another stream."""
    async with crew() as hosts:
        a, b = await hosts.host(http=HttpLimits(idle=0.05)), await hosts.host()
        a.host.set_handler(serving_file(tmp_path / "f"))
        async with PeerSource(b.host, a.host.peer_id, a.host.addresses).open() as session:
            assert await read(session, 0, 9) == DATA[:9]
            await trio.sleep(0.2)  # the real clock's: sockets don't jump
            assert await read(session, 9, 20) == DATA[9:20]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 206 OK\r\nContent-Length: 10\r\n\r\n" + b"x" * 10,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-8/1000\r\nContent-Length: 10\r\n\r\n"
        + b"x" * 10,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 1-10/1000\r\nContent-Length: 10\r\n\r\n"
        + b"x" * 10,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/5\r\nContent-Length: 10\r\n\r\n" + b"x" * 10,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\nContent-Length: 9\r\n\r\n" + b"x" * 9,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\nContent-Length: 11\r\n\r\n" + b"x" * 11,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\nContent-Length: 10\r\n\r\n" + b"x" * 5,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\n\r\n" + b"x" * 5,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\n\r\n" + b"x" * 15,
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nxxxxx\r\n0\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"f\r\nxxxxxxxxxxxxxxx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000,
        b"\x16\x03\x01 not HTTP at all\r\n\r\n",
        b"",
    ],
)
async def test_wrong_answers(answer: bytes) -> None:
    """An answer that is not exactly the range that was asked is the peer's fault, by name."""
    async with reading(saying(answer), raw=True) as (session, a):
        with pytest.raises(PeerFault) as caught:
            await read(session, 0, 10)
        assert caught.value.peer == a.host.peer_id
        assert not isinstance(caught.value, PeerRefused)


async def test_whole_file_for_a_later_range_is_refused() -> None:
    """A peer that ignores the Range header is not read from the wrong place."""
    async with reading(
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"), raw=True
    ) as (session, _):
        with pytest.raises(PeerFault, match="came all of it"):
            await read(session, 10, 20)


async def test_body_over_the_limit() -> None:
    """A body over the caller's limit is given up, whether it is announced or not."""
    for head in (b"Content-Length: 2000\r\n", b""):
        answer = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + b"x" * 2000
        async with reading(saying(answer), raw=True) as (session, _):
            with pytest.raises(PeerFault, match="at most 100 bytes"):
                await session.get("/x", limit=100)


@pytest.mark.parametrize(
    ("value", "wait"),
    [("7", 7.0), ("1e400", 3600.0), ("-5", 0.0), ("nan", 3600.0), ("Sun, 06 Nov 1994", 0.0)],
)
async def test_retry_after(value: str, wait: float) -> None:
    """A refusal carries the time to wait, within reason, whatever the peer writes there."""
    answer = f"HTTP/1.1 429 No\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()
    async with reading(saying(answer), raw=True) as (session, _):
        with pytest.raises(PeerRefused) as caught:
            await read(session, 0, 10)
        assert (caught.value.status, caught.value.retry_after) == (429, wait)


async def test_silence_is_given_up() -> None:
    """A peer that stops in the middle of an answer is PeerGone after the stall time."""

    async def stall(stream: PeerStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(
            b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/99\r\nContent-Length: 10\r\n\r\nxxx"
        )
        await trio.sleep_forever()

    async with reading(stall, raw=True, limits=HttpLimits(stall=0.2)) as (session, _):
        with pytest.raises(PeerGone, match="sent nothing"):
            await read(session, 0, 10)


async def test_a_peer_that_dies_half_way(tmp_path: Path) -> None:
    """A peer whose host ends in the middle of an answer is PeerGone."""
    async with reading(serving_file(tmp_path / "f"), raw=False) as (session, a):

        async def read_and_kill() -> None:
            async for _ in session.read(FILE, 0, len(DATA)):
                await a.stop()

        with pytest.raises(PeerGone):
            await read_and_kill()


async def test_nobody_there() -> None:
    """A source that can't be reached says so when it is opened."""
    async with crew() as hosts:
        b = await hosts.host()
        source = PeerSource(b.host, SecretKey.generate().public.peer_id, ["/ip4/127.0.0.1/tcp/1"])
        with pytest.raises(NoSources):
            async with source.open():
                pass


async def test_an_empty_range_is_the_callers_bug(tmp_path: Path) -> None:
    """An empty range is never asked of a peer."""
    async with reading(serving_file(tmp_path / "f")) as (session, _):
        with pytest.raises(ValueError, match="empty range"):
            await read(session, 5, 5)
