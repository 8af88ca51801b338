"""The paths of the Hub that a node answers.

GET  /api/models                  what publishers with a name list; and /api/datasets
GET  /api/models/{repo}           a revision, another with /revision/{revision}; ?blobs=true
GET  /api/models/{repo}/tree/{revision}/{path}     ?recursive=true, ?expand=true, by pages
POST /api/models/{repo}/paths-info/{revision}      a form, or JSON: paths
GET  /api/models/{repo}/refs
GET  /api/models/{repo}/commits/{revision}
HEAD /{repo}/resolve/{revision}/{path}             and GET, with Range; /datasets/{repo}/...
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from node.api.hub import shapes
from node.api.hub.asks import Ask, read_api, read_resolve
from node.api.hub.files import answer_file
from node.api.hub.problems import missing, problem, warnings
from node.api.hub.trees import (
    Entry,
    at_paths,
    below,
    flag,
    number,
    page_of,
    raw_path,
    read_paths,
)
from node.api.loopback import answer_and_close, refusal
from node.api.streamed import while_connected
from node.hub.origin import commit_of
from node.hub.resolving import Missing, Repositories
from node.hub.sums import Sums
from node.importers.card import CARD, CardFacts, parse_card
from node.reading import OpenRelease, Reader
from p2p.errors import AllodError, NoSources

if TYPE_CHECKING:
    from node.fetch import FetchNode

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
        ask = read_api(raw_path(request))
        if (request.method == "POST") != (ask.verb == "paths-info"):
            return refusal(405, "USAGE", f"{request.method} is not for this.")
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
        ask = read_resolve(raw_path(request))
        return await answer_file(request, await self._open(ask), ask.path, self._sums)

    async def _open(self, ask: Ask) -> OpenRelease:
        with _in_time(ask.repo):
            return await self._repositories.open(ask.kind, ask.repo, ask.revision)

    async def _search(self, request: Request, ask: Ask) -> Response:
        query = request.query_params
        limit = number(query.get("limit"), MAX_FOUND)
        found = await self._repositories.search(
            ask.kind, query.get("search", "")[:500], query.get("author", "")[:200], limit
        )
        return JSONResponse([shapes.search_result(ask.kind, one) for one in found])

    async def _revisions(self, request: Request, ask: Ask) -> Response:
        with _in_time(ask.repo):
            found = await self._repositories.revisions(ask.kind, ask.repo)
        if ask.verb == "refs":
            return JSONResponse(shapes.refs(found))
        newest = commit_of((await self._open(ask)).manifest)
        while found and found[0].commit != newest:
            del found[0]
        return JSONResponse(shapes.commits(found, ask.repo.partition("/")[0]))

    async def _info(self, request: Request, ask: Ask, opened: OpenRelease) -> Response:
        sums = None
        if flag(request.query_params.get("blobs")):
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
        query, manifest = request.query_params, opened.manifest
        recursive = flag(query.get("recursive"))
        listing = partial(below, manifest.files, ask.path, recursive=recursive)
        listed = await trio.to_thread.run_sync(listing)
        if not listed and ask.path:
            what = f"There is no folder {ask.path[:200]}."
            return missing(Missing("EntryNotFound", what), commit_of(manifest))
        page, further = page_of(listed, request)
        response = JSONResponse(await self._shown(opened, page, flag(query.get("expand"))))
        if further:
            response.headers["link"] = f'<{further}>; rel="next"'
        return response

    async def _paths(self, request: Request, ask: Ask, opened: OpenRelease) -> Response:
        paths, expand = await read_paths(request)
        found = await trio.to_thread.run_sync(at_paths, opened.manifest.files, paths)
        return JSONResponse(await self._shown(opened, found, expand))

    async def _shown(
        self, opened: OpenRelease, listed: Sequence[Entry], expand: bool
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

        async def respond(send: Send) -> None:
            response = await self._told(request)
            await response(scope, receive, send)

        if request.method != "POST":
            await while_connected(receive, send, respond)
            return
        response = await self._told(request)
        if response.status_code == 200:
            await response(scope, receive, send)
        else:  # perhaps its body was not read
            await answer_and_close(response, scope, receive, send)

    async def _told(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except Missing as exc:
            return missing(exc)
        except AllodError as exc:
            return problem(exc)


@contextmanager
def _in_time(repo: str) -> Iterator[None]:
    """Raise NoSources where this block takes longer than clients wait for."""
    with trio.move_on_after(OPEN_WITHIN) as patience:
        yield
    if patience.cancelled_caught:
        raise NoSources(
            f"{repo} could not be looked up in {OPEN_WITHIN:.0f} s.", next="Try again in a moment."
        )
