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
    plural, *rest = _segments(raw)[2:] or [""]
    kind = _PLURALS.get(plural)
    if kind is None:
        raise Missing("", "A node has models and datasets, and nothing else of the Hub's API.")
    if not any(rest):
        return Ask(kind, "search")
    # A repository's id has two parts, or one: gpt2/tree/main, org/tiny/tree/main.
    short = len(rest) == 1 or (rest[1] in VERBS and (len(rest) == 2 or rest[2] not in VERBS))
    length = 1 if short else 2
    repo, further = "/".join(rest[:length]), rest[length:]
    if not further:
        return Ask(kind, "info", repo)
    verb, *args = further
    if verb not in VERBS:
        raise Missing("", "A node has nothing of that kind.")
    revision = args[0] if args else "main"
    path = "/".join(args[1:]).strip("/")
    return Ask(kind, "info" if verb == "revision" else verb, repo, revision, path)


def read_resolve(raw: bytes) -> Ask:
    """Read ``/[datasets/]REPO/resolve/REVISION/PATH``; Missing for what is no such path."""
    parts = _segments(raw)[1:]
    kind: Kind = "model"
    if parts[0] == "datasets" and "resolve" in parts[2:4]:
        kind, parts = "dataset", parts[1:]
    try:
        place = parts.index("resolve", 1, 3)
        revision, *path = parts[place + 1 :]
    except ValueError as exc:  # slashes were escaped that stand between these parts
        raise Missing("", "That is no path of a file.") from exc
    return Ask(kind, "resolve", "/".join(parts[:place]), revision, "/".join(path))


def _segments(raw: bytes) -> list[str]:
    path = raw.partition(b"?")[0]
    if len(path) > MAX_PATH:
        raise Missing("EntryNotFound", f"A path has at most {MAX_PATH} bytes.")
    return [unquote(part.decode("latin-1")) for part in path.split(b"/")]
