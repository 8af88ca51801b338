"""``allod bundle import``: from one file to releases that are held and served. Reads top to bottom.

1  the statements     all of them, and whose they are
2  the policy         whether they are let in; before the first file is kept
3  room               for everything that is not here yet
4  the files          leaf by leaf; each is hashed before it is written, also those that are here
5  the end            the file must end where it must, and what came must be what it seemed
6  the record         the ancestors, and the release itself last
7  the announcement   if this node is on the network

No network is touched. A file in which one bit is wrong leaves no release behind; of its leaves
the good ones stay for the next try, and `allod gc` frees them. What publishers say of themselves is
kept as soon as it is verified: it is good, or not, whatever else is in the file.
"""

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import trio

from node.gate import Asked, Gate
from node.messages import BundleImportParams, Note, Report
from node.naming import taken_back
from node.parcels.intake import Arrived, Intake
from node.store import Store, durable
from node.upkeep import release_keys
from p2p import parcel
from p2p.bundles import keep_bundles
from p2p.cid import CID
from p2p.errors import NotFound, QuotaExceeded, UsageError, VerificationFailed
from p2p.manifest import Manifest, parse_manifest
from p2p.naming import (
    Metadata,
    authenticate,
    files_of,
    metadata_of,
    newer,
    read_names,
    signing_keys,
)
from p2p.references import share_link

Json = dict[str, Any]


class ImportNode(Protocol):
    """What an import needs of a node."""

    @property
    def store(self) -> Store: ...
    @property
    def gate(self) -> Gate: ...
    def spread(self, cids: list[CID]) -> list[str]:
        """Announce these if this node is on the network; its addresses, none if it is not."""
        ...


async def import_bundle(params: BundleImportParams, node: ImportNode, report: Report) -> Json:
    """Take the file in; returns the JSON object of ``allod bundle import --json``."""
    path = Path(params.file)
    store = node.store
    async with AsyncExitStack() as stack:
        stream = await durable.on_disk("read the bundle", lambda: _open(path))
        stack.callback(stream.close)
        events = parcel.read_parcel(stream.readinto)
        statements = await _next(events)
        assert isinstance(statements, parcel.Statements)
        metadata, arrived = await _listen(statements, store)
        if params.lean:
            for one in list(arrived.values())[1:]:
                one.files = False
        first = next(iter(arrived.values())).manifest
        report(
            Note(
                f"{first.name} {first.version} by {first.publisher}: "
                f"{len(arrived)} release{'s' if len(arrived) > 1 else ''}, all signatures checked"
            )
        )
        if not params.dry_run:
            for publisher, came in metadata.items():
                await store.publishers.put(publisher, came)
        _check_standing(first, metadata[first.publisher])
        await _admit(params, arrived, node)
        total = sum(one.manifest.size for one in arrived.values() if one.files)
        if not params.dry_run:
            await _check_room(store, total)
        whole = sum(one.manifest.size for one in statements.releases if one.files)
        intake = Intake(store, arrived, whole, report, keep=not params.dry_run)
        await stack.enter_async_context(intake)
        while (event := await _next(events)) is not None:
            await intake.take(event)
            if isinstance(event, parcel.Release) and event.listing is not None:
                await _admit(params, arrived, node)  # only now its files are known
        await intake.finish()
    if not params.dry_run:
        entries = [file for one in arrived.values() if one.files for file in one.manifest.files]
        if await node.gate.look_into(entries):
            await _admit(params, arrived, node)
        await _record(node, arrived, params.pin)
        await node.gate.remember(first.publisher)
        for one in arrived.values():
            if one.files:
                node.spread(release_keys(one.manifest))
    return await _result(params, statements, arrived, intake, node)


async def _admit(
    params: BundleImportParams, arrived: Mapping[CID, Arrived], node: ImportNode
) -> None:
    """Step 2: Refused unless the policy lets in every release whose files are to be kept.

    Whoever says yes to the publisher of the release need not say it for each of the ancestors'.
    """
    known = {cid: (one.manifest, one.bundles) for cid, one in arrived.items()}
    asked = Asked(yes=params.yes, ask=params.ask)
    for one in arrived.values():
        if one.files:
            await node.gate.admit(one.manifest, one.bundles, asked, known=known)
        asked = Asked(yes=params.yes)


def _open(path: Path) -> Any:
    if not path.is_absolute():
        raise UsageError(f"A bundle's file needs a whole path, {path} is none.")
    try:
        return path.open("rb", buffering=1 << 20)
    except FileNotFoundError as exc:
        raise NotFound(f"There is no file {path}.") from exc
    except IsADirectoryError as exc:
        raise UsageError(f"{path} is a folder, and a bundle is one file.") from exc


async def _next(events: Iterator[parcel.Opened]) -> parcel.Opened | None:
    return await durable.on_disk("read the bundle", lambda: next(events, None))


