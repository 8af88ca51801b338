"""Models served by real nodes, with a real engine: what is promised when things go wrong."""

import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest
import trio

from tests.network.models import (
    MODEL,
    ask,
    door,
    engines,
    events,
    gguf_folder,
    hang_up,
    publisher,
    question,
)
from tests.network.people import Person

HANG = 60  # seconds; only stops a hang


async def test_serve_answers_and_names_the_digest(tmp_path: Path) -> None:
    """One command gives an endpoint; every answer names the release; stop ends the engine."""
    alice = await publisher(tmp_path / "alice")
    async with alice.node("--offline") as node, door(node) as client:
        served = await alice.run("serve", MODEL, "--context", "512")
        assert (served["state"], served["engine"], served["context"]) == ("ready", "xllamacpp", 512)
        answer = await ask(client)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model-digest"] == served["manifest"]
        assert answer.headers["x-model-publisher"] == served["publisher"]
        assert answer.headers["x-served-by"] == node.peer
        value = answer.json()
        assert value["model"] == MODEL
        assert value["usage"]["completion_tokens"] <= 8
        for other in (served["manifest"], f"{served['publisher']}/smol", "alice/smol@1"):
            same = await ask(client, question() | {"model": other})
            assert same.headers["x-model-digest"] == served["manifest"], same.text
        [shown] = (await alice.run("ps"))["models"]
        assert (shown["state"], shown["busy"], shown["slots"]) == ("ready", 0, 2)
        used = (await alice.run("usage"))["usage"]
        assert sum(one["requests"] for one in used) == 4
        [engine] = engines(node)
        await alice.run("stop", MODEL)
        assert not engine.is_running()
        gone = await ask(client)
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "model_not_found"


async def test_an_engine_that_dies_is_an_error_and_starts_again(tmp_path: Path) -> None:
    """SIGKILL in the middle of a stream: the client hears of it, and the next request works."""
    alice = await publisher(tmp_path / "alice")
    async with alice.node("--offline") as node, door(node) as client:
        await alice.run("serve", MODEL)
        body = question("Tell a long story.", tokens=2000, stream=True)
        seen = []
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for event in events(response):
                seen.append(event)
                if len(seen) == 3:
                    engines(node)[0].kill()
        assert seen[-1]["error"]["code"] == "engine_error", seen[-1]
        assert {"done": True} not in seen
        answer = await ask(client)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]


async def test_no_engine_outlives_its_node(tmp_path: Path) -> None:
    """Neither when the node is stopped nor when it is killed."""
    alice = await publisher(tmp_path / "alice")
    for end in (signal.SIGTERM, signal.SIGKILL):
        async with alice.node("--offline") as node:
            await alice.run("serve", MODEL)
            running = engines(node)
            assert len(running) == 1
            os.kill(node.running.process.pid, end)
            await node.running.ended()
            await trio.to_thread.run_sync(lambda: psutil.wait_procs(running, HANG))  # noqa: B023
            assert not [one for one in running if one.is_running()]


@pytest.mark.long
async def test_what_was_served_is_served_again(tmp_path: Path) -> None:
    """A new node serves what the last one did, and loads it when somebody asks."""
    alice = await publisher(tmp_path / "alice")
    async with alice.node("--offline"):
        await alice.run("serve", MODEL, "--as", "tiny", "--lazy", "--slots", "3")
    async with alice.node("--offline") as node, door(node) as client:
        [shown] = (await alice.run("ps"))["models"]
        assert (shown["model"], shown["state"], shown["slots"]) == ("tiny", "cold", 3)
        assert engines(node) == []
        answer = await ask(client, question() | {"model": "tiny"})
        assert answer.status_code == 200
        assert answer.json()["model"] == "tiny"
        await alice.refused("rm", MODEL, code=2)
    await alice.run("rm", MODEL)
    async with alice.node("--offline") as node:
        found = await alice.run("ps")
        assert (found["models"], [one["model"] for one in found["lost"]]) == ([], ["tiny"])
        assert any("is not served now" in line for line in node.running.logged)
        await alice.run("stop", "tiny")
        assert (await alice.run("ps"))["lost"] == []


async def test_fifty_clients_on_two_slots(tmp_path: Path) -> None:
    """All are answered or told when to come again; none hangs, and no slot is lost."""
    alice = await publisher(tmp_path / "alice", queue="8")
    async with alice.node("--offline") as node, door(node) as client:
        await alice.run("serve", MODEL, "--slots", "2")
        answers: list[httpx.Response] = []

        async def one() -> None:
            answers.append(await ask(client, question(tokens=4)))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}
        assert codes.count(200) >= 10
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert isinstance(answer.json()["error"]["code"], str)
        [shown] = (await alice.run("ps"))["models"]
        assert (shown["busy"], shown["waiting"]) == (0, 0)
        assert (await ask(client)).status_code == 200


