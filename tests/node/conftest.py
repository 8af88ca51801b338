"""What several tests of the node need: stores that close with the test."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from node.cli import main
from node.store import Store, open_store

Stores = Callable[..., Awaitable[Store]]
Said = Callable[..., tuple[int, str, str]]
"""A command line, and what came of it: exit code, stdout, stderr."""


@pytest.fixture
async def new_store(tmp_path: Path, nursery: trio.Nursery) -> Stores:
    """Open stores, each in a folder of its own; they close with the test."""
    count = 0

    async def run(folder: Path, quota: int | None, task_status: Any) -> None:
        async with open_store(folder, quota=quota, reserve=0) as store:
            task_status.started(store)
            await trio.sleep_forever()

    async def make(quota: int | None = None) -> Store:
        nonlocal count
        count += 1
        store: Store = await nursery.start(run, tmp_path / f"store-{count}", quota)
        return store

    return make


class Heard(logging.Handler):
    """Counts what was said in a log, and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._more.set()
        self._more = trio.Event()

    async def wait(self, count: int) -> None:
        while len(self.lines) < count:
            await self._more.wait()


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What the node says in its log from now on."""
    log, handler = logging.getLogger("node"), Heard()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def allod(capfd: pytest.CaptureFixture[str]) -> Said:
    """Run a command line in this process; return exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run
