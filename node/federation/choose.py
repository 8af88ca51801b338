"""Which peer is asked: the least busy, of those the quickest, and none that failed lately. Pure.

A peer that fails is left alone for ``ASIDE_FIRST`` seconds, twice as long each time in a row; one
that is busy until it said that it may be asked again; one that lied for ``ASIDE_LIAR``. An answer
that came whole wipes the failures, and nothing wipes a lie but time.
"""

from collections import OrderedDict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from p2p.errors import PeerFault, PeerGone, PeerRefused
from p2p.serving import Serving

ASIDE_FIRST: Final = 60.0
"""Seconds for which a peer that failed is not asked: a restart takes less."""
ASIDE_LAST: Final = 3600.0
"""Seconds, doubling up to here."""
ASIDE_LIAR: Final = 3600.0
"""Seconds for which a peer is not asked that answered with another model, or signed what it did
not say: long enough to be of no use, short enough for one whose disk was at fault."""
ASIDE_BUSY: Final = 60.0
"""Seconds that a busy peer can keep us away at most."""
NEWER: Final = 0.3
"""Weight of the latest latency in the average: the last handful counts."""
MAX_STANDINGS: Final = 1024
"""Peers that are remembered, the longest unheard go first: some 300 bytes each."""


@dataclass(slots=True)
class Standing:
    """What one peer has shown."""

    latency: float | None = None
    """Seconds that it takes to say how busy it is, averaged; None: never asked."""
    failures: int = 0
    """In a row."""
    until: float = 0.0
    """When it may be asked again."""
    reason: str = ""
    """Why it may not before."""


class Standings:
    """What is known of peers that were asked; ``now`` is any clock that goes on."""

    def __init__(self, size: int = MAX_STANDINGS) -> None:
        self._size = size
        self._of: OrderedDict[str, Standing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def of(self, peer: str) -> Standing:
        """Return what is known of a peer, and remember that it was heard of."""
        standing = self._of.setdefault(peer, Standing())
        self._of.move_to_end(peer)
        while len(self._of) > self._size:
            self._of.popitem(last=False)
        return standing

    def aside(self, peer: str, now: float) -> str:
        """Return why a peer is left alone now; empty if it is not."""
        standing = self._of.get(peer)
        return standing.reason if standing is not None and now < standing.until else ""

    def told(self, peer: str, seconds: float) -> None:
        """It said how busy it is, after so many seconds."""
        standing = self.of(peer)
        before = seconds if standing.latency is None else standing.latency
        standing.latency = before + NEWER * (seconds - before)

    def answered(self, peer: str) -> None:
        """It answered a request to the end, and proved it."""
        self.of(peer).failures = 0

    def failed(self, peer: str, now: float, reason: str) -> None:
        """It could not be reached, broke off, fell silent or broke the protocol."""
        standing = self.of(peer)
        pause = min(ASIDE_FIRST * 2.0 ** min(standing.failures, 16), ASIDE_LAST)
        standing.failures += 1
        self._rest(standing, now + pause, reason)

    def busy(self, peer: str, now: float, seconds: float) -> None:
        """It has no room, and said when it may be asked again; 0: it did not say."""
        self._rest(self.of(peer), now + min(seconds, ASIDE_BUSY), "it is busy")

    def lied(self, peer: str, now: float, reason: str) -> None:
        """It answered with another model, or with a receipt that does not fit."""
        self._rest(self.of(peer), now + ASIDE_LIAR, reason)

    @staticmethod
    def _rest(standing: Standing, until: float, reason: str) -> None:
        if until > standing.until:
            standing.until, standing.reason = until, reason

    def rank(self, offers: Mapping[str, Serving], needs: Set[str], now: float) -> list[str]:
        """Return the peers that can do what is needed and are not left alone, the best first."""

        def cost(peer: str) -> tuple[float, bool, float]:
            standing = self._of.get(peer)
            latency = standing.latency if standing is not None else None
            offer = offers[peer]
            return offer.load, offer.state != "ready", float("inf") if latency is None else latency

        able = (
            peer
            for peer, offer in offers.items()
            if needs <= offer.capabilities and not self.aside(peer, now)
        )
        return sorted(able, key=cost)


def late(peer: str, seconds: float, patience: float) -> PeerFault:
    """Return what a peer did that gave no answer in so many seconds.

    One that had half of our patience is at fault; one that should have been quick is just busy.
    """
    if seconds >= patience / 2:
        return PeerGone(f"It did not answer within {seconds:.0f} s.", peer=peer)
    return PeerRefused(
        f"It did not begin within {seconds:.0f} s.", status=429, retry_after=ASIDE_BUSY, peer=peer
    )
