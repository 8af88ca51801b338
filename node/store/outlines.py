"""The Outlines of files, on disk and in memory.

A file of one leaf needs none on disk: its CID and its size say it all.
What is read back is decoded from the file's CID down, so a damaged Outline is never believed; it
can be made again from a whole file, because the profiles are few.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from node.store import durable
from node.store.file_rows import FileRows
from node.store.hashing import hash_leaves
from node.store.layout import Layout, temporary
from p2p.chunking import LeafSizes, Profile, leaf_sizes
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.errors import VerificationFailed

CACHED_LEAVES: Final = 1 << 20
"""Leaves of all Outlines that are kept in memory: 40 MB; a terabyte of files served at once."""

# A file is cut by what its first bytes say, and by its name where they leave doubt.
_NAMES: Final = ("x.safetensors", "x.gguf", "x")


class Outlines:
    """Reads and writes Outlines, and remembers those lately used."""

    def __init__(self, layout: Layout, rows: FileRows) -> None:
        self._layout = layout
        self._rows = rows
        self._cache: OrderedDict[CID, Outline] = OrderedDict()
        self._cached_leaves = 0

    async def get(self, cid: CID) -> Outline | None:
        """Return the Outline of a file that has more than one leaf, if it is on disk and sound."""
        cached = self._cache.get(cid)
        if cached is not None:
            self._cache.move_to_end(cid)
            return cached
        path = self._layout.outline(cid)
        try:
            outline = await durable.on_disk("read an Outline", lambda: _read(path, cid))
        except VerificationFailed:
            await durable.on_disk("delete a damaged Outline", lambda: durable.unlink(path))
            await self._rows.forget_outlines([cid])
            return None
        if outline is not None:
            self.remember(outline)
        return outline

    def remember(self, outline: Outline) -> None:
        """Keep an Outline in memory for a while."""
        if outline.root not in self._cache and len(outline) > 1:
            self._cache[outline.root] = outline
            self._cached_leaves += len(outline)
            while self._cached_leaves > CACHED_LEAVES and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._cached_leaves -= len(old)

    async def unwritten(self, outlines: Iterable[Outline]) -> list[Outline]:
        """Return those that a disk should hold and that are not safe on this one yet."""
        wanted = {item.root: item for item in outlines if item.root.codec is Codec.DAG_PB}
        if wanted:
            for known in await self._rows.outlines(wanted.keys()):
                del wanted[known]
        return list(wanted.values())

    async def put(self, outlines: Sequence[Outline]) -> None:
        """Return when these Outlines are safe on disk and known to the index."""
        new = await self.unwritten(outlines)
        if not new:
            return

        def work() -> None:
            written = write_outlines(self._layout, new)
            try:
                durable.sync_files([temp for temp, _ in written], self._layout.temp)
                move(written, self._layout.temp)
            finally:
                discard(temp for temp, _ in written)

        with trio.CancelScope(shield=True):
            await durable.on_disk("keep an Outline", work)
            await self.written(new)

    async def written(self, outlines: Sequence[Outline]) -> None:
        """Tell the index of Outlines that are safe on disk."""
        nodes = await trio.to_thread.run_sync(
            lambda: [(item.root, [cid for cid, _ in item.blocks()]) for item in outlines]
        )
        await self._rows.put_outlines(nodes)

    async def forget(self, roots: Sequence[CID]) -> None:
        """Delete Outlines."""
        await self._rows.forget_outlines(roots)
        for root in roots:
            gone = self._cache.pop(root, None)
            self._cached_leaves -= len(gone) if gone is not None else 0

        def work() -> None:
            for root in roots:
                durable.unlink(self._layout.outline(root))

        await durable.on_disk("delete Outlines", work)

    async def recover(self, cid: CID, cores: trio.CapacityLimiter) -> Outline | None:
        """Make the Outline of a whole file again; None if no profile gives ``cid``."""
        fd = await durable.on_disk(
            "open a file", lambda: os.open(self._layout.blob(cid), os.O_RDONLY | os.O_CLOEXEC)
        )
        try:
            for sizes in await trio.to_thread.run_sync(lambda: _possible_cuts(fd, cid)):
                with durable.disk_errors("read a file"):
                    digests = await hash_leaves(fd, sizes, cid.hash, cores)
                outline = Outline.build(sizes, digests, cid.hash)
                if outline.root == cid:
                    await self.put([outline])
                    return outline
        finally:
            os.close(fd)
        return None


def write_outlines(layout: Layout, outlines: Iterable[Outline]) -> list[tuple[Path, Path]]:
    """Write Outlines under temporary names; return those and the names that they shall have."""
    written = []
    for outline in outlines:
        temp = temporary(layout.temp)
        fd = durable.create(temp)
        try:
            durable.write_at(fd, outline.encode(), 0)
        finally:
            os.close(fd)
        written.append((temp, layout.outline(outline.root)))
    return written


def move(moves: Sequence[tuple[Path, Path]], disk: Path) -> None:
    """Give files, whose bytes are safe, their final names, and return when the names are safe.

    The folders in which the names will be are made where they miss. That a folder is there already
    doesn't mean that its own name is safe: so the one above it is synced whenever it is used.
    """
    folders = {target.parent for _, target in moves}
    for folder in sorted(folders):
        durable.make_folder(folder)
    for temp, target in moves:
        durable.rename(temp, target)
    durable.sync_folders(folders | {folder.parent for folder in folders}, disk)


def discard(temps: Iterable[Path]) -> None:
    """Take away temporary names, those that are left: a tidying that may fail."""
    for temp in temps:
        with suppress(OSError):
            durable.unlink(temp)


def _read(path: Path, cid: CID) -> Outline | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return Outline.decode(cid, data)


def _possible_cuts(fd: int, cid: CID) -> list[LeafSizes]:
    """Return every way in which our profiles could have cut a file, each once."""
    size = os.fstat(fd).st_size
    cuts: dict[tuple[int, ...], LeafSizes] = {}
    for profile in Profile:
        if profile.hash is cid.hash:
            for name in _NAMES:
                sizes = leaf_sizes(profile, name, lambda at, n: os.pread(fd, n, at), size)
                cuts.setdefault(tuple(sizes), sizes)
    return list(cuts.values())
