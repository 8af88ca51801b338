"""Requests to whoever runs a model: how long they wait, what is named anew, what is said."""

import gzip
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from node.inference import Call
from node.serving.upstream import (
    MAX_LINE,
    MAX_WHOLE,
    MAX_WHOLE_ANSWER,
    SILENT,
    EngineUpstream,
    Renaming,
    ServerUpstream,
    _rename_lines,
    server_client,
)
from p2p.errors import EngineError, NotFound

WHOLE = Call("chat/completions", b'{"model":"m"}', stream=False)
STREAM = Call("chat/completions", b'{"model":"m"}', stream=True)
PEER = "12D3KooWus"


async def failed(what: str) -> EngineError:
    return EngineError(f"The engine {what} m.")


async def say(renaming: Renaming, pieces: list[bytes], *, stream: bool = True) -> bytes:
    async def body() -> AsyncGenerator[bytes, None]:
        for one in pieces:
            yield one
            await trio.lowlevel.checkpoint()

    return b"".join([one async for one in _rename_lines(body(), renaming, stream=stream)])


# -- names


@pytest.mark.parametrize("gap", ["", " "])
@pytest.mark.parametrize("theirs", ["llama", "/m/käse/\\"])
async def test_only_the_models_name_is_changed(gap: str, theirs: str) -> None:
    """What a model says keeps the name, even where it says what looks like the member."""
    content = f'llama {theirs} {{"model":{gap}"{theirs}"}}'
    for ascii_only in (True, False):

        def line(name: str, ascii_only: bool = ascii_only) -> bytes:
            value = {"model": name, "choices": [{"delta": {"content": content}}], "id": theirs}
            written = json.dumps(value, separators=(",", ":" + gap), ensure_ascii=ascii_only)
            return f"data: {written}\n\n".encode()

        got = await say(Renaming(theirs, "alice/tiny"), [line(theirs)] * 2)
        assert got == line("alice/tiny") * 2


async def test_where_the_pieces_are_cut_does_not_matter() -> None:
    """A name in two pieces is one; an engine that does not say the end is helped."""
    whole = b'data: {"model":"there"}\n\n' * 2
    want = whole.replace(b"there", b"here")
    for at in range(len(whole)):
        assert await say(Renaming("there", "here"), [whole[:at], whole[at:]]) == want
    told = await say(Renaming("there", "here", says_done=False), [whole])
    assert told == want + b"data: [DONE]\n\n"
    assert await say(Renaming("there", "here"), [b'{"model":"the', b're"}'], stream=False) == (
        b'{"model":"here"}'
    )


@pytest.mark.parametrize(("stream", "most"), [(True, MAX_LINE), (False, MAX_WHOLE)])
async def test_a_line_without_end_is_an_error(stream: bool, most: int) -> None:
    """It is held up to its bound, in crumbs at the cost of one piece, and then given up."""
    step = most // 64
    pieces = [b"x" * step] * 64
    assert len(await say(Renaming("a", "b"), pieces, stream=stream)) == most
    with pytest.raises(EngineError, match=str(most)):
        await say(Renaming("a", "b"), [*pieces, b"x"], stream=stream)


# -- an engine's patience


class Engine:
    """Listens, and answers when it is told to."""

    def __init__(self, head: bytes) -> None:
        self.came = trio.Event()
        self.go_on = trio.Event()
        self._head = head

    async def run(self, listener: trio.socket.SocketType) -> None:
        socket, _ = await listener.accept()
        async with trio.SocketStream(socket) as stream:
            await stream.receive_some()
            self.came.set()
            await self.go_on.wait()
            await stream.send_all(self._head + b"content-length: 2\r\n\r\n{}")


