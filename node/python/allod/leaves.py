"""What an open file of fsspec keeps in memory: blocks of about a leaf, for readers that jump about.

``leaves`` is its name among fsspec's caches. Knows no network: it asks a function for ranges.
"""

from collections.abc import Callable
from typing import ClassVar, Final

from fsspec.caching import BaseCache, register_cache

__all__ = ["MAX_AHEAD", "LeavesCache"]

MAX_AHEAD: Final = 8 << 20
"""Bytes that are read ahead at most, once it is clear that a file is read in order."""


class LeavesCache(BaseCache):  # type: ignore[misc]  # fsspec has no types
    """Keeps the last blocks; what is read is rounded to blocks, which have about a leaf each.

    So a reader that jumps about (to the footer, then to a column) moves what it reads and no more,
    and one that reads in order gets more each time, up to MAX_AHEAD.
    """

    name: ClassVar[str] = "leaves"

    def __init__(self, blocksize: int, fetcher: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(blocksize, fetcher, size)
        self._start, self._data = 0, b""
        self._ahead = 0  # bytes
        self._next = -1  # where a reader that reads in order goes on

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        start = max(start or 0, 0)
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return b""
        in_order, self._next = start == self._next, stop
        kept = self._start + len(self._data)
        if self._start <= start and stop <= kept:
            self.hit_count += 1
            return self._data[start - self._start : stop - self._start]
        self.miss_count += 1
        head = self._data[start - self._start :] if self._start <= start < kept else b""
        begin = start + len(head)
        if in_order:
            self._ahead = min(max(self.blocksize, 2 * self._ahead), max(MAX_AHEAD, self.blocksize))
        else:
            self._ahead = 0
        if stop - begin >= max(MAX_AHEAD, self.blocksize):
            self._start, self._data = 0, b""  # too much to keep, and likely read once
            return head + self._get(begin, stop)
        if not head:
            begin -= begin % self.blocksize
        end = stop + max(self._ahead - (stop - begin), 0)
        end += -end % self.blocksize
        self._start, self._data = begin, self._get(begin, min(end, self.size))
        offset = max(start - begin, 0)
        return head + self._data[offset : offset + stop - start - len(head)]

    def _get(self, start: int, stop: int) -> bytes:
        self.total_requested_bytes += stop - start
        data: bytes = self.fetcher(start, stop)
        return data


register_cache(LeavesCache, clobber=True)