async def _listen(
    statements: parcel.Statements, store: Store
) -> tuple[dict[str, Metadata], dict[CID, Arrived]]:
    """Step 1: whose word this is; what this node knows better than the bundle counts."""
    publishers = {one.manifest.publisher for one in statements.releases}
    publishers |= statements.publishers.keys()
    held = {publisher: await store.publishers.get(publisher) for publisher in publishers}

    def work() -> tuple[dict[str, Metadata], dict[CID, Arrived]]:
        known = {
            publisher: _known(publisher, held[publisher], statements.publishers.get(publisher))
            for publisher in publishers
        }
        return known, {
            one.manifest.cid: Arrived(
                one.manifest, _bundles(one, known[one.manifest.publisher]), one.files
            )
            for one in statements.releases
        }

    return await trio.to_thread.run_sync(work)


def _bundles(one: parcel.Stated, metadata: Metadata) -> tuple[bytes, ...]:
    """Return what is signed about a release, its publisher's first and what others say after it."""
    publisher, payload = one.manifest.publisher, one.manifest.payload
    good = authenticate(payload, one.signatures, metadata)
    owners = {key for keys, _ in signing_keys(publisher, metadata.roots) for key in keys}
    return keep_bundles(payload, good, one.signatures, owners)


def _known(publisher: str, held: Metadata | None, files: Mapping[str, bytes] | None) -> Metadata:
    """What is known of a publisher after the bundle was read."""
    if files is not None:
        came = metadata_of(files)
        if files_of(came) != files:
            raise VerificationFailed(
                f"The bundle brings files of {publisher}'s metadata that belong to no state of it."
            )
        return newer(publisher, held, came, now=None)
    if held is None:
        raise VerificationFailed(
            f"The bundle does not say whose keys are those of {publisher}, and nobody here knows.",
            next="Ask for a bundle of today's making.",
        )
    return held


def _check_standing(manifest: Manifest, metadata: Metadata) -> None:
    """Refused for a release that its publisher took back, whatever the policy says."""
    named = read_names(manifest.publisher, metadata, now=None).of(manifest.cid)
    if named is not None and named.status is not None:
        raise taken_back(named.path, named.status)


async def _check_room(store: Store, total: int) -> None:
    """Step 3: say at once when it will not fit; what is here already may make it fit after all."""
    usage = await store.usage()
    if usage.quota is not None and total > usage.quota:
        raise QuotaExceeded(
            f"The bundle's files have {total:,} bytes, the store's quota is {usage.quota:,}.",
            next="Raise store.quota.",
        )


async def _record(node: ImportNode, arrived: dict[CID, Arrived], pin: bool) -> None:
    """Step 6: the release itself last, so that it is never here without its ancestors."""
    store = node.store
    for cid, one in reversed(arrived.items()):
        known = await store.release(cid)
        complete = one.files or (known is not None and known.complete)
        if complete and not one.files:
            one.manifest = await _known_manifest(store, one.manifest)
        await store.record(
            one.manifest,
            one.bundles,
            pin=pin or (known is not None and known.pinned),
            complete=complete,
            directory_blocks=one.folders,
        )
        if complete:
            await store.view(await node.gate.let_in(one.manifest, one.bundles))


async def _known_manifest(store: Store, manifest: Manifest) -> Manifest:
    """The manifest with its files, where this store has them and the bundle did not."""
    known = await store.manifest(manifest.cid)
    if manifest.listing is None or known is None or known[2] is None:
        return manifest
    return await trio.to_thread.run_sync(parse_manifest, manifest.payload, known[2])


async def _result(
    params: BundleImportParams,
    statements: parcel.Statements,
    arrived: dict[CID, Arrived],
    intake: Intake,
    node: ImportNode,
) -> Json:
    release = next(iter(arrived.values()))
    first = release.manifest
    path = None
    if not params.dry_run:
        path = str(await node.store.view(await node.gate.let_in(first, release.bundles)))
    total = sum(one.manifest.size for one in arrived.values() if one.files)
    result: Json = {
        "ok": True,
        "ref": share_link(first.publisher, first.name, first.cid, ()),
        "bundle": str(statements.cid),
        "manifest": str(first.cid),
        "root": str(first.root),
        "path": path,
        "releases": [
            {
                "manifest": str(cid),
                "publisher": one.manifest.publisher,
                "name": one.manifest.name,
                "version": one.manifest.version,
                "files": one.files,
            }
            for cid, one in arrived.items()
        ],
        "publishers": sorted(statements.publishers),
        "missing": [str(cid) for cid in statements.index.missing],
        "bytes": {"total": total, "read": intake.read, "new": intake.new},
    }
    if params.dry_run:
        result["dryRun"] = True
    return result
