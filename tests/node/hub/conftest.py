"""The door for clients of the Hub on real ports: of a node that holds things, and of one that has
nothing and a network. Between them only the wire is missing."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import trio
from huggingface_hub import HfApi

from node.api.hub import hub_routes
from node.api.loopback import loopback_app, serve_loopback
from node.api.read import read_routes
from node.keyring import Keyring
from node.reading import Reader, open_reader
from node.store import Store
from p2p.naming import Status
from tests.fakes import FakeSource, Machine
from tests.hub import git_sha1
from tests.node.conftest import Stores
from tests.node.door import TOKEN
from tests.publishers import Publisher
from tests.releases import MIB, Published, noise, publish_into, safetensors_bytes, write_folder

PATIENCE = 600  # seconds, which pass at once where a test has a clock that jumps
T = TypeVar("T")
Json = dict[str, Any]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = b"""---
license: apache-2.0
base_model: org/base
datasets: [org/words]
tags: [tiny]
pipeline_tag: text-generation
library_name: transformers
language: [en]
---
# Tiny
"""
WEIGHTS = safetensors_bytes({"a": noise(3 * MIB, 1), "b": noise(200, 2)}, {})
FILES = {
    "README.md": CARD,
    "config.json": b'{"model_type": "llama"}',
    "data/deep/b.txt": b"b\n",
    "data/words.txt": b"a\n",
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
}


def etag(path: str) -> str:
    """What the Hub calls a file of FILES by."""
    data = FILES[path]
    if path == "model.safetensors":
        return f'"{hashlib.sha256(data).hexdigest()}"'
    return f'"{git_sha1(data)}"'


def lineage(kind: str = "", commit: str = COMMIT, repo: str = "org/repo") -> list[Json]:
    """The lineage of a release that was imported."""
    return [{"role": "origin", "uri": f"hf://{kind}{repo}@{commit}"}]


async def in_thread(work: Callable[[], T]) -> T:
    """Run a client that blocks."""
    with trio.fail_after(100):
        return await trio.to_thread.run_sync(work)


@dataclass
class Served:
    """A machine, its reader, and its door."""

    machine: Machine
    reader: Reader
    url: str
    client: httpx.AsyncClient

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.url, token=False)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        said = more.pop("headers", {})
        headers = {name.replace("_", "-"): str(one) for name, one in said.items()}
        with trio.fail_after(PATIENCE):
            return await self.client.request(method, path, headers=headers, **more)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.ask("GET", path, headers=headers)

    async def head(self, path: str, **headers: str) -> httpx.Response:
        return await self.ask("HEAD", path, headers=headers)

    async def json(self, path: str) -> Any:
        answer = await self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@dataclass
class World:
    """``holder`` has what is published; ``empty`` has nothing, and what it asks is in its wire."""

    holder: Served
    empty: Served
    folder: Path
    alice: Publisher = field(default_factory=Publisher)
    folders: int = 0

    async def publish(self, files: dict[str, bytes] | None = None, **more: Any) -> Published:
        """Publish into the holder's store, by alice unless ``by`` says otherwise."""
        self.folders += 1
        folder = write_folder(self.folder / str(self.folders), FILES if files is None else files)
        more.setdefault("by", self.alice)
        return await publish_into(self.holder.machine.store, folder, **more)

    async def imported(self, **more: Any) -> Published:
        """Publish what was imported from org/repo."""
        told = {
            "name": "org--repo",
            "version": COMMIT,
            "lineage": lineage(),
            "stated": ["model.safetensors"],
        }
        return await self.publish(**(told | more))

    async def take_back(self, release: Published, state: Any, reason: str) -> None:
        """Say in alice's metadata that a release is taken back."""
        status = Status(state, reason, "2026-11-23T00:00:00Z")
        said = self.alice.mark(release.manifest.cid, status)
        await self.holder.machine.store.publishers.put(self.alice.id, said)

    def source(self, **behaviour: Any) -> FakeSource:
        """Let the empty one find the holder."""
        wire = self.empty.machine.wire
        source = FakeSource(f"peer-{len(wire.known)}", self.holder.machine.store, **behaviour)
        wire.known.append(source)
        return source


@pytest.fixture
async def world(new_store: Stores, tmp_path: Path) -> AsyncIterator[World]:
    """Both call Publisher() alice."""
    async with trio.open_nursery() as nursery:
        async with AsyncExitStack() as stack:
            holder = await serve(await new_store(), nursery, stack)
            empty = await serve(await new_store(), nursery, stack)
            yield World(holder, empty, tmp_path / "folders")
        nursery.cancel_scope.cancel()


async def serve(store: Store, nursery: trio.Nursery, stack: AsyncExitStack) -> Served:
    """Serve a machine for as long as the stack is open."""
    machine = Machine(store, Keyring(store.folder.with_suffix(".keys")))
    machine.called["alice"] = Publisher().id
    reader = await stack.enter_async_context(open_reader(machine))
    routes = [*read_routes(reader, TOKEN), *hub_routes(machine, reader)]
    url = await nursery.start(partial(serve_loopback, loopback_app(routes), 0))
    client = httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False)
    await stack.enter_async_context(client)
    return Served(machine, reader, url, client)
