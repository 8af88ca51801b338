"""Bytes of files of releases, in blocking code: ranges over the node's HTTP, and a file on top.

One pool of connections serves all threads of a process; a forked child makes its own. A range is
one request, made once more where the connection, or the node, was gone; every byte that came
stays, so that only the rest is asked for.
"""

import atexit
import io
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from allod import wire
from allod.door import Door, find_again, find_door
from allod.releases import File

if TYPE_CHECKING:
    import httpx

BLOCK: Final = 1 << 20
"""Bytes that a file reads at least: the node moves no less, a leaf has about so many."""

_lock = threading.Lock()
_pool: "httpx.Client | None" = None


def _client() -> "httpx.Client":
    global _pool
    with _lock:
        if _pool is None:
            import httpx

            _pool = httpx.Client(
                timeout=httpx.Timeout(wire.SILENCE, connect=wire.CONNECT_TIMEOUT),
                limits=httpx.Limits(max_keepalive_connections=16, keepalive_expiry=wire.KEPT),
                trust_env=False,  # no proxy stands before loopback
                verify=False,  # plain HTTP: spares reading the certificates
            )
        return _pool


def close_pool() -> None:
    """Close the connections; the next read makes new ones."""
    global _pool
    with _lock:
        pool, _pool = _pool, None
    if pool is not None:
        pool.close()


def _after_fork() -> None:
    global _lock, _pool
    _inherited.append(_pool)
    _lock, _pool = threading.Lock(), None


_inherited: list[Any] = []  # the parent's connections: neither used nor ended in order here
os.register_at_fork(after_in_child=_after_fork)
atexit.register(close_pool)


class Remote:
    """One file of a release, as the node reads it; may be used from any thread."""

    def __init__(self, ref: str, file: File, door: Door | None = None) -> None:
        self.ref = ref
        self.file = file
        self._door = door

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes ``start <= i < stop``, all of them; the end of the file ends them."""
        return b"".join(self.chunks(start, stop))

    def read_into(self, start: int, view: memoryview) -> int:
        """Fill the view from ``start`` on, as far as the file goes; how many bytes that were."""
        at = 0
        for piece in self.chunks(start, start + len(view)):
            view[at : at + len(piece)] = piece
            at += len(piece)
        return at

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield these bytes in pieces, as they come."""
        import httpx

        at, stop, tries = max(start, 0), min(stop, self.file.size), 2
        while at < stop:
            door = self._door = self._door or find_door()
            try:
                for piece in self._ask(door, at, stop):
                    at, tries = at + len(piece), 2
                    yield piece
            except httpx.TransportError as exc:
                tries -= 1
                if not tries:
                    raise wire.went_away() from exc
                self._door = find_again(door, refused=isinstance(exc, httpx.ConnectError))

    def _ask(self, door: Door, start: int, stop: int) -> Iterator[bytes]:
        asked = {"ref": self.ref, "path": self.file.path}
        headers = door.headers | wire.range_header(start, stop)
        with _client().stream("GET", door.url + wire.READ, params=asked, headers=headers) as got:
            if not wire.is_range(got.status_code, got.headers, start, stop, self.file.size):
                body = b""
                for piece in got.iter_raw():
                    body += piece
                    if len(body) > wire.MAX_ERROR:
                        break
                raise wire.refusal(got.status_code, body)
            left = stop - start
            for piece in got.iter_raw():
                left -= len(piece)
                if left < 0:
                    raise wire.stranger()
                yield piece


class RangeFile(io.RawIOBase):
    """A file of a release as a raw, seekable file; a read ends where a block does.

    So a buffer on top of it that reads in order asks for whole blocks, and one that jumps about
    for no more than it must.
    """

    def __init__(self, remote: Remote, block: int) -> None:
        super().__init__()
        self.remote = remote
        self._block = block
        self._at = 0

    @property
    def name(self) -> str:
        """Return the file's path in its release."""
        return self.remote.file.path

    @property
    def mode(self) -> str:
        """Return ``rb``."""
        return "rb"

    @property
    def size(self) -> int:
        """Return how many bytes the file has."""
        return self.remote.file.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which may lie behind the end."""
        self._checkClosed()
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}
        if whence not in origin:
            raise ValueError(f"whence is 0, 1 or 2, but {whence} came")
        if origin[whence] + offset < 0:
            raise ValueError(f"a position is not negative, but {origin[whence] + offset} came")
        self._at = origin[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer, at most to the end of a block; 0 at the end of the file."""
        self._checkClosed()
        view = memoryview(buffer).cast("B")
        if len(view) <= self._block:
            view = view[: self._block - self._at % self._block]
        taken = self.remote.read_into(self._at, view)
        self._at += taken
        return taken

    def readall(self) -> bytes:
        """Read the rest of the file by one request."""
        self._checkClosed()
        data = self.remote.read(self._at, self.size)
        self._at += len(data)
        return data

    def _checkClosed(self) -> None:  # noqa: N802 - the name that io gives it
        if self.closed:
            raise ValueError("I/O operation on closed file.")
