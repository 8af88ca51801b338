"""Hearing what others say of the releases that are held here, though nobody asks for it.

Whoever endorses a release keeps his word beside it, and is found as one who holds it. So now and
then a few of those who hold a release are asked about it; what is new is kept and passed on.
What others say changes nothing about a release by itself; so this has time, unlike what its
publisher says of it.
"""

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

import trio

from node.crew import Crew
from node.messages import Event
from node.statement import hear_others
from node.store import Release, Store
from p2p.errors import AllodError

if TYPE_CHECKING:
    from node.crew import Network

log = logging.getLogger(__name__)

HEAR_EVERY: Final = 600.0
"""Seconds in which each release that is held is asked about once: a search and three requests."""
FIRST: Final = 5.0
"""Seconds until the first: a node that runs for one command has better things to do."""
LOOK_FOR: Final = 20.0
"""Seconds in which holders of a release are looked for."""


async def keep_hearing(
    store: Store,
    network: "Network",
    *,
    trusted: Callable[[], Collection[str]] = tuple,
    every: float = HEAR_EVERY,
) -> None:
    """Ask about one release after the other, evenly over the time, until cancelled.

    ``trusted`` gives the publishers whose word goes before that of strangers.
    """
    await trio.sleep(min(FIRST, every))
    while True:
        releases = await store.releases()
        for release in releases:
            try:
                await hear(release, store, network, trusted())
            except AllodError as exc:  # one damaged record must not silence the others
                log.warning("nobody is heard about %s: %s", release.manifest_cid, exc)
            await trio.sleep(every / len(releases))
        if not releases:
            await trio.sleep(every)


async def hear(
    release: Release, store: Store, network: "Network", trusted: Collection[str] = ()
) -> int:
    """Ask holders of a release what they know of it; return how many statements are new here."""
    cid, new = release.manifest_cid, 0
    crew = Crew(network, _ignore, keys=[cid])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crew.recruit)
        with trio.move_on_after(LOOK_FOR):
            while not crew.rounds:
                await crew.wait_change()
        new = await hear_others(cid, release.publisher, store, crew, trusted)
        nursery.cancel_scope.cancel()
    if new:
        log.info("%d new statements about %s", new, cid)
    return new


def _ignore(event: Event) -> None:
    """Nobody waits for this: what a fetch would show to a person goes nowhere."""
