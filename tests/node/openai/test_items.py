"""A chat's answer as the items and events of a response."""

import json
from typing import Any

import pytest

from node.api.openai.errors import Declined, Problem
from node.api.openai.forms import Opening, Whole
from node.api.openai.items import Echo, ResponseStream, whole_response
from node.api.openai.responses import read_response
from p2p.errors import EngineError
from tests.inference import (
    DONE,
    TIMINGS,
    chat_stream,
    chat_whole,
    delta,
    engine_error,
    piece,
    usage,
)

OPENING = Opening(model="alice/tiny", id="ab", now=5.0)
ECHO = Echo(
    instructions="be good",
    max_output_tokens=9,
    metadata={"a": "b"},
    parallel_tool_calls=True,
    temperature=None,
    text={"format": {"type": "text"}},
    tool_choice="auto",
    tools=[],
    top_p=None,
)


def call(number: int, arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"index": number, "function": {"arguments": arguments, **more}}


def events(*steps: Any) -> list[dict[str, Any]]:
    form = ResponseStream(OPENING, ECHO)
    out = form.feed(b"".join(steps), 6.0) + form.end(7.0)
    found = []
    for one in out.split(b"\n\n")[:-1]:
        name, data = one.split(b"\n")
        value = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + value["type"].encode()
        found.append(value)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def test_a_text_is_an_item() -> None:
    """Every event of a text, in order and numbered; the response has the text and the usage."""
    found = events(*chat_stream("Hel", "lo"))
    assert [one["type"] for one in found] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    whole = found[-1]["response"]
    assert whole["output"][0]["content"][0]["text"] == "Hello"
    assert whole["usage"]["input_tokens"] == 32
    assert whole["usage"]["total_tokens"] == 34
    assert whole["instructions"] == "be good"
    assert whole["id"] == found[0]["response"]["id"] == "resp_ab"
    assert not whole["store"]


def test_thoughts_texts_and_calls_are_items_in_their_order() -> None:
    """Each kind, and each call, is an item; one ends when the next begins."""
    found = events(
        piece(delta(reasoning_content="hm")),
        piece(delta(content="I ask.")),
        piece(delta(tool_calls=[{"id": "c1"} | call(0, '{"a"', name="f")])),
        piece(delta(tool_calls=[call(0, ":1}")])),
        piece(delta(tool_calls=[{"id": "c2"} | call(1, "{}", name="g")])),
        piece(delta(finish="tool_calls")),
        piece(usage=usage(3, 4)),
        DONE,
    )
    output = found[-1]["response"]["output"]
    assert [one["type"] for one in output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert (output[2]["name"], output[2]["call_id"], output[2]["arguments"]) == (
        "f",
        "c1",
        '{"a":1}',
    )
    assert (output[3]["name"], output[3]["call_id"], output[3]["arguments"]) == ("g", "c2", "{}")
    opened = [one["output_index"] for one in found if one["type"].endswith("item.added")]
    closed = [one["output_index"] for one in found if one["type"].endswith("item.done")]
    assert opened == closed == [0, 1, 2, 3]
    assert len({one["id"] for one in output}) == 4


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_an_answer_that_was_cut_is_incomplete(finish: str, status: str, reason: str | None) -> None:
    """Why a chat ended decides the response's status, in a stream and in one piece."""
    last = events(*chat_stream("a", finish=finish))[-1]
    assert last["type"] == f"response.{status}"
    value = json.loads(chat_whole("a"))
    value["choices"][0]["finish_reason"] = finish
    for response in (last["response"], whole_response(value, OPENING, ECHO)):
        assert response["status"] == status
        assert (response["incomplete_details"] or {}).get("reason") == reason


def test_a_whole_answer_has_the_same_items() -> None:
    """An answer in one piece is made of the same items."""
    calls = [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]
    value = json.loads(chat_whole("hi", reasoning_content="hm", tool_calls=calls))
    value["usage"]["prompt_tokens_details"] = {"cached_tokens": 7}
    response = whole_response(value, OPENING, ECHO)
    assert [one["type"] for one in response["output"]] == ["reasoning", "message", "function_call"]
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 7}
    with pytest.raises(EngineError):
        whole_response({"choices": []}, OPENING, ECHO)


def test_a_failure_is_told_twice() -> None:
    """A response that failed says so itself, and in an event that makes SDKs raise."""
    form = ResponseStream(OPENING, ECHO)
    form.feed(piece(delta(content="x")), 6.0)
    failed, error = form.fail(Problem("engine_error", "It died."), 7.0).split(b"\n\n")[:2]
    assert json.loads(failed.split(b"data: ")[1])["response"]["error"]["code"] == "engine_error"
    assert json.loads(error.split(b"data: ")[1])["error"]["message"] == "It died."


def test_what_an_engine_does_wrong_is_an_error() -> None:
    """A stream that breaks off, an error in it, and mixed calls are raised."""
    with pytest.raises(EngineError):
        events(piece(delta(content="x")))
    with pytest.raises(Declined):
        events(b"data: " + engine_error(500, "server_error", "x") + b"\n\n")
    with pytest.raises(EngineError):
        events(
            piece(delta(tool_calls=[call(0, "{", name="f")])),
            piece(delta(tool_calls=[call(1, "{}", name="g")])),
            piece(delta(tool_calls=[call(0, "}")])),
            DONE,
        )


def test_an_answer_of_nothing_is_a_response() -> None:
    """A model that says nothing still gives a response with no output."""
    found = events(piece(usage=usage(3, 0), timings=TIMINGS), DONE)
    assert found[-1]["response"]["output"] == []
    assert events(DONE)[-1]["type"] == "response.completed"


def test_the_request_says_which_form() -> None:
    """A streamed request makes a stream, another a whole."""
    asked = read_response({"model": "m", "input": "hi", "stream": True})
    assert isinstance(asked.form(OPENING), ResponseStream)
    assert isinstance(read_response({"model": "m", "input": "hi"}).form(OPENING), Whole)
