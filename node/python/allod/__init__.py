"""Allod for programs: models and datasets from the swarm, every byte verified.

    import allod

    release = allod.fetch("alice/tiny-llm")            # all of it, on this disk
    release.path                                       # the folder
    with allod.open_file("alice/data", "x.csv") as f:  # what is read, and no more
        f.readline()

    pandas.read_parquet("allod://alice/data/x.parquet", columns=["a"])

The node of this machine does the work; where none runs, one runs for as long as the program does.
``allod.trio`` has the same verbs for trio, ``allod.fs`` the filesystem of the URLs ``allod://``.
Reference: docs/reference/python.md. Importing this is cheap: no network, no server, no trio.
"""

from typing import Any

from allod.asked import Publishing
from allod.errors import (
    Denied,
    Error,
    InvalidRequest,
    Missing,
    NodeUnavailable,
    NotVerified,
    StorageFailed,
    StorageFull,
    Unreachable,
    UntrustedPublisher,
)
from allod.releases import File, Progress, Published, Release
from allod.verbs import fetch, files, open_file, publish, release

__all__ = [
    "Denied",
    "Error",
    "File",
    "InvalidRequest",
    "Missing",
    "NodeUnavailable",
    "NotVerified",
    "Progress",
    "Published",
    "Publishing",
    "Release",
    "StorageFailed",
    "StorageFull",
    "Unreachable",
    "UntrustedPublisher",
    "fetch",
    "files",
    "open_file",
    "publish",
    "release",
]


def __getattr__(name: str) -> Any:
    """Import ``allod.trio`` and ``allod.fs`` when they are first named."""
    if name in ("fs", "trio"):
        import importlib

        return importlib.import_module(f"allod.{name}")
    raise AttributeError(f"module 'allod' has no attribute {name!r}")
