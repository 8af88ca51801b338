"""Kademlia's data, pure: the routing table, one lookup, and the records of who provides what.

Knows peer ids, addresses and distances; must not know sockets, clocks or libp2p.
Time comes in as ``now`` (seconds of a monotonic clock).

- A peer enters the table only after it answered a query, so clients and dead peers are not in it.
- A bucket prefers peers that it knows: an old one makes way only when it failed or fell silent.
- At most two peers of one public subnet share a bucket, at most ten share the table: addresses
  cost an attacker more than peer ids do.
- Everything a stranger can make grow has a bound.

Specification: github.com/libp2p/specs, kad-dht. Keys and peer ids are placed by their SHA-256.
"""

import hashlib
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from p2p.address import Address, Reach

K = 20
"""Peers in a bucket, holders of a record, results of a lookup (the specification's k)."""
ALPHA = 6
"""Questions in flight in one lookup; the specification suggests 10 for a network of thousands."""
KEY_BITS = 256
SUBNET_IN_BUCKET = 2
SUBNET_IN_TABLE = 10
STALE_AFTER = 1800.0
"""Seconds without an answer after which a peer may be replaced, and a bucket is looked at."""
MAX_FAILURES = 2
"""Questions in a row that a peer may leave unanswered."""
MAX_CANDIDATES = 400
"""Peers that one lookup will remember: honest answers bring under 100."""
MAX_ASKED = 80
"""Peers that one lookup will ask: honest ones end after some 20 to 30."""
MAX_CLOSER = 20
"""Peers taken from one answer."""
MAX_ADDRESSES = 8
"""Addresses taken for one peer of an answer."""


def place(name: bytes) -> int:
    """Return where a key or a peer id lies in the keyspace."""
    return int.from_bytes(hashlib.sha256(name).digest(), "big")


@dataclass(slots=True)
class Entry:
    """A peer in the routing table."""

    peer: str
    place: int
    addresses: tuple[Address, ...]
    seen: float
    failures: int = 0


def subnet(addresses: Iterable[Address]) -> str | None:
    """Return the public /24 or /48 of the first public address, None when there is none."""
    for address in addresses:
        if address.reach is Reach.WORLD and address.kind in ("ip4", "ip6"):
            width = 24 if address.kind == "ip4" else 48
            return str(ipaddress.ip_network(f"{address.host}/{width}", strict=False))
    return None


class RoutingTable:
    """The peers that answered, in buckets by how much of our own place they share."""

    def __init__(self, own: bytes) -> None:
        self.place = place(own)
        self._buckets: dict[int, OrderedDict[str, Entry]] = {}
        self._looked: dict[int, float] = {}
        self._subnets: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def __contains__(self, peer: str) -> bool:
        return any(peer in bucket for bucket in self._buckets.values())

    def answered(self, peer: str, name: bytes, addresses: Sequence[Address], now: float) -> bool:
        """Note that ``peer`` (its id's bytes are ``name``) answered; True when it is new here."""
        where = place(name)
        if where == self.place:
            return False
        index = self._index(where)
        bucket = self._buckets.setdefault(index, OrderedDict())
        known = bucket.get(peer)
        if known is not None:
            known.seen, known.failures = now, 0
            if addresses and subnet(addresses) == subnet(known.addresses):
                known.addresses = tuple(addresses[:MAX_ADDRESSES])
            bucket.move_to_end(peer)
            return False
        network = subnet(addresses)
        if network is not None:
            here = sum(subnet(entry.addresses) == network for entry in bucket.values())
            if here >= SUBNET_IN_BUCKET or self._subnets[network] >= SUBNET_IN_TABLE:
                return False
        if len(bucket) >= K:
            oldest = next(iter(bucket.values()))
            if not oldest.failures and now - oldest.seen < STALE_AFTER:
                return False
            self._drop(index, oldest.peer)
        bucket[peer] = Entry(peer, where, tuple(addresses[:MAX_ADDRESSES]), now)
        if network is not None:
            self._subnets[network] += 1
        return True

    def failed(self, peer: str) -> None:
        """Note that ``peer`` left a question unanswered; twice in a row and it is out."""
        for index, bucket in self._buckets.items():
            entry = bucket.get(peer)
            if entry is not None:
                entry.failures += 1
                bucket.move_to_end(peer, last=False)
                if entry.failures >= MAX_FAILURES:
                    self._drop(index, peer)
                return

    def closest(self, where: int, count: int = K) -> list[Entry]:
        """Return the ``count`` entries nearest to a place, nearest first."""
        return sorted(self.entries(), key=lambda entry: entry.place ^ where)[:count]

    def entries(self) -> list[Entry]:
        """Return all entries."""
        return [entry for bucket in self._buckets.values() for entry in bucket.values()]

    def looked_up(self, where: int, now: float) -> None:
        """Note that a lookup went to ``where``: its bucket needs none for a while."""
        if where != self.place:
            self._looked[self._index(where)] = now

    def stale(self, now: float) -> list[int]:
        """Return the buckets that a lookup should visit: all up to the deepest that has peers."""
        deepest = max((index for index, bucket in self._buckets.items() if bucket), default=-1)
        return [
            index
            for index in range(deepest + 1)
            if now - self._looked.get(index, float("-inf")) >= STALE_AFTER
        ]

    def place_in(self, index: int, salt: int) -> int:
        """Return a place whose bucket is ``index``; ``salt`` chooses among them."""
        bit = 1 << (KEY_BITS - 1 - index)
        return (self.place ^ bit) ^ (salt % bit)

    def _index(self, where: int) -> int:
        return KEY_BITS - (where ^ self.place).bit_length()

    def _drop(self, index: int, peer: str) -> None:
        network = subnet(self._buckets[index].pop(peer).addresses)
        if network is not None:
            self._subnets[network] -= 1


