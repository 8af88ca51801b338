"""The sources of what is read: looked for as long as it is read, and then no more."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from node.crew import Crew, Network
from node.messages import Event, Note
from p2p.cid import CID

log = logging.getLogger(__name__)

IDLE: Final = 60.0
"""Seconds without use after which sources are no longer looked for: a program reads in bursts."""
MAX_HINTS: Final = 32
"""Addresses that are asked first: whoever gives more has given them for long."""


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
        self._peers = list(peers)
        self._crew: Crew | None = None
        self._use = trio.CancelScope()
        self._employers = 0

    def crew(self) -> Crew:
        """Return the crew, which looks for sources for a while; NetworkError without a network.

        UsageError, once, where a hint is no address.
        """
        if self._crew is None or self._use.cancel_called:
            network = self._network()
            hints, self._peers = self._peers, []
            self._crew = Crew(network, hear, hints, list(self._keys))
            self._peers = hints
            self._use = trio.CancelScope()
            self._nursery.start_soon(self._recruit, self._crew, self._use)
        self._prolong()
        return self._crew

    @contextmanager
    def at_work(self) -> Iterator[Crew]:
        """Give the crew, which looks for sources for as long as the block lasts; errors as above.

        A crew that looks for nobody any more never tells those who wait for it that nobody is left.
        """
        self._employers += 1
        try:
            yield self.crew()
        finally:
            self._employers -= 1
            self._prolong()

    def hint(self, peers: Sequence[str]) -> None:
        """Ask these first; UsageError for what is no address, as soon as that is seen."""
        fresh = [one for one in peers if one not in self._peers]
        if fresh and self._crew is not None:
            self._crew.hint(fresh)
        self._peers = [*fresh, *self._peers][:MAX_HINTS]

    def _prolong(self) -> None:
        self._use.deadline = math.inf if self._employers else trio.current_time() + IDLE

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
        if self._crew is crew:
            self._crew = None


def hear(event: Event) -> None:
    """Write down what a person would be told: nobody waits at a terminal."""
    if isinstance(event, Note):
        level = logging.WARNING if event.level == "warning" else logging.DEBUG
        log.log(level, "%s", event.text)
