"""How much this node has sent: in this calendar month, and of all time; what it has fetched, too.

The numbers are those of ``p2p.rates``, which counts every byte of answers on streams, lanes and the
public gateway. They are written to disk once a minute and at the end. What is written meanwhile is
a minute ahead: as much more as the minute before took, so that a crash counts rather too much than
too little. A clock that is turned back begins no new month.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import trio

from node.seeding.rules import Counts
from node.store import durable
from p2p.errors import StoreError
from p2p.rates import Rates

log = logging.getLogger(__name__)

SAVE_EVERY: Final = 60.0
"""Seconds between two savings."""
MAX_FILE: Final = 4096
"""Bytes of the file: it has four numbers."""
MAX_COUNT: Final = 1 << 62

Clock = Callable[[], datetime]


def local_now() -> datetime:
    """Return the owner's local time."""
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Saved:
    """What the file says: ``month`` as 2026-11, and bytes."""

    month: str = ""
    month_sent: int = 0
    sent: int = 0
    fetched: int = 0


class Tally:
    """Counts for one node; made by ``open_tally``."""

    def __init__(self, saved: Saved, file: Path, rates: Rates, clock: Clock) -> None:
        self._file = file
        self._rates = rates
        self._clock = clock
        self._month = saved.month
        self._saved = saved
        self._sent = saved.sent - self._up
        self._fetched = saved.fetched - self._down
        self._before_month = self._up - saved.month_sent
        """What the rates had counted when the month began."""
        self._last = self._up

    @property
    def _up(self) -> int:
        return sum(list(self._rates.sent.values()))  # a list at once: lanes count in threads

    @property
    def _down(self) -> int:
        return sum(list(self._rates.received.values()))

    def counts(self) -> Counts:
        """Return what was sent and fetched up to now."""
        self._turn()
        return Counts(self._up - self._before_month, self._sent + self._up,
                      self._fetched + self._down)  # fmt: skip

    def _turn(self) -> None:
        month = f"{self._clock():%Y-%m}"
        if month > self._month:
            if self._month:
                self._before_month = self._up
            self._month = month

    async def save(self, *, ahead: bool) -> None:
        """Write the numbers down; ``ahead``: with as much more as since the last time."""
        counts, up = self.counts(), self._up
        more, self._last = (up - self._last if ahead else 0), up
        saved = Saved(self._month, counts.month + more, counts.sent + more, counts.fetched)
        if saved == self._saved:
            return
        data = json.dumps(asdict(saved), indent=1).encode()

        def write() -> None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            durable.replace_file(self._file, data, self._file.parent)

        await durable.on_disk("remember what was sent", write)
        self._saved = saved

    async def run(self) -> None:
        """Save now and then; never returns."""
        while True:
            await trio.sleep(SAVE_EVERY)
            await self._try_save(ahead=True)

    async def _try_save(self, *, ahead: bool) -> None:
        try:
            await self.save(ahead=ahead)
        except StoreError as exc:  # a full disk ends no node; the next minute tries again
            log.warning("what was sent is not written down: %s", exc)


@asynccontextmanager
async def open_tally(file: Path, rates: Rates, clock: Clock = local_now) -> AsyncIterator[Tally]:
    """Go on with the numbers of ``file``, for ``rates``; leaving the block saves them."""
    tally = Tally(await trio.to_thread.run_sync(_read, file), file, rates, clock)
    try:
        yield tally
    finally:
        with trio.CancelScope(shield=True):
            await tally._try_save(ahead=False)


def _read(file: Path) -> Saved:
    try:
        with file.open("rb") as stream:
            said = json.loads(stream.read(MAX_FILE))
        month, *numbers = (said[name] for name in ("month", "month_sent", "sent", "fetched"))
        good = all(type(one) is int and 0 <= one <= MAX_COUNT for one in numbers)
        if not (good and isinstance(month, str) and len(month) == 7):
            raise ValueError("not what is written there")
        return Saved(month, *numbers)
    except FileNotFoundError:
        return Saved()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        log.warning("%s cannot be read, and the month is counted anew: %s", file, exc)
        return Saved()
