"""Whether the peer is alive, and how far away: when to ask, when to give up.

Knows when something was heard and when a ping went; must not know frames or clocks: every time
comes in as an argument, in seconds of one monotonic clock.
"""

from p2p.errors import PeerGone
from p2p.yamux.frames import MAX_UINT32

PING_AFTER = 5.0  # seconds of silence before we ask
DEAD_AFTER = 14.0  # seconds of silence that end the connection: under 15, with 9 for the answer
ASLEEP = 2.0  # a tick this late says that we slept ourselves: the peer gets its time anew
RTT_EVERY = 30.0  # seconds between pings on a busy connection, to know the round-trip time
ASSUMED_RTT = 0.1  # seconds, until the first answer


class Pulse:
    """The keep-alive of one connection."""

    def __init__(self, now: float) -> None:
        self.rtt = ASSUMED_RTT  # seconds, as last measured
        self.ping_due = True  # a ping is to be sent; the first one measures the round trip
        self._heard = now
        self._pinged = now
        self._value = 0
        self._open = False  # the last ping has not been answered
        self.due = now  # when `tick` wants to be called next
        self._plan(now)

    def heard(self, now: float) -> None:
        """The peer gave a sign of life."""
        self._heard = now

    def take_ping(self, now: float) -> int:
        """The value of the ping that is due and goes now."""
        self.ping_due = False
        self._value = (self._value + 1) & MAX_UINT32
        self._open = True
        self._pinged = now
        return self._value

    def answered(self, value: int, now: float) -> None:
        """An answer came; one to nothing that we asked last is no measurement."""
        if self._open and value == self._value:
            self._open = False
            self.rtt = now - self._pinged

    def tick(self, now: float) -> None:
        """Let time pass.  `PeerGone` after too long a silence."""
        if now - self.due > ASLEEP:
            self._heard = now
        silent = now - self._heard
        if silent >= DEAD_AFTER:
            raise PeerGone(f"the peer sent nothing for {silent:.0f} seconds, not even a pong")
        if now - self._pinged >= (PING_AFTER if silent >= PING_AFTER else RTT_EVERY):
            self.ping_due = True
        self._plan(now)

    def _plan(self, now: float) -> None:
        # A ping that is still to be sent, because the transport is stuck, counts as sent: the
        # silence goes on, and nobody is woken for it at once.  An answer may make an earlier time
        # due than the one that the driver sleeps to: so it never sleeps longer than to the next.
        waiting = self.ping_due or (self._open and self._pinged >= self._heard)
        silence = self._heard + (DEAD_AFTER if waiting else PING_AFTER)
        measure = silence if self.ping_due else self._pinged + RTT_EVERY
        self.due = min(silence, measure, now + PING_AFTER)
