"""What one peer may take of this node, and the account that says what it has taken.

Pure: time comes in as ``now`` (seconds of any monotonic clock), nothing is logged or closed here.
A decision is returned, and the host carries it out: serve, answer 429, reset a stream, drop a peer.

An account is kept while its peer is connected and for a while after, so that hanging up and
calling again does not wipe the slate; the book of accounts is bounded, oldest first out.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """The bounds on strangers; every default has its reason here."""

    connections: int = 512
    """Connections in all: at about 100 KB each this is 50 MB, and under a file limit of 1,024."""
    connections_per_address: int = 64
    """From one IP address: an office or a campus behind one, not one machine filling the table."""
    handshakes: int = 64
    """Connections that are still shaking hands: half-open ones end after ``handshake_time``."""
    handshakes_per_address: int = 16
    handshake_time: float = 10.0
    """Seconds from accept to an authenticated, multiplexed connection."""
    streams: int = 64
    """Open inbound streams of one peer: a fetcher uses under ten, a DHT lookup three."""
    requests: int = 32
    """Requests of one peer that are being worked on at the same time."""
    request_rate: float = 500.0
    """Requests a second of one peer, in the long run: a third of a core, or 500 small files."""
    request_burst: float = 2000.0
    """Requests at once before the rate counts: a folder of some thousand files, in seconds."""
    bodies: int = 64 << 20
    """Bytes of requests' bodies that are held at the same time, of all peers: eight of the largest,
    and a thousand conversations of the usual length."""
    bodies_per_peer: int = 16 << 20
    """Of one peer: two of the largest."""
    body_rate: float = 1 << 20
    """Bytes of bodies a second of one peer, in the long run: a conversation is some 10 KiB."""
    body_burst: float = 32 << 20
    """Bytes of bodies at once before the rate counts."""
    dht_rate: float = 50.0
    """DHT messages a second of one peer: a lookup asks one peer once."""
    dht_burst: float = 200.0
    """Announcing a folder of 200 files asks the same neighbour for each."""
    fault_rate: float = 0.1
    """Forgiven breaches of protocol a second."""
    fault_burst: float = 16.0
    """Breaches before the peer is dropped."""
    ban_time: float = 60.0
    """Seconds that a peer which was dropped for its faults stays out."""


class TokenBucket:
    """``burst`` tokens at first, refilled at ``rate`` a second."""

    __slots__ = ("_burst", "_rate", "_then", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._then = now

    def take(self, now: float, tokens: float = 1.0) -> float:
        """Take tokens and return 0.0, or take none and return the seconds until they are there."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._then) * self._rate)
        self._then = now
        if self._tokens >= tokens:
            self._tokens -= tokens
            return 0.0
        return (tokens - self._tokens) / self._rate


