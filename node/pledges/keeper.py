"""The keeper: looks after all that this node has pledged, while the node is on the network.

    goals     which releases that are: those named, and all that a pledged publisher lists
    tend      for each of them: look, decide (standing.py), act, wait; until it is no goal any more
    fetch     as for a person, but nobody is asked: by the policy, within the budget and the quota
    let go    the release is forgotten, and what no other release needs of it is deleted

What a pledge took is kept from gc, and is nobody's pin: the owner may pin it as well, and then it
is never let go.
"""

import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from node.fetch import FetchNode, fetch
from node.jobs import Jobs
from node.messages import Event, FetchParams, Note
from node.pledges.book import Book, Pledge, Taken
from node.pledges.challenge import Lots
from node.pledges.standing import Act, Mine, Standing, Step, Times
from node.pledges.watch import Watch, look, look_here
from node.store import Release, Store
from node.upkeep import release_keys
from p2p.chunking import LEAF_SIZE
from p2p.cid import CID
from p2p.errors import AllodError, NotFound, Refused, StoreError
from p2p.manifest import Manifest, parse_manifest

log = logging.getLogger(__name__)

FIRST: Final = 5.0
"""Seconds before the first look: a node that runs for one command has better things to do."""
LOOKS: Final = 4
"""Releases that are looked at at the same time."""
FETCHES: Final = 2
"""Releases that are fetched at the same time; who has to wait lets another node have its turn."""
PROOF_RATE: Final = 64 << 10
"""Bytes a second that leaves may take which prove others' copies; with more pledges they are asked
for more rarely."""
ONCE: Final = 3
"""Copies of which is looked for where a release is looked at that nobody pledged."""
MAX_GOALS: Final = 10_000
"""Releases that are looked after: each costs some KiB, and a look now and then."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be kept: so many copies, under these pledges."""

    keep: int
    pledges: tuple[Pledge, ...]

    @property
    def hints(self) -> tuple[str, ...]:
        """Whom to ask first."""
        return tuple(dict.fromkeys(peer for pledge in self.pledges for peer in pledge.peers))