async def test_who_hangs_up_frees_the_slot(tmp_path: Path) -> None:
    """With one slot: a client leaves in the middle of a stream, and the next is answered."""
    alice = await publisher(tmp_path / "alice")
    async with alice.node("--offline") as node, door(node) as client:
        await alice.run("serve", MODEL, "--slots", "1")
        for _ in range(3):
            await hang_up(node, question("Tell a long story.", tokens=3000, stream=True))
        with trio.fail_after(HANG):
            assert (await ask(client)).status_code == 200
        [shown] = (await alice.run("ps"))["models"]
        assert shown["busy"] == 0


@pytest.mark.long
async def test_models_share_the_memory_that_there_is(tmp_path: Path) -> None:
    """The one that was used longest ago goes for another; what can never fit is refused."""
    alice = await publisher(tmp_path / "alice", memory="400MiB")
    async with alice.node("--offline") as node, door(node) as client:
        await alice.run("serve", MODEL, "--as", "one", "--context", "1024")
        await alice.run("serve", MODEL, "--as", "two", "--context", "1024", "--lazy")
        refused = await alice.refused("serve", MODEL, "--as", "big", "--context", "8192", code=8)
        assert refused["code"] == "NO_MEMORY"
        assert "MiB" in refused["message"]
        assert len(engines(node)) == 1
        both = {one["model"]: one for one in (await alice.run("ps"))["models"]}
        assert both["one"]["state"] == "ready"
        assert both["one"]["memory"] > 200 << 20, "there is room for one only"
        answer = await ask(client, question() | {"model": "two"})
        assert answer.status_code == 200
        after = {one["model"]: one["state"] for one in (await alice.run("ps"))["models"]}
        assert (after["one"], after["two"]) == ("cold", "ready")
        assert len(engines(node)) == 1


@pytest.mark.long
async def test_an_idle_model_is_unloaded(tmp_path: Path) -> None:
    """After serve.idle without a request its engine ends, and the next request loads it."""
    alice = await publisher(tmp_path / "alice", idle="1s")
    async with alice.node("--offline") as node, door(node) as client:
        await alice.run("serve", MODEL)
        [engine] = engines(node)
        await trio.to_thread.run_sync(lambda: engine.wait(HANG))
        assert (await ask(client)).status_code == 200


async def test_changed_bytes_reach_no_engine(tmp_path: Path) -> None:
    """A file that was changed on disk is refused with the place, and repaired by a fetch."""
    source = gguf_folder(tmp_path / "source", copy=True)
    alice = await publisher(tmp_path / "alice", folder=source)
    async with alice.node("--offline") as node:
        await alice.run("serve", MODEL)
        await alice.run("stop", MODEL)
        file = source / "smol.gguf"
        file.chmod(0o644)
        with file.open("r+b") as stream:
            stream.seek(50_000_000)
            byte = stream.read(1)
            stream.seek(50_000_000)
            stream.write(bytes([byte[0] ^ 1]))
        error = await alice.refused("serve", MODEL, code=4)
        assert error["code"] == "VERIFICATION_FAILED"
        assert "smol.gguf" in error["message"]
        assert engines(node) == []


async def test_the_policy_stops_an_engine(tmp_path: Path) -> None:
    """A release that is denied while it is served is served no longer."""
    alice = await publisher(tmp_path / "alice")
    async with alice.node("--offline") as node, door(node) as client:
        served = await alice.run("serve", MODEL)
        [engine] = engines(node)
        await alice.run("trust", "deny", served["manifest"], "--reason", "it was poisoned")
        await trio.to_thread.run_sync(lambda: engine.wait(HANG))
        answer = await ask(client)
        assert answer.status_code == 403
        assert "poisoned" in answer.json()["error"]["message"]
        error = await alice.refused("serve", MODEL, code=5)
        assert error["code"] == "REFUSED"


async def test_run_asks_in_the_terminal(tmp_path: Path) -> None:
    """A prompt gives an answer, with or without a node; --json says who gave it."""
    alice = await publisher(tmp_path / "alice")
    knobs = ("--max-tokens", "8", "--temperature", "0")
    alone = await alice.run("run", MODEL, "What is the capital of France?", *knobs)
    assert alone["answer"]
    assert alone["usage"]["completion_tokens"] <= 8
    async with alice.node("--offline") as node:
        again = await alice.run("run", MODEL, "What is the capital of France?", *knobs)
        assert again["answer"] == alone["answer"]
        assert (again["manifest"], again["served_by"]) == (alone["manifest"], node.peer)


@pytest.mark.long
async def test_a_model_that_is_not_here_is_fetched_first(tmp_path: Path) -> None:
    """`allod serve` on a link does all of it: fetch, verify, load."""
    alice, bob = await publisher(tmp_path / "alice"), Person(tmp_path / "bob")
    async with alice.node() as node, bob.node() as here, door(here) as client:
        manifest = (await alice.run("ls"))["releases"][0]["manifest"]
        served = await bob.run("serve", manifest, "--as", "smol", "--peer", node.address, "--yes")
        assert (served["model"], served["state"]) == ("smol", "ready")
        answer = await ask(client, question() | {"model": "smol"})
        assert answer.headers["x-model-digest"] == manifest
