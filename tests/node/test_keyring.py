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
    assert (folder / "publishers" / "alice" / "metadata" / "1.root.json").is_file()
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_publishers(folder: Path) -> None:
    """A publisher's key is found by its name, and is not the node's."""
    keyring = Keyring(folder)
    alice, bob = keyring.new("alice"), keyring.new("Bob-2.x")
    assert keyring.publisher("alice").seed == alice.signer.seed
    assert keyring.names() == ("Bob-2.x", "alice")
    seeds = {alice.signer.seed, bob.signer.seed, keyring.node().seed}
    seeds |= {key.seed for role in ("root", "online") if (key := alice.key(role))}
    assert len(seeds) == 5
    assert keyring.repository("alice").id == alice.id
    for one in (alice, bob):
        found = keyring.find(one.id)
        assert found is not None
        assert found.name == one.name
    assert keyring.find("bagaa") is None


def test_export_is_the_file(folder: Path) -> None:
    """The backup of a publisher is its folder, of a key its file: put back, they are the same."""
    keyring = Keyring(folder)
    alice = keyring.new("alice")
    key, id = alice.signer, alice.id
    text = keyring.export("alice")
    home = folder / "publishers" / "alice"
    assert (home / "targets.key").read_text() == text
    assert SecretKey.from_pem(text).seed == key.seed
    assert (home / "root.key").read_text() == keyring.export("alice", "root") != text
    home.rename(folder / "publishers" / "restored")
    assert keyring.publisher("restored").seed == key.seed
    assert keyring.repository("restored").id == id
    with pytest.raises(NotFound):
        keyring.export("alice")
    (folder / "publishers" / "restored" / "targets.key").unlink()
    for call in (keyring.export, keyring.publisher):
        with pytest.raises(NotFound, match="not on this machine"):
            call("restored")


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
    with pytest.raises(NotFound, match="no publisher 'alice'") as caught:
        Keyring(folder).publisher("alice")
    assert "allod key new alice" in caught.value.next


def test_a_key_is_never_overwritten(folder: Path) -> None:
    """Making a key where there is one changes nothing."""
    key = Keyring(folder).new("alice").signer
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
    for path, call in (
        (folder / "publishers" / "alice", Keyring(folder).publisher),
        (folder / "publishers", Keyring(folder).new),
    ):
        path.chmod(0o777)
        with pytest.raises(StoreError, match="mode 0777") as caught:
            call("alice")
        assert caught.value.next.startswith("Run: chmod 700 ")
        path.chmod(0o700)


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
    for name in ("pipe", "folder"):
        Keyring(folder).new(name)
        (folder / "publishers" / name / "targets.key").unlink()
    os.mkfifo(folder / "publishers" / "pipe" / "targets.key", 0o600)
    (folder / "publishers" / "folder" / "targets.key").mkdir()
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
    """Only a folder with a plain name is a publisher."""
    Keyring(folder).new("alice")
    for name in ("notes.txt", ".hidden", "alice.key"):
        (folder / "publishers" / name).write_text("")
    for name in (".0123.new", "a b"):
        (folder / "publishers" / name).mkdir()
    assert Keyring(folder).names() == ("alice",)


def test_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links keys are made all the same, and not overwritten."""
    monkeypatch.setattr(durable, "link", lambda source, target: False)
    key = Keyring(folder).node()
    assert Keyring(folder).node().seed == key.seed
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, DiskFull), (errno.EROFS, ReadOnly), (errno.EIO, StoreError)],
)
@pytest.mark.parametrize(
    "step", ["create", "make_folder", "write_at", "sync_file", "rename", "sync_folder"]
)
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
    assert [path.name for path in (folder / "publishers").iterdir()] == ["bob"]
    assert Keyring(folder).new("alice").names().entries == ()


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