class Keeper:
    """Keeps the pledges of a node whose peer id is ``me``; ``run`` does it."""

    def __init__(
        self, node: FetchNode, me: str, book: Book, times: Times, jobs: Jobs | None = None
    ) -> None:
        """``jobs``: where the owner sees what is fetched, and may end it."""
        self._node = node
        self._jobs = jobs or Jobs()
        self._me = me
        self.book = book
        self.times = times
        self.watches: dict[CID, Watch] = {}
        self.goals: Mapping[CID, Goal] = {}
        self._tasks: dict[CID, trio.CancelScope] = {}
        self._woken = trio.Event()
        self._looked = trio.Event()
        self._looks = trio.CapacityLimiter(LOOKS)
        self._fetches = trio.CapacityLimiter(FETCHES)

    # -- which

    async def run(self) -> None:
        """Look after the pledges until cancelled."""
        changed = self._node.store.publishers.changed
        changed.append(self._heard)
        self.book.changed.append(self._wake)
        try:
            await self.book.open()
            await trio.sleep(min(FIRST, self.times.check))
            async with trio.open_nursery() as nursery:
                while True:
                    self._woken = trio.Event()
                    try:
                        self.goals = await self._find_goals()
                        await self._start_and_stop(nursery)
                    except AllodError as exc:
                        log.warning("the pledges are not looked through: %s", exc)
                    with trio.move_on_after(self.times.check):
                        await self._woken.wait()
        except StoreError as exc:
            log.error("no pledge is kept: %s %s", exc, exc.next)
        finally:
            changed.remove(self._heard)
            self.book.changed.remove(self._wake)

    def lost(self, peer: str) -> None:
        """Hear that the last connection to a peer has ended."""
        for watch in self.watches.values():
            watch.lost(peer)

    def next_look(self) -> trio.Event:
        """Return what is set when a release has been looked at, and acted upon."""
        return self._looked

    def publishers(self) -> set[str]:
        """Return those of whom all releases are kept: they are to be followed."""
        return {pledge.id for pledge in self.book.pledges() if pledge.publisher}

    def _wake(self) -> None:
        self._woken.set()

    def _heard(self, publisher: str) -> None:
        if publisher in self.publishers():
            self._woken.set()

    async def _find_goals(self) -> dict[CID, Goal]:
        """Return what is to be kept, by the newest that is known of the publishers."""
        pledges: dict[CID, list[Pledge]] = {}
        for pledge in self.book.pledges():
            for manifest in await named_by(pledge, self._node.store, self.book):
                pledges.setdefault(manifest, []).append(pledge)
        if len(pledges) > MAX_GOALS:
            log.warning("of %d pledged releases %d are looked after", len(pledges), MAX_GOALS)
        return {
            manifest: Goal(max(one.keep for one in under), tuple(under))
            for manifest, under in list(pledges.items())[:MAX_GOALS]
        }

    async def _start_and_stop(self, nursery: trio.Nursery) -> None:
        """Have a task for each goal, and for nothing else; what is no goal is kept no longer."""
        for manifest in self._tasks.keys() - self.goals.keys():
            self._tasks.pop(manifest).cancel()
            watch = self.watches.pop(manifest)
            if watch.fetching is not None:
                watch.fetching.cancel()
        for one in self.book.taken():
            if one.manifest not in self.goals:
                await self.book.drop(one.manifest)
        for manifest, goal in self.goals.items():
            if manifest in self.watches:
                watch = self.watches[manifest]
                if watch.standing.keep != goal.keep:
                    watch.standing.keep = goal.keep
                    watch.wake()
                continue
            standing = Standing(self._me, manifest, goal.keep, self.times)
            watch = self.watches[manifest] = Watch(standing, goal.hints)
            scope = self._tasks[manifest] = trio.CancelScope()
            nursery.start_soon(self._tend, watch, scope, nursery)

    # -- one of them

    async def _tend(self, watch: Watch, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
        with scope:
            await trio.sleep(random.uniform(0, min(self.times.check, 0.05 * len(self.watches))))
            while True:
                watch.woken = trio.Event()
                try:
                    at = await self._look_and_act(watch, nursery)
                except AllodError as exc:
                    watch.trouble = exc.message
                    log.debug("%s is not looked at: %s", watch.standing.manifest, exc)
                    at = trio.current_time() + self.times.check
                self._looked.set()
                self._looked = trio.Event()
                with trio.move_on_at(at):
                    await watch.woken.wait()

    async def _look_and_act(self, watch: Watch, nursery: trio.Nursery) -> float:
        """Look, and do what is to be done; return when to look again."""
        async with self._looks:
            release = await self._statement(watch)
            await self._see(watch, release)
        step = watch.standing.step(trio.current_time(), watch.mine)
        if step.act is Act.FETCH and watch.fetching is None:
            if await self._reserve(watch, release):
                watch.fetching = trio.CancelScope()
                nursery.start_soon(self._fetch, watch, watch.fetching)
            return trio.current_time() + self.times.check
        if step.act is Act.LET_GO:
            await self._let_go(watch, release)
        return self._spread(step)

    def _spread(self, step: Step) -> float:
        """Shift the usual look a little, so that nodes that began together drift apart."""
        wait = step.at - trio.current_time()
        even = wait > 0.9 * self.times.check
        return step.at + (wait * random.uniform(-0.2, 0.0) if even else 0.0)

    async def _see(self, watch: Watch, release: Release) -> None:
        """Look at all copies, this node's own first."""
        store, standing = self._node.store, watch.standing
        cost = sum(one.keep for one in self.goals.values()) * LEAF_SIZE
        standing.prove_every = max(self.times.check, cost / PROOF_RATE)
        whole = await look_here(watch, store)
        watch.mine = replace(watch.mine, whole=whole)
        await look(watch, store, self._node.network())
        release = await store.release(release.manifest_cid) or release
        if whole and not release.pinned and not self.book.is_taken(release.manifest_cid):
            await self._reserve(watch, release)  # it would be gc's to have
        watch.mine = Mine(
            whole=whole,
            taken=self.book.is_taken(release.manifest_cid),
            pinned=release.pinned,
            fetching=watch.fetching is not None,
            may_fetch=await self._may_fetch(watch, release),
        )

    async def _may_fetch(self, watch: Watch, release: Release) -> bool:
        """Say whether policy, budget and what runs already leave room; note why, if not."""
        watch.trouble = ""
        verdict = await self._node.gate.refuses(release.manifest_cid)
        if verdict is not None:
            watch.trouble = f"Refused by {verdict.rule}: {verdict.reason}"
        elif not self.book.is_taken(release.manifest_cid) and self._room(watch, release) is None:
            watch.trouble = f"The budget has no room for its {release.size:,} bytes."
        return not watch.trouble and self._fetches.available_tokens > 0

    def _room(self, watch: Watch, release: Release) -> Pledge | None:
        """Return the first pledge for this release whose budget has room for it."""
        goal = self.goals.get(watch.standing.manifest)
        under = goal.pledges if goal is not None else ()
        return next((one for one in under if self.book.has_room(one, release.size)), None)

    async def _reserve(self, watch: Watch, release: Release) -> bool:
        """Count the release against a pledge before a byte moves; False where none has room."""
        if self.book.is_taken(release.manifest_cid):
            return True
        pledge = self._room(watch, release)
        if pledge is None:
            return False
        return await self.book.take(
            Taken(release.manifest_cid, pledge.id, release.size, time.time())
        )

    # -- doing

    async def _statement(self, watch: Watch) -> Release:
        """Have the statement and the list of files here; the release, which need not be held."""
        store, manifest = self._node.store, watch.standing.manifest
        release = await store.release(manifest)
        if release is not None and watch.lots is not None:
            return release
        read = await read_manifest(self._node, manifest)
        if release is None or read is None:
            params = FetchParams(
                str(manifest), peers=tuple(watch.hints), statement_only=True, pin=None
            )
            await fetch(params, self._node, _hear)
            release, read = await store.release(manifest), await read_manifest(self._node, manifest)
        if release is None or read is None:
            raise NotFound(f"The statement of {manifest} did not stay.")
        watch.lots = Lots([(entry.cid, entry.size) for entry in read.files])
        return release

    async def _fetch(self, watch: Watch, scope: trio.CancelScope) -> None:
        """Make one more copy, here."""
        manifest, standing = watch.standing.manifest, watch.standing
        log.info("%s has too few copies: it is fetched", manifest)
        try:
            with scope:
                params = FetchParams(str(manifest), peers=tuple(watch.hints), pin=None)
                async with self._fetches:
                    job = self._jobs.open("pledge", str(manifest))
                    with self._jobs.at_work(job):
                        job.end_with(await fetch(params, self._node, job.hear))
                    standing.fetched()
        except (Refused, StoreError) as exc:  # nothing more comes of it: others have its room
            watch.trouble = exc.message
            standing.fetch_failed(trio.current_time())
            await self._forget(watch)
        except AllodError as exc:
            watch.trouble = exc.message
            standing.fetch_failed(trio.current_time())
            log.info("%s could not be fetched: %s", manifest, exc)
        finally:
            watch.fetching = None
            watch.wake()

    async def _let_go(self, watch: Watch, release: Release) -> None:
        """Give up a copy that is one too many."""
        log.info("%s has more copies than are wanted: this one goes", release.manifest_cid)
        await self._forget(watch)

    async def _forget(self, watch: Watch) -> None:
        manifest, store = watch.standing.manifest, self._node.store
        read = await read_manifest(self._node, manifest)
        try:
            gone = await store.discard(manifest)
        except NotFound:
            gone = True
        except AllodError as exc:
            log.warning("%s is not let go: %s", manifest, exc)
            return
        watch.standing.many_since = None
        if gone:
            await self.book.drop(manifest)
            watch.mine = Mine()
            if read is not None:
                await self._withdraw(read)

    async def _withdraw(self, manifest: Manifest) -> None:
        """Have nobody sent here any more for what is not here."""
        here = await self._node.store.has_many({entry.cid for entry in manifest.files})
        files = {entry.cid for entry in manifest.files} - here
        gone = {manifest.cid, manifest.root} | files
        self._node.network().withdraw([key for key in release_keys(manifest) if key in gone])

    # -- once

    async def look_once(self, manifest: CID) -> Watch:
        """Look at a release that is not looked after, or was not yet."""
        watch = Watch(Standing(self._me, manifest, ONCE, self.times))
        await self._statement(watch)
        whole = await look_here(watch, self._node.store)
        watch.mine = Mine(whole=whole, taken=self.book.is_taken(manifest))
        await look(watch, self._node.store, self._node.network())
        return watch


async def named_by(pledge: Pledge, store: Store, book: Book) -> list[CID]:
    """Return the releases that a pledge is about, by the newest that is known of the publisher."""
    if pledge.manifest is not None:
        return [pledge.manifest]
    names = await store.publishers.names(pledge.id)
    if names is None:  # not heard of yet: what was taken before stays meanwhile
        return [one.manifest for one in book.taken(pledge.id)]
    return [one.manifest for one in names.entries if one.status is None]


async def read_manifest(node: FetchNode, cid: CID) -> Manifest | None:
    """Return a manifest with its files; None where it, or its list of files, is not here."""
    known = await node.store.manifest(cid)
    if known is None:
        return None
    payload, _, listing = known
    manifest = await trio.to_thread.run_sync(partial(parse_manifest, payload, listing))
    return None if manifest.listing is not None and listing is None else manifest


def _hear(event: Event) -> None:
    """Write down what a person would be told: nobody waits at a terminal."""
    if isinstance(event, Note):
        log.log(logging.WARNING if event.level == "warning" else logging.DEBUG, "%s", event.text)
