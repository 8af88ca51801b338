"""Which files of a repository an import takes.

The patterns say which are wanted. Of those, what the policy that everybody begins with refuses
stays out, unless it is named by its very name: a release that others cannot fetch helps nobody.
That is asked twice: of the names, before anything is downloaded, and of the bytes, since a pickle
may be called anything.

The first half knows no disk; ``look`` reads a little of each file, and blocks.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from node.hub.repository import Repository
from node.importers.folder import FoundFile
from node.importers.hub import HubFile
from node.importers.suffixes import WEIGHTS, suffix
from node.witness import OnDisk
from p2p.errors import NotFound, Refused, SourceChanged, UsageError, VerificationFailed
from p2p.manifest import Kind
from p2p.paths import check_paths
from p2p.policy import format_of
from p2p.policy.contents import look_into
from p2p.policy.evidence import Finding
from p2p.policy.model import DATASET_FORMATS, MODEL_FORMATS

NAMED: Final = 4
"""Files that a sentence names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Patterns of paths, as ``fetch`` has them; no ``include`` means all."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __contains__(self, path: str) -> bool:
        if self.include and not _matches(path, self.include):
            return False
        return not _matches(path, self.exclude)


@dataclass(frozen=True, slots=True)
class Choice:
    """Files that are taken; ``left``: paths of others that were wanted, and what they are."""

    files: tuple[HubFile, ...]
    left: Mapping[str, str]


def choose(files: Sequence[HubFile], wanted: Wanted, named: Repository) -> Choice:
    """Choose by the names; ``NotFound``, ``UsageError``, ``Refused`` if no weights are left."""
    taken: list[HubFile] = []
    left: dict[str, str] = {}
    for file in files:
        if file.path not in wanted:
            continue
        format = format_of(file.path)
        if format is None or _is_usual(format, named.kind) or file.path in wanted.include:
            taken.append(file)
        else:
            left[file.path] = format
    if not taken and not left:
        raise NotFound(
            f"None of the {len(files)} files of {named} matches the patterns.",
            next=f"It has {some([file.path for file in files])}."
            if files
            else "The repository is empty.",
        )
    try:
        check_paths(file.path for file in taken)
    except VerificationFailed as exc:
        raise UsageError(
            f"{named} cannot be imported: {exc.message}", next="Leave that out with --exclude."
        ) from exc
    return _good(Choice(tuple(taken), left), named)


def look(
    choice: Choice,
    where: Mapping[str, Path],
    wanted: Wanted,
    named: Repository,
    warn: Callable[[str], None],
) -> tuple[Choice, list[FoundFile]]:
    """Choose by the bytes, which are at ``where``; return the files as ``publish`` takes them.

    ``Refused`` if no weights are left, ``SourceChanged`` if a file went away.
    """
    taken: list[HubFile] = []
    found: list[FoundFile] = []
    left = dict(choice.left)
    paths = {file.path for file in choice.files}
    for file in choice.files:
        size, finding = _look_at(file.path, where[file.path])
        if finding is not None and not _is_usual(finding.format, named.kind):
            if finding.names:
                if not paths.issuperset(finding.names):
                    warn(
                        f"{file.path} names code that is not in the release "
                        f"({some(finding.names)}), so others refuse that file unless their "
                        "policy lets code in."
                    )
            elif file.path not in wanted.include:
                left[file.path] = finding.format
                warn(
                    f"{file.path} is left out: {finding.why}; --include '*' --include {file.path} "
                    "takes it along."
                )
                continue
        taken.append(file)
        found.append(FoundFile(file.path, where[file.path], size))
    return _good(Choice(tuple(taken), left), named), found


def some(names: Sequence[str]) -> str:
    """Name some of many."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _good(choice: Choice, named: Repository) -> Choice:
    """Return a choice that is worth a release: of a model that had weights some are left."""
    lost = [path for path in choice.left if suffix(path) in WEIGHTS]
    if named.kind == "model" and lost:
        if not any(suffix(file.path) in WEIGHTS for file in choice.files):
            raise Refused(
                f"{named} has its weights in no format that is safe to open, only in {some(lost)} "
                f"({', '.join(sorted({choice.left[path] for path in lost}))}).",
                next="Look for a revision with safetensors, or take that along by its name: "
                f"--include '*' --include {lost[0]}.",
            )
    elif not choice.files:
        raise Refused(
            f"Nothing of {named} is left that others would take, only {some([*choice.left])}.",
            next=f"Take it along by its name: --include {next(iter(choice.left))}.",
        )
    return choice


def _is_usual(format: str, kind: Kind) -> bool:
    return format in (MODEL_FORMATS if kind == "model" else DATASET_FORMATS)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    """``*`` crosses ``/``, and ``folder/`` means everything below."""
    return any(fnmatchcase(path, one + "*" if one.endswith("/") else one) for one in patterns)


def _look_at(path: str, place: Path) -> tuple[int, Finding | None]:
    """Return a file's bytes, and what it is if it should not just be opened."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise SourceChanged(f"{place} can no longer be read: {exc.strerror}.") from exc
    try:
        size = os.fstat(fd).st_size
        return size, look_into(path, OnDisk(fd, size))
    finally:
        os.close(fd)
