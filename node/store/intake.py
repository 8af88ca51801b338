"""How files from outside come into the store without a second copy, where that can be.

In this order: a reflink, which shares the bytes until one side changes them; a hard link, which
shares them for good, so that facts.py watches it; a copy, made in the same pass that hashes.
Whatever it is gets a temporary name first, then its bytes are hashed, then it is kept.

A file that changes while it is read is refused: its facts are taken before and after.
A linked file is synced first. That puts its bytes on disk, which nobody else may have done, and it
makes later writes through a memory map show in the modification time.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import Final, Literal

import trio

from node.store import durable
from node.store.facts import Facts
from node.store.hashing import Progress, each_piece, hash_leaves, pieces, read_into
from node.store.layout import temporary
from node.store.outlines import discard
from node.store.shelf import Room, Shelf, Staged
from p2p.chunking import LeafSizes, Profile, leaf_sizes
from p2p.cid import Buffer
from p2p.dag import Outline
from p2p.errors import NotFound, SourceChanged, UsageError, VerificationFailed

Method = Literal["reflink", "link", "copy", "present"]

SMALL: Final = 4 << 20
"""Bytes up to which files are taken many at once, each read and hashed in one go."""
BATCH: Final = 512  # small files that are synced together: a few ms instead of 512 disk latencies

FEW: Final = 16  # of them that one thread takes at once: a trip there costs as much as a small file


@dataclass(frozen=True, slots=True)
class Added:
    """A file that is in the store now: its Outline, its size in bytes, how it got there."""

    outline: Outline
    size: int
    method: Method


@dataclass(frozen=True, slots=True)
class _Source:
    """A file that is being taken in, under a temporary name; a copy is still empty."""

    path: Path
    name: str
    temp: Path
    method: Method
    facts: Facts

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.facts.size

    @property
    def charge(self) -> int:
        """Bytes that it takes from the quota."""
        return self.size if self.method == "copy" else 0

    def open(self) -> int:
        """Open what is to be hashed: for a reflink the snapshot, not the file that may go on."""
        return _open_source(self.path if self.method == "copy" else self.temp)

    def check(self) -> None:
        """Raise ``SourceChanged`` unless the file is still as it was."""
        try:
            now = Facts.of(os.stat(self.path))
        except FileNotFoundError:
            now = None
        if now != self.facts:
            raise SourceChanged(
                f"{self.path} changed while it was read.",
                next="Publish again when nothing writes to it any more.",
            )

    def cut(self, fd: int, profile: Profile) -> LeafSizes:
        """Say where the leaves end."""
        return leaf_sizes(profile, self.name, lambda at, n: os.pread(fd, n, at), self.size)

    def staged(self, outline: Outline) -> Staged:
        """Say what is ready to be kept."""
        shared = self.method == "link"
        facts = self.facts if shared else None
        return Staged(self.temp, outline, self.charge, shared, facts)


@dataclass(frozen=True, slots=True)
class _Few:
    """Small files for one trip to a thread; ``size``: bytes of the largest."""

    sources: tuple[_Source, ...]
    size: int


def _few(sources: Sequence[_Source]) -> Iterator[_Few]:
    for start in range(0, len(sources), FEW):
        part = tuple(sources[start : start + FEW])
        yield _Few(part, max(source.size for source in part))


async def take(
    shelf: Shelf,
    file: Path,
    name: str,
    profile: Profile,
    *,
    progress: Progress | None = None,
) -> Added:
    """Take in one file of any size: see ``Store.add``."""
    temps: list[Path] = []
    try:
        [source] = await _stage(shelf, [(file, name)], temps)
        with shelf.room(source.charge) as room:
            with durable.disk_errors("read a file"):
                outline = await _hash_large(shelf, source, profile, progress)
            [added] = await _keep(shelf, [(source, outline)], room)
            return added
    finally:
        discard(temps)


async def take_many(
    shelf: Shelf,
    files: Sequence[tuple[Path, str]],
    profile: Profile,
    *,
    progress: Progress | None = None,
) -> list[Added]:
    """Take in many files, small ones together: see ``Store.add_many``."""
    added: dict[int, Added] = {}
    small: list[int] = []
    large = await trio.to_thread.run_sync(lambda: [_is_large(file) for file, _ in files])
    for number, (file, name) in enumerate(files):
        if not large[number]:
            small.append(number)
        else:
            added[number] = await take(shelf, file, name, profile, progress=progress)
    for start in range(0, len(small), BATCH):
        batch = small[start : start + BATCH]
        done = await _take_small(shelf, [files[n] for n in batch], profile, progress)
        added.update(zip(batch, done, strict=True))
    return [added[number] for number in range(len(files))]


async def _take_small(
    shelf: Shelf,
    files: Sequence[tuple[Path, str]],
    profile: Profile,
    progress: Progress | None,
) -> list[Added]:
    temps: list[Path] = []
    hashed: dict[Path, tuple[_Source, Outline]] = {}

    def work(few: _Few, buffer: memoryview) -> list[Outline]:
        return [_hash_small(source, profile, buffer[: source.size]) for source in few.sources]

    async def then(few: _Few, buffer: memoryview, results: list[Outline]) -> None:
        for source, outline in zip(few.sources, results, strict=True):
            hashed[source.temp] = (source, outline)
            if progress is not None:
                progress(source.size)

    try:
        sources = await _stage(shelf, files, temps)
        with shelf.room(sum(source.charge for source in sources)) as room:
            with durable.disk_errors("read a file"):
                await each_piece(_few(sources), work, then, shelf.cores)
            return await _keep(shelf, [hashed[source.temp] for source in sources], room)
    finally:
        discard(temps)


async def put_many(
    shelf: Shelf, items: Sequence[tuple[Outline, Buffer]], progress: Progress | None = None
) -> None:
    """Keep whole files that are in memory; ``VerificationFailed``, and none, if one is bad."""
    good = await shelf.claim({outline.root for outline, _ in items})
    new = [(outline, memoryview(data)) for outline, data in items if outline.root not in good]
    temps = [temporary(shelf.layout.temp) for _ in new]

    def write(batch: Sequence[tuple[Path, Outline, memoryview]]) -> None:
        for temp, outline, data in batch:
            _verify(outline, data)
            fd = durable.create(temp)
            try:
                durable.write_at(fd, data, 0)
            finally:
                os.close(fd)

    try:
        with shelf.room(sum(outline.size for outline, _ in new)) as room:
            todo = [(temp, *item) for temp, item in zip(temps, new, strict=True)]
            for start in range(0, len(todo), BATCH):
                batch = todo[start : start + BATCH]
                await durable.on_disk("write files", bind(write, batch), limiter=shelf.cores)
                if progress is not None:
                    progress(sum(len(data) for _, _, data in batch))
            await shelf.keep_in(
                room, [Staged(temp, outline, outline.size) for temp, outline, _ in todo]
            )
    except BaseException:
        discard(temps)
        raise


async def _stage(
    shelf: Shelf, files: Sequence[tuple[Path, str]], temps: list[Path]
) -> list[_Source]:
    """Give files temporary names in the store; ``temps`` hears of each before it is there."""

    def work() -> list[_Source]:
        sources = []
        for file, name in files:
            temps.append(temporary(shelf.layout.temp))
            sources.append(_stage_one(file, name, temps[-1]))
        linked = [source.temp for source in sources if source.method == "link"]
        durable.sync_files(linked, shelf.layout.temp)
        return sources

    return await durable.on_disk("take in a file", work)


def _stage_one(file: Path, name: str, temp: Path) -> _Source:
    path = Path(os.path.realpath(file))
    fd = _open_source(path)
    try:
        facts = Facts.of(os.fstat(fd))
        method: Method = "copy"
        copy = durable.create(temp)
        try:
            if durable.clone(fd, copy):
                method = "reflink"
        finally:
            os.close(copy)
        if method == "copy":
            durable.unlink(temp)
            if durable.link(path, temp):
                method = "link"
    finally:
        os.close(fd)
    source = _Source(path, name, temp, method, facts)
    if method == "link" and Facts.of(os.stat(temp)) != facts:
        source.check()
    return source


def _is_large(file: Path) -> bool:
    try:
        return os.stat(file).st_size > SMALL
    except OSError:
        return False  # whoever opens it will say what is wrong


def _open_source(path: Path) -> int:
    """Open somebody's file for reading: a plain file, or it would be no file of a release."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} is not a plain file.")
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise NotFound(f"There is no file {path}.", next="Check the path.") from exc
    except PermissionError as exc:
        raise UsageError(
            f"{path} may not be read.", next="Give this user the right to read it."
        ) from exc


