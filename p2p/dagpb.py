"""Blocks of dag-pb: how a UnixFS file, directory and directory shard are written as bytes.

A block is one protobuf message, links first and then a second message, UnixFS's own, as bytes:

    PBNode  links 2: repeated PBLink, data 1: bytes
    PBLink  hash 1: binary CID, name 2: text, tsize 3: bytes of all blocks at and below it
    Data    type 1, data 2: bytes, filesize 3, blocksizes 4: repeated, hashType 5, fanout 6

Protobuf lets one message be written in many ways; a content address needs one.
So reading is a parse that asks little, and then the demand that writing gives the same bytes back:
unknown, repeated, swapped or padded fields cannot pass, nor what UnixFS allows and we never write
(modes, times, inline data, symbolic links).

Pure: one block at a time; knows nothing of the tree that the links make.
Specifications: ipld.io/specs/codecs/dag-pb, specs.ipfs.tech/unixfs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from p2p.cid import CID, DIGEST_SIZE, Codec, Hash
from p2p.errors import UsageError, VerificationFailed

MAX_BLOCK: Final = 2 << 20
"""Bytes in a block: what every IPFS implementation takes; a node of 1024 links has 51 kB."""

MAX_LINKS: Final = 1024
"""Links of a file's node: the width that the unixfs-v1-2025 profile (IPIP-499) asks for."""

FANOUT: Final = 256
"""Children of a directory shard, one byte of the name's hash each (IPIP-499)."""

MAX_SIZE: Final = 2**53 - 1
"""Largest size anywhere: JSON and JavaScript hold no larger integer exactly."""

MURMUR3_X64_64: Final = 0x22
"""Multicodec code of the hash that spreads names over shards; the only one that UnixFS knows."""


class Kind(IntEnum):
    """What a block is: UnixFS's type numbers, those that are ever written here."""

    DIRECTORY = 1
    FILE = 2
    SHARD = 5


@dataclass(frozen=True, slots=True)
class FileNode:
    """A node of a file's tree, its links side by side: they are all of one codec and hash.

    ``digests``: 32 bytes a link; ``sizes``: bytes of the file under each link; ``dag_sizes``: bytes
    of all blocks at and below each link.
    """

    codec: Codec
    hash: Hash
    digests: bytes
    sizes: tuple[int, ...]
    dag_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A named link of a directory; ``dag_size`` counts the bytes of all blocks at and below it."""

    name: str
    cid: CID
    dag_size: int


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A directory in one block, its links sorted by the bytes of their names."""

    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class ShardNode:
    """A part of a large directory; each name begins with the two hex digits of its place.

    A name of those two digits alone is a deeper shard, a longer one is an entry.
    """

    links: tuple[Link, ...]


