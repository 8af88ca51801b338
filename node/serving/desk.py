"""Everything about models that answer, joined: engines, accounts, receipts, a moderator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import trio

from node.accounts import Accounts
from node.api.answers import Answers
from node.federation.federation import Federation
from node.inference import Inference
from node.moderation import Moderation, make_moderation
from node.node import Node
from node.receipts import Receipts
from node.serving.fleet import open_fleet
from node.upkeep import keep_shared

if TYPE_CHECKING:
    from p2p.host import Host

MODERATE_WITHIN: Final = 60.0
"""Seconds for a moderator elsewhere to judge a piece of text."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the doors need."""

    inference: Inference
    accounts: Accounts
    receipts: Receipts
    moderation: Moderation | None


@asynccontextmanager
async def open_serving(node: Node) -> AsyncIterator[Desk]:
    """Open the fleet of a node whose accounts are open; leaving the block ends all engines.

    Where the node is on the network, peers may answer for it, and it for them.
    """
    assert node.accounts is not None
    key = node.keyring.node()
    receipts = Receipts(key)
    async with (
        open_fleet(node, key.public.peer_id) as fleet,
        httpx.AsyncClient(timeout=MODERATE_WITHIN) as client,
        trio.open_nursery() as nursery,
    ):
        node.fleet = fleet
        choice = node.config.serve.moderation
        # Peers are answered by this node's own engines alone: no request goes round in circles.
        own = Desk(fleet, node.accounts, receipts, make_moderation(choice, fleet, client))
        if node.host is None:
            yield own
        else:
            from node.peers import PeerNetwork  # with libp2p, which is there by now

            network = node.network()
            assert isinstance(network, PeerNetwork)
            answers = Answers(fleet, own, node.gate, node.config.serve.peers)
            _answer_peers(node, answers, node.host)
            nursery.start_soon(keep_shared, fleet, node.gate, network, fleet.next_change)
            federation = Federation(fleet, network, node.gate)
            moderation = make_moderation(choice, federation, client)
            yield Desk(federation, node.accounts, receipts, moderation)
        nursery.cancel_scope.cancel()


def _answer_peers(node: Node, answers: Answers, host: "Host") -> None:
    """Have peers answered over libp2p streams, where they have proved who they are."""
    assert node.peer_api is not None
    assert node.peer_door is not None  # both came with the host
    node.peer_api.answers = answers
    host.set_handler(node.peer_door, answers.takes)
