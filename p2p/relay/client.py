"""Places at relays, and circuits through them: the client's side of circuit relay v2.

Knows which relays may be asked and when; must not know who asks for a circuit, or why.

A place is kept at a few relays while this node can't be reached otherwise: those that the owner
named, else those among the connected peers that offer it and that have a public address. Others
are told of it by the host's addresses, and whoever dials one of these comes in through ``called``.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetStream
from libp2p.network.connection.raw_connection import RawConnection

from p2p.address import Address, Reach
from p2p.errors import NetworkError, NoSources, PeerFault, PeerRefused
from p2p.host import Host
from p2p.relay.circuit import circuit_connection
from p2p.relay.messages import (
    HOP,
    STOP,
    HopMessage,
    Status,
    StopMessage,
    addresses_of,
    named,
    peer_of,
    receive,
    send,
)
from p2p.streams import PeerStream

log = logging.getLogger(__name__)

MOST_PLACES = 2
"""Relays at which a place is kept: one may go, and nobody needs many."""
LOOK_AGAIN = 60.0
"""Seconds between two looks for relays if nothing changes before."""
FIRST_LOOK = 1.0
"""Seconds until the next look while there are too few places, doubled up to LOOK_AGAIN."""
RENEW_AT = 0.75
"""The part of a place's time after which it is renewed."""
ASK_TIME = 20.0
"""Seconds to be given a place, the dial included: who is slower keeps us from asking others."""
SHORTEST, LONGEST = 30.0, 24 * 3600.0
"""Seconds that a place is taken to last, whatever the relay says."""


@dataclass(slots=True)
class Place:
    """A place at one relay."""

    relay: str
    addresses: tuple[Address, ...]
    """Where the relay is dialled, each with its peer id."""
    renew: float
    """When to ask again, on trio's clock."""
    told: bool = True
    """Whether others are told of it. One that is not needed any longer is kept to its end all the
    same: somebody may have heard of it a moment ago."""


Accept = Callable[[RawConnection, str, str], Awaitable[None]]
"""Makes a connection of a circuit, and stays until it has ended; given the relay and the peer."""


