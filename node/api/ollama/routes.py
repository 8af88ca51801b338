"""The door for Ollama's clients: which path is which.

    GET  /api/tags, /api/ps, /api/version, /
    POST /api/chat, /api/generate, /api/embed, /api/embeddings, /api/show

What changes the models that there are (pull, push, create, copy, delete) is refused with the
command that does it. Errors are ``{"error": "..."}``.
"""

from collections.abc import Awaitable, Callable
from typing import Final, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from node.api.loopback import answer_and_close
from node.api.ollama.lines import error_line
from node.api.ollama.models import listed, running, shown
from node.api.ollama.requests import (
    plain_name,
    read_chat,
    read_embed,
    read_embeddings,
    read_generate,
)
from node.api.openai.desk import Desk
from node.api.openai.entrance import find, identify, new_id, read_body, refusal
from node.api.openai.errors import declined, problem_of
from node.api.openai.exchange import Door, Exchange
from node.api.openai.fields import parse_object
from p2p.errors import AllodError

VERSION: Final = "0.12.0"
"""The version of Ollama whose requests are understood; some clients want a recent one."""

DOORS: Final = (
    Door("api/chat", read_chat, error_line, any_type=True),
    Door("api/generate", read_generate, error_line, any_type=True),
    Door("api/embed", read_embed, error_line, any_type=True),
    Door("api/embeddings", read_embeddings, error_line, any_type=True),
)
"""The endpoints that ask a model; Ollama's examples for curl send no Content-Type."""

NOT_OFFERED: Final = {
    "pull": "Models come with `allod fetch REF`, and are served with `allod serve REF`.",
    "push": "Models are published with `allod publish FOLDER`.",
    "create": "A model is served as it was published: `allod publish FOLDER` makes a new one.",
    "copy": "A release has the name that its publisher gave it: there are no copies.",
    "delete": "Models are given up with `allod rm REF`.",
    "blobs/{digest}": "Files come with `allod fetch REF` or `allod publish FOLDER`.",
}
"""What clients cannot do here, and what the owner does instead."""


def ollama_routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of this door, for ``loopback_app``; the one for / is last."""

    async def tags(request: Request) -> Response:
        account = await identify(desk, request)
        found = [one for one in desk.inference.served() if desk.accounts.allows(account, one)]
        return JSONResponse({"models": [listed(one) for one in found]})

    async def ps(request: Request) -> Response:
        account = await identify(desk, request)
        found = [
            one
            for one in desk.inference.served()
            if one.state == "ready" and desk.accounts.allows(account, one)
        ]
        return JSONResponse({"models": [running(one) for one in found]})

    async def show(request: Request) -> Response:
        account = await identify(desk, request)
        body = await read_body(request, request.receive, any_type=True)
        raw = parse_object(body or b"{}")
        named = {name: raw[name] for name in ("model", "name") if isinstance(raw.get(name), str)}
        model = find(desk, plain_name(named))
        if not desk.accounts.allows(account, model):
            raise declined("model_not_allowed", "This token is not for that model.", "model")
        return JSONResponse(shown(model))

    async def version(request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def root(request: Request) -> Response:
        return PlainTextResponse("Ollama is running")  # what its clients look for, word for word

    return [
        Route("/api/tags", _told(tags), methods=["GET"]),
        Route("/api/ps", _told(ps), methods=["GET"]),
        Route("/api/show", _told(show), methods=["POST"]),
        Route("/api/version", version, methods=["GET"]),
        *(Route(f"/{one.endpoint}", Exchange(desk, one), methods=["POST"]) for one in DOORS),
        *(Route(f"/api/{name}", _NotOffered(why)) for name, why in NOT_OFFERED.items()),
        Route("/", root, methods=["GET"]),
    ]


def _told(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Word the errors of a handler as Ollama does."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except AllodError as exc:
            problem = problem_of(exc)
            return cast(Response, _Parting(refusal(problem, error_line(problem), new_id())))

    return answer


class _Parting:
    """A refusal that goes out with some of the body unread."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer_and_close(self._response, scope, receive, send)


class _NotOffered:
    """The ASGI endpoint of what clients cannot do here."""

    def __init__(self, why: str) -> None:
        self._problem = declined("not_offered", why).problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = refusal(self._problem, error_line(self._problem), new_id())
        await _Parting(answer)(scope, receive, send)
