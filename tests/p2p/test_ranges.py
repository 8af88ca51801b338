"""RangeSet agrees with the plain set of integers that it stands for."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.ranges import RangeSet

spans = st.tuples(st.integers(0, 40), st.integers(0, 40))
edits = st.lists(st.tuples(st.booleans(), spans), max_size=12)


def model(ranges: RangeSet) -> set[int]:
    return {i for start, stop in ranges for i in range(start, stop)}


def build(steps: list[tuple[bool, tuple[int, int]]]) -> tuple[RangeSet, set[int]]:
    ranges, plain = RangeSet(), set[int]()
    for adding, (start, stop) in steps:
        if adding:
            ranges.add(start, stop)
            plain |= set(range(start, stop))
        else:
            ranges.remove(start, stop)
            plain -= set(range(start, stop))
    return ranges, plain


@given(edits)
def test_adding_and_removing_agree_with_a_set(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    """Any sequence of edits leaves the same integers as a plain set, in normal form."""
    ranges, plain = build(steps)
    assert model(ranges) == plain
    assert ranges.size == len(plain)
    assert bool(ranges) == bool(plain)
    flat = [edge for span in ranges for edge in span]
    assert flat == sorted(set(flat)), "ranges must be sorted, disjoint and not touching"
    assert ranges == RangeSet(sorted(ranges, reverse=True))


@given(edits, edits)
def test_algebra_agrees_with_a_set(
    left: list[tuple[bool, tuple[int, int]]], right: list[tuple[bool, tuple[int, int]]]
) -> None:
    """Union, difference and intersection are those of plain sets and leave their operands alone."""
    a, plain_a = build(left)
    b, plain_b = build(right)
    assert model(a.subtract(b)) == plain_a - plain_b
    assert model(a.intersect(b)) == plain_a & plain_b
    union = a.copy()
    union.update(b)
    assert model(union) == plain_a | plain_b
    assert model(a) == plain_a


@given(edits, spans)
def test_missing_and_covers_agree_with_a_set(
    steps: list[tuple[bool, tuple[int, int]]], span: tuple[int, int]
) -> None:
    """What is missing of a span, and whether it is covered, agree with a plain set."""
    ranges, plain = build(steps)
    wanted = set(range(*span))
    assert model(ranges.missing(*span)) == wanted - plain
    assert ranges.covers(*span) == (wanted <= plain)
    assert (span[0] in ranges) == (span[0] in plain)


@given(edits, st.integers(-1, 41))
def test_first_is_the_nearest_range(steps: list[tuple[bool, tuple[int, int]]], start: int) -> None:
    """The first range from a place on begins at the nearest integer and ends where it ends."""
    ranges, plain = build(steps)
    later = sorted(i for i in plain if i >= start)
    found = ranges.first(start)
    if not later:
        assert found is None
    else:
        assert found is not None
        assert found[0] == later[0]
        assert set(range(*found)) <= plain
        assert found[1] not in plain


def test_a_range_set_compares_only_with_its_kind() -> None:
    """Comparing with something else is not equality, and the repr can be read."""
    ranges = RangeSet([(0, 2), (5, 6)])
    assert ranges != [(0, 2), (5, 6)]
    assert len(ranges) == 2
    assert repr(ranges) == "RangeSet([(0, 2), (5, 6)])"
