"""What a token may still take: exact limits, whatever the order and whatever the clock does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.allowance import DAY, MINUTE, Allowance, Over

NOON = 20_000 * DAY + DAY / 2


def test_requests_of_a_sliding_minute() -> None:
    """The fourth of three is refused until the first is a minute old, and is not counted."""
    allowance = Allowance(3, None, NOON)
    for after in (0.0, 10.0, 20.0):
        assert allowance.take(NOON + after) is None
    assert allowance.take(NOON + 20) == Over("requests", 3, 40.0)
    assert allowance.take(NOON + 59) == Over("requests", 3, 1.0)
    assert allowance.take(NOON + 60) is None
    assert allowance.take(NOON + 61) == Over("requests", 3, 9.0)


def test_tokens_of_a_day() -> None:
    """What was used up comes back at midnight in UTC, and an overdraft is forgotten."""
    allowance = Allowance(None, 100, NOON, used=40)
    assert allowance.take(NOON) is None
    allowance.spend(59, NOON)
    assert allowance.take(NOON) is None
    allowance.spend(500, NOON)
    assert allowance.take(NOON) == Over("tokens", 100, DAY / 2)
    assert allowance.take(NOON + DAY / 2 - 1) == Over("tokens", 100, 1.0)
    assert allowance.used(NOON) == 599
    assert allowance.take(NOON + DAY / 2) is None
    assert allowance.used(NOON + DAY / 2) == 0


def test_a_day_that_is_used_up_costs_no_minute() -> None:
    """A request that is refused for the day's tokens is no request of the minute."""
    allowance = Allowance(1, 1, NOON, used=1)
    for _ in range(3):
        assert allowance.take(NOON + DAY / 2 - 1) == Over("tokens", 1, 1.0)
    assert allowance.take(NOON + DAY / 2) is None


def test_no_limits() -> None:
    """Without limits everything is let in, and nothing is remembered of it but the tokens."""
    allowance = Allowance(None, None, NOON)
    assert [allowance.take(NOON) for _ in range(1000)] == [None] * 1000
    allowance.spend(7, NOON)
    assert allowance.used(NOON) == 7


def test_a_clock_that_is_set_back() -> None:
    """The minute is forgiven, and nobody waits for the hour to come again."""
    allowance = Allowance(1, None, NOON)
    assert allowance.take(NOON) is None
    assert allowance.take(NOON - 3600) is None
    assert allowance.take(NOON - 3600) == Over("requests", 1, MINUTE)


@pytest.mark.parametrize("rpm", [1, 5, 30])
@given(steps=st.lists(st.floats(0, 40), max_size=200))
def test_never_more_in_any_minute(rpm: int, steps: list[float]) -> None:
    """However requests come, no minute has more than the limit, and the wait told is true."""
    allowance, now = Allowance(rpm, None, NOON), NOON
    taken: list[float] = []
    for step in steps:
        now += step
        over = allowance.take(now)
        last = [at for at in taken if at > now - MINUTE]
        assert (over is None) == (len(last) < rpm)
        if over is None:
            taken.append(now)
        else:
            assert over.seconds == pytest.approx(last[-rpm] + MINUTE - now)
