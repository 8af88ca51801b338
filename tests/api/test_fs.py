"""The filesystem allod://: found by fsspec, read-only, narrow, and good for other processes."""

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

import allod
from allod.fs import AllodFileSystem
from tests.api.conftest import FILES
from tests.api.fake import CID, FakeDoor
from tests.releases import MIB

X = FILES["dir/x.bin"]
ROOT = "alice/data"


@pytest.fixture
def fs(door: FakeDoor) -> AllodFileSystem:
    """A filesystem of its own for each test."""
    return AllodFileSystem(skip_instance_cache=True)


def test_fsspec_knows_the_protocol(door: FakeDoor) -> None:
    """A URL is enough, also with options and for a text file."""
    with fsspec.open("allod://alice/data@1/a.txt", "r") as file:
        assert file.read() == "one\ntwo\nthree"
    options = {"peers": ["/ip4/192.0.2.1/tcp/1/p2p/12D3KooWQ"], "skip_instance_cache": True}
    found, path = fsspec.url_to_fs("allod://alice/data/dir", **options)
    assert isinstance(found, AllodFileSystem)
    assert path == "alice/data/dir"
    assert found.ls(path, detail=False) == ["alice/data/dir/x.bin", "alice/data/dir/sub"]
    assert door.performed[-1][1]["peers"] == options["peers"]


def test_a_release_is_a_tree(fs: AllodFileSystem, door: FakeDoor) -> None:
    """ls, info, find, glob, walk, du, exists: with one question to the node."""
    assert fs.ls(f"allod://{ROOT}", detail=False) == [
        f"{ROOT}/a.txt", f"{ROOT}/empty.bin", f"{ROOT}/dir",
    ]  # fmt: skip
    assert fs.info(f"{ROOT}/dir/x.bin")["size"] == len(X)
    assert fs.info(f"{ROOT}/dir/x.bin")["cid"] == fs.ukey(f"{ROOT}/dir/x.bin") == "cid-dir/x.bin"
    assert fs.info(f"{ROOT}/dir")["type"] == fs.info(ROOT)["type"] == "directory"
    assert fs.find(ROOT) == sorted(f"{ROOT}/{path}" for path in FILES)
    assert fs.find(ROOT, maxdepth=1) == [f"{ROOT}/a.txt", f"{ROOT}/empty.bin"]
    assert fs.find(f"{ROOT}/dir/x.bin") == [f"{ROOT}/dir/x.bin"]
    assert fs.find(f"{ROOT}/nowhere") == []
    assert fs.glob(f"allod://{ROOT}/*.bin") == fs.glob(f"{ROOT}/e*") == [f"{ROOT}/empty.bin"]
    assert fs.glob(f"{ROOT}/**/*.bin") == sorted(f"{ROOT}/{p}" for p in FILES if "bin" in p)
    assert fs.glob(f"{ROOT}/dir/*") == [f"{ROOT}/dir/sub", f"{ROOT}/dir/x.bin"]
    assert next(names for _, _, names in fs.walk(ROOT)) == ["a.txt", "empty.bin"]
    assert fs.du(ROOT) == sum(len(data) for data in FILES.values())
    assert fs.exists(f"{ROOT}/a.txt")
    assert not fs.exists(f"{ROOT}/b.txt")
    assert fs.isdir(f"{ROOT}/dir")
    assert fs.isfile(f"{ROOT}/a.txt")
    assert not fs.isfile(f"{ROOT}/dir")
    assert fs.checksum(f"{ROOT}/a.txt") != fs.checksum(f"{ROOT}/empty.bin")
    assert [name for name, _ in door.performed] == ["files"]
    fs.invalidate_cache()
    fs.ls(ROOT)
    assert [name for name, _ in door.performed] == ["files", "files"]


def test_above_releases_is_what_is_held(fs: AllodFileSystem) -> None:
    """The publishers that have a name here, and their releases."""
    assert fs.ls("allod://", detail=False) == ["alice"]
    assert fs.ls("alice", detail=False) == ["alice/data"]
    assert fs.isdir("allod://")
    assert fs.isdir("alice")
    assert not fs.exists("bob")
    assert fs.glob("allod://alice/*/a.txt") == ["alice/data/a.txt"]


