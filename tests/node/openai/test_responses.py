"""The Responses API read as a chat."""

import json
from typing import Any

import pytest

from node.api.openai.errors import Declined
from node.api.openai.responses import RESPONSES_IGNORED, RESPONSES_REFUSED, read_response


def chat(value: object, **more: Any) -> dict[str, Any]:
    asked = read_response({"model": "m", "input": value, **more})
    assert asked.endpoint == "chat/completions"
    body: dict[str, Any] = json.loads(asked.call("m", False).body)
    assert body.pop("model") == "m"
    return body


USER = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("given", "talk"),
    [
        ("hi", [USER]),
        ([{"role": "user", "content": "hi"}], [USER]),
        (
            [
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "hi"}],
                }
            ],
            [USER],
        ),
        (
            [
                {"role": "developer", "content": "be good"},
                USER,
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "yes", "annotations": []}],
                },
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "22"},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            ],
            [
                {"role": "system", "content": "be good"},
                USER,
                {"role": "assistant", "content": "yes", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": "22"},
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
            ],
        ),
    ],
)
def test_items_become_messages(given: object, talk: object) -> None:
    """Texts, calls of tools and their results are a chat; thoughts are not told again."""
    assert chat(given)["messages"] == talk


def test_fields_become_those_of_a_chat() -> None:
    """Instructions, bounds, formats and tools arrive by their names in a chat."""
    form = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    body = chat(
        "hi",
        instructions="be good",
        max_output_tokens=5,
        temperature=0,
        text={"format": form, "verbosity": "low"},
        tools=[tool],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=True,
        truncation="disabled",
        top_logprobs=0,
        include=["reasoning.encrypted_content"],
        store=True,
        reasoning={"effort": "low"},
    )
    assert body == {
        "messages": [{"role": "system", "content": "be good"}, USER],
        "max_tokens": 5,
        "temperature": 0,
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object"}, "strict": True},
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"type": "object"}},
        },
    }


@pytest.mark.parametrize("name", sorted(RESPONSES_REFUSED))
def test_nothing_is_kept(name: str) -> None:
    """What refers to something kept, or wants it kept, is refused; null and false pass."""
    assert chat("hi", **{name: None})
    assert chat("hi", **{name: False})
    with pytest.raises(Declined) as caught:
        chat("hi", **{name: "resp_1" if name != "background" else True})
    assert caught.value.problem.param == name


def test_hints_are_passed_over() -> None:
    """Hints change nothing."""
    assert chat("hi", **dict.fromkeys(RESPONSES_IGNORED, "x")) == chat("hi")


@pytest.mark.parametrize(
    "more",
    [
        {"input": None},
        {"input": []},
        {"input": 5},
        {"input": [{"role": "developer", "content": "x"}]},
        {"input": [{"role": "tool", "content": "x"}]},
        {"input": [{"role": "user", "content": None}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"tools": [{"type": "web_search"}]},
        {"truncation": "auto"},
        {"top_logprobs": 3},
        {"include": ["message.output_text.logprobs"]},
        {"metadata": {"a": 1}},
        {"metadata": {str(i): "x" for i in range(17)}},
        {"text": {"format": {"type": "grammar"}}},
    ],
)
def test_what_cannot_be_is_a_400(more: dict[str, Any]) -> None:
    """What no chat can say is refused."""
    with pytest.raises(Declined) as caught:
        read_response({"model": "m", "input": "hi"} | more)
    assert caught.value.problem.status == 400
