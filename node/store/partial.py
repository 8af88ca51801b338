"""A file that is being put together from leaves that come in any order.

The bytes on disk are their own journal: nothing is written that was not verified, and whoever opens
a partial file again hashes what lies there and believes the leaves that are right.
A torn write, a cut of the power or a stranger's edit can so cost a leaf, never more.

Nothing of it is served before that check, and it becomes a whole file only by ``commit``.
"""

import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial as bind
from pathlib import Path
from typing import Final

import trio

from node.store import durable
from node.store.damage import allocated
from node.store.hashing import Piece, Progress, check_leaves, data_leaves, outline_pieces
from node.store.reuse import copy_leaves, local_leaves
from node.store.shelf import Shelf, Staged
from p2p.cid import CID, Buffer
from p2p.dag import Outline
from p2p.errors import BadBytes, DiskFull, StoreError, VerificationFailed
from p2p.ranges import RangeSet

WINDOW: Final = 16 << 20
"""Bytes after which the disk is told to begin: else it idles through a fetch, and all of the file
waits for the ``fsync`` at its end."""


class Gate:
    """Counts threads that write to a file; once it is shut none comes in any more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._shut = False

    def enter(self) -> bool:
        """Come in, unless the gate is shut; whoever came in must ``leave``."""
        with self._changed:
            self._inside += not self._shut
            return not self._shut

    def leave(self) -> None:
        """Go out again."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def set_shut(self, shut: bool) -> None:
        """Shut or open the gate."""
        with self._changed:
            self._shut = shut

    async def wait_empty(self) -> None:
        """Return when nobody is inside: a thread is so only while it writes some MiB."""

        def wait() -> None:
            with self._changed:
                self._changed.wait_for(lambda: not self._inside)

        if self._inside:
            await trio.to_thread.run_sync(wait)


