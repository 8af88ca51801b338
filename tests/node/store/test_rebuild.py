"""The index is a cache: without it, or with a wrong one, nothing is lost."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from node.store import Release, Store, Usage, open_store
from p2p.chunking import Profile
from p2p.cid import CID
from p2p.manifest import FileEntry, build_manifest
from tests.node.store.outlines import outline_of
from tests.releases import MIB, Published, noise, publish_into, write_folder

LINKED = {"a.bin": noise(3 * MIB, 1), "readme.md": b"hello"}
COPIED = {"b.bin": noise(2 * MIB, 2), "sub/c.txt": b"see"}
UNFINISHED = noise(4 * MIB, 3)


async def fill(store: Store, tmp_path: Path, other_disk: Path) -> dict[str, Published]:
    """One of each: linked and pinned, copied and unpinned, incomplete, and an unfinished file."""
    linked = write_folder(tmp_path / "in", LINKED)
    for path in linked.iterdir():
        os.utime(path, (1, 1.5))
    one = await publish_into(store, linked, name="linked")
    two = await publish_into(store, write_folder(other_disk / "in", COPIED), name="copied")
    await store.unpin(two.manifest.cid)
    part = await publish_into(
        store, write_folder(other_disk / "part", {**COPIED, "d": UNFINISHED}), name="part"
    )
    await store.record(part.manifest, [], pin=True, complete=False, petname="alice")
    missing = next(file.cid for file in part.manifest.files if file.path == "d")
    outline = await store.outline(missing)
    row = await store._shelf.row(missing)
    assert outline is not None
    assert row is not None
    await store._shelf.forget([row])
    (store.folder / "blobs" / str(missing)[-3:-1] / str(missing)).unlink()
    async with store.open_partial(outline) as partial:
        await partial.accept(1, UNFINISHED[MIB : 3 * MIB])
    return {"linked": one, "copied": two, "part": part}


async def state(
    store: Store, releases: dict[str, Published]
) -> tuple[list[Release], Usage, set[CID], list[object]]:
    """Everything that a caller can see."""
    cids = {file.cid for one in releases.values() for file in one.manifest.files}
    blocks = [await store.block(one.manifest.root) for one in releases.values()]
    statements = [await store.manifest(one.manifest.cid) for one in releases.values()]
    files = [await store.release_files(one.manifest.cid) for one in releases.values()]
    return (
        await store.releases(),
        await store.usage(),
        await store.has_many(cids),
        [*blocks, *statements, *files],
    )


def delete(folder: Path) -> None:
    """No index at all."""
    for path in folder.glob("index.sqlite*"):
        path.unlink()


def garbage(folder: Path) -> None:
    """A file that is no database."""
    delete(folder)
    (folder / "index.sqlite").write_bytes(noise(10_000))


def torn(folder: Path) -> None:
    """A database with a page of zeros in it, that was not closed in order."""
    with sqlite3.connect(folder / "index.sqlite") as database:
        database.execute("UPDATE marks SET value = 0 WHERE name = 'clean'")
    database.close()
    size = (folder / "index.sqlite").stat().st_size
    with (folder / "index.sqlite").open("r+b") as file:
        for page in range(2, size // 4096, 2):
            file.seek(page * 4096)
            file.write(bytes(4096))


def newer(folder: Path) -> None:
    """An index that a later version wrote."""
    with sqlite3.connect(folder / "index.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def emptied(folder: Path) -> None:
    """An index that forgot everything, and doesn't know of a clean end."""
    with sqlite3.connect(folder / "index.sqlite") as database:
        for table in ("marks", "files", "leaves", "nodes", "releases", "release_files"):
            database.execute(f"DELETE FROM {table}")
    database.close()


@pytest.mark.parametrize("harm", [delete, garbage, torn, newer, emptied])
async def test_nothing_is_lost_with_the_index(
    folder: Path, tmp_path: Path, other_disk: Path, harm: Callable[[Path], None]
) -> None:
    """Pins, what is linked, what is unfinished, signatures, times: all as before."""
    async with open_store(folder, quota=None, reserve=0) as store:
        releases = await fill(store, tmp_path, other_disk)
        before = await state(store, releases)
    harm(folder)
    async with open_store(folder, quota=None, reserve=0) as store:
        assert await state(store, releases) == before
        outline = outline_of(UNFINISHED)
        async with store.open_partial(outline) as partial:
            assert list(partial.have) == [(MIB, 3 * MIB)]
        assert len(await store.local_leaves(outline_of(LINKED["a.bin"] + b"x"), partial.have)) == 2
        assert (await store.verify()).bad == []
        assert (await store.gc()).releases == 1


async def test_a_linked_file_is_still_watched(
    folder: Path, tmp_path: Path, other_disk: Path
) -> None:
    """Edited while there was no index: the record's facts, or the hash, tell."""
    async with open_store(folder, quota=None, reserve=0) as store:
        releases = await fill(store, tmp_path, other_disk)
    delete(folder)
    with (tmp_path / "in" / "a.bin").open("r+b") as file:
        file.write(b"edited")
    async with open_store(folder, quota=None, reserve=0) as store:
        [edited, readme] = releases["linked"].manifest.files
        assert await store.held(edited.cid) is None
        assert await store.has(readme.cid)


