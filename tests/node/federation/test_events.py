"""A stranger's events, cut and named anew."""

import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.federation.events import is_comment, is_last, renamed
from node.sse import MAX_EVENT, EventCutter
from p2p.errors import TooMuch

STREAM = b'data: {"a": 1}\n\n:\n\ndata: {"b":\ndata: 2}\r\n\r\nid: 3\ndata: [DONE]\n\n'
WHOLE = [
    b'data: {"a": 1}\n\n',
    b":\n\n",
    b'data: {"b":\ndata: 2}\r\n\r\n',
    b"id: 3\ndata: [DONE]\n\n",
]


@given(st.lists(st.integers(1, len(STREAM)), max_size=20))
def test_the_cuts_do_not_depend_on_the_pieces(cuts: list[int]) -> None:
    """However a stream comes, the events are the same, and nothing is lost."""
    events, found, at = EventCutter(TooMuch), [], 0
    for cut in [*sorted(cuts), len(STREAM)]:
        found += events.feed(STREAM[at:cut])
        at = max(at, cut)
    assert found == WHOLE
    assert not events.pending


def test_an_event_that_has_not_ended_is_pending() -> None:
    """A part of an event is kept, and known to be there."""
    events = EventCutter(TooMuch)
    assert events.feed(b"data: x\n") == []
    assert events.pending
    assert events.feed(b"\n") == [b"data: x\n\n"]
    assert not events.pending


def test_an_event_without_end() -> None:
    """An event that is too long is the peer's fault."""
    events = EventCutter(partial(TooMuch, peer="12D3KooWpeer"))
    events.feed(b"x" * MAX_EVENT)
    with pytest.raises(TooMuch) as caught:
        events.feed(b"x")
    assert caught.value.peer == "12D3KooWpeer"


def test_crumbs_cost_no_more_than_one_piece() -> None:
    """A long event in small pieces is searched once, not once for each piece."""
    events, begin = EventCutter(TooMuch), time.process_time()
    for _ in range(MAX_EVENT // 64):
        events.feed(b"x" * 64)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("event", "comment", "last"),
    [
        (b":\n\n", True, False),
        (b": alive\r\n\r\n", True, False),
        (b"data: [DONE]\n\n", False, True),
        (b"data:[DONE]\r\n\r\n", False, True),
        (b"data: [DONE]  \n\n", False, True),
        (b"event: end\ndata: [DONE]\n\n", False, True),
        (b": x\ndata: [DONE]\n\n", False, True),
        (b'data: {"content": "[DONE]"}\n\n', False, False),
        (b"data: a\ndata: [DONE]\n\n", False, False),
        (b"event: x\n\n", False, False),
    ],
)
def test_kinds(event: bytes, comment: bool, last: bool) -> None:
    """Signs of life and the last event are told from all others, as a client would."""
    assert (is_comment(event), is_last(event)) == (comment, last)


def test_the_name_of_a_model() -> None:
    """Fields are renamed, and nothing that a model says, whatever it says."""
    said = r'{"model":"bagaa","choices":[{"text":"\"model\":\"bagaa\""}],"x": {"model": "bagaa"}}'
    told = renamed(said.encode(), "bagaa", 'alice/"tiny"').decode()
    assert told == (
        r'{"model":"alice/\"tiny\"","choices":[{"text":"\"model\":\"bagaa\""}],'
        r'"x": {"model": "alice/\"tiny\""}}'
    )
    assert renamed(b"same", "a", "a") == b"same"
