"""Remembering what pure functions found in some bytes."""

import pytest

from p2p.errors import VerificationFailed
from p2p.memo import LARGEST, MOST, remembered


def test_what_was_found_is_not_looked_for_again() -> None:
    asked: list[bytes] = []

    @remembered
    def length(data: bytes) -> int:
        asked.append(data)
        return len(data)

    for _ in range(3):
        assert length(b"abc") == 3
    assert asked == [b"abc"]
    for number in range(MOST):  # those that were asked for longest ago are forgotten
        length(b"%d" % number)
    assert length(b"abc") == 3
    assert len(asked) == MOST + 2


def test_what_is_large_is_not_remembered() -> None:
    asked: list[int] = []

    @remembered
    def length(data: bytes) -> int:
        asked.append(len(data))
        return len(data)

    for size in (LARGEST, LARGEST + 1):
        data = bytes(size)
        assert length(data) == length(data) == size
    assert asked == [LARGEST, LARGEST + 1, LARGEST + 1]


def test_an_error_is_raised_each_time() -> None:
    asked: list[bytes] = []

    @remembered
    def refuse(data: bytes) -> int:
        asked.append(data)
        raise VerificationFailed("It is wrong.")

    for _ in range(2):
        with pytest.raises(VerificationFailed):
            refuse(b"abc")
    assert len(asked) == 2
