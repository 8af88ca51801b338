"""Who has what: announcements, providers, neighbours on the local network.

Knows CIDs, the DHT and mDNS; must not know manifests, files or the store.
Everything it returns is a hint from strangers, never a truth: the fetcher verifies what comes.

- An announcement is paced, confirmed by asking some holders back, tried again until somebody holds
  it, given to new neighbours as they appear, and made again long before it expires.
- ``providers`` asks the network, names each peer once, and leaves out this node and banned peers.
- Joining goes on for ever: bootstrap nodes, peers of an earlier run and the local network are all
  tried until one of them answers, and again when the table has run empty.
"""

import heapq
import logging
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2p.address import Address
from p2p.cid import CID
from p2p.errors import NetworkError, UsageError
from p2p.host import Host
from p2p.kad import Kad, name_of
from p2p.limits import TokenBucket
from p2p.mdns import open_mdns
from p2p.routing import RECORD_TIME, Provider, fairly, place
from p2p.waiting import first_of

log = logging.getLogger(__name__)

ANNOUNCE_AGAIN = RECORD_TIME / 2.4
"""Seconds between announcements of a key: two may fail before the record expires."""
RETRY_FIRST = 2.0
RETRY_LAST = 300.0
"""Seconds before a key that nobody took is tried again: doubling between these."""
RETRY_THIN = 60.0
"""Seconds before a key with fewer holders than ENOUGH is tried again."""
ENOUGH = 3
"""Holders that make a key safe, where the network has so many."""
ANNOUNCE_RATE = 10.0
"""Keys a second: three messages each to 20 peers, within what those peers grant (limits.py)."""
ANNOUNCE_BURST = 30.0
ANNOUNCERS = 4
"""Keys being announced at the same time."""
MOVED_FIRST, MOVED_LAST = 2.0, 600.0
"""Seconds until all is announced anew once more: doubling between these while the addresses of this
node go on changing, which a relay that comes and goes can do to it."""
TIDY = 64
"""Entries of the heap that may be out of date beside as many as there are keys."""
REFRESH_EVERY = 600.0
"""Seconds between two looks at the routing table (the specification's ten minutes)."""
SETTLE = 0.25
"""Seconds after which a new node looks again who is near it."""
SETTLE_AGAIN = (1.0, 4.0, 15.0, 60.0)
"""Further looks, for a network that starts as a whole; then every REFRESH_EVERY."""
JOIN_FIRST = 0.5
JOIN_LAST = 60.0
"""Seconds between two attempts to join: doubling between these."""
MAX_LAN = 256
"""Peers remembered from the local network."""
MAX_LAN_SEEDS = 16
"""Peers of the local network that are tried at a time: whoever shouts loudest is not all."""
MAX_SNAPSHOT = 100
"""Peers kept for the next start."""
FIND_TIME = 15.0
"""Seconds that a search for providers may take."""


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """A peer that is said to have something."""

    peer: str
    addresses: tuple[str, ...]
    """Multiaddrs with ``/p2p/``; none if only the peer id is known."""


@dataclass(slots=True, eq=False)
class _Announcement:
    cid: CID
    key: bytes
    attempts: int = 0
    holders: set[str] = field(default_factory=set)
    radius: int = 0
    confirmed: trio.Event = field(default_factory=trio.Event)
    due: float = 0.0
    """When it is announced next, on trio's clock."""


def dht_key(cid: CID) -> bytes:
    """Return the key of a CID in the DHT: its multihash, whatever the codec."""
    return bytes([cid.hash, len(cid.digest)]) + cid.digest


