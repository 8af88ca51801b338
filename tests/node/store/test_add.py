"""Files from outside: reflink, hard link or copy, and nothing that changed meanwhile."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from node.store import Store, durable, intake, open_store
from p2p.chunking import LeafSizes, Profile, leaf_sizes
from p2p.cid import CID
from p2p.errors import NotFound, QuotaExceeded, SourceChanged, UsageError, VerificationFailed
from p2p.ranges import RangeSet
from tests.node.store.outlines import outline_of
from tests.releases import MIB, noise, safetensors_bytes


def write(path: Path, data: bytes) -> Path:
    """Write a file that was last changed long ago."""
    path.write_bytes(data)
    os.utime(path, (1_700_000_000.5, 1_700_000_000.5))
    return path


async def read(store: Store, cid: CID) -> bytes:
    """Read a whole file as somebody who serves it does."""
    held = await store.held(cid)
    assert held is not None
    assert held.have == RangeSet([(0, held.size)])
    return held.path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 9 * MIB + 7, 40 * MIB])
async def test_a_file_of_any_size_is_added_and_served(
    store: Store, tmp_path: Path, size: int
) -> None:
    """What was added is held under the CID that the slow way gives, byte for byte."""
    data = noise(min(size, 16 * MIB)).ljust(size, b"\0")
    heard: list[int] = []
    file = write(tmp_path / "data.bin", data)
    added = await store.add(file, "data.bin", Profile.FIXED_1M, progress=heard.append)
    assert added.outline == outline_of(data)
    assert sum(heard) == added.size == size
    assert await store.has(added.outline.root)
    assert await read(store, added.outline.root) == data
    assert await store.outline(added.outline.root) == added.outline


async def test_adding_in_place_takes_no_room(store: Store, tmp_path: Path) -> None:
    """On one disk the bytes are there once: a reflink or a hard link, and no quota is used."""
    file = write(tmp_path / "data.bin", noise(3 * MIB))
    added = await store.add(file, "data.bin", Profile.FIXED_1M)
    assert added.method in ("reflink", "link")
    held = await store.held(added.outline.root)
    assert held is not None
    if added.method == "link":
        assert held.path.samefile(file)
    usage = await store.usage()
    assert (usage.bytes, usage.shared, usage.files) == (0, 3 * MIB, 1)
    assert (await store.add(file, "data.bin", Profile.FIXED_1M)).method == "present"


async def test_a_file_on_another_disk_is_copied(store: Store, other_disk: Path) -> None:
    """A copy is made in the same pass, counted, and independent of its source."""
    data = noise(9 * MIB + 3)
    file = write(other_disk / "data.bin", data)
    added = await store.add(file, "data.bin", Profile.FIXED_1M)
    assert added.method == "copy"
    file.unlink()
    assert await read(store, added.outline.root) == data
    assert (await store.usage()).bytes == len(data)


async def test_a_reflink_is_preferred(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk can share bytes until one side changes them, that is what happens."""

    def clone(source: int, target: int) -> bool:  # what the kernel does, on disks without it
        size = os.fstat(source).st_size
        return os.copy_file_range(source, target, size, 0, 0) == size

    monkeypatch.setattr(durable, "clone", clone)
    data = noise(3 * MIB)
    file = write(tmp_path / "data.bin", data)
    added = await store.add(file, "data.bin", Profile.FIXED_1M)
    assert added.method == "reflink"
    file.write_bytes(b"something else")
    assert await read(store, added.outline.root) == data
    assert (await store.usage()).bytes == 0


async def test_every_profile_cuts_as_it_says(store: Store, tmp_path: Path) -> None:
    """Tensor cuts find tensors, and the IPFS profile hashes with SHA-256."""
    data = safetensors_bytes({"a": noise(MIB + 5), "b": noise(7, 1)}, {"k": "v"})
    file = write(tmp_path / "model.safetensors", data)
    tensor = await store.add(file, file.name, Profile.TENSOR_1M)
    header = len(data) - MIB - 12
    assert tensor.outline == outline_of(data, [header, MIB, 5, 7])
    ipfs = await store.add(file, file.name, Profile.UNIXFS_V1_2025)
    assert ipfs.outline.hash is Profile.UNIXFS_V1_2025.hash


