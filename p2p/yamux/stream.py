"""One stream: what is unread, what is to be written, and what each side has said.

Knows bytes and windows; must not know frames of other streams or when anything is sent: that is
`p2p.yamux.machine`, which alone changes a `Stream`.
"""

from collections import deque

from p2p.yamux.frames import INITIAL_WINDOW, Data, Flag

SMALL_PIECE = 4 << 10  # shorter pieces are put together, so that tiny frames cost no objects
JOINED_PIECE = 64 << 10  # until they are as long as this


class Inbox:
    """Unread bytes, in order."""

    __slots__ = ("_chunks", "_head", "size")

    def __init__(self) -> None:
        self.size = 0
        self._chunks: deque[bytes | bytearray] = deque()
        self._head = 0  # bytes of the first chunk that were read

    @property
    def chunks(self) -> int:
        """How many objects hold the bytes."""
        return len(self._chunks)

    def put(self, piece: memoryview) -> None:
        """Copy ``piece`` to the end."""
        tail = self._chunks[-1] if self._chunks else b""
        if len(piece) >= SMALL_PIECE:
            self._chunks.append(bytes(piece))
        elif isinstance(tail, bytearray) and len(tail) < JOINED_PIECE:
            tail += piece
        else:
            self._chunks.append(bytearray(piece))
        self.size += len(piece)

    def take(self, limit: int | None = None) -> bytes:
        """The first bytes, all of them or at most ``limit``; one that came whole is not copied."""
        size = self.size if limit is None else min(limit, self.size)
        if not size:
            return b""
        self.size -= size
        first, head = self._chunks[0], self._head
        if size < len(first) - head:
            self._head = head + size
            return bytes(memoryview(first)[head : head + size])
        if size > len(first) - head:
            return self._join(size)
        self._chunks.popleft()
        self._head = 0
        return bytes(memoryview(first)[head:] if head else first)

    def _join(self, size: int) -> bytes:
        pieces: list[Data] = []
        while size:
            first, head = self._chunks[0], self._head
            left = len(first) - head
            if left > size:
                pieces.append(memoryview(first)[head : head + size])
                self._head = head + size
                break
            pieces.append(memoryview(first)[head:])
            self._chunks.popleft()
            self._head = 0
            size -= left
        return b"".join(pieces)

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()
        self._head = self.size = 0


class Stream:
    """One stream's state; read it as you like, change it only through `Machine`."""

    __slots__ = (
        "acked", "dead", "epoch", "fin_received", "fin_sent", "finishing", "flag", "id", "inbox",
        "outbound", "owner", "pending", "queued", "recv_window", "reset", "send_window", "urgent",
        "window",
    )  # fmt: skip

    def __init__(self, id: int, outbound: bool, now: float) -> None:
        self.id = id
        self.outbound = outbound  # we opened it
        self.owner: object = None  # what the driver wants to find again
        # How far it has come.
        self.flag = Flag.SYN if outbound else Flag.ACK  # still to be sent
        self.acked = not outbound  # the peer knows it
        self.finishing = False  # no more writes; FIN goes when what was written has gone
        self.fin_sent = False
        self.fin_received = False
        self.reset = False  # by either side, or by the end of the connection
        self.dead = False  # no longer in the machine's table
        # Bytes in: unread + recv_window + owed = window.
        self.inbox = Inbox()
        self.recv_window = INITIAL_WINDOW  # what the peer may still send
        self.window = INITIAL_WINDOW
        self.epoch = now  # of the last update
        # Bytes out.
        self.pending: memoryview | None = None  # the rest of the write under way
        self.send_window = INITIAL_WINDOW
        # In which of the machine's queues it stands.
        self.queued = False  # has data to send, and the window for it
        self.urgent = False  # owes the peer a frame

    @property
    def owed(self) -> int:
        """Bytes that were read and not yet granted again, when they are worth an update."""
        owed = self.window - self.recv_window - self.inbox.size
        return owed if owed * 2 >= self.window and not self.fin_received else 0

    def drop(self) -> None:
        """It was reset: let go of all bytes."""
        self.reset = True
        self.inbox.clear()
        self.pending = None
