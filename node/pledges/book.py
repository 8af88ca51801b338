"""The book of pledges: what the owner promised, and what was taken for it.

``pledges.json`` in the data folder, written whole, before anything is spoken of or fetched. It can
be found out from nothing, so one that is damaged is an error that says what to do.

What was taken counts against its pledge's budget with all its bytes from before the first one
moves until it has been let go. That is decided without a pause in between, so any number of fetches
that begin together keep to it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from node.store import durable
from p2p.cid import CID
from p2p.errors import AllodError, StoreError, UsageError

if TYPE_CHECKING:
    from node.store import Store

FILE: Final = "pledges.json"
"""Its name in the data folder."""
MAX_PLEDGES: Final = 1000
"""Pledges of one node: each is looked after by its own."""
MAX_FILE: Final = 64 << 20
"""Bytes of the file: some 200 for each release that was taken."""
MAX_KEEP: Final = 16
"""Copies that a pledge may ask for: beyond that a mirror serves better."""
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Pledge:
    """A promise to help keep ``keep`` copies.

    ``id``: the publisher's id, or the CID of the one release. ``limit``: bytes that may be taken
    for it, None for all that the store may hold. ``peers``: multiaddrs to ask first.
    ``since``: seconds since 1970.
    """

    id: str
    publisher: bool
    name: str  # what the owner called it
    keep: int
    limit: int | None
    peers: tuple[str, ...]
    since: float

    @property
    def manifest(self) -> CID | None:
        """The one release that it is about, if it is about one."""
        return None if self.publisher else CID.parse(self.id)


@dataclass(frozen=True, slots=True)
class Taken:
    """A release that is here because of a pledge, whole or not yet; ``size`` in bytes."""

    manifest: CID
    pledge: str
    size: int
    since: float


class Book:
    """The pledges of one node; every change is on disk before it is spoken of."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._pledges: dict[str, Pledge] = {}
        self._taken: dict[CID, Taken] = {}
        self._read = False
        self._lock = trio.Lock()
        self.changed: list[Callable[[], None]] = []
        """Called after each change of what is pledged."""

    async def open(self) -> None:
        """Read the file, if that was not done yet; ``StoreError`` where it is of no use."""
        async with self._lock:
            if not self._read:
                found = await durable.on_disk("read its pledges", lambda: _read(self._file))
                self._pledges = {one.id: one for one in found[0]}
                self._taken = {one.manifest: one for one in found[1]}
                self._read = True

    # -- what there is

    def pledges(self) -> list[Pledge]:
        """Return the pledges, the oldest first."""
        return list(self._pledges.values())

    def taken(self, pledge: str | None = None) -> list[Taken]:
        """Return what was taken, under one pledge or all."""
        return [one for one in self._taken.values() if pledge in (None, one.pledge)]

    def is_taken(self, manifest: CID) -> bool:
        """Say whether a release is here, or comes, because of a pledge."""
        return manifest in self._taken

    def has_room(self, pledge: Pledge, size: int) -> bool:
        """Say whether so many bytes more stay within a pledge's budget."""
        if pledge.limit is None:
            return True
        return sum(one.size for one in self.taken(pledge.id)) + size <= pledge.limit

    @contextmanager
    def keeping(self, store: "Store") -> Iterator[None]:
        """Keep from gc, for this block, all that was taken."""
        with ExitStack() as stack:
            for manifest in self._taken:
                stack.enter_context(store.using(manifest))
            yield

    # -- changes

    async def put(self, pledge: Pledge) -> None:
        """Promise something, or promise it in other words."""
        if pledge.id not in self._pledges and len(self._pledges) >= MAX_PLEDGES:
            raise UsageError(
                f"A node keeps at most {MAX_PLEDGES} pledges.",
                next="Pledge to a publisher instead of to each of its releases.",
            )
        before = self._pledges.get(pledge.id)
        self._pledges[pledge.id] = pledge

        def undo() -> None:
            if before is None:
                self._pledges.pop(pledge.id, None)
            else:
                self._pledges[pledge.id] = before

        await self._save(undo)
        self._tell()

    async def remove(self, id: str) -> list[Taken]:
        """Promise something no longer; return what was taken for it, which is only kept so far."""
        pledge, freed = self._pledges.pop(id), self.taken(id)
        for one in freed:
            del self._taken[one.manifest]

        def undo() -> None:
            self._pledges[id] = pledge
            self._taken.update({one.manifest: one for one in freed})

        await self._save(undo)
        self._tell()
        return freed

    async def take(self, taken: Taken) -> bool:
        """Count a release against its pledge; False, and nothing is done, where there is no room.

        True for one that counts already.
        """
        pledge = self._pledges.get(taken.pledge)
        if taken.manifest in self._taken:
            return True
        if pledge is None or not self.has_room(pledge, taken.size):
            return False
        self._taken[taken.manifest] = taken
        await self._save(lambda: self._taken.pop(taken.manifest, None))
        return True

    async def drop(self, manifest: CID) -> None:
        """Count a release no longer."""
        before = self._taken.pop(manifest, None)
        if before is not None:
            await self._save(lambda: self._taken.setdefault(manifest, before))

    async def _save(self, undo: Callable[[], object]) -> None:
        try:
            async with self._lock:
                data = self._encode()
                with trio.CancelScope(shield=True):
                    await durable.on_disk("write its pledges", lambda: _write(self._file, data))
        except BaseException:
            undo()
            raise

    def _encode(self) -> bytes:
        taken = [asdict(one) | {"manifest": str(one.manifest)} for one in self._taken.values()]
        pledges = [asdict(one) for one in self._pledges.values()]
        return json.dumps({"version": _VERSION, "pledges": pledges, "taken": taken}).encode()

    def _tell(self) -> None:
        for hear in self.changed:
            hear()


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    durable.replace_file(file, data, file.parent)


def _read(file: Path) -> tuple[list[Pledge], list[Taken]]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        return [], []
    try:
        if len(data) > MAX_FILE:
            raise ValueError("it is too long")
        said: dict[str, Any] = json.loads(data)
        if said["version"] != _VERSION:
            raise ValueError(f"it has version {said['version']}")
        pledges = [Pledge(**one | {"peers": tuple(one["peers"])}) for one in said["pledges"]]
        taken = [Taken(**one | {"manifest": CID.parse(one["manifest"])}) for one in said["taken"]]
        for pledge in pledges:
            CID.parse(pledge.id)
            if not 1 <= pledge.keep <= MAX_KEEP or (pledge.limit or 0) < 0:
                raise ValueError(f"the pledge {pledge.id} makes no sense")
        if not all(one.size >= 0 for one in taken):
            raise ValueError("what was taken makes no sense")
    except (ValueError, KeyError, TypeError, AllodError, RecursionError) as exc:
        raise StoreError(
            f"The pledges in {file} cannot be read: {exc}.",
            next="Mend the file, or move it away and pledge again; nothing that is held is lost.",
        ) from exc
    return pledges, taken
