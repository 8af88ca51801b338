"""Releases on disk: the statement, the signatures, and what this store has decided about them.

``manifests/<CID>/record.json`` says what no other file says: whether the release is pinned, whether
it was complete, when it was added, and the facts of its files. The index has all that too, and can
be lost.
A release appears there wholly or not at all: its folder is made under a temporary name.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from node.store import durable
from node.store.facts import Facts
from node.store.file_rows import FileRow
from node.store.layout import temporary
from node.store.release_rows import NamedFile, Release, ReleaseRows
from node.store.shelf import Shelf
from p2p.bundles import keep_bundles
from p2p.cid import CID
from p2p.directory import TreeFile, build_tree
from p2p.envelope import MAX_BUNDLES
from p2p.errors import NotFound, StoreError
from p2p.keys import PublicKey
from p2p.manifest import Manifest

MANIFEST: Final = "manifest.json"
RECORD: Final = "record.json"
BUNDLES: Final = "bundles"
WANTED: Final = "model.sig.wanted"
_VERSION: Final = 1  # of record.json


@dataclass(frozen=True, slots=True)
class Record:
    """What record.json holds.

    ``linked``: path in the release -> where its owner has it. ``files``: CID -> size, mtime in ns,
    inode, bytes charged, shared or not.
    """

    pinned: bool
    complete: bool
    added: float
    petname: str | None = None
    linked: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Write it as JSON."""
        return json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True).encode()

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """Read it from a release's folder; None where it is missing or makes no sense."""
        try:
            value: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
            if value.pop("version") != _VERSION:
                return None
            return cls(**value)
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
            return None

    def rows(self) -> Iterable[FileRow]:
        """Give the rows that the index had of these files."""
        for text, (size, mtime_ns, inode, charged, shared) in self.files.items():
            facts = Facts(size, mtime_ns, inode)
            yield FileRow(CID.parse(text), size, charged, bool(shared), facts)


@dataclass(frozen=True, slots=True)
class Statement:
    """The bytes that a release came with."""

    payload: bytes
    bundles: tuple[bytes, ...]


