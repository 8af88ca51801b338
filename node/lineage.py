"""Lineage: which releases a publisher means, and what their licences ask of the new one.

What stands in a statement has to mean the same to everybody. So a name like ``alice/base``, which
means something on this machine only, becomes the CID of the manifest that it names here, whether
that release is held or only its publisher's list is known; one that names nothing here stays a
name, and the publisher hears of it.
"""

from collections.abc import Mapping
from dataclasses import replace

from node.holdings import find_release, spell_out
from node.keyring import Keyring
from node.messages import Note, PublishParams, Report
from node.store import Store
from p2p.cid import CID
from p2p.errors import NotFound, UsageError
from p2p.licenses import Finding, Terms, findings, read_terms
from p2p.manifest import Manifest
from p2p.naming import Status
from p2p.references import parse_reference


async def resolve_parents(
    params: PublishParams,
    store: Store,
    keyring: Keyring,
    petnames: Mapping[str, str],
    report: Report,
) -> PublishParams:
    """Return the params with the manifests' CIDs for those parents that are known here.

    ``petnames``: what the owner calls publishers. A parent that was taken back is told of.
    """

    async def resolve(text: str) -> str:
        try:
            text = spell_out(text, keyring, petnames)
        except UsageError:  # an address, or a mistake that the statement's parts will tell
            return text
        try:
            manifest, status = await _known(text, store, keyring)
        except NotFound:
            report(
                Note(
                    f"{text} is not known here, so the release will name it in words only; fetch "
                    "it first, or give its manifest CID, and others can follow the lineage.",
                    "warning",
                )
            )
            return text
        if status is not None:
            report(Note(f"{text} was {status.state}: {status.reason}", "warning"))
        return str(manifest)

    return replace(
        params,
        base=tuple([await resolve(text) for text in params.base]),
        data=tuple([await resolve(text) for text in params.data]),
    )


async def _known(text: str, store: Store, keyring: Keyring) -> tuple[CID, Status | None]:
    """Return what a reference names, and why it is no longer good; ``NotFound``."""
    reference = parse_reference(text)
    if reference.manifest is not None:
        release = await store.release(reference.manifest)
        taken = await store.publishers.seen(release.publisher) if release is not None else {}
        return reference.manifest, taken.get(reference.manifest)
    assert reference.publisher is not None
    assert reference.name is not None
    publisher = reference.publisher
    if publisher in keyring.names():
        publisher = keyring.repository(publisher).id
    names = await store.publishers.names(publisher)
    named = names.find(reference.name, reference.version) if names is not None else None
    if named is not None:
        return named.manifest, named.status
    return (await find_release(store, keyring, text)).manifest_cid, None


async def license_findings(store: Store, manifest: Manifest) -> tuple[Finding, ...]:
    """Return what does not fit between a release's licence and those of its held parents."""
    parents: list[tuple[str, str, Terms]] = []
    for parent in manifest.lineage:
        if "manifest" not in parent:
            continue
        release = await store.release(CID.parse(parent["manifest"]))
        if release is not None:
            name = f"{release.name} {release.version}"
            parents.append((parent["role"], name, read_terms(release.license)))
    if not parents:
        return ()
    return findings(read_terms(manifest.license.get("spdx", "")), parents)
