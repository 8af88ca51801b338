"""The index's tables of releases, of the files they name, and of the nodes of their folders."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.store.index import Index, Transaction
from node.store.retention import Claim
from p2p.cid import CID
from p2p.errors import StoreError

MAX_NAMED: Final = 1 << 16
"""Files of which it is remembered who names them: some 200 bytes for each release that does."""
FEW: Final = 16
"""Releases up to which that is remembered of a file: few files are in more."""
AHEAD: Final = 256
"""Files that are looked up together: one question to the index in the place of so many."""
_NAMED: Final = (
    "SELECT cid, manifest, path FROM release_files JOIN releases ON releases.id = release"
    " WHERE cid IN"
)
_LISTED: Final = "UNION ALL SELECT listing, manifest, '' FROM releases WHERE listing IN"


@dataclass(frozen=True, slots=True)
class Release:
    """A recorded release, as ``ls`` shows it: ``size`` in bytes, ``added`` seconds since 1970.

    ``complete``: all its files are here. ``listing``: the CID of its list of files, where that is
    not part of the manifest. ``files``: how many the release has.
    """

    manifest_cid: CID
    publisher: str
    name: str
    version: str
    kind: str
    size: int
    license: str
    root: CID
    listing: CID | None
    files: int
    pinned: bool
    complete: bool
    added: float
    petname: str | None


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file under its path in a release."""

    path: str
    cid: CID
    size: int


