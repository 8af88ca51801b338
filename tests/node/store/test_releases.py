"""Releases: recorded whole, found again, shown as folders, and their blocks served."""

import os
from pathlib import Path

import pytest

from node.store import Store, durable
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.errors import NotFound, StoreError
from p2p.manifest import FileEntry, build_manifest, parse_manifest
from tests.releases import MIB, noise, publish_into, write_folder

FILES = {"a.bin": noise(3 * MIB), "sub/deep/b.txt": b"hello", "c.txt": b"see"}


async def test_a_release_is_recorded(store: Store, tmp_path: Path) -> None:
    """What was recorded comes back: facts, files, manifest, signatures."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cid = release.manifest.cid
    [found] = await store.releases()
    assert found == await store.release(cid)
    assert (found.manifest_cid, found.name, found.version, found.kind) == (
        cid,
        "tiny",
        "1",
        "model",
    )
    assert (found.pinned, found.complete, found.files) == (True, True, 3)
    assert (found.size, found.license) == (sum(map(len, FILES.values())), "Apache-2.0")
    assert [file.path for file in await store.release_files(cid)] == sorted(FILES)
    assert await store.manifest(cid) == (release.manifest.payload, (release.bundle,), None)
    other = CID.of(b"", Codec.JSON)
    assert await store.release(other) is None
    assert await store.manifest(other) is None


async def test_recording_again_keeps_what_was_known(store: Store, tmp_path: Path) -> None:
    """The time, the petname and earlier signatures stay; what is said anew changes."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    before = await store.release(release.manifest.cid)
    assert before is not None
    manifest = release.manifest
    await store.record(manifest, [b"{}"], pin=False, complete=True, petname="alice")
    await store.record(manifest, [], pin=False, complete=True, linked={"a.bin": tmp_path})
    after = await store.release(manifest.cid)
    assert after is not None
    assert (after.added, after.petname, after.pinned) == (before.added, "alice", False)
    statement = await store.manifest(manifest.cid)
    assert statement is not None
    assert set(statement[1]) == {release.bundle, b"{}"}


async def test_complete_means_complete(store: Store, tmp_path: Path) -> None:
    """A release whose files are not all here can't be recorded as complete."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    await store.remove(release.manifest.cid)
    missing = FileEntry("missing", 1, CID.of(b"m", Codec.RAW), 1)
    built = build_manifest(
        kind="dataset",
        publisher=release.manifest.publisher,
        name="other",
        version="1",
        created="2026-11-22T00:00:00Z",
        files=[*release.manifest.files, missing],
        profile=Profile.TENSOR_1M,
        license={},
    )
    with pytest.raises(StoreError, match="1 of the 4 files"):
        await store.record(built.manifest, [], pin=True, complete=True)
    assert await store.releases() == []
    await store.record(built.manifest, [], pin=True, complete=False)
    [found] = await store.releases()
    assert not found.complete
    view = await store.view(built.manifest)
    assert sorted(path.name for path in view.rglob("*") if path.is_file()) == [
        "a.bin",
        "b.txt",
        "c.txt",
    ]


async def test_pins_and_removal(store: Store, tmp_path: Path) -> None:
    """A pin is set and taken; a removed release is gone from the list, its view too."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cid = release.manifest.cid
    view = await store.view(release.manifest)
    for pinned in (False, True):
        await (store.pin(cid) if pinned else store.unpin(cid))
        found = await store.release(cid)
        assert found is not None
        assert found.pinned is pinned
    await store.remove(cid)
    assert await store.releases() == []
    assert not view.exists()
    assert await store.has(release.manifest.files[0].cid)  # until gc
    for verb in (store.pin, store.unpin, store.remove):
        with pytest.raises(NotFound):
            await verb(cid)


