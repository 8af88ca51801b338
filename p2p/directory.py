"""The directories above a release's files, and so the one CID that names them all.

A directory is one block while that block has at most 256 KiB; a larger one is spread over shards:
each of up to 256 places holds an entry, or another shard if several entries fall there.
Where an entry falls is said by its name's murmur3 hash, one byte a shard on the way down; murmur3
is easy to make collide, so a directory whose names agree in all eight bytes is refused.

There is one tree for given files, whatever order they come in: a reader of a manifest builds it
again and compares the root.

Pure: which paths are safe on a disk is for paths.py to say; here they need only make a tree.
Specifications: specs.ipfs.tech/unixfs; IPIP-499, profile unixfs-v1-2025.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from p2p.cid import CID, Codec, Hash
from p2p.dagpb import MAX_BLOCK, MAX_SIZE, Link, encode_directory, encode_shard
from p2p.errors import VerificationFailed
from p2p.murmur import murmur3_x64_64

MAX_FLAT: Final = 256 << 10
"""Bytes of block up to which a directory stays in one block: the threshold of unixfs-v1-2025."""

MAX_DEPTH: Final = 128
"""Directories in directories: paths on a disk end earlier, and walking them takes a stack."""

_HASH_BYTES: Final = 8  # of a name's hash: shards can lie no deeper


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file in a tree: its path, parts joined by ``/``; ``dag_size`` as its Outline says."""

    path: str
    cid: CID
    dag_size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory with all blocks of it and its subdirectories; the files' blocks are not here.

    ``dag_size``: bytes of all blocks, the files' included.
    """

    root: CID
    dag_size: int
    blocks: Mapping[CID, bytes]


_Folder: TypeAlias = "dict[str, TreeFile | _Folder]"


def build_tree(files: Iterable[TreeFile], hash: Hash) -> Tree:
    """Build the directories that hold ``files``, in any order; 100,000 files take about a second.

    ``VerificationFailed`` for paths that make no tree: empty parts, ``.`` or ``..``, the same file
    twice, a file that is also a directory; and for sizes that cannot be.
    """
    top: _Folder = {}
    for file in files:
        _place(top, file)
    writer = _Writer(hash)
    link = writer.folder("", top)
    return Tree(link.cid, link.dag_size, writer.blocks)


def _place(top: _Folder, file: TreeFile) -> None:
    """Hang a file into the tree, making the directories on the way."""
    if file.cid.codec not in (Codec.RAW, Codec.DAG_PB) or not 0 <= file.dag_size <= MAX_SIZE:
        raise VerificationFailed(
            f"A file is named by a raw or dag-pb CID and has 0 to {MAX_SIZE} bytes, "
            f"not {file.cid} and {file.dag_size}."
        )
    *folders, name = file.path.split("/", MAX_DEPTH)
    here = top
    for folder in folders:
        below = here.setdefault(folder, {})
        if isinstance(below, TreeFile):
            raise VerificationFailed(f"The path {file.path!r} makes a directory of a file.")
        here = below
    if here.setdefault(name, file) is not file:
        raise VerificationFailed(f"The path {file.path!r} occurs twice, or is also a directory.")


class _Writer:
    """Writes directories, the deepest first, and keeps their blocks."""

    def __init__(self, hash: Hash) -> None:
        self.hash = hash
        self.blocks: dict[CID, bytes] = {}

    def folder(self, name: str, folder: _Folder) -> Link:
        links = []
        for key, value in folder.items():
            if key in ("", ".", "..") or "/" in key or "\0" in key:
                raise VerificationFailed(f"A path has the part {key!r}, or over {MAX_DEPTH} parts.")
            if isinstance(value, TreeFile):
                links.append(Link(key, value.cid, value.dag_size))
            else:
                links.append(self.folder(key, value))
        try:
            block = encode_directory(links)
        except UnicodeEncodeError as exc:
            raise VerificationFailed("A path holds half of a surrogate pair.") from exc
        if len(block) <= MAX_FLAT:
            return self.keep(name, block, links)
        return self.shard(name, [(murmur3_x64_64(link.name.encode()), link) for link in links], 0)

    def shard(self, name: str, entries: list[tuple[int, Link]], depth: int) -> Link:
        if depth == _HASH_BYTES:
            raise VerificationFailed(
                f"The names {entries[0][1].name!r} and {entries[1][1].name!r} have the same hash: "
                "they do not fit into one large directory."
            )
        places: dict[int, list[tuple[int, Link]]] = {}
        for entry in entries:
            places.setdefault(entry[0] >> 8 * (_HASH_BYTES - 1 - depth) & 0xFF, []).append(entry)
        links = []
        for place, there in places.items():
            label = f"{place:02X}"
            if len(there) > 1:
                links.append(self.shard(label, there, depth + 1))
            else:
                link = there[0][1]
                links.append(Link(label + link.name, link.cid, link.dag_size))
        return self.keep(name, encode_shard(links), links)

    def keep(self, name: str, block: bytes, links: list[Link]) -> Link:
        dag_size = len(block) + sum(link.dag_size for link in links)
        if len(block) > MAX_BLOCK or dag_size > MAX_SIZE:
            raise VerificationFailed(
                f"A directory's block of {len(block)} bytes, or its {dag_size} bytes in all, "
                f"pass {MAX_BLOCK} or {MAX_SIZE}."
            )
        cid = CID.of(block, Codec.DAG_PB, self.hash)
        self.blocks[cid] = block
        return Link(name, cid, dag_size)
