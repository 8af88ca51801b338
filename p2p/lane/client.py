"""The asking end of a lane: answers come in the order of the requests, where the caller wants them.

The methods of ``Lane`` block and belong to a thread; ``open_lane`` and ``in_thread`` are trio's.
What a stranger sends is bounded as on a stream: heads, statuses, lengths, silence.
After any fault the framing is unknown, so the lane is no longer ``usable`` and must be closed.
"""

import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

from p2p.address import Address
from p2p.buffers import make_buffer
from p2p.cid import CID
from p2p.dialling import Reaches, open_tcp
from p2p.errors import AllodError, PeerFault, PeerGone, PeerRefused
from p2p.http import parse_content_range
from p2p.http.client import MAX_REFUSAL, reason_of, retry_after
from p2p.http.messages import HttpLimits
from p2p.lane.heads import END, read_head
from p2p.lane.offer import HEADER, Offer
from p2p.lane.wire import Wire
from p2p.rates import PeerRates

T = TypeVar("T")

OPEN_TIME = 3.0
"""Seconds to open a lane, over all addresses: longer ago the stream has begun to carry."""
BUFFER = 1 << 20
"""Bytes of a lane's buffer: a leaf, which is then hashed and written while the cache holds it."""
DRAIN = 1 << 20
"""Bytes of an answer nobody needs any more that are read rather than the lane closed."""


