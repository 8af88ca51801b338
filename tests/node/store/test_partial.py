"""Unfinished files: only verified leaves, nothing lost, hard limits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.store import Store, open_store
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.errors import BadBytes, DiskFull, QuotaExceeded, StoreError, VerificationFailed
from p2p.ranges import RangeSet
from tests.node.store.outlines import outline_of
from tests.releases import MIB, noise, safetensors_bytes

DATA = noise(6 * MIB + 100)
OUTLINE = outline_of(DATA)


async def test_leaves_in_any_order_make_the_file(store: Store) -> None:
    """Whole leaves arrive backwards and twice; the file is whole once committed, and only then."""
    async with store.open_partial(OUTLINE) as partial:
        for index in reversed(range(len(OUTLINE))):
            start, stop = OUTLINE.span(index, index + 1)
            assert await partial.accept(index, DATA[start:stop]) == stop - start
            assert await partial.accept(index, DATA[start:stop]) == 0
        assert not partial.missing
        assert not await store.has(OUTLINE.root)
        await partial.commit()
        await partial.commit()  # again is no error
        assert await partial.accept(0, DATA) == 0
        assert await store.has(OUTLINE.root)
    held = await store.held(OUTLINE.root)
    assert held is not None
    assert held.path.read_bytes() == DATA
    assert os.listdir(store.folder / "partial") == []
    assert (await store.usage()).bytes == len(DATA)


async def test_many_leaves_at_once(store: Store) -> None:
    """More than a piece in one call, given as any kind of buffer."""
    async with store.open_partial(OUTLINE) as partial:
        assert await partial.accept(0, memoryview(bytearray(DATA))) == len(DATA)
        await partial.commit()
    async with store.open_partial(OUTLINE) as partial:  # a whole file misses nothing
        assert not partial.missing
        assert await partial.reuse() == 0
        await partial.commit()


async def test_a_bad_leaf_is_never_written(store: Store) -> None:
    """The leaves before it are kept, it and those behind it are not, and it is named."""
    bad = bytearray(DATA)
    bad[2 * MIB + 5] ^= 1
    async with store.open_partial(OUTLINE) as partial:
        with pytest.raises(BadBytes, match="Leaf 2 of"):
            await partial.accept(0, bad)
        assert list(partial.have) == [(0, 2 * MIB)]
        with partial.path.open("rb") as file:
            assert file.read(2 * MIB) == DATA[: 2 * MIB]
            assert file.read() == bytes(len(DATA) - 2 * MIB)


@pytest.mark.parametrize(
    ("first", "size"),
    [(0, 0), (0, 1), (0, MIB + 1), (6, MIB), (7, 1), (-1, MIB), (5, 3 * MIB), (1 << 60, MIB)],
)
async def test_what_is_no_whole_leaf_is_refused(store: Store, first: int, size: int) -> None:
    """Half a leaf, nothing, too much, or leaves that the file doesn't have."""
    async with store.open_partial(OUTLINE) as partial:
        with pytest.raises(BadBytes, match="no whole leaves"):
            await partial.accept(first, bytes(size))
        assert not partial.have


async def test_leaves_arrive_from_many_tasks(store: Store) -> None:
    """Ten sources send everything at once: each byte counts as new once."""
    new: list[int] = []
    async with store.open_partial(OUTLINE) as partial:

        async def source(first: int) -> None:
            for number in range(len(OUTLINE)):
                index = (first + number) % len(OUTLINE)
                start, stop = OUTLINE.span(index, index + 1)
                new.append(await partial.accept(index, DATA[start:stop]))

        async with trio.open_nursery() as nursery:
            for first in range(10):
                nursery.start_soon(source, first)
        assert sum(new) == len(DATA)
        await partial.commit()
    assert await store.has(OUTLINE.root)


