"""What goes over an HTTP stream, and the bounds on all of it.

Pure data: no socket, no clock.
Header names are lower-case everywhere; a repeated header is joined with ", " as RFC 9110 allows.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

MAX_HEAD = 16 * 1024
"""Bytes of a request or response head: ours are under 1 KiB; nginx and curl draw similar lines."""

MAX_QUERY_FIELDS = 16
"""Fields in a query string: no request of ours has more than four."""

READ_SIZE = 1 << 20
"""Bytes asked of a stream at once while a body is read: one leaf."""

FILE_PIECE = 1 << 20
"""Bytes read from a file in one go: long enough that the thread hop (0.1 ms) doesn't show."""

CLOSING = 1.0
"""Seconds that a stream has to close in good order before it is left alone."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class ByteStream(Protocol):
    """The part of trio's ``SocketStream`` that HTTP needs.

    Failures are trio's: ``BrokenResourceError`` when the other side is gone,
    ``ClosedResourceError`` when this side closed.
    """

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send all of ``data``."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return between 1 and ``max_bytes`` bytes, or ``b""`` at the end of the stream."""

    async def aclose(self) -> None:
        """Close both directions."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How long a peer may take, and how much it may send. Seconds and bytes."""

    head: float = 15.0
    """From the first byte of a head to its end: a slow-header attack ends here."""
    idle: float = 120.0
    """Between two requests on one stream."""
    stall: float = 30.0
    """A reader waits this long for the next bytes of an answer."""
    send: float = 120.0
    """One piece (1 MiB) must leave in this time: 9 KB/s is the slowest reader that is served."""
    max_head: int = MAX_HEAD


DEFAULT_LIMITS = HttpLimits()


@dataclass(frozen=True, slots=True)
class Request:
    """One request; requests of this protocol have no body."""

    method: str
    """GET or HEAD."""
    path: str
    """Percent-decoded, always with a leading slash."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    peer: str
    """Who asks: a peer id, "loopback" or an IP address."""


@dataclass(frozen=True, slots=True)
class FileBody:
    """``length`` bytes of the file at ``path`` from ``offset`` on."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; an iterable body is sent chunked unless the headers have a content-length."""

    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    body: bytes | FileBody | AsyncIterable[bytes] = b""
    done: Callable[[], None] | None = None
    """Called on trio's thread when the answer has been sent, or could not be."""


Handler = Callable[[Request], Awaitable[Response]]
