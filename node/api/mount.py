"""The peer API on loopback: what other nodes see, for curl, IPFS readers and local programs.

Turns Starlette's requests into those of p2p.http and its responses back, bodies streamed.
"""

from collections.abc import AsyncIterator

import trio
from starlette.requests import Request as WebRequest
from starlette.responses import Response as WebResponse
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute, Route

from p2p.errors import AllodError, NotFound
from p2p.http import FileBody, Handler, LiveBody, Request, Response, error_response

PIECE = 1 << 20  # bytes read from a file at once


def peer_routes(handler: Handler) -> list[BaseRoute]:
    """Return the routes of the peer API, for ``loopback_app``."""

    async def answer(web: WebRequest) -> WebResponse:
        request = Request(
            method=web.method,
            path=web.url.path,
            query=dict(web.query_params),
            headers=dict(web.headers),
            peer="loopback",
        )
        try:
            response = await handler(request)
            if isinstance(response.body, LiveBody):
                raise NotFound("What is made for one peer is answered on its own stream.")
        except AllodError as exc:
            response = error_response(exc)
        return _web(response)

    return [
        Route("/ipfs/{rest:path}", answer, methods=["GET", "HEAD"]),
        Route("/allod/v1/{rest:path}", answer, methods=["GET", "HEAD"]),
    ]


def _web(response: Response) -> WebResponse:
    headers = dict(response.headers)
    body = response.body
    if isinstance(body, bytes):
        return WebResponse(body, response.status, headers)
    assert not isinstance(body, LiveBody)
    if isinstance(body, FileBody):
        headers["content-length"] = str(body.length)
        return StreamingResponse(_pieces(body), response.status, headers)
    return StreamingResponse(body, response.status, headers)


async def _pieces(body: FileBody) -> AsyncIterator[bytes]:
    async with await trio.open_file(body.path, "rb") as file:
        await file.seek(body.offset)
        left = body.length
        while left and (piece := await file.read(min(PIECE, left))):
            left -= len(piece)
            yield piece
