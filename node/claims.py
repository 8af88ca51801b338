"""Which files a fetch works on, so that two fetches never wait for each other in a ring.

A partial file has one writer. Two fetches that share files, each holding one that the other wants,
would wait for ever; so a fetch claims all its files at once, and waits while any of them is
claimed. When its turn comes the other's files are whole, and it finds them in the store.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import trio

from p2p.cid import CID


class Claims:
    """The files that running fetches work on."""

    def __init__(self) -> None:
        self._claimed: set[CID] = set()
        self._released = trio.Event()

    @asynccontextmanager
    async def hold(self, cids: Collection[CID]) -> AsyncIterator[None]:
        """Wait until nobody works on any of ``cids``, then keep them for this block."""
        wanted = set(cids)
        while not self._claimed.isdisjoint(wanted):
            await self._released.wait()
        self._claimed |= wanted
        try:
            yield
        finally:
            self._claimed -= wanted
            self._released.set()
            self._released = trio.Event()
