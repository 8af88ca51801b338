"""The whole files of the store: what is there, whether it is still good, and how it gets there.

A file is held when its row is in the index, and the row is written last.
Before a file is served or counted on, its facts (facts.py) are compared with those in the row;
where they differ, or the row has none, the file is hashed again, and what fails is set aside.

One lock, ``changing``, is held for every change to what is held, recorded or deleted; nothing long
happens under it. So garbage collection never races with somebody who just found a file present.
"""

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node.store import durable
from node.store.facts import Facts
from node.store.file_rows import FileRow, FileRows
from node.store.hashing import Checked, Progress, check_leaves
from node.store.layout import Layout
from node.store.outlines import Outlines, discard, move, write_outlines
from node.store.retention import Ledger
from p2p.chunking import LEAF_SIZE
from p2p.cid import CID, Codec
from p2p.dag import Outline

CACHED_ROWS: Final = 1 << 16  # rows in memory, 20 MB: asking the index costs 0.2 ms
FRESH: Final = 24 * 3600.0
"""Seconds for which a file that was just added is no garbage though no release names it yet."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A file whose verified bytes lie under a temporary name, ready to be kept.

    ``charged``: bytes that were reserved for it. ``facts``: those at the time when it was hashed,
    for a file that others can write too.
    """

    temp: Path
    outline: Outline
    charged: int
    shared: bool = False
    facts: Facts | None = None


