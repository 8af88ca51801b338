"""Bytes of an open release as an HTTP answer: for the control API, and for clients of the Hub.

A file that is here goes out from the disk; any other as it comes from the swarm, verified. What
goes wrong before the first bytes have come is an error with a status; after that the connection is
cut, so that nobody takes a part for the whole.

Knows Starlette and ``node.reading``.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from node.reading import OpenRelease
from p2p.errors import (
    AllodError,
    DiskFull,
    NetworkError,
    NotFound,
    PeerRefused,
    QuotaExceeded,
    Refused,
    StoreError,
    Untrusted,
    UsageError,
    VerificationFailed,
)
from p2p.http import content_range, parse_range
from p2p.manifest import FileEntry

log = logging.getLogger(__name__)

_STATUS: Final = (
    (NotFound, 404),
    (Refused, 403),
    (Untrusted, 403),
    (UsageError, 400),
    (VerificationFailed, 502),  # somebody's fault, and not the client's
    (QuotaExceeded, 507),
    (DiskFull, 507),
    (NetworkError, 504),
    (StoreError, 503),
)


class Streamed(Response):
    """A file, or the range of it that was asked for; see ``streamed``."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: AsyncGenerator[bytes, None]
    ) -> None:
        super().__init__(None, status, dict(headers))
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; an error in its middle leaves it without an end."""
        async with aclosing(self._body) as pieces:
            start = {"type": "http.response.start", "status": self.status_code}
            await send(start | {"headers": self.raw_headers})
            try:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except AllodError as exc:  # without its end the server closes the connection
                log.warning("an answer was cut off: %s", exc.message)
            else:
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(
    receive: Receive, send: Send, answer: Callable[[Send], Awaitable[None]]
) -> None:
    """Answer a request that has no body; a client that hangs up ends the work for it."""
    watch = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def hang_up() -> None:
            with watch:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                watch.cancel()  # the server says "disconnect" of a whole answer too
            await send(message)

        nursery.start_soon(hang_up)
        await answer(send_on)
        watch.cancel()


async def streamed(
    opened: OpenRelease, entry: FileEntry, range_header: str | None, headers: Mapping[str, str]
) -> Streamed:
    """Answer with a file's bytes, or the range that was asked for, once the first of them are here.

    PeerRefused with 416 for a range outside, and the errors of ``OpenRelease.read``.
    """
    wanted = parse_range(range_header, entry.size)
    start, stop = wanted or (0, entry.size)
    answer = {
        "content-type": "application/octet-stream",
        "accept-ranges": "bytes",
        "content-length": str(stop - start),
    } | dict(headers)
    if wanted is not None:
        answer["content-range"] = content_range(start, stop, entry.size)
    status = 200 if wanted is None else 206
    pieces = opened.read(entry, start, stop)
    try:
        first = await anext(pieces, b"")
    except BaseException:
        await pieces.aclose()
        raise
    return Streamed(status, answer, _behind(first, pieces))


async def _behind(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        if first:
            yield first
        async for piece in pieces:
            yield piece


def status_of(error: AllodError) -> int:
    """Return the HTTP status that tells a program on this machine of an error."""
    if isinstance(error, PeerRefused) and error.status == 416:
        return 416
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
