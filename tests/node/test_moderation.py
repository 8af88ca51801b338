"""The moderator: what passes, what does not, and that nothing passes when it cannot be asked."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.inference import Call, Served
from node.moderation import (
    MAX_PROMPT,
    OVERLAP,
    WAIT,
    WINDOW,
    Flagged,
    Moderation,
    ModeratorDown,
    make_moderation,
    packed,
    windows,
)
from p2p.errors import Busy, ConfigError, EngineError, NotFound
from tests.desk import PlainDesk, pieces_of, serving_models, text_of
from tests.inference import (
    Script,
    ScriptedInference,
    chat_stream,
    chat_whole,
    served,
    speak,
    whole,
)

GUARD = served("alice/guard", template="... answer safe or unsafe ...")
PLAIN = served("alice/guard")
ASK: dict[str, Any] = {
    "model": "alice/tiny",
    "messages": [{"role": "user", "content": "a good question"}],
}
CHAT = "/v1/chat/completions"


@given(st.text(max_size=40), st.integers(0, 400))
def test_windows_have_all_of_a_text(start: str, repeats: int) -> None:
    """Windows are bounded, overlap, and joined without the overlaps they are the text."""
    text = start * repeats
    found = list(windows(text))
    assert all(len(one) <= WINDOW for one in found)
    assert found[0] + "".join(one[OVERLAP:] for one in found[1:]) == text


@given(st.lists(st.text(max_size=30).map(lambda text: text * 100), max_size=8))
def test_short_messages_share_a_window(texts: list[str]) -> None:
    """A chat's windows are bounded, few, and have every message."""
    found = list(packed(texts))
    assert all(0 < len(one) <= WINDOW for one in found)
    assert len(found) <= 1 + 2 * sum(len(text) for text in texts) // (WINDOW - OVERLAP)
    for text in texts:
        assert not text.strip() or text[:WINDOW] in "".join(f"{one}\n" for one in found)


def test_a_growing_chat_keeps_its_windows() -> None:
    """What was full stays as it was when messages are added."""
    texts = [f"{at} " * 150 for at in range(20)]
    whole = list(packed(texts))
    for at in range(1, 20):
        assert list(packed(texts[:at]))[:-1] == whole[: len(list(packed(texts[:at]))) - 1]


def judge(bad: str = "BAD") -> Callable[[Served, Call], Script]:
    """Make a script: the guard says unsafe to what has ``bad`` in it, others answer."""

    def script(model: Served, call: Call) -> Script:
        if model.name != "alice/guard":
            return speak(model, call)
        asked = json.loads(call.body)["messages"][-1]["content"]
        return whole(chat_whole("unsafe\nS1" if bad in asked else " safe"))

    return script


def moderated(
    guard: Served = GUARD, script: Callable[[Served, Call], Script] | None = None
) -> tuple[ScriptedInference, Moderation]:
    inference = ScriptedInference(models=[served(), guard], script=script or judge())
    found = make_moderation("alice/guard", inference, httpx.AsyncClient())
    assert found is not None
    return inference, found


async def test_a_served_model_judges() -> None:
    """What it calls unsafe is flagged, what it calls safe passes; a prompt is not in the error."""
    _, moderation = moderated()
    await moderation.check_prompt(["good", ""])
    await moderation.check_answer("good")
    with pytest.raises(Flagged) as caught:
        await moderation.check_prompt(["good", "very BAD"])
    assert "BAD" not in caught.value.message
    with pytest.raises(Flagged):
        await moderation.check_answer("BAD")


async def test_a_guard_is_asked_as_it_was_trained() -> None:
    """A model whose template asks for the word itself gets the bare talk, in the right role."""
    inference, moderation = moderated()
    await moderation.check_prompt(["x"])
    await moderation.check_answer("y")
    assert inference.bodies[0]["messages"] == [{"role": "user", "content": "x"}]
    assert inference.bodies[1]["messages"][-1] == {"role": "assistant", "content": "y"}
    assert not any(call.may_leave or call.stream for _, call in inference.asked)


async def test_another_model_is_told_how_to_judge() -> None:
    """A model that is no guard is asked for one word, the text between marks."""
    inference, moderation = moderated(PLAIN)
    await moderation.check_answer("y")
    [message] = inference.bodies[0]["messages"]
    assert "safe or unsafe" in message["content"]
    assert "assistant" in message["content"]
    assert "\ny\n" in message["content"]


async def test_nothing_hides_at_a_seam() -> None:
    """Long text is judged in windows, and a word across two of them is found."""
    inference, moderation = moderated()
    with pytest.raises(Flagged):
        await moderation.check_prompt(["x" * (WINDOW - 2) + "BAD" + "x" * WINDOW])
    assert len(inference.asked) == 2


