"""Sets of half-open ranges of integers: which bytes, or which leaves, are there and which are not.

Pure: knows nothing of files, peers or time.
A RangeSet keeps its ranges sorted, disjoint and not touching, so equal sets have equal ranges.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A mutable set of integers, held as sorted half-open ranges ``(start, stop)``.

    Adding or removing a range costs O(log n) to find its place and O(k) for the k ranges touched.
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Put every integer of ``start <= i < stop`` into the set."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take every integer of ``start <= i < stop`` out of the set."""
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        starts: list[int] = []
        stops: list[int] = []
        if self._starts[first] < start:
            starts.append(self._starts[first])
            stops.append(start)
        if self._stops[last - 1] > stop:
            starts.append(stop)
            stops.append(self._stops[last - 1])
        self._starts[first:last] = starts
        self._stops[first:last] = stops

    def update(self, other: "RangeSet") -> None:
        """Add every range of ``other``."""
        for start, stop in other:
            self.add(start, stop)

    def subtract(self, other: "RangeSet") -> "RangeSet":
        """Return a new set: what is here and not in ``other``."""
        result = self.copy()
        for start, stop in self.intersect(other):
            result.remove(start, stop)
        return result

    def intersect(self, other: "RangeSet") -> "RangeSet":
        """Return a new set: what is here and in ``other`` too.

        Only the ranges of ``other`` that lie near one of ours are looked at, so a small set is
        cheap to intersect with a large one.
        """
        result = RangeSet()
        for start, stop in self:
            while start < stop and (theirs := other.first(start)) is not None:
                result.add(max(start, theirs[0]), min(stop, theirs[1]))
                start = theirs[1]
        return result

    def missing(self, start: int, stop: int) -> "RangeSet":
        """Return a new set: the integers of ``start <= i < stop`` that are not here."""
        return RangeSet([(start, stop)]).subtract(self)

    def covers(self, start: int, stop: int) -> bool:
        """Say whether every integer of ``start <= i < stop`` is here; true for an empty range."""
        if start >= stop:
            return True
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and self._stops[place] >= stop

    def first(self, start: int) -> tuple[int, int] | None:
        """Return the first range that reaches past ``start``, without what lies before it."""
        place = bisect_right(self._stops, start)
        if place == len(self._stops):
            return None
        return max(start, self._starts[place]), self._stops[place]

    def copy(self) -> "RangeSet":
        """Return an independent copy."""
        result = RangeSet()
        result._starts = self._starts.copy()
        result._stops = self._stops.copy()
        return result

    @property
    def size(self) -> int:
        """How many integers the set holds."""
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts.copy(), self._stops.copy(), strict=True)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        """How many separate ranges there are (for how many integers, see ``size``)."""
        return len(self._starts)

    def __contains__(self, item: int) -> bool:
        return self.covers(item, item + 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"