class _State(Enum):
    NEW = 0
    ASKED = 1
    ANSWERED = 2
    FAILED = 3


@dataclass(slots=True)
class Candidate:
    """A peer that a lookup has heard of."""

    peer: str
    distance: int
    addresses: list[Address]
    state: _State = _State.NEW


@dataclass(slots=True)
class Lookup:
    """An iterative lookup: ask ``next()``, report ``answered`` or ``failed``, until ``done``."""

    target: int
    own: str
    _candidates: dict[str, Candidate] = field(default_factory=dict)
    _asked: int = 0
    _in_flight: int = 0

    def hear(self, peer: str, name: bytes, addresses: Iterable[Address]) -> None:
        """Note a peer that may be asked."""
        if peer == self.own:
            return
        known = self._candidates.get(peer)
        if known is not None:
            merged = dict.fromkeys([*known.addresses, *addresses])
            known.addresses = list(merged)[: 2 * MAX_ADDRESSES]
        elif len(self._candidates) < MAX_CANDIDATES:
            few = list(addresses)[:MAX_ADDRESSES]
            self._candidates[peer] = Candidate(peer, place(name) ^ self.target, few)

    def next(self) -> list[Candidate]:
        """Return the peers to ask now, and count them as asked."""
        room = min(ALPHA - self._in_flight, MAX_ASKED - self._asked)
        chosen = [each for each in self._nearest() if each.state is _State.NEW][: max(0, room)]
        for candidate in chosen:
            candidate.state = _State.ASKED
        self._asked += len(chosen)
        self._in_flight += len(chosen)
        return chosen

    def answered(self, peer: str) -> None:
        """Note that ``peer`` answered; what it said was given to ``hear``."""
        self._end(peer, _State.ANSWERED)

    def failed(self, peer: str) -> None:
        """Note that ``peer`` did not answer."""
        self._end(peer, _State.FAILED)

    @property
    def done(self) -> bool:
        """Whether the nearest k of all that was heard of have answered."""
        if self._in_flight:
            return False
        return self._asked >= MAX_ASKED or all(
            each.state is not _State.NEW for each in self._nearest()
        )

    def results(self) -> list[Candidate]:
        """Return the k nearest peers that answered, nearest first."""
        answered = (each for each in self._candidates.values() if each.state is _State.ANSWERED)
        return sorted(answered, key=lambda each: each.distance)[:K]

    def _nearest(self) -> list[Candidate]:
        live = (each for each in self._candidates.values() if each.state is not _State.FAILED)
        return sorted(live, key=lambda each: each.distance)[:K]

    def _end(self, peer: str, state: _State) -> None:
        candidate = self._candidates.get(peer)
        if candidate is not None and candidate.state is _State.ASKED:
            candidate.state = state
            self._in_flight -= 1


