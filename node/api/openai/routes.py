"""The OpenAI-compatible door: which path is which.

    GET  /v1/models, /v1/models/{id}
    POST /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses
    GET  /v1/receipts/{id}

Whatever else is under /v1/ is a 404 or a 405 in OpenAI's words.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from node.api.loopback import answer_and_close
from node.api.openai.desk import Desk
from node.api.openai.entrance import find, identify, new_id, refusal
from node.api.openai.errors import declined, error_body, problem_of
from node.api.openai.exchange import Door, Exchange
from node.api.openai.requests import read_chat, read_completion, read_embeddings
from node.api.openai.responses import read_response
from node.inference import Served
from p2p.errors import AllodError

DOORS: Final = (
    Door("chat/completions", read_chat),
    Door("completions", read_completion),
    Door("embeddings", read_embeddings),
    Door("responses", read_response),
)
"""The endpoints that ask a model."""


def openai_routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of this door, for ``loopback_app``."""

    async def models(request: Request) -> Response:
        account = await identify(desk, request)
        found = [one for one in desk.inference.served() if desk.accounts.allows(account, one)]
        return JSONResponse({"object": "list", "data": [model_json(one) for one in found]})

    async def model(request: Request) -> Response:
        account = await identify(desk, request)
        found = find(desk, request.path_params["id"])
        if not desk.accounts.allows(account, found):
            raise declined("model_not_allowed", "This token is not for that model.", "model")
        return JSONResponse(model_json(found))

    async def receipt(request: Request) -> Response:
        await identify(desk, request)
        found = desk.receipts.get(request.path_params["id"])
        if found is None:
            raise declined("receipt_not_found", "There is no finished receipt by that id.", "id")
        return Response(found, media_type="application/json")

    return [
        Route("/v1/models", _told(models), methods=["GET"]),
        Route("/v1/models/{id:path}", _told(model), methods=["GET"]),
        Route("/v1/receipts/{id}", _told(receipt), methods=["GET"]),
        *(Route(f"/v1/{one.endpoint}", Exchange(desk, one), methods=["POST"]) for one in DOORS),
        Route("/v1/{rest:path}", _elsewhere),
    ]


def model_json(model: Served) -> dict[str, Any]:
    """Return a model as ``/v1/models`` shows it."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": model.publisher,
        "digest": str(model.manifest),
        "context_length": model.context,
    }


def _told(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Word the errors of a handler as OpenAI does."""

    async def answer(request: Request) -> Response:
        id = new_id()
        try:
            response = await handler(request)
        except AllodError as exc:
            problem = problem_of(exc)
            return refusal(problem, error_body(problem), id)
        response.headers["x-request-id"] = f"req_{id}"
        return response

    return answer


class _Elsewhere:
    """The ASGI endpoint of all that is not there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix("/v1/")
        there = path in {one.endpoint for one in DOORS} or path.split("/")[0] in (
            "models",
            "receipts",
        )
        if there:
            exc = declined("method_not_allowed", f"{scope['method'][:20]} does not work here.")
        else:
            exc = declined("unknown_url", "There is nothing at this URL.")
        answer = refusal(exc.problem, error_body(exc.problem), new_id())
        await answer_and_close(answer, scope, receive, send)


_elsewhere = _Elsewhere()
