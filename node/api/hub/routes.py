"""The paths of the Hub that a node answers.

GET  /api/models                  what publishers with a name list; and /api/datasets
GET  /api/models/{repo}           a revision, another with /revision/{revision}; ?blobs=true
GET  /api/models/{repo}/tree/{revision}/{path}     ?recursive=true, ?expand=true, by pages
POST /api/models/{repo}/paths-info/{revision}      a form, or JSON: paths
GET  /api/models/{repo}/refs
GET  /api/models/{repo}/commits/{revision}
HEAD /{repo}/resolve/{revision}/{path}             and GET, with Range; /datasets/{repo}/...
"""

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlencode

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from node.api.hub import shapes
from node.api.hub.asks import Ask, read_api, read_resolve
from node.api.hub.files import answer_file
from node.api.hub.problems import missing, problem, warnings
from node.hub.origin import commit_of
from node.hub.resolving import Missing, Repositories
from node.hub.sums import Sums
from node.importers.card import CARD, CardFacts, parse_card
from node.reading import OpenRelease, Reader
from p2p.errors import AllodError, NoSources, UsageError
from p2p.manifest import FileEntry

if TYPE_CHECKING:
    from node.fetch import FetchNode

PAGE: Final = 1000
"""Entries of one page of a tree, as at the Hub."""
MAX_FORM: Final = 1 << 20
"""Bytes of the paths that a client asks about: thousands."""
MAX_PATHS: Final = 10_000
MAX_FOUND: Final = 1000
"""Repositories of one search."""
OPEN_WITHIN: Final = 12.0
"""Seconds in which a repository must be found: clients wait for fourteen."""
CARD_WITHIN: Final = 2.0
"""Seconds that a card may take which is not here."""
MAX_CARD: Final = 1 << 20

Json = dict[str, Any]


class Hub:
    """The door: what each request is answered."""

    def __init__(self, node: "FetchNode", reader: Reader) -> None:
        self._repositories = Repositories(node, reader)
        self._sums = Sums(node.store, reader.nursery)

    async def api(self, request: Request) -> Response:
        """Answer what is under /api/."""
        ask = read_api(_raw(request))
        if (request.method == "POST") != (ask.verb == "paths-info"):
            raise Missing("", f"{request.method} is not for this.")
        if ask.verb == "search":
            return await self._search(request, ask)
        if ask.verb in ("refs", "commits"):
            return await self._revisions(request, ask)
        opened = await self._open(ask)
        answer = {"info": self._info, "tree": self._tree, "paths-info": self._paths}[ask.verb]
        response = await answer(request, ask, opened)
        for name, value in warnings(opened.warnings):
            response.headers.append(name, value)
        return response

    async def resolve(self, request: Request) -> Response:
        """Answer for a file."""
        ask = read_resolve(_raw(request))
        return await answer_file(request, await self._open(ask), ask.path, self._sums)

    async def _open(self, ask: Ask) -> OpenRelease:
        with trio.move_on_after(OPEN_WITHIN):
            return await self._repositories.open(ask.kind, ask.repo, ask.revision)
        raise NoSources(
            f"{ask.repo} could not be looked up in {OPEN_WITHIN:.0f} s.",
            next="Try again in a moment.",
        )

    async def _search(self, request: Request, ask: Ask) -> Response:
        query = request.query_params
        limit = _number(query.get("limit"), MAX_FOUND)
        found = await self._repositories.search(
            ask.kind, query.get("search", "")[:500], query.get("author", "")[:200], limit
        )
        return JSONResponse([shapes.search_result(ask.kind, one) for one in found])

    async def _revisions(self, request: Request, ask: Ask) -> Response:
        with trio.move_on_after(OPEN_WITHIN):
            found = await self._repositories.revisions(ask.kind, ask.repo)
            if ask.verb == "refs":
                return JSONResponse(shapes.refs(found))
            author = ask.repo.rpartition("/")[0] or ask.repo
            return JSONResponse(shapes.commits(found, author))
        raise NoSources(f"{ask.repo} could not be looked up in {OPEN_WITHIN:.0f} s.")

    async def _info(self, request: Request, ask: Ask, opened: OpenRelease) -> Response:
        sums = None
        if request.query_params.get("blobs", "").lower() in ("true", "1"):
            sums = await self._sums.of(opened, opened.manifest.files)
        card = await self._card(opened)
        return JSONResponse(shapes.info(ask.repo, opened.manifest, card, sums))

    async def _card(self, opened: OpenRelease) -> CardFacts:
        """Read the card of a release, if it is here in a moment."""
        entry = next((one for one in opened.manifest.files if one.path == CARD), None)
        if entry is None or entry.size > MAX_CARD:
            return CardFacts()
        data = bytearray()
        try:
            with trio.move_on_after(CARD_WITHIN) as patience:
                async with aclosing(opened.read(entry, 0, entry.size)) as pieces:
                    async for piece in pieces:
                        data += piece
            if patience.cancelled_caught:
                return CardFacts()
            return await trio.to_thread.run_sync(parse_card, bytes(data))
        except AllodError:
            return CardFacts()  # what is wrong with it is for whoever reads it

    async def _tree(self, request: Request, ask: Ask, opened: OpenRelease) -> Response:
        query = request.query_params
        recursive = query.get("recursive", "").lower() in ("true", "1")
        listed = _below(opened.manifest.files, ask.path, recursive=recursive)
        if not listed and ask.path:
            commit = commit_of(opened.manifest)
            return missing(
                Missing("EntryNotFound", f"There is no folder {ask.path[:200]}."), commit
            )
        page = min(PAGE, max(1, _number(query.get("limit"), PAGE)))
        start = _cursor(query.get("cursor"))
        shown = listed[start : start + page]
        response = JSONResponse(await self._shown(opened, shown, _expand(query.get("expand"))))
        if start + page < len(listed):
            further = {**dict(query), "cursor": _write_cursor(start + page)}
            url = f"{str(request.url).partition('?')[0]}?{urlencode(further)}"
            response.headers["link"] = f'<{url}>; rel="next"'
        return response

    async def _paths(self, request: Request, ask: Ask, opened: OpenRelease) -> Response:
        paths, expand = await _read_paths(request)
        files = {entry.path: entry for entry in opened.manifest.files}
        found: list[FileEntry | str] = []
        for path in dict.fromkeys(path.strip("/") for path in paths):
            if path in files:
                found.append(files[path])
            elif path and any(one.startswith(f"{path}/") for one in files):
                found.append(path)
        return JSONResponse(await self._shown(opened, found, expand))

    async def _shown(
        self, opened: OpenRelease, listed: Sequence[FileEntry | str], expand: bool
    ) -> list[Json]:
        entries = [one for one in listed if not isinstance(one, str)]
        sums = await self._sums.of(opened, entries)
        manifest = opened.manifest
        shown = [
            shapes.folder_json(manifest, one)
            if isinstance(one, str)
            else shapes.file_json(one, sums[one.path])
            for one in listed
        ]
        return [
            one | ({"lastCommit": shapes.last_commit(manifest)} if expand else {}) for one in shown
        ]


