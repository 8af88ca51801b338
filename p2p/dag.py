"""The tree over a file's leaves, and the Outline: the checked list of those leaves.

A file is cut into leaves of at most 1 MiB; 1024 leaves hang on a node, 1024 nodes on the next,
until one is left: the root, whose CID names the file.
A file of one leaf has no node: the leaf is the root.

An Outline holds for every leaf where it ends and its 32 bytes of digest, 40 bytes a leaf in memory.
With it, any byte range from anyone can be checked leaf by leaf; without it, nothing can.
On the wire it is a CARv1 of the file's nodes without the leaves, about 50 bytes a leaf: root first,
each node before what hangs on it, first to last, and a node that occurs twice is written twice.
So its size bounds everything that reading it can cost: repeating a block buys a stranger nothing.

There is one tree for given leaves, and so one Outline for a CID.
Decoding checks each block against the CID above it, takes the leaves, builds the tree over them and
demands the same root: wrong sums, odd shapes and nodes that say different things cannot pass.

Pure: knows nothing of where leaves come from; chunking.py says where they end.
Specifications: specs.ipfs.tech/unixfs; the shape is the unixfs-v1-2025 profile of IPIP-499.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from p2p.car import read_car, write_car
from p2p.chunking import LEAF_SIZE, max_leaves
from p2p.cid import CID, DIGEST_SIZE, Buffer, Codec, Hash
from p2p.dagpb import MAX_LINKS, FileNode, decode_file, encode_file
from p2p.errors import UsageError, VerificationFailed

MAX_LEAVES: Final = 1 << 22
"""Leaves in a file: 4 TiB of full ones, several times the largest file of weights there is."""

_LEAF_BYTES: Final = 52  # of an encoded Outline: 50 for a full leaf's link, the rest for the nodes

MAX_OUTLINE: Final = MAX_LEAVES * _LEAF_BYTES
"""Bytes of any encoded Outline: 218 MB."""


def max_outline(size: int) -> int:
    """Say how many bytes the encoded Outline of a file of ``size`` bytes has at most."""
    return min(MAX_OUTLINE, 1024 + max_leaves(size) * _LEAF_BYTES)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a file: which, where it begins, how many bytes it has, its name."""

    index: int
    offset: int
    size: int
    cid: CID


@dataclass(frozen=True, slots=True)
class _Level:
    """A row of the tree: of every entry the digest, the bytes of file and of blocks below it."""

    codec: Codec
    digests: bytes
    sizes: "array[int]"
    dag_sizes: "array[int]"

    def __len__(self) -> int:
        return len(self.sizes)