def test_bytes_are_cut_out(fs: AllodFileSystem, door: FakeDoor) -> None:
    """cat_file and cat_ranges ask for just that; what lies close is one request if wanted."""
    path = f"{ROOT}/dir/x.bin"
    assert fs.cat_file(path, 10, 20) == X[10:20]
    assert fs.cat_file(path, -10, -5) == X[-10:-5]
    assert fs.cat_file(path, 20, 10) == b""
    assert fs.cat([f"{ROOT}/a.txt"]) in (FILES["a.txt"], {f"{ROOT}/a.txt": FILES["a.txt"]})
    assert fs.tail(path, 3) == X[-3:]
    door.asked.clear()
    starts, stops = [0, 500_000, 30], [10, 500_100, 50]
    expected = [X[start:stop] for start, stop in zip(starts, stops, strict=True)]
    assert fs.cat_ranges([path] * 3, starts, stops) == expected
    assert sorted(door.asked)[0] == ("dir/x.bin", 0, 10)
    assert door.bytes_asked == 130
    door.asked.clear()
    assert fs.cat_ranges([path] * 3, starts, stops, max_gap=20) == expected
    assert sorted(door.asked) == [("dir/x.bin", 0, 50), ("dir/x.bin", 500_000, 500_100)]
    mixed = fs.cat_ranges([path, f"{ROOT}/z"], 0, 5)
    assert mixed[0] == X[:5]
    assert isinstance(mixed[1], allod.Missing)
    with pytest.raises(allod.Missing):
        fs.cat_ranges([path, f"{ROOT}/z"], 0, 5, on_error="raise")
    with pytest.raises(allod.InvalidRequest, match="folder"):
        fs.cat_file(f"{ROOT}/dir")


def test_a_file_jumps_and_stays_narrow(fs: AllodFileSystem, door: FakeDoor) -> None:
    """Reads at the end and in the middle move their blocks; other caches may be chosen."""
    with fs.open(f"{ROOT}/dir/x.bin") as file:
        file.seek(-8, 2)
        assert file.read() == X[-8:]
        file.seek(2 * MIB + 5)
        assert file.read(1000) == X[2 * MIB + 5 : 2 * MIB + 1005]
        assert door.bytes_asked == MIB + len(X) % MIB
    with fs.open(f"{ROOT}/dir/x.bin", cache_type="none") as file:
        door.asked.clear()
        assert file.read(7) == X[:7]
        assert door.bytes_asked == 7


def test_files_are_copied_out(fs: AllodFileSystem, door: FakeDoor, tmp_path: Path) -> None:
    """get brings files, and trees, by one request each."""
    fs.get_file(f"{ROOT}/dir/x.bin", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == X
    assert len(door.asked) == 1
    fs.get(f"{ROOT}/", str(tmp_path / "all"), recursive=True)
    for path, data in FILES.items():
        assert (tmp_path / "all" / path).read_bytes() == data


def test_nothing_can_be_written(fs: AllodFileSystem, tmp_path: Path) -> None:
    """Each way to write is refused, with what to do instead."""
    attempts: list[Callable[[], object]] = [
        lambda: fs.open(f"{ROOT}/a.txt", "wb"),
        lambda: fs.open(f"{ROOT}/a.txt", "a"),
        lambda: fs.pipe(f"{ROOT}/a.txt", b""),
        lambda: fs.rm(f"{ROOT}/a.txt"),
        lambda: fs.mkdir(f"{ROOT}/new"),
        lambda: fs.touch(f"{ROOT}/new"),
        lambda: fs.mv(f"{ROOT}/a.txt", f"{ROOT}/b.txt"),
        lambda: fs.put(str(tmp_path), ROOT),
    ]
    for attempt in attempts:
        with pytest.raises(allod.StorageFailed, match=r"allod\.publish"):
            attempt()


def test_an_error_is_no_absence(fs: AllodFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether something exists is not answered with no because the node could not be asked."""
    monkeypatch.setenv("ALLOD_TOKEN", "w" * 20)
    for question in (fs.exists, fs.isfile, fs.isdir, fs.find):
        with pytest.raises(allod.NodeUnavailable):
            question(f"{ROOT}/a.txt")


def test_it_can_be_pickled(fs: AllodFileSystem, door: FakeDoor) -> None:
    """A filesystem, and an open file where it stands, go to another process."""
    assert pickle.loads(pickle.dumps(fs)).cat_file(f"{ROOT}/a.txt") == FILES["a.txt"]
    with fs.open(f"{ROOT}/dir/x.bin") as file:
        file.seek(1000)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read(10) == X[1000:1010]


def _read(fs: AllodFileSystem, start: int) -> bytes:
    return bytes(fs.cat_file(f"{ROOT}/dir/x.bin", start, start + 1000))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read(fs: AllodFileSystem, method: str) -> None:
    """Processes that are forked, or spawned, read with the filesystem that they are given."""
    assert _read(fs, 0) == X[:1000]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(_read, [(fs, start) for start in range(0, 8000, 1000)])
        pool.close()
        pool.join()
    assert b"".join(found) == X[:8000]


def test_a_manifest_is_a_folder_too(fs: AllodFileSystem, door: FakeDoor) -> None:
    """allod://MANIFEST_CID/path names exactly that release."""
    assert fs.cat_file(f"allod://{CID}/a.txt") == FILES["a.txt"]
    assert door.performed[-1] == ("files", {"ref": CID, "peers": []})
