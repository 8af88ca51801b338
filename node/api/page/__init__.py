"""The owner's page: what the node holds and does, in a browser on this machine.

    GET /               the page, for who wants HTML; Ollama's clients get their own answer there
    GET /page/{name}    its scripts, its style, its icon

The files lie in ``static`` and are sent as they are: no build step, nothing from elsewhere. They
are no secret and need no token. What the page shows it asks of the control API and the doors, with
the control token that ``allod page`` puts behind the # of the link, which no browser ever sends.

A content security policy forbids everything that is not ours, inline scripts too, so that a
stranger's text that became markup by a mistake could still do nothing; and the guard of
``loopback`` keeps other sites' pages away from all of it.
"""

import hashlib
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from node.api.loopback import refusal

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    # Asked for again each time, so that after an upgrade no old script meets a new node.
    "cache-control": "no-cache",
}


class _Page(Route):
    """The route of / for who wants HTML; others are left to the routes behind it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match by the Accept header, too."""
        found, child = super().matches(scope)
        if found is not Match.NONE and not _wants_html(scope):
            return Match.NONE, {}
        return found, child


def _wants_html(scope: Scope) -> bool:
    accepts = [value for name, value in scope["headers"] if name.lower() == b"accept"]
    return any(b"text/html" in value for value in accepts)


def page_routes() -> list[BaseRoute]:
    """Return the routes of the page, for ``loopback_app``; before Ollama's, which has / as well."""
    found = {
        one.name: one.read_bytes()
        for one in (files(__package__) / "static").iterdir()
        if one.name.rpartition(".")[2] in TYPES
    }

    async def page(request: Request) -> Response:
        return _answer(request, "index.html", found["index.html"])

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in found or name == "index.html":
            return refusal(404, "NOT_FOUND", "The page has no such part.")
        return _answer(request, name, found[name])

    return [
        _Page("/", page, methods=["GET"]),
        Route("/page/{name}", part, methods=["GET"]),
    ]


def _answer(request: Request, name: str, data: bytes) -> Response:
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = HEADERS | {"etag": etag} | ({"vary": "accept"} if name == "index.html" else {})
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=TYPES[name.rpartition(".")[2]])