async def test_what_has_passed_is_not_asked_again() -> None:
    """The history of a chat is judged once; what a model says is always judged."""
    inference, moderation = moderated()
    talk = ["word " * 300] * 4
    for _ in range(3):
        await moderation.check_prompt(talk)
    assert len(inference.asked) == 1  # all four are the same
    for at in range(50):
        talk.append(f"{at} " * 100)
        await moderation.check_prompt(talk)
    assert len(inference.asked) < 80  # a window is asked about while it fills, then never again
    before = len(inference.asked)
    for _ in range(2):
        await moderation.check_answer("one")
    assert len(inference.asked) == before + 2


async def test_a_prompt_without_end_is_not_judged_for_ever() -> None:
    """A prompt of more text than a moderator can be asked about is refused unasked."""
    inference, moderation = moderated()
    with pytest.raises(Flagged, match="characters"):
        await moderation.check_prompt(["x" * MAX_PROMPT, "x"])
    assert inference.asked == []


@pytest.mark.parametrize(
    "script",
    [
        lambda model, call: whole(chat_whole("I cannot judge that.")),
        lambda model, call: whole(chat_whole("")),
        lambda model, call: whole(b"{}"),
        lambda model, call: whole(b"nonsense"),
        lambda model, call: whole(b'{"choices": [{"message": {"content": 5}}]}'),
        lambda model, call: whole(b'{"choices": [[]]}'),
        lambda model, call: whole(b"", 500),
        lambda model, call: whole(b" " * (2 << 20)),
        lambda model, call: Script([EngineError("It died.")]),
    ],
)
async def test_a_verdict_that_nobody_understands_is_none(
    script: Callable[[Served, Call], Script],
) -> None:
    """Nothing passes on an answer that is neither safe nor unsafe."""
    _, moderation = moderated(script=script)
    with pytest.raises(ModeratorDown):
        await moderation.check_prompt(["x"])


@pytest.mark.parametrize("fails", [EngineError("It died."), Busy("Full.", retry_after=1)])
async def test_a_moderator_that_cannot_be_asked_lets_nothing_pass(fails: Exception) -> None:
    """An engine that is down, full or gone is a ModeratorDown."""
    inference, moderation = moderated()
    inference.fails = fails
    with pytest.raises(ModeratorDown):
        await moderation.check_prompt(["x"])
    inference.models.clear()
    with pytest.raises(ModeratorDown) as caught:
        await moderation.check_answer("x")
    assert isinstance(caught.value.__cause__, NotFound)


async def test_a_moderator_that_does_not_answer_lets_nothing_pass(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A verdict that does not come in time is none."""
    inference, moderation = moderated(script=lambda model, call: Script([trio.Event()]))
    started = trio.current_time()
    with pytest.raises(ModeratorDown, match="within"):
        await moderation.check_prompt(["x"])
    assert trio.current_time() - started == pytest.approx(WAIT)
    assert inference.busy == 0


def remote(answer: Callable[[httpx.Request], httpx.Response]) -> Moderation:
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    found = make_moderation("https://moderate.example/v1", ScriptedInference(), client)
    assert found is not None
    return found


async def test_a_url_judges() -> None:
    """A URL gets OpenAI's request at /moderations, and any flagged result flags."""
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        text = json.loads(request.content)["input"]
        return httpx.Response(
            200, json={"results": [{"flagged": False}, {"flagged": "BAD" in text}]}
        )

    moderation = remote(answer)
    await moderation.check_prompt(["good"])
    with pytest.raises(Flagged):
        await moderation.check_answer("BAD")
    assert str(seen[0].url) == "https://moderate.example/v1/moderations"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(302, headers={"location": "https://evil.example/"}),
        httpx.Response(200, content=b"nonsense"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"results": []}),
        httpx.Response(200, json={"results": [{}]}),
        httpx.Response(200, json={"results": [{"flagged": "no"}]}),
        httpx.Response(200, content=b" " * (2 << 20)),
    ],
)
async def test_a_url_that_does_not_judge_lets_nothing_pass(answer: httpx.Response) -> None:
    """Errors, redirects and nonsense are no verdict."""
    moderation = remote(lambda request: answer)
    with pytest.raises(ModeratorDown):
        await moderation.check_prompt(["x"])


async def test_a_url_that_is_not_there_lets_nothing_pass() -> None:
    """A connection that fails is a ModeratorDown that names the host, and not the prompt."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    with pytest.raises(ModeratorDown) as caught:
        await remote(fail).check_prompt(["the secret"])
    assert "moderate.example" in caught.value.message
    assert "secret" not in caught.value.message


async def test_the_choice_decides() -> None:
    """none is nobody; what has a scheme is a URL, and must be one of the web's."""
    client, inference = httpx.AsyncClient(), ScriptedInference()
    assert make_moderation("none", inference, client) is None
    for wrong in ("ftp://x/", "https://", "http://[::1"):
        with pytest.raises(ConfigError):
            make_moderation(wrong, inference, client)


