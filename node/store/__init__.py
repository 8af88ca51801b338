"""The store: the files, releases and unfinished downloads that one node keeps.

This is the one door to it. What lies behind, from the ground up:

    durable       the operations that decide what survives a power cut
    layout        where each thing lies
    facts         how a change behind our back is noticed
    migrations, index, file_rows, release_rows    the index, a cache of what lies on disk
    retention     pure: quota, and what is garbage
    hashing       files into leaves, on all cores
    outlines      the lists of leaves
    shelf         the whole files
    intake        files from outside, without a second copy
    damage        what becomes of a damaged file
    reuse, partial    files that are being put together
    publishers        what publishers say of their names
    releases, view    what was recorded, and the folders that engines open
    sums          SHA-256 of whole files, and git's names for them, for other tools
    verify, rebuild, gc    the long looks at everything

The promises: what a method has returned for survives a power cut; what was not verified is never
written, and what changed since is never served; the quota is never passed; losing the index loses
nothing. docs/explanation/store.md says why they hold.

One process has a store open at a time. All methods may be called from any number of tasks.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path

import trio

from node.store import durable
from node.store.damage import allocated, set_aside
from node.store.file_rows import FileRow, FileRows
from node.store.gc import GcReport, collect
from node.store.hashing import Checked, Progress, core_limiter
from node.store.index import CLEAN, Index, IndexBroken, open_index
from node.store.intake import Added, outline_of, put_many, take, take_many
from node.store.layout import Layout
from node.store.partial import Partial, Partials
from node.store.publishers import Publishers
from node.store.rebuild import reconcile
from node.store.release_rows import NamedFile, Release, ReleaseRows
from node.store.releases import Releases, Statement, delete_trees
from node.store.retention import Ledger
from node.store.reuse import local_leaves
from node.store.shelf import Shelf
from node.store.sums import git_sha1_of, sha256_of
from node.store.verify import Damage, VerifyReport, verify
from node.store.view import refresh
from p2p.chunking import Profile
from p2p.cid import CID, Buffer, Codec
from p2p.dag import Outline
from p2p.errors import StoreBusy, StoreError
from p2p.keys import PublicKey
from p2p.manifest import Manifest
from p2p.ranges import RangeSet

__all__ = [
    "Added",
    "Damage",
    "GcReport",
    "Held",
    "NamedFile",
    "Partial",
    "Release",
    "Statement",
    "Store",
    "Usage",
    "VerifyReport",
    "open_store",
]

RESERVE = 256 << 20
"""Bytes of the disk that stay free by default: a full disk stops far more than this program."""


@dataclass(frozen=True, slots=True)
class Held:
    """What can be served of a file: ``have`` are the bytes, of ``size``, that are verified.

    ``path`` may be gone by the time it is opened (a partial file was committed, or garbage was
    collected): ask ``held`` again then.
    """

    path: Path
    size: int
    have: RangeSet
    outline: Outline


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that count against the quota, the quota, those in partial files, how many files.

    ``shared``: bytes of files that lie in the store without taking room of their own.
    """

    bytes: int
    quota: int | None
    partial_bytes: int
    files: int
    shared: int


