"""One file on its way here, for whoever reads it: only the leaves that were asked for.

All who read a file share one pull. Each range that is asked for is a transfer of its own, begun at
its first leaf, so that the reader gets bytes at once and in order. A leaf that is on its way is not
asked for again, but where a short range would have to wait for a long one that comes by. Once all
leaves are here the file is one of the store's.

Where a fetch already works on the file, the pull waits until that is done; its readers need not,
for they see what the store has of an unfinished file, whoever puts it together. A file of one leaf
is brought all the same: it is no unfinished file, and nobody else may come to it for hours. For the
others' sake a pull ends when nothing is asked of it, whether its readers read or not: after a
while, and at once when a fetch waits for the file.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import trio

from node.assembly import Assembly, Wanted, leaf_ranges
from node.claims import Claims
from node.crew import Crew
from node.messages import Report
from node.statement import read_outline
from node.store import Partial, Store
from node.transfer import Transfer
from p2p.cid import CID
from p2p.dag import Outline
from p2p.errors import AllodError, culprit
from p2p.manifest import FileEntry
from p2p.ranges import RangeSet

SHORT = 8 << 20  # bytes of a range that never waits behind a longer one
LINGER = 20.0  # seconds that a pull goes on when nobody reads or asks: a client may come back


class Pull:
    """A file of ``release`` that is read; ``run`` brings what is asked for until it is cancelled.

    ``crew`` gives those whom it comes from while it is brought. ``error`` is why it ended, if it
    did not end well.
    """

    def __init__(
        self,
        release: CID,
        entry: FileEntry,
        store: Store,
        claims: Claims,
        crew: Callable[[], AbstractAsyncContextManager[Crew]],
        report: Report,
    ) -> None:
        self.entry = entry
        self.error: AllodError | None = None
        self.ended = False
        self._release = release
        self._store = store
        self._claims = claims
        self._crew = crew
        self._report = report
        self._asks: list[tuple[int, int]] = []  # ranges of bytes that no transfer was begun for
        self._asked = RangeSet()
        self._hurried = RangeSet()  # of them those in short ranges
        self._readers = 0
        self._changed = trio.Event()

    # -- for readers

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count as a reader for this block."""
        self._readers += 1
        self._change()
        try:
            yield
        finally:
            self._readers -= 1
            self._change()

    def ask(self, start: int, stop: int) -> None:
        """Have these bytes brought here."""
        if self._hurried.covers(start, stop):
            return
        if stop - start <= SHORT:
            self._hurried.add(start, stop)
        elif self._asked.covers(start, stop):
            return
        self._asked.add(start, stop)
        self._asks.append((start, stop))
        self._change()

    def will_be_whole(self, have: RangeSet) -> bool:
        """Say whether, with these bytes that are here, the whole file was asked for."""
        both = have.copy()
        both.update(self._asked)
        return both.covers(0, self.entry.size)

    @property
    def changed(self) -> trio.Event:
        """What is set when the pull ends, or something about it changes; take it, then look."""
        return self._changed

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- the work

    async def run(self) -> None:
        """Bring what is asked for, until the file is whole or long nobody asks for more.

        What goes wrong is its readers' to raise: ``error``.
        """
        try:
            async with self._crew() as crew:
                await self._run(crew)
        except AllodError as exc:
            self.error = exc
        except BaseExceptionGroup as group:
            error = culprit(group)
            if not isinstance(error, AllodError):
                raise
            self.error = error
        finally:
            self.ended = True
            self._change()

    async def _run(self, crew: Crew) -> None:
        entry = self.entry
        outline = await read_outline(entry.cid, entry.size, self._store, crew)
        if len(outline) == 1:
            await self._bring_leaf(outline, crew)
            return
        async with self._claims.hold([entry.cid], asked=self._change):
            if await self._store.has(entry.cid):
                return  # a fetch brought it meanwhile
            async with Assembly(self._store, [Wanted(entry.path, outline, keep=False)]) as assembly:
                partial = await assembly.partial(0)
                await partial.reuse()
                async with trio.open_nursery() as nursery:
                    await self._bring(partial, assembly, crew, nursery)
                    nursery.cancel_scope.cancel()
                if not partial.missing:
                    await partial.commit()

    async def _bring_leaf(self, outline: Outline, crew: Crew) -> None:
        """Bring a file of one leaf: whole, or not at all."""
        async with Assembly(self._store, [Wanted(self.entry.path, outline)]) as assembly:
            missing = [await assembly.survey(0)]
            await Transfer(self._release, assembly, missing, crew, self._report).run()
            await assembly.finish_all()

    async def _bring(
        self, partial: Partial, assembly: Assembly, crew: Crew, nursery: trio.Nursery
    ) -> None:
        """Begin a transfer for each range that is asked for; return when there is no more to do."""
        outline = partial.outline
        coming = RangeSet()  # leaves
        running = 0

        async def transfer(leaves: RangeSet) -> None:
            nonlocal running
            release, report = self._release, self._report
            await Transfer(release, assembly, [leaves], crew, report, origin=0).run()
            running -= 1
            self._change()

        while partial.missing:
            changed = self.changed
            asks, self._asks = self._asks, []
            for start, stop in asks:
                leaves = outline.leaves_in(start, stop)
                wanted = RangeSet([(leaves.start, leaves.stop)])
                wanted = wanted.subtract(leaf_ranges(outline, partial.have))
                if stop - start > SHORT:
                    wanted = wanted.subtract(coming)
                if wanted:
                    coming.update(wanted)
                    running += 1
                    nursery.start_soon(transfer, wanted)
            needed = running and self._readers
            if not needed and self._claims.awaited(self.entry.cid):
                return
            with trio.move_on_after(math.inf if needed else LINGER) as patience:
                await changed.wait()
            if patience.cancelled_caught:
                return
