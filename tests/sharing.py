"""Sharing nodes for tests: a scripted engine, a policy and a desk, as ``Answers`` wants them."""

from dataclasses import dataclass, field
from typing import Any

import trio

from node.inference import Served
from node.moderation import Moderation
from node.receipts import Receipts
from p2p.cid import CID, Codec
from p2p.errors import Refused
from tests.desk import KeptAccounts
from tests.inference import ScriptedInference, served

MANIFEST = CID.of(b"tiny", Codec.JSON)
CHAT: dict[str, Any] = {
    "model": str(MANIFEST),
    "messages": [{"role": "user", "content": "Say hello."}],
}


def tiny(**changes: Any) -> Served:
    """The model of these tests, shared."""
    publisher = str(CID.of(b"alice", Codec.JSON))
    about: dict[str, Any] = {"manifest": MANIFEST, "publisher": publisher, "shared": True}
    return served(**(about | changes))


@dataclass
class Load:
    """How busy a model is."""

    slots: int
    busy: int
    waiting: int
    down: bool = False


@dataclass
class Local(ScriptedInference):
    """A scripted engine that says how busy it is, or what it is told to say."""

    models: list[Served] = field(default_factory=lambda: [tiny()])
    said: Load | None = None

    def load(self, name: str) -> Load:
        return self.said or Load(self.slots, self.busy, self.waiting)


@dataclass
class Policy:
    """A gate that refuses what it is told to."""

    refused: set[CID] = field(default_factory=set)
    change: trio.Event = field(default_factory=trio.Event)

    async def check(self, cid: CID) -> None:
        if await self.refuses(cid) is not None:
            raise Refused("It was revoked.")

    async def refuses(self, cid: CID) -> str | None:
        await trio.lowlevel.checkpoint()
        return "It was revoked." if cid in self.refused else None

    def next_change(self) -> trio.Event:
        return self.change


@dataclass
class Desk:
    """Accounts that only write down, the receipts of a node, a moderator if there is one."""

    receipts: Receipts
    inference: Any = None
    accounts: KeptAccounts = field(default_factory=KeptAccounts)
    moderation: Moderation | None = None