def varint(number: int) -> bytes:
    """Write an unsigned LEB128 number in the fewest bytes."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read the number at ``at``: (number, where the next thing begins).

    At most nine bytes, as multiformats demand, and no more than it needs.
    """
    number = 0
    for shift, byte in enumerate(data[at : at + 9]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise VerificationFailed(f"A number at byte {at} is longer than it needs to be.")
            return number, at + shift + 1
    raise VerificationFailed(f"A number at byte {at} does not end within nine bytes.")


def encode_file(node: FileNode) -> bytes:
    """Write a node of a file's tree, in about half a microsecond a link."""
    head = bytes(CID(node.codec, node.hash, bytes(DIGEST_SIZE)))[:-DIGEST_SIZE]
    around: dict[int, tuple[bytes, bytes]] = {}  # most links have the same size, so the same edges
    parts: list[bytes] = []
    for index, dag_size in enumerate(node.dag_sizes):
        edges = around.get(dag_size)
        if edges is None:
            after = b"\x12\x00\x18" + varint(dag_size)
            cid_size = len(head) + DIGEST_SIZE
            before = bytes([0x12, 2 + cid_size + len(after), 0x0A, cid_size]) + head
            edges = around[dag_size] = before, after
        parts += edges[0], node.digests[index * 32 : index * 32 + 32], edges[1]
    fields = {size: b"\x20" + varint(size) for size in set(node.sizes)}
    data = b"\x08\x02\x18" + varint(sum(node.sizes)) + b"".join([fields[n] for n in node.sizes])
    parts += b"\x0a", varint(len(data)), data
    return b"".join(parts)


def encode_link(link: Link) -> bytes:
    """Write one named link, its place in the message included."""
    cid, name = bytes(link.cid), link.name.encode()
    body = b"\x0a" + varint(len(cid)) + cid + b"\x12" + varint(len(name)) + name
    body += b"\x18" + varint(link.dag_size)
    return b"\x12" + varint(len(body)) + body


def encode_directory(links: Iterable[Link]) -> bytes:
    """Write a directory in one block; the links may come in any order.

    They are sorted by the bytes of their names, which in UTF-8 is the order of Python's strings.
    """
    ordered = sorted(links, key=lambda link: link.name)
    return b"".join(map(encode_link, ordered)) + b"\x0a\x02\x08\x01"


def encode_shard(links: Sequence[Link]) -> bytes:
    """Write a directory shard; each name begins with its place, as two upper-case hex digits."""
    field = sum(1 << int(link.name[:2], 16) for link in links)
    bits = field.to_bytes(FANOUT // 8, "big").lstrip(b"\0")
    data = (
        (b"\x08\x05\x12" + varint(len(bits)) + bits)
        + (b"\x28" + varint(MURMUR3_X64_64))
        + (b"\x30" + varint(FANOUT))
    )
    ordered = sorted(links, key=lambda link: link.name)
    return b"".join(map(encode_link, ordered)) + b"\x0a" + varint(len(data)) + data


def decode(block: bytes) -> FileNode | DirectoryNode | ShardNode:
    """Read a block; ``VerificationFailed`` unless it is exactly what we would write."""
    if len(block) > MAX_BLOCK:
        raise VerificationFailed(f"A block has at most {MAX_BLOCK} bytes, this one {len(block)}.")
    kind = _kind(block)
    if kind is Kind.FILE:
        return decode_file(block)
    links = tuple(_links(block))
    if kind is Kind.DIRECTORY:
        _check_names(links, [link.name for link in links])
        _same(block, encode_directory(links))
        return DirectoryNode(links)
    places = [link.name[:2] for link in links]
    if any(_PLACE.fullmatch(place) is None for place in places):
        raise VerificationFailed("A shard's link does not begin with two upper-case hex digits.")
    if len(set(places)) != len(places):
        raise VerificationFailed("Two links of a shard have the same place.")
    _check_names(links, [link.name[2:] for link in links if len(link.name) > 2])
    if any(len(link.name) == 2 and link.cid.codec is not Codec.DAG_PB for link in links):
        raise VerificationFailed("A shard's link to a deeper shard does not name dag-pb.")
    _same(block, encode_shard(links))
    return ShardNode(links)


_PLACE: Final = re.compile("[0-9A-F]{2}")
# A link of a file's node: no name, one of our CIDs, a size.
_FILE_LINK: Final = re.compile(
    rb"\x12.\x0a\x24\x01([\x55\x70][\x12\x1e])\x20(.{32})\x12\x00\x18([\x80-\xff]{0,8}[\x00-\x7f])",
    re.DOTALL,
)


def decode_file(block: bytes) -> FileNode:
    """Read a node of a file's tree, ``VerificationFailed`` unless it is exactly as we write it.

    The expression may skip bytes that are no link; writing the node again shows it.
    """
    found = _FILE_LINK.findall(block)
    if not 1 <= len(found) <= MAX_LINKS:
        raise VerificationFailed(f"A file's node has 1 to {MAX_LINKS} links, not {len(found)}.")
    codec, hash = found[0][0]
    dag_sizes = {number: read_varint(number, 0)[0] for number in {link[2] for link in found}}
    links_size = sum(43 + len(number) for _, _, number in found)
    sizes = [value for field, value in _data(block, links_size) if field == 4]
    node = FileNode(
        Codec(codec),
        Hash(hash),
        b"".join([digest for _, digest, _ in found]),
        tuple(value for value in sizes if isinstance(value, int)),
        tuple(dag_sizes[number] for _, _, number in found),
    )
    if len(node.sizes) != len(found):
        raise VerificationFailed(
            f"A file's node has {len(found)} links and {len(node.sizes)} sizes of what they hold."
        )
    if max(sum(node.sizes), sum(node.dag_sizes)) > MAX_SIZE:
        raise VerificationFailed(f"A file's node claims more than {MAX_SIZE} bytes.")
    _same(block, encode_file(node))
    return node


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Take a protobuf message apart: (field, number or bytes); other wire types are refused."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2:
            if value > len(data) - at:
                raise VerificationFailed(
                    f"A field of {value} bytes has {len(data) - at} to the end of its message."
                )
            yield key >> 3, data[at : at + value]
            at += value
        else:
            raise VerificationFailed(f"A field is of protobuf wire type {key & 7}, not 0 or 2.")


def _data(block: bytes, at: int = 0) -> Iterator[tuple[int, int | bytes]]:
    """Give the fields of the UnixFS message in ``block``, where the links end or before."""
    for field, value in _fields(block[at:]):
        if field == 1 and isinstance(value, bytes):
            yield from _fields(value)
            return
    raise VerificationFailed("A dag-pb block holds no UnixFS message.")


def _kind(block: bytes) -> Kind:
    # The type comes first in the last field, but only a parse from the front finds that field.
    for field, value in _data(block):
        if field == 1 and value in tuple(Kind):
            return Kind(value)
        break
    raise VerificationFailed("A block is no UnixFS file, directory or directory shard.")


def _links(block: bytes) -> Iterator[Link]:
    for field, value in _fields(block):
        if field != 2 or not isinstance(value, bytes):
            continue
        parts = dict(_fields(value))
        match parts:
            case {1: bytes(cid), 2: bytes(name), 3: int(dag_size)} if dag_size <= MAX_SIZE:
                try:
                    yield Link(name.decode(), CID.from_bytes(cid), dag_size)
                except (UsageError, UnicodeDecodeError) as exc:
                    raise VerificationFailed(f"A link of a directory is wrong: {exc}") from exc
            case _:
                raise VerificationFailed("A link of a directory lacks its CID, name or size.")


def _check_names(links: Sequence[Link], names: Sequence[str]) -> None:
    """Refuse names that no directory can hold; which of the others are safe, paths.py says."""
    if len(set(names)) != len(names):
        raise VerificationFailed("Two links of a directory have the same name.")
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise VerificationFailed(f"A directory may not hold a link named {name!r}.")


def _same(block: bytes, written: bytes) -> None:
    if block != written:
        raise VerificationFailed("A dag-pb block is not written in the one way that we accept.")
