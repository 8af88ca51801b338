"""Requests for chats, completions and embeddings: what an engine hears of them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.openai.errors import CODES, Declined
from node.api.openai.requests import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IGNORED,
    REFUSED,
    Asked,
    read_chat,
    read_completion,
    read_embeddings,
)
from node.api.openai.responses import read_response

BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def body(asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(asked.call("alice/tiny", False).body)
    return found


@pytest.mark.parametrize(
    ("more", "heard"),
    [
        ({}, {}),
        ({"temperature": 0.5, "seed": -1}, {"temperature": 0.5, "seed": 2147483647}),
        ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
        ({"max_tokens": 9}, {"max_tokens": 9}),
        ({"stop": "x", "n": 2}, {"stop": ["x"], "n": 2}),
        ({"stop": [""]}, {}),
        ({"stop": []}, {}),
        ({"logprobs": True}, {"logprobs": True, "top_logprobs": 1}),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"top_k": 40, "min_p": 0.1}, {"top_k": 40, "min_p": 0.1}),
        ({"modalities": ["text"], "audio": None}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"tools": [], "functions": [], "parallel_tool_calls": True}, {}),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        (
            {"tools": [TOOL], "parallel_tool_calls": False},
            {"tools": [TOOL], "parallel_tool_calls": False},
        ),
        (dict.fromkeys(IGNORED, "x"), {}),
    ],
)
def test_an_engine_hears_what_is_asked_and_no_more(
    more: dict[str, Any], heard: dict[str, Any]
) -> None:
    """Fields reach the engine by the one name that all engines know; hints don't reach it."""
    assert body(read_chat(BASE | more)) == BASE | {"model": "alice/tiny"} | heard


def test_what_an_engine_hears_can_be_asked_again() -> None:
    """The body of a call is a request that reads the same: a peer checks it as a door does."""
    ask = BASE | {"stream": True, "stop": "", "logprobs": True, "seed": -5, "tools": [TOOL]}
    once = body(read_chat(ask | {"tool_choice": "required", "max_completion_tokens": 3}))
    assert body(read_chat(once)) == once
    text = body(read_completion({"model": "m", "prompt": ["a"], "logprobs": 0, "stream": True}))
    assert body(read_completion(text)) == text


KNOBS = [
    "grammar", "cache_prompt", "id_slot", "lora", "n_probs", "chat_template",
    "chat_template_kwargs", "n_predict", "samplers", "ignore_eos", "json_schema", "slot_id",
    "dynatemp_range", "mirostat", "t_max_predict_ms", "reasoning_format", "add_generation_prompt",
    "return_tokens", "timings_per_token", "guided_json", "priority", "extra_body", "documents",
    "mm_processor_kwargs", "continue_final_message", "generation_config", "request_id", "__class__",
]  # fmt: skip


@pytest.mark.parametrize("name", KNOBS)
@pytest.mark.parametrize(
    ("read", "base"),
    [
        (read_chat, BASE),
        (read_completion, {"model": "m", "prompt": "x"}),
        (read_embeddings, {"model": "m", "input": "x"}),
        (read_response, {"model": "m", "input": "x"}),
    ],
)
def test_no_knob_of_an_engine_gets_through(
    read: Callable[[Mapping[str, Any]], Asked], base: dict[str, Any], name: str
) -> None:
    """What engines understand beyond OpenAI's fields is refused by its name, on every endpoint."""
    with pytest.raises(Declined) as caught:
        read(base | {name: {}})
    assert caught.value.problem.code == "unsupported_parameter"
    assert caught.value.problem.param == name


@pytest.mark.parametrize(
    ("more", "needs"),
    [
        ({}, {"chat"}),
        ({"tools": [TOOL]}, {"chat", "tools"}),
        ({"tools": [TOOL], "tool_choice": "none"}, {"chat"}),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, {"chat", "tools"}),
        ({"response_format": {"type": "json_object"}}, {"chat", "json_schema"}),
        ({"response_format": {"type": "text"}}, {"chat"}),
    ],
)
def test_what_an_engine_must_be_able_to_do(more: dict[str, Any], needs: set[str]) -> None:
    """Tools and formats are needs; what asks for neither needs a chat only."""
    assert read_chat(BASE | more).needs == needs


