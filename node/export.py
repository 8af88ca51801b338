"""Putting a release's files into a folder of the user's choice, without a second copy if possible.

A file is shared by reflink where the file system can, else by hard link, else copied.
Each appears whole or not at all, and one that is there already with the same bytes is left alone.
The publisher chooses the paths and the user's folder may hold symbolic links: none is followed.
"""

import os
import shutil
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path

from node.store import durable
from p2p.errors import UsageError


async def export_files(view: Path, target: Path, paths: Sequence[str]) -> Path:
    """Give ``target`` the files ``paths`` of the folder ``view``; returns ``target``.

    A file of the same name is replaced; other files stay. UsageError where a path would lead out
    of ``target``; DiskFull, ReadOnly or StoreError.
    """

    def work() -> None:
        for path in paths:
            source, place = view / path, make_place(target, path)
            if place.exists() and place.samefile(source):
                continue
            new = beside(place)
            durable.unlink(new)
            try:
                _share(source, new)
                durable.rename(new, place)
            finally:
                durable.unlink(new)

    await durable.on_disk(f"put the files into {target}", work)
    return target


def make_place(target: Path, path: str) -> Path:
    """Make the folders in which a release's file is to lie in ``target``; returns its place.

    UsageError when one of them is a symbolic link, which may lead anywhere, or a file.
    """
    target.mkdir(parents=True, exist_ok=True)
    place = target
    *folders, name = path.split("/")
    for folder in folders:
        place /= folder
        durable.make_folder(place)
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            raise UsageError(
                f"The release has a folder where {place} is a link or a file, and no link is "
                "followed out of the folder that was named.",
                next="Choose another --local-dir, or move that away.",
            )
    return place / name


def beside(place: Path) -> Path:
    """A name for the file until it is whole: in the same folder, and short whatever the file's."""
    return place.with_name(f".allod-{os.getpid()}-{zlib.crc32(os.fsencode(place.name)):08x}")


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