async def ask_late(folder: Path, call: Call, clock: trio.testing.MockClock, after: float) -> bytes:
    """Ask an engine with ten seconds' patience; it answers after so many."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    engine, path, got = Engine(head), folder / "s", b""
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run, listener)

            async def later() -> None:
                await engine.came.wait()
                clock.jump(after)
                await trio.testing.wait_all_tasks_blocked()
                engine.go_on.set()

            nursery.start_soon(later)
            try:
                async with EngineUpstream(path, 10, PEER, failed).ask(call) as answer:
                    got = b"".join([piece async for piece in answer.body])
            finally:
                nursery.cancel_scope.cancel()
    return got


async def test_a_whole_answer_may_take_long(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """Its head comes when all is made: an engine is not given up for one long answer."""
    assert await ask_late(tmp_path, WHOLE, mock_clock, 1000) == b"{}"


@pytest.mark.parametrize(("call", "after"), [(STREAM, 11), (WHOLE, MAX_WHOLE_ANSWER + 1)])
async def test_silence_has_an_end(
    tmp_path: Path, mock_clock: trio.testing.MockClock, call: Call, after: float
) -> None:
    """A stream must begin in the time of its owner's patience, a whole answer within an hour."""
    with pytest.raises(ExceptionGroup) as caught:
        await ask_late(tmp_path, call, mock_clock, after)
    assert caught.group_contains(EngineError, match=SILENT)


async def test_a_short_whole_answer_is_not_waited_for_an_hour(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """A second a token, besides the owner's patience."""
    short = Call("chat/completions", b'{"max_tokens":8,"n":2}', stream=False)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    assert await ask_late(tmp_path / "first", short, mock_clock, 25) == b"{}"
    with pytest.raises(ExceptionGroup) as caught:
        await ask_late(tmp_path / "second", short, mock_clock, 27)
    assert caught.group_contains(EngineError, match=SILENT)


async def test_who_asks_hears_when_the_request_is_handed_over(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """From then on it takes an engine's time; an engine that is not there takes none."""
    handed: list[int] = []
    call = Call("chat/completions", b"{}", stream=True, handed=lambda: handed.append(1))
    with pytest.raises(EngineError):
        async with EngineUpstream(tmp_path / "none", 10, PEER, failed).ask(call):
            pass
    assert handed == []
    assert await ask_late(tmp_path, call, mock_clock, 1) == b"{}"
    assert handed == [1]


# -- a server elsewhere


def server(answer: Callable[[httpx.Request], httpx.Response]) -> ServerUpstream:
    client = server_client("http://127.0.0.1/v1", "", answer_within=10)
    client._transport = httpx.MockTransport(answer)
    return ServerUpstream(client, PEER, failed)


async def test_a_server_is_asked_for_plain_bytes() -> None:
    """Nothing here unpacks an answer, so none may be packed; whole answers have their hour."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b'{"choices":[]}'))

    upstream = server(answer)
    for call in (WHOLE, STREAM):
        async with upstream.ask(call) as got:
            body = b"".join([piece async for piece in got.body])
        assert json.loads(body) == {"choices": []}
    assert [one.headers["accept-encoding"] for one in requests] == ["identity"] * 2
    assert [one.extensions["timeout"]["read"] for one in requests] == [MAX_WHOLE_ANSWER, 10]
    assert {one.extensions["timeout"]["connect"] for one in requests} == {10}
    await upstream.aclose()


async def test_a_packed_answer_is_an_error_that_says_so() -> None:
    """A server that packs all the same is named as what is wrong."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}
        )

    upstream = server(answer)
    with pytest.raises(EngineError, match="encoding 'gzip'"):
        async with upstream.ask(WHOLE):
            pass
    await upstream.aclose()


async def test_who_waited_until_it_was_stopped_is_told() -> None:
    """A request to a server that is asked no more gets a sentence and a next step."""
    upstream = server(lambda request: httpx.Response(200, json={}))
    await upstream.aclose()
    with pytest.raises(NotFound) as caught:
        async with upstream.ask(WHOLE):
            pass
    assert "allod ps" in caught.value.next


async def test_a_bug_is_not_taken_for_a_broken_server() -> None:
    """An error that is not httpx's own stays what it is."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise RuntimeError("a bug")

    upstream = server(answer)
    with pytest.raises(RuntimeError, match="a bug"):
        async with upstream.ask(WHOLE):
            pass
    await upstream.aclose()
