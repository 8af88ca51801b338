"""Publishers on disk: what each says of its names, verified, and what it ever took back.

``publishers/<id>/<number>/`` is one whole set of a publisher's metadata, under the names that TUF
gives its files, and ``taken.json``: the releases that it revoked or withdrew.
A new set is made under a temporary name and gets the next number, so it is there wholly or not at
all; the highest number counts, and what it replaces is deleted after it.

Three rules:

- *Never backwards.* What comes is checked against what is held, one after the other, and the newer
  is kept. So what is held is the high-water mark, and nobody can turn a name back.
- *What was taken back stays taken back*, whatever the publisher says later: others may have deleted
  it because of that.
- *Nothing is believed because it lies here.* A set is verified again when it is read from disk; one
  that rotted is set aside, and asked for anew.

Knows no network and no clock: whether metadata has expired is for whoever goes by a name to judge.
"""

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import trio

from node.store import durable
from node.store.layout import Layout, temporary
from p2p.cid import CID
from p2p.errors import UsageError, VerificationFailed
from p2p.keys import PublicKey
from p2p.naming import (
    Metadata,
    Names,
    Status,
    files_of,
    metadata_of,
    newer,
    read_names,
    signing_keys,
)

TAKEN: Final = "taken.json"
KEPT_BYTES: Final = 32 << 20
"""Bytes of metadata that are kept in memory: a thousand publishers as they are, two as large as
they may be."""


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of a publisher.

    ``names``: what its metadata says, with every status that it ever gave. ``taken``: those
    statuses, also of releases that the metadata no longer lists. ``keys``: all that ever signed its
    releases, the replaced ones too; ``keys_now``: those that still do.
    """

    metadata: Metadata
    names: Names
    taken: Mapping[CID, Status]
    keys: frozenset[PublicKey]
    keys_now: frozenset[PublicKey]

    @property
    def size(self) -> int:
        """Bytes of the metadata."""
        return self.metadata.size


class Publishers:
    """What the store holds of publishers; ``changed`` are called with the id of one that changed.

    They are called in the task that changed it, and must neither block nor raise.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._changing = trio.Lock()
        self._kept: OrderedDict[str, Held] = OrderedDict()
        self.changed: list[Callable[[str], None]] = []

    async def held(self, publisher: str) -> Held | None:
        """Return what is held of a publisher, verified; None where that is nothing."""
        kept = self._kept.get(publisher)
        if kept is not None:
            self._kept.move_to_end(publisher)
            return kept
        async with self._changing:
            return await self._load(publisher)

    async def get(self, publisher: str) -> Metadata | None:
        """Return a publisher's metadata."""
        held = await self.held(publisher)
        return held.metadata if held is not None else None

    async def names(self, publisher: str) -> Names | None:
        """Return what a publisher says, with every status that it ever gave."""
        held = await self.held(publisher)
        return held.names if held is not None else None

    async def seen(self, publisher: str) -> Mapping[CID, Status]:
        """Return the releases that a publisher ever revoked or withdrew, by their manifests."""
        held = await self.held(publisher)
        return held.taken if held is not None else {}

    async def keys(self, publisher: str) -> frozenset[PublicKey]:
        """Return all keys that ever signed for a publisher, as far as they are known here."""
        held = await self.held(publisher)
        return held.keys if held is not None else frozenset()

    async def file(self, publisher: str, name: str) -> bytes | None:
        """Return one file of a publisher's metadata by its name in TUF, such as 3.root.json."""
        held = await self.held(publisher)
        return files_of(held.metadata).get(name) if held is not None else None

    async def ids(self) -> tuple[str, ...]:
        """Return all publishers of whom something is held, sorted."""
        return await durable.on_disk("list publishers", lambda: tuple(self._layout.publishers()))

    async def put(self, publisher: str, came: Metadata) -> Metadata:
        """Check metadata against what is held, and keep the newer of the two: it is returned.

        ``VerificationFailed`` says what is wrong with what came; then nothing has changed.
        """
        async with self._changing:
            before = self._kept.get(publisher) or await self._load(publisher)
            if before is not None and before.metadata == came:
                return came
            after = await trio.to_thread.run_sync(_judge, publisher, before, came)
            if before is not None and after.metadata == before.metadata:
                return before.metadata
            with trio.CancelScope(shield=True):
                await durable.on_disk(
                    "keep a publisher's metadata", lambda: _write(self._layout, publisher, after)
                )
                self._keep(publisher, after)
            for changed in self.changed:
                changed(publisher)
            return after.metadata

    async def audit(self, publisher: str) -> bool:
        """Read a publisher's metadata from the disk again; False where it is damaged or gone."""
        async with self._changing:
            self._kept.pop(publisher, None)
            return await self._load(publisher) is not None

    async def _load(self, publisher: str) -> Held | None:
        """Read a publisher's metadata from disk, and verify it."""
        try:
            folder = self._layout.publisher(publisher)
        except UsageError:
            return None  # no id of a publisher, and no name for a folder
        held = await durable.on_disk(
            "read a publisher's metadata", lambda: _read(self._layout, folder, publisher)
        )
        if held is not None:
            self._keep(publisher, held)
        return held

    def _keep(self, publisher: str, held: Held) -> None:
        self._kept[publisher] = held
        self._kept.move_to_end(publisher)
        size = sum(each.size for each in self._kept.values())
        while size > KEPT_BYTES and len(self._kept) > 1:
            size -= self._kept.popitem(last=False)[1].size


