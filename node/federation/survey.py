"""Who answers for a model now: looked for near and far, and asked how busy they are.

Some of those who said yes lately, of those who are near (connected, or on this LAN) and of those
whom the DHT names are asked at once, a handful in all. Each kind has places that the others cannot
take, and the DHT's are asked by turns, so that none who always say that they are busy can hide one
that is free. With the first that has a free slot the others get a
moment more, so that a peer that hangs holds nobody up. Who could not be reached is left alone for a
while; who does not share the model is not asked for it again for some minutes.
"""

import logging
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import trio

from node.federation.asking import Way
from node.federation.choose import Standings
from p2p.cid import CID
from p2p.errors import NetworkError, PeerRefused
from p2p.serving import MAX_SERVING, SERVING, Serving

log = logging.getLogger(__name__)

MAX_ASKED: Final = 8
"""Peers that are asked at a time: enough for a choice, few enough not to be a flood."""
MAX_NEAR: Final = 4
"""Of them such as are only near: who connects to this node has chosen himself."""
MAX_OLD: Final = 4
"""Of them such as said yes before: the others' places are for whoever is new."""
KEPT_FAR: Final = 2
"""Of them places that are kept for those whom the DHT names."""
MAX_BUSY: Final = 3
"""Looks in a row at which a peer may be busy before it is one like any other again."""
MAX_WAYS: Final = 64
"""Peers of each kind that are remembered for a model: some looks' worth."""
ASK_WITHIN: Final = 3.0
"""Seconds in which a peer says how busy it is; one that takes longer is no help."""
FIND_WITHIN: Final = 3.0
"""Seconds for the DHT to name peers."""
LINGER: Final = 0.3
"""Seconds for the others once one with a free slot has answered."""
KNOWN_FOR: Final = 60.0
"""Seconds for which the peers that the DHT named are not looked up again."""
NONE_FOR: Final = 10.0
"""Seconds for which it is not asked again when it named nobody."""
FRESH_FOR: Final = 1.0
"""Seconds for which what peers said of themselves is used again: many requests fail at once where
an engine dies, and one look is enough for them."""
NOT_FOR: Final = 300.0
"""Seconds for which a peer that does not share a model is not asked for it again."""
MAX_REMEMBERED: Final = 1024
"""Models, and refusals, that are remembered."""


class Network(Protocol):
    """What is needed of the network, as ``node.peers.PeerNetwork``."""

    def neighbours(self) -> Sequence[Way]:
        """The nodes on this LAN and those that are connected."""

    async def answering(self, manifest: CID, within: float) -> Sequence[Way]:
        """Nodes that the DHT says answer for a release, those found in so many seconds."""


Offers = dict[str, tuple[Way, Serving]]
"""Who serves a model, and how busy each is."""


@dataclass(slots=True)
class _Known:
    """Who answers for one model, as far as is known."""

    ways: dict[str, Way] = field(default_factory=dict)
    """Who said yes, the latest last."""
    named: dict[str, Way] = field(default_factory=dict)
    """Whom the DHT named."""
    busy: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """At how many looks in a row each was busy that was asked, the latest last."""
    until: float = 0.0
    """When the DHT is asked again."""
    offers: Offers = field(default_factory=dict)
    fresh: float = 0.0
    """Until when ``offers`` are used again."""
    looking: trio.Lock = field(default_factory=trio.Lock)

    def asking(self, peer: str) -> None:
        """It is asked now."""
        self.busy.setdefault(peer, 0)
        self.busy.move_to_end(peer)
        while len(self.busy) > MAX_REMEMBERED:
            self.busy.popitem(last=False)

    def said(self, way: Way, *, free: bool) -> None:
        """It said how busy it is."""
        looks = 0 if free else self.busy.get(way.peer, 0) + 1
        self.busy[way.peer] = looks
        self.ways.pop(way.peer, None)
        if looks < MAX_BUSY:
            self.ways[way.peer] = way
        while len(self.ways) > MAX_WAYS:
            del self.ways[next(iter(self.ways))]

    def old(self) -> list[Way]:
        """Return who said yes before: those that were free first, else in no order."""
        found = list(self.ways.values())
        random.shuffle(found)
        return sorted(found, key=lambda way: self.busy.get(way.peer, 0))

    def far(self) -> list[Way]:
        """Return whom the DHT named: those whom nobody asked, then by how long ago it was."""
        order = {peer: at for at, peer in enumerate(self.busy)}
        return sorted(self.named.values(), key=lambda way: order.get(way.peer, -1))