class Store:
    """The open store; see the package's docstring, and ``open_store``."""

    def __init__(self, folder: Path, shelf: Shelf, releases: Releases, partials: Partials) -> None:
        self.folder = folder
        self._shelf = shelf
        self._releases = releases
        self._partials = partials
        self.publishers = Publishers(shelf.layout)
        self.gone = shelf.gone
        """Called with the CIDs of releases, folders and files that are held no more, in the task
        that let them go; they must neither block nor raise."""
        shelf.damaged = self._set_aside

    # --- files in --------------------------------------------------------------------------------

    async def add(
        self,
        file: Path,
        name: str,
        profile: Profile,
        *,
        progress: Progress | None = None,
    ) -> Added:
        """Take in a file of any size, in place where that can be; it stays where it is.

        ``name`` says how to cut it where its bytes leave doubt; ``progress`` hears of bytes hashed.
        ``SourceChanged`` if it changed meanwhile, ``QuotaExceeded`` or ``DiskFull`` if it had to be
        copied and there is no room.
        """
        return await take(self._shelf, file, name, profile, progress=progress)

    async def add_many(
        self,
        files: Sequence[tuple[Path, str]],
        profile: Profile,
        *,
        progress: Progress | None = None,
    ) -> list[Added]:
        """Do ``add`` for each (file, name), in order; small files are synced many at a time."""
        return await take_many(self._shelf, files, profile, progress=progress)

    async def add_bytes(self, data: bytes, profile: Profile) -> Added:
        """Keep bytes from memory as a file, such as a listing."""
        outline = await trio.to_thread.run_sync(outline_of, data, "", profile)
        present = await self._shelf.good(outline.root) is not None
        await put_many(self._shelf, [(outline, data)])
        return Added(outline, len(data), "present" if present else "copy")

    async def put_many(
        self, files: Sequence[tuple[Outline, Buffer]], progress: Progress | None = None
    ) -> None:
        """Keep whole files that came over the network, verified, synced many at a time.

        For files that fit into memory, where a ``Partial`` each would wait for the disk each time.
        ``VerificationFailed``, and none is kept, if one is not what its Outline says.
        """
        await put_many(self._shelf, files, progress)

    # --- files out -------------------------------------------------------------------------------

    async def has(self, cid: CID) -> bool:
        """Say whether the whole file is here and believed good."""
        return await self._shelf.good(cid) is not None

    async def has_many(self, cids: Collection[CID]) -> set[CID]:
        """Return those of ``cids`` that are here whole and believed good."""
        return await self._shelf.good_many(cids)

    async def whole(self, cids: Collection[CID]) -> dict[CID, tuple[Path, int]]:
        """Return where those of ``cids`` lie that ``has_many`` says are here, and their sizes."""
        rows = await self._shelf.good_rows(cids)
        return {cid: (self._shelf.layout.blob(cid), row.size) for cid, row in rows.items()}

    async def held(self, cid: CID) -> Held | None:
        """Return what can be served of a file now: all of it, or what came so far, or None."""
        partial = self._partials.open.get(cid)
        if partial is not None and not partial.committed:
            return Held(partial.path, partial.outline.size, partial.have.copy(), partial.outline)
        row = await self._shelf.good(cid)
        outline = await self._shelf.outline(cid) if row is not None else None
        if row is None or outline is None:
            return None
        return Held(self._shelf.layout.blob(cid), row.size, RangeSet([(0, row.size)]), outline)

    @contextmanager
    def using(self, cid: CID) -> Iterator[None]:
        """Keep a file, or a release with all its files, from ``gc`` for as long as this lasts."""
        with self._shelf.using(cid):
            yield

    async def block(self, cid: CID) -> bytes | None:
        """Return one block, verified: a leaf, a node of a file or of a folder, a manifest."""
        if cid.codec is Codec.JSON:
            statement = await self._releases.statement(cid)
            return statement.payload if statement is not None else None
        if cid.codec is Codec.DAG_PB:
            found = await self._shelf.rows.node(cid)
            if isinstance(found, CID):
                outline = await self._shelf.outlines.get(found)
                if outline is None:
                    return None
                return await trio.to_thread.run_sync(_node_of, outline, cid)
            return found if found is not None and cid.matches(found) else None
        for path, offset, size in await self._leaf_places(cid):
            data = await durable.on_disk("read a leaf", lambda: _read(path, offset, size))  # noqa: B023
            if cid.matches(data):
                return data
        return None

    async def _leaf_places(self, cid: CID) -> list[tuple[Path, int, int]]:
        """Say where a leaf may lie: file, offset, size."""
        places = []
        row = await self._shelf.row(cid)
        if row is not None:
            places.append((self._shelf.layout.blob(cid), 0, row.size))
        for file, index in await self._shelf.rows.some_places(cid.digest):
            outline = await self._shelf.outline(file)
            if outline is not None:
                start, stop = outline.span(index, index + 1)
                places.append((self._shelf.layout.blob(file), start, stop - start))
        return places

    async def outline(self, cid: CID) -> Outline | None:
        """Return the Outline of a file that is here, or of which at least the Outline is."""
        partial = self._partials.open.get(cid)
        return partial.outline if partial is not None else await self._shelf.outline(cid)

    async def put_outline(self, outline: Outline) -> None:
        """Keep an Outline, so that the node can tell others of the file's leaves."""
        await self.put_outlines([outline])

    async def put_outlines(self, outlines: Sequence[Outline]) -> None:
        """Keep many Outlines with one wait for the disk."""
        async with self._shelf.changing:
            await self._shelf.outlines.put(outlines)
            for outline in outlines:
                self._shelf.freshen(outline.root)

    # --- unfinished files ------------------------------------------------------------------------

    def open_partial(self, outline: Outline) -> AbstractAsyncContextManager[Partial]:
        """Open the unfinished file of ``outline``, with all good leaves that lie there already.

        Reserves its full size: ``QuotaExceeded``, ``DiskFull``. A second task that opens the same
        file waits until the first has closed it. A file that is whole already misses nothing.
        """
        return self._partials.writing(outline)

    def unfinished(self) -> set[CID]:
        """Return the files that are being put together right now: ``held`` says how far."""
        return set(self._partials.open)

    def growth(self, cid: CID) -> trio.Event:
        """Return what is set when more of an unfinished file has come, or it is whole or closed.

        Of a file that nobody puts together now: when somebody begins to. Take it first, and then
        look at ``held``.
        """
        partial = self._partials.open.get(cid)
        return partial.growth if partial is not None else self._partials.opening

    async def local_leaves(
        self, outline: Outline, missing: RangeSet
    ) -> list[tuple[int, Path, int]]:
        """Find missing leaves in other files: (index of the leaf, file, offset). Hints only."""
        return await local_leaves(self._shelf, outline, missing)

    # --- releases --------------------------------------------------------------------------------

    async def record(
        self,
        manifest: Manifest,
        bundles: Sequence[bytes],
        *,
        pin: bool | None,
        complete: bool,
        petname: str | None = None,
        linked: Mapping[str, Path] | None = None,
        directory_blocks: Mapping[CID, bytes] | None = None,
    ) -> None:
        """Record a release, or anew with what changed; the bundles known before stay.

        ``complete``: all its files are here, or ``StoreError``. ``linked``: where the owner has the
        files, by their paths in the release. ``directory_blocks``: built again where not given.
        ``pin`` None: as it was, and not pinned if it is new.
        """
        await self._releases.record(
            manifest,
            bundles,
            pin=pin,
            complete=complete,
            petname=petname,
            linked=linked or {},
            folders=directory_blocks or {},
        )

    async def releases(self) -> list[Release]:
        """Return all releases, the latest first."""
        return await self._releases.rows.releases()

    async def release(self, manifest_cid: CID) -> Release | None:
        """Return one release, or None."""
        found = await self._releases.rows.releases(manifest_cid)
        return found[0] if found else None

    async def release_files(self, manifest_cid: CID) -> list[NamedFile]:
        """Return the files of a release by their paths."""
        return await self._releases.rows.release_files(manifest_cid)

    async def named(self, cid: CID) -> list[tuple[CID, str]]:
        """Return every release that names a file, or a block of its folder, and the file's path.

        The path is empty for a folder, and for the listing of a release.
        """
        rows = await self._releases.rows.named(cid)
        if rows or cid.codec is not Codec.DAG_PB:
            return rows
        return [(manifest, "") for manifest in await self._releases.rows.folders(cid)]

    async def files_with(self, cid: CID) -> list[CID]:
        """Return some of the files that a block is part of: all, unless they are very many."""
        rows = self._shelf.rows
        if cid.codec is Codec.DAG_PB:
            root = await rows.node(cid)
            return [root] if isinstance(root, CID) else []
        places = await rows.some_places(cid.digest)
        return list(dict.fromkeys(file for file, _ in places))

    async def manifest(self, cid: CID) -> tuple[bytes, tuple[bytes, ...], bytes | None] | None:
        """Return the manifest's bytes, its signature bundles, and its listing if that is here."""
        statement = await self.statement(cid)
        if statement is None:
            return None
        release = await self.release(cid)
        listing: bytes | None = None
        if release is not None and release.listing is not None:
            held = await self.held(release.listing)
            if held is not None and held.have.covers(0, held.size):
                listing = await durable.on_disk("read a listing", held.path.read_bytes)
        return statement.payload, statement.bundles, listing

    async def statement(self, cid: CID) -> Statement | None:
        """Return the manifest's bytes and its signature bundles."""
        return await self._releases.statement(cid)

    async def add_bundles(
        self,
        manifest_cid: CID,
        bundles: Collection[bytes],
        owners: Collection[PublicKey],
        known: Collection[PublicKey] = (),
    ) -> int:
        """Keep further bundles of a release, verified; return how many are new. ``NotFound``.

        Which stay, where they are too many, says ``p2p.bundles.keep_bundles``, with the publisher's
        keys as ``owners`` and those whose word is wanted as ``known``.
        """
        return await self._releases.add_bundles(manifest_cid, bundles, owners, known)

    async def sha256(
        self, cids: Collection[CID], progress: Progress | None = None
    ) -> dict[CID, str]:
        """Return the SHA-256, in hex, of those files that are here whole.

        What is not known yet is hashed, one file after the other; ``progress`` hears of bytes.
        """
        return await sha256_of(self._shelf, cids, progress)

    async def git_sha1(self, cids: Collection[CID]) -> dict[CID, str]:
        """Return, in hex, what git calls the bytes of those files that are here whole.

        It is the SHA-1 of a blob object: what the Hub names small files by.
        """
        return await git_sha1_of(self._shelf, cids)

    async def known_sha256(self, cids: Collection[CID]) -> dict[CID, str]:
        """Return the SHA-256, in hex, of those files of which it is known, here or not any more."""
        found = await self._shelf.rows.sums("sha256", cids)
        return {cid: digest.hex() for cid, digest in found.items()}

    async def want_model_signature(self, manifest_cid: CID, wanted: bool) -> None:
        """Remember that a release is to get a ``model.sig``, or that there is no more to do."""
        await self._releases.want(manifest_cid, wanted)

    async def model_signatures_wanted(self) -> list[CID]:
        """Return the releases that still are to get a ``model.sig``."""
        return await self._releases.wanted()

    async def view(self, manifest: Manifest) -> Path:
        """Make, or bring up to date, the folder in which engines find the release's files."""
        layout = self._shelf.layout
        good = await self._shelf.good_many({file.cid for file in manifest.files})
        async with self._shelf.changing:
            here = await self._shelf.rows.files(good)
            files = {
                file.path: layout.blob(file.cid) for file in manifest.files if file.cid in here
            }
            folder = layout.view(manifest.cid)
            await durable.on_disk("make a view", lambda: refresh(folder, files, layout.temp))
        return folder

    async def pin(self, manifest_cid: CID) -> None:
        """Keep a release; ``NotFound``."""
        await self._pin(manifest_cid, True)

    async def unpin(self, manifest_cid: CID) -> None:
        """Let ``gc`` have a release; ``NotFound``."""
        await self._pin(manifest_cid, False)

    async def _pin(self, manifest_cid: CID, pinned: bool) -> None:
        async with self._shelf.changing:
            await self._releases.set(manifest_cid, pinned=pinned)

    async def discard(self, manifest_cid: CID) -> bool:
        """Forget a release and delete what no other release needs of it; ``NotFound``.

        False, and nothing is done, for one that is pinned or in use.
        """
        await self._releases.get(manifest_cid)
        report = await collect(self._shelf, self._releases, self._partials, only=manifest_cid)
        return report.releases > 0

    async def remove(self, manifest_cid: CID) -> None:
        """Forget a release, pinned or not; its files stay until ``gc``. ``NotFound``."""
        async with self._shelf.changing:
            await self._releases.get(manifest_cid)
            await self._releases.remove([manifest_cid])

    # --- care ------------------------------------------------------------------------------------

    async def gc(self, dry_run: bool = False) -> GcReport:
        """Delete what no pinned release names and nobody uses; ``dry_run`` only says what."""
        return await collect(self._shelf, self._releases, self._partials, dry_run=dry_run)

    async def verify(
        self, manifest_cid: CID | None = None, report: Callable[[int], None] | None = None
    ) -> VerifyReport:
        """Hash a release's files again, or all; ``report`` hears of bytes hashed.

        A damaged file is set aside: its good leaves wait in an unfinished file, its releases are
        no longer complete, and the next fetch moves only what is bad.
        """
        return await verify(self._shelf, self._releases, self.publishers, manifest_cid, report)

    async def usage(self) -> Usage:
        """Return what the store takes."""
        ledger = self._shelf.ledger
        charged, size, files = await self._shelf.rows.charged()
        partial = ledger.used - ledger.held
        return Usage(ledger.used, ledger.quota, partial, files, size - charged)

    async def _set_aside(self, row: FileRow, outline: Outline, checked: Checked) -> None:
        """Take a damaged file out of service; see damage.py."""
        shelf = self._shelf
        async with shelf.changing:
            if await shelf.row(row.cid) is None:
                return
            with trio.CancelScope(shield=True):
                await shelf.forget([row])
                await self._releases.damaged(row.cid)
                ledger = shelf.ledger
                may_copy = ledger.quota is None or ledger.used + outline.size <= ledger.quota
                there = await durable.on_disk(
                    "set a damaged file aside",
                    lambda: set_aside(
                        shelf.layout, outline, checked, shared=row.shared, may_copy=may_copy
                    ),
                )
                if there:
                    ledger.partials[row.cid] = there


