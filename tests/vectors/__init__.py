"""Golden vectors: what implementations that we did not write say, to be checked without them.

unixfs-v1-2025.json  CIDs of files and directories by the JavaScript ipfs-unixfs-importer; written
                     anew by ``python -m tests.compat.unixfs_importer``. A file is given by its size
                     (its bytes are ``content(size)``), a directory by its paths (each file's bytes
                     are its path).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

UNIXFS: Final = Path(__file__).parent / "unixfs-v1-2025.json"

_MIB: Final = 1 << 20
_BASE: Final = bytes((i * 31 + (i >> 8)) & 255 for i in range(_MIB))


def unixfs() -> dict[str, Any]:
    """Read the vectors of the unixfs-v1-2025 profile."""
    return dict(json.loads(UNIXFS.read_text()))


def content(size: int) -> Iterator[bytes]:
    """Make the bytes of a file of ``size`` bytes, 1 MiB at a time, no two MiB alike."""
    for index in range(-(-size // _MIB)):
        block = _BASE[: min(_MIB, size - index * _MIB)]
        yield (index.to_bytes(8, "little") + block[8:])[: len(block)]


def paths(case: dict[str, Any]) -> list[str]:
    """Give the paths of a directory of the vectors: a pattern, how often, and a list besides."""
    pattern, count = case.get("pattern", ""), case.get("count", 0)
    return [*(pattern.replace("{}", str(index)) for index in range(count)), *case.get("paths", [])]
