"""What the store's tests share: a store, and two disks where the machine has them."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from node.store import Store, open_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "store"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[Store]:
    """An open store without a quota."""
    async with open_store(folder, quota=None, reserve=0) as opened:
        yield opened


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the store's."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or os.stat(memory).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs two file systems")
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)
