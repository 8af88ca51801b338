"""Which of this node's addresses lead here, as far as others tried: votes, and the verdict on them.

Knows addresses and what peers answered; must not know how they were asked (``p2p.autonat``), nor
routers (``p2p.portmap``). It decides by itself and asks no clock: time comes in as ``now``.

One peer's word is worth little, so the rules are:

- a vote counts for the network that it comes from (a /16, or a /32 of IPv6), however many peers
  there say the same; peers of one network that disagree say nothing
- three networks that have an opinion decide, by majority; a tie leaves the verdict as it is
- while there are fewer, only peers that the owner named are believed, by majority too
- an address is confirmed when two networks came in by it, or a named peer while those decide
- votes end after some time, and all of them when the addresses of this machine change
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import trio

from p2p.address import Address, Reach, ip_of

Verdict = Literal["public", "private", "unknown"]

QUORUM = 3
"""Networks that decide against any one liar."""
ENOUGH = 5
"""Networks with a fresh opinion that make more questions needless: two liars among them fail."""
CONFIRMED_BY = 2
"""Networks that must have come in by an address."""
ASK_AGAIN = 900.0
"""Seconds that an opinion is fresh, and that a peer is left in peace."""
VOTE_TIME = 2.5 * ASK_AGAIN
"""Seconds that a vote counts: two rounds in which its peer cannot be asked."""
MAX_VOTES = 64
"""Votes that are kept: a round asks eight peers."""
MAX_ASKED = 1024
"""Peers that are remembered as asked."""


def neighbourhood(host: str) -> str | None:
    """Return the network of a public IP address whose peers count as one; None of another."""
    ip = ip_of(host)
    if ip is None or not ip.is_global or ip.is_multicast:
        return None
    width = 16 if ip.version == 4 else 32
    return str(ipaddress.ip_network(f"{ip}/{width}", strict=False))


@dataclass(frozen=True, slots=True)
class Vote:
    """What one peer found when it tried this node's addresses."""

    peer: str
    network: str
    """Of the peer: see ``neighbourhood``."""
    kind: str
    """"ip4" or "ip6": what it tried."""
    worked: Address | None
    """The address by which it came in, without a peer id; None: by none of them."""
    at: float

    @property
    def weight(self) -> int:
        """1 for an address that works, -1 for none."""
        return -1 if self.worked is None else 1


