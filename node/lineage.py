"""Lineage: which releases a publisher means, and what their licences ask of the new one.

What stands in a statement has to mean the same to everybody. So a name like ``alice/base``, which
means something on this machine only, becomes the CID of the manifest that it names here; one that
names nothing here stays a name, and the publisher hears of it.
"""

from dataclasses import replace

from node.holdings import find_release
from node.keyring import Keyring
from node.messages import Note, PublishParams, Report
from node.store import Store
from p2p.cid import CID
from p2p.errors import NotFound, UsageError
from p2p.licenses import Finding, Terms, findings, read_terms
from p2p.manifest import Manifest
from p2p.references import parse_reference


async def resolve_parents(
    params: PublishParams, store: Store, keyring: Keyring, report: Report
) -> PublishParams:
    """Return the params with the manifests' CIDs for those parents that this store holds."""

    async def resolve(text: str) -> str:
        try:
            if parse_reference(text).manifest is not None:
                return text
        except UsageError:  # an address, or a mistake that the statement's parts will tell
            return text
        try:
            return str((await find_release(store, keyring, text)).manifest_cid)
        except NotFound:
            report(
                Note(
                    f"{text} is not held here, so the release will name it in words only; fetch it "
                    "first, or give its manifest CID, and others can follow the lineage.",
                    "warning",
                )
            )
            return text

    return replace(
        params,
        base=tuple([await resolve(text) for text in params.base]),
        data=tuple([await resolve(text) for text in params.data]),
    )


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
    return findings(read_terms(manifest.license.get("spdx", "")), parents)