class Lane:
    """An open lane; its blocking methods are for one thread at a time."""

    def __init__(self, wire: Wire, ticket: str, rates: PeerRates) -> None:
        self.peer = wire.peer
        self.usable = True
        self.buffer = make_buffer(BUFFER)
        self._wire = wire
        self._ticket = ticket
        self._meter = rates.down
        self._room = memoryview(bytearray(wire.limits.max_head))
        self._rest = memoryview(b"")
        """What was received and not used yet."""
        self._left = 0
        """Bytes of the answer that are still to come."""
        self._asked: deque[tuple[str, int, int]] = deque()
        """Requests that are not answered yet: target and range."""

    @property
    def encrypted(self) -> bool:
        """Whether it is TLS."""
        return self._wire.encrypted

    def close(self) -> None:
        """Close it; no thread may be using it."""
        self.usable = False
        self._wire.close()

    # -- blocking

    def ask(self, *ranges: tuple[CID, int, int]) -> None:
        """Ask for ``start <= i < stop`` of files, all in one breath; PeerGone.

        For each, in this order, ``answer`` and then ``fill``.
        """
        if not self.usable:
            raise PeerGone("The lane carries no further request.", peer=self.peer)
        self.usable = False
        lines = []
        for cid, start, stop in ranges:
            target = f"/ipfs/{cid}"
            ticket, self._ticket = self._ticket, ""
            lines.append(
                f"GET {target} HTTP/1.1\r\nhost: allod\r\nrange: bytes={start}-{stop - 1}\r\n"
                + (f"{HEADER}: {ticket}\r\n" if ticket else "")
                + "\r\n"
            )
            self._asked.append((target, start, stop))
        self._wire.send("".join(lines).encode("ascii"))

    def answer(self) -> int:
        """Begin with the next answer, and return its length.

        Raises PeerRefused for another status than 206, PeerFault for a wrong answer, PeerGone.
        """
        target, start, stop = self._asked.popleft()
        status, headers = self._head()
        if status != 206:
            body = self._small_body()
            raise PeerRefused(
                f"{self.peer} answered {status} to {target}: {reason_of(body)}",
                status=status,
                retry_after=retry_after(headers),
                peer=self.peer,
            )
        got = parse_content_range(headers.get("content-range"))
        if got[:2] != (start, stop) or self._left != stop - start:
            self.usable = False
            raise PeerFault(
                f"Expected bytes {start} to {stop}, came {got[0]} to {got[1]} "
                f"in a body of {self._left}.",
                peer=self.peer,
            )
        return self._left

    def fill(self, view: memoryview) -> None:
        """Take exactly ``len(view)`` bytes of the answer; PeerGone when they don't come."""
        size = len(view)
        assert size <= self._left
        self._left -= size
        if self._rest:
            count = min(len(self._rest), size)
            view[:count] = self._rest[:count]
            self._rest, view = self._rest[count:], view[count:]
        if view:
            self._wire.fill(view, self._meter)
        self.usable = not self._left and not self._asked

    def leave(self) -> None:
        """Be done with the answer: read a short rest, else the lane is not usable any more."""
        if not self.usable and not self._asked and self._left <= DRAIN:
            self._small_body()

    def _small_body(self) -> bytes:
        if self._left > MAX_REFUSAL + DRAIN:
            return b""  # and the lane stays unusable
        body = memoryview(bytearray(self._left))
        self.fill(body)
        return bytes(body)

    def _head(self) -> tuple[int, Mapping[str, str]]:
        """Read the head of an answer: status and headers; what came beyond it is kept."""
        data = bytes(self._rest)
        deadline = time.monotonic() + self._wire.limits.stall
        while END not in data:
            if len(data) >= self._wire.limits.max_head:
                raise PeerFault("Expected an HTTP answer, its head does not end.", peer=self.peer)
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._wire.gone(TimeoutError())
            count = self._wire.receive(self._room, left)
            if not count:
                raise PeerGone("Expected an answer, the peer closed the lane.", peer=self.peer)
            data += self._room[:count]
        status, said, length = read_head(data, self.peer)
        size = said.get("content-length", "")
        if not (size.isascii() and size.isdecimal() and len(size) < 20):
            raise PeerFault("Expected a body of known length on a lane.", peer=self.peer)
        self._left = int(size)
        self._rest = memoryview(data)[length:]
        if not self._asked and len(self._rest) > self._left:
            raise PeerFault("More came than the answer's length.", peer=self.peer)
        self.usable = not self._left and not self._asked
        return status, said

    # -- trio's side

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run ``work``, which uses this lane, in a thread; a cancel ends the lane, not the wait."""
        return await run_blocking(self._wire, work)


async def run_blocking(
    wire: Wire, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None
) -> T:
    """Run ``work`` in a thread; a cancel aborts ``wire`` and waits until the thread has ended."""
    found: list[T] = []
    error: AllodError | None = None
    over = False

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not over:
                wire.abort()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            found.append(await trio.to_thread.run_sync(work, limiter=limiter))
        except AllodError as exc:
            error = exc
        over = True
        nursery.cancel_scope.cancel()
    if error is not None:
        await trio.lowlevel.checkpoint_if_cancelled()  # then it is our own abort
        raise error
    return found[0]


async def open_lane(
    peer: str, offer: Offer, ticket: str, rates: PeerRates, limits: HttpLimits,
    reaches: Reaches,
) -> Lane:  # fmt: skip
    """Open a lane at the first address that answers; PeerGone when none does within 3 s.

    PeerFault when the certificate is not the pinned one. ``reaches`` says which addresses may be
    dialled at all.
    """
    deadline = trio.current_time() + OPEN_TIME
    addresses = [address for address in offer.addresses if reaches(address)]
    for number, address in enumerate(addresses):
        share = (deadline - trio.current_time()) / (len(addresses) - number)
        sock = await _dial(address, share, reaches)
        if sock is None:
            continue
        wire = Wire(sock, limits, peer)
        try:
            if offer.encryption == "tls":
                seconds = max(0.1, deadline - trio.current_time())
                await run_blocking(wire, lambda: wire.open_tls(offer.certificate_sha256, seconds))  # noqa: B023
        except BaseException:
            wire.close()
            raise
        return Lane(wire, ticket, rates)
    raise PeerGone(f"None of {len(addresses)} addresses of the lane answers.", peer=peer)


async def _dial(address: Address, seconds: float, reaches: Reaches) -> socket.socket | None:
    with trio.move_on_after(seconds):
        try:
            stream = await open_tcp(address, reaches)
        except OSError:
            return None
        return socket.socket(fileno=stream.socket.detach())
    return None
