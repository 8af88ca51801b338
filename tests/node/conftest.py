"""What several tests of the node need: stores that close with the test."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from node.store import Store, open_store

Stores = Callable[..., Awaitable[Store]]


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