async def test_what_came_is_there_again(folder: Path) -> None:
    """After closing and opening, only what never came, or was damaged since, is missing."""
    async with open_store(folder, quota=None, reserve=0) as store:
        async with store.open_partial(OUTLINE) as partial:
            await partial.accept(1, DATA[MIB : 4 * MIB])
            path = partial.path
        with pytest.raises(FileNotFoundError):
            os.stat(folder / "blobs" / str(OUTLINE.root))
    with path.open("r+b") as file:  # a stranger's edit
        file.seek(2 * MIB + 9)
        file.write(b"?")
    async with (
        open_store(folder, quota=None, reserve=0) as store,
        store.open_partial(OUTLINE) as partial,
    ):
        assert list(partial.have) == [(MIB, 2 * MIB), (3 * MIB, 4 * MIB)]
        await partial.accept(0, DATA)
        await partial.commit()


async def test_a_partial_file_of_wrong_size_is_put_right(store: Store) -> None:
    """Too long, too short, read-only: what is good of it is used."""
    async with store.open_partial(OUTLINE) as partial:
        await partial.accept(0, DATA[: 3 * MIB])
    for size in (len(DATA) + 5, 2 * MIB + 7):
        os.truncate(partial.path, size)
        partial.path.chmod(0o444)
        async with store.open_partial(OUTLINE) as partial:
            assert partial.path.stat().st_size == len(DATA)
    assert list(partial.have) == [(0, 2 * MIB)]


async def test_a_partial_file_is_served_while_it_grows(store: Store) -> None:
    """``held`` gives the verified ranges, and no more; a file at rest gives nothing."""
    assert await store.held(OUTLINE.root) is None
    async with store.open_partial(OUTLINE) as partial:
        await partial.accept(2, DATA[2 * MIB : 3 * MIB])
        held = await store.held(OUTLINE.root)
        assert held is not None
        assert held.have == RangeSet([(2 * MIB, 3 * MIB)])
        assert await store.outline(OUTLINE.root) == OUTLINE
        await partial.accept(3, DATA[3 * MIB : 4 * MIB])
        assert held.have.size == MIB  # a snapshot
    assert await store.held(OUTLINE.root) is None


async def test_a_commit_needs_every_leaf(store: Store) -> None:
    """An incomplete file can't be committed, and stays what it was."""
    async with store.open_partial(OUTLINE) as partial:
        await partial.accept(0, DATA[:MIB])
        with pytest.raises(StoreError, match="still missing"):
            await partial.commit()
        await partial.accept(1, DATA[MIB:])
        await partial.commit()


async def test_empty_files(store: Store) -> None:
    """An empty file has nothing to fetch; one that only claims to be empty is refused."""
    async with store.open_partial(outline_of(b"")) as partial:
        assert not partial.missing
        await partial.commit()
    assert await store.has(outline_of(b"").root)
    with pytest.raises(VerificationFailed):
        async with store.open_partial(Outline.single(CID.of(b"x", Codec.RAW), 0)):
            pass


async def test_one_writer_at_a_time(store: Store) -> None:
    """The second task waits for the first, and finds the file whole."""
    order = []
    async with trio.open_nursery() as nursery:

        async def second() -> None:
            async with store.open_partial(OUTLINE) as partial:
                order.append("second")
                assert not partial.missing

        async with store.open_partial(OUTLINE) as partial:
            nursery.start_soon(second)
            await wait_all_tasks_blocked()
            await partial.accept(0, DATA)
            await partial.commit()
            order.append("first")
    assert order == ["first", "second"]


async def test_the_quota_holds_for_files_that_start_together(folder: Path) -> None:
    """Room is reserved for the whole file before its first byte; what is closed gives it back."""
    others = [outline_of(noise(2 * MIB, seed)) for seed in range(1, 5)]
    async with open_store(folder, quota=7 * MIB, reserve=0) as store:
        refused = 0
        async with trio.open_nursery() as nursery:
            opened = trio.Event()

            async def fetch(outline: Outline) -> None:
                nonlocal refused
                try:
                    async with store.open_partial(outline):
                        await opened.wait()
                except QuotaExceeded:
                    refused += 1

            for outline in others:
                nursery.start_soon(fetch, outline)
            await wait_all_tasks_blocked(0.05)
            assert (await store.usage()).bytes == 6 * MIB
            opened.set()
        assert refused == 1
        assert (await store.usage()).bytes == 0
        with pytest.raises(QuotaExceeded):
            async with store.open_partial(outline_of(noise(8 * MIB))):
                pass


