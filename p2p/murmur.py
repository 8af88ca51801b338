"""murmur3-x64-64: the hash that spreads the names of a large UnixFS directory over its shards.

Pure, and no protection against anyone: collisions are easy to make.
Specifications: multicodec 0x22; the first half of MurmurHash3_x64_128 with seed 0.
"""

import struct
from typing import Final

_MASK: Final = (1 << 64) - 1
_C1: Final = 0x87C37B91114253D5
_C2: Final = 0x4CF5AD432745937F


def murmur3_x64_64(data: bytes) -> int:
    """Return the hash as a 64-bit number; its most significant byte is used first."""
    one = two = 0
    size = len(data)
    padded = data + bytes(-size % 16)
    whole = size // 16
    for index, (left, right) in enumerate(struct.iter_unpack("<QQ", padded)):
        left = _rotate(left * _C1 & _MASK, 31) * _C2 & _MASK
        right = _rotate(right * _C2 & _MASK, 33) * _C1 & _MASK
        one ^= left
        if index < whole:
            one = (_rotate(one, 27) + two) * 5 + 0x52DCE729 & _MASK
        two ^= right
        if index < whole:
            two = (_rotate(two, 31) + one) * 5 + 0x38495AB5 & _MASK
    one ^= size
    two ^= size
    one = one + two & _MASK
    two = one + two & _MASK
    return _finish(one) + _finish(two) & _MASK


def _rotate(number: int, bits: int) -> int:
    return (number << bits | number >> 64 - bits) & _MASK


def _finish(number: int) -> int:
    number = (number ^ number >> 33) * 0xFF51AFD7ED558CCD & _MASK
    number = (number ^ number >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return number ^ number >> 33
