"""Whom Allod is measured against, each in a module of its own, all behind three small Protocols.

Every program runs as processes of its own, so that what it costs is read from outside.
``RIVALS`` of a module are what it can be measured as.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tests.bench.works import Work


class Receiver(Protocol):
    """A program that runs, has nothing yet and knows whom to ask."""

    @property
    def pid(self) -> int: ...
    @property
    def idle(self) -> int:
        """Bytes of memory before it did anything."""
        ...

    def fetch(self) -> float:
        """Fetch it all; the seconds that it took. OSError when the program died meanwhile."""
        ...


class Sender(Protocol):
    """One or more processes that hold a work and give it to whoever asks."""

    @property
    def pids(self) -> list[int]: ...
    @property
    def idle(self) -> int:
        """Bytes of memory of one of them before it did anything."""
        ...

    @property
    def publish(self) -> float | None:
        """Seconds from the files to being able to share them; None where nothing is to be done."""
        ...

    @property
    def part(self) -> float:
        """How much of the work it gives, of 1: programs that would take minutes give a part."""
        ...

    def receiver(self, home: Path) -> AbstractContextManager[Receiver]:
        """Run a receiver; ``home`` may hold what one that was killed has left."""
        ...


class Rival(Protocol):
    """A way to get files from one process to another."""

    @property
    def name(self) -> str: ...
    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        ...

    def share(self, work: Work, home: Path) -> AbstractContextManager[Sender]:
        """Run what gives a work."""
        ...