class Discovery:
    """Announce and find; made by ``open_discovery``."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.kad = Kad(host, server=host.settings.dht == "server")
        self._announcements: dict[bytes, _Announcement] = {}
        self._due: list[tuple[float, int, _Announcement]] = []
        self._count = 0
        self._moves = 0
        self._wake = trio.Event()
        self._ready = trio.Event()
        self._lan: dict[str, list[Address]] = {}
        self._lan_heard = trio.Event()
        self._pace = TokenBucket(ANNOUNCE_RATE, ANNOUNCE_BURST, trio.current_time())
        self._announcers = trio.CapacityLimiter(ANNOUNCERS)

    # --- asking ---

    async def providers(
        self,
        cid: CID,
        *,
        limit: int = 20,
        timeout: float = FIND_TIME,  # noqa: ASYNC109  what came in time is the answer
    ) -> list[ProviderInfo]:
        """Return up to ``limit`` peers that are said to have ``cid``; what is known at the timeout.

        Peers that are connected come first: they cost no dial.
        """
        found: dict[str, Provider] = {}
        with trio.move_on_after(timeout):
            await self.kad.find(dht_key(cid), limit, found)
        infos = []
        usable = (each for each in found.values() if not self.host.banned(each.peer))
        for each in fairly(usable, limit):
            self.host.remember(each.peer, each.addresses)
            texts = tuple(str(address.at(each.peer)) for address in each.addresses)
            infos.append(ProviderInfo(each.peer, texts))
        infos.sort(key=lambda info: not self.host.connected(info.peer))
        return infos

    def lan_peers(self) -> list[ProviderInfo]:
        """Return the nodes that were heard on the local network."""
        return [
            ProviderInfo(peer, tuple(str(address) for address in addresses))
            for peer, addresses in self._lan.items()
            if not self.host.banned(peer)
        ]

    async def wait_ready(self) -> None:
        """Wait until the DHT was joined: somebody answered and our neighbourhood was looked up."""
        await self._ready.wait()

    def snapshot(self) -> list[str]:
        """Return addresses of peers that a next start may join by, the latest first."""
        entries = sorted(self.kad.table.entries(), key=lambda entry: -entry.seen)
        return [str(entry.addresses[0].at(entry.peer)) for entry in entries if entry.addresses][
            :MAX_SNAPSHOT
        ]

    # --- announcing ---

    async def announce(self, keys: Iterable[CID | str]) -> None:
        """Have the network know that this node has ``keys``, until ``withdraw``.

        Returns at once; the work goes on in the background. ``announced`` says how far it is.
        """
        now = trio.current_time()
        for each in keys:
            cid = CID.parse(each) if isinstance(each, str) else each
            key = dht_key(cid)
            if key not in self._announcements:
                self._announcements[key] = announcement = _Announcement(cid, key)
                self._schedule(announcement, now)
        self._wake_up()
        await trio.lowlevel.checkpoint()

    def withdraw(self, keys: Iterable[CID | str]) -> None:
        """Stop announcing ``keys``; the records elsewhere expire by themselves."""
        for each in keys:
            key = dht_key(CID.parse(each) if isinstance(each, str) else each)
            if self._announcements.pop(key, None) is not None:
                self.kad.withdraw(key)
        self._tidy()

    def announcing(self) -> tuple[int, int]:
        """Return how many keys are kept announced, and how many of them somebody has confirmed."""
        all_ = self._announcements.values()
        return len(all_), sum(one.confirmed.is_set() for one in all_)

    def announced(self, cid: CID) -> bool:
        """Say whether somebody has confirmed that it holds our record of ``cid``."""
        announcement = self._announcements.get(dht_key(cid))
        return announcement is not None and announcement.confirmed.is_set()

    async def wait_announced(
        self,
        keys: Iterable[CID],
        *,
        timeout: float,  # noqa: ASYNC109  running out of time is an answer
    ) -> bool:
        """Wait until all of ``keys`` are announced; False if they are not after ``timeout`` s."""
        with trio.move_on_after(timeout):
            for cid in keys:
                announcement = self._announcements.get(dht_key(cid))
                if announcement is None:
                    return False
                await announcement.confirmed.wait()
            return True
        return False

    # --- the background ---

    async def run(self) -> None:
        """Join, stay joined, announce; never returns."""
        async with trio.open_nursery() as nursery:
            for task in (
                self.kad.run,
                self._join,
                self._refresh,
                self._announce_due,
                self._spread,
                self._follow_moves,
            ):
                nursery.start_soon(task)
            if self.host.settings.mdns:
                own = [one for one in self.host.own_addresses() if one.relay is None]
                async with open_mdns(own, self._heard_on_lan):
                    await trio.sleep_forever()

    def _heard_on_lan(self, peer: str, addresses: list[Address]) -> None:
        if peer == self.host.peer_id:
            return
        self._lan.pop(peer, None)
        self._lan[peer] = addresses
        while len(self._lan) > MAX_LAN:
            del self._lan[next(iter(self._lan))]
        self.host.remember(peer, addresses)
        self._lan_heard.set()

    async def _join(self) -> None:
        """Meet whoever is known until the table is no longer empty; again when it is."""
        wait = JOIN_FIRST
        while True:
            if len(self.kad.table) and self._ready.is_set():
                wait = JOIN_FIRST
                with trio.move_on_after(JOIN_LAST):
                    await self._lan_heard.wait()
                self._lan_heard = trio.Event()
                await self._meet(self._lan_seeds())
                continue
            neighbour = self.kad.on_neighbour
            await self._meet([*self._seeds(), *self._lan_seeds()])
            if len(self.kad.table):
                await self._look_home()
                # Those whom we asked now try us; then they can name us to each other.
                await trio.sleep(SETTLE)
                await self._look_home()
                self._ready.set()
                self._wake_up()
            else:
                # Whoever comes to us first ends the wait too: a bootstrap node has no seeds.
                with trio.move_on_after(wait):
                    await first_of(self._lan_heard, neighbour)
                self._lan_heard = trio.Event()
                wait = min(wait * 2, JOIN_LAST)

    def _seeds(self) -> list[Address]:
        seeds = []
        for text in (*self.host.settings.bootstrap, *self.host.settings.known_peers):
            try:
                address = Address.parse(text)
            except UsageError as exc:
                log.warning("a bootstrap address is left out: %s", exc)
                continue
            if address.peer not in (None, self.host.peer_id):
                seeds.append(address)
        return seeds

    def _lan_seeds(self) -> list[Address]:
        return [
            address.at(peer)
            for peer, addresses in self._lan.items()
            if peer not in self.kad.table
            for address in addresses[:1]
        ][:MAX_LAN_SEEDS]

    async def _meet(self, seeds: Iterable[Address]) -> None:
        async def meet(address: Address) -> None:
            assert address.peer is not None
            try:
                await self.host.reach(address.peer, [address])
                await self.kad.meet(address.peer, [address])
            except NetworkError as exc:
                log.debug("%s is no way in: %s", address, exc)

        async with trio.open_nursery() as nursery:
            for seed in seeds:
                nursery.start_soon(meet, seed)

    async def _look_home(self) -> None:
        await self.kad.look_around(self.kad.table.place)

    async def _refresh(self) -> None:
        """Keep the table and the records fresh."""
        await self._ready.wait()
        for pause in SETTLE_AGAIN:
            await trio.sleep(pause)
            await self._look_home()
        while True:
            await trio.sleep(REFRESH_EVERY * random.uniform(0.9, 1.1))
            now = trio.current_time()
            self.kad.records.expire(now)
            await self._look_home()
            for index in self.kad.table.stale(now):
                salt = random.getrandbits(255)
                await self.kad.look_around(self.kad.table.place_in(index, salt))

    def _wake_up(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    async def _announce_due(self) -> None:
        """Announce each key when it is due, so many a second and no more."""
        async with trio.open_nursery() as nursery:
            while True:
                wake, now = self._wake, trio.current_time()
                due = self._due[0][0] if self._due else now + REFRESH_EVERY
                if due > now or not len(self.kad.table):
                    pause = due - now if due > now else REFRESH_EVERY
                    with trio.move_on_after(pause):
                        await first_of(wake, self.kad.on_neighbour)
                    continue
                due, _, first = heapq.heappop(self._due)
                if not self._is_due(first, due):
                    continue
                await self._in_turn(1.0)
                await self._announcers.acquire_on_behalf_of(first)
                nursery.start_soon(self._announce, first)

    async def _in_turn(self, tokens: float) -> None:
        """Wait until the pace allows the next announcement."""
        wait = self._pace.take(trio.current_time(), tokens)
        while wait:
            await trio.sleep(wait)
            wait = self._pace.take(trio.current_time(), tokens)

    async def _announce(self, announcement: _Announcement) -> None:
        moves = self._moves
        try:
            provided = await self.kad.provide(announcement.key)
            if announcement.key not in self._announcements:  # it was withdrawn meanwhile
                self.kad.withdraw(announcement.key)
                return
            announcement.holders = set(provided.holders)
            announcement.radius = provided.radius
            if provided.holders:
                announcement.confirmed.set()
                announcement.attempts = 0
                thin = len(provided.holders) < min(ENOUGH, provided.asked)
                wait = RETRY_THIN if thin else ANNOUNCE_AGAIN
            else:
                wait = min(RETRY_FIRST * 2**announcement.attempts, RETRY_LAST)
                announcement.attempts = min(announcement.attempts + 1, 16)
                log.debug(  # a node that is alone would say it of every file, over and over
                    "nobody of %d peers took the record of %s; again in %g s",
                    provided.asked,
                    announcement.cid,
                    wait,
                )
            moved = moves != self._moves  # some were told where this node was before
            self._schedule(announcement, trio.current_time() + (0.0 if moved else wait))
        finally:
            self._announcers.release_on_behalf_of(announcement)

    def _schedule(self, announcement: _Announcement, due: float) -> None:
        announcement.due = due
        self._count += 1  # two that are due together are told apart by their order
        heapq.heappush(self._due, (due, self._count, announcement))
        self._tidy()
        self._wake_up()

    def _tidy(self) -> None:
        """Let go of what is not due any more, before it is half of the heap: it lies for hours."""
        if len(self._due) > 2 * len(self._announcements) + TIDY:
            self._due = [one for one in self._due if self._is_due(one[2], one[0])]
            heapq.heapify(self._due)

    def _is_due(self, announcement: _Announcement, due: float) -> bool:
        """Say whether it is neither withdrawn, nor due at another time by now."""
        return self._announcements.get(announcement.key) is announcement and announcement.due == due

    async def _follow_moves(self) -> None:
        """Announce everything anew when the addresses at which we are found have changed."""
        pause = MOVED_FIRST
        moved = self.host.on_moved
        while True:
            await moved.wait()
            moved = self.host.on_moved
            self._moves += 1
            now = trio.current_time()
            for announcement in list(self._announcements.values()):
                # Those whose turn has come keep it: else the last ones would never have theirs.
                if announcement.due > now:
                    self._schedule(announcement, now)
            await trio.sleep(pause)
            pause = min(pause * 2, MOVED_LAST) if moved.is_set() else MOVED_FIRST

    async def _spread(self) -> None:
        """Give our records to new neighbours that are near enough to be asked for them."""
        while True:
            await self.kad.on_neighbour.wait()
            newcomers, self.kad.newcomers = self.kad.newcomers, []
            for peer in newcomers:
                for announcement in list(self._announcements.values()):
                    await self._offer(peer, announcement)

    async def _offer(self, peer: str, announcement: _Announcement) -> None:
        if not announcement.confirmed.is_set() or peer in announcement.holders:
            return
        if place(name_of(peer)) ^ place(announcement.key) > announcement.radius:
            return
        await self._in_turn(0.1)  # one message of the sixty that a whole announcement takes
        if await self.kad.tell(peer, announcement.key):
            announcement.holders.add(peer)


@asynccontextmanager
async def open_discovery(host: Host) -> AsyncIterator[Discovery]:
    """Run discovery over a host; leaving stops it."""
    async with trio.open_nursery() as nursery:
        discovery = Discovery(host)
        nursery.start_soon(discovery.run)
        try:
            yield discovery
        finally:
            nursery.cancel_scope.cancel()