async def _hash_large(
    shelf: Shelf, source: _Source, profile: Profile, progress: Progress | None
) -> Outline:
    fd = source.open()
    copy_to: int | None = None
    try:
        if source.method == "copy":
            copy_to = durable.create(source.temp)
        sizes = await trio.to_thread.run_sync(source.cut, fd, profile)
        try:
            digests = await hash_leaves(
                fd,
                sizes,
                profile.hash,
                shelf.cores,
                copy_to=copy_to,
                progress=progress,
            )
        except SourceChanged:
            source.check()  # says which file
            raise
        source.check()
        if copy_to is not None:
            # Here, where a cancel can still come between, and not while everybody waits.
            await trio.to_thread.run_sync(durable.sync_file, copy_to)
    finally:
        os.close(fd)
        if copy_to is not None:
            os.close(copy_to)
    return await trio.to_thread.run_sync(Outline.build, sizes, digests, profile.hash)


def _hash_small(source: _Source, profile: Profile, data: memoryview) -> Outline:
    fd = source.open()
    try:
        if read_into(fd, data, 0) != len(data):
            source.check()
        sizes = source.cut(fd, profile)
    finally:
        os.close(fd)
    if source.method == "copy":
        copy = durable.create(source.temp)
        try:
            durable.write_at(copy, data, 0)
        finally:
            os.close(copy)
    source.check()
    return _outline_of(data, sizes, profile)


