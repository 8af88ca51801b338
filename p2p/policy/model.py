"""A policy: what the owner of a node lets in, keeps and passes on.

It is data alone: ``reader`` makes it of text, ``judge`` applies it, and what is attached to it when
it is loaded (deny lists, the policies of communities) is here too.

How its parts stand to each other:

- a deny list and a publisher's own revocation beat everything;
- of the owner's rules, all that match a release must hold;
- what the owner's rules say nothing about is decided by the defaults below;
- a community's rules must hold besides: they forbid more, and never less.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal

from p2p.keys import PublicKey
from p2p.policy.deny import DenyList
from p2p.policy.web import Web

Tofu = Literal["ask", "never", "always"]

FORMATS: Final = (
    "safetensors", "gguf", "onnx", "tflite", "tensorflow", "keras", "pickle", "code",
)  # fmt: skip
"""The formats that a rule can name; every other file is plain data, and always let in."""

MODEL_FORMATS: Final = frozenset({"safetensors", "gguf"})
"""The default for models: weights that are numbers and nothing else."""
DATASET_FORMATS: Final = frozenset(FORMATS) - {"pickle"}
"""The default for datasets: nothing runs by being looked at, except what unpickles itself."""


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody whose word a rule counts: a publisher by id, or one key; ``name`` is as written."""

    name: str
    publisher: str | None = None
    key: PublicKey | None = None

    @property
    def voice(self) -> object:
        """Who it is, whatever he is called here: one publisher under two names is one."""
        return self.publisher or self.key


@dataclass(frozen=True, slots=True)
class Need:
    """So many statements, by different ones of ``by`` (empty: of all who are trusted)."""

    count: int
    by: tuple[Party, ...] = ()
    max_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Licenses:
    """Which licences are let in: SPDX ids, patterns of them, or families; None allows all."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lineage:
    """What the ancestors of a release may be; None where the rule says nothing."""

    depth: int | None = None
    unknown: Literal["allow", "refuse"] | None = None
    revoked: Literal["allow", "refuse"] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ``where`` is how a verdict names it. An empty selector matches everything."""

    where: str
    kinds: tuple[str, ...] = ()
    publishers: tuple[Party, ...] = ()
    names: tuple[str, ...] = ()
    refuse: str = ""
    signatures: Need | None = None
    endorsements: Need | None = None
    evaluations: Need | None = None
    licenses: Licenses | None = None
    formats: frozenset[str] | None = None
    lineage: Lineage = Lineage()
    stale: Literal["refuse", "warn"] | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A community's policy that the owner follows: the reference of its release.

    ``endorsers``: the publishers that it names count where a rule says no names.
    """

    ref: str
    endorsers: bool = True


@dataclass(frozen=True, slots=True)
class Community:
    """The policy of a community as it was loaded, and which subscription brought it."""

    where: str
    endorsers: bool
    policy: "Policy"


@dataclass(frozen=True, slots=True)
class Policy:
    """What ``policy.toml`` says; what it says nothing of has its default here.

    ``publishers``: petname to publisher id. ``deny``: files of deny lists. ``lists`` and
    ``communities`` are attached by whoever loaded them.
    """

    publishers: Mapping[str, str] = field(default_factory=dict)
    tofu: Tofu = "ask"
    stale: Literal["refuse", "warn"] = "refuse"
    rules: tuple[Rule, ...] = ()
    deny: tuple[str, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    web: Web = field(default_factory=Web)
    lists: tuple[DenyList, ...] = ()
    communities: tuple[Community, ...] = ()

    def petname(self, publisher: str) -> str | None:
        """Return the name that the owner gave this publisher, the first in the file."""
        return next((name for name, id in self.publishers.items() if id == publisher), None)

    def trusted(self) -> tuple[Party, ...]:
        """Return everybody whose word counts where a rule says no names."""
        own = [Party(name, publisher=id) for name, id in self.publishers.items()]
        for community in self.communities:
            if community.endorsers:
                known = community.policy.publishers.items()
                own += [Party(f"{community.where}:{name}", publisher=id) for name, id in known]
        return tuple(own)
