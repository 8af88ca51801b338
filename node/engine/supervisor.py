"""One engine, from its start to its end: a process under a keeper, watched by tasks of one nursery.

``open_engine`` starts it and returns once it answers; leaving the block ends it, with everything
that it started. If it dies meanwhile, ``ended`` is set and ``last_words`` say why.
What it prints before it is ready is kept in memory, a bounded piece of it, and shown where it did
not start. What it prints afterwards is thrown away: an engine may print what people asked, and an
error is read by others, and logged.
"""

import hashlib
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from subprocess import PIPE
from typing import Final

import trio

from node.engine.engines import Engine, Launch, Plan
from node.engine.keeper import NOT_CONFINED, PATIENCE
from p2p.errors import AllodError, EngineError
from p2p.http.client import HttpClient

KEPT_LINES: Final = 40
"""Lines of an engine's output that are kept."""
MAX_LINE: Final = 400
"""Characters of one of them."""
ASK_EVERY: Final = 0.1
"""Seconds between two questions whether an engine that does not say so is ready."""
MAX_HEALTH: Final = 4096
"""Bytes of an answer to that question: a word or two."""
HEALTH_WITHIN: Final = 5.0
"""Seconds for the whole of it, after which it is asked anew."""
STOP_WITHIN: Final = PATIENCE + 3.0
"""Seconds after which a keeper that does not end is killed; the kernel then kills its engine."""
_TELLING: Final = (" e ", "error", "fail", "assert", "terminate", "invalid", "cannot", "bad_alloc")
"""What the lines have in which programs say what went wrong."""


class RunningEngine:
    """An engine that answers on ``socket``."""

    def __init__(self, engine: Engine, plan: Plan, launch: Launch) -> None:
        self.engine = engine
        self.plan = plan
        self.model_field = launch.model_field
        self.says_done = launch.says_done
        self.socket = plan.socket
        self.pid = 0
        """Of the keeper; the engine is its child."""
        self.code: int | None = None
        self.ended = trio.Event()
        self._ready = trio.Event()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)

    @property
    def was_ready(self) -> bool:
        """Whether it ever answered, and so may know what people asked."""
        return self._ready.is_set()

    @property
    def last_words(self) -> str:
        """What most likely went wrong: the line that says so, or what killed it.

        Of an engine that was ready, only how it ended, and nothing that it said.
        """
        if self.was_ready:
            return self._end()
        lines = [line.strip() for line in self._lines if line.strip()]
        telling = [line for line in lines if any(word in line.lower() for word in _TELLING)]
        if telling:
            return telling[-1]
        if self.code is not None and self.code > 128:
            return self._end()
        return lines[-1] if lines else "it said nothing"

    def _end(self) -> str:
        if self.code is None:
            return "it runs no more"
        if self.code > 128:
            with suppress(ValueError):
                return f"it was ended by {signal.Signals(self.code - 128).name}"
        return f"it ended with exit code {self.code}"

    def failure(self, what: str) -> EngineError:
        """Say in one sentence that the engine failed, and with which of its last words."""
        known = self.code is None or self.was_ready
        code = "" if known else f" (exit code {self.code})"
        return EngineError(
            f"{self.engine.name} {what} {self.plan.name}{code}: {self.last_words}.",
            next="The next request starts it again.",
        )

    async def _read_output(self, stream: trio.abc.ReceiveStream) -> None:
        rest = b""
        async with stream:
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                rest = rest[-MAX_LINE:]
                for line in () if self.was_ready else lines:
                    text = line[:MAX_LINE].decode(errors="replace")
                    # Its words come to terminals and logs: no escapes.
                    self._lines.append("".join(c if c.isprintable() else " " for c in text))

    async def _read_ready(self, stream: trio.abc.ReceiveStream) -> None:
        seen = b""
        async with stream:
            async for data in stream:
                seen = (seen + data)[-MAX_LINE:]
                if b"ready\n" in seen:
                    self._ready.set()

    async def _ask_ready(self) -> None:
        while True:
            # Whatever it is that goes wrong: the engine is not there yet.
            with trio.move_on_after(HEALTH_WITHIN), suppress(AllodError, OSError):
                async with HttpClient(await trio.open_unix_socket(str(self.socket))) as client:
                    if (await client.get("/health", limit=MAX_HEALTH))[0] == 200:
                        self._ready.set()
                        return
            await trio.sleep(ASK_EVERY)  # a foreign program has no other way to tell

    async def wait_ready(self, within: float) -> None:
        """Wait until it answers; ``EngineError`` if it ends before that, or takes too long."""
        with trio.move_on_after(within) as patience:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await self.ended.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                await self._ready.wait()
                nursery.cancel_scope.cancel()
        if self.ended.is_set():
            raise self.failure("could not load")
        if patience.cancelled_caught:
            raise EngineError(
                f"{self.engine.name} was to have {self.plan.name} ready within {within:g} s, and "
                "was not: it was stopped.",
                next="A large model on a slow disk takes longer: serve.start_within.",
            )


