"""A stream of server-sent events, cut where events end. Pure.

Whoever sends it may be a stranger: an event is bounded, and costs the same in however many crumbs
it comes. Specification: html.spec.whatwg.org, server-sent events (the blank line; no bare CR).
"""

import re
from collections.abc import Callable
from typing import Final

from p2p.errors import AllodError

MAX_EVENT: Final = 4 << 20
"""Bytes of one event: a whole answer in one piece fits, with twenty odds for each token."""

_GAP: Final = re.compile(rb"\n\r?\n")


class EventCutter:
    """Cuts a stream into whole events; ``too_long`` makes the error for one that does not end."""

    def __init__(self, too_long: Callable[[str], AllodError]) -> None:
        self._too_long = too_long
        self._rest = bytearray()

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that end in ``data``, each with the blank line behind it.

        The search goes on where it stopped.
        """
        rest = self._rest
        start = max(0, len(rest) - 2)
        rest += data
        ends = [gap.end() for gap in _GAP.finditer(rest, start)]
        found = [bytes(rest[at:end]) for at, end in zip([0, *ends], ends, strict=False)]
        del rest[: ends[-1] if ends else 0]
        if len(rest) > MAX_EVENT:
            raise self._too_long(
                f"Expected events of at most {MAX_EVENT} bytes, came a longer one."
            )
        return found
