"""Server-sent events, cut and read."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.openai.errors import Declined
from node.api.openai.events import (
    PieceReader,
    parse_piece,
    payload_of,
)
from node.api.openai.tally import Ear, Usage
from node.sse import MAX_EVENT, EventCutter
from p2p.errors import EngineError
from tests.inference import DONE, chat_stream, engine_error, piece

STREAM = b"".join(step for step in chat_stream("a", "\n\n", "b") if isinstance(step, bytes))


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_where_a_stream_is_cut_does_not_matter(cuts: list[int]) -> None:
    """However the bytes arrive, the same events come out, and joined they are the stream."""
    reader, found, at = EventCutter(EngineError), [], 0
    for cut in [*sorted(cuts), len(STREAM)]:
        found += reader.feed(STREAM[at:cut])
        at = cut
    assert b"".join(found) == STREAM
    assert len(found) == 7
    assert not reader.pending


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        (b'data: {"a":1}\n\n', b'{"a":1}'),
        (b'data:{"a":1}\r\n\r\n', b'{"a":1}'),
        (b'event: x\ndata: {"a":1}\n\n', b'{"a":1}'),
        (b"data: 1\ndata: 2\n\n", b"1\n2"),
        (b": ping\n\n", None),
        (b"\n\n", None),
        (b'error: {"code":500}\n\n', b'{"error":{"code":500}}'),
        (b"data: [DONE]\n\n", b"[DONE]"),
    ],
)
def test_the_data_of_an_event(event: bytes, payload: bytes | None) -> None:
    """Data is found in one line or several; a comment has none."""
    assert payload_of(event) == payload


def test_an_event_that_does_not_end_is_an_error() -> None:
    """A stranger's endless event is not kept in memory for ever."""
    reader = EventCutter(EngineError)
    for _ in range(MAX_EVENT // (1 << 20)):
        reader.feed(b"x" * (1 << 20))
    with pytest.raises(EngineError):
        reader.feed(b"x")


def test_crumbs_cost_no_more_than_one_piece() -> None:
    """An event that comes byte by byte behind a large beginning is searched once."""
    reader, begin = EventCutter(EngineError), time.process_time()
    reader.feed(b"x" * (MAX_EVENT - 200_000))
    for _ in range(100_000):
        reader.feed(b"x")
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"[1]", b"1", b"\xff", b"[" * 99_999])
def test_a_piece_that_is_no_object_is_an_error(payload: bytes) -> None:
    """What is not JSON, or no object, is the engine's fault."""
    with pytest.raises(EngineError):
        parse_piece(payload)


def test_an_error_in_a_stream_is_raised() -> None:
    """What an engine says of itself in the middle is raised in our words; null is nothing."""
    with pytest.raises(Declined) as caught:
        parse_piece(engine_error(400, "exceed_context_size_error", "too long"))
    assert caught.value.problem.code == "context_length_exceeded"
    with pytest.raises(Declined) as caught:
        parse_piece(b'{"error": "broken"}')
    assert caught.value.problem.code == "engine_error"
    assert parse_piece(b"null") == {}
    assert parse_piece(b'{"error": null, "a": 1}')["a"] == 1


def test_pieces_are_counted_and_heard() -> None:
    """Reading a stream counts its tokens, lets the ear hear, and knows its end."""
    usage, ear = Usage(), Ear(on=True)
    reader = PieceReader(usage, ear)
    with pytest.raises(EngineError):
        reader.end()
    found = reader.feed(STREAM + b": ping\n\n" + DONE)
    assert len(found) == 6
    assert (usage.prompt, usage.completion, usage.told, usage.pieces) == (32, 3, 1, 5)
    assert ear.take() == ["a\n\nb"]
    assert reader.done
    reader.end()


def test_a_stream_that_only_breaks_off_is_an_error() -> None:
    """A stream without its last event did not end well."""
    reader = PieceReader(Usage(), Ear(on=False))
    reader.feed(piece())
    with pytest.raises(EngineError, match="broke off"):
        reader.end()
