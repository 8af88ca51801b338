"""The few operations on the disk that promise something, and one that promises nothing."""

import os
from pathlib import Path

from node.store import durable


def test_the_disk_may_begin_early(tmp_path: Path) -> None:
    """Telling the disk to begin changes no byte, at any place of a file or past its end."""
    fd = durable.create(tmp_path / "f")
    try:
        durable.write_at(fd, b"abc", 0)
        for offset, size in [(0, 3), (1 << 40, 1 << 24)]:
            durable.begin_write_back(fd, offset, size)
        durable.sync_file(fd)
    finally:
        os.close(fd)
    assert (tmp_path / "f").read_bytes() == b"abc"