@dataclass
class RelayClient:
    """The places of one host."""

    host: Host
    relays: tuple[Address, ...]
    """Those that the owner named; none: any peer that offers it."""
    wanted: Callable[[], bool]
    """Whether places are needed now."""
    accept: Accept
    met: Callable[[str], Awaitable[None]]
    """What is done with a relay before a place or a circuit is asked of it."""
    places: dict[str, Place] = field(default_factory=dict)
    _again: dict[str, float] = field(default_factory=dict)
    """When a relay that refused may be asked again."""
    _changed: trio.Event = field(default_factory=trio.Event)

    def circuits(self) -> list[Address]:
        """Where this node can be reached through relays."""
        return [
            address.through(self.host.peer_id)
            for place in self.places.values()
            if place.told
            for address in place.addresses
        ]

    async def run(self) -> None:
        """Keep places while they are wanted; never returns."""
        self.host.set_stream_handler(STOP, self._called)
        self.host.parted.append(self._lost)
        self.host.network.needed.append(self.places.__contains__)
        wait = FIRST_LOOK
        while True:
            self._changed = trio.Event()
            if self.wanted():
                await self._renew()
                await self._ask_more()
            else:
                self._retire()
            enough = not self.wanted() or len(self.places) >= MOST_PLACES
            wait = LOOK_AGAIN if enough else min(wait * 2, LOOK_AGAIN)
            due = min((place.renew for place in self.places.values()), default=float("inf"))
            with trio.move_on_after(min(wait, max(0.0, due - trio.current_time()))):
                await self._changed.wait()
                wait = FIRST_LOOK
                await trio.sleep(FIRST_LOOK * random.random())  # a relay's end is news to many

    def look_again(self) -> None:
        """Have the need for places looked at now."""
        self._changed.set()

    async def through(self, address: Address, peer: str) -> RawConnection:
        """Open a circuit to ``peer`` at ``address``, which is at a relay; NetworkError."""
        relay = address.relay
        if relay is None or relay in (peer, self.host.peer_id):
            raise NoSources(f"{address} leads through no relay.")
        await self.host.reach(relay, [address.endpoint], relayed=False)
        await self.met(relay)
        stream = await self.host.open_stream(relay, HOP)
        done = False
        try:
            asked = HopMessage(type=HopMessage.CONNECT, peer=named(peer))
            await _ask(stream, asked, relay)
            done = True
        finally:
            if not done:
                await stream.abort()
        return circuit_connection(stream, address.at(peer), initiator=True)

    # --- places ---

    async def _renew(self) -> None:
        now = trio.current_time()
        for relay, place in list(self.places.items()):
            if place.renew <= now or not place.told or not self.host.connected(relay):
                await self._ask_for_place(relay, place.addresses)

    async def _ask_more(self) -> None:
        now = trio.current_time()
        self._again = {relay: again for relay, again in self._again.items() if again > now}
        for relay, addresses in self._candidates():
            # Many that don't answer must not outlast the places that there are.
            due = any(place.renew <= trio.current_time() for place in self.places.values())
            if due or len(self.places) >= MOST_PLACES:
                return
            if relay not in self.places and relay not in self._again:
                await self._ask_for_place(relay, addresses)

    def _candidates(self) -> list[tuple[str, tuple[Address, ...]]]:
        """The relays that may be asked, with their addresses."""
        by_relay: dict[str, tuple[Address, ...]] = {}
        for one in self.relays:
            if one.peer is not None and one.peer != self.host.peer_id:
                by_relay[one.peer] = (*by_relay.get(one.peer, ()), one)
        if by_relay:
            return list(by_relay.items())
        offered = []
        for info in self.host.peers():
            if info.path == "relay" or HOP not in self.host.protocols_of(info.peer):
                continue
            known = [one for one in self.host.known_addresses(info.peer) if one.relay is None]
            wide = tuple(one.at(info.peer) for one in known if one.reach is Reach.WORLD)
            if wide:
                offered.append((info.peer, wide))
        random.shuffle(offered)  # else all would crowd the first
        return offered

    async def _ask_for_place(self, relay: str, addresses: tuple[Address, ...]) -> None:
        try:
            with trio.fail_after(ASK_TIME):
                await self.host.reach(relay, addresses, relayed=False)
                await self.met(relay)
                stream = await self.host.open_stream(relay, HOP)
                done = False
                try:
                    answer = await _ask(stream, HopMessage(type=HopMessage.RESERVE), relay)
                    done = True
                    await stream.aclose()  # a reset may cost the place at js-libp2p's relays
                finally:
                    if not done:
                        await stream.abort()
        except (NetworkError, trio.TooSlowError) as exc:
            log.info("the relay %s gave no place: %s", relay, str(exc) or "it is too slow")
            self._again[relay] = trio.current_time() + LOOK_AGAIN
            self._forget(relay)
            return
        lasts = min(max(answer.reservation.expire - time.time(), SHORTEST), LONGEST)
        told = [
            one.at(relay)
            for one in addresses_of(answer.reservation.addrs)
            if one.relay is None and one.peer in (None, relay) and self.host.reaches(one)
        ]
        # What was dialled works for us; what the relay says may work for others too.
        chosen = tuple(dict.fromkeys([*(one.at(relay) for one in addresses), *told]))[:4]
        new = relay not in self.places or not self.places[relay].told
        self.places[relay] = Place(relay, chosen, trio.current_time() + lasts * RENEW_AT)
        if new:
            log.info("this node can be reached through the relay %s", relay)
            self.host.moved()

    def _lost(self, peer: str) -> None:
        """A relay's last connection has ended, and the place with it: ask for another at once."""
        if peer in self.places:
            self.places[peer].renew = 0.0
            self._changed.set()

    def _forget(self, relay: str) -> None:
        place = self.places.pop(relay, None)
        if place is not None and place.told:
            self.host.moved()

    def _retire(self) -> None:
        """Tell nobody of the places any longer, and let them come to their end."""
        told = False
        for relay, place in list(self.places.items()):
            told, place.told = told or place.told, False
            if place.renew <= trio.current_time() or not self.host.connected(relay):
                self._forget(relay)
        if told:
            self.host.moved()

    # --- being called ---

    async def _called(self, stream: INetStream) -> None:
        """A relay says that somebody wants us: take the circuit, and stay until it has ended."""
        relay = str(stream.muxed_conn.peer_id)
        ours = self.host.wrap(stream, relay)
        call = await receive(ours, StopMessage, relay)
        if call.type != StopMessage.CONNECT:
            raise PeerFault("Expected a call through a relay.", peer=relay)
        peer = peer_of(call, relay)
        place = self.places.get(relay)
        if place is None or peer in (relay, self.host.peer_id):
            refusal = StopMessage(type=StopMessage.STATUS, status=Status.PERMISSION_DENIED)
            await send(ours, refusal, relay)
            await ours.aclose()
            return
        await send(ours, StopMessage(type=StopMessage.STATUS, status=Status.OK), relay)
        address = place.addresses[0].through(peer)
        await self.accept(circuit_connection(ours, address, initiator=False), relay, peer)


async def _ask(stream: PeerStream, question: HopMessage, relay: str) -> HopMessage:
    """Send a HOP request; its answer if it is OK, PeerRefused with the status otherwise."""
    await send(stream, question, relay)
    answer = await receive(stream, HopMessage, relay)
    if answer.type != HopMessage.STATUS or answer.status != Status.OK:
        why = _REFUSALS.get(answer.status, f"status {answer.status}")
        raise PeerRefused(f"The relay {relay} refused: {why}.", status=503, peer=relay)
    return answer


_REFUSALS: dict[int, str] = {
    Status.RESERVATION_REFUSED: "it has no place left",
    Status.RESOURCE_LIMIT_EXCEEDED: "it carries as many circuits as it may",
    Status.PERMISSION_DENIED: "it does not serve this node",
    Status.CONNECTION_FAILED: "the peer did not answer it",
    Status.NO_RESERVATION: "the peer has no place there",
}
