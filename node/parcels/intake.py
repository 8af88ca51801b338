"""What comes out of a parcel, into the store: one file at a time.

The reader has hashed every leaf; the store hashes what it writes once more, for that is its rule.
Files of one leaf are kept many together, so that each does not wait for the disk.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import trio

from node.messages import Progress, Report
from node.store import Partial, Store
from p2p import parcel
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.manifest import Manifest

SMALL_FILES: Final = 64
"""Files of one leaf that wait to be kept together: at most 64 MiB."""


@dataclass(slots=True)
class Arrived:
    """A release of the file: what was said of it, and the rest once its files have come."""

    manifest: Manifest
    bundles: tuple[bytes, ...]
    files: bool  # they are in the parcel too, and to be kept
    folders: dict[CID, bytes] = field(default_factory=dict)


class Intake:
    """An async context manager that takes what comes, one file at a time."""

    def __init__(
        self,
        store: Store,
        arrived: dict[CID, Arrived],
        total: int,
        report: Report,
        *,
        keep: bool,
    ) -> None:
        self.read = 0  # bytes of leaves that the file held
        self.new = 0  # bytes that were not here, of whole files or of leaves
        self._store = store
        self._arrived = arrived
        self._total = total
        self._report = report
        self._keep = keep
        self._wanted = True
        self._file: parcel.File | None = None
        self._partial: Partial | None = None
        self._closing = AsyncExitStack()
        self._small: list[tuple[Outline, bytes]] = []
        self._one = b""
        self._here = False

    async def __aenter__(self) -> "Intake":
        return self

    async def __aexit__(self, *exc: object) -> None:
        with trio.CancelScope(shield=True):  # closing a file is short
            await self._closing.aclose()

    async def take(self, event: parcel.Opened) -> None:
        """Take the next thing."""
        match event:
            case parcel.Release():
                one = self._arrived[event.manifest.cid]
                one.manifest, one.folders = event.manifest, dict(event.folders)
                self._wanted = one.files
            case parcel.File():
                await self._begin(event)
            case parcel.Leaves():
                await self._leaves(event)
            case parcel.FileEnd():
                await self._end()
            case _:
                raise AssertionError("statements come once")

    async def _begin(self, file: parcel.File) -> None:
        self._file = file
        keep = self._keep and (self._wanted or not file.path)
        self._here = not keep or await self._store.has(file.outline.root)
        if not self._here and len(file.outline) > 1:
            self._partial = await self._closing.enter_async_context(
                self._store.open_partial(file.outline)
            )

    async def _leaves(self, leaves: parcel.Leaves) -> None:
        self.read += len(leaves.data)
        if self._partial is not None:
            self.new += await self._partial.accept(leaves.first, leaves.data)
        elif not self._here:
            self._one = bytes(leaves.data)
        self._report(Progress("import", done=self.read, total=max(self.read, self._total)))

    async def _end(self) -> None:
        file, partial = self._file, self._partial
        assert file is not None
        self._file = self._partial = None
        if self._here:
            return
        if partial is None:
            self.new += file.outline.size
            await self._end_small(file)
            return
        if partial.missing:  # leaves that came with an earlier file
            await self._keep_small()
            self.new += await partial.reuse()
        await partial.commit()
        await self._closing.aclose()

    async def _end_small(self, file: parcel.File) -> None:
        """Keep a file of one leaf, together with the next ones."""
        if not file.coming:
            await self._keep_small()
            leaf = CID(Codec.RAW, file.outline.hash, file.outline.digest(0))
            self._one = await self._store.block(leaf) or b""
        self._small.append((file.outline, self._one))
        if len(self._small) >= SMALL_FILES:
            await self._keep_small()

    async def _keep_small(self) -> None:
        batch, self._small = self._small, []
        if batch:
            await self._store.put_many(batch)

    async def finish(self) -> None:
        """Keep what still waits."""
        await self._keep_small()
        self._report(Progress("import", done=self._total, total=self._total))
