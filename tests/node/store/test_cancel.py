"""Every long operation is cancelled once; afterwards nothing is half done."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from node.store import Store, open_store
from p2p.chunking import Profile
from tests.node.store.outlines import outline_of
from tests.releases import MIB, noise, publish_into, write_folder

BIG = noise(24 * MIB)
SMALL = {f"{number}.txt": noise(3000, number) for number in range(1200)}


async def cancelled(work: Callable[[Callable[[int], None]], Awaitable[object]]) -> bool:
    """Run ``work`` and cancel it at its first sign of progress; say whether that cut it short."""
    with trio.CancelScope() as scope:
        await work(lambda _: scope.cancel())
    return scope.cancelled_caught


async def healthy(store: Store, files: int) -> None:
    """Nothing reserved, nothing half-made, and every file whole."""
    assert os.listdir(store.folder / "temp") == []
    usage = await store.usage()
    assert usage.partial_bytes == 0
    assert usage.files == files
    assert (await store.verify()).bad == []


@pytest.mark.parametrize("same_disk", [True, False])
async def test_adding_a_file(
    store: Store, tmp_path: Path, other_disk: Path, same_disk: bool
) -> None:
    """A cancelled add leaves nothing, and can be done again."""
    file = (tmp_path if same_disk else other_disk) / "big"
    file.write_bytes(BIG)

    async def work(progress: Callable[[int], None]) -> None:
        await store.add(file, "big", Profile.FIXED_1M, progress=progress)

    assert await cancelled(work)
    await healthy(store, 0)
    await store.add(file, "big", Profile.FIXED_1M)
    await healthy(store, 1)


async def test_adding_many_files(store: Store, other_disk: Path) -> None:
    """Whole batches are kept or none of it."""
    write_folder(other_disk, SMALL)
    files = [(other_disk / name, name) for name in SMALL]

    async def work(progress: Callable[[int], None]) -> None:
        await store.add_many(files, Profile.FIXED_1M, progress=progress)

    assert await cancelled(work)
    await healthy(store, 0)


async def test_putting_many_files(store: Store) -> None:
    """Cancelled before the disk was asked to keep anything: nothing is kept."""
    items = [(outline_of(data), data) for data in SMALL.values()]

    async def work(progress: Callable[[int], None]) -> None:
        await store.put_many(items, progress)

    assert await cancelled(work)
    await healthy(store, 0)


async def test_accepting_leaves(store: Store) -> None:
    """What was written before the cancel counts, and is there again."""
    outline = outline_of(BIG)
    async with store.open_partial(outline) as partial:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial.accept, 0, BIG)
            while not partial.have:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        have = partial.have.copy()
        assert 0 < have.size < len(BIG)
    async with store.open_partial(outline) as partial:
        assert partial.have == have


async def test_leaving_while_leaves_are_written(store: Store) -> None:
    """The file is closed only after the last writer; the descriptor is never somebody else's."""
    outline = outline_of(BIG)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery, store.open_partial(outline) as partial:
            nursery.start_soon(partial.accept, 0, BIG)
            nursery.start_soon(partial.accept, 12, BIG[12 * MIB :])
            while not partial.have:
                await trio.lowlevel.checkpoint()
            scope.cancel()
    async with store.open_partial(outline) as partial:
        assert partial.have


async def test_checking_what_lies_there(store: Store) -> None:
    """A cancelled resume gives its reservation back and loses nothing."""
    outline = outline_of(BIG)
    async with store.open_partial(outline) as partial:
        await partial.accept(0, BIG[: 20 * MIB])
    before = await store.usage()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def soon() -> None:
                await trio.lowlevel.checkpoint()
                scope.cancel()

            async with store.open_partial(outline):
                await trio.sleep_forever()
    assert await store.usage() == before
    async with store.open_partial(outline) as partial:
        assert partial.have.size == 20 * MIB


async def test_reusing_leaves(store: Store, tmp_path: Path) -> None:
    """A cancelled copy keeps what it had."""
    (tmp_path / "base").write_bytes(BIG)
    await store.add(tmp_path / "base", "base", Profile.FIXED_1M)
    outline = outline_of(BIG + b"more")

    async def work(progress: Callable[[int], None]) -> None:
        async with store.open_partial(outline) as partial:
            await partial.reuse(progress)

    assert await cancelled(work)
    async with store.open_partial(outline) as partial:
        before = partial.have.size
        assert before > 0
        assert await partial.reuse() == len(BIG) - before


async def test_committing_and_recording_are_whole(store: Store, tmp_path: Path) -> None:
    """Once begun they go through, whatever is cancelled meanwhile."""
    outline = outline_of(BIG)
    with trio.CancelScope() as scope:
        async with store.open_partial(outline) as partial:
            await partial.accept(0, BIG)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await partial.commit()
    assert await store.has(outline.root)
    release = await publish_into(store, write_folder(tmp_path / "in", {"a": b"1", "b": b"2"}))
    await store.remove(release.manifest.cid)
    for delay in range(12):  # so many checkpoints later
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def soon(steps: int = delay) -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                await store.record(release.manifest, [release.bundle], pin=True, complete=True)
        found = await store.release(release.manifest.cid)
        on_disk = (store.folder / "manifests" / str(release.manifest.cid)).exists()
        assert on_disk == (found is not None)
        if found is not None:
            await store.remove(release.manifest.cid)


async def test_verifying(store: Store, tmp_path: Path) -> None:
    """A cancelled look changes nothing."""
    (tmp_path / "big").write_bytes(BIG)
    await store.add(tmp_path / "big", "big", Profile.FIXED_1M)

    async def work(progress: Callable[[int], None]) -> None:
        await store.verify(None, progress)

    assert await cancelled(work)
    await healthy(store, 1)


async def test_collecting_garbage(store: Store) -> None:
    """Cut short, it has deleted some of the garbage, and the index knows which."""
    items = [(outline_of(data), data) for data in SMALL.values()]
    await store.put_many(items)
    store._shelf.settle([outline.root for outline, _ in items])
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.gc)
            while (await store.usage()).files == len(SMALL):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    left = (await store.usage()).files
    assert 0 < left < len(SMALL)
    await healthy(store, left)
    assert (await store.gc()).files == left
    await healthy(store, 0)


async def test_the_store_itself(folder: Path) -> None:
    """A cancelled program leaves a store that opens without looking through everything."""
    with trio.CancelScope() as scope:
        async with open_store(folder, quota=None, reserve=0) as store:
            await store.add_bytes(b"x", Profile.FIXED_1M)
            scope.cancel()
            await trio.sleep_forever()
    async with open_store(folder, quota=None, reserve=0) as store:
        await healthy(store, 1)
