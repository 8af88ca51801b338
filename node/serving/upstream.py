"""One request to whoever runs a model: an engine on its Unix socket, or a server elsewhere.

The answer's bytes are handed on as they come. What can go wrong is said in our words: the engine
died, it fell silent, it cannot be reached; its own errors go through as an answer, the door knows
how to read them.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from node.inference import Answer, Call
from p2p.errors import EngineError

CONNECT_WITHIN: Final = 10.0
"""Seconds to reach a server; an engine's socket is there or is not."""
SILENT: Final = "gave no answer in time to"
BROKE_OFF: Final = "broke off an answer for"
"""What an engine or a server did, with the model's name after it."""

EVENTS: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Renaming:
    """What the model is called there, where that is not what it is called here."""

    there: str
    here: str
    says_done: bool = True
    """Whether streams end there with ``[DONE]``."""


class Upstream:
    """A server that answers OpenAI's requests; ``failed`` makes the error of a broken answer."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        served_by: str,
        renaming: Renaming | None,
        failed: Callable[[str], Awaitable[EngineError]],
    ) -> None:
        self._client = client
        self._served_by = served_by
        self._renaming = renaming
        self._failed = failed

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[Answer]:
        """Send the request; the block begins with the head of the answer."""
        request = self._client.build_request(
            "POST",
            call.endpoint,
            content=_rename_request(call.body, self._renaming),
            headers={"content-type": "application/json"},
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as exc:
            raise await self._broken(exc) from exc
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            body = self._body(response)
            if self._renaming is not None:
                body = _rename_lines(body, self._renaming, stream=kind == EVENTS)
            yield Answer(response.status_code, kind, body, self._served_by)
        finally:
            await response.aclose()  # the engine notices, and frees its slot

    async def _body(self, response: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_raw():
                yield piece
        except httpx.HTTPError as exc:
            raise await self._broken(exc) from exc

    async def _broken(self, exc: httpx.HTTPError) -> EngineError:
        if isinstance(exc, httpx.TimeoutException):
            return await self._failed(SILENT)
        return await self._failed(BROKE_OFF)


def engine_client(socket: Path, *, answer_within: float | None) -> httpx.AsyncClient:
    """Return a client for an engine on a Unix socket."""
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(socket)),
        base_url="http://engine/v1/",
        timeout=httpx.Timeout(answer_within, connect=CONNECT_WITHIN, pool=None),
    )


def server_client(url: str, key: str, *, answer_within: float | None) -> httpx.AsyncClient:
    """Return a client for an OpenAI-compatible server; ``url`` ends with /v1 as a rule."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/") + "/",
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(answer_within, connect=CONNECT_WITHIN, pool=None),
        follow_redirects=False,  # the secret is for nobody else
    )


def _rename_request(body: bytes, renaming: Renaming | None) -> bytes:
    if renaming is None:
        return body
    value = json.loads(body)
    value["model"] = renaming.there
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _rename_lines(
    body: AsyncIterator[bytes], renaming: Renaming, *, stream: bool
) -> AsyncIterator[bytes]:
    """Put our name in the place of theirs, which may be a path, and end as OpenAI's streams do."""
    theirs, ours = json.dumps(renaming.there).encode(), json.dumps(renaming.here).encode()
    rest = b""
    async for piece in body:
        *lines, rest = (rest + piece).split(b"\n")
        if lines:
            yield b"".join(line.replace(theirs, ours) + b"\n" for line in lines)
    if rest:
        yield rest.replace(theirs, ours)
    if stream and not renaming.says_done:
        yield b"data: [DONE]\n\n"
