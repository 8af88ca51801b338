"""What is left of a request's body when it is answered: read and dropped, within bounds.

A connection can carry a further request only once the body of the last one has come. hypercorn
closes it otherwise, without a word: a client that has begun with its next request finds a server
that hung up. So a short rest is awaited before the answer begins; with a longer or slower one the
answer says that the connection ends. It is read on until then all the same: hypercorn hands it
over through a bounded queue and would wait on a full one for ever.

Knows ASGI; knows nothing of who asks for what.
"""

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REST = 64 << 10
"""Bytes of a body that are awaited so that the connection can go on."""
REST_TIME = 1.0
"""Seconds for them: they are on their way already, over loopback."""


async def with_rest_read(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the application so that it may answer without having read the body.

    An answer with ``connection: close`` of its own is not held up.
    """
    async with trio.open_nursery() as nursery:
        body = _Body(receive, send, nursery)
        await app(scope, body.receive, body.send)


class _Body:
    def __init__(self, receive: Receive, send: Send, nursery: trio.Nursery) -> None:
        self._receive = receive
        self._send = send
        self._nursery = nursery
        self._ended = trio.Event()
        self._turn = trio.Lock()
        self._gone = False

    async def receive(self) -> Message:
        async with self._turn:
            if self._gone:  # hypercorn says it once, and more than one reader may wait for it
                return {"type": "http.disconnect"}
            message = await self._receive()
            self._gone = message["type"] == "http.disconnect"
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._ended.set()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._ended.is_set():
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            closes = (b"connection", b"close") in headers
            if not closes and not await self._short():
                message["headers"] = [*headers, (b"connection", b"close")]
                closes = True
            if closes:
                self._nursery.start_soon(self._drop)
        await self._send(message)

    async def _short(self) -> bool:
        """Await the rest; whether it came to its end within the bounds."""
        with trio.move_on_after(REST_TIME):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_rest, nursery.cancel_scope)
                # Not only our own reading may come to the end: an answer in pieces watches for a
                # client that hangs up, by the same messages.
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        return self._ended.is_set()

    async def _await_rest(self, scope: trio.CancelScope) -> None:
        left = REST
        while left >= 0 and not self._ended.is_set():
            left -= len((await self.receive()).get("body", b""))
        scope.cancel()

    async def _drop(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
