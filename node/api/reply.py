"""One answer to a peer while it is made: asked for, moderated, signed, sent, written down.

The relay of our own doors words it, and so a moderator hears what it hears there. On its way out
the model's name becomes the manifest's CID, and what goes out is what the receipt counts.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import trio

from node.accounts import Account, Use
from node.api.openai.desk import Desk, Draft
from node.api.openai.errors import declined
from node.api.openai.exchange import FIRST_ONLY, HUNG_UP
from node.api.openai.forms import EVENTS, JSON, Form, Opening
from node.api.openai.relay import Relay, read_refusal
from node.api.openai.requests import Asked
from node.api.openai.tally import taken, unseen
from node.federation.events import renamed
from node.inference import Answer, Inference, Served
from p2p.errors import AllodError
from p2p.http import Request, Send, Start, error_response
from p2p.serving import BEAT, DIGEST_HEADER, PUBLISHER_HEADER, RECEIPT_HEADER, SIGN_OF_LIFE

RECORD_WITHIN: Final = 5.0
"""Seconds that writing down the use may take when all else is being cancelled."""


class Reply:
    """The answer to one request of a peer while it is made."""

    def __init__(
        self,
        local: Inference,
        desk: Desk,
        find: Callable[[], Served],
        asked: Asked,
        request: Request,
    ) -> None:
        """``find``: the model that the peer may ask now; raises if there is none any more."""
        self.peer = request.peer
        self._local = local
        self._desk = desk
        self._find = find
        self._model = find()
        self._asked = asked
        self._request = request.body
        self._began = trio.current_time()
        self._status = HUNG_UP  # until something else is sure
        self._form: Form | None = None
        self._handed = False

    async def run(self, start: Start) -> None:
        """Answer; cancelled when the peer hangs up."""
        async with self._written_down():
            await self._moderate()
            # What is served may have changed meanwhile, under the same name too.
            self._model = self._find()
            call = self._asked.call(self._model.name, may_leave=False)
            async with self._local.ask(self._model, replace(call, handed=self._hand)) as answer:
                self._find()  # it may have waited long
                draft = self._desk.receipts.begin(self._model, call.endpoint, self._request)
                outlet = _Outlet(start, self._model, draft, answer.status, self._local.peer_id)
                if answer.status != 200:
                    self._handed = False  # it did not take the request
                    await outlet.whole(await read_refusal(answer))
                else:
                    await self._relay(answer, outlet)
                self._status = answer.status

    def _hand(self) -> None:
        """From here on the request takes an engine's time, whether anybody waits for it or not."""
        self._handed = True

    async def _moderate(self) -> None:
        if self._desk.moderation is None:
            return
        if self._asked.opaque:
            raise declined(
                "content_filter", "With moderation on a prompt is text, and not token numbers."
            )
        await self._desk.moderation.check_prompt(self._asked.prompts)

    async def _relay(self, answer: Answer, outlet: "_Outlet") -> None:
        """Send the engine's answer, with signs of life where it pauses."""
        form = self._form = self._asked.form(self._opening())
        relay = Relay(outlet.take, self._desk.moderation)
        relay.prepare(form, {}, None, answer.served_by)
        failed: list[Exception] = []

        async def attempt(work: Callable[[], Any]) -> None:
            try:
                await work()
            except Exception as exc:
                # Whatever it is, it is raised below: out of the nursery it would come in a group.
                failed.append(exc)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if form.content_type == EVENTS:
                nursery.start_soon(attempt, outlet.beat)
            await attempt(lambda: relay.run(answer))
        if failed:
            raise failed[0]

    def _opening(self) -> Opening:
        return Opening(
            model=self._model.name,
            id=secrets.token_hex(12),
            now=time.time(),
            n=self._asked.n,
            choices=self._asked.choices,
            first_only=self._model.engine in FIRST_ONLY,
            listening=self._desk.moderation is not None and self._asked.endpoint != "embeddings",
        )

    @asynccontextmanager
    async def _written_down(self) -> AsyncIterator[None]:
        """Write down what the request took, once, however it ends."""
        try:
            yield
        except AllodError as exc:
            self._status = error_response(exc).status
            raise
        finally:
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + RECORD_WITHIN
                account = Account(f"peer:{self.peer}", self.peer, (), None, None, via_peers=False)
                await self._desk.accounts.record(account, self._use())

    def _use(self) -> Use:
        prompt = completion = 0
        asked, form = self._asked, self._form
        if self._handed or form is not None:
            left = unseen(asked) if self._status == HUNG_UP else 0
            prompt, completion = taken(form.usage if form else None, len(self._request), left)
        return Use(
            model=self._model.name,
            manifest=self._model.manifest,
            endpoint=self._asked.endpoint,
            prompt=prompt,
            completion=completion,
            status=self._status,
            seconds=trio.current_time() - self._began,
            served_by=self._local.peer_id,
        )


class _Outlet:
    """Sends an answer to a peer: the model by its digest, the receipt ready before the end."""

    def __init__(
        self, start: Start, model: Served, draft: Draft, status: int, served_by: str
    ) -> None:
        self._start = start
        self._model = model
        self._draft = draft
        self._status = status
        self._served_by = served_by
        self._kind = JSON
        self._send: Send | None = None
        self._sending = trio.Lock()
        self._last = trio.current_time()
        self._over = False

    async def whole(self, body: bytes) -> None:
        """Send an answer in one piece."""
        await self._out(body, last=True)

    async def take(self, message: Any) -> None:
        """Take what a ``Relay`` sends, in ASGI's words: a head, then pieces, each whole events."""
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            self._kind = headers[b"content-type"].decode()
        else:
            await self._out(message["body"], last=not message["more_body"])

    async def _out(self, data: bytes, *, last: bool) -> None:
        data = renamed(data, self._model.name, str(self._model.manifest))
        async with self._sending:
            if self._send is None:
                headers = self._headers(len(data) if last else None)
                self._send = await self._start(self._status, headers)
            self._draft.feed(data)
            if last:  # before the peer can ask for the receipt
                self._draft.finish(self._status, self._served_by)
                self._over = True
            await self._send(data)
            self._last = trio.current_time()

    def _headers(self, length: int | None) -> dict[str, str]:
        headers = {
            "content-type": self._kind,
            "cache-control": "no-store",
            DIGEST_HEADER: str(self._model.manifest),
            PUBLISHER_HEADER: self._model.publisher,
            RECEIPT_HEADER: self._draft.id,
        }
        return headers if length is None else headers | {"content-length": str(length)}

    async def beat(self) -> None:
        """Show that the answer goes on, when nothing else does; until it is cancelled."""
        while True:
            await trio.sleep_until(self._last + BEAT)
            async with self._sending:
                idle = trio.current_time() >= self._last + BEAT
                if self._send is not None and idle and not self._over:
                    self._draft.feed(SIGN_OF_LIFE)
                    await self._send(SIGN_OF_LIFE)
                if idle:
                    self._last = trio.current_time()
