"""Reading a release's files without fetching them, for programs of this machine's owner.

    GET /control/v1/read?ref={ref}&path={path}   a file's bytes as they come; Range is honoured

``peer=`` may stand there several times: multiaddrs to ask first. It wants the control token, as all
that begins with /control does. An error is the JSON object of the control API.
"""

import json
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from node.api.loopback import check_token, refusal
from node.api.streamed import status_of, streamed, while_connected
from node.messages import Failure
from node.reading import Reader
from p2p.errors import AllodError
from p2p.manifest import FileEntry
from p2p.references import MAX_PEERS


class _Read:
    """The ASGI endpoint."""

    def __init__(self, reader: Reader, token: str) -> None:
        self._reader = reader
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, send, partial(self._respond, scope, receive))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        stranger = check_token(request, self._token)
        if stranger is not None:
            return stranger
        query = request.query_params
        peers = query.getlist("peer")[:MAX_PEERS]
        entry: FileEntry | None = None
        try:
            opened = await self._reader.open(query.get("ref", ""), peers=peers)
            entry = opened.entry(query.get("path", ""))
            headers = {
                "etag": f'"{entry.cid}"',
                "cache-control": "no-store",
                "x-allod-manifest": str(opened.manifest.cid),
            }
            return await streamed(opened, entry, request.headers.get("range"), headers)
        except AllodError as exc:
            status = status_of(exc)
            if status == 416 and entry is not None:
                return refusal(416, "USAGE", exc.message, content_range=f"bytes */{entry.size}")
            body = json.dumps(Failure.of(exc).json()) + "\n"
            return Response(body, status, media_type="application/json")


def read_routes(reader: Reader, token: str) -> list[BaseRoute]:
    """Return the route of this door, for ``loopback_app``."""
    return [Route("/control/v1/read", _Read(reader, token), methods=["GET"])]