async def test_the_reserve_stays_free(folder: Path) -> None:
    """A file that would eat what must stay free on the disk is refused before it starts."""
    async with open_store(folder, quota=None, reserve=1 << 60) as store:
        with pytest.raises(DiskFull, match="stay free"):
            async with store.open_partial(OUTLINE):
                pass
        assert (await store.usage()).bytes == 0


async def test_a_fine_tune_reuses_its_base(store: Store, tmp_path: Path) -> None:
    """Tensors that another file holds are copied, verified, wherever they lie."""
    tensors = {f"layer.{n}": noise(MIB + 1000 * n, n) for n in range(5)}
    base = tmp_path / "base.safetensors"
    base.write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    os.utime(base, (1, 1.5))
    await store.add(base, base.name, Profile.TENSOR_1M)
    tuned = safetensors_bytes({**tensors, "layer.2": noise(MIB, 99)}, {"format": "pt", "more": "x"})
    (tmp_path / "tuned.safetensors").write_bytes(tuned)
    async with open_store(tmp_path / "elsewhere", quota=None, reserve=0) as other:
        outline = (
            await other.add(tmp_path / "tuned.safetensors", "t.safetensors", Profile.TENSOR_1M)
        ).outline
    small = tensors["layer.1"][MIB:]
    await store.add_bytes(small, Profile.FIXED_1M)  # a whole file that is also a leaf
    heard: list[int] = []
    async with store.open_partial(outline) as partial:
        found = await store.local_leaves(outline, partial.missing)
        assert len(found) == len(outline) - 2  # all but the header and the changed tensor
        copied = await partial.reuse(heard.append)
        assert copied == sum(heard) == partial.have.size
        assert partial.missing.size == len(tuned) - copied < 1.1 * MIB
        for start, stop in partial.missing:
            await partial.accept(outline.leaves_in(start, stop).start, tuned[start:stop])
        await partial.commit()


async def test_a_base_that_changed_is_no_source(store: Store, tmp_path: Path) -> None:
    """A leaf that is not any more what the index says is left to be fetched."""
    base = tmp_path / "base.bin"
    base.write_bytes(DATA)
    await store.add(base, base.name, Profile.FIXED_1M)
    other = outline_of(DATA[: 3 * MIB] + noise(MIB, 5))
    base.write_bytes(DATA[:MIB] + b"?" + DATA[MIB + 1 : 2 * MIB])
    async with store.open_partial(other) as partial:
        assert len(await store.local_leaves(other, partial.missing)) == 3
        assert await partial.reuse() == MIB
    base.unlink()
    held = store.folder / "blobs" / str(OUTLINE.root)[-3:-1] / str(OUTLINE.root)
    held.unlink()
    async with store.open_partial(other) as partial:
        assert await partial.reuse() == 0


KILLED = """
import os, signal, sys
import trio
from pathlib import Path
from node.store import open_store
from tests.node.store.test_partial import DATA, MIB, OUTLINE

async def main() -> None:
    async with open_store(Path(sys.argv[1]), quota=None, reserve=0) as store:
        async with store.open_partial(OUTLINE) as partial:
            await partial.accept(2, DATA[2 * MIB : 5 * MIB])
            print("ready", flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


async def test_a_killed_fetch_keeps_its_leaves(folder: Path) -> None:
    """SIGKILL in the middle: the next process finds every leaf that was accepted."""
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
    async with (
        open_store(folder, quota=None, reserve=0) as store,
        store.open_partial(OUTLINE) as partial,
    ):
        assert list(partial.have) == [(2 * MIB, 5 * MIB)]
        assert (await store.usage()).partial_bytes == len(DATA)


async def test_a_name_that_a_crash_left_is_not_written_to(store: Store) -> None:
    """After a commit that was cut short a file may have two names: the other one stays as it is."""
    precious = store.folder / "precious"
    precious.write_bytes(DATA)
    os.link(precious, store.folder / "partial" / str(OUTLINE.root))
    other = bytearray(DATA)
    async with store.open_partial(OUTLINE) as partial:
        assert not partial.have
        await partial.accept(0, other)
        await partial.commit()
    with precious.open("r+b") as file:
        file.write(b"edited")
    assert await store.has(OUTLINE.root)
