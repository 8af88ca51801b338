"""Walking a folder: all its files, none from elsewhere, and a clear sentence for every other."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from node.importers import folder
from node.importers.folder import walk_folder
from p2p.errors import UsageError


def make(root: Path, *paths: str) -> Path:
    """Make files with their own paths as content."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return root


def test_finds_all_files(tmp_path: Path) -> None:
    """Every file comes once, with its path, place and size, in the order of the paths."""
    make(tmp_path, "b.txt", "a/z.txt", "a.txt", "a/b/c", "a-b", "Ä")
    found = walk_folder(tmp_path)
    assert [file.path for file in found] == ["a-b", "a.txt", "a/b/c", "a/z.txt", "b.txt", "Ä"]
    assert all(file.file == tmp_path / file.path for file in found)
    assert [file.size for file in found] == [3, 5, 5, 7, 5, 2]


def test_leaves_out_hidden_files(tmp_path: Path) -> None:
    """Repositories, caches and hidden files are left out at any depth; others on request."""
    make(tmp_path, "a", ".git/config", ".cache/huggingface/x", "sub/.DS_Store", ".gitattributes")
    make(tmp_path, "sub/b", "sub/old/c", "sub/c.tmp")
    assert [file.path for file in walk_folder(tmp_path)] == ["a", "sub/b", "sub/c.tmp", "sub/old/c"]
    found = walk_folder(tmp_path, ignore=["*.tmp", "old", ".git"])
    assert [file.path for file in found] == [
        ".cache/huggingface/x", ".gitattributes", "a", "sub/.DS_Store", "sub/b",
    ]  # fmt: skip


def test_a_file_is_a_folder_of_one(tmp_path: Path) -> None:
    """A single file is published under its own name, even a hidden one: it was named."""
    for name in ("model.gguf", ".hidden"):
        make(tmp_path, name)
        (file,) = walk_folder(tmp_path / name)
        assert (file.path, file.file) == (name, tmp_path / name)


def test_follows_links_within(tmp_path: Path) -> None:
    """A link to a file of the folder is that file under another path."""
    make(tmp_path, "blobs/one")
    (tmp_path / "model.bin").symlink_to("blobs/one")
    (tmp_path / "again").symlink_to("model.bin")
    found = walk_folder(tmp_path)
    assert [file.path for file in found] == ["again", "blobs/one", "model.bin"]
    assert {file.file for file in found} == {tmp_path / "blobs" / "one"}


def test_the_folder_may_be_a_link(tmp_path: Path) -> None:
    """A folder that is itself named by a link is that folder."""
    make(tmp_path / "real", "a")
    (tmp_path / "link").symlink_to("real")
    (file,) = walk_folder(tmp_path / "link")
    assert file.file == tmp_path / "real" / "a"


def outside(root: Path) -> None:
    make(root.parent / "elsewhere", "secret")
    (root / "x").symlink_to("../elsewhere/secret")


def deep(root: Path) -> None:
    make(root, "/".join(["a"] * 70))


UNPUBLISHABLE: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: None, "has no files to publish"),
    (lambda root: make(root, ".hidden"), "has no files to publish"),
    (outside, "leads out of the folder, to .*elsewhere/secret"),
    (lambda root: (root / "x").symlink_to("/etc/passwd"), "leads out of the folder"),
    (lambda root: (root / "x").symlink_to("nowhere"), "leads nowhere"),
    (lambda root: (root / "x").symlink_to("x"), "leads nowhere"),
    (lambda root: (root / "x").symlink_to("."), "leads to a folder"),
    (lambda root: (make(root, "a/b") / "x").symlink_to("a"), "leads to a folder"),
    (lambda root: os.mkfifo(root / "x"), "neither a file nor a folder, but a pipe"),
    (lambda root: socket.socket(socket.AF_UNIX).bind(str(root / "x")), "but a socket"),
    (lambda root: make(root, "a\\b"), "backslash"),
    (lambda root: make(root, "a:b"), "colon"),
    (lambda root: make(root, "a\nb"), "control character"),
    (lambda root: make(root, "x\u202egpj.exe"), "direction of text"),
    (lambda root: make(root, "cafe\u0301"), "NFC"),
    (lambda root: make(root, "sub/NUL.txt"), "device"),
    (lambda root: make(root, "a."), "ends in a dot"),
    (lambda root: open(os.fsencode(root) + b"/a\xff", "w").close(), "not valid UTF-8"),
    (lambda root: make(root, "Read.me", "READ.ME"), "differ in case only"),
    (lambda root: make(root, "Data/a", "data/b"), "folders 'Data' and 'data'"),
    (lambda root: make(root, "git~1/config"), "repository"),
    (deep, "64 folders deep"),
]


@pytest.mark.filterwarnings("ignore:unclosed <socket")
@pytest.mark.parametrize(("prepare", "reason"), UNPUBLISHABLE, ids=[r for _, r in UNPUBLISHABLE])
def test_refuses(tmp_path: Path, prepare: Callable[[Path], object], reason: str) -> None:
    """What cannot be published is refused in one sentence that names the file."""
    root = tmp_path / "root"
    root.mkdir()
    prepare(root)
    with pytest.raises(UsageError, match=reason) as caught:
        walk_folder(root)
    assert caught.value.exit_code == 2
    assert caught.value.message.isprintable()
    assert str(root) in caught.value.message


def test_refuses_special_roots(tmp_path: Path) -> None:
    """A name that leads to nothing, or to a device, says so."""
    with pytest.raises(UsageError, match=r"no file or folder .*/nothing"):
        walk_folder(tmp_path / "nothing")
    with pytest.raises(UsageError, match="but a device"):
        walk_folder(Path("/dev/null"))
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match="circle"):
        walk_folder(tmp_path / "circle")
    make(tmp_path, "b:c")
    with pytest.raises(UsageError, match="colon"):
        walk_folder(tmp_path / "b:c")


def test_refuses_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without the right to read it is named before anything is read."""
    make(tmp_path, "a", "b")
    # Root may read everything, so the question itself is answered here.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b")
    with pytest.raises(UsageError, match="/b may not be read"):
        walk_folder(tmp_path)


def test_refuses_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be read is reported in words."""

    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(UsageError, match=r"cannot be read: .*Permission denied"):
        walk_folder(tmp_path)


def test_refuses_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of more files than a release can have says what to do."""
    make(tmp_path, *"abcd")
    monkeypatch.setattr(folder, "MAX_FILES", 3)
    with pytest.raises(UsageError, match="more than 3 files") as caught:
        walk_folder(tmp_path)
    assert "parquet" in caught.value.next