class Releases:
    """Records releases, finds them again, removes them."""

    def __init__(self, shelf: Shelf, rows: ReleaseRows) -> None:
        self.shelf = shelf
        self._layout = shelf.layout
        self.rows = rows
        self._bundling = trio.Lock()

    async def record(
        self,
        manifest: Manifest,
        bundles: Sequence[bytes],
        *,
        pin: bool | None,
        complete: bool,
        petname: str | None,
        linked: Mapping[str, Path],
        folders: Mapping[CID, bytes],
    ) -> None:
        """Record a release, or record it anew: see ``Store.record``."""
        named = named_files(manifest)
        cids = {file.cid for file in named} | listing_of(manifest)
        if not folders and manifest.files:
            folders = await trio.to_thread.run_sync(folder_blocks, manifest)
        async with self.shelf.changing:
            held = await self.shelf.rows.files(cids)
            if complete and len(held) < len(cids):
                raise StoreError(
                    f"{len(cids) - len(held)} of the {len(cids)} files of {manifest.cid} are not "
                    "in this store, so the release is not complete."
                )
            with trio.CancelScope(shield=True), self.rows.trailing():

                def work() -> Record:
                    before = Record.read(self._layout.manifest(manifest.cid))
                    kept = before is not None and before.pinned
                    record = Record(
                        pinned=kept if pin is None else pin,
                        complete=complete,
                        added=before.added if before is not None else time.time(),
                        petname=petname or (before.petname if before is not None else None),
                        linked={path: str(file) for path, file in linked.items()},
                        files={
                            str(cid): [*_values(row.facts), row.charged, int(row.shared)]
                            for cid, row in held.items()
                            if row.facts is not None
                        },
                    )
                    self._write(manifest, bundles, record, new=before is None)
                    return record

                record = await durable.on_disk("record a release", work)
                await self.rows.put_release(release_row(manifest, record), named, folders)
                self.shelf.settle(cids)

    def _write(
        self, manifest: Manifest, bundles: Sequence[bytes], record: Record, *, new: bool
    ) -> None:
        folder = self._layout.manifest(manifest.cid)
        files = {Path(BUNDLES, _bundle_name(data)): data for data in bundles}
        files[Path(MANIFEST)] = manifest.payload
        if not new:
            there = set(os.listdir(folder / BUNDLES))
            for name, data in files.items():
                if name.name not in there and name != Path(MANIFEST):
                    if len(there) >= MAX_BUNDLES:
                        continue  # what came meanwhile is as good; ``add_bundles`` chooses
                    there.add(name.name)
                if _read(folder / name) != data:
                    durable.replace_file(folder / name, data, self._layout.temp)
            durable.replace_file(folder / RECORD, record.encode(), self._layout.temp)
            return
        temp = temporary(self._layout.temp)
        try:
            durable.make_folder(temp)
            durable.make_folder(temp / BUNDLES)
            files[Path(RECORD)] = record.encode()
            for name, data in files.items():
                durable.write_file(temp / name, data)
            durable.sync_folder(temp / BUNDLES)
            durable.sync_folder(temp)
            if folder.exists():  # without a record that could be read: make room for a sound one
                durable.rename(folder, temporary(self._layout.quarantine))
            durable.rename(temp, folder)
            durable.sync_folder(folder.parent)
        finally:
            shutil.rmtree(temp, ignore_errors=True)

    async def add_bundles(
        self,
        manifest: CID,
        bundles: Collection[bytes],
        owners: Collection[PublicKey],
        known: Collection[PublicKey],
    ) -> int:
        """Keep further bundles, and let go of those that they take the place of."""
        folder = self._layout.manifest(manifest)

        def choose() -> tuple[set[bytes], set[bytes]]:
            """Verify them all: too long to be done while nobody else may change anything."""
            before = read_statement(folder, manifest)
            if before is None:
                raise StoreError(
                    f"The manifest {manifest} is damaged.", next="Fetch the release again."
                )
            held = set(before.bundles)
            kept = set(keep_bundles(before.payload, before.bundles, bundles, owners, known))
            return kept - held, held - kept

        def write(new: set[bytes], gone: set[bytes]) -> None:
            for data in new:
                durable.replace_file(folder / BUNDLES / _bundle_name(data), data, self._layout.temp)
            for data in gone:
                durable.unlink(folder / BUNDLES / _bundle_name(data))

        async with self._bundling:
            await self.get(manifest)
            new, gone = await durable.on_disk("read signatures", choose)
            async with self.shelf.changing:
                await self.get(manifest)
                with trio.CancelScope(shield=True):
                    await durable.on_disk("keep signatures", lambda: write(new, gone))
        return len(new)

    async def want(self, manifest: CID, wanted: bool) -> None:
        """Mark a release as one that is to get a ``model.sig``, on disk, or take the mark away."""
        mark = self._layout.manifest(manifest) / WANTED

        def work() -> None:
            if wanted:
                durable.replace_file(mark, b"", self._layout.temp)
            else:
                durable.unlink(mark)

        async with self.shelf.changing:
            await self.get(manifest)
            await durable.on_disk("mark a release", work)

    async def wanted(self) -> list[CID]:
        """Return the releases that bear the mark."""

        def work() -> list[CID]:
            there = self._layout.manifests_there()
            return [cid for cid in there if (self._layout.manifest(cid) / WANTED).exists()]

        return await durable.on_disk("look through its releases", work)

    async def get(self, manifest: CID) -> Release:
        """Return a release that must be there; ``NotFound``."""
        found = await self.rows.releases(manifest)
        if not found:
            raise NotFound(
                f"This store has no release {manifest}.", next="`allod ls` shows those it has."
            )
        return found[0]

    async def statement(self, manifest: CID) -> Statement | None:
        """Return the bytes of a manifest and of its bundles, if they are here and sound."""
        folder = self._layout.manifest(manifest)
        return await durable.on_disk("read a manifest", lambda: read_statement(folder, manifest))

    async def set(
        self, manifest: CID, *, pinned: bool | None = None, complete: bool | None = None
    ) -> None:
        """Change a release, on disk first."""
        release = await self.get(manifest)
        pinned = release.pinned if pinned is None else pinned
        complete = release.complete if complete is None else complete
        folder = self._layout.manifest(manifest)

        def work() -> None:
            record = Record.read(folder)
            if record is None:
                raise StoreError(
                    f"The record of {manifest} is damaged.", next="Fetch the release again."
                )
            changed = Record(
                pinned, complete, record.added, record.petname, record.linked, record.files
            )
            durable.replace_file(folder / RECORD, changed.encode(), self._layout.temp)

        with trio.CancelScope(shield=True), self.rows.trailing():
            await durable.on_disk("record a release", work)
            await self.rows.set_release(manifest, pinned=pinned, complete=complete)

    async def remove(self, manifests: Collection[CID]) -> None:
        """Forget releases: their records first, then their views. The files are left to gc."""

        def work() -> list[Path]:
            temps = [temporary(self._layout.temp) for _ in manifests]
            for manifest, temp in zip(manifests, temps, strict=True):
                with suppress(FileNotFoundError):
                    durable.rename(self._layout.manifest(manifest), temp)
            durable.sync_folder(self._layout.manifests)
            return temps

        if manifests:
            with trio.CancelScope(shield=True), self.rows.trailing():
                temps = await durable.on_disk("remove a release", work)
                roots = await self.rows.roots(manifests)
                await self.rows.forget_releases(manifests)
                others = [root for root in roots if await self.rows.folders(root)]
                self.shelf.tell_gone([*manifests, *(roots - set(others))])
            await self.drop_views(manifests)
            await trio.to_thread.run_sync(delete_trees, temps)

    async def drop_views(self, manifests: Collection[CID]) -> None:
        """Delete the folders in which engines find these releases' files."""
        views = [self._layout.view(manifest) for manifest in manifests]
        await trio.to_thread.run_sync(delete_trees, views)

    async def damaged(self, file: CID) -> None:
        """A file is no longer held: no release that names it is complete, or shown as a folder."""
        manifests = {manifest for manifest, _ in await self.rows.named(file)}
        for manifest in manifests:
            with suppress(StoreError):  # the index says so already; the record is for a rebuild,
                await self.set(manifest, complete=False)  # which looks for the files itself
        await self.drop_views(manifests)