RECORD_TIME = 24 * 3600.0
"""Seconds that a provider record is good for, unless it is announced again."""
MAX_RECORDS = 100_000
"""Provider records in all, about 50 MB."""
MAX_RECORDS_PER_PEER = 10_000
"""Provider records of one peer: a mirror of thousands of files, not one who fills the store."""
MAX_PROVIDERS = 64
"""Providers of one key: more than any fetch asks; the newest stay."""
MAX_KEY = 80
"""Bytes of a key, as the specification bounds it; ours have 34."""


@dataclass(slots=True)
class Provider:
    """Who has something, and where it may be dialled."""

    peer: str
    addresses: tuple[Address, ...]
    expires: float
    rank: int = 0
    """Its place in the answer that named it first of all; for a search."""


ANSWERS = 4
"""Answers that it takes at least to end a search: one liar alone can name as many as are wanted."""


class Search:
    """The providers that a lookup hears of; an answer that names many counts no more than others.

    ``found`` may hold some already, and is filled as answers come.
    """

    def __init__(self, found: dict[str, Provider], limit: int) -> None:
        self.found = found
        self._limit = limit
        self._votes = {peer: Counter(known.addresses) for peer, known in found.items()}
        self._named: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether several answers together have named as many as are wanted."""
        return len(self._named) >= self._limit

    def hear(self, answer: Sequence[tuple[str, Sequence[Address]]]) -> None:
        """Note the providers that one answer names; of their addresses those named most stay."""
        named: dict[str, Sequence[Address]] = {}
        for peer, addresses in answer:
            named.setdefault(peer, addresses)
        for rank, (peer, addresses) in enumerate(named.items()):
            votes = self._votes.setdefault(peer, Counter())
            votes.update(list(dict.fromkeys(addresses)))
            likely = tuple(each for each, _ in votes.most_common(2 * MAX_ADDRESSES))
            known = self.found.setdefault(peer, Provider(peer, (), 0.0, rank))
            known.addresses, known.rank = likely, min(known.rank, rank)
        share = max(1, self._limit // ANSWERS)
        self._named.update(list(named)[:share])


def fairly(found: Iterable[Provider], limit: int) -> list[Provider]:
    """Choose the first of each answer, then the second of each, up to ``limit``."""
    return sorted(found, key=lambda each: each.rank)[:limit]


class ProviderRecords:
    """Who provides which key; bounded in all directions."""

    def __init__(self) -> None:
        self._keys: dict[bytes, OrderedDict[str, Provider]] = {}
        self._peers: Counter[str] = Counter()
        self._order: OrderedDict[tuple[bytes, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, key: bytes, peer: str, addresses: Sequence[Address], now: float) -> bool:
        """Store that ``peer`` provides ``key``; False when that would pass a bound."""
        if not 0 < len(key) <= MAX_KEY:
            return False
        if (key, peer) not in self._order and self._peers[peer] >= MAX_RECORDS_PER_PEER:
            return False
        self.remove(key, peer)
        holders = self._keys.setdefault(key, OrderedDict())
        holders[peer] = Provider(peer, tuple(addresses[:MAX_ADDRESSES]), now + RECORD_TIME)
        self._order[key, peer] = None
        self._peers[peer] += 1
        if len(holders) > MAX_PROVIDERS:
            self.remove(key, next(iter(holders)))  # never the last one: the dict stays
        if len(self._order) > MAX_RECORDS:
            self.remove(*next(iter(self._order)))
        return True

    def get(self, key: bytes, now: float) -> list[Provider]:
        """Return the providers of ``key`` whose records are still good, newest first."""
        holders = self._keys.get(key, OrderedDict())
        return [each for each in reversed(holders.values()) if each.expires > now]

    def expire(self, now: float) -> int:
        """Drop the records that are no longer good; return how many."""
        dropped = 0
        while self._order:
            key, peer = next(iter(self._order))
            if self._keys[key][peer].expires > now:
                break
            self.remove(key, peer)
            dropped += 1
        return dropped

    def remove(self, key: bytes, peer: str) -> None:
        """Drop the record that ``peer`` provides ``key``, if there is one."""
        if (key, peer) not in self._order:
            return
        del self._order[key, peer]
        del self._keys[key][peer]
        if not self._keys[key]:
            del self._keys[key]
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
