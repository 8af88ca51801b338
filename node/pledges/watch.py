"""What is known of one release, and a look at all who say that they have it.

A look asks those who had it before; now and then, or where copies lack, all who are near, too, and
then those whom the DHT names. Each is asked what it has, which is some hundred bytes, and those on
whom it may hang for a leaf: a MiB at most. Whoever sends wrong bytes is banned, as in a fetch.
"""

import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from node.pledges.challenge import Lots, ask_have, ask_leaf, own_leaf
from node.pledges.standing import Copy, Mine, Standing
from p2p.errors import AllodError, BadBytes, NetworkError, PeerRefused

if TYPE_CHECKING:
    from node.crew import Network
    from node.store import Store
    from p2p.sources import Source

log = logging.getLogger(__name__)

MAX_ASKED: Final = 32
"""Peers that are asked in one look; who is known to have a copy comes first."""
ASKED_AT_ONCE: Final = 8
"""Of them at the same time."""
ASK_WITHIN: Final = 15.0
"""Seconds in which a peer must have said what it has and given a leaf."""
SEARCH_WITHIN: Final = 10.0
"""Seconds in which the DHT is searched for more of them."""
MAX_LATE: Final = 3600.0
"""Seconds between two looks that make answers stand for longer; a machine may have slept."""
WIDE_EVERY: Final = 6
"""Looks of which one searches for copies that are not known yet, though there are enough."""
MORE: Final = 2
"""Copies that are asked for a leaf beyond those that are wanted: so it is seen that there are too
many, and nobody has to prove himself who is not needed."""


@dataclass(eq=False)
class Watch:
    """One release that is kept, or looked at once: ``standing`` is what is decided by."""

    standing: Standing
    hints: Sequence[str] = ()
    lots: Lots | None = None
    mine: Mine = field(default_factory=Mine)
    sources: "dict[str, Source]" = field(default_factory=dict)
    looks: int = 0
    looked: float | None = None
    """When the last look was over."""
    searched: float = -math.inf
    """When the DHT was last searched."""
    trouble: str = ""
    """Why this node cannot do its part, if it cannot."""
    fetching: trio.CancelScope | None = None
    woken: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        """Have it looked at now."""
        self.woken.set()

    def lost(self, peer: str) -> None:
        """Note that the connection to a peer has ended: perhaps it is gone."""
        copy = self.standing.copies.get(peer)
        if copy is not None and copy.whole and not copy.failed:
            self.standing.failed(peer, "its connection ended")
            self.wake()


async def look(watch: Watch, store: "Store", network: "Network") -> None:
    """Ask all whom it concerns; ``watch.lots`` must be there.

    The DHT takes seconds, and is asked only where those who are known or near are not enough.
    """
    assert watch.lots is not None
    standing, begin = watch.standing, trio.current_time()
    wide = watch.looks % WIDE_EVERY == 0
    found = _known(watch, network, wide=wide)
    await _ask(found, watch, watch.lots, store, network)
    if wide or (_few(watch) and begin >= watch.searched + standing.times.check):
        watch.searched = begin
        more: dict[str, Source] = {}
        with trio.move_on_after(SEARCH_WITHIN):
            try:
                more = {one.peer: one for one in await network.providers(standing.manifest)}
            except NetworkError as exc:
                log.debug("the DHT could not be asked: %s", exc)
        more = {peer: one for peer, one in more.items() if peer not in found}
        more.pop(standing.me, None)
        await _ask(more, watch, watch.lots, store, network)
    watch.sources = {peer: one for peer, one in watch.sources.items() if peer in standing.copies}
    watch.looks += 1
    standing.took = trio.current_time() - begin
    if watch.looked is not None:  # answers stand for as long as it really takes
        standing.every = min(begin - watch.looked, MAX_LATE) + standing.took
    watch.looked = trio.current_time()


def _few(watch: Watch) -> bool:
    """Say whether there are fewer copies than are wanted, as far as is known now."""
    count = len(watch.standing.healthy(trio.current_time())) + watch.mine.whole
    return count < watch.standing.keep


