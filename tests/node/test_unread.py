"""A request that is answered without its body having been read: the connection stays usable."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from starlette.types import Message, Receive, Scope, Send
from trio.testing import MockClock

from node.api.unread import REST, REST_TIME, with_rest_read
from tests.node.door import request, serving

SCOPE: Scope = {"type": "http"}


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


class Asked:
    """A request of an application under test, whose body the test brings."""

    def __init__(self) -> None:
        self._give, self._take = trio.open_memory_channel[Message](0)
        self.sent: list[Message] = []
        self.began = trio.Event()

    async def body(self, data: bytes, *, more: bool) -> None:
        await self._give.send({"type": "http.request", "body": data, "more_body": more})

    async def hang_up(self) -> None:
        await self._give.send({"type": "http.disconnect"})

    async def receive(self) -> Message:
        return await self._take.receive()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.began.set()

    @property
    def headers(self) -> list[Any]:
        return list(self.sent[0]["headers"])


@asynccontextmanager
async def asking(app: Any = refuse) -> AsyncIterator[Asked]:
    asked = Asked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(with_rest_read, app, SCOPE, asked.receive, asked.send)
        yield asked
    assert [message["type"] for message in asked.sent] == [
        "http.response.start",
        "http.response.body",
    ]


async def test_a_short_rest_is_awaited(autojump_clock: MockClock) -> None:
    """The answer comes after the body, and the connection goes on."""
    async with asking() as asked:
        await asked.body(b"x" * 100, more=True)
        await trio.testing.wait_all_tasks_blocked()
        assert not asked.sent
        await asked.body(b"", more=False)
    assert asked.headers == []


async def test_a_long_rest_ends_the_connection(autojump_clock: MockClock) -> None:
    """The answer says so, and what comes is dropped until the client has gone."""
    async with asking() as asked:
        for _ in range(REST // 4096 + 1):
            await asked.body(b"x" * 4096, more=True)
        await asked.began.wait()
        for _ in range(100):
            await asked.body(b"x" * 4096, more=True)
        await asked.hang_up()
    assert asked.headers == [(b"connection", b"close")]


async def test_a_slow_rest_ends_the_connection(autojump_clock: MockClock) -> None:
    """Nobody holds an answer back by sending no body."""
    begin = trio.current_time()
    async with asking() as asked:
        await asked.body(b"x", more=True)
        await asked.began.wait()
        assert trio.current_time() - begin == REST_TIME
        await asked.hang_up()
    assert asked.headers == [(b"connection", b"close")]


async def test_an_answer_that_closes_is_not_held_up(autojump_clock: MockClock) -> None:
    """A refusal for want of a token goes out at once."""

    async def close(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Connection", b"close")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})

    async with asking(close) as asked:
        await asked.began.wait()
        assert trio.current_time() == 0
        await asked.hang_up()


async def test_another_reader_may_find_the_end(autojump_clock: MockClock) -> None:
    """An answer in pieces watches for a client that hangs up: the end of the body comes there."""

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await refuse(scope, receive, send)

    async with asking(watching) as asked:
        await asked.body(b"", more=False)
    assert trio.current_time() == 0
    assert asked.headers == []


@pytest.mark.parametrize("answers", ["soon", "until they hang up"])
async def test_two_may_wait_for_a_client_to_hang_up(
    autojump_clock: MockClock, answers: str
) -> None:
    """The application watches too, as answers in pieces do: nobody waits for ever."""

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await refuse(scope, receive, send)
            if answers != "soon":
                await trio.sleep_forever()

    with trio.fail_after(60):
        async with asking(streaming) as asked:
            await asked.body(b"x", more=True)
            await asked.began.wait()
            await asked.hang_up()
    assert asked.headers == [(b"connection", b"close")]


async def test_a_body_that_comes_after_the_question_costs_no_connection(tmp_path: Path) -> None:
    """On a real port: a body that is still on its way when the door has its answer."""
    async with serving(tmp_path) as door:
        stream = await trio.open_tcp_stream("127.0.0.1", door.port)
        async with stream:
            with trio.fail_after(60):
                for _ in range(20):
                    head = request("/nowhere", b"", door.port, content_length="2", connection=None)
                    await stream.send_all(head)
                    await trio.testing.wait_all_tasks_blocked()
                    await stream.send_all(b"{}")
                    answer = b""
                    while not answer.endswith(b"}\n"):
                        piece = await stream.receive_some()
                        assert piece, "the door hung up"
                        answer += piece
                    assert answer.startswith(b"HTTP/1.1 404")
                    assert b"connection: close" not in answer.lower()
