"""Two nodes that serve the same release: one answers when the other cannot."""

from pathlib import Path

import httpx
import pytest
import trio

from p2p.cid import CID
from p2p.receipt import read_receipt
from tests.network.models import MODEL, ask, door, engines, events, publisher, question
from tests.network.people import Node, Person

HANG = 60  # seconds; only stops a hang


async def test_another_node_answers_for_this_one(tmp_path: Path) -> None:
    """Full, its engine killed, or stopped: same URL, same digest, and a receipt that checks.

    Never for a token that is kept local.
    """
    alice, bob = await publisher(tmp_path / "alice"), Person(tmp_path / "bob")
    async with alice.node() as first:
        manifest = (await alice.run("ls"))["releases"][0]["manifest"]
        await bob.run("config", "set", "serve.peers", first.peer)
        async with bob.node("--peer", first.address) as second, door(first) as client:
            await bob.run("serve", manifest, "--as", "smol", "--share", "--yes")
            await alice.run("serve", MODEL, "--via-peers", "--slots", "1")
            tokens = [
                (await alice.run("token", "new", "kept"))["token"],
                (await alice.run("token", "new", "open", "--via-peers"))["token"],
            ]
            here = await ask(client)
            assert here.headers["x-served-by"] == first.peer
            await _full(client, first, second)
            await _killed(client, first, second)
            assert (await alice.run("stop", MODEL))["remote"]
            assert engines(first) == []
            await _stopped(client, second, CID.parse(manifest), tokens)
            used = (await bob.run("usage"))["usage"]
            assert {one["token"] for one in used} == {f"peer:{first.peer}"}


async def _full(client: httpx.AsyncClient, first: Node, second: Node) -> None:
    """While its only slot is taken, the other node answers at once."""
    body = question("Tell a long story.", tokens=300, stream=True)
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["x-served-by"] == first.peer
        with trio.fail_after(HANG):
            other = await ask(client)
        assert other.headers["x-served-by"] == second.peer, other.text
        assert other.headers["x-model-digest"] == response.headers["x-model-digest"]
        async for _ in events(response):
            pass


async def _killed(client: httpx.AsyncClient, first: Node, second: Node) -> None:
    """The engine dies in the middle of a session: the next request is answered all the same."""
    body = question("Tell a long story.", tokens=1000, stream=True)
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        seen = []
        async for event in events(response):
            seen.append(event)
            if len(seen) == 2:
                engines(first)[0].kill()
    assert "error" in seen[-1]
    answer = await ask(client)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-served-by"] in (second.peer, first.peer)  # it starts again at once


async def _stopped(
    client: httpx.AsyncClient, second: Node, manifest: CID, tokens: list[str]
) -> None:
    """What was stopped here the other node answers, streamed too, with its receipt checked."""
    for stream in (False, True):
        body = question(stream=stream)
        response = await client.post(
            "/v1/chat/completions", json=body, headers={"x-allod-receipt": "1"}
        )
        assert response.status_code == 200, response.text
        assert response.headers["x-served-by"] == second.peer
        assert response.headers["x-model-digest"] == str(manifest)
        signed = await client.get(f"/v1/receipts/{response.headers['x-receipt-id']}")
        receipt = read_receipt(signed.content)
        assert receipt.exchange.model == manifest
        assert receipt.served_by == second.peer
        if stream:
            assert response.text.endswith("data: [DONE]\n\n")
    local, may_leave = ({"authorization": f"Bearer {token}"} for token in tokens)
    kept = await client.post("/v1/chat/completions", json=question(), headers=local)
    assert kept.status_code == 403
    let = await client.post("/v1/chat/completions", json=question(), headers=may_leave)
    assert let.headers["x-served-by"] == second.peer


@pytest.mark.long
async def test_a_node_without_the_model(tmp_path: Path) -> None:
    """`--via-peers` on a release that is not here fetches what was signed, and no file.

    `--upstream` does, too, and a server elsewhere answers: here the other node's own door.
    """
    alice, bob = await publisher(tmp_path / "alice"), Person(tmp_path / "bob")
    await alice.run("config", "set", "serve.peers", "all")
    async with alice.node() as first, bob.node("--peer", first.address) as second:
        await alice.run("serve", MODEL, "--share")
        manifest = (await alice.run("ps"))["models"][0]["manifest"]
        words = ("--as", "far", "--via-peers", "--peer", first.address, "--yes")
        served = await bob.run("serve", manifest, *words)
        assert (served["state"], served["engine"]) == ("remote", "")
        async with door(second) as client:
            answer = await ask(client, question() | {"model": "far"})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-served-by"] == first.peer
            assert answer.json()["model"] == "far"
            url = f"{first.status['http']}/v1"
            elsewhere = ("--as", "up", "--upstream", url, "--upstream-model", MODEL)
            served = await bob.run("serve", manifest, *elsewhere)
            assert (served["state"], served["engine"]) == ("ready", url)
            answer = await ask(client, question() | {"model": "up"})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-model-digest"] == manifest
            body = question(stream=True) | {"model": "up"}
            streamed = await client.post("/v1/chat/completions", json=body)
            assert '"model":"up"' in streamed.text
            assert streamed.text.endswith("data: [DONE]\n\n")
            await bob.run("stop", "up")
        [release] = (await bob.run("ls"))["releases"]
        assert not release["complete"]
        assert engines(second) == []
