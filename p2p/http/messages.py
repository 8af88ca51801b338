"""What goes over an HTTP stream, and the bounds on all of it.

Pure data: no socket, no clock.
Header names are lower-case everywhere; a repeated header is joined with ", " as RFC 9110 allows.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

MAX_HEAD = 16 * 1024
"""Bytes of a request or response head: ours are under 1 KiB; nginx and curl draw similar lines."""

MAX_QUERY_FIELDS = 16
"""Fields in a query string: no request of ours has more than four."""

MAX_BODY = 8 << 20
"""Bytes of a request's body: a long conversation with some pictures in it."""

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


@runtime_checkable
class Resets(Protocol):
    """A stream that tells of a reset before anybody reads or writes: libp2p's are such."""

    async def wait_reset(self) -> None:
        """Return once the stream was reset, or its connection is gone; reads nothing."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How long a peer may take, and how much it may send. Seconds and bytes."""

    head: float = 15.0
    """From the first byte of a head to its end: a slow-header attack ends here."""
    idle: float = 120.0
    """Between two requests on one stream."""
    body: float = 60.0
    """From the end of a head to the end of the body behind it: 140 KB/s for the largest."""
    answer: float = 30.0
    """A reader waits this long for the head of an answer: what is made for it may take longer."""
    stall: float = 30.0
    """A reader waits this long for the next bytes of an answer."""
    send: float = 120.0
    """One piece (1 MiB) must leave in this time: 9 KB/s is the slowest reader that is served."""
    max_head: int = MAX_HEAD
    crumb: int = 512
    """Bytes that the pieces of a chunked body have on average, past the first thousand: each costs
    10 us on trio's thread, so that a MiB of them, one byte each, would hold it for two seconds."""


DEFAULT_LIMITS = HttpLimits()


@dataclass(frozen=True, slots=True)
class Request:
    """One request; only a POST has a body."""

    method: str
    """GET or HEAD, POST where a body is taken, and what else ``serve_http`` was told to take."""
    path: str
    """Percent-decoded, always with a leading slash."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    peer: str
    """Who asks: a peer id, "loopback" or an IP address."""
    body: bytes = b""


class Bodies(Protocol):
    """Which requests may have a body, and the room that there is for bodies."""

    def limit(self, request: Request) -> int:
        """Return how many bytes a POST may bring, by its head; 0 where the path takes none.

        An AllodError is the answer to it; the body is not read then.
        """

    def hold(self, request: Request, size: int) -> AbstractContextManager[None]:
        """Take room for a body of so many bytes, until its request is answered.

        An AllodError, of this call or of entering, is the answer; the body is not read then.
        """


@dataclass(frozen=True, slots=True)
class FileBody:
    """``length`` bytes of the file at ``path`` from ``offset`` on."""

    path: Path
    offset: int
    length: int


Send = Callable[[bytes], Awaitable[None]]
"""Sends the next bytes of a body; what it raises ends the answer."""

Start = Callable[[int, Mapping[str, str]], Awaitable[Send]]
"""Sends the head of an answer, its status and its headers, and returns what sends the body."""


@dataclass(frozen=True, slots=True)
class LiveBody:
    """An answer that is made while it is sent, from its head on, by one task to the end.

    ``run`` calls ``start`` once. What it raises before is answered as whatever a handler raises;
    what it raises later breaks the stream, so that half an answer is never taken for a whole one.
    The asker's reset of the stream cancels it.
    """

    run: Callable[[Start], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; an iterable body is sent chunked unless the headers have a content-length."""

    status: int
    """Not that of a ``LiveBody``, which says its own."""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    body: bytes | FileBody | AsyncIterable[bytes] | LiveBody = b""
    done: Callable[[], None] | None = None
    """Called on trio's thread when the answer has been sent, or could not be."""


Handler = Callable[[Request], Awaitable[Response]]
