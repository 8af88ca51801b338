"""Which peer is asked: pure, with time passed in."""

import pytest

from node.federation.choose import (
    ASIDE_BUSY,
    ASIDE_FIRST,
    ASIDE_LAST,
    ASIDE_LIAR,
    Standings,
    late,
)
from p2p.errors import PeerGone, PeerRefused
from p2p.serving import Serving

CHAT = frozenset({"chat"})


def offer(
    busy: int = 0,
    waiting: int = 0,
    slots: int = 2,
    state: str = "ready",
    can: frozenset[str] = CHAT,
) -> Serving:
    return Serving(slots, busy, waiting, 4096, can, state)


@pytest.mark.parametrize(
    ("offers", "latencies", "best"),
    [
        # the less busy for each slot, however far
        ({"a": offer(busy=1), "b": offer()}, {"a": 0.01, "b": 0.5}, "ba"),
        ({"a": offer(busy=2), "b": offer(busy=3, slots=8)}, {"a": 0.01, "b": 0.5}, "ba"),
        ({"a": offer(busy=2, waiting=4), "b": offer(busy=2, waiting=3)}, {}, "ba"),
        # of the same load the quickest; nobody knows of c
        ({"a": offer(), "b": offer(), "c": offer()}, {"a": 0.2, "b": 0.1}, "bac"),
        # one that has it loaded before one that would have to
        ({"a": offer(state="cold"), "b": offer()}, {"a": 0.1, "b": 0.2}, "ba"),
        ({"a": offer(state="cold"), "b": offer(busy=1)}, {}, "ab"),
        # those that cannot do it are out
        ({"a": offer(can=frozenset()), "b": offer(busy=2)}, {}, "b"),
        ({"a": offer(can=frozenset({"embeddings"}))}, {}, ""),
        ({}, {}, ""),
    ],
)
def test_the_order(offers: dict[str, Serving], latencies: dict[str, float], best: str) -> None:
    """Load first, then whether it is loaded, then latency; only those that can."""
    standings = Standings()
    for peer, seconds in latencies.items():
        standings.told(peer, seconds)
    assert "".join(standings.rank(offers, CHAT, 0.0)) == best


def test_latency_is_an_average_that_follows() -> None:
    """One slow answer does not make a slow peer, and many do."""
    standings = Standings()
    standings.told("a", 0.1)
    assert standings.of("a").latency == pytest.approx(0.1)
    standings.told("a", 1.1)
    assert standings.of("a").latency == pytest.approx(0.4)
    for _ in range(20):
        standings.told("a", 1.1)
    assert standings.of("a").latency == pytest.approx(1.1, rel=0.01)


def test_a_peer_that_fails_is_left_alone() -> None:
    """A minute, twice as long each time in a row, an hour at most; an answer wipes it."""
    standings, now = Standings(), 100.0
    pauses = []
    for _ in range(9):
        standings.failed("a", now, "it broke off")
        assert standings.aside("a", now) == "it broke off"
        assert standings.rank({"a": offer(), "b": offer()}, CHAT, now) == ["b"]
        pauses.append(standings.of("a").until - now)
        now = standings.of("a").until
        assert not standings.aside("a", now)
    assert pauses[:3] == [ASIDE_FIRST, 2 * ASIDE_FIRST, 4 * ASIDE_FIRST]
    assert pauses[-2:] == [ASIDE_LAST, ASIDE_LAST]
    standings.answered("a")
    standings.failed("a", now, "again")
    assert standings.of("a").until - now == ASIDE_FIRST


def test_a_busy_peer_is_left_alone_as_long_as_it_says() -> None:
    """Within reason; and being busy is no failure."""
    standings = Standings()
    standings.busy("a", 0.0, 5.0)
    assert standings.aside("a", 4.9)
    assert not standings.aside("a", 5.0)
    standings.busy("a", 10.0, 1e9)
    assert not standings.aside("a", 10.0 + ASIDE_BUSY)
    standings.busy("b", 0.0, 0.0)
    assert not standings.aside("b", 0.0)
    assert standings.of("a").failures == 0


def test_who_is_late_is_at_fault_only_if_it_had_time() -> None:
    """A peer that had a moment is busy for a while; one that had our patience has failed."""
    busy, gone = late("a", 5.0, 600.0), late("a", 600.0, 600.0)
    assert isinstance(busy, PeerRefused)
    assert (busy.status, busy.retry_after, busy.peer) == (429, ASIDE_BUSY, "a")
    assert (type(gone), gone.peer) == (PeerGone, "a")


def test_nothing_shortens_the_time_of_a_liar() -> None:
    """An answer, or a lesser fault, does not bring it back sooner."""
    standings = Standings()
    standings.lied("a", 0.0, "it answered with another model")
    standings.answered("a")
    standings.failed("a", 1.0, "it broke off")
    standings.busy("a", 1.0, 1.0)
    assert standings.aside("a", ASIDE_LIAR - 1) == "it answered with another model"
    assert not standings.aside("a", ASIDE_LIAR)


def test_the_book_is_bounded() -> None:
    """The longest unheard peers go first; asking about one remembers nothing."""
    standings = Standings(size=2)
    for peer in "abac":
        standings.told(peer, 0.1)
    assert len(standings) == 2
    assert not standings.aside("zzz", 0.0)
    assert len(standings) == 2
    standings.failed("b", 0.0, "it was forgotten")
    assert standings.of("b").failures == 1
