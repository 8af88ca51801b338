"""What an Ollama client asks, made into what an engine takes."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.ollama.requests import (
    CHAT,
    EMBED,
    GENERATE,
    REFUSED,
    read_chat,
    read_embed,
    read_embeddings,
    read_generate,
)
from node.api.openai.errors import CODES, Declined
from node.api.openai.requests import SAMPLING, Asked

USER = {"role": "user", "content": "hi"}
CHAT_ASK: dict[str, Any] = {"model": "m", "messages": [USER]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def body(asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(asked.call("m", False).body)
    assert found.pop("model") == "m"
    if asked.stream:
        assert found.pop("stream")
        assert found.pop("stream_options") == {"include_usage": True}
    return found


@pytest.mark.parametrize("name", ["alice/tiny", "alice/tiny:latest"])
def test_a_tag_is_no_part_of_a_name(name: str) -> None:
    """Names come with ``:latest`` or without; also by the older field."""
    assert read_chat(CHAT_ASK | {"model": name}).model == "alice/tiny"
    assert read_chat({"name": name, "messages": [USER]}).model == "alice/tiny"
    assert read_embed({"model": name, "input": "x"}).model == "alice/tiny"


@pytest.mark.parametrize(
    ("more", "heard"),
    [
        ({}, {}),
        (
            {"options": {"num_predict": 5, "temperature": 0, "top_p": 0.5, "top_k": 40, "seed": 1,
                         "stop": ["x"], "min_p": 0.1, "presence_penalty": 1,
                         "frequency_penalty": 1}},
            {"max_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 40, "seed": 1,
             "stop": ["x"], "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": 1},
        ),
        ({"options": {"num_predict": -1}}, {}),
        ({"options": {"num_predict": None, "num_ctx": 999999, "num_gpu": 99, "mirostat": 2,
                      "grammar": "x", "lora": "y"}}, {}),
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        ({"format": ""}, {}),
        (
            {"format": {"type": "object"}},
            {"response_format": {"type": "json_schema",
                                 "json_schema": {"name": "answer", "schema": {"type": "object"}}}},
        ),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        ({"tools": [], "keep_alive": "5m", "think": True, "stream": False}, {}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
    ],
)  # fmt: skip
def test_a_chat_is_a_chat(more: dict[str, Any], heard: dict[str, Any]) -> None:
    """Options reach the engine by its own names; those of memory and hardware do not reach it."""
    asked = read_chat(CHAT_ASK | more)
    assert body(asked) == {"messages": [USER]} | heard
    assert asked.stream  # whether the client gets one is the form's business


def test_calls_of_tools_get_ids() -> None:
    """Ollama's calls have no ids and their results none either; the engine gets matching ones."""
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    other = {"function": {"name": "g", "arguments": {}}}
    talk = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call, other]},
        {"role": "tool", "tool_name": "g", "content": "2"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "0"},
    ]
    made = body(read_chat({"model": "m", "messages": talk}))["messages"]
    first, second = made[1]["tool_calls"]
    assert first == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a":1}'},
    }
    assert [one["tool_call_id"] for one in made[2:]] == [second["id"], first["id"], "call_0"]
    assert read_chat({"model": "m", "messages": talk}).needs == {"chat", "tools"}


def test_a_prompt_is_a_chat_unless_it_is_raw() -> None:
    """/api/generate asks a chat of one message, with a system message; raw asks a completion."""
    asked = read_generate({"model": "m", "prompt": "hi", "system": "be good"})
    assert body(asked) == {"messages": [{"role": "system", "content": "be good"}, USER]}
    raw = read_generate({"model": "m", "prompt": "hi", "raw": True})
    assert raw.endpoint == "completions"
    assert body(raw) == {"prompt": "hi"}
    assert raw.needs == {"completions"}
    with pytest.raises(Declined):
        read_generate({"model": "m", "prompt": "hi", "raw": True, "system": "x"})


def test_no_prompt_loads_the_model() -> None:
    """Asking for nothing makes one token, so that the model is there; nobody unloads it so."""
    for asked in (
        read_generate({"model": "m"}),
        read_generate({"model": "m", "prompt": "", "keep_alive": -1}),
        read_chat({"model": "m", "messages": []}),
    ):
        assert body(asked)["max_tokens"] == 1
    with pytest.raises(Declined) as caught:
        read_generate({"model": "m", "keep_alive": 0})
    assert "allod stop" in caught.value.problem.message


def test_embeddings_of_one_or_several() -> None:
    """One text, a list of them, or the older request for one."""
    assert body(read_embed({"model": "m", "input": "x", "truncate": True}))["input"] == ["x"]
    assert body(read_embed({"model": "m", "input": ["x", "y"]}))["input"] == ["x", "y"]
    assert body(read_embeddings({"model": "m", "prompt": "x"}))["input"] == ["x"]
    for given_ in ([], [1], "", ["x", ""], 5):
        with pytest.raises(Declined):
            read_embed({"model": "m", "input": given_})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_is_refused(name: str) -> None:
    """Templates, adapters, pictures and contexts are refused by name; empty ones pass."""
    with pytest.raises(Declined) as caught:
        read_generate({"model": "m", "prompt": "x", name: ["x"]})
    assert caught.value.problem.param == name
    nothing: list[object] = ["", [], None, False, 0]
    for empty in nothing:
        assert read_generate({"model": "m", "prompt": "x", name: empty}).model == "m"


@pytest.mark.parametrize(
    "more",
    [
        {"grammar": "x"},
        {"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [5]},
        {"messages": "hi"},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f",
                                                                         "arguments": "x"}}]}]},
        {"options": []},
        {"options": {"temperature": "hot"}},
        {"options": {"stop": [1]}},
        {"format": 5},
        {"stream": "yes"},
        {"tools": [{"type": "web_search"}]},
        {"model": None},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_400(more: dict[str, Any]) -> None:
    """A refusal has a code and a sentence."""
    with pytest.raises(Declined) as caught:
        read_chat(CHAT_ASK | more)
    assert caught.value.problem.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
SENSIBLE = st.sampled_from(["m", [USER], [TOOL], {"seed": 1}, {"num_predict": "x"}, True, "json"])
NAMES = st.sampled_from(sorted({*CHAT, *GENERATE, *EMBED, *REFUSED}))


@given(st.dictionaries(NAMES, JSON | SENSIBLE, max_size=8))
@pytest.mark.parametrize("read", [read_chat, read_generate, read_embed, read_embeddings])
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
        known = {*SAMPLING, "messages", "prompt", "input", "encoding_format", "tools"}
        known |= {"response_format", "stream", "stream_options", "model", "tool_choice"}
        assert set(json.loads(asked.call("m", False).body)) <= known
