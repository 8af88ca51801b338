"""One blocking connection, TLS or plain, for the threads of a lane.

Every call blocks for a bounded time and raises PeerGone past it. ``abort`` may be called from any
thread, and wakes whoever waits in one of the others: so no thread outlives what it was started for.
"""

import os
import select
import socket
import ssl
import threading
import time
from contextlib import suppress

from p2p.buffers import make_buffer
from p2p.errors import PeerFault, PeerGone
from p2p.http.messages import HttpLimits
from p2p.lane.tls import client_context, fingerprint
from p2p.rates import Meter

SEND_PIECE = 1 << 20
"""Bytes encrypted in one call: the interpreter's lock is released for all of it."""
SENDFILE_PIECE = 16 << 20
"""Bytes given to one sendfile call; it ends when the socket is full, long before."""

_NO_TIME = (TimeoutError, BlockingIOError)


class Wire:
    """A connected socket whose waits are bounded."""

    def __init__(self, sock: socket.socket, limits: HttpLimits, peer: str = "") -> None:
        self.peer = peer
        self.limits = limits
        self._sock = sock
        self._over = threading.Event()
        self._buffer = memoryview(b"")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(limits.head)

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return isinstance(self._sock, ssl.SSLSocket)

    @property
    def aborted(self) -> bool:
        """Whether ``abort`` was called."""
        return self._over.is_set()

    # -- beginning and end

    def serve_tls(self, context: ssl.SSLContext, seconds: float) -> None:
        """Do the server's half of the handshake; PeerFault when that is not TLS 1.3."""
        self._wrap(context, seconds, server_side=True)

    def open_tls(self, pinned: str, seconds: float) -> None:
        """Do the client's half, and see that the certificate is the pinned one; PeerFault."""
        self._wrap(client_context(), seconds, server_side=False)
        assert isinstance(self._sock, ssl.SSLSocket)
        if fingerprint(self._sock) != pinned:
            self.close()
            raise PeerFault("Another certificate than the promised one came.", peer=self.peer)

    def _wrap(self, context: ssl.SSLContext, seconds: float, *, server_side: bool) -> None:
        self._sock.settimeout(seconds)
        try:
            # The handshake comes after the assignment, so that abort reaches the right socket.
            self._sock = context.wrap_socket(
                self._sock, server_side=server_side, do_handshake_on_connect=False,
                suppress_ragged_eofs=True,
            )  # fmt: skip
            self._sock.do_handshake()
        except (ssl.SSLError, ValueError) as exc:
            raise PeerFault(f"The TLS handshake failed ({exc}).", peer=self.peer) from exc
        except OSError as exc:
            raise self.gone(exc) from exc

    def speaks_tls(self, seconds: float) -> bool:
        """Look at the first byte that comes, without taking it: a TLS record or not."""
        self._sock.settimeout(seconds)
        try:
            first = self._sock.recv(1, socket.MSG_PEEK)
        except OSError as exc:
            raise self.gone(exc) from exc
        return first == b"\x16"

    def abort(self) -> None:
        """End it at once, from any thread; whoever waits in a call gets PeerGone."""
        self._over.set()
        with suppress(OSError):  # it may be closed, or never have been connected
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; only when no other thread uses it any more."""
        self._over.set()
        with suppress(OSError):
            self._sock.close()

    def gone(self, exc: BaseException | None = None) -> PeerGone:
        """The error for a connection that broke, ended or fell silent."""
        if isinstance(exc, _NO_TIME):
            return PeerGone("The lane's other end fell silent.", peer=self.peer)
        why = f" ({exc})" if exc is not None else ""
        return PeerGone(f"The lane broke{why}.", peer=self.peer)

    # -- bytes

    def receive(self, view: memoryview, seconds: float) -> int:
        """Receive some bytes into ``view``; 0 at the end of the stream. Raises PeerGone."""
        self._sock.settimeout(seconds)
        try:
            return self._sock.recv_into(view)
        except (OSError, ValueError) as exc:
            raise self.gone(exc) from exc

    def fill(self, view: memoryview, meter: Meter) -> None:
        """Receive exactly ``len(view)`` bytes. Raises PeerGone when they don't come."""
        while meter.limited and len(view) > meter.piece:
            piece = meter.piece
            self._fill(view[:piece])
            view = view[piece:]
            meter.count("lane", piece)
            self.pause(meter.reserve(piece))
        self._fill(view)
        meter.count("lane", len(view))
        self.pause(meter.reserve(len(view)))

    def _fill(self, view: memoryview) -> None:
        receive, done, size = self._sock.recv_into, 0, len(view)
        try:
            self._sock.settimeout(self.limits.stall)
            while done < size:
                count = receive(view[done:], size - done)  # ssl looks into a view for its size
                if not count:
                    raise self.gone()
                done += count
        except (OSError, ValueError) as exc:
            raise self.gone(exc) from exc

    def send(self, data: bytes | memoryview) -> None:
        """Send all of ``data``, within the limits' time for a piece. Raises PeerGone."""
        try:
            self._sock.settimeout(self.limits.send)
            self._sock.sendall(data)
        except (OSError, ValueError) as exc:
            raise self.gone(exc) from exc

    def send_metered(self, data: bytes, meter: Meter) -> None:
        """Send all of ``data`` at the meter's rate. Raises PeerGone."""
        view = memoryview(data)
        while view:
            piece, view = view[: meter.piece], view[meter.piece :]
            self.pause(meter.reserve(len(piece)))
            self.send(piece)
            meter.count("lane", len(piece))

    def send_file(self, head: bytes, fd: int, offset: int, size: int, meter: Meter) -> int:
        """Send ``head`` and a part of a file from the page cache; how many bytes the file had.

        Raises PeerGone.
        """
        if len(head) + size <= SEND_PIECE and not meter.limited:
            return self._small_file(head, fd, offset, size, meter)
        self.send(head)
        return (self._encrypt_file if self.encrypted else self._plain_file)(fd, offset, size, meter)

    def _small_file(self, head: bytes, fd: int, offset: int, size: int, meter: Meter) -> int:
        """Send both in one go: many files are sent in the time that a second call takes."""
        start, buffer = len(head), self._room()
        buffer[:start] = head
        count = os.preadv(fd, [buffer[start : start + size]], offset)
        self.send(buffer[: start + count])
        meter.count("lane", count)
        return count

    def _room(self) -> memoryview:
        if not self._buffer:
            self._buffer = make_buffer(SEND_PIECE)
        return self._buffer

    def _encrypt_file(self, fd: int, offset: int, size: int, meter: Meter) -> int:
        # Not mmap: a file that shrinks meanwhile would end the process with SIGBUS.
        buffer = self._room()
        sent = 0
        while sent < size:
            piece = min(size - sent, len(buffer), meter.piece)
            count = os.preadv(fd, [buffer[:piece]], offset + sent)
            if not count:
                break
            self.pause(meter.reserve(count))
            self.send(buffer[:count])
            meter.count("lane", count)
            sent += count
        return sent

    def _plain_file(self, fd: int, offset: int, size: int, meter: Meter) -> int:
        sent = 0
        self._sock.settimeout(0)
        while sent < size:
            piece = min(size - sent, meter.piece if meter.limited else SENDFILE_PIECE)
            self.pause(meter.reserve(piece))
            stop, deadline = sent + piece, time.monotonic() + self.limits.send
            while sent < stop:
                try:
                    count = os.sendfile(self._sock.fileno(), fd, offset + sent, stop - sent)
                except BlockingIOError:
                    self._wait_room(deadline)
                    continue
                except (OSError, ValueError) as exc:
                    raise self.gone(exc) from exc
                if not count:
                    return sent
                meter.count("lane", count)
                sent += count
                if count >= SEND_PIECE:
                    deadline = time.monotonic() + self.limits.send
        return sent

    def _wait_room(self, deadline: float) -> None:
        """Wait until the socket takes more."""
        left = deadline - time.monotonic()
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLOUT)
            if left <= 0 or not poll.poll(left * 1000):
                raise self.gone(TimeoutError())
        except (OSError, ValueError) as exc:
            raise self.gone(exc) from exc

    def pause(self, seconds: float) -> None:
        """Wait because a rate limit says so; PeerGone when the lane ends meanwhile."""
        if seconds > 0 and self._over.wait(seconds):
            raise self.gone()