class ReleaseRows:
    """Questions about releases, and changes; each is one transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._named: dict[CID, list[tuple[CID, str]]] = {}
        self._age = 0  # how often the releases have changed
        self.trailing = index.trailing

    async def put_release(
        self, release: Release, files: Iterable[NamedFile], folders: Mapping[CID, bytes]
    ) -> None:
        """Record a release, in place of what was recorded of it."""
        files = list(files)

        async def work(transaction: Transaction) -> None:
            await transaction.run(
                "DELETE FROM releases WHERE manifest = ?", bytes(release.manifest_cid)
            )
            [[key]] = await transaction.run(
                "INSERT INTO releases (manifest, publisher, name, version, kind, size, license,"
                " root, listing, files, pinned, complete, added, petname)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                bytes(release.manifest_cid),
                *(release.publisher, release.name, release.version, release.kind, release.size),
                *(release.license, bytes(release.root)),
                release.listing and bytes(release.listing),
                *(release.files, release.pinned, release.complete, release.added, release.petname),
            )
            await transaction.many(
                "INSERT INTO release_files VALUES (?, ?, ?, ?)",
                ((key, file.path, bytes(file.cid), file.size) for file in files),
            )
            await transaction.many(
                "INSERT INTO folders VALUES (?, ?, ?)",
                ((bytes(cid), key, block) for cid, block in folders.items()),
            )

        await self._index.write(work)
        self._changed()

    async def set_release(self, manifest: CID, *, pinned: bool, complete: bool) -> None:
        """Change the two things about a release that change."""

        async def work(transaction: Transaction) -> None:
            await transaction.run(
                "UPDATE releases SET pinned = ?, complete = ? WHERE manifest = ?",
                pinned,
                complete,
                bytes(manifest),
            )

        await self._index.write(work)

    async def forget_releases(self, manifests: Collection[CID]) -> None:
        """These releases are no longer recorded."""
        rows = [(bytes(manifest),) for manifest in manifests]

        async def work(transaction: Transaction) -> None:
            await transaction.many("DELETE FROM releases WHERE manifest = ?", rows)

        await self._index.write(work)
        self._changed()

    def _changed(self) -> None:
        self._age += 1
        self._named.clear()

    async def releases(self, manifest: CID | None = None) -> list[Release]:
        """Return one release, or all, the latest first."""
        rows = await self._index.ask(
            "SELECT manifest, publisher, name, version, kind, size, license, root, listing, files,"
            " pinned, complete, added, petname FROM releases"
            " WHERE ?1 IS NULL OR manifest = ?1 ORDER BY added DESC, id DESC",
            manifest and bytes(manifest),
        )
        return [_release(row) for row in rows]

    async def release_files(self, manifest: CID) -> list[NamedFile]:
        """Return the files of a release by their paths."""
        rows = await self._index.ask(
            "SELECT path, cid, release_files.size FROM release_files"
            " JOIN releases ON releases.id = release WHERE manifest = ? ORDER BY path",
            bytes(manifest),
        )

        def read() -> list[NamedFile]:
            return [NamedFile(path, CID.from_bytes(cid), size) for path, cid, size in rows]

        return await trio.to_thread.run_sync(read)  # a million take seconds

    async def named(self, cid: CID) -> list[tuple[CID, str]]:
        """Return every release, and the path in it, that names a file; "" is the listing.

        Several rooms want to know it before each file that is served: it is asked for once. Who
        asks for a file mostly wants the next ones of its release, too: they are looked up with it.
        """
        known = self._named.get(cid)
        if known is not None:
            return list(known)
        age = self._age
        rows = await self._index.ask(f"{_NAMED} (?1) {_LISTED} (?1)", bytes(cid))
        found = [(CID.from_bytes(manifest), path) for _, manifest, path in rows]
        if age == self._age and len(found) <= FEW:
            if len(self._named) >= MAX_NAMED:
                self._named.clear()
            self._named[cid] = found
            if found:
                with suppress(StoreError):  # who asked has his answer
                    await self._name_next(cid)
        return list(found)

    async def _name_next(self, cid: CID) -> None:
        """Remember the same of the files that follow ``cid`` in the order of a release's paths."""
        age = self._age
        rows = await self._index.ask(
            "WITH here AS (SELECT release, path FROM release_files WHERE cid = ?1 LIMIT 1),"
            " next AS (SELECT cid FROM release_files WHERE release = (SELECT release FROM here)"
            " AND path > (SELECT path FROM here) ORDER BY path LIMIT ?2)"
            f" SELECT * FROM ({_NAMED} next {_LISTED} next) LIMIT ?3",
            bytes(cid),
            AHEAD,
            AHEAD * FEW,
        )
        if age != self._age or len(rows) == AHEAD * FEW:  # of some there may be more
            return
        found: dict[CID, list[tuple[CID, str]]] = {}
        for file, manifest, path in rows:
            named = found.setdefault(CID.from_bytes(file), [])
            named.append((CID.from_bytes(manifest), path))
        self._named |= {file: named for file, named in found.items() if len(named) <= FEW}

    async def roots(self, manifests: Collection[CID]) -> set[CID]:
        """Return the directories of these releases."""
        return {one.root for cid in manifests for one in await self.releases(cid)}

    async def folders(self, cid: CID) -> list[CID]:
        """Return the releases to whose folder a block belongs."""
        rows = await self._index.ask(
            "SELECT manifest FROM folders JOIN releases ON releases.id = release WHERE cid = ?",
            bytes(cid),
        )
        return [CID.from_bytes(manifest) for (manifest,) in rows]

    async def claims(self) -> list[Claim]:
        """Return what every release keeps from being garbage."""
        releases = await self.releases()
        rows = await self._index.ask(
            "SELECT DISTINCT manifest, cid FROM release_files"
            " JOIN releases ON releases.id = release"
        )
        files: dict[bytes, set[CID]] = {}
        for manifest, cid in rows:
            files.setdefault(manifest, set()).add(CID.from_bytes(cid))
        claims = []
        for release in releases:
            named = files.get(bytes(release.manifest_cid), set())
            known = bool(named) or release.listing is None
            if release.listing is not None:
                named.add(release.listing)
            claims.append(Claim(release.manifest_cid, release.pinned, named, known))
        return claims


def _release(row: tuple[Any, ...]) -> Release:
    manifest, publisher, name, version, kind, size, license, root, listing, files, *rest = row
    pinned, complete, added, petname = rest
    return Release(
        CID.from_bytes(manifest), publisher, name, version, kind, size, license,
        CID.from_bytes(root), listing and CID.from_bytes(listing), files,
        bool(pinned), bool(complete), added, petname,
    )  # fmt: skip
