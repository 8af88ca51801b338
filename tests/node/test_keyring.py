"""The keyring: keys are made once, wholly, for this user alone, and only then used."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.keyring import Keyring
from node.store import durable
from p2p.errors import DiskFull, NotFound, ReadOnly, StoreError, UsageError
from p2p.keys import SecretKey

ROOT = os.geteuid() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the keys are to lie; it is not there yet."""
    return tmp_path / "deep" / "keys"


def test_the_node_has_one_key(folder: Path) -> None:
    """The node's key is made on first use and is the same ever after."""
    key = Keyring(folder).node()
    assert Keyring(folder).node().seed == key.seed
    assert Keyring(folder).names() == ()


def test_modes(folder: Path) -> None:
    """Key files have mode 0600 in folders of mode 0700, whatever the umask."""
    before = os.umask(0)
    try:
        Keyring(folder).node()
        Keyring(folder).new("alice")
    finally:
        os.umask(before)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["node.key"]
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_publishers(folder: Path) -> None:
    """A publisher's key is found by its name, and is not the node's."""
    keyring = Keyring(folder)
    alice, bob = keyring.new("alice"), keyring.new("Bob-2.x")
    assert keyring.publisher("alice").seed == alice.seed
    assert keyring.names() == ("Bob-2.x", "alice")
    assert len({alice.seed, bob.seed, keyring.node().seed}) == 3


def test_export_is_the_file(folder: Path) -> None:
    """The backup of a key is its file: put back, it is the same key."""
    keyring = Keyring(folder)
    key = keyring.new("alice")
    text = keyring.export("alice")
    file = folder / "publishers" / "alice.key"
    assert file.read_text() == text
    assert SecretKey.from_pem(text).seed == key.seed
    file.rename(folder / "publishers" / "restored.key")
    assert keyring.publisher("restored").seed == key.seed
    with pytest.raises(NotFound):
        keyring.export("alice")


def test_openssl_reads_it(folder: Path) -> None:
    """A key file is in a format that other programs read."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = Keyring(folder).node()
    other = load_pem_private_key((folder / "node.key").read_bytes(), None)
    assert isinstance(other, Ed25519PrivateKey)
    assert other.private_bytes_raw() == key.seed


def test_a_missing_publisher(folder: Path) -> None:
    """A name without a key says how to make one."""
    with pytest.raises(NotFound, match="no publisher key 'alice'") as caught:
        Keyring(folder).publisher("alice")
    assert "allod key new alice" in caught.value.next


def test_a_key_is_never_overwritten(folder: Path) -> None:
    """Making a key where there is one changes nothing."""
    key = Keyring(folder).new("alice")
    with pytest.raises(UsageError, match="'alice' already"):
        Keyring(folder).new("alice")
    assert Keyring(folder).publisher("alice").seed == key.seed
    assert len(list((folder / "publishers").iterdir())) == 1


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "a\n", "x" * 65, "ä", "a."])
def test_refuses_names(folder: Path, name: str) -> None:
    """A name that is no plain file name is refused, and touches nothing."""
    for method in (Keyring(folder).new, Keyring(folder).publisher, Keyring(folder).export):
        with pytest.raises(UsageError, match="name"):
            method(name)
    assert not folder.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_refuses_a_file_for_others(folder: Path, mode: int) -> None:
    """A key that others may read is not used, and the error is the line that mends it."""
    Keyring(folder).node()
    path = folder / "node.key"
    path.chmod(mode)
    with pytest.raises(StoreError, match=f"mode {mode:04o}") as caught:
        Keyring(folder).node()
    assert caught.value.exit_code == 8
    command = caught.value.next.removeprefix("Run: ")
    subprocess.run(command, shell=True, check=True)
    Keyring(folder).node()


def test_refuses_a_folder_for_others(folder: Path) -> None:
    """A key that others may have put there is not used, and none is made there."""
    Keyring(folder).new("alice")
    (folder / "publishers").chmod(0o777)
    for call in (Keyring(folder).publisher, Keyring(folder).new):
        with pytest.raises(StoreError, match="mode 0777") as caught:
            call("alice")
        assert caught.value.next.startswith("Run: chmod 700 ")


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN", b"x" * 10_000])
def test_refuses_what_is_no_key(folder: Path, content: bytes) -> None:
    """A damaged key file is reported, not replaced, and not shown."""
    Keyring(folder).node()
    path = folder / "node.key"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not an Ed25519 private key") as caught:
        Keyring(folder).node()
    assert caught.value.__cause__ is None
    assert path.read_bytes() == content


def test_refuses_pipes_and_folders(folder: Path) -> None:
    """A pipe in a key's place does not hang the node, and a folder does not crash it."""
    Keyring(folder).new("alice")
    os.mkfifo(folder / "publishers" / "pipe.key", 0o600)
    (folder / "publishers" / "folder.key").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StoreError, match="not a file"):
            Keyring(folder).publisher(name)


@pytest.mark.skipif(ROOT, reason="root may read and write everything")
def test_refuses_what_it_may_not_touch(folder: Path) -> None:  # pragma: no cover
    """Folders without rights are reported in words."""
    keyring = Keyring(folder)
    keyring.new("alice")
    folder.chmod(0)
    try:
        for call in (keyring.node, keyring.names, lambda: keyring.new("bob")):
            with pytest.raises(StoreError):
                call()
    finally:
        folder.chmod(0o700)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    """A file in the folder's place is reported in words."""
    (tmp_path / "keys").write_text("")
    keyring = Keyring(tmp_path / "keys")
    for call in (keyring.node, keyring.names, lambda: keyring.new("bob")):
        with pytest.raises(StoreError):
            call()


def test_other_files_are_no_publishers(folder: Path) -> None:
    """Only NAME.key is a publisher's key."""
    Keyring(folder).new("alice")
    for name in ("notes.txt", ".hidden.key", "a b.key", ".key"):
        (folder / "publishers" / name).write_text("")
    assert Keyring(folder).names() == ("alice",)


def test_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links keys are made all the same, and not overwritten."""
    monkeypatch.setattr(durable, "link", lambda source, target: False)
    key = Keyring(folder).new("alice")
    with pytest.raises(UsageError, match="already"):
        Keyring(folder).new("alice")
    assert Keyring(folder).publisher("alice").seed == key.seed
    assert len(list((folder / "publishers").iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, DiskFull), (errno.EROFS, ReadOnly), (errno.EIO, StoreError)],
)
@pytest.mark.parametrize("step", ["write_at", "sync_file", "link", "sync_folder"])
def test_a_disk_that_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, error: type[StoreError]
) -> None:
    """Whatever step of making a key fails, it is said in words and leaves no half of a key."""
    Keyring(folder).new("bob")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as context:
        context.setattr(durable, step, fail)
        with pytest.raises(error):
            Keyring(folder).new("alice")
    assert {path.name for path in (folder / "publishers").iterdir()} <= {"alice.key", "bob.key"}
    assert ("alice" in Keyring(folder).names()) is (step == "sync_folder")


def test_two_processes_at_once(folder: Path) -> None:
    """Nodes that start at the same moment agree on one key."""
    program = (
        "import sys; from pathlib import Path; from node.keyring import Keyring;"
        "sys.stdin.readline(); print(Keyring(Path(sys.argv[1])).node().public.peer_id)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate()[0].strip() for process in processes}
    assert answers == {Keyring(folder).node().public.peer_id}
    assert len(list(folder.iterdir())) == 1
