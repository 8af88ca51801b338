"""The DHT: libp2p's Kademlia, provider records only, in place of ``libp2p.kad_dht.KadDHT``.

Speaks the public specification's messages under Allod's own protocol id; the stock class, given
that id, talks to this one (tests/network/test_kad.py).
Knows the host and the pure half (``p2p.routing``); must not know CIDs.
What it finds is a hint: nothing here is believed, only tried.

Where it differs from the stock class (docs/explanation/libp2p.md says why):

- only peers that answered a question of ours, on this protocol, enter the routing table
- ``provide`` counts the holders that confirmed, ``find`` asks the network and names each peer once
- queries are bounded in number, size and time; a flood of streams is the host's budget to refuse
- a stream to a neighbour is used again for the next question
"""

import logging
import random
import secrets
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import base58
import trio
from libp2p.abc import INetStream
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2p.address import Address, check_peer_id
from p2p.delimited import frame, read_message
from p2p.errors import NetworkError, PeerFault, PeerGone, UsageError
from p2p.host import Host
from p2p.routing import (
    KEY_BITS,
    MAX_ADDRESSES,
    MAX_CLOSER,
    MAX_KEY,
    MAX_PROVIDERS,
    Candidate,
    K,
    Lookup,
    Provider,
    ProviderRecords,
    RoutingTable,
    Search,
    place,
)
from p2p.streams import PeerStream

log = logging.getLogger(__name__)

PROTOCOL = "/allod/kad/1.0.0"
"""Ours alone: peers of the public IPFS DHT must not fill our tables, nor we theirs."""
MAX_MESSAGE = 64 * 1024
"""Bytes of one message: 20 peers with 8 addresses each are under 20 KB."""
QUERY_TIME = 10.0
"""Seconds for one question, the dial included."""
IDLE_TIME = 60.0
"""Seconds that an asker may keep a stream open without asking."""
KEPT_TIME = 20.0
"""Seconds that we keep a stream for the next question."""
MAX_KEPT = 64
"""Streams kept in all."""
PROBES = 8
"""Strangers that are being tried at the same time."""
PROBE_AGAIN = 60.0
"""Seconds before the same stranger is tried again."""
MAX_PROBED = 1024
CHECKED = 3
"""Holders that are asked afterwards whether they really have the record."""

Kind = Message.MessageType


@dataclass(frozen=True, slots=True)
class Provided:
    """How an announcement went."""

    asked: int
    holders: tuple[str, ...]
    """The peers that confirmed that they hold the record."""
    radius: int
    """Distance of the farthest of them: a nearer peer should hold it too."""


