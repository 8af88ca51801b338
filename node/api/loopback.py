"""The listener on 127.0.0.1, and the guard that every request there has to pass.

Loopback is no trust boundary: any web page that the owner opens can send requests to it.
So the guard wants a Host that names this machine (a page can point its own domain here: DNS
rebinding), an Origin, if there is one, that is this very door, and no word from the browser that
another site is behind the request. Pages that the owner names may use the doors for models
(``origins``). Who may do what is not its business; see ``control``.

Knows Starlette and hypercorn; knows no operation, store or network.
"""

import errno
import hmac
import json
import logging
import re
import socket
from collections.abc import Sequence
from typing import Protocol

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.origins import Origins
from node.api.unread import with_rest_read
from p2p.errors import NetworkError, PortInUse

MAX_HEADERS = 16 << 10  # bytes of a request's head, as on the other doors (p2p/http.py)
GRACE = 1.0  # seconds that open requests get when the node stops
STALL = 60.0  # seconds that a reader may take nothing of what is sent, then it is reset

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)


def refusal(status: int, code: str, message: str, **headers: str) -> Response:
    """Make the JSON answer for a request that is turned down before it does anything."""
    body = json.dumps({"error": {"code": code, "message": message, "next": ""}}) + "\n"
    return Response(
        body,
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        "application/json",
    )


def check_token(request: Request, token: str) -> Response | None:
    """Turn down a request that does not carry the control token; None for one that does."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return None
    return refusal(
        401,
        "REFUSED",
        "This door wants the node's control token as a bearer token.",
        www_authenticate="Bearer",
    )


async def answer_and_close(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a refusal at once, whatever of the body is still to come, then let the connection go."""
    response.headers["connection"] = "close"
    await response(scope, receive, send)


class Guard:
    """ASGI middleware: only requests that name this machine, and come from nowhere else, pass.

    But for pages of ``origins``, which pass to the doors for models.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer a preflight, 400 or 403."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        await with_rest_read(self._pass, scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        guest = self._guest(scope["path"], headers)
        extra = [(b"x-content-type-options", b"nosniff")]
        if guest:
            extra += self._origins.headers(guest)
        asked = headers.get(b"access-control-request-method")
        if problem := _problem(scope, headers, guest):
            await answer_and_close(problem, scope, receive, send)
        elif guest and scope["method"] == "OPTIONS" and asked:
            wanted = ", ".join(headers.get(b"access-control-request-headers", ()))
            private = b"access-control-request-private-network" in headers
            answer = self._origins.preflight(guest, wanted, private)
            await answer_and_close(answer, scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send, extra))

    def _guest(self, path: str, headers: dict[bytes, list[str]]) -> str:
        """Return the origin of a page that the owner lets in here, or nothing."""
        origins = headers.get(b"origin", [])
        if len(origins) == 1 and self._origins.allows(origins[0], path):
            return origins[0]
        return ""


def _headers(scope: Scope) -> dict[bytes, list[str]]:
    headers: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value.decode("latin-1").strip())
    return headers


def _problem(scope: Scope, headers: dict[bytes, list[str]], guest: str) -> Response | None:
    hosts = headers.get(b"host", [])
    if len(hosts) != 1:
        return refusal(400, "USAGE", f"A request has one Host, but {len(hosts)} came.")
    if not _HOST.fullmatch(hosts[0]):
        return refusal(
            403,
            "REFUSED",
            "This door answers to 127.0.0.1, [::1] and localhost only, but the Host is another.",
        )
    if guest:
        return None
    for origin in headers.get(b"origin", []):
        if origin.lower() != f"{scope['scheme']}://{hosts[0]}".lower():
            return refusal(403, "REFUSED", "Another site's page may not speak to this node.")
    for site in headers.get(b"sec-fetch-site", []):
        if site not in ("same-origin", "none"):
            return refusal(403, "REFUSED", "Another site's page may not speak to this node.")
    return None


def _with_headers(send: Send, extra: list[tuple[bytes, bytes]]) -> Send:
    async def send_marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *extra]
        await send(message)

    return send_marked


async def _plain_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = {404: "NOT_FOUND", 405: "USAGE"}.get(exc.status_code, "OTHER")
    return refusal(exc.status_code, code, f"{exc.detail}.", **dict(exc.headers or {}))


def loopback_app(routes: Sequence[BaseRoute], *, origins: Sequence[str] = ()) -> ASGIApp:
    """Join the doors' routes into one application behind the guard.

    Pages of ``origins`` may use the doors for models: https://chat.example.org.
    """
    app = Starlette(routes=routes, exception_handlers={HTTPException: _plain_error})
    app.router.redirect_slashes = False  # no client of ours follows them
    return Guard(app, Origins(origins))


class Started(Protocol):
    """What ``nursery.start`` hands to a server, to be told once that it listens."""

    def started(self, value: str) -> None: ...


async def serve_loopback(
    app: ASGIApp,
    port: int,
    *,
    stall: float = STALL,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the application on 127.0.0.1 until cancelled; reports its URL once it listens.

    Port 0 picks a free one. PortInUse if another program has it. A reader that takes nothing for
    ``stall`` seconds is reset.
    """
    settings = HypercornConfig()
    settings.bind = [f"fd://{_listen(port, stall)}"]
    settings.accesslog = None
    settings.errorlog = logging.getLogger("node.api.hypercorn")
    settings.errorlog.setLevel(logging.WARNING)  # that it runs, the node says itself
    settings.h11_max_incomplete_size = MAX_HEADERS
    settings.graceful_timeout = GRACE
    settings.include_server_header = False
    async with trio.open_nursery() as nursery:
        binds = await nursery.start(serve, app, settings)
        task_status.started(binds[0])


def _listen(port: int, stall: float) -> int:
    """Bind here and not in hypercorn, so that a port in use is one clear error; return the fd."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"The HTTP door wants port {port} on 127.0.0.1, but another program listens there.",
                next="Stop it, or choose another: `allod config set http.port 0` takes a free one.",
            ) from exc
        raise NetworkError(f"Port {port} on 127.0.0.1 cannot be opened: {exc.strerror}.") from exc
    # hypercorn shields its sends from cancellation: without this, one reader that stopped reading
    # would keep the node from ever stopping. Accepted sockets inherit it (Linux only).
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall * 1000))
    listener.setblocking(False)
    return listener.detach()
