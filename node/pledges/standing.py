"""How a release stands: who has a healthy copy of it, and what this node is to do about that.

Pure: the time comes in as ``now``, in seconds of any monotonic clock; nothing is asked or moved
here.

A copy counts while its holder says that it has all of the release and has lately given a leaf that
somebody chose by chance. What it says alone counts for nothing, and who has failed a few times in a
row is not counted until a leaf is right again.

Nobody is asked who else has pledged. Peers stand in an order, by the hash of the peer and the
release, which is the same for all:

- *Too few.* Who has no copy waits for its turn, later the further back it stands, looks again, and
  fetches if there are still too few. Those who have begun are seen by what they have so far, which
  grows, and are waited for; not for ever, since that too is only what they say.
- *Too many.* Who took a copy under a pledge lets go of it while ``keep`` + 1 others stand before
  it, each of whom has just now given a leaf. The first ``keep`` + 1 of all holders never see that,
  so however many let go at the same moment, those stay.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2p.cid import CID, Codec

MAX_COPIES: Final = 64
"""Peers that are remembered for a release: far more than anybody wants copies, and peer ids are
free."""
FORGOTTEN: Final = 8
"""Failures in a row after which a peer is not asked any more, unless it is found anew."""
FRESH: Final = 2.5
"""Times between two looks for which an answer stands: one may be lost."""


@dataclass(frozen=True, slots=True)
class Times:
    """How often is looked, and how long is waited; in seconds. ``fails``: in a row, see above."""

    check: float
    """Between two looks while all is well."""
    again: float
    """Before the next look where something was not as it should be."""
    spread: float
    """Over which the turns of those who may fetch are spread."""
    settle: float
    """For which there have to be too many copies before one is let go."""
    patience: float
    """For which who has begun to fetch is waited for."""
    fails: int = 2  # below FORGOTTEN

    @classmethod
    def of(cls, check: float) -> "Times":
        """Return times that go well with a look every ``check`` seconds."""
        return cls(
            check=check,
            again=min(15.0, max(0.5, check / 20)),
            spread=min(30.0, max(2.0, check / 10)),
            settle=check,
            patience=4 * check,
        )


@dataclass(slots=True)
class Copy:
    """What is known of one peer's copy; times by the clock of ``now``."""

    peer: str
    order: float  # its place, 0 to 1
    whole: bool = False  # what it says
    answered: float = -math.inf  # when it last said something
    proved: float = -math.inf  # when it last gave a leaf that was right
    failed: int = 0  # in a row
    have: int = 0  # how much it says it has, where that is not all
    grew: float = -math.inf  # when that last became more
    why: str = ""  # how it last failed