# -- at the doors


def desk(script: Callable[[Served, Call], Script] | None = None) -> PlainDesk:
    inference, moderation = moderated(script=script)
    return PlainDesk(inference=inference, moderation=moderation)


def asked_models(found: PlainDesk) -> list[str]:
    return [model.name for model, _ in found.inference.asked]


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        (CHAT, ASK | {"messages": [{"role": "user", "content": "BAD"}]}),
        (CHAT, ASK | {"messages": [{"role": "system", "content": "BAD"}, *ASK["messages"]]}),
        (CHAT, ASK | {"tools": [{"type": "function",
                                 "function": {"name": "f", "description": "BAD"}}]}),
        ("/v1/completions", {"model": "alice/tiny", "prompt": ["x", "BAD"]}),
        ("/v1/completions", {"model": "alice/tiny", "prompt": [1, 2]}),
        ("/v1/responses", {"model": "alice/tiny", "input": "x", "instructions": "BAD"}),
        ("/api/chat", ASK | {"messages": [{"role": "user", "content": "BAD"}]}),
        ("/api/generate", {"model": "alice/tiny", "prompt": "BAD"}),
    ],
)  # fmt: skip
async def test_a_prompt_that_is_flagged_reaches_no_model(path: str, ask: object) -> None:
    """Whatever a model would read is judged first, and what cannot be read is refused."""
    async with serving_models(desk()) as doors:
        answer = await doors.post(path, ask)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert isinstance(error, str) or error["code"] == "content_filter"
        assert "alice/tiny" not in asked_models(doors.desk)
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert use.status == 400


def answers(*words: str) -> Callable[[Served, Call], Script]:
    guard = judge()

    def script(model: Served, call: Call) -> Script:
        if model.name == "alice/guard":
            return guard(model, call)
        return Script(chat_stream(*words)) if call.stream else whole(chat_whole("".join(words)))

    return script


async def test_a_good_answer_passes_whole_and_streamed() -> None:
    """With a moderator a client gets the same answer, when all of it was judged."""
    words = ["word "] * 1000
    async with serving_models(desk(answers(*words))) as doors:
        whole = (await doors.post(CHAT, ASK)).json()
        assert whole["choices"][0]["message"]["content"] == "".join(words)
        judged = len(asked_models(doors.desk))
        stream = await doors.post(CHAT, ASK | {"stream": True})
        assert text_of(stream.content) == "".join(words)
        assert stream.content.endswith(b"data: [DONE]\n\n")
        assert len(asked_models(doors.desk)) - judged >= 1 + len("".join(words)) // (WINDOW + 200)


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        (CHAT, ASK),
        (CHAT, ASK | {"stream": True}),
        ("/v1/responses", {"model": "alice/tiny", "input": "x", "stream": True}),
        ("/api/chat", ASK),
        ("/api/chat", ASK | {"stream": False}),
    ],
)
async def test_a_bad_answer_does_not_reach_the_client(path: str, ask: object) -> None:
    """A short answer that is flagged is a 400; nothing of it has gone out."""
    async with serving_models(desk(answers("this ", "is ", "BAD"))) as doors:
        answer = await doors.post(path, ask)
        assert answer.status_code == 400
        assert b"this" not in answer.content.replace(b"this answer", b"")


async def test_a_long_answer_that_turns_bad_ends_before_it_does() -> None:
    """What was judged has gone out; the piece that is flagged has not, an error is the last."""
    words = ["x" * 100] * 30 + ["BAD"] + ["y" * 100] * 30
    async with serving_models(desk(answers(*words))) as doors:
        answer = await doors.post(CHAT, ASK | {"stream": True})
        assert answer.status_code == 200
        *_, last = pieces_of(answer.content)
        assert last["error"]["code"] == "content_filter"
        assert b"BAD" not in answer.content
        assert b"y" * 100 not in answer.content
        assert b"[DONE]" not in answer.content
        assert b"x" * 100 in answer.content


async def test_no_moderator_no_answer() -> None:
    """When the moderator cannot be asked the door answers 503, whoever asks what."""
    found = desk()
    found.inference.models = [served()]
    async with serving_models(found) as doors:
        for path in (CHAT, "/api/chat"):
            answer = await doors.post(path, ASK)
            assert answer.status_code == 503
            assert asked_models(found) == []
        answer = await doors.post(CHAT, ASK)
        assert answer.json()["error"]["code"] == "moderation_unavailable"
