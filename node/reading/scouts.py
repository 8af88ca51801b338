"""The sources of what is read: looked for as long as it is read, and then no more."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from node.crew import Crew, Network
from node.messages import Event, Note
from p2p.cid import CID

log = logging.getLogger(__name__)

IDLE: Final = 60.0
"""Seconds without use after which sources are no longer looked for: a program reads in bursts."""


class Scouts:
    """A crew that recruits while it is used; ``keys``: what its sources are to be found under."""

    def __init__(
        self,
        network: Callable[[], Network],
        nursery: trio.Nursery,
        keys: Sequence[CID],
        peers: Sequence[str] = (),
    ) -> None:
        """``network``: gives it, or raises NetworkError. ``peers``: multiaddrs to ask first."""
        self._network = network
        self._nursery = nursery
        self._keys = list(keys)
        self._peers = peers
        self._crew: Crew | None = None
        self._use = trio.CancelScope()

    def crew(self) -> Crew:
        """Return the crew, which looks for sources from now on; NetworkError without a network.

        Call it again now and then while it is needed.
        """
        if self._crew is None:
            self._crew = Crew(self._network(), hear, self._peers, list(self._keys))
            self._use = trio.CancelScope()
            self._nursery.start_soon(self._recruit, self._crew, self._use)
        self._use.deadline = trio.current_time() + IDLE
        return self._crew

    def seek(self, keys: Sequence[CID]) -> None:
        """Look under further keys too."""
        for key in keys:
            if key not in self._keys:
                self._keys.append(key)
                if self._crew is not None:
                    self._crew.seek(key)

    async def _recruit(self, crew: Crew, use: trio.CancelScope) -> None:
        with use:
            await crew.recruit()
        self._crew = None


def hear(event: Event) -> None:
    """Write down what a person would be told: nobody waits at a terminal."""
    if isinstance(event, Note):
        level = logging.WARNING if event.level == "warning" else logging.DEBUG
        log.log(level, "%s", event.text)
