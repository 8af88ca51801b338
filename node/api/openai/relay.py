"""The bytes of an answer on their way out: piece by piece, held back where somebody moderates.

The head goes out with the first piece, so that what goes wrong before it is still a status of its
own. With a moderator, a piece goes out only when all text in it has been judged.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, Final, cast

import trio
from starlette.responses import Response
from starlette.types import Send

from node.api.openai.desk import Draft
from node.api.openai.errors import Problem
from node.api.openai.forms import Form
from node.inference import Answer
from node.moderation import WINDOW, Moderation

LARGE: Final = 256 << 10
"""Bytes of JSON past which it is read or written in a thread: 256 KiB take some milliseconds."""

READERS: Final = 2
"""Large pieces of JSON that are read at the same time: one can take some hundred MiB meanwhile."""

MAX_HELD: Final = 1 << 20
"""Bytes of a stream that are held back for a moderator, however little text is in them."""

MAX_REFUSAL: Final = 64 << 10
"""Bytes of an engine's error that are read."""

_readers: Final = trio.CapacityLimiter(READERS)


class Relay:
    """Sends one answer."""

    def __init__(self, send: Send, moderation: Moderation | None) -> None:
        self._send = send
        self._moderation = moderation
        self._headers: dict[str, str] = {}
        self._draft: Draft | None = None
        self._served_by = ""
        self._held = bytearray()
        self.form: Form | None = None
        self.started = False
        """The head is out."""
        self.over = False
        """The last byte is on its way: whoever hangs up now has all of it."""

    def prepare(
        self, form: Form, headers: Mapping[str, str], draft: Draft | None, served_by: str
    ) -> None:
        """Take what goes with the answer."""
        self.form = form
        self._headers = {**headers, "content-type": form.content_type}
        self._draft = draft
        self._served_by = served_by

    async def run(self, answer: Answer) -> None:
        """Send the engine's answer in the client's form, to its end."""
        form, size = self._form(), 0
        async with closing(answer.body):
            async for data in answer.body:
                if form.done:
                    break  # it said that it had ended; an engine's body does end then
                size += len(data)
                await self._say(form.feed(data, time.time()))
                # A body that is there already yields without waiting: others have their turn too.
                await trio.lowlevel.checkpoint()
        last: bytes = await in_thread(0 if self.started else size, lambda: form.end(time.time()))
        await self._judge()
        await self._finish(bytes(self._held) + last)

    async def fail(self, problem: Problem) -> None:
        """Say in the middle of the answer that it broke."""
        if not self.over:
            await self._finish(self._form().fail(problem, time.time()))

    async def refuse(self, response: Response) -> None:
        """Send a refusal in the answer's place."""
        self.started = self.over = True
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await self._send({"type": "http.response.body", "body": response.body, "more_body": False})

    def _form(self) -> Form:
        assert self.form is not None  # there is no answer without one
        return self.form

    async def _say(self, out: bytes) -> None:
        """Send a piece of a stream, or hold it back until a moderator has heard it."""
        if self._moderation is not None:
            self._held += out
            if self._form().ear.size < WINDOW and len(self._held) < MAX_HELD:
                return
            await self._judge()
            out, self._held = bytes(self._held), bytearray()
        if out:
            await self._start(None)
            if self._draft is not None:
                self._draft.feed(out)
            await self._send({"type": "http.response.body", "body": out, "more_body": True})

    async def _judge(self) -> None:
        if self._moderation is not None:
            for text in self._form().ear.take():
                await self._moderation.check_answer(text)

    async def _start(self, length: int | None) -> None:
        if self.started:
            return
        self.started = True
        if length is not None:
            self._headers["content-length"] = str(length)
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _finish(self, last: bytes) -> None:
        if self._draft is not None:
            self._draft.feed(last)
            self._draft.finish(200, self._served_by)
        await self._start(len(last))
        self.over = True
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


async def in_thread(size: int, work: Callable[[], Any]) -> Any:
    """Do work on ``size`` bytes: here if they are few, else in a thread."""
    return work() if size < LARGE else await trio.to_thread.run_sync(work, limiter=_readers)


async def read_refusal(answer: Answer) -> bytes:
    """Return the body of an engine's error, as far as anybody reads it."""
    body = bytearray()
    async with closing(answer.body):
        async for data in answer.body:
            body += data
            if len(body) > MAX_REFUSAL:
                break
    return bytes(body[:MAX_REFUSAL])


def closing(body: AsyncIterator[bytes]) -> AbstractAsyncContextManager[Any]:
    """Close a body that can be closed, also when it was not read to its end."""
    return aclosing(cast(Any, body)) if hasattr(body, "aclose") else nullcontext()
