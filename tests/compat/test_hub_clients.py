"""Hugging Face's own clients, unchanged, get from a node what only other nodes have.

Alice publishes a model and a dataset, Carol has fetched them; Bob holds nothing, and what
``allod env`` prints of his node is all that his programs are told. They cannot reach anything else:
a proxy that nobody runs stands between them and the outside.
"""

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.compat import clients
from tests.compat.tiny_llama import ROWS, make_dataset, make_model
from tests.models import smollm2_safetensors
from tests.network.people import Node, Person

SCRIPT = Path(__file__).parent / "hub_client.py"
TOKEN = "hf_" + "S3cretOfTheUsers" * 2
MODEL, WORDS = "alice/tiny", "alice/words"
NOWHERE = "http://127.0.0.1:9"

Json = dict[str, Any]


@dataclass(frozen=True)
class Bob:
    """Who holds nothing: his node, a folder, and what his programs find in their environment."""

    person: Person
    node: Node
    place: Path
    environ: dict[str, str]

    async def run(self, *words: str | Path, **more: str) -> str:
        """Run a program of his that must succeed; what it prints."""
        done = await trio.run_process(
            [str(word) for word in words],
            env=self.environ | more,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        shown = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, f"{words}:\n{shown[-4000:]}\n{self.node.running.tail()}"
        return done.stdout.decode()

    async def job(self, python: Path, name: str, repo: str, **more: str) -> Json:
        """Run a job of hub_client.py by that Python."""
        said = await self.run(python, SCRIPT, name, repo, **more)
        found: Json = json.loads(said.splitlines()[-1])
        return found


class Swarm:
    """Two nodes that hold everything, and how somebody joins who holds nothing."""

    def __init__(self, home: Path, addresses: list[str], publisher: str) -> None:
        self._home = home
        self._addresses = addresses
        self._publisher = publisher

    @asynccontextmanager
    async def bob(self, name: str = "bob") -> AsyncIterator[Bob]:
        """Somebody new, whose node runs for as long as the block lasts."""
        bob = Person(self._home / name, *self._addresses)
        await bob.run("trust", "add", self._publisher, "--as", "alice")
        async with bob.node() as node:
            told = (await bob.run("env"))["env"]
            kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
            proxies = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"}
            place = self._home / f"{name}-place"
            place.mkdir()
            cache = {"HOME": str(place), "HF_HOME": str(place / "hf")}
            yield Bob(bob, node, place, kept | proxies | cache | told)


@asynccontextmanager
async def swarm(home: Path, **folders: Path) -> AsyncIterator[Swarm]:
    """Two nodes that hold these folders as alice/NAME."""
    alice = Person(home / "alice")
    made = {name: await alice.publish(folder, name) for name, folder in folders.items()}
    publisher = (await alice.run("key", "list"))["keys"][0]["publisher"]
    async with alice.node() as first:
        carol = Person(home / "carol", first.address)
        for release in made.values():
            await carol.fetch_found(release["manifest"])
        async with carol.node() as second:
            yield Swarm(home, [first.address, second.address], publisher)


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


async def python_of(kind: clients.Kind) -> Path:
    """An environment's Python; making it takes a while."""
    return await trio.to_thread.run_sync(partial(clients.python, kind))


def traces(folder: Path, secret: str) -> list[Path]:
    """Files in which a secret stands."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return [file for file in files if secret.encode() in file.read_bytes()]


async def everything_of_huggingface_hub(bob: Bob, python: Path, source: Path) -> str:
    """The command line and the library; the version that it was."""
    expected = sums(source)
    hf = python.with_name("hf")
    card = source / "README.md"
    local = bob.place / "local"
    # The token is given by hand: without that, what `allod env` says keeps it at home.
    await bob.run(hf, "download", MODEL, "--local-dir", local, "--token", TOKEN)
    assert {path: value for path, value in sums(local).items() if path in expected} == expected
    said = await bob.run(hf, "download", MODEL, "--format", "json", HF_TOKEN=TOKEN)
    assert sums(Path(json.loads(said)["path"])) == expected
    before = await bob.job(python, "cached", MODEL)
    assert before
    found = await bob.job(python, "files", MODEL, HF_TOKEN=TOKEN)
    for way in ("snapshot", "pinned", "single", "streamed"):
        assert found[way] == expected, way
    largest = (source / "model.safetensors").read_bytes()
    assert found["middle"] == hashlib.sha256(largest[1000:6000]).hexdigest()
    assert found["sizes"]["README.md"] == card.stat().st_size
    assert found["branches"] == ["main"]
    assert found["exists"]
    assert found["missing"] == [
        "RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError",
    ]  # fmt: skip
    await bob.run(hf, "cache", "verify", MODEL, "--fail-on-missing-files")
    assert await bob.job(python, "cached", MODEL) == before, "a repeat downloaded something"
    log = "\n".join(bob.node.running.logged + bob.node.running.printed)
    assert TOKEN not in log
    assert traces(bob.person.home, TOKEN) == []
    version: str = found["version"]
    return version


@pytest.mark.timeout(600)
async def test_huggingface_hub(tmp_path: Path) -> None:
    """The hf command, downloads, snapshots, the file system, verify; and no token is kept.

    By the last version before 2 and by the newest, each from a node that holds nothing.
    """
    pythons = {"1.": await python_of("hub1"), "2.": Path(sys.executable)}
    source = make_model(tmp_path / "tiny")
    async with swarm(tmp_path, tiny=source) as nodes:
        for major, python in pythons.items():
            async with nodes.bob(f"bob{major[0]}") as bob:
                version = await everything_of_huggingface_hub(bob, python, source)
                assert version.startswith(major)


@pytest.mark.long  # it takes torch and 5.6 GB; huggingface_hub, which it asks by, is tested above
@pytest.mark.timeout(900)
async def test_transformers_and_datasets(tmp_path: Path) -> None:
    """from_pretrained gives the very tensors, load_dataset the very rows, streamed or not."""
    python = await python_of("torch")
    source = make_model(tmp_path / "tiny")
    words = make_dataset(tmp_path / "words")
    async with swarm(tmp_path, tiny=source, words=words) as nodes, nodes.bob() as bob:
        found = await bob.job(python, "model", MODEL, MODEL=str(source))
        assert found["type"] == "llama"
        assert found["ids"] == [[3, 4]]
        assert found["equal"]
        assert found["said"]
        rows = await bob.job(python, "dataset", WORDS)
        assert rows["splits"] == ROWS
        assert rows["streamed"] == ROWS


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_real_model(tmp_path: Path) -> None:
    """SmolLM2 of 270 MB: loaded from the swarm with torch, it says what it says from a folder."""
    python = await python_of("torch")
    source = await trio.to_thread.run_sync(smollm2_safetensors)
    async with swarm(tmp_path, tiny=source) as nodes, nodes.bob() as bob:
        found = await bob.job(python, "model", MODEL, MODEL=str(source))
        assert found["equal"]
        assert found["said"]
        version = await everything_of_huggingface_hub(bob, python, source)
        assert version.startswith("2.")
