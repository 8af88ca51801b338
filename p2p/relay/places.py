"""Who has a place at this relay, and what each circuit may take. Pure: time comes in as ``now``.

A relay lends a stranger its line, so everything is bounded: places, circuits, bytes, seconds; and
all circuits together have one rate.
"""

from collections import Counter
from dataclasses import dataclass

from p2p.address import line_of


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay gives; every default has its reason here."""

    places: int = 128
    """Peers that may be reached through this relay: each keeps one connection open, 100 KB."""
    places_per_address: int = 8
    """From one IP address: the nodes of a house, not one machine taking all places."""
    place_time: float = 3600.0
    """Seconds for which a place is given; its holder asks again before."""
    circuits: int = 32
    """Circuits at the same time."""
    circuits_per_peer: int = 8
    """Circuits of one peer, whichever end of them it is."""
    circuits_per_address: int = 16
    """Circuits that callers from one IP address have: peer ids are free, and a circuit is kept for
    an hour, so that one machine could take them all."""
    circuit_time: float = 3600.0
    """Seconds after which a circuit ends; whoever still needs it opens another."""
    circuit_bytes: int = 1 << 30
    """Bytes in each direction after which a circuit ends: a fetch goes on with the next."""
    rate: int | None = 2 << 20
    """Bytes a second of all circuits together: a tenth of a good home's line, say. None: any."""


class Places:
    """The state of one relay."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._held: dict[str, tuple[float, str]] = {}
        """By peer: the time at which its place ends, and its IP address."""
        self._circuits: Counter[str] = Counter()
        self._callers: Counter[str] = Counter()
        self.circuits = 0
        """Circuits that are open."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, peer: object) -> bool:
        return peer in self._held

    def take(self, peer: str, ip: str, now: float) -> float | None:
        """Give ``peer`` a place, or renew it: its end on the clock of ``now``; None: no room."""
        self._expire(now)
        ip = line_of(ip)
        if peer not in self._held:
            here = sum(1 for _, known in self._held.values() if known == ip)
            if len(self._held) >= self.limits.places or here >= self.limits.places_per_address:
                return None
        end = now + self.limits.place_time
        self._held[peer] = (end, ip)
        return end

    def has(self, peer: str, now: float) -> bool:
        """Say whether ``peer`` has a place."""
        self._expire(now)
        return peer in self._held

    def leave(self, peer: str) -> None:
        """Take the place back: the peer has gone. Harmless when it has none."""
        self._held.pop(peer, None)

    def open_circuit(self, source: str, target: str, ip: str) -> bool:
        """Count a circuit between two peers; ``ip``: the caller's. False: there are too many."""
        limits = self.limits
        most = max(self._circuits[source], self._circuits[target])
        if self.circuits >= limits.circuits or most >= limits.circuits_per_peer:
            return False
        if self._callers[line_of(ip)] >= limits.circuits_per_address:
            return False
        self.circuits += 1
        self._callers[line_of(ip)] += 1
        self._circuits[source] += 1
        self._circuits[target] += 1
        return True

    def close_circuit(self, source: str, target: str, ip: str) -> None:
        """Count the end of a circuit that ``open_circuit`` admitted."""
        self.circuits -= 1
        for counts, key in (
            (self._circuits, source),
            (self._circuits, target),
            (self._callers, line_of(ip)),
        ):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]

    def _expire(self, now: float) -> None:
        for peer in [peer for peer, (end, _) in self._held.items() if end <= now]:
            del self._held[peer]