def named_files(manifest: Manifest) -> list[NamedFile]:
    """Return the files of a manifest as the index keeps them."""
    return [NamedFile(file.path, file.cid, file.size) for file in manifest.files]


def listing_of(manifest: Manifest) -> set[CID]:
    """Return the CID of the manifest's listing, if it has one."""
    return {manifest.listing.cid} if manifest.listing is not None else set()


def folder_blocks(manifest: Manifest) -> Mapping[CID, bytes]:
    """Build the blocks of the release's folder again."""
    files = (TreeFile(file.path, file.cid, file.dag_size) for file in manifest.files)
    return build_tree(files, manifest.profile.hash).blocks


def release_row(manifest: Manifest, record: Record) -> Release:
    """Return what the index keeps of a release."""
    listing = manifest.listing
    return Release(
        manifest_cid=manifest.cid,
        publisher=manifest.publisher,
        name=manifest.name,
        version=manifest.version,
        kind=manifest.kind,
        size=manifest.size,
        license=str(manifest.license.get("spdx", "")),
        root=manifest.root,
        listing=listing.cid if listing is not None else None,
        files=listing.files if listing is not None else len(manifest.files),
        pinned=record.pinned,
        complete=record.complete,
        added=record.added,
        petname=record.petname,
    )


def read_statement(folder: Path, manifest: CID) -> Statement | None:
    """Read a manifest and its bundles from disk; None where the manifest is not what it must be."""
    payload = _read(folder / MANIFEST)
    if payload is None or not manifest.matches(payload):
        return None
    bundles = []
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder / BUNDLES)):
            data = _read(folder / BUNDLES / name)
            if data is not None and name == _bundle_name(data):
                bundles.append(data)
    return Statement(payload, tuple(bundles))


def delete_trees(folders: Iterable[Path]) -> None:
    """Delete folders with all that is in them; what can't be deleted now goes another time."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _bundle_name(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()}.json"


def _values(facts: Facts | None) -> tuple[int, int, int]:
    assert facts is not None
    return facts.size, facts.mtime_ns, facts.inode


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
