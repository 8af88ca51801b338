"""How an answer goes back: what is passed on as it is, what is held, what is mended."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.openai.errors import Declined, Problem
from node.api.openai.forms import MAX_WHOLE, Opening, Relayed, Whole
from node.api.openai.reshape import legacy_logprobs
from p2p.errors import EngineError
from tests.desk import pieces_of
from tests.inference import (
    DONE,
    TOO_LONG,
    chat_stream,
    chat_whole,
    delta,
    event,
    piece,
    text_piece,
    text_stream,
    usage,
)


def opening(**more: Any) -> Opening:
    return Opening(model="alice/tiny", id="ab", now=1.0, **more)


def joined(steps: list[Any]) -> bytes:
    return b"".join(steps)


def run(form: Relayed, stream: bytes) -> bytes:
    return form.feed(stream, 2.0) + form.end(3.0)


CHAT = joined(chat_stream("a", '"usage"', "[DONE]"))


def test_a_stream_with_its_usage_goes_out_untouched() -> None:
    """A client that wants the usage gets the engine's bytes, each of them."""
    form = Relayed(opening(), wants_usage=True)
    assert run(form, CHAT) == CHAT
    assert (form.usage.prompt, form.usage.completion) == (32, 3)


def test_the_usage_that_nobody_wanted_is_left_out() -> None:
    """A client that did not ask gets all but the one event that the engine was asked for."""
    form = Relayed(opening(), wants_usage=False)
    out = run(form, CHAT)
    assert b"completion_tokens" not in out
    assert b"timings" not in out
    assert out.count(b"data: ") == CHAT.count(b"data: ") - 1
    assert out.endswith(DONE)
    assert (form.usage.prompt, form.usage.completion) == (32, 3)


