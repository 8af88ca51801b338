"""Damage is found, set aside, and repaired by moving only what is bad."""

import errno
import os
from pathlib import Path

import pytest

from node.store import Damage, Store, hashing, open_store
from p2p.cid import CID
from p2p.errors import NotFound
from tests.releases import MIB, noise, publish_into, write_folder

FILES = {"a.bin": noise(5 * MIB + 9), "sub/b.txt": b"hello", "c.bin": noise(2 * MIB, 3)}


def blob(store: Store, cid: CID) -> Path:
    """Where a whole file lies."""
    return store.folder / "blobs" / str(cid)[-3:-1] / str(cid)


def damage(path: Path, *places: int) -> None:
    """Change single bytes behind the store's back."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 255]))


async def test_a_healthy_store_is_clean(store: Store, tmp_path: Path) -> None:
    """Every leaf is hashed, nothing is reported, nothing changes."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    heard: list[int] = []
    report = await store.verify(release.manifest.cid, heard.append)
    assert (report.checked, report.bad) == (6 + 1 + 2, [])
    assert sum(heard) == sum(map(len, FILES.values()))
    assert (await store.verify()).checked == 9
    with pytest.raises(NotFound):
        await store.verify(CID.of(b"", release.manifest.cid.codec))


@pytest.mark.parametrize("copied", [True, False])
async def test_only_the_damage_is_fetched_again(
    store: Store, tmp_path: Path, other_disk: Path, copied: bool
) -> None:
    """Two bad leaves of six are named, the file is not served, four leaves are kept."""
    release = await publish_into(
        store, write_folder((other_disk if copied else tmp_path) / "in", FILES)
    )
    entry = release.manifest.files[0]
    view = await store.view(release.manifest)
    damage(blob(store, entry.cid), 10, 3 * MIB)
    report = await store.verify(release.manifest.cid)
    assert report.bad == [Damage("a.bin", 0, MIB), Damage("a.bin", 3 * MIB, MIB)]
    assert not await store.has(entry.cid)
    found = await store.release(release.manifest.cid)
    assert found is not None
    assert not found.complete
    assert not view.exists()
    assert (await store.verify(release.manifest.cid)).bad == []
    assert len(os.listdir(store.folder / "quarantine")) == (2 if copied else 1)
    if not copied:  # the owner's file is as the owner left it
        assert (tmp_path / "in" / "a.bin").stat().st_size == len(FILES["a.bin"])
    usage = await store.usage()
    assert usage.partial_bytes >= 3 * MIB

    outline = await store.outline(entry.cid)
    assert outline is not None
    async with store.open_partial(outline) as partial:
        assert list(partial.missing) == [(0, MIB), (3 * MIB, 4 * MIB)]
        for start, stop in partial.missing:
            await partial.accept(start // MIB, FILES["a.bin"][start:stop])
        await partial.commit()
    await store.record(release.manifest, [release.bundle], pin=True, complete=True)
    assert (await store.verify()).bad == []
    view = await store.view(release.manifest)
    assert (view / "a.bin").read_bytes() == FILES["a.bin"]


async def test_damage_is_seen_before_it_is_served(store: Store, other_disk: Path) -> None:
    """Whoever asks for a file that changed gets nothing, without anybody calling verify."""
    release = await publish_into(store, write_folder(other_disk / "in", FILES))
    damage(blob(store, release.manifest.files[0].cid), 7)
    assert await store.held(release.manifest.files[0].cid) is None
    damage(blob(store, release.manifest.files[2].cid), 1)
    assert await store.has_many({file.cid for file in release.manifest.files}) == {
        release.manifest.files[1].cid
    }
    view = await store.view(release.manifest)
    assert not (view / "a.bin").exists()
    assert not (view / "sub/b.txt").exists()


@pytest.mark.parametrize("change", ["delete", "truncate", "append", "garbage"])
async def test_other_ways_to_lose_a_file(store: Store, other_disk: Path, change: str) -> None:
    """Deleted, cut off, grown or wholly wrong: reported, and what is good is kept."""
    release = await publish_into(store, write_folder(other_disk / "in", FILES))
    entry = release.manifest.files[0]
    path = blob(store, entry.cid)
    path.chmod(0o644)
    if change == "delete":
        path.unlink()
    elif change == "truncate":
        os.truncate(path, 3 * MIB + 5)
    elif change == "append":
        with path.open("ab") as file:
            file.write(b"more")
    else:
        path.write_bytes(noise(len(FILES["a.bin"]), 77))
    report = await store.verify()
    assert {found.path for found in report.bad} == {"a.bin"}
    outline = await store.outline(entry.cid)
    assert outline is not None
    async with store.open_partial(outline) as partial:
        kept = {"delete": 0, "truncate": 3 * MIB, "append": outline.size, "garbage": 0}[change]
        assert partial.have.size == kept
        await partial.accept(0, FILES["a.bin"])
        await partial.commit()
    assert (await store.verify()).bad == []
    assert (await store.usage()).bytes == sum(map(len, FILES.values()))


async def test_a_linked_file_is_not_copied_past_the_quota(folder: Path, tmp_path: Path) -> None:
    """Keeping good leaves of the owner's file is a courtesy that the quota may forbid."""
    write_folder(tmp_path / "in", FILES)
    async with open_store(folder, quota=MIB, reserve=0) as store:
        release = await publish_into(store, tmp_path / "in")
        damage(tmp_path / "in" / "a.bin", 0)
        assert len((await store.verify()).bad) == 1
        assert (await store.usage()).bytes == 0
        assert not await store.has(release.manifest.files[0].cid)


async def test_a_damaged_outline_is_made_again(folder: Path, tmp_path: Path) -> None:
    """Outlines are never believed unchecked; a whole file gives its own back."""
    async with open_store(folder, quota=None, reserve=0) as store:
        release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cid = release.manifest.files[0].cid
    path = folder / "outlines" / str(cid)[-3:-1] / f"{cid}.car"
    good = path.read_bytes()
    damage(path, len(good) // 2)
    async with open_store(folder, quota=None, reserve=0) as store:
        outline = await store.outline(cid)
        assert outline is not None
        assert outline.encode() == good == path.read_bytes()
        assert await store.block(cid) is not None
    path.unlink()
    async with open_store(folder, quota=None, reserve=0) as store:
        assert (await store.verify()).bad == []


async def test_a_damaged_manifest_is_reported(store: Store, tmp_path: Path) -> None:
    """A manifest that is not its CID any more, or unsigned, is damage; recording mends it."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cid = release.manifest.cid
    damage(store.folder / "manifests" / str(cid) / "manifest.json", 5)
    assert [found.path for found in (await store.verify()).bad] == [f"{cid}/manifest.json"]
    assert await store.manifest(cid) is None
    assert await store.block(cid) is None
    await store.record(release.manifest, [release.bundle], pin=True, complete=True)
    assert (await store.verify()).bad == []
    assert await store.manifest(cid) == (release.manifest.payload, (release.bundle,), None)


async def test_leaves_that_the_disk_cannot_read(
    store: Store, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector costs its leaf; the others of that piece are kept."""
    release = await publish_into(store, write_folder(other_disk / "in", FILES))
    cid = release.manifest.files[0].cid
    sector = 2 * MIB + 4096
    read = hashing.read_into

    def failing(fd: int, buffer: memoryview, offset: int) -> int:
        if offset <= sector < offset + len(buffer):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, buffer, offset)

    with monkeypatch.context() as patch:
        patch.setattr(hashing, "read_into", failing)
        report = await store.verify(release.manifest.cid)
    assert report.bad == [Damage("a.bin", 2 * MIB, MIB)]
    assert not await store.has(cid)
