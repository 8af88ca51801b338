"""What nothing else in the node counts: HTTP requests by door and status, and lines of the log."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LEVELS: Final = ("warning", "error", "critical")


class HttpCounts:
    """Requests that were answered; touched by trio's thread alone."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        """By door and HTTP status."""

    def count(self, door: str, status: int) -> None:
        """Count one answer."""
        self.answered[door, status] += 1


class LogCounts(logging.Handler):
    """Counts what is logged, by level; what is said it does not look at."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.levels: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record; logging holds this handler's lock meanwhile."""
        if record.levelno >= logging.CRITICAL:
            self.levels["critical"] += 1
        elif record.levelno >= logging.ERROR:
            self.levels["error"] += 1
        else:
            self.levels["warning"] += 1


@contextmanager
def counting_logs() -> Iterator[LogCounts]:
    """Count warnings and errors of the whole program for as long as the block lasts."""
    counts, top = LogCounts(), logging.getLogger()
    top.addHandler(counts)
    try:
        yield counts
    finally:
        top.removeHandler(counts)
