"""Answers on their way out."""

from collections.abc import AsyncIterator

import trio

from node.api.openai.forms import Opening, Relayed
from node.api.openai.relay import Relay
from node.inference import Answer
from tests.inference import DONE, PEER, piece


async def test_a_body_that_is_there_lets_others_have_their_turn() -> None:
    """Pieces that need no waiting, and send nothing yet, do not hold the node up."""
    turns = 0

    async def crumbs() -> AsyncIterator[bytes]:
        for byte in piece() * 10 + DONE:
            yield bytes([byte])

    async def send(message: object) -> None:
        pass

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    relay = Relay(send, None)
    relay.prepare(Relayed(Opening("m", "1", 0.0), wants_usage=False), {}, None, PEER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await relay.run(Answer(200, "text/event-stream", crumbs(), PEER))
        nursery.cancel_scope.cancel()
    assert relay.over
    assert turns >= len(piece()) * 10
