"""``allod bundle export``: a release and its whole lineage into one file. Reads top to bottom.

1  what goes in        the release, its ancestors, who signed them, whose names they bear
2  what is missing     said before anything is written
3  the index           the one thing that must be known before the first byte
4  the bytes           statements, then folders and leaves, each leaf hashed once more on its way
5  the name            the file has it only when it is whole

The bytes go through one buffer of some MiB, however large the files are.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from node.ancestry import Ancestor, Ancestry, ancestry
from node.holdings import find_release, link
from node.messages import BundleExportParams, Progress, Report
from node.parcels.writing import open_writer
from node.store import Store, durable
from p2p import parcel
from p2p.bundles import read_attestations
from p2p.cid import CID
from p2p.envelope import MAX_BUNDLES
from p2p.errors import NotFound, UsageError
from p2p.manifest import Manifest
from p2p.naming import files_of

if TYPE_CHECKING:
    from node.keyring import Keyring

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes in: ``files`` of those releases whose files go along."""

    releases: tuple[Ancestor, ...]
    files: frozenset[CID]
    missing: tuple[CID, ...]
    metadata: Mapping[str, Mapping[str, bytes]]

    def index(self) -> parcel.Index:
        """Name every statement."""
        return parcel.Index(
            tuple(
                parcel.ReleasePart(
                    parcel.Item.of(_manifest(one).payload),
                    tuple(map(parcel.Item.of, one.bundles[:MAX_BUNDLES])),
                    one.cid in self.files,
                )
                for one in self.releases
            ),
            tuple(
                parcel.PublisherPart(
                    publisher,
                    tuple((name, parcel.Item.of(data)) for name, data in files.items()),
                )
                for publisher, files in sorted(self.metadata.items())
            ),
            self.missing,
        )

    def statements(self) -> list[bytes]:
        """Return the bytes of all statements, in the order of the index."""
        said = [data for _, files in sorted(self.metadata.items()) for data in files.values()]
        for one in self.releases:
            said += [_manifest(one).payload, *one.bundles[:MAX_BUNDLES]]
        return said


async def export_bundle(
    params: BundleExportParams, store: Store, keyring: "Keyring", report: Report
) -> Json:
    """Write the file; returns the JSON object of ``allod bundle export --json``."""
    release = await find_release(store, keyring, params.ref)
    target = Path(params.file)
    _check_target(target)
    with store.using(release.manifest_cid):
        chain = await ancestry(store, release.manifest_cid)
        plan = _plan(chain, params, await _metadata(store, chain))
        index = parcel.write_index(plan.index())
        temp = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            size = await _write(temp, index, plan, store, report)
            await durable.on_disk("write the bundle", lambda: _finish(temp, target))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: temp.unlink(missing_ok=True))
    return {
        "ok": True,
        "ref": link(release),
        "file": str(target),
        "bundle": str(parcel.Item.of(index).cid),
        "size": size,
        "releases": [
            {
                "manifest": str(one.cid),
                "publisher": _manifest(one).publisher,
                "name": _manifest(one).name,
                "version": _manifest(one).version,
                "files": one.cid in plan.files,
            }
            for one in plan.releases
        ],
        "publishers": sorted(plan.metadata),
        "missing": [str(cid) for cid in plan.missing],
    }


def _check_target(target: Path) -> None:
    if not target.is_absolute():
        raise UsageError(f"A bundle's file needs a whole path, {target} is none.")
    if target.exists():
        raise UsageError(
            f"{target} is there already, and a bundle replaces no file.",
            next="Give another name, or remove it first.",
        )
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent} to write the bundle into.")


def _plan(
    chain: Ancestry, params: BundleExportParams, metadata: Mapping[str, Mapping[str, bytes]]
) -> _Plan:
    """Steps 1 and 2: NotFound where the bundle would not be whole and nobody asked for less."""
    missing = sorted(chain.missing, key=str)
    if chain.cut:
        raise UsageError("This lineage is longer than any bundle may hold.")
    if missing and not params.partial:
        raise NotFound(
            f"This store lacks {len(missing)} of the {len(chain.releases)} releases of the "
            f"lineage, the first {missing[0]}.",
            next=f"`allod fetch {missing[0]}` gets it; --partial leaves out what is not here.",
        )
    releases = tuple(one for one in chain if one.manifest is not None)
    files = set()
    for one in releases:
        if one.complete and not (params.lean and one.depth):
            files.add(one.cid)
        elif not one.depth or not (params.lean or params.partial):
            raise NotFound(
                f"Of {_manifest(one).name} {_manifest(one).version} this store has only a part.",
                next=f"`allod fetch {one.cid}` gets the rest"
                + ("; --lean takes the ancestors' statements alone." if one.depth else "."),
            )
    return _Plan(releases, frozenset(files), tuple(missing), metadata)


async def _metadata(store: Store, chain: Ancestry) -> Mapping[str, Mapping[str, bytes]]:
    """What the publishers of these releases say, by which their signatures are checked.

    And what those say who speak for one of them, so that their word can be held against their keys.
    """
    publishers: dict[str, None] = {}
    for one in chain:
        if one.manifest is not None:
            publishers[one.manifest.publisher] = None
            said = await trio.to_thread.run_sync(read_attestations, one.bundles)
            publishers |= dict.fromkeys(each.publisher for each in said)
    found = {}
    for publisher in publishers:
        metadata = await store.publishers.get(publisher)
        if metadata is not None:
            found[publisher] = dict(sorted(files_of(metadata).items()))
    return found


async def _write(temp: Path, index: bytes, plan: _Plan, store: Store, report: Report) -> int:
    """Step 4; returns how many bytes the file has."""
    total = sum(_manifest(one).size for one in plan.releases if one.cid in plan.files)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        report(Progress("export", done=done, total=max(done, total)))

    async with open_writer(temp, store, count) as writer:
        await writer.statements(index, plan.statements())
        for one in plan.releases:
            if one.cid in plan.files:
                await writer.release(_manifest(one))
        return await writer.finish()


def _finish(temp: Path, target: Path) -> None:
    """Step 5: the name, unless somebody took it meanwhile."""
    if target.exists():
        raise UsageError(f"{target} came to be while the bundle was written.")
    durable.rename(temp, target)
    durable.sync_folder(target.parent)


def _manifest(one: Ancestor) -> Manifest:
    assert one.manifest is not None
    return one.manifest
