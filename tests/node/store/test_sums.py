"""SHA-256 of whole files: right, remembered, and only of bytes that are what they must be."""

import hashlib
import os
from pathlib import Path

import pytest
import trio

from node.store import Store, open_store
from node.store.intake import outline_of
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from tests.releases import MIB, noise, publish_into, write_folder

FILES = {"a.bin": noise(9 * MIB + 5), "b.txt": b"hello", "empty": b""}


async def test_is_that_of_the_file(store: Store, tmp_path: Path) -> None:
    """Large, small and empty files; what is not here is left out; progress counts bytes."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    heard: list[int] = []
    cids = {entry.cid: FILES[entry.path] for entry in release.manifest.files}
    missing = CID.of(b"missing", Codec.RAW)
    found = await store.sha256([*cids, missing], heard.append)
    assert found == {cid: hashlib.sha256(data).hexdigest() for cid, data in cids.items()}
    assert sum(heard) == sum(map(len, FILES.values()))


async def test_is_remembered(store: Store, tmp_path: Path) -> None:
    """What was hashed once is not hashed again, and a sha2-256 CID needs no hashing at all."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cids = [entry.cid for entry in release.manifest.files]
    first = await store.sha256(cids)
    heard: list[int] = []
    assert await store.sha256(cids, heard.append) == first
    added = await store.add(tmp_path / "in" / "b.txt", "b.txt", Profile.UNIXFS_V1_2025)
    [digest] = (await store.sha256([added.outline.root], heard.append)).values()
    assert digest == hashlib.sha256(b"hello").hexdigest()
    assert heard == []


async def test_a_file_that_was_changed_has_none(store: Store, tmp_path: Path) -> None:
    """The owner edits a file that the store shares with him: nothing is said of the new bytes."""
    folder = write_folder(tmp_path / "in", FILES)
    release = await publish_into(store, folder)
    [cid] = [entry.cid for entry in release.manifest.files if entry.path == "a.bin"]
    held = await store.held(cid)
    assert held is not None
    os.chmod(held.path, 0o644)
    facts = held.path.stat()
    with held.path.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"edited")
    os.utime(held.path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as if nobody had
    assert await store.sha256([cid]) == {}


async def test_a_cancel_keeps_what_was_done(store: Store, tmp_path: Path) -> None:
    """Files that were hashed before the cancel are not hashed again."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cids = sorted((entry.cid for entry in release.manifest.files), key=lambda cid: cid.codec)
    with trio.CancelScope() as scope:

        def cancel(size: int) -> None:
            if size > 100:
                scope.cancel()

        await store.sha256(cids, cancel)
    assert scope.cancelled_caught
    heard: list[int] = []
    await store.sha256(cids, heard.append)
    assert sum(heard) == len(FILES["a.bin"])


async def test_the_marks_last(tmp_path: Path) -> None:
    """That a release is to get a model.sig is remembered on disk until it is taken back."""
    async with open_store(tmp_path / "store", quota=None, reserve=0) as store:
        release = await publish_into(store, write_folder(tmp_path / "in", FILES))
        await store.want_model_signature(release.manifest.cid, True)
    async with open_store(tmp_path / "store", quota=None, reserve=0) as store:
        assert await store.model_signatures_wanted() == [release.manifest.cid]
        await store.want_model_signature(release.manifest.cid, False)
        await store.want_model_signature(release.manifest.cid, False)
        assert await store.model_signatures_wanted() == []


@pytest.mark.parametrize("damage", ["gone", "short"])
async def test_a_damaged_file_has_none(store: Store, tmp_path: Path, damage: str) -> None:
    """A file that is gone, or shorter than it was, has no SHA-256, and nothing falls over it."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    [cid] = [entry.cid for entry in release.manifest.files if entry.path == "a.bin"]
    held = await store.held(cid)
    assert held is not None
    held.path.unlink()
    if damage == "short":
        held.path.write_bytes(FILES["a.bin"][:-1])
    assert await store.sha256([cid]) == {}


async def test_gits_name_of_a_file(store: Store, tmp_path: Path) -> None:
    """It is what ``git hash-object`` prints, and is kept apart from the SHA-256."""
    release = await publish_into(store, write_folder(tmp_path / "in", {"a.txt": b"hello\n"}))
    [cid] = [entry.cid for entry in release.manifest.files]
    assert await store.known_sha256([cid]) == {}
    name = {cid: "ce013625030ba8dba906f756967f9e9ca394464a"}
    assert await store.git_sha1([cid]) == name
    digest = hashlib.sha256(b"hello\n").hexdigest()
    assert await store.sha256([cid]) == await store.known_sha256([cid]) == {cid: digest}
    assert await store.git_sha1([cid]) == name


async def test_an_unfinished_file_says_when_it_grows(store: Store) -> None:
    """Leaves that come, the commit and the end each wake who waits; nobody waits for no file."""
    data = noise(3 * MIB)
    outline = outline_of(data, "", Profile.FIXED_1M)
    opening = store.growth(outline.root)
    async with store.open_partial(outline) as partial:
        assert opening.is_set()
        for leaf in range(3):
            growth = store.growth(outline.root)
            assert not growth.is_set()
            await partial.accept(leaf, data[leaf * MIB : (leaf + 1) * MIB])
            assert growth.is_set()
        growth = store.growth(outline.root)
        await partial.commit()
        assert growth.is_set()
        growth = partial.growth
    assert growth.is_set()
    assert not store.growth(outline.root).is_set()
