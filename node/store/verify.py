"""``allod verify``: hash again what the store holds, and set aside what is damaged."""

from collections.abc import Callable
from dataclasses import dataclass, field

from node.store.publishers import Publishers
from node.store.release_rows import Release
from node.store.releases import MANIFEST, Releases
from node.store.shelf import Shelf
from p2p.cid import CID
from p2p.envelope import signers


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a file that was not as it must be: its path or CID, offset, bytes."""

    path: str
    offset: int
    size: int


@dataclass(slots=True)
class VerifyReport:
    """How many leaves were hashed, and what was damaged."""

    checked: int = 0
    bad: list[Damage] = field(default_factory=list)


async def verify(
    shelf: Shelf,
    releases: Releases,
    publishers: Publishers,
    manifest: CID | None,
    progress: Callable[[int], None] | None,
) -> VerifyReport:
    """Verify one release, or all files and all releases: see ``Store.verify``."""
    report = VerifyReport()
    chosen = await releases.rows.releases()
    if manifest is not None:
        chosen = [await releases.get(manifest)]
    paths: dict[CID, str] = {}
    for release in chosen:
        if await publishers.audit(release.publisher):
            await _verify_statement(releases, publishers, release, report)
        else:
            report.bad.append(Damage(f"the metadata of {release.publisher}", 0, 0))
        if release.listing is not None:
            paths.setdefault(release.listing, f"listing of {release.name}")
        for file in await releases.rows.release_files(release.manifest_cid):
            paths.setdefault(file.cid, file.path)
            if release.complete and await shelf.row(file.cid) is None:
                report.bad.append(Damage(file.path, 0, file.size))
    if manifest is None:
        for cid in await shelf.rows.files():
            paths.setdefault(cid, str(cid))
    for cid, path in paths.items():
        await _verify_file(shelf, cid, path, report, progress)
    return report


async def _verify_statement(
    releases: Releases, publishers: Publishers, release: Release, report: VerifyReport
) -> None:
    """Check the manifest's bytes, and that somebody signed them for its publisher.

    Whether enough have, and whether their keys are still good, is no matter of damage.
    """
    statement = await releases.statement(release.manifest_cid)
    keys = await publishers.keys(release.publisher)
    if statement is None or not keys & signers(statement.payload, statement.bundles)[0].keys():
        report.bad.append(Damage(f"{release.manifest_cid}/{MANIFEST}", 0, 0))


async def _verify_file(
    shelf: Shelf, cid: CID, path: str, report: VerifyReport, progress: Callable[[int], None] | None
) -> None:
    row = await shelf.row(cid)
    if row is None:
        return  # not held: nothing that could be damaged
    outline = await shelf.outline(cid)
    checked = await shelf.audit(row, progress)
    if checked is None or outline is None:
        report.bad.append(Damage(path, 0, row.size))
        return
    report.checked += len(outline)
    for index in checked.bad:
        start, stop = outline.span(index, index + 1)
        report.bad.append(Damage(path, start, stop - start))
    if not checked.bad and await shelf.row(cid) is None:
        report.bad.append(Damage(path, outline.size, 0))  # something was written after its end
