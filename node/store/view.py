"""The folder in which an engine finds a release: every file under its own path, as a hard link.

It can be made again at any time, so nothing here waits for the disk.
A link is replaced when it is not the file that the store holds: after a repair, or when somebody
put another file there.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from node.store import durable
from node.store.layout import temporary


def refresh(folder: Path, files: Mapping[str, Path], temp: Path) -> None:
    """Make ``folder`` hold exactly ``files``: relative path -> the file that it names.

    ``temp``: a folder on the same file system.
    """
    parents = {""}
    for path in files:
        while path := os.path.dirname(path):
            if path in parents:
                break
            parents.add(path)
    _remove_others(str(folder), files, parents)
    for parent in sorted(parents):
        durable.make_folder(folder / parent)
    for path, blob in files.items():
        _name(f"{folder}/{path}", blob, temp)


def _remove_others(folder: str, files: Mapping[str, Path], parents: set[str]) -> None:
    """Delete what the release doesn't have, deepest first."""
    for place, folders, names in os.walk(folder, topdown=False):
        inside = place[len(folder) + 1 :]
        for name in names + folders:
            path = f"{inside}/{name}" if inside else name
            whole = f"{folder}/{path}"
            is_folder = stat.S_ISDIR(os.lstat(whole).st_mode)
            if is_folder and path not in parents:
                os.rmdir(whole)
            elif not is_folder and path not in files:
                os.unlink(whole)


def _name(path: str, blob: Path, temp: Path) -> None:
    """Make ``path`` a name of the file, whatever it is now."""
    try:
        if durable.link(blob, Path(path)):
            return
    except FileExistsError:
        if _is_same(path, blob):
            return
    _replace(path, blob, temp)


def _is_same(path: str, blob: Path) -> bool:
    with suppress(FileNotFoundError):
        # Through a symbolic link, which is what a link may have to be.
        return os.path.samestat(os.stat(path), os.stat(blob))
    return False


def _replace(path: str, blob: Path, temp: Path) -> None:
    new = temporary(temp)
    if not durable.link(blob, new):
        # ext4 allows 65,000 names for one file; a data set may have more empty ones than that.
        os.symlink(os.path.relpath(blob, os.path.dirname(path)), new)
    os.rename(new, path)
    durable.unlink(new)  # rename() of one name of a file onto another leaves both
