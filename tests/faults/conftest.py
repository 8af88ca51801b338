"""What the tests of cut power share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder where syncing costs nothing: these tests bring their own disk."""
    place = Path("/dev/shm")
    if not place.is_dir():
        yield tmp_path
        return
    folder = place / f"allod-{tmp_path.name}-{id(tmp_path)}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)
