"""What this machine's own publishers say, remembered for a moment.

A door that is asked for a file at a time would else read keys and lists from the disk for each.
A command that runs beside the node may change them, so nothing is remembered for long; a new
publisher, and what this node takes into its store, are known at once.
"""

from collections.abc import Mapping
from typing import Final

import trio

from node.naming import NamingNode, own_names
from p2p.naming import Names

REMEMBERED: Final = 5.0
"""Seconds: as long as a change that another process made may take until others hear of it."""


class Voices:
    """The own publishers of one node."""

    def __init__(self, node: NamingNode) -> None:
        self._node = node
        self._ids: tuple[float, int, Mapping[str, str]] = (0.0, 0, {})
        self._read: dict[str, float] = {}  # by id, until when the store has what it says
        self._changes = 0
        self._looking = trio.Lock()
        node.store.publishers.changed.append(self._forget)

    def _forget(self, publisher: str) -> None:
        self._ids = (0.0, 0, {})
        self._read.clear()
        self._changes += 1

    async def ids(self) -> Mapping[str, str]:
        """Return the ids of own publishers by name; those that are founded."""
        stamp = self._node.keyring.stamp()
        known = self._remembered(stamp)
        if known is not None:
            return known
        async with self._looking:  # many ask at once, and one looks
            known = self._remembered(stamp)
            if known is not None:
                return known
            changes = self._changes
            ids = await trio.to_thread.run_sync(self._node.keyring.ids)
            if changes == self._changes:
                self._ids = trio.current_time() + REMEMBERED, stamp, ids
            return ids

    def _remembered(self, stamp: int) -> Mapping[str, str] | None:
        until, then, ids = self._ids
        return ids if trio.current_time() < until and then == stamp else None

    async def names(self, publisher: str) -> Names | None:
        """Return what one of the own publishers says; None for anybody else's id."""
        if publisher not in (await self.ids()).values():
            return None
        if trio.current_time() < self._read.get(publisher, 0.0):
            return await self._node.store.publishers.names(publisher)
        names = await own_names(publisher, self._node)  # what is new there is forgotten here first
        if names is not None:
            self._read[publisher] = trio.current_time() + REMEMBERED
        return names
