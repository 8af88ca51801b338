"""The client: asks the running node, says when there is none, and is cheap."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from node.client import call, unwrap
from node.config import Config, load_config
from node.messages import ConfigKeyParams, ConfigSetParams, Event, Note, Progress, RefParams
from node.presence import announce_node, card_file
from p2p.errors import AllodError, ConfigError, NoNode, NotFound
from tests.node.door import serving


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(environ={"ALLOD_HOME": str(tmp_path)})


async def ask(
    config: Config, name: str, *params: object, only_running: bool = True
) -> tuple[dict[str, object], list[Event]]:
    """Call in a thread: the client blocks, and the node of these tests runs in this one."""
    events: list[Event] = []
    run = partial(call, config, name, *params, listen=events.append, only_running=only_running)
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(run), events


async def test_the_running_node_does_it(config: Config) -> None:
    """Where a node runs its answer and its events come back."""
    async with serving(config.folders.data):
        result, events = await ask(config, "echo", RefParams("x"))
    assert result == {"ok": True, "ref": "x"}
    assert events == [Note("hello"), Progress("count", 1, 2), Note("from a thread")]


async def test_its_error_is_raised_here(config: Config) -> None:
    """An operation's error arrives as the same class, with its advice."""
    async with serving(config.folders.data):
        with pytest.raises(NotFound) as caught:
            await ask(config, "missing")
        assert caught.value.next == "Look there."
        with pytest.raises(AllodError, match="KeyError"):
            await ask(config, "broken")
        with pytest.raises(NotFound, match="no operation 'nonsense'"):
            await ask(config, "nonsense")


async def test_without_a_node_it_says_so(config: Config) -> None:
    """A command that needs a running node ends with NoNode and how to start one."""
    with pytest.raises(NoNode) as caught:
        await ask(config, "status")
    assert "allod up" in caught.value.next


async def test_a_crashed_node_counts_as_none(config: Config) -> None:
    """A card that points at a closed port, of a process that lives, is no running node."""
    async with serving(config.folders.data) as door:
        card = card_file(config.folders).read_text()
    assert str(door.port) in card
    card_file(config.folders).write_text(card)
    with pytest.raises(NoNode, match="none runs here"):
        await ask(config, "status")


async def test_another_token_is_told_apart(config: Config, tmp_path: Path) -> None:
    """A token that the node doesn't know is an error that names ALLOD_TOKEN."""
    wrong = load_config(environ={"ALLOD_HOME": str(tmp_path), "ALLOD_TOKEN": "w" * 20})
    async with serving(config.folders.data):
        with pytest.raises(NoNode) as caught:
            await ask(wrong, "echo", RefParams("x"))
    assert "ALLOD_TOKEN" in caught.value.next


@asynccontextmanager
async def answering(config: Config, answer: bytes) -> AsyncIterator[None]:
    """Another program where the node should be: it sends these bytes and closes."""

    async def handle(stream: trio.SocketStream) -> None:
        asked = b""
        while not asked.endswith(b"{}"):  # else closing would reset what was answered
            asked += await stream.receive_some(65536)
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        port = listeners[0].socket.getsockname()[1]
        with announce_node(config, http=f"http://127.0.0.1:{port}", token="t"):
            yield
        nursery.cancel_scope.cancel()
    await listeners[0].aclose()


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "went away"),
        (STREAM, "went away"),
        (STREAM + b'{"note":{"text":"x"}}\n', "went away"),
        (STREAM + b'{"note":{"te', "no JSON"),
        (STREAM + b'{"result":5}\n', "result is a JSON object"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "went away"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>", "Another program"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\noops!", "Another program"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 12\r\n\r\n{\"error\": 5}", "Another program"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_one_sentence(
    config: Config, answer: bytes, words: str
) -> None:
    """A node that dies, and a program that is none, are told in a sentence each."""
    async with answering(config, answer):
        with pytest.raises(AllodError, match=words):
            await ask(config, "status")


async def test_heartbeats_and_news_from_a_newer_node_are_passed_over(config: Config) -> None:
    """Blank lines and unknown messages don't disturb."""
    answer = STREAM + b'\n{"poem":{}}\n\n{"result":{"ok":true,"new":1}}\n'
    async with answering(config, answer):
        assert (await ask(config, "status"))[0] == {"ok": True, "new": 1}


def test_what_needs_no_node_runs_here_silently(config: Config) -> None:
    """Configuration is read and written in this process, without a word about nodes."""
    events: list[Event] = []
    call(config, "config.set", ConfigSetParams("p2p.port", ("0",)), listen=events.append)
    found = call(config, "config.get", ConfigKeyParams("p2p.port"), listen=events.append)
    assert (found["ok"], found["key"], events) == (True, "p2p.port", [])
    assert "port = 0" in config.folders.config_file.read_text()
    with pytest.raises(ConfigError):
        call(config, "config.get", ConfigKeyParams("nonsense"))


async def test_ctrl_c_cancels_in_the_node(config: Config) -> None:
    """Ctrl-C in a command ends it with 130, and cancels its operation in the node."""
    script = (
        "import sys\n"
        "from node.client import call\n"
        "from node.config import load_config\n"
        "try:\n"
        "    call(load_config(), 'wait', listen=lambda event: None)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    environ = dict(os.environ, ALLOD_HOME=str(config.folders.data))
    async with serving(config.folders.data) as door, trio.open_nursery() as nursery:
        child = await nursery.start(
            partial(trio.run_process, [sys.executable, "-c", script], env=environ, check=False)
        )
        with trio.fail_after(60):
            await door.story.started.wait()
            child.send_signal(2)
            await door.story.cancelled.wait()
            assert await child.wait() == 130


def test_one_error_comes_out_of_a_nursery() -> None:
    """Of a group Ctrl-C comes first, then a bug as it is, then ours."""
    bug = KeyError("k")
    ours = NotFound("no")
    stopped = unwrap(BaseExceptionGroup("g", [KeyboardInterrupt(), bug]))
    assert isinstance(stopped, KeyboardInterrupt)
    assert unwrap(ExceptionGroup("g", [ExceptionGroup("h", [bug])])) is bug
    again = unwrap(ExceptionGroup("g", [ours]))
    assert isinstance(again, NotFound)


async def test_asking_a_running_node_imports_little(config: Config) -> None:
    """A command that asks pays for no trio, libp2p, starlette or TOML."""
    script = (
        "import json, sys\n"
        "from node.client import call\n"
        "from node.config import load_config\n"
        "from node.messages import RefParams\n"
        "call(load_config(), 'echo', RefParams('x'))\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    environ = dict(os.environ, ALLOD_HOME=str(config.folders.data))
    async with serving(config.folders.data):
        done = await trio.run_process(
            [sys.executable, "-c", script], env=environ, capture_stdout=True
        )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"trio", "libp2p", "starlette", "tomlkit", "aiosqlite", "multiformats"}
