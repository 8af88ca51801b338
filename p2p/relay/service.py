"""The relay: gives places, and joins two streams into a circuit. The HOP side of circuit relay v2.

Knows streams and what they may cost (``p2p.relay.places``); must not know what they carry, and
can't: circuits are sealed between their ends. It gives no vouchers, which nobody checks.
"""

import time
from collections import Counter

import trio
from libp2p.abc import INetStream
from libp2p.connection_types import ConnectionType

from p2p.address import Reach
from p2p.errors import NetworkError, PeerFault
from p2p.host import Host
from p2p.rates import Bucket
from p2p.relay.messages import (
    HOP,
    STOP,
    HopMessage,
    Limit,
    Status,
    StopMessage,
    named,
    peer_of,
    receive,
    send,
)
from p2p.relay.places import Places, RelayLimits
from p2p.streams import PeerStream

PIECE = 1 << 16
"""Bytes forwarded at once: a thirtieth of a second of the usual rate."""


class Relay:
    """A relay over a host; ``serve`` makes it answer, and others see that it does."""

    def __init__(self, host: Host, limits: RelayLimits) -> None:
        self.places = Places(limits)
        self.counts: Counter[str] = Counter()
        """Places given and refused, circuits opened and refused, bytes carried."""
        self._host = host
        self._bucket = Bucket(limits.rate)
        host.parted.append(self.places.leave)
        host.network.needed.append(self.places.__contains__)

    def serve(self) -> None:
        """Answer HOP requests from now on; harmless when repeated."""
        self._host.set_stream_handler(HOP, self._answer)

    def rest(self) -> None:
        """Answer none any more; circuits that are open go on."""
        self._host.drop_stream_handler(HOP)

    async def _answer(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        ours = self._host.wrap(stream, peer)
        message = await receive(ours, HopMessage, peer)
        # The specification's: whoever comes by a relay would chain two of them.
        direct = stream.muxed_conn.get_connection_type() is not ConnectionType.RELAYED
        if not direct:
            await _refuse(ours, peer, Status.PERMISSION_DENIED)
        elif message.type == HopMessage.RESERVE:
            await self._reserve(ours, peer, (stream.get_remote_address() or ("", 0))[0])
        elif message.type == HopMessage.CONNECT:
            await self._connect(ours, peer, (stream.get_remote_address() or ("", 0))[0], message)
        else:
            await _refuse(ours, peer, Status.UNEXPECTED_MESSAGE)

    async def _reserve(self, stream: PeerStream, peer: str, ip: str) -> None:
        now = trio.current_time()
        end = self.places.take(peer, ip, now)
        if end is None:
            self.counts["refused"] += 1
            await _refuse(stream, peer, Status.RESERVATION_REFUSED)
            return
        self.counts["places"] += 1
        answer = HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=self._limit())
        answer.reservation.expire = int(time.time() + end - now)
        own = [one for one in self._host.own_addresses() if one.relay is None]
        wide = [one for one in own if one.reach is Reach.WORLD]
        answer.reservation.addrs.extend(bytes(one) for one in wide or own)
        await send(stream, answer, peer)
        await stream.aclose()

    async def _connect(self, stream: PeerStream, peer: str, ip: str, message: HopMessage) -> None:
        target = peer_of(message, peer)
        now = trio.current_time()
        # Directly connected: who is left with a circuit here would make a chain of relays.
        if target == peer or not self.places.has(target, now) or not self._host.hosts_of(target):
            await _refuse(stream, peer, Status.NO_RESERVATION)
            return
        if not self.places.open_circuit(peer, target, ip):
            self.counts["refused"] += 1
            await _refuse(stream, peer, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        try:
            try:
                other = await self._call(peer, target)
            except NetworkError:
                await _refuse(stream, peer, Status.CONNECTION_FAILED)
                return
            try:
                self.counts["circuits"] += 1
                answer = HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=self._limit())
                await send(stream, answer, peer)
                with trio.move_on_after(self.places.limits.circuit_time):
                    await self._join(stream, other)
            finally:
                await other.abort()
                await stream.abort()
        finally:
            self.places.close_circuit(peer, target, ip)

    async def _call(self, peer: str, target: str) -> PeerStream:
        """Open a stream to the target and have it take the circuit; NetworkError when it won't."""
        other = await self._host.open_stream(target, STOP)
        taken = False
        try:
            call = StopMessage(type=StopMessage.CONNECT, peer=named(peer), limit=self._limit())
            await send(other, call, target)
            answer = await receive(other, StopMessage, target)
            if answer.type != StopMessage.STATUS or answer.status != Status.OK:
                raise PeerFault("It took no circuit.", peer=target)
            taken = True
        finally:
            if not taken:
                await other.abort()
        return other

    async def _join(self, one: PeerStream, other: PeerStream) -> None:
        """Carry bytes both ways until both directions have ended, or one broke or is used up."""
        async with trio.open_nursery() as nursery:
            for source, sink in ((one, other), (other, one)):
                nursery.start_soon(self._carry, source, sink, nursery.cancel_scope)

    async def _carry(self, source: PeerStream, sink: PeerStream, circuit: trio.CancelScope) -> None:
        left = self.places.limits.circuit_bytes
        try:
            while data := await source.receive_some(PIECE):
                left -= len(data)
                if left < 0:
                    break
                await trio.sleep(self._bucket.reserve(len(data), trio.current_time()))
                await sink.send_all(data)
                self.counts["bytes"] += len(data)
            else:
                await sink.aclose()
                return
        except trio.BrokenResourceError:
            pass  # one end has gone: the other is told by the reset
        circuit.cancel()

    def _limit(self) -> Limit:
        limits = self.places.limits
        return Limit(duration=int(limits.circuit_time), data=limits.circuit_bytes)


async def _refuse(stream: PeerStream, peer: str, status: Status.ValueType) -> None:
    await send(stream, HopMessage(type=HopMessage.STATUS, status=status), peer)
    await stream.aclose()
