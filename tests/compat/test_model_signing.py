"""The OpenSSF's model_signing accepts every release as Allod publishes it, and nothing else."""

import functools
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.keyring import Keyring
from node.messages import PublishParams
from node.model_sig import AUTHORITY_FILE, SIGNATURE_FILE, save_signature
from node.publish import publish
from node.store import Store, open_store
from p2p.cid import CID
from tests.releases import MIB, noise, safetensors_bytes, write_folder

MODEL = {
    "model.safetensors": safetensors_bytes({"a": noise(2 * MIB), "b": noise(100, 2)}, {}),
    "README.md": b"---\nlicense: mit\n---\n",
    "a/b.txt": b"1",
    "a-b.txt": b"2",
    "a.txt": b"",
    "weights of the 1st layer/ä ö.bin": noise(9),
}


@dataclass
class Publisher:
    """Whoever publishes: a node that runs for as long as one command."""

    store: Store
    keyring: Keyring
    default_key: str = "alice"

    def spread(self, cids: list[CID]) -> list[str]:
        return []

    def petnames(self) -> dict[str, str]:
        return {}

    def sign_later(self, cid: CID) -> bool:
        return False


@dataclass(frozen=True)
class Folder:
    """What somebody has of a release: its files, and the command that checks them."""

    path: Path
    saved: Path
    command: str

    def accepted(self) -> bool:
        """What the tool says, with no network to ask."""
        words = shlex.split(self.command)
        tool = str(Path(sys.executable).with_name(words[0]))
        done = subprocess.run(
            [*alone(), tool, *words[1:]], capture_output=True, text=True, timeout=100, check=False
        )
        said = done.stdout + done.stderr
        assert ("Verification succeeded" in said) == (done.returncode == 0), said
        assert done.returncode == 0 or "Verification failed with error" in said, said
        return done.returncode == 0


@functools.cache
def alone() -> list[str]:
    """What cuts a command off from the network, where this system lets anybody do that."""
    words = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None:
        return []
    return words if subprocess.run([*words, "true"], check=False).returncode == 0 else []


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    keyring = Keyring(tmp_path / "keys")
    keyring.new("alice")
    keyring.new("mallory")
    async with open_store(tmp_path / "store", quota=None, reserve=0) as store:
        yield Publisher(store, keyring)


async def published(
    publisher: Publisher,
    files: Mapping[str, bytes],
    where: Path,
    key: str = "alice",
    profile: str = "",
) -> Folder:
    """Publish files, and have the release's folder and what belongs to it outside of the store."""
    source = write_folder(where / "source", files)
    params = PublishParams(folder=str(source), name="tiny", key=key, profile=profile)
    result = await publish(params, publisher, lambda event: None)
    assert result["modelSig"] == "made"
    folder = where / "the folder"
    cid = CID.parse(result["manifest"])
    saved = await save_signature(cid, publisher.store, where / "saved", folder)
    known = await publisher.store.manifest(cid)
    assert known is not None
    shutil.copytree(publisher.store.folder / "view" / str(cid), folder)
    return Folder(folder, where / "saved", saved.command)


@pytest.mark.parametrize("profile", ["tensor-1m", "unixfs-v1-2025"])
async def test_accepts_a_release(publisher: Publisher, tmp_path: Path, profile: str) -> None:
    """A model of several files in several folders, however its files are cut."""
    assert (await published(publisher, MODEL, tmp_path, profile=profile)).accepted()


async def test_accepts_a_single_file(publisher: Publisher, tmp_path: Path) -> None:
    """A release of one file, of which the CID is the whole statement."""
    assert (await published(publisher, {"x": b""}, tmp_path)).accepted()


@pytest.mark.long
async def test_accepts_a_release_with_a_listing(publisher: Publisher, tmp_path: Path) -> None:
    """A dataset whose files do not fit into the manifest."""
    files = {f"train/{number:05}-{'x' * 60}.txt": b"%d" % number for number in range(16_000)}
    assert (await published(publisher, files, tmp_path)).accepted()


def one_byte(folder: Folder) -> None:
    file = folder.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)


def renamed(folder: Folder) -> None:
    (folder.path / "a/b.txt").rename(folder.path / "a/c.txt")


def exchanged(folder: Folder) -> None:
    (folder.path / "a/b.txt").rename(folder.path / "x")
    (folder.path / "a-b.txt").rename(folder.path / "a/b.txt")
    (folder.path / "x").rename(folder.path / "a-b.txt")


def another_statement(folder: Folder) -> None:
    file = folder.saved / SIGNATURE_FILE
    data = file.read_bytes()
    at = data.index(b'"payload":"') + 400
    file.write_bytes(data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :])


CHANGES: dict[str, Callable[[Folder], object]] = {
    "one byte": one_byte,
    "one added file": lambda folder: (folder.path / "a/more.py").write_bytes(b"pass"),
    "one renamed file": renamed,
    "another statement": another_statement,
    "one added hidden file": lambda folder: (folder.path / ".gitattributes").write_bytes(b""),
    "one file that is gone": lambda folder: (folder.path / "a.txt").unlink(),
    "two exchanged files": exchanged,
}
FEW = 4  # of them that are always tried: the tool takes its time


@pytest.mark.parametrize(
    "change",
    [
        *list(CHANGES)[:FEW],
        *(pytest.param(change, marks=pytest.mark.long) for change in list(CHANGES)[FEW:]),
    ],
)
async def test_refuses(publisher: Publisher, tmp_path: Path, change: str) -> None:
    """A folder that is not the release to the last byte and name is refused."""
    folder = await published(publisher, MODEL, tmp_path)
    CHANGES[change](folder)
    assert not folder.accepted()


async def test_refuses_another_publisher(publisher: Publisher, tmp_path: Path) -> None:
    """Who signs the same files with a key of his own is not the publisher that was trusted."""
    mine = await published(publisher, MODEL, tmp_path / "alice")
    other = await published(publisher, MODEL, tmp_path / "mallory", "mallory")
    shutil.copyfile(mine.saved / AUTHORITY_FILE, other.saved / AUTHORITY_FILE)
    assert not other.accepted()
