"""Releases made to harm whoever serves them: each ends in a clear error, and the node goes on."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from tests.network.models import ask, door, engines, hang_up, question
from tests.network.people import Person
from tests.node.engine.ggufs import gguf
from tests.node.engine.tiny import make_tiny

HANG = 60  # seconds; only stops a hang
ENDLESS = "{% for a in range(9999) %}" * 5 + "{% endfor %}" * 5
DOUBLING = (
    "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}"
    "{% for a in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
)
PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
LATER = "{% if messages[-1]['content'] == 'bomb' %}" + ENDLESS + "{% endif %}" + PLAIN
MEMORY = 1 << 30  # bytes that a machine may miss after an attack: others use it too


def llama(folder: Path, template: str) -> None:
    """A tiny model that is whole, with this template."""
    make_tiny(folder, "LlamaForCausalLM")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(settings | {"chat_template": template}))


def with_code(folder: Path) -> None:
    llama(folder, PLAIN)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    file.write_text(json.dumps(config))


def with_pickle(folder: Path) -> None:
    llama(folder, PLAIN)
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [1, 2, 3]}))


def many_tensors(folder: Path) -> None:
    data = bytearray(gguf())
    data[8:16] = (1 << 63).to_bytes(8, "little")
    (folder / "model.gguf").write_bytes(data)


def truncated(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(gguf()[:300])


def loops(folder: Path) -> None:
    llama(folder, ENDLESS + PLAIN)


def doubles(folder: Path) -> None:
    llama(folder, DOUBLING)


async def attacker(tmp_path: Path, build: Callable[[Path], None]) -> Person:
    """Somebody who has such a release; whose engines have a few seconds to start."""
    folder = tmp_path / "release"
    folder.mkdir()
    build(folder)
    alice = Person(tmp_path / "alice")
    await alice.run("config", "set", "serve.start_within", "6s")
    await alice.run("key", "new", "alice")
    words = ("--as", "alice/evil", "--kind", "model", "--license", "MIT", "--no-sha256")
    await alice.run("publish", str(folder), *words)
    return alice


@pytest.mark.parametrize(
    ("build", "code", "said"),
    [
        # What is wrong with these is found, and faster, in test_gguf.py and test_weights.py.
        pytest.param(many_tensors, 4, "tensors", marks=pytest.mark.long),
        pytest.param(truncated, 4, "GGUF", marks=pytest.mark.long),
        pytest.param(with_code, 5, "auto_map", marks=pytest.mark.long),
        (with_pickle, 5, "pickle"),
        (loops, 1, "within 6 s"),
        pytest.param(doubles, 1, "", marks=pytest.mark.long),
    ],
)
async def test_it_is_refused_and_the_node_goes_on(
    tmp_path: Path, build: Callable[[Path], None], code: int, said: str
) -> None:
    """In under the deadline, with one sentence; no engine is left, and its memory is back."""
    alice = await attacker(tmp_path, build)
    before = psutil.virtual_memory().available
    async with alice.node("--offline") as node:
        with trio.fail_after(HANG):
            error = await alice.refused("serve", "alice/evil", code=code)
        assert said in error["message"]
        assert engines(node) == []
        assert (await alice.run("status"))["peer"] == node.peer
        assert psutil.virtual_memory().available > before - MEMORY


@pytest.mark.long
async def test_a_bomb_that_goes_off_later(tmp_path: Path) -> None:
    """A template that never ends for one request alone: the engine is stopped, and starts again."""
    alice = await attacker(tmp_path, lambda folder: llama(folder, LATER))
    async with alice.node("--offline") as node, door(node) as client:
        await alice.run("serve", "alice/evil", "--slots", "1")
        model: dict[str, Any] = {"model": "alice/evil"}
        assert (await ask(client, question("hello") | model)).status_code == 200
        [engine] = engines(node)
        with trio.move_on_after(2):  # a client that has enough
            await hang_up(node, question("bomb") | model)
        await trio.to_thread.run_sync(lambda: engine.wait(HANG))
        assert (await ask(client, question("hello") | model)).status_code == 200


async def test_a_silent_engine_is_an_error(tmp_path: Path) -> None:
    """The same with a client that waits: after serve.answer_within it is told, and others go on."""
    alice = await attacker(tmp_path, lambda folder: llama(folder, LATER))
    await alice.run("config", "set", "serve.answer_within", "3s")
    async with alice.node("--offline") as node, door(node) as client:
        await alice.run("serve", "alice/evil")
        model: dict[str, Any] = {"model": "alice/evil"}
        answer = await ask(client, question("bomb") | model)
        assert answer.status_code in (502, 503, 504), answer.text
        assert answer.json()["error"]["code"] == "engine_error"
        assert (await ask(client, question("hello") | model)).status_code == 200
