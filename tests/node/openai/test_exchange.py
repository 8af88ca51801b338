"""One request and its answer, on a real port: what goes out, what is written down, what frees."""

import hashlib
import json
import logging
from urllib.parse import urlsplit

import httpx
import pytest
import trio

from node.accounts import Account
from node.inference import Call, Served
from p2p import errors
from p2p.receipt import read_receipt
from tests.desk import KeptAccounts, ModelDoors, PlainDesk, pieces_of, serving_models, text_of
from tests.inference import (
    DONE,
    PEER,
    TOO_LONG,
    Script,
    ScriptedInference,
    chat_stream,
    delta,
    engine_error,
    piece,
    served,
    whole,
)
from tests.node.door import request

ASK: dict[str, object] = {
    "model": "alice/tiny",
    "messages": [{"role": "user", "content": "the secret prompt"}],
}
STREAM = ASK | {"stream": True}
CHAT = "/v1/chat/completions"


def scripted(*steps: bytes | trio.Event | Exception, **more: object) -> PlainDesk:
    def script(model: Served, call: Call) -> Script:
        return Script(steps)

    return PlainDesk(inference=ScriptedInference(script=script, **more))  # type: ignore[arg-type]


async def test_every_answer_says_where_it_comes_from() -> None:
    """Model digest, publisher, who served it and an id of its own are in the head."""
    async with serving_models() as doors:
        model = doors.engine.models[0]
        ids = set()
        for ask in (ASK, STREAM):
            answer = await doors.post(CHAT, ask)
            assert answer.headers["x-model-digest"] == str(model.manifest)
            assert answer.headers["x-model-publisher"] == model.publisher
            assert answer.headers["x-served-by"] == PEER
            assert "x-receipt-id" not in answer.headers
            ids.add(answer.headers["x-request-id"])
        refused = await doors.post(CHAT, ASK | {"model": "x"})
        ids.add(refused.headers["x-request-id"])
        assert len(ids) == 3


async def test_a_stream_comes_as_it_is_made() -> None:
    """A piece is at the client before the engine makes the next one."""
    go_on = trio.Event()
    first, *rest = chat_stream("Hel", "lo")
    async with serving_models(scripted(first, go_on, *rest)) as doors:
        with trio.fail_after(60):
            async with doors.client.stream("POST", CHAT, json=STREAM) as answer:
                assert answer.headers["content-type"] == "text/event-stream"
                got = b""
                async for data in answer.aiter_raw():
                    got += data
                    go_on.set()
        assert text_of(got) == "Hello"
        assert got.endswith(DONE)
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert (use.prompt, use.completion, use.status) == (32, 2, 200)
        assert (use.model, use.served_by) == ("alice/tiny", PEER)


async def test_a_receipt_is_for_the_bytes_that_went_by() -> None:
    """Asked for, a receipt names the model and has the hashes of request and answer as sent."""
    async with serving_models() as doors:
        for path, ask in (
            (CHAT, ASK),
            (CHAT, STREAM),
            ("/v1/responses", {"model": "alice/tiny", "input": "x", "stream": True}),
            ("/api/chat", ASK),
        ):
            body = json.dumps(ask).encode()
            answer = await doors.post(path, body, x_allod_receipt="1")
            found = await doors.get(f"/v1/receipts/{answer.headers['x-receipt-id']}")
            assert found.headers["content-type"] == "application/json"
            said = read_receipt(found.content).exchange
            assert said.model == doors.engine.models[0].manifest
            assert said.endpoint == path.removeprefix("/v1/").removeprefix("/")
            assert said.request.sha256 == hashlib.sha256(body).hexdigest()
            assert said.response.sha256 == hashlib.sha256(answer.content).hexdigest()
            assert (said.status, said.served_by) == (200, PEER)
        missing = await doors.get("/v1/receipts/nonsense")
        assert missing.json()["error"]["code"] == "receipt_not_found"


