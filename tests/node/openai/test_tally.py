"""What an answer took and said, out of JSON that nobody vouches for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.openai.requests import read_chat, read_embeddings
from node.api.openai.tally import (
    MAX_COUNT,
    UNSEEN,
    Ear,
    Usage,
    calls_of,
    choices_of,
    message_of,
    said,
    taken,
    unseen,
)
from node.moderation import OVERLAP


@pytest.mark.parametrize(
    ("value", "prompt", "completion"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, 3, 4),
        ({"prompt_tokens": 3}, 3, 0),
        ({"prompt_tokens": -3, "completion_tokens": "x"}, 0, 0),
        ({"prompt_tokens": MAX_COUNT + 1, "completion_tokens": True}, 0, 0),
        ({"prompt_tokens": 1e308, "completion_tokens": float("nan")}, 0, 0),
        ({"prompt_tokens_details": 5}, 0, 0),
    ],
)
def test_tokens_are_counted_as_far_as_they_make_sense(
    value: object, prompt: int, completion: int
) -> None:
    """What is no number of tokens counts as none."""
    usage = Usage()
    assert usage.count(value)
    assert (usage.prompt, usage.completion) == (prompt, completion)


def test_what_is_no_usage_is_not_counted() -> None:
    """Null and other values are no word of the engine's."""
    usage = Usage()
    assert not usage.count(None)
    assert not usage.count([1])
    assert usage.told == 0


def test_a_prompt_that_is_told_for_each_answer_counts_once() -> None:
    """n answers to one prompt: answers are summed, the prompt is not."""
    usage = Usage()
    for _ in range(3):
        usage.count({"prompt_tokens": 10, "completion_tokens": 2})
    usage.share(3)
    assert usage.json()["total_tokens"] == 16
    once = Usage()
    once.count({"prompt_tokens": 10, "completion_tokens": 6})
    once.share(3)
    assert once.prompt == 10


def test_what_an_engine_did_not_tell_is_guessed() -> None:
    """What it told comes first; else four bytes are a token, and unseen answers have a bound."""
    assert taken(None, 400, 7) == (100, 7)
    assert taken(None, 0, 0) == (1, 0)
    assert taken(Usage(pieces=9), 400, 7) == (100, 9)
    assert taken(Usage(5, 6, told=1, pieces=9), 400, 7) == (5, 6)
    ask: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert unseen(read_chat(ask | {"n": 2})) == 2 * UNSEEN
    assert unseen(read_chat(ask | {"n": 2, "max_completion_tokens": 3})) == 6
    assert unseen(read_chat(ask | {"max_tokens": 1 << 20})) == UNSEEN
    assert unseen(read_chat(ask | {"stream": True})) == 0
    assert unseen(read_embeddings({"model": "m", "input": "x"})) == 0


def test_all_that_a_model_says_is_heard() -> None:
    """Text, thoughts and tool calls are heard, of every choice, whole or in pieces."""
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    value = {
        "choices": [
            {"index": 1, "delta": {"content": "a", "reasoning_content": "t", "tool_calls": [call]}},
            {"message": {"content": "b"}},
            {"index": 2, "text": "c"},
            {"index": 3, "delta": {}},
        ]
    }
    assert list(said(value)) == [(1, "taf{}"), (1, "b"), (2, "c")]


def test_the_ear_keeps_what_was_not_judged() -> None:
    """Each taking gives what is new, with the end of what came before; choices stay apart."""
    ear = Ear(on=True)
    long = "x" * (2 * OVERLAP)
    ear.hear({"choices": [{"index": 0, "text": long}, {"index": 1, "text": "b"}]})
    assert ear.size == len(long) + 1
    assert ear.take() == [long, "b"]
    assert (ear.size, ear.take()) == (0, [])
    ear.hear({"choices": [{"index": 0, "text": "y"}]})
    assert ear.take() == ["x" * OVERLAP + "y"]
    deaf = Ear(on=False)
    deaf.hear({"choices": [{"index": 0, "text": "y"}]})
    assert deaf.take() == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "index", "delta", "message", "content", "text", "tool_calls", "function",
             "name", "arguments", "usage", "prompt_tokens", "reasoning_content"]
        ),
        inner,
    ),
    max_leaves=15,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["choices", "usage", "x"]), JSON))
def test_no_json_of_an_engine_crashes_the_tally(value: dict[str, Any]) -> None:
    """Whatever a stranger's engine says, it is read or passed over."""
    Usage().count(value.get("usage"))
    ear = Ear(on=True)
    ear.hear(value)
    for one in choices_of(value):
        for number, call in calls_of(message_of(one)):
            assert number >= 0
            assert set(call) == {"id", "name", "arguments"}
    assert all(isinstance(text, str) for text in ear.take())
