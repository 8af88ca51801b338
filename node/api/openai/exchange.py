"""One request and its answer: who asks, what, of which model, and what it took.

    identify -> read the body -> check it -> find the model -> admit -> moderate the prompt
      -> ask -> relay, moderated where somebody moderates -> write down what it took

A client that hangs up cancels all of it, whether it waits in the queue or in the middle of an
answer, and so frees the slot. What goes wrong before the first byte is a status and a body, later
it is the last thing in the stream. What a request took is written down once, whatever happens.

This is the same for every door: a ``Door`` says what is read and how refusals look. Nothing that
a client or a model says is logged, not even with a bug of ours.
"""

import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from node.accounts import Account, Use
from node.api.loopback import answer_and_close
from node.api.openai.desk import Desk
from node.api.openai.entrance import check_needs, find, identify, new_id, read_body, refusal
from node.api.openai.errors import (
    Declined,
    Problem,
    declined,
    engine_problem,
    error_body,
    problem_of,
)
from node.api.openai.fields import parse_object
from node.api.openai.forms import Opening
from node.api.openai.relay import Relay, in_thread, read_refusal
from node.api.openai.requests import Asked
from node.api.openai.tally import taken, unseen
from node.inference import Call, Served
from p2p.errors import AllodError, Refused, culprit

RECORD_WITHIN: Final = 5.0
"""Seconds that writing down the use may take when all else is being cancelled."""

HUNG_UP: Final = 499
"""The status that is written down when the client did not wait for the answer, as nginx does."""

FIRST_ONLY: Final = frozenset({"", "llama-server", "xllamacpp"})
"""Engines that tell the usage of the first of several choices; unknown ones are taken for such."""

RECEIPT_HEADER: Final = "x-allod-receipt"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """One endpoint as a client sees it."""

    endpoint: str
    """As usage and receipts name it: chat/completions, api/chat."""
    read: Callable[[dict[str, Any]], Asked]
    """Checks a request's JSON object; raises ``Declined``."""
    refuse: Callable[[Problem], bytes] = error_body
    """Writes the body of an error answer."""
    any_type: bool = False
    """Bodies may come without the Content-Type of JSON."""


class Exchange:
    """The ASGI endpoint of a door."""

    def __init__(self, desk: Desk, door: Door) -> None:
        self._desk = desk
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request, id = Request(scope), new_id()
        try:
            account = await identify(self._desk, request)
            body = await read_body(request, receive, any_type=self._door.any_type)
        except AllodError as exc:
            problem = problem_of(exc)
            answer = refusal(problem, self._door.refuse(problem), id)
            await answer_and_close(answer, scope, receive, send)
            return
        if body is not None:
            wants_receipt = request.headers.get(RECEIPT_HEADER, "") not in ("", "0")
            relay = Relay(send, self._desk.moderation)
            reply = _Reply(self._desk, self._door, account, id, relay)
            await reply.run(receive, body, wants_receipt)


