"""Files that are read over the door: right bytes, one request a range, faults survived or told."""

import io
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import allod
from allod import reading
from tests.api.conftest import FILES
from tests.api.fake import FakeDoor, fake_door
from tests.releases import MIB

X = FILES["dir/x.bin"]


def test_a_file_reads_like_any_other(door: FakeDoor) -> None:
    """Random seeks and reads give what a file in memory gives."""
    random.seed(7)
    with allod.open_file("alice/data", "dir/x.bin") as file, io.BytesIO(X) as memory:
        for _ in range(60):
            at, size = random.randrange(len(X) + 100), random.choice([0, 1, 5000, MIB, 3 * MIB])
            assert file.seek(at) == memory.seek(at)
            assert file.read(size) == memory.read(size)
            assert file.tell() == memory.tell()
        assert file.seek(-10, io.SEEK_END) == len(X) - 10
        assert file.read() == X[-10:]
        assert file.read() == b""
        assert file.name == "dir/x.bin"
        assert (file.readable(), file.writable(), file.seekable()) == (True, False, True)
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_lines_and_an_empty_file(door: FakeDoor) -> None:
    """Text reads by lines; a file with nothing asks for nothing."""
    with allod.open_file("alice/data", "a.txt") as file:
        assert list(io.TextIOWrapper(file)) == ["one\n", "two\n", "three"]
    asked = len(door.asked)
    with allod.open_file("alice/data", "empty.bin") as file:
        assert file.read() == b""
    assert len(door.asked) == asked


def test_few_requests(door: FakeDoor) -> None:
    """All of a file is one request; small reads in one block are one; a block ends on its grid."""
    with allod.open_file("alice/data", "dir/x.bin") as file:
        assert file.read() == X
        assert door.asked == [("dir/x.bin", 0, len(X))]
        door.asked.clear()
        file.seek(MIB + 100)
        for _ in range(10):
            file.read(1000)
        assert door.asked == [("dir/x.bin", MIB + 100, 2 * MIB)]


def test_what_is_not_there_is_said_at_once(door: FakeDoor) -> None:
    """A release, or a file in it, that is not there is a FileNotFoundError with its advice."""
    with pytest.raises(FileNotFoundError, match="no file 'z'"):
        allod.open_file("alice/data", "z")
    with pytest.raises(allod.Missing, match="Look again") as caught:
        allod.files("alice/nothing")
    assert caught.value.code == "NOT_FOUND"


@pytest.mark.parametrize("fault", ["drop", "half"])
def test_a_lost_connection_costs_only_the_rest(door: FakeDoor, fault: str) -> None:
    """It is asked once more, for what has not come; a node that stays away is an error."""
    with allod.open_file("alice/data", "dir/x.bin") as file:
        door.faults = [fault]
        assert file.read() == X
        assert len(door.asked) == 2
        came = len(X) // 2 if fault == "half" else 0
        assert door.asked[1] == ("dir/x.bin", came, len(X))
        door.faults = ["drop"] * 3
        file.seek(0)
        with pytest.raises(allod.NodeUnavailable, match="went away"):
            file.read()


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("refuse", allod.Unreachable, "Nobody is there. Wait."),
        ("nonsense", allod.NodeUnavailable, "Another program"),
        ("shifted", allod.NodeUnavailable, "Another program"),
    ],
)
def test_a_refusal_is_raised(door: FakeDoor, fault: str, kind: type, words: str) -> None:
    """What the node says is raised where it is read, and the file goes on working."""
    with allod.open_file("alice/data", "dir/x.bin") as file:
        door.faults = [fault]
        with pytest.raises(kind, match=words):
            file.read(100)
        assert file.read(100) == X[:100]


def test_threads_share_a_file(door: FakeDoor) -> None:
    """Many threads read files, and one file, at once."""
    with allod.open_file("alice/data", "dir/x.bin") as shared:

        def read(number: int) -> None:
            with allod.open_file("alice/data", "dir/x.bin") as own:
                own.seek(number * 1000)
                assert own.read(5000) == X[number * 1000 : number * 1000 + 5000]
            assert len(shared.read(1000)) == 1000

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(40)))
        assert shared.tell() == 40_000


def test_a_forked_child_reads_on(door: FakeDoor) -> None:
    """A child has connections of its own: both go on reading the same file."""
    with allod.open_file("alice/data", "dir/x.bin", block=1000) as file:
        assert file.read(1000) == X[:1000]
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if file.read(500_000) == X[1000:501_000] else 1)
            children.append(child)
        assert file.read(500_000) == X[1000:501_000]
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_a_node_that_came_back_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing listens any more the node is looked for anew, by files that are open, too."""
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path))
    with fake_door(tmp_path, FILES):
        file = allod.open_file("alice/data", "dir/x.bin", block=10)
        assert file.read(10) == X[:10]
    reading.close_pool()
    with fake_door(tmp_path, FILES) as second:
        assert file.read(10) == X[10:20]
        assert second.asked == [("dir/x.bin", 10, 20)]
    reading.close_pool()
