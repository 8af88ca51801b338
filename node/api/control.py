"""The control API: the running node does what the command line asks for.

``POST /control/v1/{operation}`` takes the operation's params as one JSON object and answers with
a stream of lines (NDJSON, see node/messages.py): events, then one result or error. An error that
shows before the work starts is an HTTP status with a JSON body instead.
With ``Prefer: respond-async`` (RFC 7240) a long operation is done in the background: 202 and the
number of its job (node/jobs.py).
A client that hangs up cancels its operation; a blank line goes out when there is long nothing to
say, so that both sides notice a peer that died.
``GET /health`` says that a node answers here, and needs no token.

Whoever has the token may do anything, so it is wanted before a byte of the body is read.
Host and Origin are the guard's business (``loopback``). Knows operations by their table only.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from node.api.loopback import answer_and_close, check_token, refusal
from node.api.outbox import Outbox
from node.jobs import subject_of
from node.messages import (
    MAX_REQUEST,
    Failure,
    Result,
    decode_request,
    encode,
)
from node.operations import OPERATIONS, Node, Operation, perform
from p2p.errors import AllodError, Busy

BODY_TIMEOUT = 10.0  # seconds for at most 1 MiB over loopback
HEARTBEAT = 10.0  # seconds of silence before a blank line; the client gives up after six of them

_log = logging.getLogger(__name__)


def control_routes(
    node: Node, token: str, *, operations: Mapping[str, Operation[Any]] = OPERATIONS
) -> list[BaseRoute]:
    """Return the routes of this door, for ``loopback_app``."""
    return [
        Route("/health", _health, methods=["GET"]),
        Route("/control/v1/{operation}", _Control(node, token, operations), methods=["POST"]),
    ]


async def _health(request: Request) -> Response:
    return JSONResponse({"ok": True})


class _Control:
    """The ASGI endpoint of every operation."""

    def __init__(self, node: Node, token: str, operations: Mapping[str, Operation[Any]]) -> None:
        self._node = node
        self._token = token
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        name = request.path_params["operation"]
        operation = self._operations.get(name)
        problem = self._problem(request)
        if problem is None and (operation is None or operation.here_only):
            problem = refusal(404, "NOT_FOUND", f"This node has no operation {name[:60]!r}.")
        body = b""
        if problem is None:
            with trio.move_on_after(BODY_TIMEOUT) as patience:
                taken = await _read_body(receive)
                if taken is None:
                    return
                body = taken
            if patience.cancelled_caught:
                problem = refusal(408, "USAGE", "The request's body did not come in time.")
            elif len(body) > MAX_REQUEST:
                problem = _too_large()
        if problem is None:
            assert operation is not None
            try:
                params = decode_request(operation.params, body)
            except AllodError as exc:
                problem = refusal(400, exc.code, exc.message)
            else:
                if operation.long and "respond-async" in request.headers.get("prefer", ""):
                    answer = _begin(self._node, operation, params)
                    await answer(scope, receive, send)
                    return
                await _run(self._node, operation, params, receive, send)
                return
        await answer_and_close(problem, scope, receive, send)

    def _problem(self, request: Request) -> Response | None:
        stranger = check_token(request, self._token)
        if stranger is not None:
            return stranger
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return refusal(415, "USAGE", "A request's Content-Type is application/json.")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:12]) > MAX_REQUEST:
            return _too_large()
        return None


def _too_large() -> Response:
    return refusal(413, "USAGE", f"A request has at most {MAX_REQUEST} bytes, but more came.")


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body, cut soon after MAX_REQUEST; None if the client left."""
    body = bytearray()
    while len(body) <= MAX_REQUEST:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


def _begin(node: Node, operation: Operation[Any], params: object) -> Response:
    """Have an operation done in the background."""
    job = node.jobs.open(operation.name, subject_of(params))
    try:
        node.jobs.later(job, partial(perform, node, operation, params, lambda event: None, job))
    except Busy as exc:
        return refusal(429, exc.code, exc.message, retry_after="60")
    headers = {"preference-applied": "respond-async", "cache-control": "no-store"}
    return JSONResponse({"ok": True, "job": job.number}, 202, headers)


async def _run(
    node: Node, operation: Operation[Any], params: object, receive: Receive, send: Send
) -> None:
    """Stream the events of one operation and its end; cancelled when the client leaves."""
    outbox = Outbox()

    async def work() -> None:
        try:
            end: Result | Failure = Result(await perform(node, operation, params, outbox.put))
        # The one boundary of this door: a bug in one operation must not end the node.
        except Exception as exc:
            end = Failure.of_any(exc)
            if end.code == "OTHER":
                _log.exception("operation %s failed", operation.name)
        outbox.end(end)

    ended = False
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not ended:  # else it is the server that closes, in the middle of our last send
                nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        nursery.start_soon(work)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/x-ndjson"),
                    (b"cache-control", b"no-store"),
                ],
            }
        )
        while True:
            line = b"\n"
            with trio.move_on_after(HEARTBEAT):
                message = await outbox.take()
                if message is None:
                    break
                line = encode(message)
            await send({"type": "http.response.body", "body": line, "more_body": True})
        ended = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})
