"""Where the leaves of a file end.

Two publishers who cut the same file alike give it the same CID, and two files that share a run of
whole leaves share their transfer and their room; so where to cut is part of a release, and named:

    fixed-1m        every 1 MiB
    tensor-1m       in safetensors and GGUF files the header is cut off, each tensor starts a new
                    leaf, and is cut every 1 MiB from there; other files are cut as fixed-1m
    unixfs-v1-2025  every 1 MiB and SHA-256, as IPIP-499 asks, for readers without BLAKE3

Fixed cuts lose all that a fine-tune shares with its base as soon as the header's length differs;
cuts at tensors keep every tensor that did not change, and let one tensor be fetched alone.

Pure: reads the file through the function that it is given.
"""

from array import array
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import pairwise
from typing import Final

from p2p.cid import Hash
from p2p.tensors import MAX_TENSORS, ReadAt, sniff

LEAF_SIZE: Final = 1 << 20
"""Most bytes of a leaf: the unit of verification, of resuming and of waste when a peer lies."""


__all__ = ["LEAF_SIZE", "MAX_TENSORS", "LeafSizes", "Profile", "leaf_sizes", "max_leaves"]


class Profile(StrEnum):
    """A named way to cut files and to hash them."""

    TENSOR_1M = "tensor-1m"
    FIXED_1M = "fixed-1m"
    UNIXFS_V1_2025 = "unixfs-v1-2025"

    @property
    def hash(self) -> Hash:
        """The hash function of every CID under this profile."""
        return Hash.SHA2_256 if self is Profile.UNIXFS_V1_2025 else Hash.BLAKE3


class LeafSizes:
    """The sizes of a file's leaves, in order: a compact, repeatable iterable of integers.

    Holds one number a section, a section being what is cut every 1 MiB from its start; a file of
    1 TB that is cut evenly is one section. An empty file has one leaf of no bytes.
    """

    __slots__ = ("_sections", "size")

    def __init__(self, sections: Iterable[int]) -> None:
        self._sections = array("Q", [section for section in sections if section])
        self.size = sum(self._sections)

    def __iter__(self) -> Iterator[int]:
        if not self._sections:
            yield 0
        for section in self._sections:
            for _ in range(section // LEAF_SIZE):
                yield LEAF_SIZE
            if section % LEAF_SIZE:
                yield section % LEAF_SIZE

    def __len__(self) -> int:
        return sum(-(-section // LEAF_SIZE) for section in self._sections) or 1

    def __repr__(self) -> str:
        return f"LeafSizes(size={self.size}, leaves={len(self)})"


def leaf_sizes(profile: Profile, name: str, read_at: ReadAt, size: int) -> LeafSizes:
    """Say where to cut a file of ``size`` bytes that is called ``name``.

    Reads at most the header, and only under ``tensor-1m``. A file that claims to be safetensors or
    GGUF and is malformed is cut as fixed: publishing keeps any bytes, loading them is another
    matter.
    """
    if profile is Profile.TENSOR_1M:
        file = sniff(name, read_at, size)
        if file is not None:
            cuts = [0, file.header_size, *(tensor.start for tensor in file.tensors), size]
            return LeafSizes(stop - start for start, stop in pairwise(cuts))
    return LeafSizes([size])


def max_leaves(size: int) -> int:
    """Say how many leaves a file of ``size`` bytes has at most, under any profile.

    The header and every tensor may end in a leaf that is not full; more leaves than that are not
    an honest cut.
    """
    return size // LEAF_SIZE + MAX_TENSORS + 2
