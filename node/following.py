"""Following: what publishers say reaches this node though nobody asks for it.

Followed are the publishers of all releases that are held, those that the owner has a name for, and
those to whom something was pledged.
Each has a task and a crew of sources of its own, who are asked every ``FOLLOW_EVERY`` seconds; what
is new is kept, and ``store.publishers.changed`` hear of it, so that a release that was taken back
is no longer given to others.
Who follows a publisher holds what it says and passes it on, so it is announced as a holder.

This machine's own publishers speak here: what their keys have signed, by whatever command, is taken
into the store, from which others are answered; and before it expires it is signed anew.
"""

import logging
import random
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Final

import trio

from node.crew import Crew, Network
from node.messages import Event, Note
from node.naming import NamingNode, refresh
from p2p.errors import AllodError, NetworkError, NotFound, UsageError
from p2p.naming import Metadata
from p2p.references import publisher_cid

log = logging.getLogger(__name__)

FOLLOW_EVERY: Final = 20.0
"""Seconds between two questions to the sources of a publisher: what it takes back is to be known
within a minute, and a question is two requests of some hundred bytes."""
FIRST: Final = 1.0
"""Seconds before the first: a node that runs for one command has better things to do."""
OWN_EVERY: Final = 5.0
"""Seconds between two looks at this machine's own publishers: a few small files."""
LOOK_EVERY: Final = 60.0
"""Seconds between two searches for more sources of one publisher, ..."""
LOOK_SPREAD: Final = 1.0
"""... and so many more for each that is followed: a search costs the DHT some messages."""
SPREAD: Final = 0.1
"""Seconds for each publisher over which the first questions are spread: not all at once."""
CREW_TIME: Final = 3600.0
"""Seconds for which a crew is kept: then those whom it had done with get another chance."""


class Following:
    """Keeps a node's store up to what publishers say; ``run`` does it."""

    def __init__(
        self,
        node: NamingNode,
        network: Network,
        *,
        every: float = FOLLOW_EVERY,
        also: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """``also``: further publishers that are to be followed."""
        self._also = also
        self._node = node
        self._network = network
        self._every = every
        self._tasks: dict[str, trio.CancelScope] = {}
        self._woken = trio.Event()
        self._own: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Follow until cancelled."""
        changed = self._node.store.publishers.changed
        changed.append(self._heard)
        try:
            await trio.sleep(min(FIRST, self._every))
            async with trio.open_nursery() as nursery:
                await self._speak()
                nursery.start_soon(self._keep_speaking)
                while True:
                    await self._start_and_stop(nursery)
                    self._woken = trio.Event()
                    with trio.move_on_after(self._every):
                        await self._woken.wait()
        finally:
            changed.remove(self._heard)

    def _heard(self, publisher: str) -> None:
        if publisher not in self._tasks:
            self._woken.set()

    # -- others

    async def _start_and_stop(self, nursery: trio.Nursery) -> None:
        """Have a task for each publisher that is to be followed, and for no other."""
        wanted = {release.publisher for release in await self._node.store.releases()}
        wanted |= set(self._node.petnames().values()) | set(self._also())
        wanted = {publisher for publisher in wanted - self._own if _is_id(publisher)}
        for publisher in self._tasks.keys() - wanted:
            self._tasks.pop(publisher).cancel()
        for publisher in wanted - self._tasks.keys():
            scope = self._tasks[publisher] = trio.CancelScope()
            nursery.start_soon(self._follow, publisher, scope)

    async def _follow(self, publisher: str, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(random.uniform(0, min(self._every, SPREAD * len(self._tasks))))
            while True:
                with trio.move_on_after(CREW_TIME):
                    look = LOOK_EVERY + LOOK_SPREAD * len(self._tasks)
                    key = publisher_cid(publisher)
                    crew = Crew(self._network, _log, keys=[key], every=min(look, 3 * self._every))
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(crew.recruit)
                        await self._ask_again_and_again(publisher, crew)

    async def _ask_again_and_again(self, publisher: str, crew: Crew) -> None:
        told = False
        while True:
            try:
                await refresh(publisher, self._node.store, crew, leave=True)
                if not told:
                    self._network.announce([publisher_cid(publisher)])
                    told = True
            except (NetworkError, NotFound) as exc:
                log.debug("nothing of %s: %s", publisher, exc)
            except AllodError as exc:  # one publisher's lies, or a disk: the others are followed on
                log.warning("%s is not followed: %s", publisher, exc)
            await trio.sleep(self._every * random.uniform(0.8, 1.2))

    # -- this machine's own publishers

    async def _keep_speaking(self) -> None:
        while True:
            await trio.sleep(min(OWN_EVERY, self._every))
            await self._speak()

    async def _speak(self) -> None:
        """Take in what this machine's publishers say, signed anew where it is time."""
        own = set()
        for name in await trio.to_thread.run_sync(self._node.keyring.names):
            try:
                publisher = await self._speak_for(name)
                if publisher is not None:
                    own.add(publisher)
            except AllodError as exc:
                log.warning("what the publisher %s says is not renewed: %s", name, exc)
        for publisher in own - self._own:
            self._network.announce([publisher_cid(publisher)])
        self._own = frozenset(own)

    async def _speak_for(self, name: str) -> str | None:
        """Return the publisher's id; None for one that others have still to sign for."""

        def read() -> tuple[str, Metadata] | None:
            repository = self._node.keyring.repository(name)
            if not repository.founded:
                return None
            repository.renew(datetime.now(UTC))
            return repository.id, repository.metadata()

        found = await trio.to_thread.run_sync(read)
        if found is None:
            return None
        await self._node.store.publishers.put(*found)
        return found[0]


def _is_id(text: str) -> bool:
    """Whether it is one: what the owner wrote as a petname's id need not be."""
    try:
        publisher_cid(text)
    except UsageError:
        return False
    return True


def _log(event: Event) -> None:
    """What a fetch would show to a person goes to the log here."""
    if isinstance(event, Note):
        log.log(logging.WARNING if event.level == "warning" else logging.DEBUG, "%s", event.text)
