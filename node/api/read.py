"""Reading a release's files without fetching them, for programs of this machine's owner.

    GET /control/v1/read?ref={ref}&path={path}   a file's bytes as they come; Range is honoured

``peer=`` may stand there several times: multiaddrs to ask first. It wants the control token, as all
that begins with /control does. An error is the JSON object of the control API.
"""

import hmac
import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from node.api.loopback import refusal
from node.api.streamed import status_of, streamed
from node.messages import Failure
from node.reading import Reader
from p2p.errors import AllodError
from p2p.references import MAX_PEERS

MAX_PATH = 4096  # characters; a release's paths are shorter


def read_routes(reader: Reader, token: str) -> list[BaseRoute]:
    """Return the route of this door, for ``loopback_app``."""

    async def read(request: Request) -> Response:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode(), token.encode()
        ):
            wanted = "This door wants the node's control token as a bearer token."
            return refusal(401, "REFUSED", wanted, www_authenticate="Bearer")
        query = request.query_params
        peers = query.getlist("peer")[:MAX_PEERS]
        try:
            opened = await reader.open(query.get("ref", ""), peers=peers)
            entry = opened.entry(query.get("path", "")[:MAX_PATH])
            headers = {
                "etag": f'"{entry.cid}"',
                "cache-control": "no-store",
                "x-allod-manifest": str(opened.manifest.cid),
            }
            return await streamed(opened, entry, request.headers.get("range"), headers)
        except AllodError as exc:
            failure = Failure.of(exc)
            body = json.dumps(failure.json()) + "\n"
            return Response(body, status_of(exc), media_type="application/json")

    return [Route("/control/v1/read", read, methods=["GET"])]