def _known(watch: Watch, network: "Network", *, wide: bool) -> "dict[str, Source]":
    """Return those who had it; where copies lack, or in a ``wide`` look, all who are near, too.

    Those who are out are asked in a wide look only: they may be back, and mostly time out.
    """
    standing = watch.standing
    copies = standing.copies.values()
    out = {one.peer for one in copies if one.failed >= standing.times.fails}
    good = {one.peer for one in copies if one.whole} - out
    found = {peer: source for peer, source in watch.sources.items() if peer in good}
    if wide or _few(watch):
        others = list(network.neighbours())
        random.shuffle(others)
        for source in [*map(network.hinted, watch.hints), *watch.sources.values(), *others]:
            if wide or source.peer not in out:
                found.setdefault(source.peer, source)
    found.pop(standing.me, None)
    return found


async def _ask(
    found: "Mapping[str, Source]", watch: Watch, lots: Lots, store: "Store", network: "Network"
) -> None:
    """Ask these what they have, and those on whom it may hang for a leaf."""
    standing = watch.standing
    limit = trio.CapacityLimiter(ASKED_AT_ONCE)

    async def hear(source: "Source") -> None:
        async with limit:
            if await _hear(source, watch) is not None:
                watch.sources[source.peer] = source

    async def prove(copy: Copy) -> None:
        async with limit:
            await _prove(watch.sources[copy.peer], lots, watch, store, network)

    async with trio.open_nursery() as nursery:
        for source in list(found.values())[:MAX_ASKED]:
            nursery.start_soon(hear, source)
    now = trio.current_time()
    whole = [copy for peer, copy in standing.copies.items() if copy.whole and peer in watch.sources]
    # Those who stand first: on them hangs who may let go. Who failed stands behind.
    whole.sort(key=lambda copy: (copy.failed >= standing.times.fails, copy.order))
    async with trio.open_nursery() as nursery:
        for number, copy in enumerate(whole):
            doubted = 0 < copy.failed < standing.times.fails
            asked = copy.peer in found and now - copy.answered < ASK_WITHIN
            if asked and (number < standing.keep + MORE or doubted) and standing.due(copy, now):
                nursery.start_soon(prove, copy)


async def _hear(source: "Source", watch: Watch) -> Copy | None:
    """Ask a peer what it has; its copy, if it says that it has all."""
    standing, peer = watch.standing, source.peer
    try:
        with trio.fail_after(ASK_WITHIN):
            async with source.open() as session:
                had = await ask_have(session, standing.manifest, peer)
    except PeerRefused as exc:
        if exc.status != 429:  # else it is busy, and counts as long as its last answer does
            standing.failed(peer, exc.message, final=exc.status == 410)
        return None
    except NetworkError as exc:
        standing.failed(peer, exc.message)
        return None
    except trio.TooSlowError:
        standing.failed(peer, f"it did not answer within {ASK_WITHIN:g} s")
        return None
    if had is None:
        standing.lacks(peer)
        return None
    copy = standing.answered(peer, trio.current_time(), whole=had.whole, have=had.have)
    return copy if had.whole else None


async def _prove(
    source: "Source", lots: Lots, watch: Watch, store: "Store", network: "Network"
) -> None:
    """Have a peer prove that it has what it says."""
    standing, peer = watch.standing, source.peer
    try:
        with trio.fail_after(ASK_WITHIN):
            async with source.open() as session:
                await ask_leaf(session, lots, store, peer)
    except BadBytes as exc:
        standing.failed(peer, exc.message, final=True)
        network.ban(peer, exc.message)
    except NetworkError as exc:
        if not isinstance(exc, PeerRefused) or exc.status != 429:
            standing.failed(peer, exc.message)
    except trio.TooSlowError:
        standing.failed(peer, f"it gave no leaf within {ASK_WITHIN:g} s")
    except AllodError as exc:  # our disk: no fault of the peer's, and nothing is proved
        log.warning("a leaf of %s could not be checked: %s", standing.manifest, exc)
    else:
        standing.proved(peer, trio.current_time())


async def look_here(watch: Watch, store: "Store") -> bool:
    """Say whether this node's own copy is whole, and, by a leaf, good; else have it mended.

    What is damaged is set aside by the store, and the release is not whole any more.
    """
    manifest = watch.standing.manifest
    release = await store.release(manifest)
    if release is None or not release.complete or watch.lots is None:
        return False
    if await own_leaf(watch.lots, store):
        return True
    log.warning("this node's copy of %s is damaged: all of it is looked at", manifest)
    try:
        await store.verify(manifest)
    except AllodError as exc:
        log.warning("%s could not be looked at: %s", manifest, exc)
        return False
    release = await store.release(manifest)
    return release is not None and release.complete
