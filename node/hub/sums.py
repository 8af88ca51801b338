"""What the Hub's clients call a file's bytes: the SHA-256 of a large one, git's SHA-1 of a small.

Of a file that is here they are found out once and remembered. Of one that is not, the SHA-256 may
have been said: by the manifest, or by the publisher's ``model.sig``. What nobody said is not known,
and the file's CID stands in its place until it is here.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from node.hub.origin import is_large
from node.reading import OpenRelease
from node.store import Store
from p2p.bundles import find_model_signature
from p2p.cid import CID
from p2p.errors import StoreError
from p2p.manifest import FileEntry

log = logging.getLogger(__name__)

MAX_SUMS: Final = 32
"""Releases of which the ``model.sig`` is kept as it was read."""
AT_ONCE: Final = 256 << 20
"""Bytes of large files that are hashed while a client waits, a quarter of a second; else later."""
SMALL_WITHIN: Final = 3.0
"""Seconds in which small files are hashed while a client waits; the next question goes on."""
BATCH: Final = 64
"""Small files that are hashed at once."""

# Nothing of an empty file is ever brought here, and there is nothing to find out.
_EMPTY_GIT: Final = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
_EMPTY_SHA256: Final = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class Sum:
    """A file's name at the Hub; ``digest`` is in hex, or the CID while that is not ``known``."""

    large: bool
    digest: str
    known: bool = True

    @property
    def etag(self) -> str:
        return f'"{self.digest}"'


class Sums:
    """The sums of releases' files; ``nursery`` runs what takes longer than a client waits."""

    def __init__(self, store: Store, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._signed: dict[CID, Mapping[str, str]] = {}
        self._later: set[CID] = set()

    async def of(self, opened: OpenRelease, entries: Collection[FileEntry]) -> dict[str, Sum]:
        """Return the sums of these files, by their paths."""
        large = [entry for entry in entries if is_large(opened.manifest, entry)]
        paths = {entry.path for entry in large}
        found = await self._large(opened, large) if large else {}
        found |= await self._small([entry for entry in entries if entry.path not in paths])
        return {
            entry.path: Sum(entry.path in paths, found[entry.path])
            if entry.path in found
            else Sum(entry.path in paths, str(entry.cid), known=False)
            for entry in entries
        }

    async def _small(self, entries: Collection[FileEntry]) -> dict[str, str]:
        empty = {entry.path: _EMPTY_GIT for entry in entries if not entry.size}
        here = sorted(await self._store.has_many({entry.cid for entry in entries}), key=str)
        found: dict[CID, str] = {}
        with trio.move_on_after(SMALL_WITHIN):
            for at in range(0, len(here), BATCH):
                found |= await self._store.git_sha1(here[at : at + BATCH])
        return {entry.path: found[entry.cid] for entry in entries if entry.cid in found} | empty

    async def _large(self, opened: OpenRelease, entries: Collection[FileEntry]) -> dict[str, str]:
        known = await self._store.known_sha256([entry.cid for entry in entries])
        signed = await self._said(opened)
        said = {
            entry.cid: entry.sha256 or signed[entry.path]
            for entry in entries
            if entry.sha256 is not None or entry.path in signed
        }
        said |= {entry.cid: _EMPTY_SHA256 for entry in entries if not entry.size}
        rest = [entry for entry in entries if entry.cid not in known and entry.cid not in said]
        here = await self._store.has_many({entry.cid for entry in rest})
        now, size = [], 0
        for entry in rest:
            if entry.cid not in here or entry.cid in self._later:
                continue
            size += entry.size
            if size <= AT_ONCE:
                now.append(entry.cid)
            else:
                self._later.add(entry.cid)
                self._nursery.start_soon(self._hash, entry.cid)
        found = said | known | await self._store.sha256(now)
        return {entry.path: found[entry.cid] for entry in entries if entry.cid in found}

    async def _hash(self, cid: CID) -> None:
        try:
            with self._store.using(cid):
                await self._store.sha256([cid])
        except StoreError as exc:  # nobody waits for it, and the node goes on
            log.warning("%s is not hashed: %s", cid, exc.message)
        finally:
            self._later.discard(cid)

    async def _said(self, opened: OpenRelease) -> Mapping[str, str]:
        """Return what the publisher's ``model.sig`` says of the files' SHA-256."""
        cid = opened.manifest.cid
        if cid not in self._signed:
            owners = await self._store.publishers.keys(opened.manifest.publisher)
            statement = await self._store.statement(cid)
            bundles = statement.bundles if statement is not None else opened.bundles
            model = await trio.to_thread.run_sync(find_model_signature, cid, bundles, owners)
            if model is None:
                return {}  # it may be made any moment
            while len(self._signed) >= MAX_SUMS:
                del self._signed[next(iter(self._signed))]
            self._signed[cid] = model.sums
        return self._signed[cid]