def test_a_stream_is_asked_with_its_usage() -> None:
    """The engine always tells the usage of a stream, whether or not the client wants it."""
    asked = read_chat(BASE | {"stream": True})
    assert asked.stream
    assert body(asked)["stream_options"] == {"include_usage": True}
    assert "stream" not in body(read_chat(BASE | {"stream": False}))


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_value"),
        ({"model": "x" * 300}, "model", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "x", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
        ({"functions": [1]}, "functions", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ],
)
def test_what_a_chat_cannot_have(more: dict[str, Any], param: str, code: str) -> None:
    """A refusal names the field, and says whether it is wrong, missing or not to be had."""
    with pytest.raises(Declined) as caught:
        read_chat(BASE | more)
    assert (caught.value.problem.param, caught.value.problem.code) == (param, code)


@pytest.mark.parametrize(
    ("prompt", "texts", "choices", "opaque"),
    [
        ("a", ("a",), 2, False),
        (["a", "b"], ("a", "b"), 4, False),
        ([1, 2, 3], (), 2, True),
        ([[1, 2], [3]], (), 4, True),
    ],
)
def test_prompts_of_completions(
    prompt: object, texts: tuple[str, ...], choices: int, opaque: bool
) -> None:
    """A prompt is text, several texts, tokens, or several lists of those; each has n answers."""
    asked = read_completion({"model": "m", "prompt": prompt, "n": 2})
    assert (asked.prompts, asked.choices, asked.n, asked.opaque) == (texts, choices, 2, opaque)
    assert body(asked)["prompt"] == prompt


@pytest.mark.parametrize(
    "prompt", [None, 1, [], [None], ["a", 1], [[]], [[1], "a"], [-1], [1 << 31], [True], {}]
)
def test_prompts_that_are_none(prompt: object) -> None:
    """Anything else is a 400."""
    with pytest.raises(Declined):
        read_completion({"model": "m", "prompt": prompt})
    with pytest.raises(Declined):
        read_embeddings({"model": "m", "input": prompt})


@pytest.mark.parametrize("more", [{"echo": True}, {"suffix": "x"}, {"best_of": 3}])
def test_what_engines_would_pass_over_in_silence_is_refused(more: dict[str, Any]) -> None:
    """Fields of completions that llama.cpp ignores are not ignored here."""
    with pytest.raises(Declined) as caught:
        read_completion({"model": "m", "prompt": "x", **more})
    assert caught.value.problem.param in more


def test_embeddings() -> None:
    """Embeddings are asked in the client's encoding; lengths and empty texts are refused."""
    asked = read_embeddings({"model": "m", "input": ["a", "b"], "encoding_format": "base64"})
    assert body(asked) == {"model": "alice/tiny", "input": ["a", "b"], "encoding_format": "base64"}
    assert asked.needs == {"embeddings"}
    assert asked.prompts == ("a\nb",)
    for more in ({"dimensions": 64}, {"encoding_format": "hex"}, {"input": ["a", " "]}):
        with pytest.raises(Declined):
            read_embeddings({"model": "m", "input": "x"} | more)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(
    sorted({*CHAT, *COMPLETIONS, *EMBEDDINGS, *REFUSED, "input", "instructions", "text", "include"})
)
SENSIBLE = st.sampled_from(
    [
        "m",
        True,
        1,
        0.5,
        ["text"],
        [TOOL],
        BASE["messages"],
        {"type": "json_object"},
        {"type": "function", "name": "f"},
        {"format": {"type": "text"}},
        [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}],
    ]
)


@given(st.dictionaries(NAMES, JSON | SENSIBLE, max_size=8))
@pytest.mark.parametrize("read", [read_chat, read_completion, read_embeddings, read_response])
def test_no_json_crashes_a_reader(
    read: Callable[[Mapping[str, Any]], Asked], raw: dict[str, Any]
) -> None:
    """Any object is a call whose fields are all known, or a 400 with a code of the table."""
    try:
        asked = read(raw)
    except Declined as exc:
        asked, problem = None, exc.problem
    if asked is None:
        assert problem.code in CODES
        assert problem.status == 400
    else:
        assert set(body(asked)) <= {*CHAT, *COMPLETIONS, *EMBEDDINGS}
        assert all(isinstance(text, str) for text in asked.prompts)
