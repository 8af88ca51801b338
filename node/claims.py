"""Which files a fetch works on, so that two fetches never wait for each other in a ring.

A partial file has one writer. Two fetches that share files, each holding one that the other wants,
would wait for ever; so a fetch claims all its files at once, and waits while any of them is
claimed. When its turn comes the other's files are whole, and it finds them in the store.

Who holds files for later, as somebody's reading does, hears when others want them.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import trio

from p2p.cid import CID


class Claims:
    """The files that running fetches work on."""

    def __init__(self) -> None:
        self._claimed: dict[CID, Callable[[], None]] = {}
        self._awaited: Counter[CID] = Counter()
        self._released = trio.Event()

    def awaited(self, cid: CID) -> bool:
        """Whether somebody waits for this file."""
        return self._awaited[cid] > 0

    @asynccontextmanager
    async def hold(
        self, cids: Collection[CID], *, asked: Callable[[], None] = lambda: None
    ) -> AsyncIterator[None]:
        """Wait until nobody works on any of ``cids``, then keep them for this block.

        ``asked`` is called, and must not block, when somebody else begins to wait for one of them.
        """
        wanted = set(cids)
        self._awaited.update(wanted)
        try:
            while held := wanted & self._claimed.keys():
                for cid in held:
                    self._claimed[cid]()
                await self._released.wait()
        finally:
            self._awaited -= Counter(wanted)  # which leaves no zeros behind
        self._claimed |= dict.fromkeys(wanted, asked)
        try:
            yield
        finally:
            for cid in wanted:
                del self._claimed[cid]
            self._released.set()
            self._released = trio.Event()
