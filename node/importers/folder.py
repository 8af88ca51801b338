"""Walking a folder that is to be published: which files it has, and under which paths.

The walk refuses rather than guesses: a release is signed and kept by others, so a file that was
left out, or came from somewhere else, is worse than an error that names it.
Left out on purpose, at any depth, are hidden files: ``.git``, ``.cache``, ``.DS_Store``, ...

Symbolic links to files in the same folder are followed, since that is how tools avoid copies; a
link that leads out of the folder could publish what nobody meant to publish, so it is refused, and
so is a link to a folder, which could lead in circles.

Blocks for many disk accesses: call it in a worker thread. Errors are ``UsageError``.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from p2p.errors import UsageError, VerificationFailed
from p2p.manifest import MAX_FILES
from p2p.paths import MAX_DEPTH, check_path, check_paths

IGNORED: Final = (".*",)
"""Names of files and folders that are left out."""

_RENAME: Final = "Rename it, so that it can be fetched on every machine."


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to publish: its path in the release, where its bytes are, and how many."""

    path: str
    file: Path
    size: int


def walk_folder(root: Path, *, ignore: Sequence[str] = IGNORED) -> list[FoundFile]:
    """Return all files of a folder, sorted by path; a file is a folder of one.

    ``ignore``: patterns of names, of files and of folders at any depth, that are left out.
    ``UsageError`` names the first file that cannot be published, or says that there is none.
    """
    try:
        root = root.resolve(strict=True)
        if not root.is_dir():
            found = [_found(root.name, root)]
        else:
            found = []
            for file in _walk(root, root, "", ignore):
                found.append(file)
                if len(found) > MAX_FILES:
                    raise UsageError(
                        f"{root} has more than {MAX_FILES} files, the most a release can have.",
                        next="Put many small files into fewer large ones, such as tar or parquet.",
                    )
    except FileNotFoundError as exc:
        raise UsageError(f"There is no file or folder {exc.filename}.") from exc
    except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle, until Python 3.13
        raise UsageError(f"{root} cannot be read: {exc}.") from exc
    if not found:
        raise UsageError(
            f"{root} has no files to publish.",
            next=f"Files whose names are like {' or '.join(ignore)} are left out.",
        )
    found.sort(key=lambda file: file.path)
    try:
        check_paths(file.path for file in found)
    except VerificationFailed as exc:
        raise UsageError(f"{root} cannot be published: {exc}", next=_RENAME) from exc
    return found


def _walk(root: Path, folder: Path, prefix: str, ignore: Sequence[str]) -> Iterator[FoundFile]:
    """Yield what lies in a folder and below."""
    if prefix.count("/") > MAX_DEPTH:
        raise UsageError(f"{folder} is more than {MAX_DEPTH} folders deep.")
    with os.scandir(folder) as entries:
        for entry in entries:
            if any(fnmatchcase(entry.name, pattern) for pattern in ignore):
                continue
            path, file = prefix + entry.name, Path(entry.path)
            if entry.is_symlink():
                yield _found(path, _followed(root, file))
            elif entry.is_dir():
                yield from _walk(root, file, path + "/", ignore)
            else:
                yield _found(path, file)


def _found(path: str, file: Path) -> FoundFile:
    """Return one file, if it is one and may be published under this path."""
    try:
        check_path(path)
    except VerificationFailed as exc:
        raise UsageError(f"{str(file)!r} cannot be published: {exc}", next=_RENAME) from exc
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(
            f"{file} is neither a file nor a folder, but a {_kind(status.st_mode)}.",
            next="Move it out of the folder.",
        )
    if not os.access(file, os.R_OK):
        raise UsageError(f"{file} may not be read by this user.")
    return FoundFile(path, file, status.st_size)


def _followed(root: Path, link: Path) -> Path:
    """Return the file in the same folder that a link leads to."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle, until Python 3.13
        raise UsageError(
            f"The link {str(link)!r} leads nowhere.", next="Mend or remove it."
        ) from exc
    if not target.is_relative_to(root):
        raise UsageError(
            f"The link {str(link)!r} leads out of the folder, to {str(target)!r}.",
            next="Put the file itself there; `hf download --local-dir` makes no such links.",
        )
    if target.is_dir():
        raise UsageError(
            f"The link {str(link)!r} leads to a folder.",
            next="Only links to files are followed; put the folder itself there, or remove it.",
        )
    return target


def _kind(mode: int) -> str:
    """Name a kind of special file."""
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