def _judge(publisher: str, before: Held | None, came: Metadata) -> Held:
    """Return what is to be held after ``came``."""
    known = before.metadata if before is not None else None
    metadata = newer(publisher, known, came, now=None)
    names = read_names(publisher, metadata, now=None)
    return _held(metadata, names, before.taken if before is not None else {})


def _held(metadata: Metadata, names: Names, taken: Mapping[CID, Status]) -> Held:
    """Join what a publisher says now with what it ever took back; the first word on that stays."""
    said = {entry.manifest: entry.status for entry in names.entries if entry.status is not None}
    taken = said | dict(taken)
    entries = tuple(replace(one, status=taken.get(one.manifest)) for one in names.entries)
    roots = signing_keys(names.publisher, metadata.roots)
    keys = frozenset(key for some, _ in roots for key in some)
    return Held(metadata, replace(names, entries=entries), taken, keys, roots[-1][0])


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of the sets in a publisher's folder, the highest first."""
    with suppress(FileNotFoundError, NotADirectoryError):
        names = (path.name for path in folder.iterdir())
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)
    return []


def _read(layout: Layout, folder: Path, publisher: str) -> Held | None:
    """Read the newest set; one that is damaged is set aside with all that is held beside it."""
    for number in _numbers(folder):
        files = {path.name: path.read_bytes() for path in (folder / str(number)).iterdir()}
        try:
            taken = _taken(files.pop(TAKEN, b"{}"))
            metadata = metadata_of(files)
            return _held(metadata, read_names(publisher, metadata, now=None), taken)
        except (VerificationFailed, UsageError, ValueError, AttributeError, TypeError):
            durable.rename(folder / str(number), temporary(layout.quarantine))
    return None


def _write(layout: Layout, publisher: str, held: Held) -> None:
    """Keep a set under the next number, then let go of those before it."""
    folder = layout.publisher(publisher)
    durable.make_folder(folder)
    durable.sync_folder(folder.parent)
    before = _numbers(folder)
    target = folder / str(before[0] + 1 if before else 1)
    taken = {str(cid): asdict(status) for cid, status in held.taken.items()}
    temp = temporary(layout.temp)
    try:
        durable.make_folder(temp)
        for name, data in files_of(held.metadata).items():
            durable.write_file(temp / name, data)
        durable.write_file(temp / TAKEN, json.dumps(taken, sort_keys=True).encode())
        durable.sync_folder(temp)
        durable.rename(temp, target)
        durable.sync_folder(folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    for number in before:
        shutil.rmtree(folder / str(number), ignore_errors=True)


def _taken(data: bytes) -> dict[CID, Status]:
    return {CID.parse(cid): Status(**fields) for cid, fields in json.loads(data).items()}
