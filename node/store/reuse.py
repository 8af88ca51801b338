"""Leaves that this store holds already, in other files: a fine-tune shares most of its base's.

What is found is a hint: whoever copies a leaf verifies it on the way, so a file that somebody
changed meanwhile costs a fetch and nothing else.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.store import durable
from node.store.hashing import PIECE, each_piece, read_into
from node.store.shelf import Shelf
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.ranges import RangeSet


@dataclass(frozen=True, slots=True)
class Copies:
    """Leaves that one file holds: (index of the leaf wanted, offset in that file)."""

    path: Path
    leaves: tuple[tuple[int, int], ...]
    size: int  # bytes of the buffer: one leaf


def batches(outline: Outline, found: Sequence[tuple[int, Path, int]]) -> list[Copies]:
    """Gather leaves that come from the same file, some MiB in each batch."""
    result: list[Copies] = []
    by_path: dict[Path, list[tuple[int, int]]] = {}
    for index, path, offset in found:
        by_path.setdefault(path, []).append((index, offset))
    for path, leaves in by_path.items():
        batch: list[tuple[int, int]] = []
        length = largest = 0
        for index, offset in leaves:
            start, stop = outline.span(index, index + 1)
            batch.append((index, offset))
            length, largest = length + stop - start, max(largest, stop - start)
            if length >= PIECE:
                result.append(Copies(path, tuple(batch), largest))
                batch, length, largest = [], 0, 0
        if batch:
            result.append(Copies(path, tuple(batch), largest))
    return result


async def local_leaves(
    shelf: Shelf, outline: Outline, missing: RangeSet
) -> list[tuple[int, Path, int]]:
    """Find missing leaves in other whole files: (index of the leaf, file, offset in it)."""
    wanted: dict[bytes, list[int]] = {}
    for start, stop in missing:
        for index in outline.leaves_in(start, stop):
            wanted.setdefault(outline.digest(index), []).append(index)
    if not wanted:
        return []
    places: dict[bytes, tuple[Path, int]] = {}
    for digest, path, offset in await _holders(shelf, outline, wanted):
        places.setdefault(digest, (path, offset))
    found = []
    for digest, (path, offset) in places.items():
        found += [(index, path, offset) for index in wanted[digest]]
    return sorted(found)


async def _holders(
    shelf: Shelf, outline: Outline, wanted: dict[bytes, list[int]]
) -> list[tuple[bytes, Path, int]]:
    """Return (digest, file, offset) for every place where a wanted leaf lies."""
    found = []
    for _, cid, leaf in await shelf.rows.leaves(wanted):
        other = await shelf.outline(cid) if cid.hash is outline.hash else None
        if other is not None and cid != outline.root and other.digest(leaf) in wanted:
            offset, _ = other.span(leaf, leaf + 1)
            found.append((other.digest(leaf), shelf.layout.blob(cid), offset))
    singles = [CID(Codec.RAW, outline.hash, digest) for digest in wanted]
    held = (await shelf.rows.files(singles)).keys() - {outline.root}
    return found + [(cid.digest, shelf.layout.blob(cid), 0) for cid in held]


def reads(fd: int, leaf: memoryview, offset: int) -> bool:
    """Fill ``leaf`` from a file; False if the file is too short or the disk can't read it."""
    try:
        return read_into(fd, leaf, offset) == len(leaf)
    except OSError:
        return False


async def copy_leaves(
    shelf: Shelf,
    outline: Outline,
    fd: int,
    found: Sequence[tuple[int, Path, int]],
    done: Callable[[RangeSet], None],
) -> None:
    """Copy leaves into the partial file ``fd``; ``done`` hears of the bytes that verified."""

    def work(batch: Copies, buffer: memoryview) -> RangeSet:
        good = RangeSet()
        try:
            source = os.open(batch.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return good  # it went away meanwhile: then its leaves are fetched
        try:
            for index, offset in batch.leaves:
                start, stop = outline.span(index, index + 1)
                leaf = buffer[: stop - start]
                if reads(source, leaf, offset) and outline.verify(index, leaf):
                    durable.write_at(fd, leaf, start)
                    good.add(start, stop)
        finally:
            os.close(source)
        return good

    async def then(batch: Copies, buffer: memoryview, good: RangeSet) -> None:
        done(good)

    with durable.disk_errors("write to a partial file"):
        await each_piece(batches(outline, found), work, then, shelf.cores)