@pytest.mark.parametrize(
    ("fails", "status", "code"),
    [
        (errors.Busy("Full.", retry_after=3), 429, "server_busy"),
        (errors.NoMemory("Too big."), 503, "insufficient_memory"),
        (errors.Refused("The policy says no."), 403, "model_refused"),
        (errors.Unsupported("It cannot."), 400, "unsupported_parameter"),
        (errors.EngineError("It died."), 502, "engine_error"),
        (errors.PeerGone("It left."), 502, "engine_error"),
        (ExceptionGroup("x", [errors.NoMemory("Too big.")]), 503, "insufficient_memory"),
        (KeyError("the secret prompt"), 500, "internal_error"),
    ],
)
async def test_what_fails_before_the_answer_is_a_status(
    fails: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every failure has its status and its code, is written down, and says no prompt."""
    async with serving_models(PlainDesk(inference=ScriptedInference(fails=fails))) as doors:
        for path, ask in ((CHAT, ASK), (CHAT, STREAM)):
            answer = await doors.post(path, ask)
            assert answer.status_code == status
            assert answer.json()["error"]["code"] == code
            assert ("retry-after" in answer.headers) is (status == 429)
        uses = await doors.desk.accounts.wait_recorded(2)
        assert [(use.status, use.prompt, use.completion) for use in uses] == [(status, 0, 0)] * 2
        assert "secret" not in caplog.text
        doors.engine.fails = None
        assert (await doors.post(CHAT, ASK)).status_code == 200


async def test_a_token_over_its_limit_is_a_429_with_its_seconds() -> None:
    """OverLimit says after how many seconds, rounded up; no engine is asked."""
    over = errors.OverLimit("Used up.", retry_after=12.3, next="Wait.")
    async with serving_models(PlainDesk(accounts=KeptAccounts(over=over))) as doors:
        answer = await doors.post(CHAT, ASK)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "13")
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert doors.engine.asked == []


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, TOO_LONG, "context_length_exceeded"),
        (500, engine_error(500, "server_error", "segfault"), "engine_error"),
        (501, engine_error(501, "not_supported_error", "no"), "model_not_supported"),
        (404, b"<html>", "engine_error"),
        (500, b"x" * (1 << 20), "engine_error"),
    ],
)
async def test_an_engines_own_errors_are_put_in_our_words(
    status: int, body: bytes, code: str
) -> None:
    """An engine's error body, with its number for a code, never reaches a client."""
    desk = PlainDesk(inference=ScriptedInference(script=lambda model, call: whole(body, status)))
    async with serving_models(desk) as doors:
        answer = await doors.post(CHAT, STREAM)
        error = answer.json()["error"]
        assert error["code"] == code
        assert set(error) == {"message", "type", "param", "code"}
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert use.status == answer.status_code
        assert (use.prompt, use.completion) == (0, 0)


@pytest.mark.parametrize(
    "broken",
    [
        errors.EngineError("The engine died."),
        errors.PeerGone("The peer left."),
        ExceptionGroup("x", [errors.EngineError("The engine died.")]),
        ZeroDivisionError("the secret prompt"),
        b"data: " + engine_error(500, "server_error", "segfault") + b"\n\n",
        b'data: "error" nonsense\n\n',
    ],
)
async def test_what_fails_in_the_middle_is_the_last_event(
    broken: bytes | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that breaks ends with an error event, without its last one; the next one works."""
    desk = scripted(piece(delta(content="Hel")), broken)
    async with serving_models(desk) as doors:
        answer = await doors.post(CHAT, STREAM)
        assert answer.status_code == 200
        *_, last = pieces_of(answer.content)
        assert last["error"]["code"] in ("engine_error", "internal_error")
        assert b"[DONE]" not in answer.content
        assert "secret" not in caplog.text
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert use.status >= 500
        assert use.completion == 1
        doors.engine.script = lambda model, call: Script(chat_stream("ok"))
        assert text_of((await doors.post(CHAT, STREAM)).content) == "ok"


async def test_a_stream_that_just_ends_is_an_error() -> None:
    """An engine that closes without its last event did not finish."""
    async with serving_models(scripted(piece(delta(content="Hel")))) as doors:
        *_, last = pieces_of((await doors.post(CHAT, STREAM)).content)
        assert "broke off" in last["error"]["message"]


async def test_what_comes_after_the_end_is_not_waited_for() -> None:
    """Once a stream has said that it is over, nothing more of it goes out, however long it is."""
    steps = [*chat_stream("ok"), piece(delta(content="more")), trio.Event()]
    async with serving_models(scripted(*steps)) as doors:
        got = (await doors.post(CHAT, STREAM)).content
        assert text_of(got) == "ok"
        assert got.endswith(DONE)


async def test_an_error_before_the_first_piece_is_a_status() -> None:
    """As long as nothing has gone out, even a started stream fails with a status of its own."""
    for steps in (
        [errors.EngineError("It died.")],
        [b": ping", errors.EngineError("It died.")],
        [b"data: " + TOO_LONG + b"\n\n"],
        [],
    ):
        async with serving_models(scripted(*steps)) as doors:
            answer = await doors.post(CHAT, STREAM)
            assert answer.status_code in (400, 502)
            assert "x-model-digest" not in answer.headers


async def hang_up(doors: ModelDoors, ask: dict[str, object], until: trio.Event | bytes) -> None:
    """Ask, and leave when the event is set or those bytes have come."""
    port = urlsplit(doors.url).port or 0
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request(CHAT, json.dumps(ask).encode(), port, connection=None))
        got = b""
        with trio.fail_after(60):
            if isinstance(until, trio.Event):
                await until.wait()
            else:
                while until not in got:
                    got += await stream.receive_some()


async def test_hanging_up_in_a_stream_frees_the_slot() -> None:
    """A client that leaves in the middle frees the engine at once; what came counts."""
    never = trio.Event()
    desk = scripted(piece(delta(content="a")) * 3, never, slots=1)
    async with serving_models(desk) as doors:
        await hang_up(doors, STREAM, b'"a"')
        with trio.fail_after(60):
            await doors.engine.freed.wait()
        assert doors.engine.busy == 0
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert use.status == 499
        assert use.completion == 3
        assert use.prompt == len(doors.engine.asked[0][1].body) // 4
        doors.engine.script = lambda model, call: Script(chat_stream("ok"))
        assert text_of((await doors.post(CHAT, STREAM)).content) == "ok"


async def test_hanging_up_before_an_answer_frees_the_slot() -> None:
    """A client that leaves while a whole answer is made frees the engine at once."""
    async with serving_models(scripted(trio.Event(), slots=1)) as doors:
        await hang_up(doors, ASK, doors.engine.begun)
        with trio.fail_after(60):
            await doors.engine.freed.wait()
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert use.status == 499
        assert doors.engine.waiting == 0


@pytest.mark.parametrize(
    ("ask", "completion"),
    [(ASK, 256), (ASK | {"max_tokens": 9}, 9), (ASK | {"max_tokens": 9999}, 256), (STREAM, 0)],
)
async def test_hanging_up_does_not_make_it_free(ask: dict[str, object], completion: int) -> None:
    """Once an engine works on it, the prompt counts, and a guess at an answer that none sees."""
    async with serving_models(scripted(trio.Event(), slots=1)) as doors:
        await hang_up(doors, ask, doors.engine.begun)
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert (use.status, use.completion) == (499, completion)
        assert use.prompt == len(doors.engine.asked[0][1].body) // 4


async def test_hanging_up_in_the_queue_frees_the_place() -> None:
    """A client that leaves while it waits is not waited for, and nobody else is disturbed."""
    go_on = trio.Event()
    steps = [go_on, *chat_stream("ok")]
    async with serving_models(scripted(*steps, slots=1)) as doors:
        answers = []

        async def first() -> None:
            answers.append(await doors.post(CHAT, STREAM))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            with trio.fail_after(60):
                await doors.engine.begun.wait()
            gone = trio.Event()

            async def second() -> None:
                await hang_up(doors, STREAM, gone)

            nursery.start_soon(second)
            with trio.fail_after(60):
                while len(doors.engine.asked) < 2:
                    await trio.lowlevel.checkpoint()
                gone.set()
                await doors.engine.freed.wait()
            assert doors.engine.waiting == 1
            go_on.set()
        assert text_of(answers[0].content) == "ok"
        uses = await doors.desk.accounts.wait_recorded(2)
        assert [use.status for use in uses] == [499, 200]
        assert (uses[0].prompt, uses[0].completion) == (0, 0)  # no engine had it


async def test_fifty_clients_on_two_slots_are_answered_or_told_to_wait() -> None:
    """None hangs: each gets its answer, or a 429 with its seconds."""
    desk = PlainDesk(inference=ScriptedInference(slots=2, queue=4))
    async with serving_models(desk) as doors:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            async with httpx.AsyncClient(base_url=doors.url, timeout=60) as client:
                answers.append(await client.post(CHAT, json=STREAM))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert {answer.status_code for answer in answers} <= {200, 429}
        await doors.desk.accounts.wait_recorded(50)
        assert len(answers) == 50
        for answer in answers:
            assert "retry-after" in answer.headers or text_of(answer.content) == "Hello!"
        assert doors.engine.busy == 0


async def test_connections_are_kept() -> None:
    """One connection serves one request after the other, also after a refusal."""
    async with serving_models() as doors:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=doors.url, limits=limits, timeout=60) as client:
            for ask in (ASK, STREAM, ASK | {"n": 0}, ASK):
                with trio.fail_after(60):
                    answer = await client.post(CHAT, json=ask)
                assert answer.status_code in (200, 400)


async def test_what_no_engine_told_is_counted_all_the_same() -> None:
    """An answer without usage counts a token for four bytes of prompt and each piece."""
    pieces = [piece(delta(content="a")), piece(delta(content="b")), DONE]
    async with serving_models(scripted(*pieces)) as doors:
        await doors.post(CHAT, STREAM)
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert use.completion == 2
        assert use.prompt > 10


async def test_the_account_is_the_one_that_pays() -> None:
    """What was used is written down for the token that came."""
    bob = Account("7", "bob", (), None, None, True)
    desk = PlainDesk(accounts=KeptAccounts(tokens={"allod-bob": bob}))
    async with serving_models(desk) as doors:
        await doors.post(CHAT, ASK, authorization="Bearer allod-bob")
        await doors.desk.accounts.wait_recorded(1)
        [(account, use)] = doors.desk.accounts.used
        assert account is bob
        assert use.seconds > 0
        assert use.manifest == served().manifest
        assert doors.engine.asked[0][1].may_leave


async def test_nothing_that_is_said_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At the most talkative level no prompt and no answer is in the log."""
    caplog.set_level(logging.DEBUG)
    steps = chat_stream("the secret", " answer")
    async with serving_models(scripted(*steps)) as doors:
        await doors.post(CHAT, STREAM, authorization="Bearer sk-secret")
        await doors.post(CHAT, ASK | {"grammar": "the secret"})
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("node")]
    assert "secret" not in "".join(ours)