class Kad:
    """A DHT node over a host; ``run`` must be running for it to join and stay fresh."""

    def __init__(self, host: Host, *, server: bool) -> None:
        self.table = RoutingTable(name_of(host.peer_id))
        self.records = ProviderRecords()
        self.server = server
        self.joined = trio.Event()
        """Set when the first peer is in the table."""
        self.on_neighbour = trio.Event()
        """Set, and replaced, each time that a peer enters the table."""
        self.newcomers: list[str] = []
        """Peers that entered the table and that nobody has looked at yet; the reader clears it."""
        self.counts: Counter[str] = Counter()
        """What was done, by a word: lookups; questions that were answered, or failed."""
        self._host = host
        self._kept: OrderedDict[str, tuple[PeerStream, float]] = OrderedDict()
        self._probed: OrderedDict[str, float] = OrderedDict()
        self._probes = trio.CapacityLimiter(PROBES)
        self._strangers_in, self._strangers = trio.open_memory_channel[str](PROBES)

    async def run(self) -> None:
        """Answer queries (in server mode) and try strangers that ask; never returns."""
        if self.server:
            self._host.set_stream_handler(PROTOCOL, self._serve)
        async with trio.open_nursery() as nursery:
            async for peer in self._strangers:
                nursery.start_soon(self._probe_quietly, peer)

    # --- asking ---

    async def meet(self, peer: str, addresses: Iterable[Address] = ()) -> None:
        """Ask a peer for its neighbours: it enters the table if it answers.

        Raises NetworkError when it can't be reached or is no DHT server.
        """
        await self._ask(peer, addresses, _find_node(name_of(self._host.peer_id)))

    async def lookup(self, where: bytes) -> list[str]:
        """Return the k peers nearest to the place of ``where`` that answered, nearest first."""
        found = await self._lookup(place(where), _find_node(where))
        return [each.peer for each in found]

    async def look_around(self, where: int) -> None:
        """Look up a place, to fill the table there.

        A question carries a key and not a place, and no key is known whose hash is ``where``; so
        the key is random and only our own choice of whom to ask follows the place.
        """
        await self._lookup(where, _find_node(secrets.token_bytes(34)))

    async def provide(self, key: bytes) -> Provided:
        """Tell the k peers nearest to ``key`` that we have it, and ask some of them back."""
        found = await self._lookup(place(key), _find_node(key))
        holders: list[str] = []

        async def tell(peer: str) -> None:
            if await self.tell(peer, key):
                holders.append(peer)

        async with trio.open_nursery() as nursery:
            for each in found:
                nursery.start_soon(tell, each.peer)
        distances = {each.peer: each.distance for each in found}
        holders.sort(key=lambda peer: distances[peer])
        for peer in holders[:CHECKED]:
            if not await self._holds(peer, key):
                holders.remove(peer)
        if self.server:
            own = [address.at(None) for address in self._host.own_addresses()]
            self.records.add(key, self._host.peer_id, own, trio.current_time())
        full = len(found) >= K and bool(holders)
        radius = max(distances[peer] for peer in holders) if full else 1 << KEY_BITS
        return Provided(len(found), tuple(holders), radius)

    def withdraw(self, key: bytes) -> None:
        """Name this node no more to those who ask it for ``key``."""
        self.records.remove(key, self._host.peer_id)

    async def tell(self, peer: str, key: bytes) -> bool:
        """Give one peer the record that we have ``key``; True when it confirms."""
        message = Message(type=Kind.ADD_PROVIDER, key=key)
        own = message.providerPeers.add()
        own.id = name_of(self._host.peer_id)
        own.addrs.extend(bytes(address.at(None)) for address in self._host.own_addresses())
        try:
            answer = await self._ask(peer, (), message)
        except NetworkError as exc:
            log.debug("%s did not take a provider record: %s", peer, exc)
            return False
        return answer.type == Kind.ADD_PROVIDER

    async def find(self, key: bytes, limit: int, found: dict[str, Provider]) -> None:
        """Fill ``found`` with peers that are said to provide ``key``, until ``limit`` are there.

        The network is asked even if records are here: those of a neighbour may be newer.
        Cancelled, it leaves in ``found`` what had come.
        """
        search = Search(found, limit)
        records = self.records.get(key, trio.current_time())
        self._heard(search, [(record.peer, record.addresses) for record in records])
        await self._lookup(place(key), Message(type=Kind.GET_PROVIDERS, key=key), search)

    def _heard(self, search: Search, named: list[tuple[str, Sequence[Address]]]) -> None:
        """Note the providers of one answer, in any order, so that nobody is always left out."""
        others = [each for each in named if each[0] != self._host.peer_id]
        random.shuffle(others)
        search.hear(others)

    async def _lookup(
        self,
        where: int,
        question: Message,
        search: Search | None = None,
    ) -> list[Candidate]:
        """Run one lookup; with a search, stop when the network has named enough providers."""
        self.counts["lookups"] += 1
        lookup = Lookup(where, self._host.peer_id)
        for entry in self.table.closest(where):
            lookup.hear(entry.peer, name_of(entry.peer), entry.addresses)

        async def ask(peer: str, addresses: Sequence[Address]) -> None:
            try:
                answer = await self._ask(peer, addresses, question)
            except NetworkError as exc:
                log.debug("a lookup goes on without %s: %s", peer, exc)
                lookup.failed(peer)
            else:
                for closer, its in _peers(answer.closerPeers, MAX_CLOSER):
                    reachable = [address for address in its if self._host.reaches(address)]
                    if reachable or self._host.known_addresses(closer):
                        lookup.hear(closer, name_of(closer), reachable)
                if search is not None:
                    self._heard(search, list(_peers(answer.providerPeers, MAX_PROVIDERS)))
                lookup.answered(peer)
            if search is not None and search.done:
                nursery.cancel_scope.cancel()
            advance()

        def advance() -> None:
            for each in lookup.next():
                nursery.start_soon(ask, each.peer, each.addresses)

        async with trio.open_nursery() as nursery:
            advance()
        self.table.looked_up(where, trio.current_time())
        return lookup.results()

    async def _holds(self, peer: str, key: bytes) -> bool:
        try:
            answer = await self._ask(peer, (), Message(type=Kind.GET_PROVIDERS, key=key))
        except NetworkError:
            return False
        own = name_of(self._host.peer_id)
        return any(each.id == own for each in answer.providerPeers)

    async def _ask(self, peer: str, addresses: Iterable[Address], question: Message) -> Message:
        """Ask one peer one question; it enters the table if it answers. Raises NetworkError."""
        if self._host.banned(peer):
            raise PeerGone(f"{peer} is banned.", peer=peer)
        try:
            with trio.fail_after(QUERY_TIME):
                answer = await self._ask_in_time(peer, addresses, question)
        except trio.TooSlowError as exc:
            self.counts["failed"] += 1
            self.table.failed(peer)
            raise PeerGone(f"{peer} gave no answer in {QUERY_TIME:g} s.", peer=peer) from exc
        except NetworkError:
            self.counts["failed"] += 1
            self.table.failed(peer)
            raise
        self.counts["answered"] += 1
        self._note(peer, addresses)
        return answer

    async def _ask_in_time(
        self, peer: str, addresses: Iterable[Address], question: Message
    ) -> Message:
        kept = self._kept.pop(peer, None)
        if kept is not None:
            stream, since = kept
            if trio.current_time() - since < KEPT_TIME:
                try:
                    return await self._exchange(peer, stream, question)
                except PeerGone:
                    log.debug("%s had closed the kept stream", peer)
            else:
                await stream.abort()
        if not self._host.connected(peer):
            await self._host.reach(peer, addresses)
        stream = await self._host.open_stream(peer, PROTOCOL)
        return await self._exchange(peer, stream, question)

    async def _exchange(self, peer: str, stream: PeerStream, question: Message) -> Message:
        good = False
        try:
            await stream.send_all(frame(question))
            answer = await _message(stream, peer)
            if answer is None:
                raise PeerGone(f"{peer} closed the stream instead of answering.", peer=peer)
            if answer.type != question.type:
                raise PeerFault(f"{peer} gave an answer of another kind.", peer=peer)
            good = True
        except trio.BrokenResourceError as exc:
            raise PeerGone(f"{peer} reset the stream instead of answering.", peer=peer) from exc
        finally:
            if not good:
                await stream.abort()
        while len(self._kept) >= MAX_KEPT:
            _, (oldest, _) = self._kept.popitem(last=False)
            await oldest.abort()
        if peer in self._kept:  # two questions at once: one stream is enough to keep
            await stream.aclose()
        else:
            self._kept[peer] = (stream, trio.current_time())
        return answer

    def _note(self, peer: str, addresses: Iterable[Address]) -> None:
        """Enter a peer that has just answered into the table."""
        given = [address.at(None) for address in addresses if self._host.reaches(address)]
        known = dict.fromkeys([*self._host.known_addresses(peer), *given])
        if self.table.answered(peer, name_of(peer), list(known), trio.current_time()):
            self.newcomers.append(peer)
            del self.newcomers[:-K]  # whoever comes in crowds is found by the next lookup
            self.joined.set()
            self.on_neighbour.set()
            self.on_neighbour = trio.Event()

    # --- answering ---

    async def _serve(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        account = self._host.book.account(peer, trio.current_time())
        ours = PeerStream(stream, account)
        self._stranger(peer)
        while True:
            with trio.move_on_after(IDLE_TIME) as scope:
                message = await _message(ours, peer)
            if scope.cancelled_caught or message is None:
                break
            if not account.dht_message(trio.current_time()):
                await ours.abort()
                return
            answer = self._answer(peer, message)
            if answer is None:  # no room for its records: no fault, and no confirmation
                await ours.abort()
                return
            await ours.send_all(frame(answer))
        await ours.aclose()

    def _answer(self, peer: str, message: Message) -> Message | None:
        """Return the answer, or None where a record is refused; PeerFault for nonsense."""
        now = trio.current_time()
        if message.type == Kind.PING:
            return Message(type=Kind.PING)
        if not 0 < len(message.key) <= MAX_KEY or message.type == Kind.PUT_VALUE:
            raise PeerFault("A DHT message that no node sends.", peer=peer)
        answer = Message(type=message.type, key=message.key)
        if message.type == Kind.ADD_PROVIDER:
            for holder, addresses in _peers(message.providerPeers, MAX_CLOSER):
                if holder == peer and not self.records.add(message.key, peer, addresses, now):
                    return None
            return answer
        if message.type == Kind.GET_PROVIDERS:
            for record in self.records.get(message.key, now):
                _add_peer(answer.providerPeers.add(), record.peer, record.addresses)
        for entry in self.table.closest(place(message.key)):
            if entry.peer != peer:
                _add_peer(answer.closerPeers.add(), entry.peer, entry.addresses)
        return answer

    def _stranger(self, peer: str) -> None:
        """Have a peer that asks us tried: is it a server too? Not now if many are being tried."""
        now = trio.current_time()
        if peer in self.table or now - self._probed.get(peer, float("-inf")) < PROBE_AGAIN:
            return
        try:
            self._strangers_in.send_nowait(peer)
        except trio.WouldBlock:
            return
        self._probed[peer] = now
        self._probed.move_to_end(peer)
        while len(self._probed) > MAX_PROBED:
            self._probed.popitem(last=False)

    async def _probe_quietly(self, peer: str) -> None:
        async with self._probes:
            try:
                await self.meet(peer)
            except NetworkError as exc:
                log.debug("%s asks but does not answer: %s", peer, exc)


def name_of(peer: str) -> bytes:
    """Return the bytes of a peer id, which its place in the keyspace is the hash of."""
    return base58.b58decode(peer)


def _find_node(key: bytes) -> Message:
    return Message(type=Kind.FIND_NODE, key=key)


async def _message(stream: PeerStream, peer: str) -> Message | None:
    """Read one message, None at a clean end; PeerFault when it is malformed or too long."""
    return await read_message(stream, Message, limit=MAX_MESSAGE, peer=peer, name="DHT message")


def _peers(raw: Iterable[Message.Peer], count: int) -> Iterable[tuple[str, list[Address]]]:
    """Yield the well-formed peers of a message, up to ``count``, with their usable addresses."""
    for each, _ in zip(raw, range(count), strict=False):
        if not 34 <= len(each.id) <= 44:
            continue
        try:
            peer = check_peer_id(base58.b58encode(each.id).decode("ascii"))
        except UsageError:
            continue
        addresses = []
        for data, _ in zip(each.addrs, range(MAX_ADDRESSES * 2), strict=False):
            try:
                address = Address.from_bytes(data)
            except UsageError:
                continue  # QUIC, relays and nonsense alike
            if address.peer in (None, peer):
                addresses.append(address.at(None))
        yield peer, addresses[:MAX_ADDRESSES]


def _add_peer(slot: Message.Peer, peer: str, addresses: Iterable[Address]) -> None:
    slot.id = name_of(peer)
    slot.addrs.extend(bytes(address) for address in addresses)
    slot.connection = Message.ConnectionType.CAN_CONNECT