async def test_many_files_at_once(store: Store, tmp_path: Path, other_disk: Path) -> None:
    """Many small files and a large one give what each alone gives, in order, doubles included."""
    names = [f"{number}.txt" for number in range(700)]
    bytes_of = {name: noise(100 + number % 7, number % 650) for number, name in enumerate(names)}
    files = [
        (write((tmp_path if number % 2 else other_disk) / name, bytes_of[name]), name)
        for number, name in enumerate(names)
    ]
    bytes_of["large.bin"] = noise(5 * MIB)
    files.insert(300, (write(other_disk / "large.bin", bytes_of["large.bin"]), "large.bin"))
    heard: list[int] = []
    added = await store.add_many(files, Profile.TENSOR_1M, progress=heard.append)
    assert [one.outline for one in added] == [outline_of(bytes_of[name]) for _, name in files]
    assert {one.method for one in added} >= {"copy"}
    assert sum(heard) == sum(map(len, bytes_of.values()))
    roots = {one.outline.root for one in added}
    assert await store.has_many(roots) == roots
    assert (await store.usage()).files == len(roots)
    again = await store.add_many(files, Profile.TENSOR_1M)
    assert {one.method for one in again} == {"present"}
    assert os.listdir(store.folder / "temp") == []


async def test_bytes_from_memory(store: Store) -> None:
    """Bytes are kept like a file, once."""
    data = noise(2 * MIB + 1)
    added = await store.add_bytes(data, Profile.FIXED_1M)
    assert (added.method, added.outline) == ("copy", outline_of(data))
    assert (await store.add_bytes(data, Profile.FIXED_1M)).method == "present"
    assert await read(store, added.outline.root) == data
    assert (await store.usage()).bytes == len(data)


async def test_wrong_bytes_from_memory_are_not_kept(store: Store) -> None:
    """One bad file in a batch: none of the batch is kept."""
    good, bad = noise(100), noise(2 * MIB)
    items = [(outline_of(good), good), (outline_of(bad), bad[:-1] + b"x")]
    with pytest.raises(VerificationFailed):
        await store.put_many(items)
    with pytest.raises(VerificationFailed):
        await store.put_many([(outline_of(bad), bad[:-1])])
    assert (await store.usage()).files == (await store.usage()).bytes == 0
    assert os.listdir(store.folder / "temp") == []


@pytest.mark.parametrize("size", [100, 5 * MIB])
@pytest.mark.parametrize("change", ["grow", "shrink", "edit", "replace", "delete"])
@pytest.mark.parametrize("same_disk", [True, False])
async def test_a_file_that_changes_while_it_is_read_is_refused(
    store: Store, tmp_path: Path, other_disk: Path, size: int, change: str, same_disk: bool
) -> None:
    """Growing, shrinking, edited, replaced or deleted: it is named, and nothing is kept."""
    file = write((tmp_path if same_disk else other_disk) / "data.bin", noise(size))

    def interfere() -> None:
        if change == "grow":
            with file.open("ab") as stream:
                stream.write(b"x")
        elif change == "shrink":
            os.truncate(file, 10)
        elif change == "edit":
            with file.open("r+b") as stream:
                stream.write(b"x")
        elif change == "replace":
            write(file.with_suffix(".new"), noise(size, 2)).rename(file)
        elif file.exists():
            file.unlink()

    def cut_then_interfere(*arguments: Any) -> LeafSizes:
        sizes = leaf_sizes(*arguments)
        interfere()
        return sizes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "leaf_sizes", cut_then_interfere)
        with pytest.raises(SourceChanged, match=r"data\.bin changed"):
            await store.add_many([(file, "data.bin")], Profile.FIXED_1M)
    assert (await store.usage()).files == (await store.usage()).bytes == 0
    assert os.listdir(store.folder / "temp") == []
    if change != "delete":
        assert (await store.add(file, "data.bin", Profile.FIXED_1M)).method != "present"


async def test_what_is_no_file_is_refused(store: Store, tmp_path: Path) -> None:
    """A missing file, a folder and a pipe each give one sentence; none hangs."""
    with pytest.raises(NotFound, match="no file"):
        await store.add(tmp_path / "missing", "x", Profile.FIXED_1M)
    with pytest.raises(UsageError, match="not a plain file"):
        await store.add(tmp_path, "x", Profile.FIXED_1M)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a plain file"):
        await store.add_many([(tmp_path / "pipe", "x")], Profile.FIXED_1M)


async def test_a_symbolic_link_is_followed(store: Store, tmp_path: Path) -> None:
    """As in a Hugging Face cache: the file that it leads to is added, not the link."""
    data = noise(2 * MIB)
    write(tmp_path / "blob", data)
    (tmp_path / "model.bin").symlink_to("blob")
    added = await store.add(tmp_path / "model.bin", "model.bin", Profile.FIXED_1M)
    assert await read(store, added.outline.root) == data


