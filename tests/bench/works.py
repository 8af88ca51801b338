"""What is moved: folders of random bytes, made once for a run.

Random bytes, so that nobody gains by compressing; written and read once, so that they lie in the
page cache and no disk is measured.
"""

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
SMALL_FILE = 100_000  # bytes: a tokenizer, a card, a configuration
TINY_FILE = 20_000  # bytes: a picture, a text, one sample of a data set


@dataclass(frozen=True, slots=True)
class Work:
    """A folder to be fetched."""

    name: str
    folder: Path
    size: int


def make_f1g(folder: Path, mib: int) -> Work:
    """One file: 1 GiB where ``mib`` is 1024."""
    _write(folder / "model.bin", mib * MIB)
    return Work("f1g", folder, mib * MIB)


def make_modeldir(folder: Path, mib: int) -> Work:
    """A large file and many small ones: 512 MiB and 200 of 100 KB where ``mib`` is 1024."""
    large, count = mib * MIB // 2, max(2, 200 * mib // 1024)
    _write(folder / "model.bin", large)
    for number in range(count):
        _write(folder / f"part-{number // 50}" / f"{number:03}.json", SMALL_FILE)
    return Work("modeldir", folder, large + count * SMALL_FILE)


def make_many(folder: Path, mib: int) -> Work:
    """Small files alone, 20 KB each: 1024 where ``mib`` is 1024."""
    for number in range(mib):
        _write(folder / f"part-{number // 100}" / f"{number:04}.json", TINY_FILE)
    return Work("many", folder, mib * TINY_FILE)


def _write(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        size -= stream.write(b"{")  # whose first bytes are random may look like a pickle
        while size:
            size -= stream.write(os.urandom(min(size, 8 * MIB)))
        os.fsync(stream.fileno())  # else its way to the disk would fall into somebody's turn


def folder_size(folder: Path) -> int:
    """Bytes of all the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
