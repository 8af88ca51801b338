"""The asking side: one request at a time over one stream, kept alive between requests.

Everything that comes is bounded before it is read: heads by ``max_head``, bodies by the caller's
limit, silence by ``answer`` before a head and by ``stall`` after it. h11 reads heads and chunked
bodies; a body of known length is counted and handed on as it comes.
After any fault the stream's framing is unknown, so the client is no longer ``usable``.
"""

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType

import h11
import trio

from p2p.errors import PeerFault, PeerGone
from p2p.http.messages import CLOSING, DEFAULT_LIMITS, READ_SIZE, ByteStream, HttpLimits

MAX_REFUSAL = 64 * 1024
"""Bytes of a refusal's body that are worth reading."""

MAX_REASON = 300
"""Characters of a reason that are passed on to a person."""

MAX_RETRY_AFTER = 3600.0
"""Seconds: a peer that asks for more is as good as gone."""

MAX_INTERIM = 8
"""Interim (1xx) answers before the real one: a server needs none for our requests."""

MANY_CHUNKS = 1024
"""Pieces of a chunked body that may be as small as they like: see ``HttpLimits.crumb``."""


class ClientResponse:
    """An answer whose body is an async iterator of byte chunks.

    The iterator raises PeerFault when the body is shorter than its content-length says, PeerGone
    when the peer vanishes or sends nothing for the stall time.
    """

    def __init__(self, client: "HttpClient", event: h11.Response, method: str) -> None:
        self.status: int = event.status_code
        self.headers: Mapping[str, str] = _headers(event)
        self._client = client
        self._chunked = False
        self._left: int | None = None
        """Bytes still to come; None: up to the end of the stream."""
        self._chunks = self._came = 0
        """Pieces of a chunked body that came, and their bytes."""
        connection = self.headers.get("connection", "").lower()
        self._keep = event.http_version >= b"1.1" and "close" not in connection
        if method == "HEAD" or self.status in (204, 304):
            self._left = 0
        elif "transfer-encoding" in self.headers:
            self._chunked = True
        elif "content-length" in self.headers:
            self._left = int(self.headers["content-length"])  # h11 has checked it
        self._ended = self._left == 0 and not self._chunked

    @property
    def length(self) -> int | None:
        """How many bytes of the body are still to come, None when the peer didn't say."""
        return None if self._chunked else self._left

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = b""
        if not self._ended:
            data = await (self._next_chunk() if self._chunked else self._next_counted())
            self._settle()
        if not data:
            raise StopAsyncIteration
        return data

    def _settle(self) -> None:
        """Give the stream back for another request once the whole body has come."""
        if self._ended:
            self._client.usable = self._keep

    async def _next_counted(self) -> bytes:
        want = READ_SIZE if self._left is None else min(self._left, READ_SIZE)
        data = await self._client._take(want)
        if self._left is None:
            self._ended, self._keep = not data, False
        elif not data:
            raise self._client._gone(f"{self._left} more bytes of the body")
        else:
            self._left -= len(data)
            self._ended = self._left == 0
        return data

    async def _next_chunk(self) -> bytes:
        event = await self._client._event()
        if isinstance(event, h11.Data):
            self._chunks += 1
            self._came += len(event.data)
            if self._chunks > MANY_CHUNKS + self._came // self._client._limits.crumb:
                raise self._client._fault("Expected a body, came crumbs without end.")
            return bytes(event.data)
        self._ended = True
        self._client._keep_rest()
        return b""


async def exactly(response: ClientResponse, size: int, peer: str) -> AsyncGenerator[bytes, None]:
    """Yield the body of an answer that is to have ``size`` bytes; PeerFault for any other."""
    if response.length not in (None, size):
        raise PeerFault(f"Expected {size} bytes, came {response.length}.", peer=peer)
    left = size
    async for piece in response:
        left -= len(piece)
        if left < 0:
            raise PeerFault(f"Expected {size} bytes, came more.", peer=peer)
        yield piece
    if left:
        raise PeerFault(f"Expected {size} bytes, came {size - left}.", peer=peer)


