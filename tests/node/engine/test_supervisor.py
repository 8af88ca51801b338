"""One engine from its start to its end, played by small programs."""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from node.engine.confine import QUIET_DEVICES, Confinement, usual_places
from node.engine.engines import Launch
from node.engine.supervisor import (
    MAX_HEALTH,
    MAX_SOCKET_PATH,
    RunningEngine,
    clean_runs,
    open_engine,
    run_folder,
)
from p2p.errors import EngineError, culprit

HANG = 60.0  # seconds; only stops a hang
SECRET = "error: the prompt was: my password"
SERVE = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind({path!r})
listener.listen()
while True:
    client, _ = listener.accept()
    client.recv(65536)
    {answer}
    client.close()
"""


class Played:
    """An engine that is a piece of Python."""

    name = "played"

    def __init__(self, code: str, ready: Any, writable: Sequence[str] = ()) -> None:
        rules = Confinement(None, write=0, readable=usual_places(), writable=tuple(writable),
                            devices=QUIET_DEVICES)  # fmt: skip
        self._launch = Launch([sys.executable, "-I", "-c", code], rules, ready=ready)

    def launch(self, plan: Any) -> Launch:
        """What it was made of."""
        return self._launch


def opened(code: str, folder: Path, ready: str = "line", within: float = HANG) -> Any:
    """The engine, as ``open_engine`` opens it."""
    engine: Any = Played(code, ready, [str(folder)])
    plan: Any = SimpleNamespace(name="m", socket=folder / "engine.sock", folder=folder)
    return open_engine(engine, plan, start_within=within)


async def ended(running: RunningEngine) -> str:
    """What is said of an engine that ended."""
    with trio.fail_after(HANG):
        await running.ended.wait()
    return running.failure("ended while it ran").message


@pytest.mark.parametrize(
    ("how", "said"),
    [("sys.exit(7)", "exit code 7"), ("os.kill(os.getpid(), 9)", "SIGKILL")],
)
async def test_what_it_says_once_it_is_ready_is_told_to_nobody(
    tmp_path: Path, how: str, said: str
) -> None:
    """An error then has how it ended, and no word of what people asked."""
    go = tmp_path / "go"
    code = "import os, sys, time; print('ready', flush=True)\n"
    code += f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    code += f"print({SECRET!r}, file=sys.stderr, flush=True); {how}"
    async with opened(code, tmp_path) as running:
        assert running.was_ready
        go.touch()
        message = await ended(running)
        assert said in message
        assert "password" not in message
        assert "password" not in running.last_words
        assert not any("password" in line for line in running._lines)


async def test_why_it_could_not_load_is_told_in_its_own_words(tmp_path: Path) -> None:
    """Before it is ready it knows nothing but the model; escapes of terminals are taken out."""
    code = "import sys; print('error: bad \\x1b[2Jtensor', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ExceptionGroup) as caught:
        async with opened(code, tmp_path):
            pass
    message = str(culprit(caught.value))
    assert "error: bad  [2Jtensor" in message
    assert "exit code 3" in message


async def test_health_is_asked_until_it_is_well(tmp_path: Path) -> None:
    """An engine that is loading says so with an error, and is asked again."""
    answer = (
        "state = globals().get('state', 0) + 1; "
        "client.sendall(b'HTTP/1.1 %d x\\r\\ncontent-length: 2\\r\\n\\r\\nok' "
        "% (503 if state < 3 else 200))"
    )
    code = SERVE.format(path=str(tmp_path / "engine.sock"), answer=answer)
    async with opened(code, tmp_path, "health", HANG) as running:
        assert running.was_ready


@pytest.mark.parametrize("declared", ["", "content-length: 1000000000\r\n"])
async def test_health_without_end_is_not_read(tmp_path: Path, declared: str) -> None:
    """Of a body larger than any honest one, little is taken, and it is no sign of health."""
    plan: Any = SimpleNamespace(name="m", socket=tmp_path / "engine.sock")
    engine: Any = Played("", "health")
    running = RunningEngine(engine, plan, Launch([], Confinement(None)))
    sent = 0
    with trio.fail_after(HANG), trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(plan.socket))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running._ask_ready)
            client, _ = await listener.accept()
            with client, suppress(BrokenPipeError, ConnectionResetError):  # it hangs up
                await client.recv(65536)
                await client.send(f"HTTP/1.1 200 OK\r\n{declared}\r\n".encode())
                while True:
                    sent += await client.send(bytes(MAX_HEALTH))
            nursery.cancel_scope.cancel()
    assert not running.was_ready
    assert sent < 8 << 20  # what the kernel's buffers hold, not what we do


async def test_what_killed_runs_left_is_cleaned(tmp_path: Path) -> None:
    """A node's folders of runs are gone when it starts again; others' are not touched."""
    async with run_folder(tmp_path / "runs") as left:
        (left / "engine.sock").touch()
        outside = tmp_path / "outside"
        outside.mkdir()
        (tmp_path / "runs" / "link").symlink_to(outside)
        await clean_runs(tmp_path / "runs")
        assert not left.exists()
        assert outside.is_dir()
    await clean_runs(tmp_path / "none")


async def test_a_long_path_has_a_short_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes with long paths share nothing, and clean what is theirs only."""
    with tempfile.TemporaryDirectory(prefix="t") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        mine, theirs = tmp_path / ("m" * 100), tmp_path / ("t" * 100)
        async with run_folder(mine) as one, run_folder(theirs) as other:
            for folder in (one, other):
                assert len(str(folder / "engine.sock")) <= MAX_SOCKET_PATH
                assert folder.is_relative_to(short)
            assert one.parent != other.parent
            await clean_runs(mine)
            assert not one.exists()
            assert other.exists()


@pytest.mark.parametrize("kind", ["open", "link"])
async def test_a_short_place_that_others_may_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Who made a folder of that name first, or a link, gets no socket of ours."""
    with tempfile.TemporaryDirectory(prefix="t") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        shared = Path(short) / f"allod-{os.getuid()}"
        if kind == "open":
            shared.mkdir()
            shared.chmod(0o777)
        else:
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            shared.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(EngineError, match="nobody else may enter"):
            async with run_folder(tmp_path / ("m" * 100)):
                pass