def hub_routes(node: "FetchNode", reader: Reader) -> list[BaseRoute]:
    """Return the routes of this door, for ``loopback_app``; behind all others."""
    hub = Hub(node, reader)
    api = Route("/api/{rest:path}", _Told(hub.api), methods=["GET", "HEAD", "POST"])
    paths = [
        f"{prefix}/{repo}/resolve/{{rest:path}}"
        for prefix in ("/datasets", "")
        for repo in ("{owner}/{name}", "{name}")
    ]
    return [api, *(Route(path, _Told(hub.resolve), methods=["GET", "HEAD"]) for path in paths)]


class _Told:
    """An endpoint whose errors are told in the Hub's words."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Missing as exc:
            response = missing(exc)
        except AllodError as exc:
            response = problem(exc)
        await response(scope, receive, send)


def _raw(request: Request) -> bytes:
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return raw


def _below(files: Sequence[FileEntry], folder: str, *, recursive: bool) -> list[FileEntry | str]:
    """Return the entries of a folder in the order of their paths, folders as their paths."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, FileEntry | str] = {}
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


def _cursor(text: str | None) -> int:
    """Read where a page begins; UsageError for what no page of ours said."""
    if text is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(text[:64]).decode("ascii"))
    except ValueError as exc:
        raise UsageError("The cursor is none of this node's.") from exc


def _write_cursor(start: int) -> str:
    return base64.urlsafe_b64encode(str(start).encode()).decode()


def _number(text: str | None, most: int) -> int:
    if text is None or not (text.isascii() and text.isdecimal()):
        return most
    return min(most, int(text[:9]))


def _expand(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")


async def _read_paths(request: Request) -> tuple[list[str], bool]:
    """Read the body of paths-info: a form as Python's client sends it, or JSON."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM:
            raise UsageError(f"A list of paths has at most {MAX_FORM} bytes.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            value = json.loads(body)
            paths, expand = value["paths"], str(value.get("expand", ""))
        else:
            form = parse_qs(body.decode(), max_num_fields=MAX_PATHS + 1)
            paths, expand = form.get("paths", []), form.get("expand", [""])[-1]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise UsageError("The paths are neither a form nor JSON.") from exc
    if not isinstance(paths, list) or not all(isinstance(one, str) for one in paths):
        raise UsageError("paths is a list of texts.")
    return paths[:MAX_PATHS], _expand(expand)
