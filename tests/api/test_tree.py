"""Paths below allod://, and the folders that the paths of files imply."""

import pytest

from allod.errors import InvalidRequest, Missing
from allod.releases import File, Release
from allod.tree import Place, find_place, grow

CID = "bagaaihra" + "q" * 51


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("", Place("", "")),
        ("alice", Place("", "", "alice")),
        ("alice/data", Place("alice/data", "")),
        ("alice/data@1.2/a/b", Place("alice/data@1.2", "a/b")),
        (f"alice/data@{CID}/x", Place(f"alice/data@{CID}", "x")),
        (CID, Place(CID, "")),
        (f"{CID}/dir/x.bin", Place(CID, "dir/x.bin")),
        (f"{CID}/data@1/x.bin", Place(f"{CID}/data@1", "x.bin")),
        (f"{CID}/dir/x@1.bin", Place(CID, "dir/x@1.bin")),
    ],
)
def test_a_path_names_a_release_and_a_file(path: str, place: Place) -> None:
    """A petname or an id with a name, or a manifest alone, and the rest is the path in it."""
    assert find_place(path) == place


def test_files_make_folders() -> None:
    """Each folder has its files and folders; what is not there is Missing."""
    paths = ["a", "d/b", "d/e/c", "d/e/f"]
    files = tuple(File(path, index, f"c{index}") for index, path in enumerate(paths))
    release = Release("ref", "data", "1", "dataset", CID, "MIT", CID, files)
    tree = grow(release, "alice/data")
    assert list(tree.folders["alice/data"]) == ["alice/data/a", "alice/data/d"]
    assert list(tree.folders["alice/data/d"]) == ["alice/data/d/b", "alice/data/d/e"]
    assert tree.info("alice/data/d/e")["type"] == "directory"
    assert tree.info("alice/data/d/e/f") == {
        "name": "alice/data/d/e/f", "size": 3, "type": "file", "cid": "c3", "ETag": "c3",
    }  # fmt: skip
    assert sorted(tree.below("alice/data", 1)) == ["alice/data/a", "alice/data/d"]
    assert len(tree.below("alice/data", None)) == 6
    assert list(tree.below("alice/data/d/b", None)) == ["alice/data/d/b"]
    with pytest.raises(Missing, match="nothing at"):
        tree.info("alice/data/z")
    with pytest.raises(InvalidRequest, match="a folder"):
        tree.file("alice/data/d")


def test_a_release_knows_its_files() -> None:
    """A file by its path, or Missing."""
    release = Release("ref", "data", "1", "dataset", CID, "", CID, (File("a", 1, "c"),))
    assert release.file("a").size == 1
    with pytest.raises(FileNotFoundError, match="no file 'b'"):
        release.file("b")
