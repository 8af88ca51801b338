"""One request to whoever runs a model: an engine on its Unix socket, or a server elsewhere.

The answer's bytes are handed on as they come. What can go wrong is said in our words: the engine
died, it fell silent, it cannot be reached; its own errors go through as an answer, the door knows
how to read them.

An engine is asked with our own HTTP client (p2p/http), one connection a request: a millisecond
faster than httpx, which is what a server elsewhere is asked with, for its TLS and its proxies.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx
import trio

from node.inference import Answer, Call
from p2p.errors import EngineError, PeerFault
from p2p.http import HttpClient, HttpLimits

T = TypeVar("T")

CONNECT_WITHIN: Final = 10.0
"""Seconds to reach a server; an engine's socket is there or is not."""
SILENT: Final = "gave no answer in time to"
BROKE_OFF: Final = "broke off an answer for"
"""What an engine or a server did, with the model's name after it."""

EVENTS: Final = "text/event-stream"

# Silence is measured here, and an engine of this node may send token by token.
_LIMITS: Final = HttpLimits(answer=1e9, stall=1e9, crumb=1)
_JSON: Final = (("content-type", "application/json"),)

Failed = Callable[[str], Awaitable[EngineError]]
"""Makes the error of a broken answer, and does what follows from it."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """What the model is called there, where that is not what it is called here."""

    there: str
    here: str
    says_done: bool = True
    """Whether streams end there with ``[DONE]``."""


class Upstream(Protocol):
    """Whoever answers OpenAI's requests."""

    def ask(self, call: Call) -> AbstractAsyncContextManager[Answer]:
        """Send the request; the block begins with the head of the answer."""


class EngineUpstream:
    """An engine of this node, on its socket; ``within``: seconds for the next bytes to come."""

    def __init__(
        self, socket: Path, within: float | None, served_by: str, failed: Failed,
        renaming: Renaming | None = None,
    ) -> None:  # fmt: skip
        self._socket = socket
        self._within = float("inf") if within is None else within
        self._served_by = served_by
        self._failed = failed
        self._renaming = renaming

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[Answer]:
        """See Upstream."""
        try:
            stream = await trio.open_unix_socket(str(self._socket))
        except OSError as exc:
            raise await self._failed(BROKE_OFF) from exc
        try:
            client = HttpClient(stream, limits=_LIMITS)
            body = _rename_request(call.body, self._renaming)
            asking = client.ask(f"/v1/{call.endpoint}", method="POST", headers=_JSON, body=body)
            response = await self._patiently(asking)
            kind = _kind(response.headers.get("content-type", ""))
            pieces = _renamed(self._body(response), self._renaming, kind)
            yield Answer(response.status, kind, pieces, self._served_by)
        finally:
            await trio.aclose_forcefully(stream)  # the engine notices, and frees its slot

    async def _patiently(self, waiting: Awaitable[T]) -> T:
        try:
            with trio.move_on_after(self._within):
                return await waiting
        except PeerFault as exc:
            raise await self._failed(BROKE_OFF) from exc
        raise await self._failed(SILENT)

    async def _body(self, response: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while piece := await self._patiently(anext(response, b"")):
            yield piece


class ServerUpstream:
    """A server elsewhere; ``client`` knows its URL, its secret and its patience."""

    def __init__(
        self, client: httpx.AsyncClient, served_by: str, failed: Failed,
        renaming: Renaming | None = None,
    ) -> None:  # fmt: skip
        self._client = client
        self._served_by = served_by
        self._failed = failed
        self._renaming = renaming

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[Answer]:
        """See Upstream."""
        body = _rename_request(call.body, self._renaming)
        request = self._client.build_request(
            "POST", call.endpoint, content=body, headers=dict(_JSON)
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as exc:
            raise await self._broken(exc) from exc
        try:
            kind = _kind(response.headers.get("content-type", ""))
            pieces = _renamed(self._body(response), self._renaming, kind)
            yield Answer(response.status_code, kind, pieces, self._served_by)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections to it."""
        await self._client.aclose()

    async def _body(self, response: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_raw():
                yield piece
        except httpx.HTTPError as exc:
            raise await self._broken(exc) from exc

    async def _broken(self, exc: httpx.HTTPError) -> EngineError:
        silent = isinstance(exc, httpx.TimeoutException)
        return await self._failed(SILENT if silent else BROKE_OFF)


def server_client(url: str, key: str, *, answer_within: float | None) -> httpx.AsyncClient:
    """Return a client for an OpenAI-compatible server; ``url`` ends with /v1 as a rule."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/") + "/",
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(answer_within, connect=CONNECT_WITHIN, pool=None),
        follow_redirects=False,  # the secret is for nobody else
    )


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _rename_request(body: bytes, renaming: Renaming | None) -> bytes:
    if renaming is None:
        return body
    value = json.loads(body)
    value["model"] = renaming.there
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _renamed(
    body: AsyncIterator[bytes], renaming: Renaming | None, kind: str
) -> AsyncIterator[bytes]:
    return body if renaming is None else _rename_lines(body, renaming, stream=kind == EVENTS)


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
