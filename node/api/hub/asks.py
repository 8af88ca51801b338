"""What a client of the Hub asks for, read off the path as it was sent.

A revision may be written with its slashes escaped (``refs%2Fpr%2F1``), so that the path must be cut
before it is unescaped. Pure.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from node.hub.resolving import Missing
from p2p.manifest import Kind

MAX_PATH: Final = 8192
"""Bytes of a request's path."""
VERBS: Final = ("revision", "tree", "paths-info", "refs", "commits")
_PLURALS: Final[dict[str, Kind]] = {"models": "model", "datasets": "dataset"}


@dataclass(frozen=True, slots=True)
class Ask:
    """``verb`` is info, tree, paths-info, refs, commits, search, or resolve."""

    kind: Kind
    verb: str
    repo: str = ""
    revision: str = "main"
    path: str = ""


def read_api(raw: bytes) -> Ask:
    """Read a path under /api/; Missing for what the Hub may have and a node has not."""
    _, _, plural, *rest = _segments(raw)
    kind = _PLURALS.get(plural)
    if kind is None:
        raise Missing("", "A node has models and datasets, and nothing else of the Hub's API.")
    if not any(rest):
        return Ask(kind, "search")
    for length in (2, 1):  # a repository's id has two parts, or one
        repo, further = "/".join(rest[:length]), rest[length:]
        if len(rest) < length:
            continue
        if not further:
            return Ask(kind, "info", repo)
        verb, *args = further
        if verb in VERBS:
            revision = args[0] if args else "main"
            path = "/".join(args[1:]).strip("/")
            return Ask(kind, "info" if verb == "revision" else verb, repo, revision, path)
    raise Missing("", "A node has nothing of that kind.")


def read_resolve(raw: bytes) -> Ask:
    """Read ``/[datasets/]REPO/resolve/REVISION/PATH``."""
    _, *parts = _segments(raw)
    kind: Kind = "model"
    if parts[0] == "datasets" and "resolve" in parts[2:4]:
        kind, parts = "dataset", parts[1:]
    place = 1 if parts[1] == "resolve" else 2
    repo, (revision, *path) = "/".join(parts[:place]), parts[place + 1 :]
    return Ask(kind, "resolve", repo, revision, "/".join(path))


def _segments(raw: bytes) -> list[str]:
    path = raw.partition(b"?")[0]
    if len(path) > MAX_PATH:
        raise Missing("EntryNotFound", f"A path has at most {MAX_PATH} bytes.")
    return [unquote(part.decode("latin-1")) for part in path.split(b"/")]
