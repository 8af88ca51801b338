"""The files of a fetch while they grow: which leaves are here, which are missing.

A large file's partial is opened when it is first needed and committed when it is whole.
A file of one leaf needs none: it is verified in memory and kept together with the others that came
meanwhile, so that many small files do not each wait for the disk, nor whoever reads them.
So a release of a hundred thousand files never has more than a few open.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType

import trio

from node.store import Partial, Store, durable
from p2p.cid import CID, Buffer
from p2p.dag import Outline
from p2p.errors import AllodError, BadBytes, StoreError
from p2p.ranges import RangeSet

MAX_WAITING = 64  # small files that wait in memory to be kept: at most 64 MiB


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of the release; with ``keep`` it becomes a file of the store when it is whole."""

    path: str
    outline: Outline
    keep: bool = True


class Assembly:
    """An async context manager: the files stay as far as they got when it is left."""

    def __init__(self, store: Store, wanted: Sequence[Wanted]) -> None:
        self.wanted = wanted
        self._store = store
        self._open: dict[int, tuple[AsyncExitStack, Partial]] = {}
        self._locks: dict[int, trio.Lock] = {}
        self._small: list[tuple[Outline, Buffer]] = []
        self._keeping = trio.Lock()
        self._waiting = trio.Event()  # set when there are small files to be kept
        self._kept: list[CID] = []  # since somebody asked
        self._grown = trio.Event()
        self._whole: set[CID] = set()

    async def __aenter__(self) -> "Assembly":
        # Asked once: a question for each of a hundred thousand files takes half a minute.
        self._whole = await self._store.has_many({want.outline.root for want in self.wanted})
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with trio.CancelScope(shield=True):  # both are short
            try:
                with suppress(AllodError):  # of a fetch that failed: what is lost is fetched again
                    await self._keep()
            finally:
                for file in list(self._open):
                    await self.close(file)

    async def survey(self, file: int, leaves: RangeSet | None = None) -> RangeSet:
        """Which leaves of a file (None: of all) are missing, after taking what is held already."""
        want = self.wanted[file]
        wanted = RangeSet([(0, len(want.outline))]) if leaves is None else leaves
        if want.outline.root in self._whole:
            return RangeSet()
        if not want.outline.size and want.keep:
            await self.accept(file, 0, b"")  # nobody needs to be asked for no bytes
            return RangeSet()
        if len(want.outline) == 1 and want.keep:
            return wanted.copy()  # one leaf: it is here, or it is not
        partial = await self.partial(file)
        await partial.reuse()
        missing = wanted.subtract(leaf_ranges(want.outline, partial.have))
        if missing and not partial.have:
            await self.close(file)
        elif not missing:
            await self.finish(file)
        return missing

    async def preview(self, file: int) -> RangeSet:
        """Which leaves of a file ``survey`` would find missing; nothing is copied or kept."""
        outline = self.wanted[file].outline
        whole = RangeSet([(0, len(outline))])
        if not outline.size or outline.root in self._whole:
            return RangeSet()
        if len(outline) == 1:
            return whole
        async with self._store.open_partial(outline) as partial:
            missing = whole.subtract(leaf_ranges(outline, partial.have))
            for leaf, _, _ in await self._store.local_leaves(outline, partial.missing):
                missing.remove(leaf, leaf + 1)
        return missing

    async def read(self, file: int, start: int, stop: int) -> bytes:
        """Read verified bytes of a file; StoreError if they are not here."""
        outline = self.wanted[file].outline
        held = await self._store.held(outline.root)
        if held is None or not held.have.covers(start, stop):
            raise StoreError(f"Bytes {start} to {stop} of {self.wanted[file].path} are not here.")
        path = held.path

        def work() -> bytes:
            with path.open("rb") as stream:
                stream.seek(start)
                return stream.read(stop - start)

        return await durable.on_disk(f"read {path}", work)

    async def partial(self, file: int) -> Partial:
        """The partial of a file, opened if it is not open."""
        async with self._locks.setdefault(file, trio.Lock()):
            if file not in self._open:
                stack = AsyncExitStack()
                partial = await stack.enter_async_context(
                    self._store.open_partial(self.wanted[file].outline)
                )
                self._open[file] = stack, partial
            return self._open[file][1]

    async def accept(self, file: int, leaf: int, data: Buffer) -> None:
        """Verify and write whole leaves; BadBytes before anything wrong is written."""
        want = self.wanted[file]
        if self.in_memory(file):
            if not want.outline.verify(0, data):
                raise BadBytes(f"The bytes that came are not the file {want.outline.root}.")
            await self.keep_small([(file, bytes(data))])
        else:
            await (await self.partial(file)).accept(leaf, data)

    async def keep_small(self, files: Sequence[tuple[int, Buffer]]) -> None:
        """Take files of one leaf that are verified; ``keep_on`` or ``finish_all`` keeps them."""
        self._small += [(self.wanted[file].outline, data) for file, data in files]
        self._waiting.set()
        if len(self._small) > MAX_WAITING:
            await self._keep()

    async def keep_on(self) -> None:
        """Keep the small files that come, until cancelled."""
        while True:
            await self._waiting.wait()
            self._waiting = trio.Event()
            await self._keep()

    async def next_kept(self) -> list[CID]:
        """Wait for files that are kept, and return them, each once."""
        await self._grown.wait()
        self._grown, kept, self._kept = trio.Event(), self._kept, []
        return kept

    def _note(self, *cids: CID) -> None:
        self._kept += cids
        self._grown.set()

    def in_memory(self, file: int) -> bool:
        """Whether a file is one leaf that needs no partial: ``accept`` takes it."""
        return len(self.wanted[file].outline) == 1 and self.wanted[file].keep

    async def _keep(self) -> None:
        """Keep the small files that wait; those that come meanwhile are kept with the next."""
        with trio.CancelScope(shield=True):  # else what the swarm counts as done would be lost
            async with self._keeping:
                while self._small:
                    batch, self._small = self._small, []
                    await self._store.put_many(batch)
                    self._note(*(outline.root for outline, _ in batch))

    async def finish(self, file: int) -> None:
        """Commit a large file all of whose leaves are here, if it is to be kept."""
        if self.wanted[file].keep and file in self._open:
            stack, partial = self._open.pop(file)  # first: a late copy of a leaf must not close it
            try:
                await partial.commit()
                self._note(self.wanted[file].outline.root)
            finally:
                with trio.CancelScope(shield=True):
                    await stack.aclose()

    async def finish_all(self) -> None:
        """Keep everything that is whole and was not kept yet."""
        await self._keep()
        for file, (_, partial) in list(self._open.items()):
            if not partial.missing:
                await self.finish(file)

    async def close(self, file: int) -> None:
        """Close a file's partial; what is in it stays."""
        if file in self._open:
            stack, _ = self._open.pop(file)
            await stack.aclose()


def leaf_ranges(outline: Outline, have: RangeSet) -> RangeSet:
    """The leaves that lie wholly inside ranges of bytes, as ranges of leaf indexes."""
    leaves = RangeSet()
    for start, stop in have:
        inside = outline.leaves_in(start, min(stop, outline.size))
        first, last = inside.start, inside.stop
        while first < last and outline.leaf(first).offset < start:
            first += 1
        while first < last and outline.span(last - 1, last)[1] > stop:
            last -= 1
        leaves.add(first, last)
    return leaves
