"""CARv1: several blocks in one stream, each with its CID before it.

    header  length, then dag-cbor {"roots": [CID], "version": 1}
    block   length, then CID and bytes        any number of times

Here a CAR has exactly one root, its header is written in the one way that dag-cbor allows, lengths
are as short as they can be, and every block is checked against its CID as it is read.
Which blocks must come, and in which order, is for the reader of the blocks to say.

Pure: works on bytes; whoever takes them from a network bounds how many.
Specification: ipld.io/specs/transport/car/carv1.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from p2p.cid import CID, DIGEST_SIZE
from p2p.dagpb import MAX_BLOCK, read_varint, varint
from p2p.errors import UsageError, VerificationFailed

MEDIA_TYPE: Final = "application/vnd.ipld.car"


def car_header(root: CID) -> bytes:
    """Write what comes before the first block."""
    cid = bytes(root)
    # A map of two, "roots": an array of one, tag 42 (a link), bytes that begin with 0 (identity).
    link = b"\xd8\x2a\x58" + bytes([len(cid) + 1]) + b"\0" + cid
    header = b"\xa2\x65roots\x81" + link + b"\x67version\x01"
    return varint(len(header)) + header


def car_block(cid: CID, block: bytes) -> bytes:
    """Write one block with its CID."""
    name = bytes(cid)
    return varint(len(name) + len(block)) + name + block


def write_car(root: CID, blocks: Iterable[tuple[CID, bytes]]) -> bytes:
    """Write a whole CAR; blocks may repeat and need not hold the root."""
    return car_header(root) + b"".join([car_block(cid, block) for cid, block in blocks])


def read_car(data: bytes, root: CID) -> Iterator[tuple[CID, bytes]]:
    """Read the blocks of a CAR whose one root is ``root``, each checked against its CID.

    ``VerificationFailed`` at the first thing that is wrong; what was yielded before stays right.
    """
    header = car_header(root)
    if not data.startswith(header):
        raise VerificationFailed(f"A CAR does not begin with the header for the root {root}.")
    at = len(header)
    while at < len(data):
        size, start = read_varint(data, at)
        if size > MAX_BLOCK or size > len(data) - start:
            raise VerificationFailed(
                f"A CAR's block at byte {at} says {size} bytes: at most {MAX_BLOCK} are allowed, "
                f"{len(data) - start} are there."
            )
        at = start + size
        # The code of the codec, the third byte of the CID, may take two bytes: then it goes on.
        name_size = DIGEST_SIZE + (5 if data[start + 1 : start + 2] >= b"\x80" else 4)
        try:
            cid = CID.from_bytes(data[start : min(at, start + name_size)])
        except UsageError as exc:
            raise VerificationFailed(f"A CAR names a block by a wrong CID: {exc}") from exc
        block = data[start + name_size : at]
        if not cid.matches(block):
            raise VerificationFailed(f"A CAR's block of {len(block)} bytes is not {cid}.")
        yield cid, block
