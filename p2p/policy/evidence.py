"""What is known about a release when a policy is asked about it.

Facts only: what was signed, by which keys, what its publisher and others say of it now, what its
bytes are. Whoever gathers it has verified every signature; whether anybody is to be believed is the
policy's to say.

Statements and statuses come as their modules read them; only what a policy needs of them is named
here. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from p2p.cid import CID
from p2p.keys import PublicKey
from p2p.manifest import Manifest
from p2p.terms import is_origin

MAX_DEPTH: Final = 64
"""Generations of ancestors that are looked at, as everywhere that lineage is walked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a file turned out to be: the format, in words why, and the code that it names.

    ``names``: the files beside it that it makes somebody import; a name with ``--`` in it is of
    another repository.
    """

    format: str
    why: str
    names: tuple[str, ...] = ()


class Statement(Protocol):
    """What somebody says about a release: an endorsement, an evaluation, a review."""

    @property
    def kind(self) -> str: ...
    @property
    def key(self) -> PublicKey: ...
    @property
    def publisher(self) -> str: ...
    @property
    def passed(self) -> bool | None: ...
    @property
    def at(self) -> str: ...


class Fate(Protocol):
    """That a publisher has revoked a release, or withdrawn the consent behind it."""

    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True, slots=True)
class File:
    """A file of a release: those that are fetched, or held."""

    path: str
    cid: CID


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest says, as far as a policy asks; ``parents``: None for one without a CID."""

    cid: CID
    root: CID
    kind: str
    publisher: str
    name: str
    version: str
    license: str
    consent: Mapping[str, Any]
    parents: tuple[CID | None, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> "Facts":
        """Take them from a manifest that was checked."""
        return cls(
            cid=manifest.cid,
            root=manifest.root,
            kind=manifest.kind,
            publisher=manifest.publisher,
            name=manifest.name,
            version=manifest.version,
            license=str(manifest.license.get("spdx", "")),
            consent=manifest.consent,
            parents=tuple(
                CID.parse(parent["manifest"]) if "manifest" in parent else None
                for parent in manifest.lineage
                if not is_origin(parent)
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Evidence:
    """Everything about one release that a verdict rests on.

    ``signers``: keys whose signatures over the manifest are good. ``keys``: by publisher id, the
    keys that sign for it now, as far as its metadata is known. ``chain``: the parents whose
    manifests are known. ``contents``: what files turned out to be. ``paths``: all paths of the
    release, for what a file names beside it is judged by itself. ``stale``: a name led here through
    metadata that has expired. ``own``: it was published on this machine. ``seen``: a release of
    this publisher was let in before. ``serving``: the question is whether to pass it on, not
    whether to take it.
    """

    facts: Facts
    now: datetime
    files: Sequence[File] = ()
    signers: frozenset[PublicKey] = frozenset()
    keys: Mapping[str, frozenset[PublicKey]] = field(default_factory=dict)
    attestations: Sequence[Statement] = ()
    status: Fate | None = None
    chain: Sequence["Evidence"] = ()
    contents: Mapping[CID, Finding] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    stale: bool = False
    own: bool = False
    seen: bool = False
    serving: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says: yes or no, by which rule, why in one sentence, resting on what.

    ``asks``: no, unless a person says yes to this publisher. ``next``: what one can do about a no.
    """

    admitted: bool
    rule: str
    reason: str
    evidence: tuple[str, ...] = ()
    asks: bool = False
    next: str = ""
