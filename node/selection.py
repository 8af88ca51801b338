"""Which part of a release a fetch is about: paths by pattern, tensors by name.

Patterns are those of the shell and of ``hf``: ``*`` also crosses ``/``, a trailing ``/`` means
everything below.
Pure, but for the reading of a tensor file's header, which the caller passes in.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from p2p.errors import NotFound
from p2p.manifest import FileEntry


def select_files(
    files: Iterable[FileEntry], include: Sequence[str], exclude: Sequence[str]
) -> tuple[FileEntry, ...]:
    """Return the files that any ``include`` names (none: all) and no ``exclude``.

    NotFound when nothing is left.
    """
    files = tuple(files)
    chosen = tuple(
        entry
        for entry in files
        if (not include or _named(entry.path, include)) and not _named(entry.path, exclude)
    )
    if files and not chosen:
        paths = ", ".join(entry.path for entry in files[:6]) + (", ..." if len(files) > 6 else "")
        raise NotFound(
            f"None of the {len(files)} files matches the patterns.", next=f"It has: {paths}."
        )
    return chosen


def select_names(names: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the tensor names that match any pattern, in the order of ``names``."""
    return tuple(name for name in names if _named(name, patterns))


def _named(name: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatchcase(name, pattern + "*" if pattern.endswith("/") else pattern)
        for pattern in patterns
    )