def outline_of(data: Buffer, name: str, profile: Profile) -> Outline:
    """Cut and hash bytes in memory."""
    view = memoryview(data)
    sizes = leaf_sizes(profile, name, lambda at, n: bytes(view[at : at + n]), len(view))
    return _outline_of(view, sizes, profile)


def _outline_of(data: memoryview, sizes: LeafSizes, profile: Profile) -> Outline:
    digests = [
        profile.hash.digest(leaf)
        for piece in pieces(sizes)
        for _, _, leaf in piece.leaves(data[piece.offset : piece.offset + piece.size])
    ]
    return Outline.build(sizes, b"".join(digests), profile.hash)


def _verify(outline: Outline, data: memoryview) -> None:
    """Check a whole file in memory."""
    if len(data) == outline.size:
        spans = [outline.span(index, index + 1) for index in range(len(outline))]
        if all(
            outline.verify(index, data[start:stop]) for index, (start, stop) in enumerate(spans)
        ):
            return
    raise VerificationFailed(
        f"The {len(data):,} bytes that came for {outline.root} are not that file."
    )


async def _keep(shelf: Shelf, hashed: Sequence[tuple[_Source, Outline]], room: Room) -> list[Added]:
    """Keep what is new, and say of each file how it got here."""
    await shelf.good_many({outline.root for _, outline in hashed})  # so that no row is stale
    staged = [source.staged(outline) for source, outline in hashed]
    present = await shelf.keep_in(room, staged)
    return [
        Added(outline, source.size, "present" if outline.root in present else source.method)
        for source, outline in hashed
    ]
