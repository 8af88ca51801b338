"""Hashing of files: one pass, all cores, a few MiB at a time.

The file is cut into pieces of whole leaves; worker threads each take a piece, read its leaves into
a buffer of their own and hash them, which releases the interpreter's lock.
So memory is (number of workers) x PIECE whatever the size of the file, and mmap is not used: a
file that shrinks meanwhile would kill the process with SIGBUS instead of giving a short read.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import trio

from node.store import durable
from p2p.buffers import make_buffer
from p2p.cid import Hash
from p2p.dag import Outline
from p2p.errors import SourceChanged
from p2p.ranges import RangeSet

T = TypeVar("T")
Progress = Callable[[int], None]
"""Told, on trio's thread, how many bytes more are done."""

PIECE: Final = 4 << 20
"""Bytes a worker takes at once: a thread hop costs 0.1 ms, hashing this 1 to 2 ms."""
NEAR: Final = 1 << 20
"""Bytes that are read and then hashed: so many are still in the cache near the core."""
PIECE_LEAVES: Final = 4096  # tiny tensors make tiny leaves: bounds the time without a checkpoint
MAX_WORKERS: Final = 16  # 64 MiB of buffers; faster than any disk by then


def core_limiter() -> trio.CapacityLimiter:
    """Return a limiter with a place for every core that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return trio.CapacityLimiter(max(1, min(usable or 1, MAX_WORKERS)))


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive leaves of a file: the first one's index and offset, and all their sizes."""

    first: int
    offset: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of all the leaves."""
        return sum(self.sizes)

    def leaves(self, data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Cut ``data``: index, offset in the file, bytes of each leaf."""
        start = 0
        for number, size in enumerate(self.sizes, self.first):
            yield number, self.offset + start, data[start : start + size]
            start += size

    def parts(self) -> "Iterator[Piece]":
        """Cut it into pieces of at most ``NEAR`` bytes, or one leaf."""
        return pieces(self.sizes, self.first, self.offset, NEAR)


def pieces(
    sizes: Iterable[int], first: int = 0, offset: int = 0, most: int = PIECE
) -> Iterator[Piece]:
    """Gather leaves, the first of which is number ``first`` at ``offset``, into pieces.

    A piece has at most ``most`` bytes, or it is one leaf.
    """
    gathered: list[int] = []
    length = 0
    for size in sizes:
        if gathered and (length + size > most or len(gathered) == PIECE_LEAVES):
            yield Piece(first, offset, tuple(gathered))
            first, offset = first + len(gathered), offset + length
            gathered, length = [], 0
        gathered.append(size)
        length += size
    if gathered:
        yield Piece(first, offset, tuple(gathered))


def outline_pieces(outline: Outline, leaves: Iterable[range]) -> Iterator[Piece]:
    """Gather the leaves of ``outline`` in the given ranges of indexes into pieces."""
    for indexes in leaves:
        if indexes:
            start, _ = outline.span(indexes.start, indexes.start + 1)
            spans = (outline.span(index, index + 1) for index in indexes)
            yield from pieces((stop - begin for begin, stop in spans), indexes.start, start)


class Sized(Protocol):
    """A piece of work that needs a buffer of ``size`` bytes."""

    @property
    def size(self) -> int:
        """Bytes of buffer."""


P = TypeVar("P", bound=Sized)