@asynccontextmanager
async def open_store(
    folder: Path, *, quota: int | None, reserve: int = RESERVE
) -> AsyncIterator[Store]:
    """Open the store in ``folder``, or make it there.

    ``quota``: bytes that it may take, None for all; ``reserve``: bytes of the disk that stay free.
    ``StoreBusy`` if another process has it open, ``ReadOnly`` if it may not be written.
    """
    layout = Layout(folder)
    async with AsyncExitStack() as stack:
        lock = await durable.on_disk("open", lambda: _prepare(layout))
        stack.callback(os.close, lock)
        ledger = Ledger(quota, 0, {})
        index, shelf, releases = await _open_index(stack, layout, ledger)
        store = Store(folder, shelf, releases, Partials(shelf, reserve))
        ledger.held, _, _ = await shelf.rows.charged()
        ledger.partials.update(
            await durable.on_disk("look at partial files", lambda: _partials_there(layout))
        )
        try:
            yield store
        finally:
            with trio.CancelScope(shield=True), suppress(StoreError):
                if not index.suspect:  # else the next open_store looks through everything
                    await index.mark(CLEAN, 1)


async def _open_index(
    stack: AsyncExitStack, layout: Layout, ledger: Ledger
) -> tuple[Index, Shelf, Releases]:
    """Open the index, or a new one where it is of no use, and bring it in line with the disk."""
    for attempt in range(2):
        async with AsyncExitStack() as trial:
            try:
                index = await trial.enter_async_context(open_index(layout.index))
                shelf = Shelf(layout, FileRows(index), ledger, core_limiter())
                releases = Releases(shelf, ReleaseRows(index))
                if await index.marked(CLEAN):
                    await index.mark(CLEAN, 0)
                else:  # it was not closed in order
                    await index.check()
                    await reconcile(shelf, releases)
                await stack.enter_async_context(trial.pop_all())
                return index, shelf, releases
            except IndexBroken:
                if attempt:
                    raise
        await durable.on_disk("delete its index", lambda: _delete_index(layout))
    raise AssertionError  # the loop has returned or raised


def _delete_index(layout: Layout) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        durable.unlink(Path(f"{layout.index}{suffix}"))


def _prepare(layout: Layout) -> int:
    """Make the store's folders, take the lock, and clear what was half-made."""
    layout.root.mkdir(parents=True, exist_ok=True)
    lock = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StoreBusy(
                f"Another process has the store {layout.root} open.",
                next="Stop it, or let the command talk to the node that runs.",
            ) from exc
        for path in layout.folders():
            durable.make_folder(path)
        durable.sync_folder(layout.root)
        durable.sync_folder(layout.root.parent)
        delete_trees(path for path in layout.temp.iterdir() if path.is_dir())
        for path in layout.temp.iterdir():
            durable.unlink(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _partials_there(layout: Layout) -> dict[CID, int]:
    return {cid: allocated(layout.partial(cid)) for cid in layout.partials_there()}


def _node_of(outline: Outline, cid: CID) -> bytes | None:
    return next((block for node, block in outline.blocks() if node == cid), None)


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), size, offset)
    except FileNotFoundError:
        return b""
