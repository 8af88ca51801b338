"""``allod provenance``: where a release comes from, worked out anew from signatures.

Everything is read from this store and no network is asked, so the answer is the same on a plane;
what this machine doesn't know it says.

For each release of the lineage: its statement, whether its publisher signed it, what the publisher
has said of it since, what others say of it, and what doesn't fit between its licence and those of
its parents.
"""

from datetime import UTC, datetime
from typing import Any

import trio

from node.ancestry import Ancestor, Ancestry, Parent, ancestry
from node.holdings import link
from node.naming import NamingNode
from node.store import Release
from node.store.publishers import Held
from p2p.attest import Attestation
from p2p.bundles import read_attestations
from p2p.envelope import open_bundle
from p2p.errors import VerificationFailed
from p2p.keys import PublicKey
from p2p.licenses import Finding, Terms, findings, read_terms
from p2p.manifest import Manifest
from p2p.naming import authenticate, signing_keys

Json = dict[str, Any]


class People:
    """Publishers as this machine knows them: what they are called, what they say, their keys."""

    def __init__(self, node: NamingNode) -> None:
        self._store = node.store
        self._names = {id: name for name, id in node.petnames().items()}
        for name in node.keyring.names():
            self._names[node.keyring.repository(name).id] = name
        self._held: dict[str, Held | None] = {}
        self._keys: dict[str, frozenset[PublicKey]] = {}

    def petname(self, publisher: str) -> str | None:
        """Return what the owner of this machine calls a publisher."""
        return self._names.get(publisher)

    async def held(self, publisher: str) -> Held | None:
        """Return what this store holds of a publisher's own word."""
        if publisher not in self._held:
            self._held[publisher] = await self._store.publishers.held(publisher)
        return self._held[publisher]

    async def keys(self, publisher: str) -> frozenset[PublicKey]:
        """Return the keys that sign for a publisher now; none where nothing is known of it."""
        if publisher not in self._keys:
            held = await self.held(publisher)
            keys: frozenset[PublicKey] = frozenset()
            if held is not None:
                keys = signing_keys(publisher, held.metadata.roots)[-1][0]
            self._keys[publisher] = keys
        return self._keys[publisher]


async def look(node: NamingNode, release: Release) -> Json:
    """Return the lineage of a release as ``--json`` prints it, without a verdict."""
    chain = await ancestry(node.store, release.manifest_cid)
    people = await trio.to_thread.run_sync(People, node)
    return {
        "ok": True,
        "ref": link(release),
        "verdict": "unjudged",
        "rule": "",
        "reason": "",
        "evidence": [],
        "cut": chain.cut,
        "chain": [await _release(one, chain, people) for one in chain],
    }


async def _release(one: Ancestor, chain: Ancestry, people: People) -> Json:
    manifest = one.manifest
    shown: Json = {
        "manifest": str(one.cid),
        "depth": one.depth,
        "here": manifest is not None,
        "complete": one.complete,
        "parents": [_parent(parent) for parent in one.parents],
        "verdict": None,
    }
    if manifest is None:
        return shown
    held = await people.held(manifest.publisher)
    status = held.taken.get(one.cid) if held is not None else None
    description = manifest.statement["predicate"].get("description", "")
    said = await trio.to_thread.run_sync(read_attestations, one.bundles)
    return shown | {
        "publisher": manifest.publisher,
        "petname": people.petname(manifest.publisher),
        "name": manifest.name,
        "version": manifest.version,
        "kind": manifest.kind,
        "created": manifest.created,
        "size": manifest.size,
        "files": len(manifest.files) if manifest.listing is None else manifest.listing.files,
        "license": str(manifest.license.get("spdx", "")),
        "description": description if isinstance(description, str) else "",
        "consent": dict(manifest.consent),
        "signatures": await trio.to_thread.run_sync(_signatures, manifest, one.bundles, held),
        "names": _names(held),
        "status": None
        if status is None
        else {"state": status.state, "reason": status.reason, "at": status.at},
        "findings": [_finding(each) for each in _misfits(manifest, one.parents, chain)],
        "statements": [await _statement(each, people) for each in said if each.manifest == one.cid],
    }


def _parent(parent: Parent) -> Json:
    return {
        "role": parent.role,
        "relation": parent.relation,
        "manifest": None if parent.manifest is None else str(parent.manifest),
        "uri": parent.uri,
        "name": parent.name,
    }


def _signatures(manifest: Manifest, bundles: tuple[bytes, ...], held: Held | None) -> Json:
    """Check who signed, by what is known of the publisher's keys today."""
    if held is None:
        reason = f"nothing is known here of the keys of {manifest.publisher}"
        return {"ok": False, "keys": [], "reason": reason}
    try:
        good = authenticate(manifest.payload, bundles, held.metadata)
    except VerificationFailed as exc:
        return {"ok": False, "keys": [], "reason": exc.message}
    roles = signing_keys(manifest.publisher, held.metadata.roots)
    own = frozenset[PublicKey]().union(*(keys for keys, _ in roles))
    keys = [key.did for key in (open_bundle(data).key for data in good) if key in own]
    return {"ok": True, "keys": keys, "reason": ""}


def _names(held: Held | None) -> Json | None:
    if held is None:
        return None
    names = held.names
    return {
        "version": names.version,
        "expires": f"{names.expires:%Y-%m-%dT%H:%M:%SZ}",
        "stale": names.stale(datetime.now(UTC)),
    }


def _misfits(
    manifest: Manifest, parents: tuple[Parent, ...], chain: Ancestry
) -> tuple[Finding, ...]:
    """Hold the licence against those of the parents that are known."""
    known: list[tuple[str, str, Terms]] = []
    for parent in parents:
        above = chain.releases.get(parent.manifest) if parent.manifest is not None else None
        if above is not None and above.manifest is not None:
            called = f"{above.manifest.name} {above.manifest.version}"
            terms = read_terms(str(above.manifest.license.get("spdx", "")))
            known.append((parent.role, called, terms))
    return findings(read_terms(str(manifest.license.get("spdx", ""))), known)


def _finding(one: Finding) -> Json:
    return {"level": one.level, "rule": one.rule, "text": one.text, "parent": one.parent}


async def _statement(said: Attestation, people: People) -> Json:
    return {
        "kind": said.kind,
        "publisher": said.publisher,
        "petname": people.petname(said.publisher),
        "key": said.key.did,
        "known": said.key in await people.keys(said.publisher),
        "passed": said.passed,
        "at": said.at,
        "text": said.text,
    }
