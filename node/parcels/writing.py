"""The bytes of a parcel, from the store into a file.

They go through one buffer of some MiB, however large the files are, and each leaf is hashed once
more on its way: a parcel that its reader would refuse is never finished.
"""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Final

import trio

from node.store import Store, durable
from p2p import parcel
from p2p.buffers import make_buffer
from p2p.cid import CID
from p2p.dag import Outline
from p2p.directory import TreeFile, build_tree
from p2p.errors import StoreError, VerificationFailed
from p2p.manifest import Manifest, parse_manifest

PIECE: Final = 8 << 20
"""Bytes that are read and written at once."""
_BUFFER: Final = 1 << 20  # bytes of small things that are written at once
_WRITE: Final = "write the bundle"


@asynccontextmanager
async def open_writer(
    path: Path, store: Store, count: Callable[[int], None]
) -> AsyncIterator["Writer"]:
    """Make a file, which must not be there; ``count`` hears of bytes of files that are done."""
    stream = await durable.on_disk(_WRITE, lambda: path.open("xb", buffering=_BUFFER))
    try:
        yield Writer(stream, store, count)
    finally:
        with trio.CancelScope(shield=True), suppress(OSError):  # what failed was told before
            await trio.to_thread.run_sync(stream.close)


class Writer:
    """Writes the statements, then the files of one release after the other."""

    def __init__(self, stream: IO[bytes], store: Store, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._store = store
        self._count = count
        self._told = parcel.Told()
        self._buffer = make_buffer(PIECE)

    async def statements(self, index: bytes, said: Sequence[bytes]) -> None:
        """Begin: the header, the index, every statement."""

        def work() -> None:
            self._stream.write(parcel.opening(index))
            for data in said:
                item = parcel.Item.of(data)
                self._stream.write(parcel.frame(item.cid, item.size))
                self._stream.write(data)

        await durable.on_disk(_WRITE, work)

    async def release(self, manifest: Manifest) -> None:
        """Write the folders and files of a release that is here whole."""
        if manifest.listing is not None:
            known = await self._store.manifest(manifest.cid)
            if known is None or known[2] is None:
                raise _lost(f"The list of files of {manifest.name}")
            manifest = await trio.to_thread.run_sync(parse_manifest, manifest.payload, known[2])
            assert manifest.listing is not None
            outline = await self._outline(manifest.listing.cid, "The list of files")
            await self._file(outline, "the list of files", [range(len(outline))], _uncounted)
        await durable.on_disk(_WRITE, partial(self._folders, manifest))
        for file in manifest.files:
            if self._told.knows(file.cid):
                self._count(file.size)
                continue
            outline = await self._outline(file.cid, file.path)
            coming = await trio.to_thread.run_sync(self._told.fresh, outline)
            await self._file(outline, file.path, [range(*run) for run in coming], self._count)
            self._told.add(outline)
            spans = (outline.span(*run) for run in coming)
            self._count(file.size - sum(stop - start for start, stop in spans))

    async def finish(self) -> int:
        """Wait until all of it is on disk; return how many bytes that are."""

        def work() -> int:
            self._stream.flush()
            durable.sync_file(self._stream.fileno())
            return self._stream.tell()

        return await durable.on_disk(_WRITE, work)

    def _folders(self, manifest: Manifest) -> None:
        tree = build_tree(
            (TreeFile(file.path, file.cid, file.dag_size) for file in manifest.files),
            manifest.profile.hash,
        )
        for cid, block in parcel.folder_blocks(tree.root, tree.blocks):
            self._stream.write(parcel.frame(cid, len(block)) + block)

    async def _outline(self, cid: CID, path: str) -> Outline:
        held = await self._store.held(cid)
        if held is None or not held.have.covers(0, held.size):
            raise _lost(path)
        return held.outline

    async def _file(
        self, outline: Outline, path: str, runs: list[range], count: Callable[[int], None]
    ) -> None:
        held = await self._store.held(outline.root)
        if held is None:
            raise _lost(path)
        blob = held.path

        def nodes() -> IO[bytes]:
            for cid, block in outline.blocks():
                self._stream.write(parcel.frame(cid, len(block)) + block)
            return blob.open("rb", buffering=0)

        with await durable.on_disk(_WRITE, nodes) as source:
            for piece in _pieces(outline, runs):
                copy = partial(self._copy, source, outline, piece, path)
                count(await durable.on_disk(_WRITE, copy))

    def _copy(self, source: IO[bytes], outline: Outline, piece: range, path: str) -> int:
        """Read some leaves, check them, write them each with its name before it."""
        start, stop = outline.span(piece.start, piece.stop)
        data = self._buffer[: stop - start]
        filled = 0
        while filled < len(data):
            got = os.preadv(source.fileno(), [data[filled:]], start + filled)
            if not got:
                break
            filled += got
        for index in piece:
            at, end = outline.span(index, index + 1)
            leaf = data[at - start : min(end - start, filled)]
            if not outline.verify(index, leaf):
                raise VerificationFailed(
                    f"Leaf {index} of {path} is damaged in this store.",
                    next="`allod verify` finds what else is, and `allod fetch` repairs it.",
                )
            self._stream.write(parcel.leaf_frame(outline, index))
            self._stream.write(leaf)
        return len(data)


def _uncounted(size: int) -> None:
    """The list of files is no part of a release's size."""


def _pieces(outline: Outline, runs: list[range]) -> list[range]:
    """Cut runs of leaves into pieces of at most PIECE bytes."""
    pieces = []
    for run in runs:
        first = run.start
        for index in run:
            if outline.span(first, index + 1)[1] - outline.span(first, first + 1)[0] > PIECE:
                pieces.append(range(first, index))
                first = index
        pieces.append(range(first, run.stop))
    return pieces


def _lost(what: str) -> StoreError:
    return StoreError(
        f"{what} is no longer in this store.", next="Fetch the release again, then export it."
    )
