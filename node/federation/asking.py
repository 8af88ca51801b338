"""One peer is asked, and not believed: the same model, and a receipt that fits what it said.

What it sees is the request as our own engine would get it, and the manifest's CID as the model's
name. What it says is bounded in size and in silence. An answer in one piece is held until its
receipt has been checked; events go on as they come, and the last one, without which no client takes
an answer for whole, waits for the receipt.

    PeerRefused    it does not want to, or cannot now: another one may
    BadBytes       another model, or a receipt that does not fit: it lies, or something is broken
    PeerFault      it broke the protocol or a bound, broke off, fell silent
"""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import trio

from node.federation.events import is_comment, is_last, renamed
from node.inference import Answer, Call, Served
from node.sse import MAX_EVENT, EventCutter
from p2p.cid import CID
from p2p.errors import BadBytes, PeerFault, PeerGone, PeerRefused, TooMuch, VerificationFailed
from p2p.http import ClientResponse, HttpLimits
from p2p.http.client import retry_after
from p2p.receipt import MAX_RECEIPT, check_receipt, read_receipt
from p2p.serving import ANSWER, DIGEST_HEADER, RECEIPT, RECEIPT_HEADER, RECEIPT_ID

PATIENCE: Final = 600.0
"""Seconds that a peer may say nothing before the head of its answer: it may have to load the model,
and an answer in one piece has its head when it is whole."""
MAX_WHOLE: Final = 16 << 20
"""Bytes of an answer in one piece: 2,048 embeddings of 768 numbers; it is held in memory."""
MAX_STREAM: Final = 64 << 20
"""Bytes of an answer in events: some 250,000 tokens."""
RECEIPT_WITHIN: Final = 20.0
"""Seconds for the receipt, once the answer is there: it only has to be signed."""
LIMITS: Final = HttpLimits(answer=PATIENCE, stall=30.0, crumb=64)
"""Of a stream on which an answer comes: events are small, and every ten seconds there is a sign."""

Told = Callable[[PeerFault | None], None]
"""Hears how an exchange ended: None when it was proved to its end, else what the peer did."""

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"


class Session(Protocol):
    """An open way to a peer, as ``p2p.sources.PeerSession``."""

    async def get(self, target: str, *, limit: int) -> bytes:
        """Return the body of ``target``; PeerRefused for another status than 200."""

    async def post(self, target: str, body: bytes) -> ClientResponse:
        """Send JSON; the answer, whatever its status."""