async def test_a_view_is_what_an_engine_opens(store: Store, tmp_path: Path) -> None:
    """Links, no copies; made again after whatever happened to it."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    for _ in range(2):
        view = await store.view(release.manifest)
        found = {str(path.relative_to(view)): path for path in view.rglob("*") if path.is_file()}
        assert {path: file.read_bytes() for path, file in found.items()} == FILES
        held = await store.held(release.manifest.files[0].cid)
        assert held is not None
        assert found["a.bin"].samefile(held.path)
        (view / "sub/deep/b.txt").unlink()
        (view / "c.txt").unlink()
        (view / "c.txt").write_bytes(b"another file")
        (view / "a.bin").unlink()
        (view / "a.bin").symlink_to(held.path)  # the file itself, as where no link can be made
        (view / "extra").mkdir()
        (view / "extra/file").write_bytes(b"")
        (view / "dangling").symlink_to("nowhere")
        os.rmdir(view / "sub/deep")
    assert os.listdir(store.folder / "temp") == []


async def test_more_names_than_a_file_may_have(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there can be no further hard link, a symbolic one does."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    monkeypatch.setattr(durable, "link", lambda source, target: False)
    for _ in range(2):
        view = await store.view(release.manifest)
        assert (view / "sub/deep/b.txt").is_symlink()
        assert (view / "sub/deep/b.txt").read_bytes() == b"hello"


async def test_who_names_a_file_is_known_of_its_neighbours_too(
    store: Store, tmp_path: Path
) -> None:
    """They are looked up together, and what is remembered is as true as what is asked."""
    alone = {f"{number:03}": b"%d" % number for number in range(300)}
    common = {"license": b"the same in all"}
    first = await publish_into(store, write_folder(tmp_path / "1", alone | common))
    second = await publish_into(store, write_folder(tmp_path / "2", common), version="2")
    entries = {entry.path: entry.cid for entry in first.manifest.files}
    assert await store.named(entries["100"]) == [(first.manifest.cid, "100")]

    index = store._releases.rows._index
    asked = index.ask
    index.ask = None  # type: ignore[method-assign,assignment]
    try:
        for path in ("101", "299"):  # who asked for one before is answered without the index
            assert await store.named(entries[path]) == [(first.manifest.cid, path)]
        named = await store.named(entries["license"])
    finally:
        index.ask = asked  # type: ignore[method-assign]
    both = {(one.manifest.cid, "license") for one in (first, second)}
    assert set(named) == both

    await store.remove(first.manifest.cid)
    assert await store.named(entries["101"]) == []
    assert await store.named(entries["license"]) == [(second.manifest.cid, "license")]
    assert await store.named(CID.of(b"nobody's", Codec.RAW)) == []


async def test_every_block_can_be_read(store: Store, tmp_path: Path) -> None:
    """Leaves, file nodes, folder nodes and the manifest; an unknown block is None."""
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    manifest = release.manifest
    wanted = [manifest.cid, manifest.root, *(file.cid for file in manifest.files)]
    outline = await store.outline(manifest.files[0].cid)
    assert outline is not None
    wanted += [outline.leaf(index).cid for index in range(len(outline))]
    for cid in wanted:
        block = await store.block(cid)
        assert block is not None
        assert cid.matches(block)
    for codec in Codec:
        assert await store.block(CID.of(b"unknown", codec)) is None


async def test_outlines_alone(store: Store, tmp_path: Path) -> None:
    """An Outline can be kept before any byte of the file is here."""
    data = noise(1030 * 4096)
    outline = (await store.add_bytes(data, Profile.FIXED_1M)).outline
    assert await store.outline(CID.of(b"?", Codec.DAG_PB)) is None
    await store.put_outline(outline)
    await store.put_outlines([outline, outline])
    assert await store.outline(outline.root) == outline


async def test_a_release_too_large_for_one_manifest(store: Store, tmp_path: Path) -> None:
    """Its listing is a file like others: kept, returned with the manifest, claimed by it."""
    files = [
        FileEntry(f"{number:06}" + "x" * 200, 1, CID.of(b"%d" % number, Codec.RAW), 1)
        for number in range(10_000)
    ]
    built = build_manifest(
        kind="dataset",
        publisher="z6Mk",
        name="large",
        version="1",
        created="2026-11-22T00:00:00Z",
        files=files,
        profile=Profile.FIXED_1M,
        license={},
    )
    assert built.listing_bytes is not None
    await store.add_bytes(built.listing_bytes, Profile.FIXED_1M)
    await store.record(built.manifest, [], pin=True, complete=False)
    found = await store.manifest(built.manifest.cid)
    assert found is not None
    assert parse_manifest(found[0], found[2]).files == built.manifest.files
    assert (await store.gc()).files == 0
