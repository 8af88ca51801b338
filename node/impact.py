"""``allod impact``: what descends from a release, as far as this machine knows.

Asked when a release turns out bad, or when the consent behind a dataset is withdrawn.
Two things name parents: the statements of the releases that this store holds, and the lists of the
publishers whose metadata it has, which also name releases that are not here. Nobody can be made to
list a descendant, so the answer is what is known, never all that there is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import trio

from node.ancestry import MAX_NODES
from node.messages import RefParams
from node.naming import NamingNode, whose
from node.provenance import People
from node.store import Release, Store
from p2p.cid import CID
from p2p.errors import NotFound, VerificationFailed
from p2p.manifest import parse_manifest
from p2p.naming import Named
from p2p.parcel import parents as parents_of
from p2p.references import parse_reference, share_link

Json = dict[str, Any]


async def _named(text: str, node: NamingNode) -> CID:
    """Return the manifest that a reference names, also one that is not held, or not good."""
    reference = parse_reference(text)
    if reference.manifest is not None:
        return reference.manifest
    assert reference.publisher is not None
    publisher = await trio.to_thread.run_sync(whose, reference.publisher, node)
    names = await node.store.publishers.names(publisher)
    found = [
        one
        for one in (names.entries if names is not None else ())
        if one.name == reference.name and reference.version in (None, one.version)
    ]
    if not found:
        raise NotFound(
            f"Nothing is known here of {text}.",
            next="Name it by its manifest's CID, which is known to whoever has a descendant.",
        )
    return max(found, key=lambda one: one.sequence).manifest


@dataclass(slots=True)
class _Known:
    """A release that somebody named, and what it was made from."""

    cid: CID
    publisher: str
    name: str
    version: str
    kind: str
    parents: tuple[CID, ...]
    held: bool = False
    status: Json | None = None


@dataclass(slots=True)
class _Family:
    """Who descends from whom."""

    known: dict[CID, _Known] = field(default_factory=dict)
    children: dict[CID, list[CID]] = field(default_factory=dict)

    def add(self, one: _Known) -> None:
        before = self.known.get(one.cid)
        if before is None:
            self.known[one.cid] = one
            for parent in one.parents:
                self.children.setdefault(parent, []).append(one.cid)
        else:
            before.status = before.status or one.status


async def impact(params: RefParams, node: NamingNode) -> Json:
    """Return what descends from a release: the JSON object of ``allod impact --json``.

    The release itself need not be here, and may have been taken back: then it is asked for most.
    """
    cid = await _named(params.ref, node)
    family = await _family(node.store)
    people = await trio.to_thread.run_sync(People, node)
    found: list[Json] = []
    due, met = [cid], {cid}
    depth = 0
    while due and len(found) < MAX_NODES:
        depth += 1
        below, level = [], []
        for parent in due:
            for child in family.children.get(parent, ()):
                if child not in met:
                    met.add(child)
                    below.append(child)
                    level.append(_shown(family.known[child], parent, depth, people))
        found += sorted(level, key=lambda one: (one["name"], one["version"], one["manifest"]))
        due = below
    return {"ok": True, "manifest": str(cid), "releases": found[:MAX_NODES], "cut": bool(due)}


def _shown(one: _Known, parent: CID, depth: int, people: People) -> Json:
    return {
        "ref": share_link(one.publisher, one.name, one.cid, ()),
        "manifest": str(one.cid),
        "publisher": one.publisher,
        "petname": people.petname(one.publisher),
        "name": one.name,
        "version": one.version,
        "kind": one.kind,
        "depth": depth,
        "parent": str(parent),
        "held": one.held,
        "status": one.status,
    }


async def _family(store: Store) -> _Family:
    """Gather all releases that are known here."""
    family = _Family()
    for release in await store.releases():
        parents = await _parents(store, release)
        family.add(
            _Known(
                release.manifest_cid,
                release.publisher,
                release.name,
                release.version,
                release.kind,
                parents,
                held=True,
            )
        )
    for publisher in await store.publishers.ids():
        held = await store.publishers.held(publisher)
        if held is not None:
            for one in _listed(publisher, held.names.entries):
                family.add(one)
    return family


async def _parents(store: Store, release: Release) -> tuple[CID, ...]:
    statement = await store.statement(release.manifest_cid)
    if statement is None:
        return ()
    try:
        manifest = await trio.to_thread.run_sync(parse_manifest, statement.payload)
    except VerificationFailed:
        return ()
    return tuple(parents_of(manifest))


def _listed(publisher: str, entries: Iterable[Named]) -> Iterable[_Known]:
    for one in entries:
        status = one.status
        yield _Known(
            one.manifest,
            publisher,
            one.name,
            one.version,
            one.kind,
            one.parents,
            status=None
            if status is None
            else {"state": status.state, "reason": status.reason, "at": status.at},
        )