class Account:
    """What one peer holds and has had."""

    __slots__ = (
        "_bodies",
        "_dht",
        "_faults",
        "_limits",
        "_requests",
        "banned_until",
        "bytes_in",
        "bytes_out",
        "held",
        "in_flight",
        "silenced",
        "streams",
        "told",
    )

    def __init__(self, limits: PeerLimits, now: float) -> None:
        self._limits = limits
        self._requests = TokenBucket(limits.request_rate, limits.request_burst, now)
        self._bodies = TokenBucket(limits.body_rate, limits.body_burst, now)
        self._dht = TokenBucket(limits.dht_rate, limits.dht_burst, now)
        self._faults = TokenBucket(limits.fault_rate, limits.fault_burst, now)
        self.streams = 0
        self.in_flight = 0
        self.held = 0
        """Bytes of bodies of its requests that are being answered, or still come."""
        self.bytes_in = 0
        """Bytes of stream payload that this peer sent us."""
        self.bytes_out = 0
        """Bytes of stream payload that we sent this peer: what it was answered."""
        self.banned_until = 0.0
        self.told = float("-inf")
        """When a fault of this peer was last logged."""
        self.silenced = 0
        """Faults that were not logged since."""

    def open_stream(self) -> bool:
        """Count a new inbound stream; False when the peer has too many."""
        if self.streams >= self._limits.streams:
            return False
        self.streams += 1
        return True

    def close_stream(self) -> None:
        """Count the end of a stream that ``open_stream`` admitted."""
        self.streams -= 1

    def open_request(self, now: float) -> float:
        """Count a request and return 0.0, or the seconds after which the peer may ask again."""
        if self.in_flight >= self._limits.requests:
            return 1.0
        wait = self._requests.take(now)
        if wait == 0.0:
            self.in_flight += 1
        return wait

    def close_request(self) -> None:
        """Count the end of a request that ``open_request`` admitted."""
        self.in_flight -= 1

    def open_body(self, now: float, size: int) -> float:
        """Count a body that is to come and return 0.0, or the seconds after which it may."""
        if self.held + size > self._limits.bodies_per_peer:
            return 1.0
        wait = self._bodies.take(now, size)
        if wait == 0.0:
            self.held += size
        return wait

    def close_body(self, size: int) -> None:
        """Count the end of a body that ``open_body`` admitted."""
        self.held -= size

    def dht_message(self, now: float) -> bool:
        """Count a DHT message; False when the peer sends too many."""
        return self._dht.take(now) == 0.0

    def fault(self, now: float) -> bool:
        """Count a breach of protocol; True when the peer must be dropped, and it is banned then."""
        if self._faults.take(now) == 0.0:
            return False
        self.ban(now, self._limits.ban_time)
        return True

    def ban(self, now: float, seconds: float) -> None:
        """Keep the peer out for ``seconds`` from ``now`` on, or longer if it already is."""
        self.banned_until = max(self.banned_until, now + seconds)

    def banned(self, now: float) -> bool:
        """Say whether the peer is kept out."""
        return now < self.banned_until


MAX_ACCOUNTS = 4096
"""Accounts in the book, about 1 KB each: peer ids are free, so there must be an end."""

LOG_INTERVAL = 60.0
"""Seconds between two log lines about one peer's faults."""


class Book:
    """The accounts of all peers, by peer id; bounded, the longest unused and idle go first."""

    def __init__(self, limits: PeerLimits, size: int = MAX_ACCOUNTS) -> None:
        self.limits = limits
        self.held = 0
        """Bytes of all bodies that are held."""
        self._size = size
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def account(self, peer: str, now: float) -> Account:
        """Return the peer's account, a new one at need."""
        found = self._accounts.get(peer)
        if found is None:
            self._make_room(now)
            found = self._accounts[peer] = Account(self.limits, now)
        else:
            self._accounts.move_to_end(peer)
        return found

    def banned(self, peer: str, now: float) -> bool:
        """Say whether the peer is kept out; asking opens no account."""
        found = self._accounts.get(peer)
        return found is not None and found.banned(now)

    def count_banned(self, now: float) -> int:
        """Return how many peers are kept out."""
        return sum(account.banned(now) for account in self._accounts.values())

    def open_body(self, account: Account, now: float, size: int) -> float:
        """Count a body of this peer as ``Account.open_body`` does, if there is room for it."""
        if self.held + size > self.limits.bodies:
            return 1.0
        wait = account.open_body(now, size)
        if wait == 0.0:
            self.held += size
        return wait

    def close_body(self, account: Account, size: int) -> None:
        """Count the end of a body that ``open_body`` admitted."""
        account.close_body(size)
        self.held -= size

    def log_line(self, peer: str, now: float) -> int | None:
        """Say whether a fault may be logged: the faults left out since the last line, or None."""
        account = self.account(peer, now)
        if now - account.told < LOG_INTERVAL:
            account.silenced += 1
            return None
        silenced, account.silenced, account.told = account.silenced, 0, now
        return silenced

    def _make_room(self, now: float) -> None:
        while len(self._accounts) >= self._size:
            peer = next(
                (
                    peer
                    for peer, account in self._accounts.items()
                    if not account.streams and not account.in_flight and not account.banned(now)
                ),
                next(iter(self._accounts)),
            )
            del self._accounts[peer]