class Shelf:
    """The whole files, and everything that all parts of the store share."""

    def __init__(
        self, layout: Layout, rows: FileRows, ledger: Ledger, cores: trio.CapacityLimiter
    ) -> None:
        self.layout = layout
        self.rows = rows
        self.ledger = ledger
        self.cores = cores
        self.outlines = Outlines(layout, rows)
        self.changing = trio.Lock()
        self.damaged: Callable[[FileRow, Outline, Checked], Awaitable[None]]  # set by the store
        self.gone: list[Callable[[Sequence[CID]], None]] = []
        self._rehashing = trio.Lock()
        self._cache: dict[CID, FileRow] = {}
        self._fresh: dict[CID, float] = {}
        self._used: Counter[CID] = Counter()

    # --- what is there ---------------------------------------------------------------------------

    async def row(self, cid: CID) -> FileRow | None:
        """Return the row of a file, whether or not the file is still as it says."""
        row = self._cache.get(cid)
        if row is None:
            row = (await self.rows.files([cid])).get(cid)
            if row is not None:
                self._remember(row)
        return row

    async def good(self, cid: CID) -> FileRow | None:
        """Return the row of a file that is here and believed good; hash it again if in doubt."""
        row = await self.row(cid)
        if row is None:
            row = await self._adopt(cid)
        if row is None or self._unchanged(row):
            return row
        async with self._rehashing:
            row = await self.row(cid)
            if row is None or self._unchanged(row):
                return row
            await self._audit(row)
            return await self.row(cid)

    async def good_many(self, cids: Collection[CID]) -> set[CID]:
        """Return those of ``cids`` that are here and believed good."""
        return set(await self.good_rows(cids))

    async def good_rows(self, cids: Collection[CID]) -> dict[CID, FileRow]:
        """Return their rows, too; the facts in one may have been renewed since it was read."""
        rows = await self.rows.files(cids)

        def doubtful() -> list[CID]:
            return [cid for cid, row in rows.items() if not self._unchanged(row)]

        doubts = await durable.on_disk("look at its files", doubtful)
        gone = {cid for cid in doubts if await self.good(cid) is None}
        return {cid: row for cid, row in rows.items() if cid not in gone}

    async def outline(self, cid: CID) -> Outline | None:
        """Return the Outline of a file: from disk, or from the row of a file of one leaf."""
        if cid.codec is Codec.RAW:
            row = await self.row(cid)
            return Outline.single(cid, row.size) if row is not None else None
        outline = await self.outlines.get(cid)
        if outline is None and await self.row(cid) is not None:
            outline = await self.outlines.recover(cid, self.cores)
        return outline

    async def audit(self, row: FileRow, progress: Progress | None = None) -> Checked | None:
        """Hash a whole file; if it is good, renew its facts, else see that it is set aside.

        Returns None when the file is not there any more, or nobody knows what it should be.
        """
        async with self._rehashing:
            return await self._audit(row, progress)

    async def _audit(self, row: FileRow, progress: Progress | None = None) -> Checked | None:
        path = self.layout.blob(row.cid)
        outline = await self.outline(row.cid)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = -1
        if fd < 0 or outline is None:
            if fd >= 0:
                os.close(fd)
            async with self.changing:
                await self.forget([row])
            return None
        try:
            with durable.disk_errors("read a file"):
                before = Facts.of(os.fstat(fd))
                checked = await check_leaves(fd, outline, self.cores, progress=progress)
                after = Facts.of(os.fstat(fd))
                if not checked.bad and before == after and after.size == outline.size:
                    await self._confirm(row, after, fd, path)
                    return checked
        finally:
            os.close(fd)
        await self.damaged(row, outline, checked)
        return checked

    async def _adopt(self, cid: CID) -> FileRow | None:
        """Enter a file that lies in its place without a row: its row could not be written then.

        It gets no facts, so it will be hashed before anybody relies on it.
        """
        path = self.layout.blob(cid)
        if not path.exists():
            return None
        outline = await self.outlines.get(cid) if cid.codec is not Codec.RAW else None
        async with self.changing:
            row = await self.row(cid)
            if row is not None:
                return row
            try:
                stat = os.stat(path)
            except FileNotFoundError:
                return None
            if cid.codec is Codec.RAW and stat.st_size <= LEAF_SIZE:
                outline = Outline.single(cid, stat.st_size)
            if outline is None:
                return None
            shared = stat.st_nlink > 1
            row = FileRow(cid, outline.size, 0 if shared else outline.size, shared, None)
            with trio.CancelScope(shield=True):
                await self.rows.put_files([(row, outline)])
                self.ledger.enter(row.charged)
                self._remember(row)
            self.freshen(cid)
            return row

    async def _confirm(self, row: FileRow, facts: Facts, fd: int, path: Path) -> None:
        """A file was hashed and is good: remember what it looks like now."""
        if facts == row.facts:
            return
        if row.facts is None:
            # It may have been found lying there after a crash: make sure that it stays.
            await durable.on_disk("keep a file", lambda: _make_safe(fd, path))
        settled = not row.shared or facts.settled(time.time_ns())
        await self._set_facts(row, facts if settled else None)

    # --- changes ---------------------------------------------------------------------------------

    async def claim(self, cids: Collection[CID]) -> set[CID]:
        """Return those of ``cids`` that are here and good; ``gc`` spares them for a while."""
        good = await self.good_many(cids)
        async with self.changing:
            good &= (await self.rows.files(good)).keys()
            for cid in good:
                self.freshen(cid)
        return good

    async def keep(self, staged: Sequence[Staged]) -> set[CID]:
        """Make files part of the store; when this returns, they survive a power cut.

        Returns those that turned out to be here already: they are dropped, and give back what was
        reserved for them. Once begun it can't be cancelled. If it fails, reservations and temporary
        names are still the caller's.
        """
        async with self.changing:
            with trio.CancelScope(shield=True):
                present = await self.rows.files([item.outline.root for item in staged])
                new = {item.outline.root: item for item in staged}
                todo = [item for cid, item in new.items() if cid not in present]
                if todo:
                    with self.rows.trailing():
                        await self._keep(todo)
                for item in staged:
                    cid = item.outline.root
                    self.freshen(cid)
                    if cid in present or new[cid] is not item:
                        self.ledger.cancel(item.charged)
                        discard([item.temp])
        return set(present)

    async def _keep(self, todo: Sequence[Staged]) -> None:
        outlines = await self.outlines.unwritten(item.outline for item in todo)
        facts = await durable.on_disk("keep files", lambda: self._place(todo, outlines))
        await self.outlines.written(outlines)
        rows = [
            FileRow(item.outline.root, item.outline.size, item.charged, item.shared, fact)
            for item, fact in zip(todo, facts, strict=True)
        ]
        await self.rows.put_files((row, item.outline) for row, item in zip(rows, todo, strict=True))
        self.ledger.keep(sum(item.charged for item in todo))
        for row, item in zip(rows, todo, strict=True):
            self._remember(row)
            self.outlines.remember(item.outline)

    def _place(self, todo: Sequence[Staged], outlines: Sequence[Outline]) -> list[Facts | None]:
        """Sync, rename, sync; in that order, for all of them at once."""
        written = write_outlines(self.layout, outlines)
        try:
            temps = [item.temp for item in todo]
            for item in todo:
                if not item.shared:
                    durable.seal(item.temp)
            durable.sync_files(temps + [temp for temp, _ in written], self.layout.temp)
            blobs = [(item.temp, self.layout.blob(item.outline.root)) for item in todo]
            move(written + blobs, self.layout.temp)
        finally:
            discard(temp for temp, _ in written)
        now = time.time_ns()
        facts: list[Facts | None] = []
        for item, (temp, blob) in zip(todo, blobs, strict=True):
            discard([temp])  # it is still there if both were names of one file already
            if not item.shared:
                facts.append(Facts.of(os.stat(blob)))
            else:
                facts.append(item.facts if item.facts and item.facts.settled(now) else None)
        return facts

    async def forget(self, rows: Collection[FileRow]) -> None:
        """These files are not held any more, whether or not anything still lies there."""
        with trio.CancelScope(shield=True):
            await self.rows.forget_files([row.cid for row in rows])
            for row in rows:
                self._cache.pop(row.cid, None)
                self.ledger.drop(row.charged)
            self.tell_gone([row.cid for row in rows])

    def tell_gone(self, cids: Sequence[CID]) -> None:
        """Say that these are not held any more, as a release, a folder or a whole file."""
        if cids:
            for tell in self.gone:
                tell(cids)

    async def _set_facts(self, row: FileRow, facts: Facts | None) -> None:
        if await self.row(row.cid) is not None:
            await self.rows.set_facts(row.cid, facts)
            self._remember(FileRow(row.cid, row.size, row.charged, row.shared, facts))

    # --- what is in use --------------------------------------------------------------------------

    def freshen(self, cid: CID) -> None:
        """Somebody just added this file, or found it here: it is no garbage for a while."""
        self._fresh[cid] = trio.current_time() + FRESH

    def settle(self, cids: Collection[CID]) -> None:
        """A release names these files now; whether they stay is up to it."""
        for cid in cids:
            self._fresh.pop(cid, None)

    @contextmanager
    def using(self, cid: CID) -> Iterator[None]:
        """Keep a file, or a release and all its files, from garbage collection."""
        self._used[cid] += 1
        try:
            yield
        finally:
            self._used[cid] -= 1
            if not self._used[cid]:
                del self._used[cid]

    def busy(self) -> set[CID]:
        """Return everything that is in use or fresh."""
        now = trio.current_time()
        self._fresh = {cid: end for cid, end in self._fresh.items() if end > now}
        return self._fresh.keys() | self._used.keys()

    async def keep_in(self, room: "Room", staged: Sequence[Staged]) -> set[CID]:
        """Do ``keep``; what was reserved for these files comes out of ``room``."""
        present = await self.keep(staged)
        room.left -= sum(item.charged for item in staged)
        return present

    @contextmanager
    def room(self, amount: int) -> Iterator["Room"]:
        """Reserve bytes for files that are about to be staged; give back what is not used."""
        self.ledger.reserve(amount)
        room = Room(amount)
        try:
            yield room
        finally:
            self.ledger.cancel(room.left)

    # --- memory ----------------------------------------------------------------------------------

    def _remember(self, row: FileRow) -> None:
        if len(self._cache) >= CACHED_ROWS:
            self._cache.clear()
        self._cache[row.cid] = row

    def _unchanged(self, row: FileRow) -> bool:
        """Compare the facts. A stat of a local file takes microseconds, a thread hop fifty."""
        try:
            return (
                row.facts is not None and Facts.of(os.stat(self.layout.blob(row.cid))) == row.facts
            )
        except OSError:
            return False


@dataclass(slots=True)
class Room:
    """A reservation: bytes that no kept file has used yet."""

    left: int


def _make_safe(fd: int, path: Path) -> None:
    durable.sync_file(fd)
    durable.sync_folder(path.parent)
    durable.sync_folder(path.parent.parent)
