"""The heads of a lane: what its ends read of each other, bounded in size and in time.

Requests are h11's business. The head of an answer is read here: with many small files it is most of
what the asking end does, and what answers has one spelling for it.
"""

import re
import time
from collections.abc import Mapping

import h11

from p2p.errors import PeerFault, PeerGone, PeerRefused
from p2p.http import FileBody, Request, Response
from p2p.http.server import split_target
from p2p.lane.wire import Wire

END = b"\r\n\r\n"
TOLD = frozenset({"content-range", "retry-after"})
"""Headers of an answer that are sent beside its length: the others are for browsers and caches, and
with many small files they would be read as often as the payload."""

_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [!-~ ]*\r\n((?:[a-z0-9-]+: [!-~ ]*\r\n)*)\r\n")


class Heads:
    """The request heads that come on a wire; for the thread that serves it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._rest = b""
        """What came behind the last head: who has many files to ask for waits for no answer."""

    def read(self, deadline: float, most: int) -> list[h11.Request]:
        """Wait for a head up to ``deadline``; returns it, and those that came with it.

        There are ``most`` at most, and none when the peer closed before one began. PeerFault for
        what is none, or comes too slowly; PeerGone.
        """
        found = []
        while (head := self._next(deadline)) is not None:
            found.append(head)
            if len(found) == most or END not in self._rest:
                break
        return found

    def _next(self, deadline: float) -> h11.Request | None:
        wire = self._wire
        conn = h11.Connection(h11.SERVER, max_incomplete_event_size=wire.limits.max_head)
        room = memoryview(b"")
        begun = bool(self._rest)
        if begun:
            conn.receive_data(self._rest)
            deadline = min(deadline, time.monotonic() + wire.limits.head)
        while True:
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError as exc:
                raise PeerFault(f"Expected an HTTP request, came: {exc}.", peer=wire.peer) from exc
            if isinstance(event, h11.Request):
                self._rest = conn.trailing_data[0]
                return event
            if event is not h11.NEED_DATA:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise wire.gone(TimeoutError()) if not begun else self._slow()
            try:
                room = room or memoryview(bytearray(wire.limits.max_head))
                count = wire.receive(room, left)
            except PeerGone as exc:
                if begun and time.monotonic() >= deadline:
                    raise self._slow() from exc
                raise
            if count and not begun:
                begun = True
                deadline = min(deadline, time.monotonic() + wire.limits.head)
            conn.receive_data(bytes(room[:count]))

    def _slow(self) -> PeerFault:
        return PeerFault("A request head took too long.", peer=self._wire.peer)


def headers_of(head: h11.Request) -> dict[str, str]:
    """Return the headers by their names in lower case."""
    return {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}


def request_of(head: h11.Request, headers: Mapping[str, str], peer: str) -> Request:
    """Return the request of a head; PeerRefused where it is more than GET or HEAD."""
    if head.method not in (b"GET", b"HEAD"):
        raise PeerRefused("Expected the method GET or HEAD.", status=405, peer=peer)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise PeerRefused("Expected a request without a body.", status=413, peer=peer)
    path, query = split_target(head.target, peer)
    return Request(head.method.decode("ascii"), path, query, headers, peer)


def length_of(response: Response) -> int:
    """Return the bytes of an answer's body, which is not a stream."""
    body = response.body
    assert isinstance(body, FileBody | bytes)
    return body.length if isinstance(body, FileBody) else len(body)


def write_head(response: Response, *, close: bool = False) -> bytes:
    """Return the head of an answer whose length is known."""
    lines = [f"HTTP/1.1 {response.status} -", f"content-length: {length_of(response)}"]
    lines += [f"{name}: {text}" for name, text in response.headers.items() if name in TOLD]
    lines += ["connection: close"] if close else []
    return "\r\n".join(lines).encode("latin-1") + END


def read_head(data: bytes, peer: str) -> tuple[int, dict[str, str], int]:
    """Read the head of an answer: its status, its headers, its length; PeerFault if it is none."""
    found = _ANSWER.match(data)
    if found is None:
        raise PeerFault(f"Expected the head of an answer, came {data[:40]!r}.", peer=peer)
    lines = found[2].decode("ascii").split("\r\n")[:-1]
    headers = dict(line.split(": ", 1) for line in lines)
    if len(headers) < len(lines):
        raise PeerFault("An answer says something twice.", peer=peer)
    return int(found[1]), headers, found.end()
