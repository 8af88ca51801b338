"""One request to whoever runs a model: an engine on its Unix socket, or a server elsewhere.

The answer's bytes are handed on as they come. What can go wrong is said in our words: the engine
died, it fell silent, it cannot be reached; its own errors go through as an answer, the door knows
how to read them. Silence is bounded by ``serve.answer_within`` where bytes come as they are made;
an answer in one piece has no byte before its end, so that is given a second a token besides.

An engine is asked with our own HTTP client (p2p/http), one connection a request: a millisecond
faster than httpx, which is what a server elsewhere is asked with, for its TLS and its proxies.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx
import trio

from node.inference import Answer, Call
from p2p.errors import EngineError, NotFound, PeerFault
from p2p.http import HttpClient, HttpLimits

T = TypeVar("T")

CONNECT_WITHIN: Final = 10.0
"""Seconds to reach a server; an engine's socket is there or is not."""
MAX_WHOLE_ANSWER: Final = 3600.0
"""Seconds for an answer in one piece: its head comes when all of it has been made, and an engine
that is stopped for one long answer takes everybody else's with it."""
A_TOKEN: Final = 1.0
"""Seconds that a token may take: large models on small machines take about that."""
_LENGTHS: Final = (b"max_tokens", b"n")
MAX_LINE: Final = 1 << 20
"""Bytes of a stream's line in which a name is looked for: a token with its odds has some KiB."""
MAX_WHOLE: Final = 64 << 20
"""The same of an answer in one piece, which may be one line: as much as a door takes."""
SILENT: Final = "gave no answer in time for"
BROKE_OFF: Final = "broke off an answer for"
"""What an engine or a server did, with the model's name after it."""

EVENTS: Final = "text/event-stream"

# Silence is measured here, and an engine of this node may send token by token.
_LIMITS: Final = HttpLimits(answer=1e9, stall=1e9, crumb=1)
_JSON: Final = (("content-type", "application/json"),)

_PLAIN: Final = {"accept-encoding": "identity"}  # bytes go on as they come
_HTTPX: Final = (httpx.HTTPError, RuntimeError)
"""What httpx raises; its RuntimeErrors say that a client or a stream was closed."""

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
            call.handed()
            response = await self._patiently(asking, _head_within(call, self._within))
            kind = _kind(response.headers.get("content-type", ""))
            pieces = _renamed(self._body(response), self._renaming, kind)
            yield Answer(response.status, kind, pieces, self._served_by)
        finally:
            await trio.aclose_forcefully(stream)  # the engine notices, and frees its slot

    async def _patiently(self, waiting: Awaitable[T], within: float) -> T:
        try:
            with trio.move_on_after(within):
                return await waiting
        except PeerFault as exc:
            raise await self._failed(BROKE_OFF) from exc
        raise await self._failed(SILENT)

    async def _body(self, response: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        while piece := await self._patiently(anext(response, b""), self._within):
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
        self._closed = False

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[Answer]:
        """See Upstream; ``NotFound`` when it was closed meanwhile."""
        request = self._request(call)
        try:
            self._check_open()
            call.handed()
            response = await self._client.send(request, stream=True)
        except _HTTPX as exc:
            raise await self._broken(exc) from exc
        try:
            coding = response.headers.get("content-encoding", "").strip().lower()
            if coding not in ("", "identity"):
                raise await self._failed(f"answered in the encoding {coding[:20]!r} for")
            kind = _kind(response.headers.get("content-type", ""))
            pieces = _renamed(self._body(response), self._renaming, kind)
            yield Answer(response.status_code, kind, pieces, self._served_by)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections to it; nobody is asked any more."""
        self._closed = True
        await self._client.aclose()

    async def _body(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in response.aiter_raw():
                yield piece
        except _HTTPX as exc:
            raise await self._broken(exc) from exc

    def _request(self, call: Call) -> httpx.Request:
        patience = self._client.timeout
        read = None if patience.read is None else _head_within(call, patience.read)
        timeout = httpx.Timeout(
            connect=patience.connect, read=read, write=patience.write, pool=patience.pool
        )
        body = _rename_request(call.body, self._renaming)
        return self._client.build_request(
            "POST", call.endpoint, content=body, headers=dict(_JSON), timeout=timeout
        )

    def _check_open(self) -> None:
        if self._closed:
            raise NotFound(
                "The model was stopped, or is served anew, while this request waited.",
                next="Ask again; `allod ps` lists what is served.",
            )

    async def _broken(self, exc: Exception) -> EngineError:
        self._check_open()
        if not isinstance(exc, httpx.HTTPError | httpx.StreamError):
            raise exc
        silent = isinstance(exc, httpx.TimeoutException)
        return await self._failed(SILENT if silent else BROKE_OFF)


def server_client(url: str, key: str, *, answer_within: float | None) -> httpx.AsyncClient:
    """Return a client for an OpenAI-compatible server; ``url`` ends with /v1 as a rule."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/") + "/",
        headers=_PLAIN | ({"authorization": f"Bearer {key}"} if key else {}),
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
    body: AsyncGenerator[bytes, None], renaming: Renaming | None, kind: str
) -> AsyncGenerator[bytes, None]:
    return body if renaming is None else _rename_lines(body, renaming, stream=kind == EVENTS)


async def _rename_lines(
    body: AsyncGenerator[bytes, None], renaming: Renaming, *, stream: bool
) -> AsyncGenerator[bytes, None]:
    """Put our name in the place of theirs, which may be a path, and end as OpenAI's streams do."""
    swap = _swap(renaming)
    most = MAX_LINE if stream else MAX_WHOLE
    rest = bytearray()
    async with aclosing(body):
        async for piece in body:
            end = piece.rfind(b"\n") + 1
            if end:
                yield swap(bytes(rest) + piece[:end])
                rest.clear()
            rest += piece[end:]
            if len(rest) > most:
                raise EngineError(f"Expected lines of at most {most} bytes, came a longer one.")
    if rest:
        yield swap(bytes(rest))
    if stream and not renaming.says_done:
        yield b"data: [DONE]\n\n"


def _swap(renaming: Renaming) -> Callable[[bytes], bytes]:
    """Return what changes the name in members called ``model``, and nowhere else.

    What a model says is JSON within JSON: its quotes are escaped, so it is never taken for one.
    """
    written = {json.dumps(renaming.there, ensure_ascii=ascii).encode() for ascii in (True, False)}
    member = re.compile(rb'("model"[ \t]*:[ \t]*)(?:' + b"|".join(map(re.escape, written)) + rb")")
    ours = json.dumps(renaming.here).encode()
    return lambda data: member.sub(lambda found: found[1] + ours, data)


def _head_within(call: Call, within: float) -> float:
    """Return how long the head of an answer may take."""
    if call.stream or call.endpoint == "embeddings":
        return within
    # Within a text the quotes are escaped: this is found in no prompt.
    longest, several = (re.search(rb'"%s": ?(\d{1,9})' % name, call.body) for name in _LENGTHS)
    tokens = int(longest[1]) if longest else MAX_WHOLE_ANSWER
    tokens *= int(several[1]) if several else 1
    return max(within, min(MAX_WHOLE_ANSWER, within + tokens * A_TOKEN))