@asynccontextmanager
async def open_engine(
    engine: Engine, plan: Plan, *, start_within: float
) -> AsyncIterator[RunningEngine]:
    """Start an engine; the block runs once it answers. ``EngineError`` if it does not."""
    launch = engine.launch(plan)
    running = RunningEngine(engine, plan, launch)
    words = {
        "argv": list(launch.argv),
        "env": {
            "PATH": os.defpath,
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            **launch.variables,
        },
        "cwd": "/",
        "rules": asdict(launch.rules),
    }
    try:
        # In a group of its own: Ctrl-C in the node's terminal is for the node.
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-m", "node.engine.keeper", json.dumps(words)],
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env={"PATH": os.defpath}, start_new_session=True,
        )  # fmt: skip
    except OSError as exc:
        raise EngineError(f"No process could be started for {plan.name}: {exc.strerror}.") from exc
    assert process.stdout is not None
    assert process.stderr is not None
    running.pid = process.pid
    reading = trio.Event()

    async def watch() -> None:
        """Note the end, once everything that it printed has been read."""
        running.code = await process.wait()
        with trio.move_on_after(1):
            await reading.wait()
        running.ended.set()

    async def read(stream: trio.abc.ReceiveStream) -> None:
        await running._read_output(stream)
        reading.set()

    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(watch)
            nursery.start_soon(read, process.stderr)
            nursery.start_soon(running._read_ready, process.stdout)
            if launch.ready == "health":
                nursery.start_soon(running._ask_ready)
            await running.wait_ready(start_within)
            yield running
        finally:
            with trio.CancelScope(shield=True):
                await _stop(process)
            nursery.cancel_scope.cancel()


async def _stop(process: trio.Process) -> None:
    if process.stdin is not None:
        await process.stdin.aclose()  # the keeper ends the engine when this ends
    with trio.move_on_after(STOP_WITHIN):
        await process.wait()
        return
    process.kill()
    await process.wait()


@asynccontextmanager
async def run_folder(parent: Path) -> AsyncIterator[Path]:
    """Make a private folder for one run of an engine, and take it away afterwards.

    Its path is short: a Unix socket's has 108 bytes at most. Where ``parent`` is too long for it,
    the folder lies among the system's temporary files. ``EngineError`` if it can't be made.
    """
    folder = await trio.to_thread.run_sync(lambda: _make(parent))
    try:
        yield folder
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: _remove(folder, parent))


def _remove(folder: Path, parent: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent != parent:
        with suppress(OSError):  # another run goes on there
            folder.parent.rmdir()


async def clean_runs(parent: Path) -> None:
    """Take away what runs of this ``parent`` left: to be called while none goes on.

    A node that was killed had no time to do it. ``EngineError`` as ``run_folder`` has it.
    """
    await trio.to_thread.run_sync(lambda: _clean(parent))


MAX_SOCKET_PATH: Final = 100


def _make(parent: Path) -> Path:
    try:
        place = _place(parent)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Path(tempfile.mkdtemp(prefix="", dir=place))
    except OSError as exc:
        raise EngineError(
            f"An engine needs a folder below {parent}, which could not be made: {exc.strerror}."
        ) from exc


def _clean(parent: Path) -> None:
    place = _place(parent)
    for folder in place.iterdir() if place.is_dir() and not place.is_symlink() else ():
        shutil.rmtree(folder, ignore_errors=True)  # it follows no symbolic link


def _place(parent: Path) -> Path:
    """Where the runs of a parent lie: there, or in a short place that is always the same."""
    if len(os.fsencode(parent)) + len("/12345678/engine.sock") <= MAX_SOCKET_PATH:
        return parent
    shared = _short_folder() / f"allod-{os.getuid()}"
    with suppress(FileExistsError):
        shared.mkdir(mode=0o700)
    # Anybody may make a folder of this name before us, or a link.
    found = shared.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EngineError(
            f"{shared} should be a folder of this user's that nobody else may enter, and is not.",
            next="Remove it, or give the node a folder with a shorter path.",
        )
    return shared / hashlib.sha256(os.fsencode(parent.absolute())).hexdigest()[:16]


def _short_folder() -> Path:
    """A folder for temporary files whose path leaves room for a socket's."""
    rest = len(f"/allod-{os.getuid()}/0123456789abcdef/12345678/engine.sock")
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(os.fsencode(folder)) + rest <= MAX_SOCKET_PATH and os.access(folder, os.W_OK):
            return Path(folder)
    raise EngineError(
        "An engine's socket needs a folder with a short path, and none was found.",
        next="Set TMPDIR to a folder with a path of at most 40 characters.",
    )


__all__ = ["NOT_CONFINED", "RunningEngine", "clean_runs", "open_engine", "run_folder"]