async def each_piece(
    todo: Iterable[P],
    work: Callable[[P, memoryview], T],
    then: Callable[[P, memoryview, T], Awaitable[None]],
    cores: trio.CapacityLimiter,
) -> None:
    """Do ``work`` with every piece in worker threads, each with a buffer, and ``then`` after it.

    ``then`` runs on trio's thread before the buffer is used again; pieces finish in any order.
    The first error ends it all and is raised alone.
    """
    source = iter(todo)
    errors: list[BaseException] = []

    async def worker() -> None:
        buffer = make_buffer(0)
        try:
            for piece in source:
                if len(buffer) < piece.size:
                    buffer = make_buffer(max(piece.size, min(PIECE, 2 * len(buffer))))
                result = await trio.to_thread.run_sync(work, piece, buffer, limiter=cores)
                await then(piece, buffer, result)
        except Exception as exc:  # whatever it was: raised below, without the nursery's group
            errors.append(exc)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(int(cores.total_tokens)):
            nursery.start_soon(worker)
    if errors:
        raise errors[0]


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from ``offset`` of the file and return how many bytes there were."""
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


async def hash_leaves(
    fd: int,
    sizes: Iterable[int],
    hash: Hash,
    cores: trio.CapacityLimiter,
    *,
    copy_to: int | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Hash each leaf of a file, and copy the bytes to ``copy_to`` meanwhile if that is given.

    Returns the digests, one after the other. Raises ``SourceChanged`` when the file is shorter than
    ``sizes`` say, ``OSError`` unmapped.
    """
    results: dict[int, bytes] = {}

    def work(piece: Piece, buffer: memoryview) -> bytes:
        digests = []
        for part in piece.parts():
            data = buffer[: part.size]
            if read_into(fd, data, part.offset) != len(data):
                raise SourceChanged("A file became shorter while it was read.")
            if copy_to is not None:
                durable.write_at(copy_to, data, part.offset)
            digests += [hash.digest(leaf) for _, _, leaf in part.leaves(data)]
        return b"".join(digests)

    async def then(piece: Piece, buffer: memoryview, digests: bytes) -> None:
        results[piece.first] = digests
        if progress is not None:
            progress(piece.size)

    await each_piece(pieces(sizes), work, then, cores)
    return b"".join([results[first] for first in sorted(results)])


@dataclass(frozen=True, slots=True)
class Checked:
    """Which bytes of a file are as its Outline says, and the indexes of the leaves that aren't."""

    good: RangeSet
    bad: list[int]


async def check_leaves(
    fd: int,
    outline: Outline,
    cores: trio.CapacityLimiter,
    *,
    leaves: Iterable[range] | None = None,
    progress: Progress | None = None,
) -> Checked:
    """Hash the leaves that lie in a file (all of them by default) and compare with its Outline.

    A leaf that is cut short, or that the disk can't read any more, is bad.
    """
    checked = Checked(RangeSet(), [])

    def work(piece: Piece, buffer: memoryview) -> list[int]:
        return [
            index
            for part in piece.parts()
            for index, data in _read_leaves(fd, part, buffer)
            if data is None or not outline.verify(index, data)
        ]

    async def then(piece: Piece, buffer: memoryview, bad: list[int]) -> None:
        checked.good.add(piece.offset, piece.offset + piece.size)
        for index in bad:
            leaf = outline.leaf(index)
            checked.good.remove(leaf.offset, leaf.offset + leaf.size)
        checked.bad.extend(bad)
        if progress is not None:
            progress(piece.size)

    todo = outline_pieces(outline, [range(len(outline))] if leaves is None else leaves)
    await each_piece(todo, work, then, cores)
    checked.bad.sort()
    return checked


def _read_leaves(
    fd: int, piece: Piece, buffer: memoryview
) -> Iterator[tuple[int, memoryview | None]]:
    """Read a piece at once, or leaf by leaf where the disk fails; None is not there."""
    whole = buffer[: piece.size]
    try:
        there = read_into(fd, whole, piece.offset)
    except OSError:
        for index, offset, data in piece.leaves(whole):
            try:
                complete = read_into(fd, data, offset) == len(data)
            except OSError:
                complete = False
            yield index, data if complete else None
        return
    end = piece.offset + there
    for index, offset, data in piece.leaves(whole):
        yield index, data if offset + len(data) <= end else None


def data_leaves(fd: int, outline: Outline) -> list[range]:
    """Return the leaves that lie wholly or partly in written parts of a file, not in its holes."""
    found: list[range] = []
    offset, end = 0, outline.size
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole from here on
            break
        if start >= end:
            break
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        leaves = outline.leaves_in(start, stop)
        if found and leaves.start < found[-1].stop:
            leaves = range(found[-1].stop, max(leaves.stop, found[-1].stop))
        if leaves:
            found.append(leaves)
        offset = max(stop, start + 1)
    return found
