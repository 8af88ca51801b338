"""An open release: who may read which of its files, and their bytes as they come."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from node.crew import Crew
from node.gate import Asked
from node.reading.pull import Pull
from node.reading.scouts import Scouts, hear
from node.store import Held, durable
from node.upkeep import release_keys
from node.webseeds import seeds_of
from p2p.cid import CID
from p2p.dag import Outline
from p2p.errors import AllodError, NotFound, StoreError, VerificationFailed
from p2p.manifest import FileEntry, Manifest

if TYPE_CHECKING:
    from node.fetch import FetchNode

log = logging.getLogger(__name__)

PIECE: Final = 1 << 20
"""Bytes of a file that are read, and handed on, at once."""
TRIES: Final = 3
"""How often in a row a file may have moved when it is read: a commit moves it once."""


class OpenRelease:
    """A release whose statement was verified and that the policy lets in.

    ``warnings``: what a person should hear of it, by how it was last asked for. Made by
    ``Reader.open``.
    """

    def __init__(
        self,
        manifest: Manifest,
        bundles: tuple[bytes, ...],
        node: "FetchNode",
        scouts: Scouts,
        nursery: trio.Nursery,
    ) -> None:
        self.manifest = manifest
        self.bundles = bundles
        self.warnings: Sequence[str] = ()
        self._node = node
        self._scouts = scouts
        self._nursery = nursery
        self._entries = {entry.path: entry for entry in manifest.files}
        self._pulls: dict[CID, Pull] = {}
        self._change: trio.Event | None = None
        self._let_in: set[tuple[str, Asked]] = set()
        self._looked: set[CID] = set()
        self._announced = False

    @property
    def busy(self) -> bool:
        """Whether anything is on its way here."""
        return bool(self._pulls)

    def hint(self, peers: Sequence[str]) -> None:
        """Have these asked first, by their multiaddrs; UsageError."""
        self._scouts.hint(peers)

    async def admit(self, asked: Asked) -> None:
        """Raise Refused, or Untrusted, where the policy does not let the release in any more.

        ``asked``: how it came to be wanted this time; of a file that is not asked again.
        """
        await self._judge("", (), asked)

    async def check(self, entry: FileEntry) -> None:
        """Raise Refused, or Untrusted, for a file that the policy does not let in."""
        await self._judge(entry.path, (entry,), Asked())

    async def _judge(self, path: str, chosen: Sequence[FileEntry], asked: Asked) -> None:
        gate = self._node.gate
        change = gate.next_change()
        if change is not self._change:
            self._change, self._let_in = change, set()
        if (path, asked) not in self._let_in:
            await gate.admit(self.manifest, self.bundles, asked, chosen=chosen)
            if change is self._change:
                self._let_in.add((path, asked))

    def entry(self, path: str) -> FileEntry:
        """Return the file at a path; NotFound."""
        entry = self._entries.get(path)
        if entry is None:
            raise NotFound(
                f"{self.manifest.name} {self.manifest.version} has no file {path[:200]!r}.",
                next="`allod files` lists what it has.",
            )
        return entry

    async def held(self) -> set[CID]:
        """Return those files that are here whole."""
        return await self._node.store.has_many({entry.cid for entry in self.manifest.files})

    async def _held(self, entry: FileEntry) -> Held | None:
        """Return what is here of a file; VerificationFailed where the manifest lies of its size."""
        held = await self._node.store.held(entry.cid)
        if held is not None and held.size != entry.size:
            raise VerificationFailed(
                f"The manifest says that {entry.path} has {entry.size} bytes, but {entry.cid} has "
                f"{held.size}.",
                next="Tell the publisher: nobody can have this file.",
            )
        return held

    async def read(self, entry: FileEntry, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes ``start <= i < stop`` of a file, verified, in order, as they come.

        What the file is, is looked into before the last bytes of all of it are given: Refused for
        one that is not what its name says. The network's errors, and the store's, for what nobody
        has and what does not fit.
        """
        store, at = self._node.store, start
        with store.using(entry.cid), ExitStack() as stack:
            pull: Pull | None = None
            joined, tries = at, 0
            while at < stop:
                await self.check(entry)  # what is denied meanwhile comes to an end
                growth, changed = store.growth(entry.cid), pull.changed if pull else None
                held = await self._held(entry)
                ready = _ready(held, at, stop)
                if ready == entry.size and not await self._may_end(entry, pull, held):
                    ready = max(at, ready - 1)  # so that nobody takes it for complete
                if held is not None and ready > at:
                    before = at
                    async with aclosing(_pieces(held, at, ready)) as pieces:
                        async for piece in pieces:
                            yield piece
                            at += len(piece)
                    tries = 0 if at > before else tries + 1
                    if tries > TRIES:
                        raise StoreError(f"{held.path} is not what the store made of it.")
                elif pull is None or pull.ended:
                    # What it failed at may be what others asked for: who got on tries anew.
                    if pull is not None and pull.error is not None and at == joined:
                        raise pull.error
                    pull, joined = self._pull(entry), at
                    stack.enter_context(pull.reading())
                else:
                    assert changed is not None
                    pull.ask(at, stop)
                    await _wait_any(growth, changed)

    async def _may_end(self, entry: FileEntry, pull: Pull | None, held: Held | None) -> bool:
        """Say whether the last bytes of a file may be given: not before it was looked into.

        The end of one that is not to come whole is given: its reader has but a part of it.
        """
        if await self._node.store.has(entry.cid):
            await self._look_into(entry)
            return True
        if pull is None or held is None:
            return False
        return not pull.will_be_whole(held.have)

    async def _look_into(self, entry: FileEntry) -> None:
        """Look at a whole file's bytes, once; Refused for one that the policy then keeps out."""
        if entry.cid not in self._looked:
            if await self._node.gate.look_into([entry]):
                self._change = None
                await self.check(entry)
            self._looked.add(entry.cid)

    # -- bringing

    def _pull(self, entry: FileEntry) -> Pull:
        """Return the pull of a file, begun if there is none."""
        pull = self._pulls.get(entry.cid)
        if pull is None or pull.ended:
            node = self._node
            node.network()  # NetworkError now and not later
            pull = Pull(self.manifest.cid, entry, node.store, node.claims, self._at_work, hear)
            self._pulls[entry.cid] = pull
            self._nursery.start_soon(self._attend, pull)
            if not self._announced:  # from now on others can take from here what has come
                self._announced = True
                node.network().announce([self.manifest.cid])
        return pull

    async def _attend(self, pull: Pull) -> None:
        with self._node.store.using(self.manifest.cid):
            try:
                await pull.run()
            finally:
                if self._pulls.get(pull.entry.cid) is pull:
                    del self._pulls[pull.entry.cid]
            if pull.error is None and not self._pulls:
                try:
                    await self._note_complete()
                except AllodError as exc:  # nobody waits for it, and the next pull tries anew
                    log.warning("%s is not recorded: %s", self.manifest.name, exc.message)

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[Crew]:
        """Give the crew, with the web seeds that the policy lets be asked today."""
        with self._scouts.at_work() as crew:
            policy = await self._node.gate.policy()
            crew.seeds = seeds_of(self.manifest, policy, crew.network, hear)
            yield crew

    async def _note_complete(self) -> None:
        """Record that all files are here, once they are."""
        store, manifest = self._node.store, self.manifest
        release = await store.release(manifest.cid)
        if release is None or release.complete:
            return
        missing = {entry.cid for entry in manifest.files} - await self.held()
        empty = missing & {entry.cid for entry in manifest.files if not entry.size}
        if missing == empty:  # of no bytes nobody reads any
            await store.put_many([(Outline.single(cid, 0), b"") for cid in empty])
            await store.record(manifest, self.bundles, pin=release.pinned, complete=True)
            self._node.network().announce(release_keys(manifest))


def _ready(held: Held | None, at: int, stop: int) -> int:
    """Return up to where the bytes from ``at`` on are here, at most ``stop``."""
    run = held.have.first(at) if held is not None else None
    return min(stop, run[1]) if run is not None and run[0] == at else at


async def _pieces(held: Held, start: int, stop: int) -> AsyncGenerator[bytes, None]:
    """Yield bytes of a file that are here; none, if it has moved meanwhile."""
    try:
        file = await trio.open_file(held.path, "rb")
    except FileNotFoundError:
        return  # committed, or collected: ask the store anew
    except OSError as exc:
        raise StoreError(f"{held.path} cannot be read: {exc.strerror}.") from exc
    async with file:
        with durable.disk_errors("read a file"):
            await file.seek(start)
            while start < stop and (piece := await file.read(min(PIECE, stop - start))):
                start += len(piece)
                yield piece


async def _wait_any(*events: trio.Event) -> None:
    """Return when the first of these is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
