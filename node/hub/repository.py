"""How a person names a repository at the Hub, and a revision of it: ``hf:ORG/REPO@REVISION``.

Pure.
"""

import re
from dataclasses import dataclass
from typing import Final

from node.hub.origin import REPO
from p2p.errors import UsageError
from p2p.manifest import Kind

MAIN: Final = "main"

_REF: Final = re.compile(r"hf:(?://)?(?:(models|datasets)/)?([^@\s]+)(?:@(\S+))?")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}")
"""A branch, a tag, a commit, or ``refs/pr/1``; it becomes a path in the cache."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository, ORG/REPO, and a revision of it: a branch, a tag or a commit."""

    kind: Kind
    repo: str
    revision: str = MAIN

    def __str__(self) -> str:
        return f"{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def folder(self) -> str:
        """Its folder in the cache."""
        return f"{self.kind}s--{self.repo.replace('/', '--')}"


def parse_repository(text: str) -> Repository:
    """Read ``hf:ORG/REPO``, ``hf:datasets/ORG/REPO``, each with ``@REVISION``; ``UsageError``."""
    match = _REF.fullmatch(text)
    revision = (match[3] or MAIN) if match else ""
    if (
        match is None
        or REPO.fullmatch(match[2]) is None
        or {"--", ".."} & set(re.findall(r"--|\.\.", match[2]))
        or _REVISION.fullmatch(revision) is None
        or any(part in ("", ".", "..") for part in revision.split("/"))
    ):
        raise UsageError(
            f"{text[:80]!r} names no repository at the Hub.",
            next="Write hf:ORG/REPO or hf:datasets/ORG/REPO, with @REVISION behind it if you like.",
        )
    return Repository("dataset" if match[1] == "datasets" else "model", match[2], revision)
