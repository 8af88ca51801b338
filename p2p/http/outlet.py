"""The sending half of a server: heads, bodies of every kind, and refusals, over one stream.

Every piece must leave within ``HttpLimits.send``. A body of a file goes from the disk to the
stream in pieces of a MiB, read by a thread; one of a known length passes no parser.
"""

import json
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from email.utils import formatdate
from time import time

import h11
import trio

from p2p.errors import (
    AllodError,
    Busy,
    EngineError,
    NotFound,
    PeerGone,
    PeerRefused,
    Refused,
    SourceChanged,
    StoreError,
    Unsupported,
    UsageError,
)
from p2p.http.messages import (
    FILE_PIECE,
    ByteStream,
    FileBody,
    HttpLimits,
    LiveBody,
    Response,
    Send,
)

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[AllodError], int], ...] = (
    (NotFound, 404),
    (Refused, 410),
    (UsageError, 400),
    (Busy, 429),
    (Unsupported, 501),
    (EngineError, 503),
    (StoreError, 503),
)


def error_response(error: AllodError) -> Response:
    """Return the answer that tells a peer of ``error``.

    400, 404, 410, 416, 429, and 500, 501 or 503 without a reason.
    """
    headers = {"content-type": "application/json"}
    if isinstance(error, PeerRefused):
        status = error.status
    else:
        status = next((number for kind, number in _STATUS if isinstance(error, kind)), 500)
    if isinstance(error, PeerRefused | Busy) and error.retry_after:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    message = error.message if status < 500 else "This node cannot answer at the moment."
    body = json.dumps({"error": {"code": error.code, "message": message}}).encode()
    return Response(status, headers, body)


class Outlet:
    """Sends the answers of one connection."""

    def __init__(
        self, stream: ByteStream, conn: h11.Connection, peer: str, limits: HttpLimits
    ) -> None:
        self._stream = stream
        self._conn = conn
        self._peer = peer
        self._limits = limits

    @property
    def fresh(self) -> bool:
        """Whether nothing of the answer to the request at hand has been sent."""
        return self._conn.our_state is h11.SEND_RESPONSE

    async def go_on(self) -> None:
        """Tell a peer that waits for it before it sends a body."""
        head = h11.InformationalResponse(status_code=100, headers=[])
        await self._out([self._conn.send(head) or b""])

    async def send_live(self, method: str, more: Mapping[str, str], body: LiveBody) -> None:
        """Have an answer made, and send it as it is made."""

        async def send(data: bytes) -> None:
            if method != "HEAD":
                await self._out(self._data(data))

        async def start(status: int, headers: Mapping[str, str]) -> Send:
            headers = {"date": formatdate(time(), usegmt=True), **more, **headers}
            if "content-length" not in headers:
                headers["transfer-encoding"] = "chunked"
            await self._out([self._conn.send(_head_event(status, headers)) or b""])
            return send

        await body.run(start)
        await self._out([self._conn.send(h11.EndOfMessage()) or b""])

    async def send(self, method: str, response: Response, file: int | None = None) -> None:
        """Send a whole answer; ``file`` is where a ``FileBody`` is open."""
        body = response.body
        headers = {"date": formatdate(time(), usegmt=True), **response.headers}
        if response.status in (204, 304):
            pass  # has no body, and says nothing of one (RFC 9110)
        elif isinstance(body, bytes):
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
            elif not isinstance(body, LiveBody):
                await self._out(parts)
                parts = []
                try:
                    async for piece in body:
                        await self._out(self._data(piece))
                finally:
                    if isinstance(body, AsyncGenerator):  # not left to the garbage collector
                        await body.aclose()
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

    async def refuse(self, status: int, message: str, method: str = "GET") -> None:
        """Answer an error on a stream that ends now; the peer may be past listening."""
        body = json.dumps({"error": {"code": "PEER_FAULT", "message": message}}).encode()
        headers = {"content-type": "application/json", "connection": "close"}
        if status == 405:
            headers["allow"] = "GET, HEAD"
        try:
            await self.send(method, Response(status, headers, body))
        except (trio.BrokenResourceError, PeerGone):
            log.debug("could not tell %s of its fault", self._peer)


def _head_event(status: int, headers: Mapping[str, str]) -> h11.Response:
    return h11.Response(
        status_code=status,
        headers=[
            (name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()
        ],
    )


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
