"""Full disks, read-only disks, two processes: one clear error, and a store that goes on."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.store import open_store
from node.store.file_rows import FileRows
from p2p.chunking import Profile
from p2p.errors import AllodError, DiskFull, ReadOnly, StoreBusy, StoreError
from tests.node.store.outlines import outline_of
from tests.releases import MIB, noise, publish_into, write_folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where the test may make one."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk(tiny_disk: Path, tmp_path: Path) -> None:
    """Whatever fills it up says DiskFull; what was kept stays, and with room all goes on."""
    files = write_folder(tmp_path / "in", {"a": noise(2 * MIB, 1), "b": b"small"})
    async with open_store(tiny_disk / "store", quota=None, reserve=0) as store:
        release = await publish_into(store, files)
        filler = tiny_disk / "filler"
        data = noise(2 * MIB, 2)
        async with store.open_partial(outline_of(data)) as partial:
            stat = os.statvfs(tiny_disk)
            filler.write_bytes(bytes(stat.f_bavail * stat.f_frsize - 100_000))
            with pytest.raises(DiskFull, match="disk is full"):
                await partial.accept(0, data)
            assert not partial.have
        (tmp_path / "large").write_bytes(data)
        with pytest.raises(DiskFull):
            await store.add(tmp_path / "large", "large", Profile.FIXED_1M)
        with pytest.raises(DiskFull):
            await store.add_bytes(data, Profile.FIXED_1M)
        with pytest.raises(DiskFull, match="don't fit"):
            async with store.open_partial(outline_of(data)):
                pass
        for number in range(200):  # now the index, too
            try:
                await store.add_bytes(noise(4000, 100 + number), Profile.FIXED_1M)
            except DiskFull:
                break
        else:
            pytest.fail("the disk was never full")
        assert os.listdir(tiny_disk / "store" / "temp") == []
        filler.unlink()
        assert (await store.verify()).bad == []
        async with store.open_partial(outline_of(data)) as partial:
            await partial.accept(0, data)
            await partial.commit()
        assert await store.has(outline_of(data).root)
    async with open_store(tiny_disk / "store", quota=None, reserve=0) as store:
        assert (await store.verify()).bad == []
        assert await store.has_many({file.cid for file in release.manifest.files})


async def test_a_full_disk_when_the_row_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is in its place and its row is not: it is found, hashed, and not moved again."""

    async def full(*_: object) -> None:
        raise DiskFull("The disk is full.")

    data = noise(2 * MIB, 2)
    async with open_store(folder, quota=None, reserve=0) as store:
        async with store.open_partial(outline_of(data)) as partial:
            await partial.accept(0, data)
            with monkeypatch.context() as patch:
                patch.setattr(FileRows, "put_files", full)
                with pytest.raises(DiskFull):
                    await partial.commit()
        assert (await store.usage()).files == 0
        async with store.open_partial(outline_of(data)) as partial:
            assert not partial.missing
        assert await store.has(outline_of(data).root)
        assert (await store.usage()).bytes == len(data)
    async with open_store(folder, quota=None, reserve=0) as store:
        assert (await store.verify()).checked == 2


async def test_a_file_too_large_for_the_file_system(folder: Path) -> None:
    """A limit on file sizes, as FAT has one, is a full disk too."""
    data = noise(3 * MIB)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with (
        open_store(folder, quota=None, reserve=0) as store,
        store.open_partial(outline_of(data)) as partial,
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, hard))
        try:
            with pytest.raises(DiskFull):
                await partial.accept(0, data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await partial.accept(0, data) == len(data)
        await partial.commit()


async def test_a_read_only_disk(tiny_disk: Path) -> None:
    """Opening says ReadOnly; the message says what to look at."""
    async with open_store(tiny_disk / "store", quota=None, reserve=0):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)  # noqa: ASYNC221
    for name in ("store", "another"):
        with pytest.raises(ReadOnly) as caught:
            async with open_store(tiny_disk / name, quota=None):
                pass
        assert "mount options" in caught.value.next


async def test_two_processes(folder: Path) -> None:
    """The second says StoreBusy, and the first goes on; afterwards the store is free again."""
    program = (
        "import sys, trio\nfrom pathlib import Path\nfrom node.store import open_store\n"
        "from p2p.errors import StoreBusy\n"
        "async def main():\n"
        "    try:\n"
        "        async with open_store(Path(sys.argv[1]), quota=None): print('open')\n"
        "    except StoreBusy as exc: print('busy', exc.code)\n"
        "trio.run(main)\n"
    )

    def try_to_open() -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    async with open_store(folder, quota=None, reserve=0) as store:
        assert try_to_open() == "busy STORE_BUSY"
        with pytest.raises(StoreBusy, match="Another process"):
            async with open_store(folder, quota=None):
                pass
        await store.add_bytes(b"x", Profile.FIXED_1M)
    assert try_to_open() == "open"


async def test_no_place_for_a_store(tmp_path: Path) -> None:
    """A file where the folder should be gives one sentence."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="could not open"):
        async with open_store(tmp_path / "file", quota=None):
            pass


async def test_errors_pass_through_the_store_as_they_are(folder: Path) -> None:
    """What is raised inside comes out, not a group of it."""
    with pytest.raises(AllodError, match="as it is"):
        async with open_store(folder, quota=None, reserve=0):
            raise AllodError("as it is")


async def test_damage_on_a_full_disk(tiny_disk: Path) -> None:
    """No room for a copy of the good leaves: they are given up, and the file is not served."""
    files = write_folder(tiny_disk / "in", {"a": noise(5 * MIB, 1)})
    async with open_store(tiny_disk / "store", quota=None, reserve=0) as store:
        release = await publish_into(store, files)
        with (files / "a").open("r+b") as file:
            file.write(b"edited")
        assert len((await store.verify()).bad) == 1
        cid = release.manifest.files[0].cid
        assert not await store.has(cid)
        usage = await store.usage()
        assert (usage.bytes, usage.files) == (0, 0)
        assert os.listdir(tiny_disk / "store" / "temp") == []
        assert (files / "a").read_bytes()[:6] == b"edited"
