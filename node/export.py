"""Putting a release's files into a folder of the user's choice, without a second copy if possible.

A file is shared by reflink where the file system can, else by hard link, else copied.
Each appears whole or not at all, and one that is there already with the same bytes is left alone.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from node.store import durable


async def export_files(view: Path, target: Path, paths: Sequence[str]) -> Path:
    """Give ``target`` the files ``paths`` of the folder ``view``; returns ``target``.

    A file of the same name is replaced; other files stay. DiskFull, ReadOnly or StoreError.
    """

    def work() -> None:
        target.mkdir(parents=True, exist_ok=True)
        for path in paths:
            source, place = view / path, target / path
            if place.exists() and place.samefile(source):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            new = place.with_name(f".{place.name}.allod-{os.getpid()}")
            durable.unlink(new)
            try:
                _share(source, new)
                durable.rename(new, place)
            finally:
                durable.unlink(new)

    await durable.on_disk(f"put the files into {target}", work)
    return target


def _share(source: Path, new: Path) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writing = durable.create(new)
        try:
            if durable.clone(reading, writing):
                return
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    durable.unlink(new)
    if not durable.link(source, new):
        shutil.copyfile(source, new)
