"""The line before a model: so many requests at once, so many that wait, and a no for the rest.

A request that gives up while it waits leaves its place at once. First come, first served.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from p2p.errors import Busy

REMEMBERED: Final = 16
"""Requests whose duration says how long the next ones will take."""
MAX_RETRY: Final = 60.0
"""Seconds: what a client is told to wait at most; it may come earlier, and is told again."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a model is."""

    slots: int
    busy: int
    waiting: int
    down: bool = False
    """Its engine has just failed, and is not back yet."""


class Line:
    """Slots and waiting places of one model."""

    def __init__(self, name: str, slots: int, places: int) -> None:
        self._name = name
        self._slots = slots
        self._places = places
        self._free = trio.Semaphore(slots)  # whoever waits is woken in turn
        self._busy = 0
        self._waiting = 0
        self._lately: deque[float] = deque(maxlen=REMEMBERED)

    def load(self) -> Load:
        """Say how busy it is now."""
        return Load(self._slots, self._busy, self._waiting)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot for the block; ``Busy`` if too many wait already."""
        if self._busy + self._waiting >= self._slots + self._places:
            raise Busy(
                f"{self._name} is busy: {self._busy} requests are answered and {self._waiting} "
                "wait.",
                retry_after=self.retry_after(),
                next="Try again later; serve.slots and serve.queue make room for more.",
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._busy += 1
        begin = trio.current_time()
        try:
            yield
        finally:
            self._busy -= 1
            self._free.release()
            self._lately.append(trio.current_time() - begin)

    def retry_after(self) -> float:
        """Guess in how many seconds a place will be free."""
        usual = sum(self._lately) / len(self._lately) if self._lately else 1.0
        return min(MAX_RETRY, max(1.0, usual * (self._waiting + 1) / self._slots))
