"""The answering side: one stream, one handler, one request after the other.

The peer's faults (a malformed head, a body that nobody wants, silence) get an answer where one is
possible, end this stream, and are raised as PeerFault so that the caller can count them.
A bug in the handler gets a bare 500 and is raised as it is: whoever runs the stream decides.
An AllodError of the handler becomes its status with ``{"error": {"code", "message"}}``;
what went wrong inside this node (5xx) is not told to strangers.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from email.utils import formatdate
from time import time
from urllib.parse import parse_qsl, unquote

import h11
import trio

from p2p.errors import (
    AllodError,
    NotFound,
    PeerFault,
    PeerGone,
    PeerRefused,
    Refused,
    SourceChanged,
    StoreError,
    UsageError,
)
from p2p.http.messages import (
    CLOSING,
    DEFAULT_LIMITS,
    FILE_PIECE,
    MAX_QUERY_FIELDS,
    ByteStream,
    FileBody,
    Handler,
    HttpLimits,
    Request,
    Response,
)

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[AllodError], int], ...] = (
    (NotFound, 404),
    (Refused, 410),
    (UsageError, 400),
    (StoreError, 503),
)


def error_response(error: AllodError) -> Response:
    """Return the answer that tells a peer of ``error``: 404, 410, 400, 416, 429, 503 or 500."""
    headers = {"content-type": "application/json"}
    if isinstance(error, PeerRefused):
        status = error.status
        if error.retry_after:
            headers["retry-after"] = str(max(1, round(error.retry_after)))
    else:
        status = next((number for kind, number in _STATUS if isinstance(error, kind)), 500)
    message = error.message if status < 500 else "This node cannot answer at the moment."
    body = json.dumps({"error": {"code": error.code, "message": message}}).encode()
    return Response(status, headers, body)


async def serve_http(
    stream: ByteStream, handler: Handler, *, peer: str, limits: HttpLimits = DEFAULT_LIMITS
) -> None:
    """Answer requests on ``stream`` until the peer closes it or stays idle; then close it.

    Raises PeerFault (PeerGone when it vanished in the middle), or whatever bug the handler has.
    """
    try:
        await _Server(stream, handler, peer, limits).run()
    except trio.BrokenResourceError as exc:
        raise PeerGone("The peer closed the stream in the middle.", peer=peer) from exc
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING):
            await stream.aclose()


class _Server:
    def __init__(self, stream: ByteStream, handler: Handler, peer: str, limits: HttpLimits) -> None:
        self._stream = stream
        self._handler = handler
        self._peer = peer
        self._limits = limits
        self._ended = False
        self._conn = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_head)

    async def run(self) -> None:
        while True:
            try:
                head = await self._head()
                if head is None:
                    return
                request = self._request(head)
            except h11.RemoteProtocolError as exc:
                if self._ended:
                    raise PeerGone("The peer closed in the middle of a request.") from exc
                await self._refuse(exc.error_status_hint or 400, f"Malformed request: {exc}.")
                raise PeerFault(f"Expected an HTTP request, came: {exc}.", peer=self._peer) from exc
            except PeerRefused as exc:
                await self._refuse(exc.status, exc.message)
                raise
            await self._answer(request)
            if self._conn.our_state is not h11.DONE or self._conn.their_state is not h11.DONE:
                return
            self._conn.start_next_cycle()

    async def _head(self) -> h11.Request | None:
        """Return the next head, or None when the peer closed or idled between requests."""
        limits = self._limits
        waiting = not self._conn.trailing_data[0]
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + (limits.idle if waiting else limits.head)
            while True:
                event = self._conn.next_event()
                if isinstance(event, h11.Request):
                    return event
                if isinstance(event, h11.ConnectionClosed):
                    return None
                data = await self._stream.receive_some(limits.max_head)
                if data and waiting:
                    waiting = False
                    scope.deadline = trio.current_time() + limits.head
                self._ended = not data
                self._conn.receive_data(bytes(data))
        if waiting:
            return None
        raise PeerRefused(
            f"Expected a whole request head within {limits.head:g} s.", status=408, peer=self._peer
        )

    def _request(self, head: h11.Request) -> Request:
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if head.method not in (b"GET", b"HEAD"):
            raise PeerRefused("Expected the method GET or HEAD.", status=405, peer=self._peer)
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            raise PeerRefused("Expected a request without a body.", status=413, peer=self._peer)
        event = self._conn.next_event()
        if not isinstance(event, h11.EndOfMessage):  # cannot be: there is no body
            raise PeerFault("Expected the end of the request.", peer=self._peer)
        path, query = split_target(head.target, self._peer)
        return Request(head.method.decode("ascii"), path, query, headers, self._peer)

    async def _answer(self, request: Request) -> None:
        file: int | None = None
        done: Callable[[], None] | None = None
        try:
            response = await self._handler(request)
            done = response.done
            if isinstance(response.body, FileBody) and request.method == "GET":
                file = await trio.to_thread.run_sync(open_body, response.body)
        except AllodError as exc:
            response = error_response(exc)
            if response.status >= 500:
                log.warning("the request for %s failed: %s", request.path, exc)
        except Exception:
            # The handler's bug is raised again for the stream's owner; the peer gets a bare 500.
            await self._refuse(500, "This node cannot answer at the moment.", request.method)
            raise
        try:
            await self._send(request.method, response, file)
        finally:
            if file is not None:
                os.close(file)
            if done is not None:
                done()

    async def _send(self, method: str, response: Response, file: int | None = None) -> None:
        body = response.body
        headers = {"date": formatdate(time(), usegmt=True), **response.headers}
        if isinstance(body, bytes):
            headers["content-length"] = str(len(body))
        elif isinstance(body, FileBody):
            headers["content-length"] = str(body.length)
        elif "content-length" not in headers:
            headers["transfer-encoding"] = "chunked"
        parts = [self._conn.send(_head_event(response.status, headers)) or b""]
        if method != "HEAD" and response.status not in (204, 304):
            if isinstance(body, bytes):
                # One write for head and body: a small answer then travels as one frame.
                parts += self._data(body)
            elif isinstance(body, FileBody):
                await self._out(parts)
                parts = []
                await self._send_file(body, file)
            else:
                await self._out(parts)
                parts = []
                async for piece in body:
                    await self._out(self._data(piece))
        parts.append(self._conn.send(h11.EndOfMessage()) or b"")
        await self._out(parts)

    async def _send_file(self, body: FileBody, file: int | None) -> None:
        offset, stop = body.offset, body.offset + body.length
        while file is not None and offset < stop:
            piece = await trio.to_thread.run_sync(
                os.pread, file, min(stop - offset, FILE_PIECE), offset
            )
            if not piece:  # the head is out: only a broken stream can tell the peer
                raise SourceChanged(
                    f"Expected {body.length} bytes at {body.offset} of a stored file, "
                    f"came {offset - body.offset}."
                )
            offset += len(piece)
            await self._out(self._data(piece))

    def _data(self, data: bytes) -> list[bytes]:
        return list(self._conn.send_with_data_passthrough(h11.Data(data=data)) or ())

    async def _out(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        if not data:
            return
        with trio.move_on_after(self._limits.send) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise PeerGone(
                f"The peer took none of the answer for {self._limits.send:g} s.", peer=self._peer
            )

    async def _refuse(self, status: int, message: str, method: str = "GET") -> None:
        """Answer an error on a stream that ends now; the peer may be past listening."""
        body = json.dumps({"error": {"code": "PEER_FAULT", "message": message}}).encode()
        headers = {"content-type": "application/json", "connection": "close"}
        if status == 405:
            headers["allow"] = "GET, HEAD"
        try:
            await self._send(method, Response(status, headers, body))
        except (trio.BrokenResourceError, PeerGone):
            log.debug("could not tell %s of its fault", self._peer)


def _head_event(status: int, headers: Mapping[str, str]) -> h11.Response:
    return h11.Response(
        status_code=status,
        headers=[
            (name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()
        ],
    )


def split_target(target: bytes, peer: str) -> tuple[str, dict[str, str]]:
    """Split a request target into its decoded path and its query; PeerRefused(400) if bad."""
    raw_path, _, raw_query = target.decode("ascii", "replace").partition("?")
    try:
        path = unquote(raw_path, errors="strict")
        pairs = parse_qsl(
            raw_query,
            keep_blank_values=True,
            strict_parsing=bool(raw_query),
            errors="strict",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except ValueError as exc:
        raise PeerRefused(
            f"The request target is malformed: {exc}.", status=400, peer=peer
        ) from exc
    query = dict(pairs)
    if not path.startswith("/") or not path.isprintable() or len(query) != len(pairs):
        raise PeerRefused(
            "Expected a path that starts with / and a query that names each field once.",
            status=400,
            peer=peer,
        )
    return path, query


def open_body(body: FileBody) -> int:
    """Open the file and see that the range is in it; StoreError when not."""
    try:
        file = os.open(body.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise StoreError("A file of this store could not be opened.") from exc
    if os.fstat(file).st_size < body.offset + body.length:
        os.close(file)
        raise StoreError("A file of this store is shorter than its record says.")
    return file