class _Reply:
    """The answer to one request while it is made."""

    def __init__(self, desk: Desk, door: Door, account: Account, id: str, relay: Relay) -> None:
        self._desk = desk
        self._door = door
        self._account = account
        self._id = id
        self._relay = relay
        self._began = trio.current_time()
        self._served_by = ""
        self._status = HUNG_UP  # until something else is sure
        self._handed = False

    async def run(self, receive: Receive, body: bytes, wants_receipt: bool) -> None:
        """Answer; cancelled when the client leaves."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                if not self._relay.over:  # else it is the server that closes, in our last send
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            problem = await self._try(body, wants_receipt)
            if problem is not None and self._relay.started:
                await self._relay.fail(problem)
            elif problem is not None:
                await self._relay.refuse(refusal(problem, self._door.refuse(problem), self._id))
            nursery.cancel_scope.cancel()

    async def _try(self, body: bytes, wants_receipt: bool) -> Problem | None:
        """Answer; return what went wrong."""
        try:
            asked = await in_thread(len(body), lambda: self._door.read(parse_object(body)))
            await self._answer(asked, body, wants_receipt)
        # The one boundary of this door: a bug met by one request must not end the node.
        except Exception as exc:
            return self._problem(exc)
        return None

    def _problem(self, exc: Exception) -> Problem:
        cause = culprit(exc) if isinstance(exc, ExceptionGroup) else exc
        if isinstance(cause, AllodError):
            return problem_of(cause)
        # Not its message: that may quote what the client said.
        trace = "".join(traceback.format_tb(cause.__traceback__))
        _log.error("%s failed: %s\n%s", self._door.endpoint, type(cause).__name__, trace)
        return Problem("internal_error", "This node made a mistake; its log says where.")

    async def _answer(self, asked: Asked, body: bytes, wants_receipt: bool) -> None:
        model = find(self._desk, asked.model)
        self._admit(model)
        may_leave = self._account.via_peers
        call = await in_thread(len(body), lambda: asked.call(model.name, may_leave))
        call = replace(call, handed=self._hand)
        async with self._written_down(model, asked, call):
            check_needs(model, asked)
            await self._moderate(asked)
            async with self._desk.inference.ask(model, call) as answer:
                self._served_by = answer.served_by
                if answer.status != 200:
                    self._handed = False  # it did not take the request
                    raise Declined(engine_problem(answer.status, await read_refusal(answer)))
                self._prepare(asked, model, body if wants_receipt else None)
                await self._relay.run(answer)

    def _hand(self) -> None:
        """From here on the request takes an engine's time, whether anybody waits for it or not."""
        self._handed = True

    def _admit(self, model: Served) -> None:
        try:
            self._desk.accounts.admit(self._account, model)
        except Refused as exc:
            message = f"{exc.message} {exc.next}".strip()
            raise declined("model_not_allowed", message, "model") from exc

    async def _moderate(self, asked: Asked) -> None:
        if self._desk.moderation is None:
            return
        if asked.opaque:
            raise declined(
                "content_filter", "With moderation on a prompt is text, and not token numbers."
            )
        await self._desk.moderation.check_prompt(asked.prompts)

    def _prepare(self, asked: Asked, model: Served, for_receipt: bytes | None) -> None:
        opening = Opening(
            model=model.name,
            id=self._id,
            now=time.time() - (trio.current_time() - self._began),
            n=asked.n,
            choices=asked.choices,
            first_only=model.engine in FIRST_ONLY,
            listening=self._desk.moderation is not None and asked.endpoint != "embeddings",
        )
        headers = {
            "x-request-id": f"req_{self._id}",
            "x-model-digest": str(model.manifest),
            "x-model-publisher": model.publisher,
            "x-served-by": self._served_by,
            "cache-control": "no-store",
        }
        draft = None
        if for_receipt is not None:
            draft = self._desk.receipts.begin(model, self._door.endpoint, for_receipt)
            headers["x-receipt-id"] = draft.id
        self._relay.prepare(asked.form(opening), headers, draft, self._served_by)

    @asynccontextmanager
    async def _written_down(self, model: Served, asked: Asked, call: Call) -> AsyncIterator[None]:
        """Write down what the request took, once, however it ends."""
        try:
            yield
        except Exception as exc:
            cause = culprit(exc) if isinstance(exc, ExceptionGroup) else exc
            self._status = problem_of(cause).status if isinstance(cause, AllodError) else 500
            raise
        finally:
            if self._relay.over:
                self._status = 200
            use = self._use(model, asked, call)
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + RECORD_WITHIN
                await self._desk.accounts.record(self._account, use)

    def _use(self, model: Served, asked: Asked, call: Call) -> Use:
        prompt = completion = 0
        form = self._relay.form
        if self._handed or form is not None:
            left = unseen(asked) if self._status == HUNG_UP else 0
            prompt, completion = taken(form.usage if form else None, len(call.body), left)
        return Use(
            model=model.name,
            manifest=model.manifest,
            endpoint=self._door.endpoint,
            prompt=prompt,
            completion=completion,
            status=self._status,
            seconds=trio.current_time() - self._began,
            served_by=self._served_by,
        )
