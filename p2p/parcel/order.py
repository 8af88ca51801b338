"""In which order the blocks of a release come, and which of them are left out.

    the list of files    where the manifest names one: its nodes, its leaves
    the folders          each before those in it, each once
    the files            in the manifest's order: the nodes, then the leaves

A file whose CID came before is left out, and so is a leaf that was part of an earlier file: a
fine-tune of a base in the same parcel brings along only what it changed.
A leaf that a file repeats within itself is repeated, for a reader copies from whole files only.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from p2p.car import car_block, car_header
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.dagpb import DirectoryNode, ShardNode, decode, varint
from p2p.ranges import RangeSet

MAX_TOLD: Final = 1 << 20
"""Leaves and files that are remembered: a terabyte of full leaves, in some 100 MB. Those of later
files are written again; both sides count in the same way."""


def opening(index: bytes) -> bytes:
    """Write how a parcel begins: the CAR's header and the index."""
    cid = CID.of(index, Codec.JSON)
    return car_header(cid) + car_block(cid, index)


def frame(cid: CID, size: int) -> bytes:
    """Write what comes before a block of ``size`` bytes."""
    name = bytes(cid)
    return varint(len(name) + size) + name


class Told:
    """What a parcel has brought so far, as far as it is left out from then on."""

    def __init__(self) -> None:
        self._files: set[CID] = set()
        self._leaves: set[bytes] = set()

    def knows(self, file: CID) -> bool:
        """Say whether a file came before."""
        return file in self._files

    def fresh(self, outline: Outline) -> RangeSet:
        """Return the leaves of a file that come with it, as ranges of their indexes."""
        coming = RangeSet()
        for index in range(len(outline)):
            if outline.digest(index) not in self._leaves:
                coming.add(index, index + 1)
        return coming

    def add(self, outline: Outline) -> None:
        """Remember a file that has come, and its leaves, as long as there is room."""
        if len(self._files) < MAX_TOLD:
            self._files.add(outline.root)
        if len(self._leaves) + len(outline) <= MAX_TOLD:
            self._leaves.update(outline.digest(index) for index in range(len(outline)))


def folder_blocks(root: CID, blocks: Mapping[CID, bytes]) -> Iterator[tuple[CID, bytes]]:
    """Give the blocks of a tree of folders, each before those in it, in their order, each once."""
    due, given = [root], set()
    while due:
        cid = due.pop()
        if cid in given or cid not in blocks:
            continue  # a file, or a folder that is in two others
        given.add(cid)
        node = decode(blocks[cid])
        assert isinstance(node, DirectoryNode | ShardNode)  # a tree's blocks are folders
        yield cid, blocks[cid]
        due += [link.cid for link in reversed(node.links)]


def leaf_frame(outline: Outline, index: int) -> bytes:
    """Write what comes before a leaf."""
    start, stop = outline.span(index, index + 1)
    return frame(CID(Codec.RAW, outline.hash, outline.digest(index)), stop - start)
