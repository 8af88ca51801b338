"""An engine's answer as Ollama's lines."""

import json
from typing import Any

import pytest

from node.api.ollama.lines import Embedded, Lines, Loaded, Voice, error_line, moment
from node.api.openai.errors import Declined, Problem
from node.api.openai.forms import Opening
from p2p.errors import EngineError
from tests.inference import (
    DONE,
    TOO_LONG,
    chat_stream,
    delta,
    piece,
    text_stream,
    usage,
)

OPENING = Opening(model="alice/tiny", id="ab", now=100.0)


def lines(form: Lines, *steps: Any) -> list[dict[str, Any]]:
    out = b"".join(form.feed(step, 101.0) for step in steps) + form.end(103.0)
    return [json.loads(line) for line in out.splitlines()]


def chat(stream: bool = True) -> Lines:
    return Lines(OPENING, Voice("message"), "alice/tiny:latest", stream=stream)


def test_a_stream_is_a_line_a_piece() -> None:
    """Each piece is a line, the last has the reason, the counts and the times."""
    first, second, last = lines(chat(), *chat_stream("Hel", "lo"))
    assert first == {
        "model": "alice/tiny:latest",
        "created_at": "1970-01-01T00:01:41Z",
        "message": {"role": "assistant", "content": "Hel"},
        "done": False,
    }
    assert second["message"]["content"] == "lo"
    assert last == {
        "model": "alice/tiny:latest",
        "created_at": "1970-01-01T00:01:43Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": 3_000_000_000,
        "load_duration": 0,
        "prompt_eval_count": 32,
        "prompt_eval_duration": 416_478_000,
        "eval_count": 2,
        "eval_duration": 38_228_000,
    }


def test_without_a_stream_it_is_one_line() -> None:
    """The whole answer in one line, from the same pieces."""
    [only] = lines(chat(stream=False), *chat_stream("Hel", "lo", finish="length"))
    assert only["message"]["content"] == "Hello"
    assert (only["done"], only["done_reason"]) == (True, "length")
    assert chat(stream=False).content_type == "application/json"
    assert chat().content_type == "application/x-ndjson"


def test_generate_has_its_text_in_the_response() -> None:
    """The other voice: a completion's or a chat's text in ``response``."""
    for steps in (text_stream("Pa", "ris"), chat_stream("Pa", "ris")):
        form = Lines(OPENING, Voice("response"), "m", stream=True)
        found = lines(form, *steps)
        assert "".join(one["response"] for one in found) == "Paris"
        assert "message" not in found[0]


@pytest.mark.parametrize("stream", [True, False])
def test_calls_of_tools_come_whole(stream: bool) -> None:
    """Pieces of calls are put together, their arguments an object; thoughts stand apart."""
    call: dict[str, Any] = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ":1}"}}
    other = {"index": 1, "function": {"name": "g", "arguments": ""}}
    found = lines(
        chat(stream),
        piece(delta(reasoning_content="hm")),
        piece(delta(tool_calls=[call])),
        piece(delta(tool_calls=[rest])),
        piece(delta(tool_calls=[other])),
        piece(delta(finish="tool_calls")),
        piece(usage=usage(3, 4)),
        DONE,
    )
    messages = [one["message"] for one in found]
    assert [one["thinking"] for one in messages if "thinking" in one] == ["hm"]
    assert [one["tool_calls"] for one in messages if "tool_calls" in one] == [
        [
            {"function": {"name": "f", "arguments": {"a": 1}}},
            {"function": {"name": "g", "arguments": {}}},
        ]
    ]
    assert found[-1]["done_reason"] == "stop"
    # without timings of the engine the times are those seen from here
    assert found[-1]["prompt_eval_duration"] == 1_000_000_000
    assert found[-1]["eval_duration"] == 2_000_000_000


@pytest.mark.parametrize("arguments", ["{", "[]", "nonsense"])
def test_arguments_that_are_no_object_are_an_error(arguments: str) -> None:
    """A call that a client could not make sense of is not passed on."""
    call = {"index": 0, "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(EngineError):
        lines(chat(), piece(delta(tool_calls=[call])), DONE)


def test_what_an_engine_does_wrong_is_raised() -> None:
    """A stream that breaks off, or that has an error in it, is an error."""
    with pytest.raises(EngineError):
        lines(chat(), piece(delta(content="x")))
    with pytest.raises(Declined):
        lines(chat(), b"data: " + TOO_LONG + b"\n\n")


def test_a_failure_is_a_line() -> None:
    """What breaks in the middle is told in Ollama's shape."""
    assert chat().fail(Problem("engine_error", "It died."), 1.0) == b'{"error": "It died."}\n'
    assert error_line(Problem("engine_error", "x")).endswith(b"\n")


def test_loading_says_nothing_of_what_was_said() -> None:
    """A model that only had to be loaded answers that it is."""
    [only] = lines(Loaded(OPENING, Voice("response"), "m"), *chat_stream("secret"))
    assert (only["response"], only["done"], only["done_reason"]) == ("", True, "load")


def test_embeddings_are_lists_of_numbers() -> None:
    """Several vectors with their count, or the one of an older request."""
    value = {"data": [{"embedding": [0.5]}, {"embedding": "AAAAPw=="}], "usage": usage(4, 0)}
    assert Embedded("m", False)(value) == {
        "model": "m",
        "embeddings": [[0.5], [0.5]],
        "prompt_eval_count": 4,
    }
    assert Embedded("m", True)(value) == {"embedding": [0.5]}
    for wrong in (None, [], [5], [{"embedding": "x"}]):
        with pytest.raises(EngineError):
            Embedded("m", False)({"data": wrong})


def test_a_moment_is_written_as_ollama_does() -> None:
    """UTC, with a Z."""
    assert moment(1_700_000_000.5) == "2023-11-14T22:13:20.500000Z"