class Way(Protocol):
    """A peer that may answer, as ``p2p.sources.PeerSource``."""

    @property
    def peer(self) -> str:
        """Its peer id."""

    def open(self, limits: HttpLimits | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session; NoSources when it can't be reached. Leaving it in the middle hangs up."""


@asynccontextmanager
async def ask_peer(way: Way, model: Served, call: Call, told: Told) -> AsyncIterator[Answer]:
    """Have a peer answer; the block begins with the first bytes of the answer proper.

    What goes wrong later the body raises, and ``told`` hears of it, as it does of a good end.
    NoSources, and the errors of the module, where nothing has been passed on.
    """
    async with way.open(LIMITS) as session:
        exchange = _Exchange(session, way.peer, model, call)
        call.handed()
        response = await exchange.send()
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == EVENTS and call.stream and response.status == 200:
            stream = _Stream(exchange, response, told)
            await stream.begin()
            yield Answer(200, EVENTS, stream, way.peer)
        elif kind == JSON:
            body = await exchange.whole(response)
            told(None)
            yield Answer(response.status, JSON, _Once(body), way.peer)
        else:
            raise exchange.fault(f"Expected an answer in JSON or events, came {kind[:40]!r}.")


class _Exchange:
    """One request to one peer, and what its receipt has to say."""

    def __init__(self, session: Session, peer: str, model: Served, call: Call) -> None:
        self._session = session
        self._peer = peer
        self._model = model
        self._call = call
        self._request = addressed(call.body, model.manifest)
        self._said = hashlib.sha256()
        self._status = 0
        self._receipt = ""
        self.size = 0

    async def send(self) -> ClientResponse:
        """Send the request; the head of an answer that is an engine's, of the right model."""
        manifest = self._model.manifest
        target = f"{ANSWER}/{manifest}/{self._call.endpoint}"
        response = await self._session.post(target, self._request)
        status, digest = response.status, response.headers.get(DIGEST_HEADER)
        if digest is None or status == 429 or status >= 500:
            if status == 200:
                raise self._lie("does not say which model answered")
            raise PeerRefused(
                f"It answered {status}.",
                status=status,
                retry_after=retry_after(response.headers),
                peer=self._peer,
            )
        if digest != str(manifest):
            raise self._lie(f"answered with the model {digest[:80]}, and {manifest} was asked")
        self._receipt = response.headers.get(RECEIPT_HEADER, "")
        if RECEIPT_ID.fullmatch(self._receipt) is None:
            raise self._lie("answered without a receipt")
        self._status = status
        return response

    async def whole(self, response: ClientResponse) -> bytes:
        """Read an answer in one piece, and check its receipt."""
        body = bytearray()
        async for data in response:
            self.hear(data, MAX_WHOLE)
            body += data
        await self.check()
        return self.rename(bytes(body))

    def hear(self, data: bytes, limit: int) -> None:
        """Count what came of the answer."""
        self._said.update(data)
        self.size += len(data)
        if self.size > limit:
            raise TooMuch(f"Expected an answer of at most {limit} bytes.", peer=self._peer)

    def rename(self, data: bytes) -> bytes:
        """Put our name of the model where the peer has its digest."""
        return renamed(data, str(self._model.manifest), self._model.name)

    async def check(self) -> None:
        """Fetch the receipt and compare it with what was asked and what came; BadBytes."""
        try:
            with trio.fail_after(RECEIPT_WITHIN):
                target = f"{RECEIPT}/{self._receipt}"
                receipt = read_receipt(await self._session.get(target, limit=MAX_RECEIPT))
            check_receipt(
                receipt,
                manifest=self._model.manifest,
                peer=self._peer,
                request_sha256=hashlib.sha256(self._request).hexdigest(),
                response_sha256=self._said.hexdigest(),
                now=time.time(),
            )
        except PeerRefused as exc:
            raise self._lie("does not give the receipt of its answer") from exc
        except VerificationFailed as exc:
            raise self._lie(f"gave a false receipt ({exc.message.rstrip('.')})") from exc
        except trio.TooSlowError as exc:
            raise PeerGone("Its receipt did not come in time.", peer=self._peer) from exc
        said = receipt.exchange
        if (said.status, said.endpoint) != (self._status, self._call.endpoint):
            raise self._lie(f"gave the receipt of a {said.status} to {said.endpoint}")

    def fault(self, message: str) -> PeerFault:
        """Make the error for a breach of the protocol."""
        return PeerFault(message, peer=self._peer)

    def _lie(self, what: str) -> BadBytes:
        return BadBytes(
            f"The peer {self._peer} {what}: its answer is refused.",
            peer=self._peer,
            next="Ask again: another peer is asked then, or this one when an hour has gone.",
        )


class _Once:
    """A body in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        body, self._body = self._body, b""
        if not body:
            raise StopAsyncIteration
        return body


class _Stream:
    """A body of events: each goes on when it is whole, the last when the receipt was checked.

    An iterator and no generator, so that leaving it in the middle leaves nothing behind.
    """

    def __init__(self, exchange: _Exchange, response: ClientResponse, told: Told) -> None:
        self._exchange = exchange
        self._response = response
        self._told = told
        self._events = EventCutter(TooMuch)
        self._ready = b""
        """Events that are to go on."""
        self._held = b""
        """The last event, and whatever came behind it."""
        self._done = False

    async def begin(self) -> None:
        """Wait for the first event that is more than a sign of life."""
        self._ready = await self._next()
        if not self._ready:
            raise self._exchange.fault("Expected an answer, came a stream without events.")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        ready, self._ready = self._ready, b""
        try:
            ready = ready or await self._next()
        except PeerFault as exc:
            self._told(exc)
            raise
        if not ready:
            raise StopAsyncIteration
        return self._exchange.rename(ready)

    async def _next(self) -> bytes:
        """The next events that may go on; empty at the end, when the receipt was checked."""
        with trio.move_on_after(PATIENCE):  # signs of life may come for ever
            while not self._done:
                data = await anext(self._response, b"")
                if data:
                    self._exchange.hear(data, MAX_STREAM)
                    ready = self._sort(self._events.feed(data))
                else:
                    ready = await self._end()
                if ready:
                    return ready
            return b""
        raise self._exchange.fault(f"It gave nothing but signs of life for {PATIENCE:g} s.")

    def _sort(self, events: list[bytes]) -> bytes:
        """Hold the last event back, and what comes after it; leave out what is none."""
        for at, event in enumerate(events):
            if self._held or is_last(event):
                self._held += b"".join(events[at:])
                if len(self._held) > MAX_EVENT:
                    raise self._exchange.fault("Expected an end, came more after the last event.")
                events = events[:at]
                break
        return b"".join(event for event in events if not is_comment(event))

    async def _end(self) -> bytes:
        if self._events.pending:
            raise self._exchange.fault("The answer ended inside an event.")
        await self._exchange.check()
        self._done = True
        self._told(None)
        return self._held


def addressed(body: bytes, manifest: CID) -> bytes:
    """Return a request to a model that is called by its digest: our name for it is our own."""
    fields = json.loads(body)
    fields["model"] = str(manifest)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