def test_the_usage_beside_a_choice_is_cut_out_of_it() -> None:
    """A completion's last piece has choice and usage: the choice goes out."""
    form = Relayed(opening(), wants_usage=False)
    out = run(form, joined(text_stream("a", "b")))
    last = list(pieces_of(out))[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert not {"usage", "timings"} & set(last)


@given(st.lists(st.integers(0, len(CHAT)), max_size=8), st.booleans())
def test_how_the_bytes_arrive_does_not_matter(cuts: list[int], wants: bool) -> None:
    """Cut anywhere, what goes out in the end is the same."""
    form, out, at = Relayed(opening(), wants_usage=wants), b"", 0
    for cut in [*sorted(cuts), len(CHAT)]:
        out += form.feed(CHAT[at:cut], 2.0)
        at = cut
    assert out + form.end(3.0) == run(Relayed(opening(), wants_usage=wants), CHAT)


def test_nothing_goes_out_after_the_end() -> None:
    """Events behind the last one are dropped, in the same piece of bytes too."""
    form = Relayed(opening(), wants_usage=True)
    assert run(form, CHAT + piece(delta(content="more"))) == CHAT


def test_whole_events_are_not_held_back() -> None:
    """An event goes out with the bytes that end it, and what a client waits for is not copied."""
    form, data = Relayed(opening(), wants_usage=False), piece(delta(content="x"))
    assert form.feed(data, 2.0) is data
    assert form.feed(data[:10], 2.0) == b""
    assert form.feed(data[10:] + data[:3], 2.0) == data
    assert form.usage.pieces == 2


def test_null_usage_on_every_piece_is_no_usage() -> None:
    """Engines that write ``"usage":null`` everywhere are relayed as they are."""
    data = joined([piece(delta(content="x"), usage=None), piece(usage=usage(5, 1)), DONE])
    form = Relayed(opening(), wants_usage=True)
    assert run(form, data) == data
    assert form.usage.told == 1


def test_signs_of_life_are_passed_on() -> None:
    """Comments keep a connection awake, and are no pieces of the answer."""
    form = Relayed(opening(), wants_usage=True)
    assert form.feed(b": ping\n\n", 2.0) == b": ping\n\n"
    assert form.usage.pieces == 0


def test_several_choices_have_one_usage() -> None:
    """llama.cpp tells each choice's usage; the client gets their sum once, and never a null."""
    data = [
        b"data: null\n\n",
        piece(delta(0, content="a")),
        piece(delta(1, content="b")),
        piece(usage=usage(10, 3), timings={}),
        piece(usage=usage(10, 4), timings={}),
        DONE,
    ]
    form = Relayed(opening(n=2, choices=2), wants_usage=True)
    out = list(pieces_of(run(form, joined(data))))
    assert [one["choices"] != [] for one in out] == [True, True, False]
    assert out[-1]["usage"]["completion_tokens"] == 7
    assert out[-1]["usage"]["prompt_tokens"] == 10
    silent = Relayed(opening(n=2, choices=2), wants_usage=False)
    assert b"usage" not in run(silent, joined(data))


def test_an_answer_that_breaks_off_is_an_error() -> None:
    """The end without the last event, and an error of the engine's, are raised."""
    form = Relayed(opening(), wants_usage=True)
    form.feed(piece(delta(content="x")), 2.0)
    with pytest.raises(EngineError):
        form.end(3.0)
    with pytest.raises(Declined) as caught:
        form.feed(b"data: " + TOO_LONG + b"\n\n", 2.0)
    assert caught.value.problem.code == "context_length_exceeded"


def test_a_failure_is_an_event() -> None:
    """What breaks in the middle is told in OpenAI's shape, and no last event comes."""
    out = Relayed(opening(), wants_usage=True).fail(Problem("engine_error", "It died."), 2.0)
    assert next(pieces_of(out))["error"]["code"] == "engine_error"
    assert b"[DONE]" not in out


def test_a_listener_hears_the_stream() -> None:
    """With a moderator the text of every piece is heard, and the pieces are the same."""
    form = Relayed(opening(listening=True), wants_usage=True)
    assert run(form, CHAT) == CHAT
    assert form.ear.take() == ['a"usage"[DONE]']


def test_pieces_are_reshaped_where_they_must_be() -> None:
    """Odds of a completion's stream come in OpenAI's lists."""
    odds = {"content": [{"token": "a", "logprob": -1, "top_logprobs": []}]}
    value = json.loads(text_piece("a")[6:])
    value["choices"][0]["logprobs"] = odds
    form = Relayed(opening(), wants_usage=True, reshape=legacy_logprobs)
    [out] = pieces_of(form.feed(event(value), 2.0))
    assert out["choices"][0]["logprobs"]["tokens"] == ["a"]


def test_a_whole_answer_goes_out_as_it_came() -> None:
    """An answer in one piece is the engine's bytes, counted."""
    form = Whole(opening())
    body = chat_whole("hi")
    assert form.feed(body[:9], 2.0) + form.feed(body[9:], 2.0) == b""
    assert form.end(3.0) == body
    assert (form.usage.prompt, form.usage.completion) == (32, 3)


def test_the_usage_of_the_first_choice_counts_for_each() -> None:
    """Where an engine tells of the first choice only, the others are counted like it."""
    form = Whole(opening(n=2, choices=2, first_only=True))
    form.feed(chat_whole("hi", n=2), 2.0)
    form.end(3.0)
    assert (form.usage.prompt, form.usage.completion) == (32, 6)
    honest = Whole(opening(n=2, choices=2))
    honest.feed(chat_whole("hi", n=2), 2.0)
    honest.end(3.0)
    assert honest.usage.completion == 3


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"a":', b"\xff", b"[" * 99_999])
def test_an_answer_that_is_no_object_is_an_error(body: bytes) -> None:
    """What is not JSON does not reach the client."""
    form = Whole(opening())
    form.feed(body, 2.0)
    with pytest.raises(EngineError):
        form.end(3.0)


def test_an_error_with_status_200_is_an_error() -> None:
    """An engine's error object is never passed on as an answer."""
    form = Whole(opening())
    form.feed(TOO_LONG, 2.0)
    with pytest.raises(Declined):
        form.end(3.0)


def test_an_answer_of_any_size_is_not_kept() -> None:
    """A stranger that sends for ever is stopped."""
    form = Whole(opening())
    for _ in range(MAX_WHOLE // (8 << 20)):
        form.feed(b" " * (8 << 20), 2.0)
    with pytest.raises(EngineError):
        form.feed(b" ", 2.0)
