"""Garbage collection: exactly what it said, and never what anybody keeps or uses."""

import os
from pathlib import Path

import trio

from node.store import Store, open_store
from p2p.chunking import Profile
from p2p.cid import CID
from tests.node.store.outlines import outline_of
from tests.releases import MIB, Published, noise, publish_into, write_folder


def listing(store: Store) -> set[str]:
    """Every file of the store, its index apart."""
    return {
        str(path.relative_to(store.folder))
        for path in store.folder.rglob("*")
        if path.is_file() and not path.name.startswith("index.sqlite")
    }


async def two_releases(store: Store, other_disk: Path) -> tuple[Published, Published]:
    """A pinned release and an unpinned one, copied into the store; one file is in both."""
    shared = noise(2 * MIB, 1)
    one = await publish_into(
        store, write_folder(other_disk / "1", {"a": noise(3 * MIB, 2), "s": shared}), name="one"
    )
    two = await publish_into(
        store, write_folder(other_disk / "2", {"b": noise(4 * MIB, 3), "s": shared}), name="two"
    )
    for release in (one, two):
        await store.view(release.manifest)
    await store.unpin(two.manifest.cid)
    return one, two


async def test_a_dry_run_says_what_then_happens(folder: Path, other_disk: Path) -> None:
    """The report is the same twice, the dry run changes nothing, the real one what it said."""
    async with open_store(folder, quota=None, reserve=0) as store:
        one, two = await two_releases(store, other_disk)
        async with store.open_partial(outline_of(noise(3 * MIB, 9))) as partial:
            await partial.accept(0, noise(3 * MIB, 9)[:MIB])
        await store.put_outline(outline_of(noise(2 * MIB, 8)))
        await store.add_bytes(noise(100), Profile.FIXED_1M)
        await store.remove(two.manifest.cid)
        (folder / "quarantine" / "something").write_bytes(b"bad")
    async with open_store(folder, quota=None, reserve=0) as store:  # nothing is fresh any more
        before, usage = listing(store), await store.usage()
        foretold = await store.gc(dry_run=True)
        assert listing(store) == before
        assert await store.usage() == usage
        assert await store.gc() == foretold
        assert (foretold.releases, foretold.files, foretold.partials) == (0, 2, 1)
        assert (foretold.outlines, foretold.quarantined) == (3, 1)
        assert usage.bytes - (await store.usage()).bytes == foretold.bytes >= 5 * MIB
        gone = before - listing(store)
        assert len(gone) == 2 + 1 + 3 + 1
        assert (await store.gc()).bytes == 0
        assert await store.has_many({file.cid for file in one.manifest.files}) == {
            file.cid for file in one.manifest.files
        }
        assert (await store.verify()).bad == []


async def test_an_unpinned_release_goes_with_its_files(store: Store, other_disk: Path) -> None:
    """Its record, its view, its Outlines and the files that nobody else names."""
    one, two = await two_releases(store, other_disk)
    report = await store.gc()
    assert (report.releases, report.files, report.bytes) == (1, 1, 4 * MIB)
    assert [found.name for found in await store.releases()] == ["one"]
    assert os.listdir(store.folder / "view") == [str(one.manifest.cid)]
    assert os.listdir(store.folder / "manifests") == [str(one.manifest.cid)]
    kept = {file.path: file.cid for file in one.manifest.files}
    gone = {file.path: file.cid for file in two.manifest.files}
    assert await store.has_many([*kept.values(), *gone.values()]) == set(kept.values())
    assert await store.block(two.manifest.root) is None
    assert await store.outline(gone["b"]) is None
    assert (await store.verify()).bad == []


async def test_who_asked_hears_what_is_gone(folder: Path, other_disk: Path) -> None:
    """A release and its folder once it is removed, its files once they are deleted; no others."""
    async with open_store(folder, quota=None, reserve=0) as store:
        one, two = await two_releases(store, other_disk)
        heard: list[CID] = []
        store.gone.append(heard.extend)
        kept = {file.cid for file in one.manifest.files}
        await store.remove(two.manifest.cid)
        assert set(heard) == {two.manifest.cid, two.manifest.root}
        heard.clear()
        await store.gc()
        assert set(heard) == {file.cid for file in two.manifest.files} - kept
        async with store.open_partial(outline_of(noise(3 * MIB, 9))) as partial:
            await partial.accept(0, noise(3 * MIB, 9)[:MIB])
        heard.clear()
        await store.gc()
        assert heard == [outline_of(noise(3 * MIB, 9)).root]


async def test_a_folder_of_two_releases_is_not_gone_with_one(store: Store, tmp_path: Path) -> None:
    """The same files published under two names: one folder, held until both are removed."""
    source = write_folder(tmp_path / "in", {"a": noise(500)})
    one = await publish_into(store, source, name="one")
    two = await publish_into(store, source, name="two")
    assert one.manifest.root == two.manifest.root
    heard: list[CID] = []
    store.gone.append(heard.extend)
    await store.remove(one.manifest.cid)
    assert heard == [one.manifest.cid]
    await store.remove(two.manifest.cid)
    assert heard == [one.manifest.cid, two.manifest.cid, two.manifest.root]


async def test_what_is_in_use_stays(store: Store, other_disk: Path) -> None:
    """A release or a file in use, an open partial file, a file whose release isn't recorded yet."""
    one, two = await two_releases(store, other_disk)
    await store.unpin(one.manifest.cid)
    fresh = (await store.add_bytes(noise(500), Profile.FIXED_1M)).outline.root
    used = next(file.cid for file in two.manifest.files if file.path == "b")
    unfinished = noise(3 * MIB, 9)
    async with store.open_partial(outline_of(unfinished)) as partial:
        await partial.accept(0, unfinished[:MIB])
        with store.using(one.manifest.cid), store.using(used):
            report = await store.gc()
            assert (report.releases, report.files, report.partials) == (1, 0, 0)
            assert await store.has(used)
            await partial.accept(1, unfinished[MIB:])
            await partial.commit()
    report = await store.gc()
    assert (report.releases, report.files) == (1, 3)
    assert await store.has(fresh)
    assert await store.has(outline_of(unfinished).root)


async def test_what_is_found_present_is_not_lost_to_a_running_collection(
    store: Store, other_disk: Path
) -> None:
    """Adding, or opening, what is garbage at that moment: afterwards it is here."""
    data = [noise(2000, seed) for seed in range(600)]
    items = [(outline_of(one), one) for one in data]
    await store.put_many(items)
    store._shelf.settle([outline.root for outline, _ in items])
    roots: set[CID] = {outline.root for outline, _ in items}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.gc)
        nursery.start_soon(store.put_many, items)

        async def open_last() -> None:
            async with store.open_partial(items[-1][0]) as partial:
                await partial.accept(0, data[-1])
                await partial.commit()

        nursery.start_soon(open_last)
    assert await store.has_many(roots) == roots
    assert (await store.verify()).bad == []


async def test_files_without_a_row_are_garbage_too(folder: Path) -> None:
    """Whole files that the index never heard of, as after a full disk."""
    async with open_store(folder, quota=None, reserve=0) as store:
        cid = (await store.add_bytes(b"orphan", Profile.FIXED_1M)).outline.root
        await store._shelf.rows.forget_files([cid])
        store._shelf.settle([cid])
        assert (await store.gc(dry_run=True)).files == 1
        assert (await store.gc()).files == 1
        assert listing(store) == {"lock"}
