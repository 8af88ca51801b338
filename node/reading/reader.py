"""From what a program names to an open release: found, verified, let in, and kept while it is read.

A name is what its publisher says of it now. Of publishers whom this node follows that is in the
store, some seconds old at most; of others it is asked for, and the answer stands for a moment,
since clients ask for ten files one after the other.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from node.gate import Asked
from node.naming import Resolved, resolve, whose
from node.reading.opened import OpenRelease
from node.reading.scouts import Scouts, hear
from node.statement import read_statement
from node.voices import Voices
from p2p.cid import CID
from p2p.errors import NetworkError, NotFound
from p2p.manifest import Manifest, parse_manifest
from p2p.references import Reference, parse_reference, publisher_cid

if TYPE_CHECKING:
    from node.fetch import FetchNode

ANSWERED_FOR: Final = 10.0
"""Seconds for which it stands what a name means, once somebody was asked; nothing, too."""
MAX_OPEN: Final = 64
"""Releases that are kept open: a manifest may have 4 MiB."""
MAX_ANSWERS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a reference names: a manifest, by a publisher if it says which; or why nothing."""

    manifest: CID | None
    publisher: str | None
    stale: bool = False
    error: NotFound | None = None


class Reader:
    """Opens releases for one node; see ``open_reader``."""

    def __init__(self, node: "FetchNode", nursery: trio.Nursery) -> None:
        self.nursery = nursery
        """Where what goes on behind a request's back runs."""
        self._node = node
        self.voices = Voices(node)
        self._open: dict[CID, OpenRelease] = {}  # the last used is the last
        self._opening: dict[CID, trio.Lock] = {}
        self._answers: dict[tuple[str, ...], tuple[float, _Meaning]] = {}

    async def open(self, ref: str, *, peers: Sequence[str] = ()) -> OpenRelease:
        """Return the release that a reference of any form names; its files are not fetched.

        Errors as of ``fetch``: NotFound, NoSources, VerificationFailed, Refused, Untrusted.
        """
        reference = parse_reference(ref)
        scouts: Scouts | None = None
        if reference.manifest is not None:
            publisher = reference.publisher and await self._whose(reference.publisher)
            meaning = _Meaning(reference.manifest, publisher)
        else:
            meaning, scouts = await self._meaning(reference, peers)
        if meaning.error is not None:
            raise meaning.error.with_traceback(None)  # else it grows each time
        assert meaning.manifest is not None
        async with self._opening.setdefault(meaning.manifest, trio.Lock()):
            try:
                opened = self._open.get(meaning.manifest)
                if opened is None:
                    opened = await self._opened(meaning, scouts, (*reference.peers, *peers))
                self._keep(opened)
            finally:
                if not self._opening[meaning.manifest].statistics().tasks_waiting:
                    del self._opening[meaning.manifest]
        manifest = opened.manifest
        if meaning.publisher not in (None, manifest.publisher):
            raise NotFound(
                f"{manifest.cid} is by {manifest.publisher}, not by {meaning.publisher}."
            )
        opened.hint((*reference.peers, *peers))
        await opened.admit(Asked(stale=meaning.stale))
        own = set((await self.voices.ids()).values())
        opened.warnings = _warnings(manifest, meaning, own | set(self._node.petnames().values()))
        return opened

    def _keep(self, opened: OpenRelease) -> None:
        self._open.pop(opened.manifest.cid, None)
        self._open[opened.manifest.cid] = opened
        for cid in [cid for cid, one in self._open.items() if not one.busy]:
            if len(self._open) <= MAX_OPEN:
                break
            del self._open[cid]

    async def _whose(self, text: str) -> str:
        return await trio.to_thread.run_sync(whose, text, self._node)

    # -- names

    async def _meaning(
        self, reference: Reference, peers: Sequence[str]
    ) -> tuple[_Meaning, Scouts | None]:
        """Say what a name means, and who was asked."""
        assert reference.publisher is not None
        publisher = await self._whose(reference.publisher)
        known = await self._known(publisher, reference)
        if known is not None:
            return known, None
        key, now = (str(reference), *peers), trio.current_time()
        until, answer = self._answers.get(key, (0.0, None))
        if answer is not None and now < until:
            return answer, None
        scouts = Scouts(self._node.network, self.nursery, [publisher_cid(publisher)], peers)
        try:
            found = await self._resolve(publisher, reference, scouts)
            answer = _Meaning(found.named.manifest, publisher, stale=found.stale)
        except NotFound as exc:
            answer = _Meaning(None, publisher, error=exc)
        if len(self._answers) >= MAX_ANSWERS:
            self._answers.clear()
        self._answers[key] = trio.current_time() + ANSWERED_FOR, answer
        return answer, scouts

    async def _resolve(self, publisher: str, reference: Reference, scouts: Scouts) -> Resolved:
        now = datetime.now(UTC)
        try:
            with scouts.at_work() as crew:
                return await resolve(reference, self._node, crew, now=now)
        except NetworkError:  # nobody can be asked: what was heard before has to do
            if await self._node.store.publishers.names(publisher) is None:
                raise
            return await resolve(reference, self._node, None, now=now)

    async def _known(self, publisher: str, reference: Reference) -> _Meaning | None:
        """Say what a name means without asking anybody: of own publishers, and those followed."""
        assert reference.name is not None
        names = await self.voices.names(publisher)
        if names is None:
            names = await self._node.store.publishers.names(publisher)
            followed = publisher in self._node.petnames().values()
            if names is None or not followed or names.stale(datetime.now(UTC)):
                return None
        named = names.find(reference.name, reference.version)
        return None if named is None else _Meaning(named.manifest, publisher)

    # -- statements

    async def _opened(
        self, meaning: _Meaning, scouts: Scouts | None, peers: Sequence[str]
    ) -> OpenRelease:
        node, cid = self._node, meaning.manifest
        assert cid is not None
        if scouts is None:
            scouts = Scouts(node.network, self.nursery, [cid], peers)
        scouts.seek([cid])
        known = await self._statement(cid)
        if known is not None:
            manifest, bundles = known
        else:
            trusted = node.petnames().values()
            with scouts.at_work() as crew:
                statement = await read_statement(
                    cid, meaning.publisher, node.store, crew, hear, trusted=trusted
                )
            manifest, bundles = statement.manifest, statement.bundles
            asked = Asked(stale=meaning.stale)
            await node.gate.admit(manifest, bundles, asked, chosen=())
            await node.store.record(manifest, bundles, pin=False, complete=False)
            await node.gate.remember(manifest.publisher)
        scouts.seek([manifest.root])
        return OpenRelease(manifest, bundles, node, scouts, self.nursery)

    async def _statement(self, cid: CID) -> tuple[Manifest, tuple[bytes, ...]] | None:
        """Return what is held of a release: it was verified when it came. None if not all is."""
        known = await self._node.store.manifest(cid)
        if known is None:
            return None
        payload, bundles, listing = known
        manifest = await trio.to_thread.run_sync(parse_manifest, payload, listing)
        return None if manifest.listing is not None and listing is None else (manifest, bundles)


def _warnings(manifest: Manifest, meaning: _Meaning, known: set[str]) -> list[str]:
    """Say what somebody should know who cannot be asked."""
    found = []
    if manifest.publisher not in known:
        found.append(f"{manifest.name} is by {manifest.publisher}, whom this node has no name for.")
    if meaning.stale:
        found.append(f"What the publisher says of {manifest.name} has expired: it may be old.")
    return found


@asynccontextmanager
async def open_reader(node: "FetchNode") -> AsyncIterator[Reader]:
    """Give a node's reader; leaving the block ends everything that is on its way."""
    async with trio.open_nursery() as nursery:
        yield Reader(node, nursery)
        nursery.cancel_scope.cancel()
