"""What one token may still take: requests of the last minute, and tokens of models today.

Pure: time comes in as ``now``, seconds since 1970. Days are those of UTC.
A request counts when it is let in, so any number at once cannot pass the limit of a minute. What it
will use nobody knows before its end: those that are under way when the day's tokens run out go on,
and nothing new is let in.
A clock that is set back forgives the minute, and never locks anybody out.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

MINUTE: Final = 60.0
DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Over:
    """A limit that is used up: the requests of this minute, or the tokens of this day."""

    what: Literal["requests", "tokens"]
    limit: int
    seconds: float
    """After these it is worth asking again."""


class Allowance:
    """The account of one token; ``used`` are the tokens that it has used on the day of ``now``."""

    __slots__ = ("_day", "_requests", "_rpm", "_tpd", "_used")

    def __init__(self, rpm: int | None, tpd: int | None, now: float, used: int = 0) -> None:
        self._rpm = rpm
        self._tpd = tpd
        self._requests: deque[float] = deque()  # when each of the last minute came
        self._day = now // DAY
        self._used = used

    def take(self, now: float) -> Over | None:
        """Count a request and return None, or count none and say which limit is used up."""
        if self._tpd is not None and self.used(now) >= self._tpd:
            return Over("tokens", self._tpd, (now // DAY + 1) * DAY - now)
        if self._rpm is None:
            return None
        times = self._requests
        if times and times[-1] > now:
            times.clear()
        while times and times[0] <= now - MINUTE:
            times.popleft()
        if len(times) >= self._rpm:
            return Over("requests", self._rpm, times[0] + MINUTE - now)
        times.append(now)
        return None

    def spend(self, tokens: int, now: float) -> None:
        """Count tokens that a request has used."""
        self._used = self.used(now) + tokens

    def used(self, now: float) -> int:
        """Return the tokens used on this day."""
        if self._day != now // DAY:
            self._day, self._used = now // DAY, 0
        return self._used
