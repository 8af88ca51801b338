"""Room for large pieces of bytes."""

import ctypes
import mmap

import pytest

from p2p.buffers import SMALL, make_buffer


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 1 << 20, (4 << 20) + 7])
def test_a_buffer_has_its_size_and_can_be_written(size: int) -> None:
    """It begins with zeros, takes bytes up to its last one, and has no more."""
    buffer = make_buffer(size)
    assert len(buffer) == size
    assert buffer.format == "B"
    assert not any(buffer[:100])
    if size:
        buffer[size - 1] = 7
        assert buffer[size - 1] == 7


@pytest.mark.parametrize("size", [SMALL, 1 << 20, (1 << 20) + 65553])
def test_a_large_one_begins_a_page(size: int) -> None:
    """That is what it is for: see the module."""
    assert ctypes.addressof(ctypes.c_char.from_buffer(make_buffer(size))) % mmap.PAGESIZE == 0


def test_a_part_outlives_the_whole() -> None:
    """The room goes with the last view of it."""
    part = make_buffer(SMALL)[10:20]
    part[:] = b"0123456789"
    assert bytes(part) == b"0123456789"
