"""What the node tells whoever watches it, and the count of what its doors answer.

    GET  /metrics    the numbers of node/metrics, in Prometheus's text format

It needs no token, for what it tells is no secret. Where the doors for models want a token
(``serve.auth``), so do the names of the models: without one they are one, whose name is empty.
A token that is not good is 401, so that nobody believes to see what he does not.
"""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.accounts import Accounts
from node.api.loopback import refusal
from node.metrics import HttpCounts, LogCounts, scrape
from node.metrics.scraping import Watched
from node.metrics.text import CONTENT_TYPE
from p2p.errors import AllodError, BadToken
from p2p.http import Handler, error_response
from p2p.http import Request as PeerRequest
from p2p.http import Response as PeerResponse

_DOOR: Final = "allod.door"
_NONE: Final = "none"
"""The door of what no route took: the guard's refusals, paths that nobody has."""


def metrics_routes(node: Watched, http: HttpCounts, logs: LogCounts) -> list[BaseRoute]:
    """Return the route of this door, for ``loopback_app``."""

    async def answer(request: Request) -> Response:
        try:
            named = await _may_name(node.accounts, _bearer(request))
            found = await scrape(node, http, logs, named=named)
        except BadToken as exc:
            return refusal(401, exc.code, exc.message, www_authenticate="Bearer")
        except AllodError as exc:
            return refusal(503, exc.code, exc.message)
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
        return Response(found.write(), headers=headers)

    return [Route("/metrics", answer, methods=["GET"])]


async def _may_name(accounts: Accounts | None, bearer: str) -> bool:
    """Say whether who asks may list all models; BadToken for a token that is not good."""
    if accounts is None:
        return False
    try:
        return not (await accounts.identify(bearer)).models
    except BadToken:
        if bearer:
            raise
        return False


def _bearer(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def behind(door: str, routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Have what these routes answer counted as this door's, by ``counted``."""
    for route in routes:
        assert isinstance(route, Route)
        route.app = _Door(route.app, door)
    return list(routes)


class _Door:
    """An endpoint that leaves in the scope which door it belongs to."""

    def __init__(self, app: ASGIApp, door: str) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_DOOR] = self._door
        await self._app(scope, receive, send)


def counted(app: ASGIApp, http: HttpCounts) -> ASGIApp:
    """Count what an application answers, by door and status."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                http.count(scope.get(_DOOR, _NONE), message["status"])
            await send(message)

        await app(scope, receive, watch)

    return call


def counted_handler(handler: Handler, door: str, http: HttpCounts) -> Handler:
    """Count what a handler of ``p2p.http`` answers."""

    async def answer(request: PeerRequest) -> PeerResponse:
        try:
            response = await handler(request)
        except AllodError as exc:
            http.count(door, error_response(exc).status)
            raise
        http.count(door, response.status)
        return response

    return answer