class Act(Enum):
    """What is to be done."""

    REST = "rest"
    FETCH = "fetch"
    LET_GO = "let go"


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now, and when to look again."""

    act: Act
    at: float


@dataclass(frozen=True, slots=True)
class Mine:
    """How this node's own copy stands.

    ``whole``: it is all here and good. ``taken``: it was taken under a pledge, or is being.
    ``pinned``: the owner wants it. ``fetching``: it is on its way. ``may_fetch``: policy, budget
    and what runs already leave room for it.
    """

    whole: bool = False
    taken: bool = False
    pinned: bool = False
    fetching: bool = False
    may_fetch: bool = True


def order(peer: str, manifest: CID) -> float:
    """Return the place of a peer among those who keep a release: the same for all, 0 to 1."""
    digest = CID.of(b"allod keeps " + bytes(manifest) + peer.encode(), Codec.RAW).digest
    return int.from_bytes(digest[:7]) / (1 << 56)


class Standing:
    """How one release stands, as far as this node knows; ``keep``: copies that are wanted."""

    def __init__(self, me: str, manifest: CID, keep: int, times: Times) -> None:
        self.me = me
        self.manifest = manifest
        self.keep = keep
        self.times = times
        self.copies: dict[str, Copy] = {}
        self.every = times.check
        """Seconds from one look to the next, as it turned out."""
        self.took = 0.0
        """Seconds that the last look took."""
        self.prove_every = times.check
        """Seconds after which a leaf is asked for again; more where much is pledged."""
        self.short_since: float | None = None
        self.many_since: float | None = None
        self._order = order(me, manifest)
        self._not_before = -math.inf
        self._tries = 0

    # -- what was seen

    def answered(self, peer: str, now: float, *, whole: bool, have: int = 0) -> Copy | None:
        """Note what a peer says that it has; None if there is no room to remember it."""
        copy = self.copies.get(peer)
        if copy is None:
            if not self._make_room():
                return None
            copy = self.copies[peer] = Copy(peer, order(peer, self.manifest))
        if not whole and have > copy.have:
            copy.grew = now
        copy.whole, copy.have, copy.answered = whole, have, now
        return copy

    def proved(self, peer: str, now: float) -> None:
        """Note that a peer gave a leaf that was right."""
        copy = self.copies[peer]
        copy.proved, copy.failed, copy.why = now, 0, ""

    def failed(self, peer: str, why: str, *, final: bool = False) -> None:
        """Note that a peer did not answer, or not rightly; ``final``: there is no doubt."""
        copy = self.copies.get(peer)
        if copy is not None:
            copy.failed = max(copy.failed + 1, self.times.fails if final else 0)
            copy.why = why
            if copy.failed >= FORGOTTEN:
                del self.copies[peer]

    def lacks(self, peer: str) -> None:
        """Note that a peer says that it has nothing of it."""
        self.copies.pop(peer, None)

    def _make_room(self) -> bool:
        """Forget who is out for good, at need; False where all that are remembered are better."""
        if len(self.copies) < MAX_COPIES:
            return True
        worst = max(self.copies.values(), key=lambda one: (one.failed, not one.whole))
        if not worst.failed and worst.whole:
            return False
        del self.copies[worst.peer]
        return True

    # -- what that means

    def is_healthy(self, copy: Copy, now: float) -> bool:
        """Say whether a copy counts."""
        every = max(self.every, self.times.check)
        return (
            copy.whole
            and copy.failed < self.times.fails
            and now - copy.answered <= FRESH * every
            and now - copy.proved <= FRESH * max(self.prove_every, every)
        )

    def healthy(self, now: float) -> list[Copy]:
        """Return the copies that count, in their order; this node's own is not among them."""
        found = [copy for copy in self.copies.values() if self.is_healthy(copy, now)]
        return sorted(found, key=lambda copy: copy.order)

    def due(self, copy: Copy, now: float) -> bool:
        """Say whether a peer is to be asked for a leaf, and not only what it has."""
        doubt = copy.failed > 0 or self.many_since is not None
        return doubt or now - copy.proved >= 0.9 * self.prove_every

    def _coming(self, now: float) -> int:
        """How many are seen to fetch it."""
        return sum(
            not copy.whole
            and not copy.failed
            and now - copy.grew <= FRESH * max(self.every, self.times.check)
            for copy in self.copies.values()
        )

    # -- what is to be done

    def fetch_failed(self, now: float) -> None:
        """Note that a fetch of this node's failed: the next waits, longer each time."""
        wait = min(self.times.check, self.times.again * 2.0**self._tries)
        self._not_before, self._tries = now + wait, min(self._tries + 1, 16)

    def fetched(self) -> None:
        """Note that a fetch of this node's came to its end."""
        self._tries = 0

    def step(self, now: float, mine: Mine) -> Step:
        """Decide what is to be done after a look; remembers since when there were too few."""
        others = self.healthy(now)
        if mine.whole:
            return self._with_copy(now, mine, others)
        if len(others) < self.keep:
            return self._too_few(now, mine, len(others))
        self.short_since = None
        if mine.taken and not mine.fetching and not mine.pinned:  # a part that nobody needs now
            return self._let_go(now)
        self.many_since = None
        return self._rest(now)

    def _too_few(self, now: float, mine: Mine, count: int) -> Step:
        times = self.times
        self.many_since = None
        if self.short_since is None:
            self.short_since = now
        if mine.fetching or not mine.may_fetch:
            return self._rest(now)
        # Where a look takes long, who is before me has to have begun before my second one.
        spread = max(times.spread, 3 * self.took)
        turn = max(self.short_since + self._order * spread, self._not_before)
        if now < turn:
            return Step(Act.REST, turn)
        waits = now - self.short_since < times.patience
        if waits and count + self._coming(now) >= self.keep:
            return Step(Act.REST, now + times.again)
        return Step(Act.FETCH, now + times.again)

    def _with_copy(self, now: float, mine: Mine, others: list[Copy]) -> Step:
        self.short_since = None
        before = [copy for copy in others if copy.order < self._order]
        if mine.taken and not mine.pinned and len(before) > self.keep:
            if self.many_since is None or now - self.many_since < self.times.settle:
                return self._let_go(now)
            last = now - self.times.again
            sure = [one for one in before if min(one.answered, one.proved) >= last]
            if len([one for one in sure if not one.failed]) > self.keep:
                return self._let_go(now)
            return Step(Act.REST, now + self.times.again)
        self.many_since = None
        return self._rest(now)

    def _let_go(self, now: float) -> Step:
        """Let go once there have been too many for long enough."""
        if self.many_since is None:
            self.many_since = now
        end = self.many_since + self.times.settle
        return Step(Act.LET_GO, now + self.times.again) if now >= end else Step(Act.REST, end)

    def _rest(self, now: float) -> Step:
        """Look again after the usual time, or soon where a copy that counts has failed once."""
        doubt = any(
            0 < copy.failed < self.times.fails and copy.whole for copy in self.copies.values()
        )
        return Step(Act.REST, now + (self.times.again if doubt else self.times.check))
