"""What a release descends from, as far as this store knows it: the statements of its whole lineage.

Nothing here touches the network, and nothing is believed that isn't in the store, whose manifests
have the CID by which their children name them. So nobody can stand between a release and its base;
but a release may name as its base what it never was made from: that is its publisher's word.

A lineage is a graph: two parents may have one parent in common, so each release is met once, the
nearest first. It cannot run in a circle, for a manifest can't hold its own hash.
It can be as large as strangers like, so it is followed within bounds, and says where it was cut.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from p2p.cid import CID
from p2p.errors import VerificationFailed
from p2p.manifest import Manifest, parse_manifest

if TYPE_CHECKING:
    from node.store import Store

MAX_DEPTH: Final = 64
"""Generations: chains of fine-tunes that people publish have five or six."""
MAX_NODES: Final = 10_000
"""Releases in a lineage: a merge of merges has dozens."""
MAX_BYTES: Final = 128 << 20
"""Bytes of all manifests of a lineage that are read: most have some thousand each."""


Known: TypeAlias = Mapping[CID, tuple[Manifest, Sequence[bytes]]]
"""Checked manifests with their bundles, by their CIDs."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What a release says it was made from: ``manifest``, or else a ``uri`` or a ``name``."""

    role: str
    relation: str
    manifest: CID | None
    uri: str
    name: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Parent":
        """Read an entry of a checked lineage."""
        cid = CID.parse(entry["manifest"]) if "manifest" in entry else None
        words = (str(entry.get(key, "")) for key in ("role", "relation", "uri", "name"))
        role, relation, uri, name = words
        return cls(role, relation, cid, uri, name)


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A release of the lineage: ``depth`` generations back, 0 for the one that was asked for.

    ``manifest`` is None where this store does not have it; ``complete``: its files are here too.
    """

    cid: CID
    depth: int
    manifest: Manifest | None
    bundles: tuple[bytes, ...]
    complete: bool
    parents: tuple[Parent, ...]


@dataclass(frozen=True, slots=True)
class Ancestry:
    """A lineage: the release itself first, then its ancestors, nearest first, each once.

    ``cut``: there is more behind it than is followed.
    """

    releases: Mapping[CID, Ancestor]
    cut: bool

    @property
    def first(self) -> Ancestor:
        """The release that was asked for."""
        return next(iter(self.releases.values()))

    @property
    def missing(self) -> list[CID]:
        """Those of which this store has no statement."""
        return [one.cid for one in self.releases.values() if one.manifest is None]

    def __iter__(self) -> Iterator[Ancestor]:
        return iter(self.releases.values())


async def ancestry(store: "Store", cid: CID, known: Known | None = None) -> Ancestry:
    """Follow the lineage of a release through this store; a release that it lacks is ``missing``.

    ``known``: statements that are not recorded, such as those of a release about which it has to be
    decided whether it is taken.
    Manifests are checked as on arrival; who signed them is for the caller to look into.
    """
    known = known or {}
    found: dict[CID, Ancestor] = {}
    due, met, size, cut = [cid], {cid}, 0, False
    for depth in range(MAX_DEPTH + 1):
        below: list[CID] = []
        for one in due:
            if len(found) >= MAX_NODES or size > MAX_BYTES:
                return Ancestry(found, True)
            ancestor = await _read(store, one, depth, known.get(one))
            found[one] = ancestor
            size += len(ancestor.manifest.payload) if ancestor.manifest is not None else 0
            for parent in ancestor.parents:
                if parent.manifest is not None and parent.manifest not in met:
                    met.add(parent.manifest)
                    below.append(parent.manifest)
        due = below
        if not due:
            break
        cut = depth == MAX_DEPTH
    return Ancestry(found, cut)


async def _read(
    store: "Store", cid: CID, depth: int, given: tuple[Manifest, Sequence[bytes]] | None
) -> Ancestor:
    if given is not None:
        manifest, bundles = given
        return Ancestor(cid, depth, manifest, tuple(bundles), False, _parents(manifest))
    statement = await store.statement(cid)
    if statement is None:
        return Ancestor(cid, depth, None, (), False, ())
    try:
        manifest = await trio.to_thread.run_sync(parse_manifest, statement.payload)
    except VerificationFailed:  # recorded by a version that asked less; as good as not there
        return Ancestor(cid, depth, None, (), False, ())
    release = await store.release(cid)
    return Ancestor(
        cid,
        depth,
        manifest,
        statement.bundles,
        release is not None and release.complete,
        _parents(manifest),
    )


def _parents(manifest: Manifest) -> tuple[Parent, ...]:
    return tuple(Parent.of(entry) for entry in manifest.lineage)