class Partial:
    """A file being put together: ``have`` are the bytes that are verified and written."""

    def __init__(self, shelf: Shelf, outline: Outline, fd: int) -> None:
        self.outline = outline
        self.have = RangeSet()
        self.path = shelf.layout.partial(outline.root)
        self.committed = False
        self._shelf = shelf
        self._fd = fd
        self._gate = Gate()
        self._writers = 0
        self._quiet = trio.Event()  # replaced whenever a commit waits for the writers
        self._growth = trio.Event()

    @property
    def missing(self) -> RangeSet:
        """The bytes that are still to come."""
        return self.have.missing(0, self.outline.size)

    async def accept(self, first_leaf: int, data: Buffer) -> int:
        """Write whole leaves, from ``first_leaf`` on; return how many bytes were new.

        Each leaf is verified before it is written. At the first bad one ``BadBytes`` names it: what
        came before it is kept, what comes after it is not looked at.
        """
        view = memoryview(data).cast("B")
        leaves = range(first_leaf, self._leaf_after(first_leaf, len(view)))
        new = 0
        for piece in outline_pieces(self.outline, [leaves]):
            new += await self._accept(piece, view[: piece.size])
            view = view[piece.size :]
        return new

    def write_leaves(self, first_leaf: int, data: memoryview) -> tuple[int, int | None]:
        """Verify and write whole leaves, at once and in whatever thread this is.

        Returns the index after the last good leaf, and the index of a bad one if there is one.
        Trio's thread must then be told by ``note_leaves``: until that they are not ``have``.
        StoreError when the disk says no. Nothing is written any more once the file is whole.
        """
        outline, done, written = self.outline, first_leaf, 0
        bad: int | None = None
        while written < len(data):
            start, stop = outline.span(done, done + 1)
            if not outline.verify(done, data[written : written + stop - start]):
                bad = done
                break
            done, written = done + 1, written + stop - start
        if done > first_leaf and self._gate.enter():
            try:
                with durable.disk_errors("write to a partial file"):
                    start, _ = outline.span(first_leaf, done)
                    durable.write_at(self._fd, data[:written], start)
                    window = (start + written) // WINDOW
                    if start // WINDOW < window:
                        durable.begin_write_back(self._fd, (window - 1) * WINDOW, WINDOW)
            finally:
                self._gate.leave()
        return done, bad

    def note_leaves(self, first: int, stop: int) -> int:
        """Count leaves that ``write_leaves`` wrote; return how many bytes were new."""
        return self._note(RangeSet([self.outline.span(first, stop)]))

    def _leaf_after(self, first: int, size: int) -> int:
        """Return the index after the last leaf of ``size`` bytes that begin with leaf ``first``."""
        if 0 <= first < len(self.outline):
            start, _ = self.outline.span(first, first + 1)
            leaves = self.outline.leaves_in(start, start + size)
            if size and start + size <= self.outline.size:
                if self.outline.span(first, leaves.stop)[1] == start + size:
                    return leaves.stop
            elif not size and not self.outline.size:
                return first
        raise BadBytes(
            f"{size:,} bytes came from leaf {first} of {self.outline.root} on: "
            f"those are no whole leaves of this file, which has {len(self.outline)}."
        )

    async def _accept(self, piece: Piece, data: memoryview) -> int:
        wanted = [
            (index, start, leaf)
            for index, start, leaf in piece.leaves(data)
            if not self.have.covers(start, start + len(leaf))
        ]
        if self.committed or not wanted:
            return 0

        def work() -> tuple[RangeSet, int | None]:
            good, bad = RangeSet(), None
            for index, start, leaf in wanted:
                if not self.outline.verify(index, leaf):
                    bad = index
                    break
                good.add(start, start + len(leaf))
            for start, stop in good:
                durable.write_at(self._fd, data[start - piece.offset : stop - piece.offset], start)
            return good, bad

        with self._writing():
            good, bad = await durable.on_disk(
                "write to a partial file", work, limiter=self._shelf.cores
            )
        fresh = self._note(good)
        if bad is not None:
            start, _ = self.outline.span(bad, bad + 1)
            raise BadBytes(
                f"Leaf {bad} of {self.outline.root}, at byte {start:,}, came with wrong bytes."
            )
        return fresh

    def _note(self, good: RangeSet) -> int:
        """Add to ``have``; return how many bytes are new, for another source may be faster."""
        fresh = good.subtract(self.have).size
        self.have.update(good)
        self.grown()
        return fresh

    @property
    def growth(self) -> trio.Event:
        """What is set when more has come, or the file is whole or closed; take it, then look."""
        return self._growth

    def grown(self) -> None:
        """Wake those who wait for more of the file."""
        self._growth.set()
        self._growth = trio.Event()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Let a commit, and whoever closes the file, wait until this ends."""
        self._writers += 1
        try:
            yield
        finally:
            self._writers -= 1
            if not self._writers:
                self._quiet.set()

    async def quiet(self) -> None:
        """Return when nobody writes."""
        while self._writers:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def reuse(self, progress: Progress | None = None) -> int:
        """Copy the leaves that other files of this store hold; return how many bytes that were."""
        copied = 0

        def done(good: RangeSet) -> None:
            nonlocal copied
            fresh = self._note(good)
            copied += fresh
            if progress is not None:
                progress(fresh)

        if not self.committed:
            found = await local_leaves(self._shelf, self.outline, self.missing)
            with self._writing():
                await copy_leaves(self._shelf, self.outline, self._fd, found, done)
        return copied

    async def commit(self) -> None:
        """Make this a whole file of the store; when it returns, the file survives a power cut."""
        if self.committed:
            return
        missing = self.missing
        if missing:
            raise StoreError(
                f"{missing.size:,} of {self.outline.size:,} bytes of {self.outline.root} "
                "are still missing: it cannot be a whole file yet."
            )
        self.committed = True  # from here on nothing more is written
        self._gate.set_shut(True)
        with trio.CancelScope(shield=True):
            await self.quiet()
            await self._gate.wait_empty()
            try:
                await self._shelf.keep([Staged(self.path, self.outline, self.outline.size)])
            except BaseException:
                self.committed = False
                self._gate.set_shut(False)
                raise
            finally:
                self.grown()

    async def close(self) -> None:
        """Close the file when nobody writes any more."""
        self._gate.set_shut(True)
        await self.quiet()
        await self._gate.wait_empty()
        os.close(self._fd)


class Partials:
    """The partial files: at most one writer for each."""

    def __init__(self, shelf: Shelf, reserve: int) -> None:
        self._shelf = shelf
        self._reserve = reserve
        # Semaphores, not locks: whoever opened a file may have another task close it.
        self._turns: dict[CID, trio.Semaphore] = {}
        self._users: Counter[CID] = Counter()
        self.open: dict[CID, Partial] = {}  # those whose bytes have been checked
        self.opening = trio.Event()  # set, and replaced, whenever one comes

    def busy(self) -> set[CID]:
        """Return the files that somebody writes, or is about to."""
        return set(self._users)

    @asynccontextmanager
    async def writing(self, outline: Outline) -> AsyncIterator[Partial]:
        """Open the partial file of ``outline``; wait while somebody else writes it.

        For a file that is whole already it gives a partial file that misses nothing.
        """
        cid = outline.root
        async with self._shelf.changing:  # not while garbage is collected
            turn = self._turns.setdefault(cid, trio.Semaphore(1))
        self._users[cid] += 1
        try:
            async with turn:
                if await self._shelf.good(cid) is not None:
                    self._shelf.freshen(cid)
                    done = Partial(self._shelf, outline, -1)
                    done.have.add(0, outline.size)
                    done.committed = True
                    yield done
                    return
                async with self._file(outline) as partial:
                    yield partial
        finally:
            self._users[cid] -= 1
            if not self._users[cid]:
                del self._users[cid], self._turns[cid]

    @asynccontextmanager
    async def _file(self, outline: Outline) -> AsyncIterator[Partial]:
        shelf, cid = self._shelf, outline.root
        if not outline.size and not outline.verify(0, b""):
            raise VerificationFailed(f"The file {cid} is not empty, as it was said to be.")
        path = shelf.layout.partial(cid)
        await self._check_room(outline, path)
        await shelf.outlines.put([outline])
        shelf.ledger.resume(cid, outline.size)
        partial: Partial | None = None
        try:
            fd = await durable.on_disk("open a partial file", bind(_open, path, outline.size))
            partial = Partial(shelf, outline, fd)
            with durable.disk_errors("read a partial file"):
                leaves = await trio.to_thread.run_sync(data_leaves, fd, outline)
                checked = await check_leaves(fd, outline, shelf.cores, leaves=leaves)
            partial.have.update(checked.good)
            self.open[cid] = partial
            self.opening.set()
            self.opening = trio.Event()
            yield partial
        finally:
            self.open.pop(cid, None)
            with trio.CancelScope(shield=True):
                await self._close(outline, path, partial)
            if partial is not None:
                partial.grown()

    async def _close(self, outline: Outline, path: Path, partial: Partial | None) -> None:
        there = 0
        try:
            if partial is not None:
                await partial.close()
            if partial is None or not partial.committed:
                empty = partial is not None and not partial.have
                there = await durable.on_disk("look at a file", bind(_leave, path, empty))
        finally:
            if partial is None or not partial.committed:
                self._shelf.ledger.rest(outline.root, outline.size, there)

    async def _check_room(self, outline: Outline, path: Path) -> None:
        """Raise ``DiskFull`` if the rest of the file would leave less free than must stay free."""

        def free() -> tuple[int, int]:
            stat = os.statvfs(self._shelf.layout.temp)
            return stat.f_bavail * stat.f_frsize, allocated(path)

        available, there = await durable.on_disk("look at the disk", free)
        promised = sum(other.missing.size for other in self.open.values())
        needed = max(0, outline.size - there)
        if available - promised - self._reserve < needed:
            raise DiskFull(
                f"{needed:,} bytes more don't fit: {available:,} are free on this disk, of which "
                f"{promised:,} are promised to other files and {self._reserve:,} stay free.",
                next="Free some room on this disk, or let `allod gc` delete what nobody pinned.",
            )


def _open(path: Path, size: int) -> int:
    """Open a partial file for writing and give it its size."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        fd = durable.create(path)
    else:
        if stat.st_nlink > 1:
            # A commit that a crash cut short left two names for one file: the other is the blob,
            # and that is never written to.
            durable.unlink(path)
            fd = durable.create(path)
        else:
            os.chmod(path, 0o644)  # that commit may have come as far as sealing it
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        durable.truncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _leave(path: Path, empty: bool) -> int:
    """Delete a partial file that holds nothing; return how many bytes of disk it takes."""
    if empty:
        durable.unlink(path)
    return allocated(path)
