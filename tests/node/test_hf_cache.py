"""A release in Hugging Face's cache is what the library itself would have put there, by links."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from node.config import load_config
from node.hub.cache import wants_cache
from node.hub.origin import SHORT
from node.messages import FetchParams, ImportParams, PublishParams
from node.node import Node as RunningNode
from node.node import open_node
from node.operations import OPERATIONS, perform
from p2p.errors import UsageError, VerificationFailed
from tests.hub import Hub, git_sha1, running_hub
from tests.network.people import Person
from tests.node.test_import import FILES, WEIGHTS, download
from tests.releases import write_folder

ASK = """
import json, sys
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
repo, kind, name = sys.argv[1:]
found = scan_cache_dir()
print(json.dumps({
    "folder": snapshot_download(repo, repo_type=kind),
    "file": hf_hub_download(repo, name, repo_type=kind),
    "warnings": [str(one) for one in found.warnings],
    "repos": [one.repo_id for one in found.repos],
}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub that has the model org/tiny."""
    with running_hub() as hub:
        hub.make("org/tiny", dict(FILES))
        yield hub


class Home:
    """A node of alice's in this process, on no network; its home is that of its commands."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node

    async def run(self, name: str, params: object) -> dict[str, Any]:
        """Have an operation done."""
        return await perform(self.node, OPERATIONS[name], params, lambda event: None)

    async def publish(self, folder: Path, name: str, kind: str = "") -> dict[str, Any]:
        return await self.run("publish", PublishParams(str(folder), name, kind=kind, sha256=False))

    async def fill(self, ref: str, cache: Path) -> dict[str, Any]:
        """Fetch out of the store into a cache; what the answer says of it."""
        params = FetchParams(ref, offline=True, hf_cache=str(cache))
        found = await self.run("fetch", params)
        cached: dict[str, Any] = found["hfCache"]
        return cached | {"view": found["path"]}


@pytest.fixture
async def alice(tmp_path: Path) -> AsyncIterator[Home]:
    """Somebody who has published alice/tiny."""
    config = load_config(environ={"ALLOD_HOME": str(tmp_path / "alice")})
    async with open_node(config, network=False) as node:
        node.keyring.new("alice")
        home = Home(node)
        await home.publish(write_folder(tmp_path / "tiny", dict(FILES)), "alice/tiny")
        yield home


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the tests'."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


def ask_library(cache: Path, repo: str, kind: str, name: str) -> dict[str, Any]:
    """Have the library find a repository with no network, in a process of its own."""
    environ = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", ASK, repo, kind, name]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def layout(cache: Path) -> dict[str, str]:
    """What lies in a cache: of links where they lead, of files their size."""
    found = {}
    for file in sorted((cache / "models--org--tiny").rglob("*")):
        if file.is_symlink():
            found[str(file.relative_to(cache))] = str(file.readlink())
        elif file.is_file():
            found[str(file.relative_to(cache))] = str(file.stat().st_size)
    # What 2.x knows of the Hub's list is no part of what a release has.
    return {path: what for path, what in found.items() if "/trees/" not in path}


async def test_it_is_as_the_library_makes_it(alice: Home, tmp_path: Path, hub: Hub) -> None:
    """Blobs by their ETags, relative links, the ref: of an imported one the same to the letter."""
    params = ImportParams("hf:org/tiny", cache=str(tmp_path / "hf"), endpoint=hub.url)
    ref = (await alice.run("import", params))["ref"]
    ours = await alice.fill(ref, tmp_path / "ours")
    theirs = tmp_path / "theirs"
    download(hub, theirs)
    assert layout(tmp_path / "ours") == layout(theirs)
    assert (ours["repo"], ours["kind"], ours["files"]) == ("org/tiny", "model", len(FILES))
    assert ours["commit"] == hub.repos["model", "org/tiny"].refs["main"]

    # Where the library has been before, there is nothing left to do.
    blobs = {file: file.stat().st_ino for file in theirs.rglob("*") if not file.is_symlink()}
    again = await alice.fill(ref, theirs)
    assert again["linked"] == 0
    assert {file: file.stat().st_ino for file in theirs.rglob("*") if file in blobs} == blobs


async def test_the_library_finds_it_with_no_network(alice: Home, tmp_path: Path) -> None:
    """Under the name that was written, by name and file by file, and without a second copy."""
    cache = tmp_path / "cache"
    made = await alice.fill("alice/tiny", cache)
    assert made["repo"] == "alice/tiny"
    found = ask_library(cache, "alice/tiny", "model", "sub/vocab.txt")
    assert found["folder"] == made["path"]
    assert found["warnings"] == []
    assert found["repos"] == ["alice/tiny"]
    for path, data in FILES.items():
        if path.startswith("."):  # publish leaves hidden files out
            continue
        assert (Path(made["path"]) / path).read_bytes() == data
        blob, view = (Path(made["path"]) / path).stat(), (Path(made["view"]) / path).stat()
        assert blob.st_ino == view.st_ino or blob.st_dev == view.st_dev  # a link, or a reflink
    version = cache / "models--alice--tiny" / "refs" / "1"
    assert version.read_text() == made["commit"]


async def test_a_dataset_is_one_for_the_library(alice: Home, tmp_path: Path) -> None:
    """It lies where datasets do."""
    folder = write_folder(tmp_path / "data", {"train.csv": b"a,b\n1,2\n"})
    await alice.publish(folder, "alice/data", kind="dataset")
    made = await alice.fill("alice/data", tmp_path / "cache")
    found = ask_library(tmp_path / "cache", "alice/data", "dataset", "train.csv")
    assert found["folder"] == made["path"]


async def test_a_part_goes_in_as_far_as_it_is_here(tmp_path: Path) -> None:
    """And the rest when it comes; by a link from a publisher without a name here."""
    alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
    published = await alice.publish(write_folder(tmp_path / "tiny", dict(FILES)), "tiny")
    cache = tmp_path / "cache"
    async with alice.node() as node:
        words = ("fetch", published["ref"], "--peer", node.address, "--hf-cache", str(cache))
        part = (await bob.run(*words, "--include", "*.json"))["hfCache"]
        whole = (await bob.run(*words))["hfCache"]
    assert part["repo"] == whole["repo"] == f"{published['publisher'][-SHORT:]}/tiny"
    assert part["commit"] == whole["commit"]
    assert (part["files"], part["linked"]) == (1, 1)
    assert (whole["files"], whole["linked"]) == (4, 3)


async def test_other_bytes_are_never_replaced(alice: Home, tmp_path: Path) -> None:
    """A blob or a commit that the cache has otherwise is an error, and everything stays."""
    cache = tmp_path / "cache"
    made = await alice.fill("alice/tiny", cache)
    place = cache / "models--alice--tiny"
    blob = place / "blobs" / git_sha1(FILES["config.json"])
    blob.unlink()
    blob.write_bytes(b"damaged")
    with pytest.raises(VerificationFailed, match=blob.name):
        await alice.fill("alice/tiny", cache)
    assert blob.read_bytes() == b"damaged"

    blob.unlink()
    pointer = Path(made["path"]) / "config.json"
    pointer.unlink()
    pointer.symlink_to("../../blobs/" + "0" * 40)
    with pytest.raises(VerificationFailed, match=r"another config\.json"):
        await alice.fill("alice/tiny", cache)
    assert os.readlink(pointer) == "../../blobs/" + "0" * 40


async def test_links_in_the_cache_are_not_followed(alice: Home, tmp_path: Path) -> None:
    """A folder of the snapshot that leads elsewhere gets no files."""
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    made = await alice.fill("alice/tiny", cache)
    sub = Path(made["path"]) / "sub"
    (sub / "vocab.txt").unlink()
    sub.rmdir()
    elsewhere.mkdir()
    sub.symlink_to(elsewhere)
    with pytest.raises(UsageError) as caught:
        await alice.fill("alice/tiny", cache)
    assert "--hf-cache" in caught.value.next
    assert list(elsewhere.iterdir()) == []


async def test_the_cache_may_lie_on_another_disk(alice: Home, other_disk: Path) -> None:
    """Then its blobs are symbolic links into the store, which the library follows."""
    made = await alice.fill("alice/tiny", other_disk)
    assert (Path(made["path"]) / "model.safetensors").read_bytes() == WEIGHTS
    blobs = list((other_disk / "models--alice--tiny" / "blobs").iterdir())
    assert len(blobs) == made["linked"]
    assert all(blob.is_symlink() for blob in blobs)
    assert ask_library(other_disk, "alice/tiny", "model", "config.json")["warnings"] == []

    # A link into a store that has lost the file is made anew.
    blobs[0].unlink()
    blobs[0].symlink_to("/nowhere")
    assert (await alice.fill("alice/tiny", other_disk))["linked"] == 1


async def test_the_command_fills_its_user_s_own_cache(tmp_path: Path) -> None:
    """As the command's variables say, whatever those of a node that runs are."""
    alice = Person(tmp_path / "alice")
    folder = write_folder(tmp_path / "tiny", {"config.json": b"{}"})
    await alice.publish(folder, "tiny", "--no-sha256")
    async with alice.node():
        alice.environ |= {"HF_HOME": str(tmp_path / "hf")}
        found = await alice.run("fetch", "alice/tiny", "--hf-cache")
    assert found["hfCache"]["path"].startswith(str(tmp_path / "hf" / "hub"))


async def test_names_that_clients_cannot_write_are_refused(alice: Home, tmp_path: Path) -> None:
    """With the way round: a folder is a path to them."""
    await alice.publish(write_folder(tmp_path / "odd", {"a.json": b"{}"}), "alice/a--b")
    with pytest.raises(UsageError, match="alice/a--b") as caught:
        await alice.fill("alice/a--b", tmp_path / "cache")
    assert "folder" in caught.value.next


def test_what_makes_no_sense_is_refused_at_once() -> None:
    """Single tensors are no files of the release, and a relative folder is another for a node."""
    assert not wants_cache(FetchParams("alice/tiny"))
    assert not wants_cache(FetchParams("alice/tiny", hf_cache="/x", dry_run=True))
    with pytest.raises(UsageError, match="Single tensors"):
        wants_cache(FetchParams("alice/tiny", hf_cache="/x", tensors=("a",)))
    with pytest.raises(UsageError, match="absolute"):
        wants_cache(FetchParams("alice/tiny", hf_cache="x"))