class HttpClient:
    """Requests over one stream; leaving the ``async with`` closes the stream."""

    def __init__(
        self, stream: ByteStream, *, peer: str = "", limits: HttpLimits = DEFAULT_LIMITS
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._limits = limits
        self._host = (peer or "allod").encode("ascii")
        self._conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.max_head)
        self._rest = b""
        """Bytes that came with the head and belong to the body, or to nobody."""
        self._ended = False
        self._patience = limits.answer
        """Seconds that the peer may be silent now."""
        self.usable = True
        """Whether another request can be sent on this stream."""

    async def __aenter__(self) -> "HttpClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the stream; the peer has a second to take note."""
        self.usable = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING):
            await self._stream.aclose()

    async def get(
        self, target: str, *, headers: Iterable[tuple[str, str]] = (), limit: int
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of ``target``; PeerFault past ``limit`` bytes."""
        async with self.stream(target, headers=headers) as response:
            if (response.length or 0) > limit:
                raise self._fault(f"Expected at most {limit} bytes, came {response.length}.")
            parts: list[bytes] = []
            size = 0
            async for part in response:
                size += len(part)
                if size > limit:
                    raise self._fault(f"Expected at most {limit} bytes, came more.")
                parts.append(part)
        return response.status, dict(response.headers), b"".join(parts)

    @asynccontextmanager
    async def stream(
        self, target: str, *, headers: Iterable[tuple[str, str]] = (), method: str = "GET"
    ) -> AsyncIterator[ClientResponse]:
        """Send a request and yield its answer, whose body is then iterated.

        Leaving before the end of the body makes the client unusable: there is no way to unsay it.
        """
        yield await self.ask(target, headers=headers, method=method)

    async def ask(
        self,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        method: str = "GET",
        body: bytes | None = None,
    ) -> ClientResponse:
        """Send a request and return its answer; the client is usable again after its body's end.

        The peer may say nothing for ``HttpLimits.answer`` before the head of its answer comes.
        """
        if not self.usable:
            raise PeerGone("The stream carries no further request.", peer=self._peer)
        self.usable = False
        self._patience = self._limits.answer
        if body is not None:
            headers = (*headers, ("content-length", str(len(body))))
        await self._send(method, target, headers, body or b"")
        response = await self._head(method)
        self._patience = self._limits.stall
        response._settle()
        return response

    async def _send(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> None:
        if self._rest:
            raise self._fault("The peer sent bytes that nobody asked for.")
        self._conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.max_head)
        request = h11.Request(
            method=method,
            target=target,
            headers=[
                (b"host", self._host),
                *((name.encode("ascii"), value.encode("ascii")) for name, value in headers),
            ],
        )
        data = self._conn.send(request) or b""
        if body:
            data += self._conn.send(h11.Data(data=body)) or b""
        data += self._conn.send(h11.EndOfMessage()) or b""
        pieces = memoryview(data)
        for start in range(0, len(pieces), READ_SIZE):
            with trio.move_on_after(self._limits.stall) as scope:
                try:
                    await self._stream.send_all(pieces[start : start + READ_SIZE])
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    raise self._gone("the stream to take a request") from exc
            if scope.cancelled_caught:
                raise self._gone("the stream to take a request")

    async def _head(self, method: str) -> ClientResponse:
        for _ in range(MAX_INTERIM):
            event = await self._event()
            if isinstance(event, h11.Response):
                response = ClientResponse(self, event, method)
                if not response._chunked:
                    self._keep_rest()
                return response
        raise self._fault("Expected an answer, came interim answers without end.")

    async def _event(self) -> h11.Event:
        """The next event of h11, reading as much as it needs."""
        while True:
            try:
                event = self._conn.next_event()
            except h11.RemoteProtocolError as exc:
                if self._ended:
                    raise self._gone("a whole answer") from exc
                raise PeerFault(f"Expected an HTTP answer, came: {exc}.", peer=self._peer) from exc
            if isinstance(event, h11.Event):
                if isinstance(event, h11.ConnectionClosed):
                    raise self._gone("an answer")
                return event
            size = (
                self._limits.max_head if self._conn.their_state is h11.SEND_RESPONSE else READ_SIZE
            )
            self._conn.receive_data(await self._receive(size))

    def _keep_rest(self) -> None:
        self._rest = bytes(self._conn.trailing_data[0])

    async def _take(self, size: int) -> bytes:
        """Up to ``size`` bytes of a counted body: what came with the head first."""
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
            return data
        return await self._receive(size)

    async def _receive(self, size: int) -> bytes:
        with trio.move_on_after(self._patience) as scope:
            try:
                data = await self._stream.receive_some(size)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise self._gone("more of an answer") from exc
        if scope.cancelled_caught:
            raise PeerGone(f"The peer sent nothing for {self._patience:g} s.", peer=self._peer)
        self._ended = not data
        return data if isinstance(data, bytes) else bytes(data)

    def _gone(self, expected: str) -> PeerGone:
        return PeerGone(f"Expected {expected}, the peer closed the stream.", peer=self._peer)

    def _fault(self, message: str) -> PeerFault:
        return PeerFault(message, peer=self._peer)


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds after which a refused request may be asked again; 0.0 when nothing is said."""
    try:
        wait = float(headers.get("retry-after", "0"))
    except ValueError:  # it may be a date: we ask again when we like
        return 0.0
    return min(max(wait, 0.0), MAX_RETRY_AFTER) if math.isfinite(wait) else MAX_RETRY_AFTER


def reason_of(body: bytes) -> str:
    """Return the sentence in which a peer says why it refuses; strangers' words, so cut short."""
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    words = "".join(one if one.isprintable() else " " for one in str(said)[:MAX_REASON])
    return words.strip() or "it does not say why."


def _headers(event: h11.Response) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
