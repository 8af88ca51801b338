"""Bring the index in line with what lies on disk: after a crash, or when there is no index.

The disk is right and the index is wrong, always.
A file whose facts no record knows gets a row without facts, so it is hashed before anyone relies on
it; that costs time once, and nothing is believed without a reason.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import trio

from node.store import durable
from node.store.file_rows import FileRow
from node.store.layout import temporary
from node.store.outlines import discard
from node.store.releases import (
    Record,
    Releases,
    folder_blocks,
    listing_of,
    named_files,
    read_statement,
    release_row,
)
from node.store.shelf import Shelf
from p2p.chunking import LEAF_SIZE
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.errors import VerificationFailed
from p2p.manifest import Manifest, parse_manifest

_BATCH = 1000  # files in one transaction


@dataclass(slots=True)
class _Disk:
    """What was found lying there."""

    blobs: set[CID]
    outlines: set[CID]
    records: dict[CID, Record]
    nameless: list[CID]  # manifests without a record that could be read
    rows: dict[CID, FileRow] = field(default_factory=dict)  # what the records say of files


async def reconcile(shelf: Shelf, releases: Releases) -> None:
    """Make the index say what the disk says. Run before anybody else uses the store."""
    disk = await durable.on_disk("look through the store", lambda: _survey(shelf))
    await _reconcile_outlines(shelf, disk)
    await _reconcile_files(shelf, disk)
    await _reconcile_releases(shelf, releases, disk)


def _survey(shelf: Shelf) -> _Disk:
    layout = shelf.layout
    # Whatever an earlier process left unsynced: from here on, what can be seen is safe.
    if not durable.sync_disk(layout.root):
        os.sync()
    disk = _Disk(set(layout.blobs_there()), set(layout.outlines_there()), {}, [])
    for manifest in layout.manifests_there():
        record = Record.read(layout.manifest(manifest))
        if record is None:
            disk.nameless.append(manifest)
            continue
        disk.records[manifest] = record
        disk.rows.update((row.cid, row) for row in record.rows())
    # A commit that was cut short can leave a second name for what is whole already.
    discard(layout.partial(cid) for cid in layout.partials_there() if cid in disk.blobs)
    return disk


async def _reconcile_outlines(shelf: Shelf, disk: _Disk) -> None:
    known = await shelf.rows.outlines(disk.outlines)
    found = []
    for cid in disk.outlines - known:
        outline = await shelf.outlines.get(cid)  # a damaged one is deleted there
        if outline is not None:
            found.append(outline)
    await shelf.outlines.written(found)
    lost = await shelf.rows.all_outlines() - disk.outlines
    await shelf.rows.forget_outlines(lost)


async def _reconcile_files(shelf: Shelf, disk: _Disk) -> None:
    rows = await shelf.rows.files()
    await shelf.rows.forget_files(rows.keys() - disk.blobs)
    batch: list[tuple[FileRow, Outline]] = []
    for cid in sorted(disk.blobs - rows.keys()):
        stat = os.stat(shelf.layout.blob(cid))
        outline = await _outline_of(shelf, cid, stat.st_size)
        if outline is None:
            # Nobody can say what it should be, its name least of all.
            _quarantine(shelf, cid)
            continue
        shared = stat.st_nlink > 1
        row = disk.rows.get(cid)
        if row is None:
            row = FileRow(cid, outline.size, 0 if shared else outline.size, shared, None)
        batch.append((row, outline))
        if len(batch) == _BATCH:
            await shelf.rows.put_files(batch)
            batch = []
    await shelf.rows.put_files(batch)


async def _outline_of(shelf: Shelf, cid: CID, size: int) -> Outline | None:
    if cid.codec is Codec.RAW:
        return Outline.single(cid, size) if size <= LEAF_SIZE else None
    return await shelf.outlines.get(cid) or await shelf.outlines.recover(cid, shelf.cores)


def _quarantine(shelf: Shelf, cid: CID) -> None:
    target = temporary(shelf.layout.quarantine).with_suffix(f".{cid}")
    with durable.disk_errors("set a file aside"):
        durable.rename(shelf.layout.blob(cid), target)


async def _reconcile_releases(shelf: Shelf, releases: Releases, disk: _Disk) -> None:
    held = (await shelf.rows.files()).keys()
    rows = {release.manifest_cid: release for release in await releases.rows.releases()}
    await releases.rows.forget_releases(rows.keys() - disk.records.keys())
    for manifest_cid, record in disk.records.items():
        row = rows.get(manifest_cid)
        if row is None:
            await _load(releases, manifest_cid, record, held)
        elif (row.pinned, row.complete) != (record.pinned, record.complete):
            named = {file.cid for file in await releases.rows.release_files(manifest_cid)}
            await releases.rows.set_release(
                manifest_cid,
                pinned=record.pinned,
                complete=record.complete and named <= held,
            )
    for manifest_cid in disk.nameless:
        _set_folder_aside(shelf, manifest_cid)


async def _load(releases: Releases, manifest_cid: CID, record: Record, held: Iterable[CID]) -> None:
    """Record a release in the index from its folder."""
    shelf, held = releases.shelf, set(held)
    folder = shelf.layout.manifest(manifest_cid)

    def read() -> Manifest | None:
        statement = read_statement(folder, manifest_cid)
        if statement is None:
            return None
        try:
            manifest = parse_manifest(statement.payload)
            if manifest.listing is not None and manifest.listing.cid in held:
                listing = shelf.layout.blob(manifest.listing.cid).read_bytes()
                with suppress(VerificationFailed):  # a damaged listing will be fetched again
                    manifest = parse_manifest(statement.payload, listing)
        except VerificationFailed:
            return None
        return manifest

    manifest = await durable.on_disk("read a manifest", read)
    if manifest is None:
        _set_folder_aside(shelf, manifest_cid)
        return
    named = named_files(manifest)
    cids = {file.cid for file in named} | listing_of(manifest)
    complete = record.complete and cids <= held and bool(manifest.files)
    blocks = await trio.to_thread.run_sync(folder_blocks, manifest) if named else {}
    row = release_row(manifest, replace(record, complete=complete))
    await releases.rows.put_release(row, named, blocks)


def _set_folder_aside(shelf: Shelf, manifest: CID) -> None:
    with durable.disk_errors("set a release aside"):
        durable.rename(shelf.layout.manifest(manifest), temporary(shelf.layout.quarantine))