class Outline:
    """The leaves of one file, in order, and the tree that binds them to the file's CID. Immutable.

    ``size``: bytes of the file. ``dag_size``: bytes of all its leaves and nodes.
    """

    __slots__ = ("_digests", "_ends", "_levels", "dag_size", "hash", "root", "size")

    root: CID
    size: int
    hash: Hash
    dag_size: int

    def __init__(self, ends: "array[int]", digests: bytes, hash: Hash) -> None:
        """For the class methods below: they have checked ``ends`` and ``digests``."""
        self._ends = ends
        self._digests = digests
        self._levels: list[_Level] = []  # the nodes alone, lowest row first
        self.hash = hash
        self.size = self.dag_size = ends[-1]
        self.root = CID(Codec.RAW, hash, digests[:DIGEST_SIZE])
        below = self._leaf_level() if len(ends) > 1 else None
        while below is not None and len(below) > 1:
            row = _Level(Codec.DAG_PB, b"", array("Q"), array("Q"))
            names: list[bytes] = []
            for index in range(-(-len(below) // MAX_LINKS)):
                node = _node(below, index, hash)
                block = encode_file(node)
                names.append(hash.digest(block))
                row.sizes.append(sum(node.sizes))
                row.dag_sizes.append(sum(node.dag_sizes) + len(block))
            below = _Level(row.codec, b"".join(names), row.sizes, row.dag_sizes)
            self._levels.append(below)
        if below is not None:
            self.root = CID(Codec.DAG_PB, hash, below.digests)
            self.dag_size = below.dag_sizes[0]

    @classmethod
    def build(cls, sizes: Iterable[int], digests: bytes, hash: Hash) -> "Outline":
        """Build the tree over leaves of these sizes, 32 bytes of digest each.

        ``VerificationFailed`` for no leaf or too many, for a leaf over 1 MiB, or an empty one
        beside others.
        """
        ends = array("Q")
        end = 0
        for size in sizes:
            if not 0 < size <= LEAF_SIZE and (size or len(digests) != DIGEST_SIZE):
                raise VerificationFailed(f"A leaf has 1 to {LEAF_SIZE} bytes, not {size}.")
            end += size
            ends.append(end)
            if len(ends) > MAX_LEAVES:
                raise VerificationFailed(f"A file has at most {MAX_LEAVES} leaves, this one more.")
        if not ends or len(digests) != len(ends) * DIGEST_SIZE:
            raise VerificationFailed(
                f"A file of {len(ends)} leaves comes with {len(digests)} bytes of digests, "
                f"{DIGEST_SIZE} for each of at least one leaf were expected."
            )
        return cls(ends, bytes(digests), hash)

    @classmethod
    def single(cls, root: CID, size: int) -> "Outline":
        """The Outline of a file that is one raw leaf: nothing but its CID and size is needed."""
        if root.codec is not Codec.RAW:
            raise VerificationFailed(f"A file of one leaf is named by a raw CID, not {root}.")
        return cls.build([size], root.digest, root.hash)

    @classmethod
    def decode(cls, root: CID, car: bytes, size: int | None = None) -> "Outline":
        """Read the Outline of ``root``, checking every byte; ``VerificationFailed`` otherwise.

        ``size``, where the caller knows it, must be the file's. For a raw root it must be given:
        a single leaf has no node that says how long it is.
        """
        limit = MAX_OUTLINE if size is None else max_outline(size)
        if len(car) > limit:
            raise VerificationFailed(
                f"The Outline of a file of {'any size' if size is None else f'{size} bytes'} has "
                f"at most {limit} bytes, this one {len(car)}."
            )
        blocks = read_car(car, root)
        if root.codec is Codec.RAW:
            if size is None:
                raise UsageError("The Outline of a raw CID says no size; it must come along.")
            outline = cls.single(root, size)
        else:
            outline = cls._grow(root, blocks)
        if next(blocks, None) is not None:
            raise VerificationFailed(f"The Outline of {root} goes on after its last node.")
        if outline.root != root:
            raise VerificationFailed(
                f"The leaves below {root} make {outline.root} when the tree is built as it must be."
            )
        if size is not None and len(outline) > max_leaves(size):
            raise VerificationFailed(
                f"A file of {size} bytes has at most {max_leaves(size)} leaves, not {len(outline)}."
            )
        if size is not None and outline.size != size:
            raise VerificationFailed(
                f"The file {root} was said to have {size} bytes, its Outline says {outline.size}."
            )
        return outline

    @classmethod
    def _grow(cls, root: CID, blocks: Iterator[tuple[CID, bytes]]) -> "Outline":
        """Walk the nodes from the root down, each block the next that is due; collect the leaves.

        Every node takes a block off the CAR, so neither work nor the list of what is due can
        outgrow the bytes that came.
        """
        due = [root]
        sizes = array("Q")
        digests: list[bytes] = []
        while due:
            wanted = due.pop()
            cid, block = next(blocks, (None, b""))
            if cid != wanted:
                raise VerificationFailed(
                    f"The Outline of {root} has {cid or 'nothing'} where the node {wanted} is due."
                )
            node = decode_file(block)
            if node.codec is Codec.RAW:
                sizes.extend(node.sizes)
                digests.append(node.digests)
            else:
                names = [
                    CID(node.codec, node.hash, node.digests[at : at + DIGEST_SIZE])
                    for at in range(0, len(node.digests), DIGEST_SIZE)
                ]
                due += reversed(names)
        return cls.build(sizes, b"".join(digests), root.hash)

    def encode(self) -> bytes:
        """Write the Outline as it goes over the wire: a CARv1 of ``blocks()``."""
        return write_car(self.root, self.blocks())

    def blocks(self) -> Iterator[tuple[CID, bytes]]:
        """Give the nodes with their CIDs: each before what hangs on it, first to last."""
        rows = [self._leaf_level(), *self._levels] if self._levels else []
        due = [(len(rows) - 1, 0)] if rows else []
        while due:
            row, index = due.pop()
            digest = rows[row].digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
            yield (
                CID(Codec.DAG_PB, self.hash, digest),
                encode_file(_node(rows[row - 1], index, self.hash)),
            )
            if row > 1:
                last = min((index + 1) * MAX_LINKS, len(rows[row - 1]))
                due += [(row - 1, child) for child in range(last - 1, index * MAX_LINKS - 1, -1)]

    def __len__(self) -> int:
        """How many leaves the file has: at least one, an empty file too."""
        return len(self._ends)

    def digest(self, index: int) -> bytes:
        """Return the 32 bytes of digest of leaf ``index``."""
        self._check(index)
        return self._digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]

    def leaf(self, index: int) -> Leaf:
        """Return leaf ``index``."""
        start, stop = self.span(index, index + 1)
        return Leaf(index, start, stop - start, CID(Codec.RAW, self.hash, self.digest(index)))

    def span(self, first: int, stop: int) -> tuple[int, int]:
        """Return the bytes, from and to, that leaves ``first`` to ``stop - 1`` hold."""
        if not 0 <= first < stop <= len(self._ends):
            raise UsageError(f"A file of {len(self)} leaves has no leaves {first} to {stop - 1}.")
        return self._ends[first - 1] if first else 0, self._ends[stop - 1]

    def leaves_in(self, start: int, stop: int) -> range:
        """Return the indexes of the leaves that hold any byte of ``start`` to ``stop - 1``."""
        start, stop = max(start, 0), min(stop, self.size)
        if start >= stop:
            return range(0)
        return range(bisect_right(self._ends, start), bisect_left(self._ends, stop) + 1)

    def verify(self, index: int, data: Buffer) -> bool:
        """Say whether ``data`` is exactly leaf ``index``."""
        start, stop = self.span(index, index + 1)
        if memoryview(data).nbytes != stop - start:
            return False
        return self.hash.digest(data) == self.digest(index)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Outline):
            return NotImplemented
        return self.root == other.root and self.size == other.size

    def __hash__(self) -> int:
        return hash(self.root)

    def __repr__(self) -> str:
        return f"Outline({self.root}, size={self.size}, leaves={len(self)})"

    def _check(self, index: int) -> None:
        self.span(index, index + 1)

    def _leaf_level(self) -> _Level:
        ends = self._ends
        sizes = array("Q", [ends[0]])
        sizes.extend(map(int.__sub__, ends[1:], ends))
        return _Level(Codec.RAW, self._digests, sizes, sizes)


def _node(row: _Level, index: int, hash: Hash) -> FileNode:
    """Gather up to 1024 entries of a row as the node that hangs them on the next row."""
    part = slice(index * MAX_LINKS, (index + 1) * MAX_LINKS)
    return FileNode(
        row.codec,
        hash,
        row.digests[part.start * DIGEST_SIZE : part.stop * DIGEST_SIZE],
        tuple(row.sizes[part]),
        tuple(row.dag_sizes[part]),
    )
