"""How many bytes a second may go up and down, in all and for each peer.

Knows numbers and time; must not know sockets, threads of its own, or trio.
Whoever moves bytes asks ``reserve`` first and waits for as long as it says: in a thread or in a
task, so lanes and streams share one account. Those who wait are served in the order in which they
asked, and nobody reserves more than ``piece`` at once: that is all the fairness there is, and
ten equal receivers get a tenth each.

With no limit set, ``reserve`` is one comparison.
"""

import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace

BURST = 0.25
"""Seconds of its rate that a bucket saves up while nobody uses it."""
PIECE_SECONDS = 0.1
"""Seconds of the rate that are reserved at once: so a change of the limit is felt soon."""
MIN_PIECE = 4096
"""Bytes: below that the calls themselves would be the cost."""
MAX_PIECE = 1 << 20
"""Bytes reserved at once when the rate is high, or not limited."""
MAX_PEERS = 1024
"""Peers whose own buckets are kept; the longest unused goes first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes a second, None for no limit; ``uploads`` is how many peers are served at once."""

    up: int | None = None
    down: int | None = None
    up_per_peer: int | None = None
    down_per_peer: int | None = None
    uploads: int | None = None


class Bucket:
    """One rate; not locked, ``Rates`` does that."""

    __slots__ = ("_paid", "rate")

    def __init__(self, rate: int | None) -> None:
        self.rate = rate
        self._paid = float("-inf")  # up to when everything reserved so far is paid for

    def change(self, rate: int | None) -> None:
        """Set another rate; what was reserved at the old one is forgotten."""
        if rate != self.rate:
            self.rate = rate
            self._paid = float("-inf")

    def reserve(self, size: int, now: float) -> float:
        """Reserve ``size`` bytes; the seconds after which they may go."""
        if self.rate is None:
            return 0.0
        start = max(self._paid, now - BURST)
        self._paid = start + size / max(1, self.rate)
        return max(0.0, start - now)


class Meter:
    """One direction of one peer: its own bucket and the common one."""

    __slots__ = ("_common", "_lock", "_moved", "_own")

    def __init__(
        self,
        common: Bucket,
        own: Bucket,
        lock: threading.Lock,
        moved: Counter[str] | None = None,
    ) -> None:
        self._common = common
        self._own = own
        self._lock = lock
        self._moved: Counter[str] = Counter() if moved is None else moved

    @property
    def limited(self) -> bool:
        """Whether there is any limit at all."""
        return self._common.rate is not None or self._own.rate is not None

    @property
    def piece(self) -> int:
        """The most that should be reserved at once."""
        rates = [rate for rate in (self._common.rate, self._own.rate) if rate is not None]
        if not rates:
            return MAX_PIECE
        return max(MIN_PIECE, min(MAX_PIECE, int(min(rates) * PIECE_SECONDS)))

    def reserve(self, size: int) -> float:
        """Reserve ``size`` bytes; the seconds to wait, 0.0 when there is no limit. Any thread."""
        if self._common.rate is None and self._own.rate is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            return max(self._own.reserve(size, now), self._common.reserve(size, now))

    def count(self, kind: str, size: int) -> None:
        """Count bytes that have moved, by what carried them: stream, lane, web, gateway."""
        with self._lock:  # lanes count in threads of their own
            self._moved[kind] += size


@dataclass(frozen=True, slots=True)
class PeerRates:
    """Both directions of one peer."""

    up: Meter
    down: Meter


class Rates:
    """The limits of a node, changeable at any time, from trio's thread."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._up = Bucket(self.limits.up)
        self._down = Bucket(self.limits.down)
        self._peers: OrderedDict[str, tuple[PeerRates, Bucket, Bucket]] = OrderedDict()
        self._served: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        """Bytes that have gone up, by what carried them; ``received``: those that came down."""
        self.received: Counter[str] = Counter()

    def change(self, **limits: int | None) -> Limits:
        """Set some of the limits (the fields of ``Limits``), and return all."""
        with self._lock:
            self.limits = replace(self.limits, **limits)
            self._up.change(self.limits.up)
            self._down.change(self.limits.down)
            for _, up, down in self._peers.values():
                up.change(self.limits.up_per_peer)
                down.change(self.limits.down_per_peer)
        return self.limits

    def begin_upload(self, peer: str) -> bool:
        """Count a file that begins to be sent; False when too many other peers are served now."""
        most = self.limits.uploads
        if most is not None and peer not in self._served and len(self._served) >= most:
            return False
        self._served[peer] += 1
        return True

    def end_upload(self, peer: str) -> None:
        """Count the end of what ``begin_upload`` admitted."""
        self._served[peer] -= 1
        if not self._served[peer]:
            del self._served[peer]

    def uploads(self) -> dict[str, int]:
        """How many files each peer is sent now; of those whom the limits let in."""
        return dict(self._served)

    def of(self, peer: str) -> PeerRates:
        """The meters of one peer, the same ones for all of its connections."""
        with self._lock:
            found = self._peers.get(peer)
            if found is None:
                while len(self._peers) >= MAX_PEERS:
                    self._peers.popitem(last=False)
                up, down = Bucket(self.limits.up_per_peer), Bucket(self.limits.down_per_peer)
                rates = PeerRates(
                    Meter(self._up, up, self._lock, self.sent),
                    Meter(self._down, down, self._lock, self.received),
                )
                found = self._peers[peer] = rates, up, down
            else:
                self._peers.move_to_end(peer)
            return found[0]


UNLIMITED = Rates().of("")
"""For streams that nobody limits."""