async def test_a_crash_leaves_index_and_disk_apart(folder: Path, other_disk: Path) -> None:
    """Files and releases that only one of the two knows: the disk is right."""
    async with open_store(folder, quota=None, reserve=0) as store:
        kept = await publish_into(store, write_folder(other_disk / "1", COPIED), name="kept")
        lost = await publish_into(
            store, write_folder(other_disk / "2", {"x": noise(2 * MIB, 7)}), name="lost"
        )
        [index] = [store.folder / "index.sqlite"]
        for suffix in ("", "-wal"):
            shutil.copy(f"{index}{suffix}", f"{other_disk}/index.sqlite{suffix}")
        later = await publish_into(
            store, write_folder(other_disk / "3", {"y": noise(2 * MIB, 8)}), name="later"
        )
        await store.unpin(kept.manifest.cid)
    delete(folder)
    for suffix in ("", "-wal"):
        shutil.copy(f"{other_disk}/index.sqlite{suffix}", f"{index}{suffix}")
    cid = lost.manifest.files[0].cid
    (folder / "blobs" / str(cid)[-3:-1] / str(cid)).unlink()
    shutil.rmtree(folder / "manifests" / str(lost.manifest.cid))
    async with open_store(folder, quota=None, reserve=0) as store:
        found = {one.name: (one.pinned, one.complete) for one in await store.releases()}
        assert found == {"kept": (False, True), "later": (True, True)}
        assert await store.has(later.manifest.files[0].cid)
        assert not await store.has(cid)
        assert (await store.verify()).bad == []


async def test_what_makes_no_sense_is_set_aside(folder: Path, other_disk: Path) -> None:
    """A stranger's file among ours, a blob that is nothing, a record that can't be read."""
    async with open_store(folder, quota=None, reserve=0) as store:
        release = await publish_into(store, write_folder(other_disk / "1", COPIED))
        broken = await publish_into(store, write_folder(other_disk / "1", COPIED), name="broken")
        unread = await publish_into(store, write_folder(other_disk / "1", COPIED), name="unread")
        big = outline_of(noise(2 * MIB, 70)).root
        small = outline_of(b"small").root
    delete(folder)
    (folder / "manifests" / str(broken.manifest.cid) / "record.json").write_bytes(b"{}")
    (folder / "manifests" / str(unread.manifest.cid) / "manifest.json").write_bytes(b"{}")
    (folder / "manifests" / "README").write_bytes(b"a stranger")
    for cid, data in ((big, b"nothing of that size"), (small, noise(2 * MIB))):
        path = folder / "blobs" / str(cid)[-3:-1] / str(cid)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    (folder / "blobs" / "notes.txt").write_bytes(b"a stranger")
    (folder / "temp" / "half").write_bytes(b"made")
    (folder / "temp" / "folder").mkdir()
    async with open_store(folder, quota=None, reserve=0) as store:
        assert [one.manifest_cid for one in await store.releases()] == [release.manifest.cid]
        assert not await store.has(big)
        assert not await store.has(small)
        assert (await store.verify()).bad == []
        assert len(os.listdir(folder / "quarantine")) == 4
        assert os.listdir(folder / "temp") == []
        await store.record(broken.manifest, [broken.bundle], pin=True, complete=True)
        assert len(await store.releases()) == 2


async def test_an_old_blob_with_a_new_name_is_hashed_before_it_is_believed(
    folder: Path, other_disk: Path
) -> None:
    """A file without facts, as after a crash, is good only if its bytes are."""
    data = noise(2 * MIB, 5)
    async with open_store(folder, quota=None, reserve=0) as store:
        good = (await store.add_bytes(data, Profile.FIXED_1M)).outline.root
        bad = (await store.add_bytes(noise(3 * MIB, 6), Profile.FIXED_1M)).outline.root
    path = folder / "blobs" / str(bad)[-3:-1] / str(bad)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"edited")
    delete(folder)
    async with open_store(folder, quota=None, reserve=0) as store:
        assert await store.has_many({good, bad}) == {good}


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_release_with_a_listing(folder: Path, damaged: bool) -> None:
    """Its files are read from the listing again; without it the release is known, not complete."""
    data = b"the same bytes under every name"
    async with open_store(folder, quota=None, reserve=0) as store:
        cid = (await store.add_bytes(data, Profile.FIXED_1M)).outline.root
        built = build_manifest(
            kind="dataset",
            publisher="z6Mk",
            name="large",
            version="1",
            created="2026-11-22T00:00:00Z",
            files=[
                FileEntry(f"{n:06}" + "x" * 200, len(data), cid, len(data)) for n in range(9500)
            ],
            profile=Profile.FIXED_1M,
            license={},
        )
        assert built.listing_bytes is not None
        listing = (await store.add_bytes(built.listing_bytes, Profile.FIXED_1M)).outline.root
        await store.record(built.manifest, [], pin=True, complete=True)
        before = await store.releases()
    delete(folder)
    if damaged:
        path = folder / "blobs" / str(listing)[-3:-1] / str(listing)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.write(b"damaged")
    async with open_store(folder, quota=None, reserve=0) as store:
        [release] = await store.releases()
        assert release.complete is not damaged
        assert len(await store.release_files(release.manifest_cid)) == (0 if damaged else 9500)
        if not damaged:
            assert [release] == before
        assert (await store.gc()).files == 0  # for all it knows, the release names every file
