"""What the verbs give back: releases, their files, how far the work is. Frozen, and pure.

Built from the JSON objects that the command line prints with ``--json``; those stay at hand as
``details``, for what has no field here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allod.errors import Missing

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one phase of the work is; ``unit`` says what ``done`` and ``total`` count."""

    phase: str  # "read", "look", "fetch", ...
    done: int
    total: int | None  # None while nobody knows
    rate: float  # units a second
    sources: int  # how many sources deliver right now
    unit: str  # "B", "files"


Watch = Callable[[Progress], None]
"""What ``progress=`` takes: it is called with each Progress, in the caller's own thread."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a release."""

    path: str  # within the release, with slashes
    size: int  # bytes
    cid: str  # what its bytes are verified against
    sha256: str = ""  # hexadecimal; empty where it is not known
    held: bool = False  # whether all of it is in this machine's store


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a model or a dataset, signed by its publisher, which never changes."""

    ref: str  # finds this very version again, on any machine
    name: str
    version: str
    kind: str  # "model", "dataset", ...
    publisher: str  # the publisher's id
    license: str  # an SPDX expression; empty if the publisher states none
    manifest: str  # CID of the manifest
    files: tuple[File, ...] = field(repr=False)
    path: Path | None = None  # the folder of the files, once they were fetched
    fetched: int = 0  # bytes that came over the network
    details: Json = field(default_factory=dict, repr=False, compare=False)

    def file(self, path: str) -> File:
        """Return the file at a path; ``Missing``."""
        for one in self.files:
            if one.path == path:
                return one
        raise Missing(
            f"{self.name} {self.version} has no file {path[:200]!r}.",
            code="NOT_FOUND",
            next="allod.files() lists what it has.",
        )


@dataclass(frozen=True, slots=True)
class Published:
    """What was published, and the link to share."""

    ref: str  # with addresses at which others find it
    name: str
    version: str
    kind: str
    publisher: str
    license: str
    manifest: str
    files: tuple[File, ...] = field(repr=False)
    new: int = 0  # bytes that this store did not have before
    details: Json = field(default_factory=dict, repr=False, compare=False)


def read_release(
    shown: Json, asked: str, peers: Sequence[str], fetched: Json | None = None
) -> Release:
    """Build a Release of what ``files`` answers and, after a fetch, of what that answered.

    The addresses of the link ``asked``, if it was one, and ``peers``, go on in its own reference.
    """
    got = fetched or {}
    known = [one for one in asked.partition("?")[2].split("&") if one]
    query = "&".join([*known, *(f"peer={peer}" for peer in peers)])
    return Release(
        ref=str(shown["ref"]) + (f"?{query}" if query else ""),
        name=str(shown["name"]),
        version=str(shown["version"]),
        kind=str(shown["kind"]),
        publisher=str(shown["publisher"]),
        license=str(shown.get("license", got.get("license", ""))),
        manifest=str(shown["manifest"]),
        files=_files(shown),
        path=Path(got["path"]) if got.get("path") else None,
        fetched=int(got["bytes"]["fetched"]) if got else 0,
        details=got or shown,
    )


def read_published(shown: Json) -> Published:
    """Build a Published of what ``publish`` answers."""
    return Published(
        ref=str(shown["ref"]),
        name=str(shown["name"]),
        version=str(shown["version"]),
        kind=str(shown["kind"]),
        publisher=str(shown["publisher"]),
        license=str(shown["license"]),
        manifest=str(shown["manifest"]),
        files=_files(shown, held=True),
        new=int(shown["bytes"]["new"]),
        details=shown,
    )


def _files(shown: Json, *, held: bool = False) -> tuple[File, ...]:
    return tuple(
        File(
            str(one["path"]),
            int(one["size"]),
            str(one["cid"]),
            str(one.get("sha256") or ""),
            bool(one.get("held", held)),
        )
        for one in shown["files"]
    )
