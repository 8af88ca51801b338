"""SHA-256 of whole files, and git's name for them, for tools that know no other hash.

Nothing in the store needs either, so they are found out later, in one thread beside everything
else, and remembered. The bytes are checked against the file's Outline in the same pass: a file may
be its owner's too, and change under the reader, and then they would be those of something else.
"""

import hashlib
import os
from collections.abc import Collection
from typing import Final

import trio

from node.store import durable
from node.store.file_rows import Sum
from node.store.hashing import Piece, Progress, outline_pieces, read_into
from node.store.shelf import Shelf
from p2p.buffers import make_buffer
from p2p.cid import CID, Codec, Hash
from p2p.dag import Outline

_BATCH: Final = 256  # files whose sums are remembered in one transaction
_LARGE: Final = 64 << 20  # bytes of a file that is remembered at once


async def sha256_of(
    shelf: Shelf, cids: Collection[CID], progress: Progress | None = None
) -> dict[CID, str]:
    """Return the SHA-256 of files in hex: see ``Store.sha256``."""
    said = {  # the CID of a file of one leaf may say it already
        cid: cid.digest for cid in cids if cid.codec is Codec.RAW and cid.hash is Hash.SHA2_256
    }
    found = await _sums_of(shelf, "sha256", [cid for cid in cids if cid not in said], progress)
    return {cid: digest.hex() for cid, digest in (said | found).items()}


async def git_sha1_of(shelf: Shelf, cids: Collection[CID]) -> dict[CID, str]:
    """Return git's name of files in hex: see ``Store.git_sha1``."""
    found = await _sums_of(shelf, "git", cids, None)
    return {cid: digest.hex() for cid, digest in found.items()}


async def _sums_of(
    shelf: Shelf, kind: Sum, cids: Collection[CID], progress: Progress | None
) -> dict[CID, bytes]:
    """Return what is remembered, and find out and remember the rest."""
    found = await shelf.rows.sums(kind, cids)
    new: dict[CID, bytes] = {}
    try:
        for cid in dict.fromkeys(cids):
            if cid in found:
                continue
            row = await shelf.good(cid)
            outline = await shelf.outline(cid)
            digest = None
            if row is not None and outline is not None:
                digest = await _hash(shelf, outline, _begin(kind, row.size), progress)
            if digest is not None:
                new[cid] = digest
            if len(new) >= _BATCH or (row is not None and row.size >= _LARGE):
                await shelf.rows.put_sums(kind, new)
                found, new = found | new, {}
    finally:
        with trio.CancelScope(shield=True):
            await shelf.rows.put_sums(kind, new)
    return found | new


def _begin(kind: Sum, size: int) -> "hashlib._Hash":
    if kind == "sha256":
        return hashlib.sha256()
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


async def _hash(
    shelf: Shelf, outline: Outline, whole: "hashlib._Hash", progress: Progress | None
) -> bytes | None:
    """Hash a file from beginning to end; None where its bytes are not what they must be."""
    try:
        fd = os.open(shelf.layout.blob(outline.root), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    buffer = make_buffer(0)

    def step(piece: Piece) -> bool:
        nonlocal buffer
        if len(buffer) < piece.size:
            buffer = make_buffer(piece.size)
        data = buffer[: piece.size]
        if read_into(fd, data, piece.offset) != piece.size:
            return False
        whole.update(data)
        return all(outline.verify(index, leaf) for index, _, leaf in piece.leaves(data))

    try:
        for piece in outline_pieces(outline, [range(len(outline))]):
            # Two threads at once would be no faster, and one core stays free for all others.
            if not await durable.on_disk("read a file", lambda: step(piece), limiter=shelf.cores):  # noqa: B023
                return None
            if progress is not None:
                progress(piece.size)
    finally:
        os.close(fd)
    return whole.digest()
