"""Room for large pieces of bytes, where the kernel copies fastest.

malloc puts what is large 16 bytes past a page, and a copy from a page of the page cache to there
can take three times as long as to the begin of a page: reading a GiB took 0.62 s in the place of
0.21 s (AMD EPYC, Linux 6.18). So buffers that files or sockets are read into come from mmap.
"""

import mmap

SMALL = 64 << 10
"""Bytes below which pages of their own would cost more than they save."""

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def make_buffer(size: int) -> memoryview:
    """Return ``size`` writable zero bytes, at the begin of a page if they are many.

    They are given back when the last view of them goes.
    """
    return memoryview(bytearray(size) if size < SMALL else mmap.mmap(-1, size, flags=_FLAGS))
