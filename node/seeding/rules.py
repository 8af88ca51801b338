"""Who is given what is held, when, and how much: one decision, from facts that are handed in.

Pure: knows no clock, socket or store. ``now`` is the owner's local time, with its offset.

- The audience of a release is the narrower of ``seeding.audience`` and what its licence is given.
- The group is given to wherever anybody is: only an audience of none leaves it out.
- What belongs to several releases is given if one of them may be.
- Hours, month and ratio hold for everybody, the group too; the ratio not for own publications,
  since a node that only publishes has fetched nothing.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from p2p.address import ip_of
from p2p.licenses import read_terms
from p2p.licenses.expressions import choices

if TYPE_CHECKING:
    from node.settings import SeedingSettings

Audience = Literal["public", "lan", "group", "none"]
Reason = Literal["audience", "hours", "month", "ratio"]
AUDIENCES: Final[tuple[Audience, ...]] = ("public", "lan", "group", "none")
"""The widest first."""
REASONS: Final[tuple[Reason, ...]] = ("audience", "hours", "month", "ratio")

LEAF: Final = 1 << 20
"""Bytes that must be left of the month: where not even a leaf fits, it is used up."""
RATIO_AGAIN: Final = 3600.0
"""Seconds after which to ask again where the ratio is reached: nobody knows when more comes."""
DAY: Final = 24 * 60  # minutes

_NEAR: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8",
        "fc00::/7", "fe80::/10", "::1/128",
    )
)  # fmt: skip
"""Private, link-local and loopback. Not 100.64.0.0/10: behind that are a provider's customers."""

_TO: Final = {
    "lan": "on its own network and in its group",
    "group": "in its group",
    "none": "",
}


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: a peer id, or an address; ``near``: over a connection of the local network."""

    peer: str
    near: bool


@dataclass(frozen=True, slots=True)
class Release:
    """What is asked of a release: its licence, and whether this machine published it."""

    license: str
    own: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes: sent in this month, sent and fetched of all time."""

    month: int
    sent: int
    fetched: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not given now: an HTTP status, a sentence, seconds until it may be."""

    reason: Reason
    status: int
    sentence: str
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What the owner chose; ``hours``: minutes of the day, from and to, None for all of it."""

    audience: Audience = "public"
    group: frozenset[str] = frozenset()
    by_license: tuple[tuple[str, Audience], ...] = ()
    hours: tuple[int, int] | None = None
    month: int | None = None
    ratio: float | None = None

    @classmethod
    def of(cls, chosen: "SeedingSettings") -> "Rules":
        """Take them from the configuration, which has checked every word."""
        hours: tuple[int, int] | None = None
        if chosen.hours != "always":
            begin, _, end = chosen.hours.partition("-")
            hours = _minute(begin), _minute(end) % DAY
        return cls(
            audience=_audience(chosen.audience),
            group=frozenset(chosen.group),
            by_license=tuple(
                (name, _audience(to))
                for name, _, to in (rule.rpartition("=") for rule in chosen.by_license)
            ),
            hours=hours,
            month=chosen.month,
            ratio=chosen.ratio,
        )

    @property
    def open(self) -> bool:
        """Whether everything is given to everybody at all times: nothing need be asked."""
        return self.public and self.hours is None and self.month is None and self.ratio is None

    @property
    def public(self) -> bool:
        """Whether all that is held is for everybody."""
        return self.audience == "public" and not self.by_license

    @property
    def asks_releases(self) -> bool:
        """Whether it matters to which release something belongs."""
        return bool(self.by_license) or self.ratio is not None

    def audience_of(self, release: Release | None) -> Audience:
        """Return to whom a release is given; None: what belongs to none that is held."""
        found = [self.audience]
        if release is not None and self.by_license:
            names = _names(release.license)
            found += [to for name, to in self.by_license if name in names]
        return max(found, key=AUDIENCES.index)

    def admits(self, audience: Audience, asker: Asker) -> bool:
        """Say whether an asker is of an audience."""
        if audience in ("public", "none"):
            return audience == "public"
        return asker.peer in self.group or (audience == "lan" and asker.near)


def decide(
    rules: Rules,
    asker: Asker,
    releases: Sequence[Release],
    now: datetime,
    counts: Counts,
    size: int = 0,
) -> Refusal | None:
    """Say why ``size`` bytes of what belongs to ``releases`` are not given now; None: they are."""
    asked: Sequence[Release | None] = releases or (None,)
    offered = {one: rules.audience_of(one) for one in asked}
    given = [one for one, audience in offered.items() if rules.admits(audience, asker)]
    if not given:
        widest = _TO[min(offered.values(), key=AUDIENCES.index)]
        said = f"gives this only to those {widest}" if widest else "does not give this to others"
        return Refusal("audience", 403, f"This node {said}.")
    own = any(one is not None and one.own for one in given)
    return closed(rules, now, counts, size=size, own=own)


def closed(
    rules: Rules, now: datetime, counts: Counts, *, size: int = 0, own: bool = False
) -> Refusal | None:
    """Say why nobody is given anything now; None: the hours are open, and something is left."""
    if rules.hours is not None:
        begin, end = rules.hours
        at = now.hour * 60 + now.minute
        if (at - begin) % DAY >= (end - begin) % DAY:
            wait = ((begin - at) % DAY) * 60.0 - now.second
            said = f"This node gives from {_clock(begin)} to {_clock(end)} of its day."
            return Refusal("hours", 429, said, wait)
    if rules.month is not None and counts.month + max(size, LEAF) > rules.month:
        first = next_month(now)
        said = f"This node has given what it gives in a month; it begins anew on {first:%Y-%m-%d}."
        return Refusal("month", 429, said, (first - now).total_seconds())
    if rules.ratio is not None and not own and counts.sent >= rules.ratio * counts.fetched:
        said = f"This node has given {rules.ratio:g} times what it has fetched, and gives no more."
        return Refusal("ratio", 429, said, RATIO_AGAIN)
    return None


def next_month(now: datetime) -> datetime:
    """Return the beginning of the next calendar month."""
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first.replace(year=now.year + now.month // 12, month=now.month % 12 + 1)


def is_near(host: str) -> bool:
    """Say whether an IP address is of this machine or of a local network."""
    address = ip_of(host)
    return address is not None and any(address in network for network in _NEAR)


@lru_cache(maxsize=1024)  # a store has many releases and few licences
def _names(expression: str) -> frozenset[str]:
    """Return the families of a licence expression, and the licences that hold in all its choices.

    What an OR leaves free is taken in the milder way, as everywhere (``p2p.licenses``).
    """
    found: set[str] = set(read_terms(expression).families)
    weighed = choices(expression)
    if weighed:
        found |= frozenset.intersection(*(frozenset(map(_bare, one)) for one in weighed))
    return frozenset(found)


def _bare(license: str) -> str:
    """Return a licence without its exception, its "or later", and the document that defines it."""
    return license.partition(" WITH ")[0].rpartition(":")[2].removesuffix("+")


def _audience(word: str) -> Audience:
    return next(one for one in AUDIENCES if one == word)


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