@pytest.mark.parametrize("edit", [noise(3 * MIB, 9), noise(3 * MIB)[:-1] + b"x", b"short"])
async def test_a_linked_file_that_its_owner_edits_is_not_served(
    store: Store, tmp_path: Path, edit: bytes
) -> None:
    """The next look sees the change; neither the file nor its bad leaves are served after it."""
    data = noise(3 * MIB)
    file = write(tmp_path / "data.bin", data)
    root = (await store.add(file, "data.bin", Profile.FIXED_1M)).outline.root
    with file.open("r+b") as stream:
        stream.truncate(len(edit))
        stream.write(edit)
    last = outline_of(data).leaf(2).cid
    assert await store.block(last) in (None, data[2 * MIB :])
    assert await store.held(root) is None
    assert not await store.has(root)
    assert file.read_bytes() == edit  # the owner's file is the owner's


async def test_a_linked_file_that_was_only_touched_is_served(store: Store, tmp_path: Path) -> None:
    """Another time, same bytes: hashed again once, and good."""
    data = noise(3 * MIB)
    file = write(tmp_path / "data.bin", data)
    root = (await store.add(file, "data.bin", Profile.FIXED_1M)).outline.root
    os.utime(file, (1_700_000_001.5, 1_700_000_001.5))
    assert await read(store, root) == data


async def test_facts_taken_in_the_tick_of_a_change_are_not_believed(
    store: Store, tmp_path: Path
) -> None:
    """A file that was written a moment ago and then again within the same tick is caught."""
    data = noise(3 * MIB)
    file = tmp_path / "data.bin"
    file.write_bytes(data)
    stamp = os.stat(file).st_mtime_ns
    added = await store.add(file, "data.bin", Profile.FIXED_1M)
    with file.open("r+b") as stream:
        stream.write(b"edited")
    os.utime(file, ns=(stamp, stamp))  # as a clock with a coarse tick would have it
    if added.method == "link" and os.stat(file).st_ctime_ns - stamp < 40_000_000:
        assert not await store.has(added.outline.root)


async def test_two_tasks_add_the_same_file(store: Store, other_disk: Path) -> None:
    """Both succeed, the bytes are counted once, nothing half-made is left."""
    file = write(other_disk / "data.bin", noise(5 * MIB))
    roots = []

    async def add() -> None:
        roots.append((await store.add(file, "data.bin", Profile.FIXED_1M)).outline.root)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(add)
    assert len(set(roots)) == 1
    assert (await store.usage()).bytes == 5 * MIB
    assert os.listdir(store.folder / "temp") == []


async def test_a_copy_must_fit_the_quota(folder: Path, tmp_path: Path, other_disk: Path) -> None:
    """A copy counts before it is made, also in a batch; a link never does."""
    async with open_store(folder, quota=4 * MIB, reserve=0) as store:
        big = write(other_disk / "big.bin", noise(5 * MIB))
        with pytest.raises(QuotaExceeded):
            await store.add(big, "big.bin", Profile.FIXED_1M)
        small = [(write(other_disk / f"{n}", noise(MIB, n)), f"{n}") for n in range(5)]
        with pytest.raises(QuotaExceeded):
            await store.add_many(small, Profile.FIXED_1M)
        assert (await store.usage()).bytes == 0
        await store.add_many(small[:4], Profile.FIXED_1M)
        with pytest.raises(QuotaExceeded):
            await store.add_bytes(b"one more", Profile.FIXED_1M)
        linked = write(tmp_path / "big.bin", noise(5 * MIB))
        assert (await store.add(linked, "big.bin", Profile.FIXED_1M)).method in ("link", "reflink")
        assert (await store.usage()).bytes == 4 * MIB


MEASURED = """
import resource, sys, trio
from pathlib import Path
from node.store import open_store
from p2p.chunking import Profile

async def main() -> None:
    async with open_store(Path(sys.argv[1]), quota=None, reserve=0) as store:
        await store.add_bytes(b"x", Profile.FIXED_1M)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        added = await store.add(Path(sys.argv[2]), "big", Profile.FIXED_1M)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(added.size, (after - before) // 1024)

trio.run(main)
"""


async def test_memory_does_not_grow_with_the_file(folder: Path, tmp_path: Path) -> None:
    """Two GiB pass through less than 150 MiB of memory, on up to 16 cores."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2 << 30)
    done = await trio.run_process(
        [sys.executable, "-c", MEASURED, str(folder), str(tmp_path / "big")], capture_stdout=True
    )
    size, grown = map(int, done.stdout.split())
    assert size == 2 << 30
    assert grown < 150
