"""How many of the events that an operation reports are worth sending on.

Pure: time comes in as ``now``. An operation reports after every leaf if it likes; this is the one
place that thins it out and works out the rate, for the control API and the terminal alike.
"""

from node.messages import Event, Note, Progress

INTERVAL = 0.1  # seconds; ten updates a second look smooth
SMOOTHING = 3.0  # seconds over which the rate is averaged


class Pace:
    """Lets through as many events as a person or a pipe can use, and fills in the rate.

    Of the progress of one phase the first and the last (done equals total) always pass, of the
    rest at most one every ``interval`` seconds. Notes always pass.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._passed: dict[str, tuple[Progress, float]] = {}  # by phase: what passed last, when

    def take(self, event: Event, now: float) -> Event | None:
        """Return the event to pass on, or None to drop it; ``now`` is in seconds."""
        if isinstance(event, Note):
            return event
        rate = event.rate
        last, then = self._passed.get(event.phase, (None, now))
        if last is not None and event.done >= last.done:
            spent = now - then
            ends = event.done == event.total and last.done != event.done
            if spent < self._interval and not ends:
                return None
            rate = rate or _smooth(last.rate, event.done - last.done, spent)
        passed = Progress(event.phase, event.done, event.total, rate, event.sources, event.unit)
        self._passed[event.phase] = passed, now
        return passed


def _smooth(rate: float, moved: int, spent: float) -> float:
    """Move the known rate towards ``moved`` units in ``spent`` seconds."""
    if spent <= 0:
        return rate
    fresh = moved / spent
    return rate + min(1.0, spent / SMOOTHING) * (fresh - rate) if rate else fresh
