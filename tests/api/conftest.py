"""A fake door for the tests that need no node."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from allod import reading
from tests.api.fake import FakeDoor, fake_door
from tests.releases import MIB, noise

FILES = {
    "a.txt": b"one\ntwo\nthree",
    "empty.bin": b"",
    "dir/x.bin": noise(5 * MIB + 777, 1),
    "dir/sub/y.bin": noise(MIB, 2),
}


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDoor]:
    """A door with FILES, which this process finds."""
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path))
    for name in ("ALLOD_TOKEN", "ALLOD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    with fake_door(tmp_path, FILES) as found:
        yield found
    reading.close_pool()