class Reachability:
    """The votes of one host and what follows from them; the host has it as ``reachability``."""

    def __init__(
        self, *, named: Collection[str] = (), moved: Callable[[], None] = lambda: None
    ) -> None:
        """``named``: peers that the owner trusts enough to name; ``moved``: told of changes."""
        self.verdict: Verdict = "unknown"
        self.confirmed: tuple[Address, ...] = ()
        """The addresses that were seen to work from outside, without the peer id."""
        self.mapped: Address | None = None
        """Where the router says that it passes connections on to this node."""
        self.changed = trio.Event()
        """Set, and replaced, whenever one of these changes."""
        self.era = 0
        """Counts the times that all began anew: an answer to an earlier question is no vote."""
        self._ports: dict[int, int] = {}
        self._named = frozenset(named)
        self._moved = moved
        self._votes: OrderedDict[str, Vote] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()

    # --- what it knows ---

    def vote(self, vote: Vote) -> None:
        """Count a vote in place of the same peer's earlier one."""
        self._votes.pop(vote.peer, None)
        self._votes[vote.peer] = vote
        while len(self._votes) > MAX_VOTES:
            self._votes.popitem(last=False)
        self._judge()

    def expire(self, now: float) -> None:
        """Let old votes go."""
        old = [vote.peer for vote in self._votes.values() if now - vote.at > VOTE_TIME]
        for peer in old:
            del self._votes[peer]
        if old:
            self._judge()

    def forget(self) -> None:
        """Begin anew: the addresses that the votes were about are no longer this machine's."""
        self.era += 1
        self._asked.clear()
        if self._votes:
            self._votes.clear()
            self._judge()

    def map(self, address: Address | None, ports: Mapping[int, int] | None = None) -> None:
        """Note what the router passes on: to where, and the outer port of each inner one."""
        ports = dict(ports or {}) if address is not None else {}
        if (address, ports) == (self.mapped, self._ports):
            return
        self.mapped, self._ports = address, ports
        self.forget()
        self._tell()

    # --- what others are told ---

    def told(self, interfaces: Sequence[Address]) -> list[Address]:
        """Choose from this machine's own addresses, and add what is known besides.

        What leads into this network only is kept: nobody outside can check it. Of those that lead
        far, what nobody has tried yet is kept too, and what was tried must have worked.
        """
        if self.verdict == "unknown":
            found = [*interfaces, *([self.mapped] if self.mapped is not None else [])]
        else:
            tried = {vote.kind for vote in self._votes.values()}
            kept = [
                one for one in interfaces if one.reach is not Reach.WORLD or one.kind not in tried
            ]
            found = [*self.confirmed, *kept]
        return list(dict.fromkeys(found))

    def outside(self, address: Address, port: int) -> int:
        """Return by which port of ``address`` others get to this machine's ``port``."""
        if self.mapped is not None and address.host == self.mapped.host:
            return self._ports.get(port, port)
        return port

    def report(self) -> dict[str, str | list[str] | None]:
        """Return the verdict and what stands behind it, for JSON."""
        return {
            "verdict": self.verdict,
            "confirmed": [str(one) for one in self.confirmed],
            "mapped": str(self.mapped) if self.mapped is not None else None,
        }

    # --- whom to ask ---

    def to_ask(self, peers: Iterable[tuple[str, str]], now: float, most: int) -> list[str]:
        """Choose up to ``most`` of these peers, given with their networks, one of each network.

        None while enough networks have a fresh opinion; the owner's own first.
        """
        fresh = {vote.network for vote in self._votes.values() if now - vote.at < ASK_AGAIN}
        room = max(0, ENOUGH - len(fresh))
        chosen: dict[str, str] = {}
        for peer, network in sorted(peers, key=lambda one: one[0] not in self._named):
            again = self._asked.get(peer, float("-inf")) + ASK_AGAIN
            taken = network in chosen or network in fresh
            if again <= now and (not taken or peer in self._named):
                chosen.setdefault(network if not taken else peer, peer)
        return list(chosen.values())[: min(most, room)]

    def asked(self, peer: str, now: float) -> None:
        """Note that a peer is being asked, whatever comes of it."""
        self._asked.pop(peer, None)
        self._asked[peer] = now
        while len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)

    # --- the verdict ---

    def _judge(self) -> None:
        before = self.verdict, self.confirmed
        votes = list(self._votes.values())
        opinions = _opinions(votes)
        needed = CONFIRMED_BY
        if len(opinions) >= QUORUM:
            balance: int | None = sum(opinions.values())
            votes = [vote for vote in votes if vote.network in opinions]
        else:
            votes = [vote for vote in votes if vote.peer in self._named]
            balance = sum(vote.weight for vote in votes) if votes else None
            needed = 1
        if balance is None:
            self.verdict, self.confirmed = "unknown", ()
        elif balance < 0:
            self.verdict, self.confirmed = "private", ()
        elif balance > 0:
            self.confirmed = _supported(votes, needed)
            self.verdict = "public" if self.confirmed else "unknown"
        if (self.verdict, self.confirmed) != before:
            self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
        self._moved()


def _opinions(votes: Iterable[Vote]) -> dict[str, int]:
    """Return 1 or -1 for each network that has an opinion."""
    sums: dict[str, int] = {}
    for vote in votes:
        sums[vote.network] = sums.get(vote.network, 0) + vote.weight
    return {network: 1 if total > 0 else -1 for network, total in sums.items() if total}


def _supported(votes: Iterable[Vote], needed: int) -> tuple[Address, ...]:
    """Return the addresses by which peers of so many networks came in."""
    networks: dict[Address, set[str]] = {}
    for vote in votes:
        if vote.worked is not None:
            networks.setdefault(vote.worked, set()).add(vote.network)
    return tuple(sorted(one for one, found in networks.items() if len(found) >= needed))
