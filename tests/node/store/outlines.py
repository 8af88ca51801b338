"""Outlines computed the slow and obvious way."""

from p2p.chunking import Profile
from p2p.dag import Outline
from tests.releases import MIB


def outline_of(data: bytes, sizes: list[int] | None = None) -> Outline:
    """The Outline that a file must have, computed the slow way."""
    sizes = sizes or [len(data[at : at + MIB]) for at in range(0, len(data), MIB)] or [0]
    digests, at = b"", 0
    for size in sizes:
        digests += Profile.FIXED_1M.hash.digest(data[at : at + size])
        at += size
    return Outline.build(sizes, digests, Profile.FIXED_1M.hash)
