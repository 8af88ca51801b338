"""Which entries of a release a client asks about: of a folder, of a page, or by their paths.

A folder is its path, for a release has no entries of folders.
"""

import base64
import json
from collections.abc import Collection, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qs, urlencode

import trio
from starlette.requests import ClientDisconnect, Request

from p2p.errors import UsageError
from p2p.manifest import FileEntry

PAGE: Final = 1000
"""Entries of one page of a tree, as at the Hub."""
MAX_FORM: Final = 1 << 20
"""Bytes of the paths that a client asks about: thousands."""
FORM_WITHIN: Final = 10.0
"""Seconds that they may take to come."""
MAX_PATHS: Final = 10_000

Entry = FileEntry | str


def below(files: Sequence[FileEntry], folder: str, *, recursive: bool) -> list[Entry]:
    """Return the entries of a folder in the order of their paths."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, Entry] = {}
    for entry in files:
        if not entry.path.startswith(prefix):
            continue
        parts = entry.path[len(prefix) :].split("/")
        depth = len(parts) if recursive else 1
        for end in range(1, min(depth, len(parts) - 1) + 1):
            path = prefix + "/".join(parts[:end])
            found.setdefault(path, path)
        if len(parts) <= depth:
            found[entry.path] = entry
    return [found[path] for path in sorted(found)]


def at_paths(files: Sequence[FileEntry], paths: Collection[str]) -> list[Entry]:
    """Return the entries at these paths, in their order; what is not there is left out."""
    there = {
        one if isinstance(one, str) else one.path: one for one in below(files, "", recursive=True)
    }
    wanted = dict.fromkeys(path.strip("/") for path in paths)
    return [there[path] for path in wanted if path in there]


def page_of(listed: Sequence[Entry], request: Request) -> tuple[Sequence[Entry], str]:
    """Return the entries of the page that is asked for, and the URL of the next one, or nothing.

    UsageError for a cursor that no page of ours gave.
    """
    query = request.query_params
    size = min(PAGE, max(1, number(query.get("limit"), PAGE)))
    start = _read_cursor(query["cursor"]) if "cursor" in query else 0
    stop = start + size
    if stop >= len(listed):
        return listed[start:], ""
    further = urlencode({**query, "cursor": _write_cursor(stop)})
    url = request.url
    return listed[start:stop], f"{url.scheme}://{url.netloc}{raw_path(request).decode()}?{further}"


def raw_path(request: Request) -> bytes:
    """Return the path of a request as it was sent."""
    raw: bytes = request.scope["raw_path"]
    return raw


def number(text: str | None, most: int) -> int:
    """Read a number that a client may say; ``most`` for what is none, and for more."""
    if text is None or not (text.isascii() and text.isdecimal()):
        return most
    return min(most, int(text[:9]))


def flag(text: str | None) -> bool:
    """Read a flag as Python's client, and others, write it."""
    return (text or "").lower() in ("true", "1")


async def read_paths(request: Request) -> tuple[list[str], bool]:
    """Read the body of paths-info, a form as Python's client sends it or JSON: paths, and expand.

    UsageError for what is neither, too long, or does not come.
    """
    body = bytearray()
    try:
        with trio.fail_after(FORM_WITHIN):
            async with aclosing(request.stream()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > MAX_FORM:
                        raise UsageError(f"A list of paths has at most {MAX_FORM} bytes.")
    except (trio.TooSlowError, ClientDisconnect) as exc:
        raise UsageError("The list of paths did not come in time.") from exc
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            value = json.loads(body)
            paths, expand = value["paths"], str(value.get("expand", ""))
        else:
            form = parse_qs(body.decode(), max_num_fields=MAX_PATHS + 1)
            paths, expand = form.get("paths", []), form.get("expand", [""])[-1]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise UsageError(f"The paths are neither a form nor JSON, or over {MAX_PATHS}.") from exc
    if not isinstance(paths, list) or not all(isinstance(one, str) for one in paths):
        raise UsageError("paths is a list of texts.")
    if len(paths) > MAX_PATHS:
        raise UsageError(f"A list has at most {MAX_PATHS} paths, not {len(paths)}.")
    return paths, flag(expand)


def _read_cursor(text: str) -> int:
    try:
        start = base64.urlsafe_b64decode(text[:64]).decode("ascii")
    except ValueError:
        start = ""
    if not start.isdecimal() or len(start) > 9:
        raise UsageError("The cursor is none of this node's.")
    return int(start)


def _write_cursor(start: int) -> str:
    return base64.urlsafe_b64encode(str(start).encode()).decode()
