"""A desk for the doors, and the doors on a real port: what their tests share."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import trio

from node.accounts import Account, Use
from node.api.loopback import loopback_app, serve_loopback
from node.api.ollama import ollama_routes
from node.api.openai import openai_routes
from node.inference import Served
from node.moderation import Moderation
from node.receipts import Receipts
from p2p.errors import BadToken, OverLimit
from p2p.keys import SecretKey
from tests.inference import ScriptedInference
from tests.node.door import Door, Story, request, split

T = TypeVar("T")


@dataclass
class KeptAccounts:
    """Accounts that know a few words and keep what was used."""

    tokens: dict[str, Account] = field(default_factory=dict)
    needed: bool = False
    over: OverLimit | None = None
    used: list[tuple[Account, Use]] = field(default_factory=list)
    recorded: trio.Event = field(default_factory=trio.Event)
    local: Account = field(
        default_factory=lambda: Account("local", "this machine", (), None, None, True)
    )

    async def identify(self, bearer: str) -> Account:
        if bearer in self.tokens:
            return self.tokens[bearer]
        if self.needed or bearer.startswith("allod-"):
            raise BadToken("This token is not known here.", next="Make another.")
        return self.local

    def allows(self, account: Account, model: Served) -> bool:
        return not account.models or model.name in account.models

    def admit(self, account: Account, model: Served) -> None:
        if not self.allows(account, model):
            raise BadToken("This token is not for that model.")
        if self.over is not None:
            raise self.over

    async def record(self, account: Account, use: Use) -> None:
        await trio.lowlevel.checkpoint()
        self.used.append((account, use))
        self.recorded.set()
        self.recorded = trio.Event()

    async def wait_recorded(self, count: int = 1) -> list[Use]:
        """Wait until that many requests are written down; return them."""
        with trio.fail_after(60):
            while len(self.used) < count:
                await self.recorded.wait()
        return [use for _, use in self.used]


@dataclass
class PlainDesk:
    """What doors need: fakes, but for the receipts, which are real."""

    inference: Any = field(default_factory=ScriptedInference)
    accounts: Any = field(default_factory=KeptAccounts)
    receipts: Receipts = field(default_factory=lambda: Receipts(SecretKey.generate()))
    moderation: Moderation | None = None


@dataclass
class ModelDoors:
    """The doors for models, served."""

    url: str
    client: httpx.AsyncClient
    desk: PlainDesk

    @property
    def engine(self) -> ScriptedInference:
        found = self.desk.inference
        assert isinstance(found, ScriptedInference)
        return found

    async def post(self, path: str, value: object, **headers: str) -> httpx.Response:
        """POST a JSON value, or bytes as they are."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        sent = {"content-type": "application/json"}
        sent |= {name.replace("_", "-"): one for name, one in headers.items()}
        with trio.fail_after(60):
            return await self.client.post(path, content=body, headers=sent)

    async def push(self, path: str, body: bytes, **headers: str | None) -> tuple[int, bytes]:
        """POST through a bare socket, since a client of httpx can't lose a large upload."""
        door = Door(urlsplit(self.url).port or 0, Story())
        return split(await door.talk(request(path, body, door.port, **headers)))

    async def get(self, path: str, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): one for name, one in headers.items()}
        with trio.fail_after(60):
            return await self.client.get(path, headers=sent)


@asynccontextmanager
async def serving_models(
    desk: PlainDesk | None = None, *, origins: Sequence[str] = ()
) -> AsyncIterator[ModelDoors]:
    """Serve both doors on a port of their own."""
    desk = desk or PlainDesk()
    app = loopback_app([*openai_routes(desk), *ollama_routes(desk)], origins=origins)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(serve_loopback, app, 0))
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield ModelDoors(url, client, desk)
        nursery.cancel_scope.cancel()


async def in_thread(work: Callable[[], T]) -> T:
    """Run a client that blocks."""
    with trio.fail_after(100):
        return await trio.to_thread.run_sync(work)


def pieces_of(stream: bytes) -> Iterator[dict[str, Any]]:
    """Read the events of a stream, but for the last."""
    for line in stream.splitlines():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            yield json.loads(line[6:])


def text_of(stream: bytes) -> str:
    """Return what a chat's stream says."""
    found = [one for piece in pieces_of(stream) for one in piece.get("choices", ())]
    return "".join(one["delta"].get("content") or "" for one in found)
