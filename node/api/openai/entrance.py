"""What stands before an answer: whose request it is, its body, the model that it means.

Shared by all doors; each raises ``Declined`` with what the client is to be told.
"""

import secrets
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from node.accounts import Account
from node.api.openai.desk import Desk
from node.api.openai.errors import Declined, Problem, declined
from node.api.openai.fields import MAX_BODY
from node.api.openai.forms import JSON
from node.api.openai.requests import Asked
from node.inference import Served
from p2p.errors import BadToken, NotFound

BODY_WITHIN: Final = 30.0
"""Seconds for a body of at most 8 MiB over loopback."""


def bearer_of(request: Request) -> str:
    """Return the token that came with a request, or nothing."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


async def identify(desk: Desk, request: Request) -> Account:
    """Return who asks; ``Declined`` with a 401 if the token is not good."""
    try:
        return await desk.accounts.identify(bearer_of(request))
    except BadToken as exc:
        message = f"{exc.message} {exc.next}".strip()
        raise declined("invalid_api_key", message) from exc


def find(desk: Desk, name: str) -> Served:
    """Return the model that a client means; ``Declined`` with a 404 if there is none."""
    try:
        return desk.inference.find(name)
    except NotFound as exc:
        raise declined(
            "model_not_found",
            f"The model {name[:80]!r} is not served here. `allod ps` lists what is.",
            "model",
        ) from exc


def new_id() -> str:
    """Return an id for a request."""
    return secrets.token_hex(12)


def refusal(problem: Problem, body: bytes, id: str) -> Response:
    """Make the answer that turns a request down."""
    headers = problem.headers() | {"x-request-id": f"req_{id}"}
    return Response(body, problem.status, headers, JSON)


async def read_body(request: Request, receive: Receive, *, any_type: bool = False) -> bytes | None:
    """Return a request's body; None if the client left. ``Declined`` if it may not be read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not any_type:
        raise declined("unsupported_media_type", "Expected the Content-Type application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise declined("unsupported_media_type", "Expected a body that is not compressed.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:12]) > MAX_BODY:
        raise _too_large()
    with trio.move_on_after(BODY_WITHIN):
        return await _read_all(receive)
    raise declined("request_timeout", "The request's body did not come in time.")


async def _read_all(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> Declined:
    return declined("request_too_large", f"Expected a body of at most {MAX_BODY} bytes.")


_FIELDS: Final = {
    "tools": ("tools", "use tools"),
    "json_schema": ("response_format", "keep to a JSON schema"),
    "logprobs": ("logprobs", "tell how likely its words were"),
    "choices": ("n", "give several answers at once"),
}
"""What an engine may lack, the field that asks for it, and what it is."""


def check_needs(model: Served, asked: Asked) -> None:
    """Raise ``Declined`` if the model's engine cannot do what is asked."""
    lacks = asked.needs - model.capabilities
    if not lacks:
        return
    for capability, (param, what) in _FIELDS.items():
        if capability in lacks and not lacks - _FIELDS.keys():
            raise declined(
                "unsupported_parameter", f"The model {model.name} cannot {what} here.", param
            )
    can = ", ".join(sorted(model.capabilities)) or "nothing"
    raise declined(
        "model_not_supported",
        f"The model {model.name} is not for {asked.endpoint}; it can: {can}.",
        "model",
    )
