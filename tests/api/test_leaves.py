"""The cache of files that fsspec opens: right bytes, few of them, rounded to blocks."""

from hypothesis import given
from hypothesis import strategies as st

from allod.leaves import MAX_AHEAD, LeavesCache

SIZE, BLOCK = 1000, 64
DATA = bytes(index % 251 for index in range(SIZE))


class Cache:
    """A cache over DATA, and what it asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.cache = LeavesCache(BLOCK, self._get, SIZE)

    def _get(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= SIZE
        self.asked.append((start, stop))
        return DATA[start:stop]

    def read(self, start: int, stop: int) -> bytes:
        return self.cache._fetch(start, stop)


@given(st.lists(st.tuples(st.integers(0, SIZE + 50), st.integers(0, 300)), max_size=30))
def test_any_reads_give_the_bytes(reads: list[tuple[int, int]]) -> None:
    """In whatever order: what is read is what is there."""
    cache = Cache()
    for start, length in reads:
        assert cache.read(start, start + length) == DATA[start : start + length]


def test_a_jump_reads_its_blocks_only() -> None:
    """One that reads here and there gets the blocks that hold it."""
    cache = Cache()
    cache.read(990, 1000)
    cache.read(130, 140)
    cache.read(135, 192)  # is there
    cache.read(300, 330)
    assert cache.asked == [(960, 1000), (128, 192), (256, 384)]


def test_a_long_read_goes_through() -> None:
    """What is longer than is worth keeping is asked for as it is."""
    asked: list[tuple[int, int]] = []

    def get(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return bytes(stop - start)

    cache = LeavesCache(1 << 20, get, 4 * MAX_AHEAD)
    assert len(cache._fetch(5, MAX_AHEAD + 5)) == MAX_AHEAD
    assert asked == [(5, MAX_AHEAD + 5)]


def test_reading_in_order_asks_for_more_each_time() -> None:
    """From the beginning to the end in small steps: each byte once, in ever fewer requests."""
    cache = Cache()
    found = b"".join(cache.read(at, at + 10) for at in range(0, SIZE, 10))
    assert found == DATA
    assert cache.asked[0] == (0, 64)
    assert all(one[1] == two[0] for one, two in zip(cache.asked, cache.asked[1:], strict=False))
    assert len(cache.asked) <= 6
