"""Garbage collection: look, let retention.py decide, delete."""

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from node.store import durable
from node.store.damage import allocated
from node.store.partial import Partials
from node.store.releases import Releases
from node.store.retention import Sweep, sweep
from node.store.shelf import Shelf
from p2p.cid import CID

_BATCH = 256  # files deleted between two checks for a cancel


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was deleted, or would be: how many of each, and how many bytes of quota that frees."""

    releases: int
    files: int
    partials: int
    outlines: int
    quarantined: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies on disk, with the bytes that deleting it frees."""

    orphans: set[CID]
    partials: dict[CID, int]
    outlines: set[CID]
    quarantined: list[Path]

    def of(self, named: Collection[CID]) -> "_Found":
        """Return what there is of these files alone."""
        partials = {cid: size for cid, size in self.partials.items() if cid in named}
        return _Found(self.orphans & set(named), partials, self.outlines & set(named), [])


async def collect(
    shelf: Shelf,
    releases: Releases,
    partials: Partials,
    *,
    dry_run: bool = False,
    only: CID | None = None,
) -> GcReport:
    """Delete what nobody keeps: see ``Store.gc``; with ``only`` one release alone is looked at."""
    async with shelf.changing:
        rows = await shelf.rows.files()
        found = await durable.on_disk("look through the store", lambda: _look(shelf, rows.keys()))
        claims = await releases.rows.claims()
        if only is not None:
            claims = [one if one.manifest == only else replace(one, pinned=True) for one in claims]
            named = {cid for one in claims if one.manifest == only for cid in one.files}
            rows = {cid: row for cid, row in rows.items() if cid in named}
            found = found.of(named)
        plan = sweep(
            claims,
            files=rows.keys() | found.orphans,
            partials=found.partials.keys(),
            outlines=found.outlines,
            busy=shelf.busy() | partials.busy(),
        )
        freed = sum(rows[cid].charged for cid in plan.files if cid in rows)
        freed += sum(found.partials[cid] for cid in plan.partials)
        report = GcReport(
            releases=len(plan.releases),
            files=len(plan.files),
            partials=len(plan.partials),
            outlines=len(plan.outlines),
            quarantined=len(found.quarantined),
            bytes=freed,
        )
        if not dry_run:
            await _delete(shelf, releases, plan, found)
    return report


def _look(shelf: Shelf, known: Collection[CID]) -> _Found:
    layout = shelf.layout
    return _Found(
        orphans={cid for cid in layout.blobs_there() if cid not in known},
        partials={cid: allocated(layout.partial(cid)) for cid in layout.partials_there()},
        outlines=set(layout.outlines_there()),
        quarantined=[layout.quarantine / name for name in os.listdir(layout.quarantine)],
    )


async def _delete(shelf: Shelf, releases: Releases, plan: Sweep, found: _Found) -> None:
    """Take the rows first: what the index says is here is here, at every moment."""
    await releases.remove(plan.releases)
    layout = shelf.layout
    for start in range(0, len(plan.files), _BATCH):
        await trio.lowlevel.checkpoint()
        busy = shelf.busy()  # somebody may have begun to use one meanwhile
        batch = [cid for cid in plan.files[start : start + _BATCH] if cid not in busy]
        rows = (await shelf.rows.files(batch)).values()
        with trio.CancelScope(shield=True):
            await shelf.forget(rows)
            await _unlink([layout.blob(cid) for cid in batch])
    for start in range(0, len(plan.outlines), _BATCH):
        await shelf.outlines.forget(plan.outlines[start : start + _BATCH])
    with trio.CancelScope(shield=True):
        await _unlink([layout.partial(cid) for cid in plan.partials])
        for cid in plan.partials:
            shelf.ledger.forget(cid)
        shelf.tell_gone(plan.partials)
    await trio.to_thread.run_sync(_empty, found.quarantined)


async def _unlink(paths: Sequence[Path]) -> None:
    def work() -> None:
        for path in paths:
            durable.unlink(path)

    await durable.on_disk("delete files", work)


def _empty(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            durable.unlink(path)