class Survey:
    """Asks around; remembers who answered."""

    def __init__(self, network: Network, standings: Standings, own: str) -> None:
        self._network = network
        self._standings = standings
        self._own = own
        self._known: OrderedDict[CID, _Known] = OrderedDict()
        self._not: OrderedDict[tuple[str, CID], float] = OrderedDict()

    async def look(self, manifest: CID) -> Offers:
        """Return who serves this release and lets us use it, with how busy each is."""
        known = self.known(manifest)
        async with known.looking:
            if trio.current_time() >= known.fresh:
                known.offers = await _Look(self, manifest).run()
                known.fresh = trio.current_time() + FRESH_FOR
            return dict(known.offers)

    def took(self, peer: str, manifest: CID) -> None:
        """A request went to this peer: it is busier than it said."""
        offers = self.known(manifest).offers
        if peer in offers:
            way, serving = offers[peer]
            offers[peer] = way, replace(serving, busy=serving.busy + 1)

    def known(self, manifest: CID) -> _Known:
        """Return what is known of a model."""
        known = self._known.setdefault(manifest, _Known())
        self._known.move_to_end(manifest)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return known

    def forget(self, peer: str, manifest: CID) -> None:
        """A peer does not answer for this model, or not for us."""
        known = self.known(manifest)
        known.ways.pop(peer, None)
        known.named.pop(peer, None)
        known.offers.pop(peer, None)
        self._not[peer, manifest] = trio.current_time() + NOT_FOR
        while len(self._not) > MAX_REMEMBERED:
            self._not.popitem(last=False)

    def wanted(self, peer: str, manifest: CID) -> bool:
        """Say whether a peer is worth the question."""
        now = trio.current_time()
        return (
            peer != self._own
            and not self._standings.aside(peer, now)
            and now >= self._not.get((peer, manifest), now)
        )

    async def ask(self, way: Way, manifest: CID) -> Serving | None:
        """Ask one peer how busy it is with a model; None where it is no help now."""
        begin = trio.current_time()
        try:
            with trio.fail_after(ASK_WITHIN):
                async with way.open() as session:
                    data = await session.get(f"{SERVING}/{manifest}", limit=MAX_SERVING)
            serving = Serving.decode(data, way.peer)
        except PeerRefused as exc:
            log.debug("%s does not serve %s: %s", way.peer, manifest, exc)
            if exc.status == 429:
                self._standings.busy(way.peer, trio.current_time(), exc.retry_after)
            else:
                self.forget(way.peer, manifest)
            return None
        except (NetworkError, trio.TooSlowError) as exc:
            reason = exc.message if isinstance(exc, NetworkError) else "it did not answer in time"
            self._standings.failed(way.peer, trio.current_time(), reason)
            return None
        self._standings.told(way.peer, trio.current_time() - begin)
        return serving

    async def find(self, manifest: CID) -> Sequence[Way]:
        """Return whom the DHT names, which is asked now and then only."""
        known = self.known(manifest)
        if trio.current_time() >= known.until:
            found = list(await self._network.answering(manifest, FIND_WITHIN))
            random.shuffle(found)
            if found:
                known.named = {way.peer: way for way in found[:MAX_WAYS]}
            known.until = trio.current_time() + (KNOWN_FOR if found else NONE_FOR)
        return known.far()

    def near(self) -> Sequence[Way]:
        """Return the neighbours, in no order."""
        found = list(self._network.neighbours())
        random.shuffle(found)
        return found


class _Look:
    """One look around."""

    def __init__(self, survey: Survey, manifest: CID) -> None:
        self._survey = survey
        self._manifest = manifest
        self._asked: set[str] = set()
        self._found: Offers = {}
        self._scope = trio.CancelScope()

    async def run(self) -> Offers:
        """Ask, until all have answered, or one has a free slot and the others had their moment."""
        known = self._survey.known(self._manifest)
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._invite(nursery, known.old(), MAX_OLD)
                room = MAX_ASKED - KEPT_FAR - len(self._asked)
                self._invite(nursery, self._survey.near(), min(MAX_NEAR, room))
                self._invite(nursery, await self._survey.find(self._manifest), MAX_ASKED)
        return self._found

    def _invite(self, nursery: trio.Nursery, ways: Iterable[Way], most: int) -> None:
        """Ask up to ``most`` of these, as far as there are places."""
        most = min(most, MAX_ASKED - len(self._asked))
        for way in ways:
            if most <= 0:
                return
            if way.peer not in self._asked and self._survey.wanted(way.peer, self._manifest):
                most -= 1
                self._asked.add(way.peer)
                self._survey.known(self._manifest).asking(way.peer)
                nursery.start_soon(self._ask, way)

    async def _ask(self, way: Way) -> None:
        serving = await self._survey.ask(way, self._manifest)
        if serving is None:
            return
        self._found[way.peer] = way, serving
        free = serving.load < 1 and serving.state != "failed"
        self._survey.known(self._manifest).said(way, free=free)
        if free:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + LINGER)
