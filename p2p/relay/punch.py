"""Punching holes: two peers that talk through a relay try to do without it. DCUtR.

Both know at which address the relay sees the other. At the same moment each dials the other's,
from the very port of its connection to the relay: so each router has seen something go out before
something comes in, and lets it pass. It works where a router uses the same outer port for every
destination, which most do; where it does not, the circuit stays.

The peer that was called through the relay begins, and is the server of the connection that comes
of it; the caller is its client: with TCP both ends have dialled.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID

from p2p.address import Address, Reach
from p2p.errors import NetworkError, PeerFault, UsageError
from p2p.host import Host
from p2p.network import TcpStream, relayed
from p2p.relay.knock import knock
from p2p.relay.messages import PUNCH, HolePunch, addresses_of, receive, send
from p2p.relay.observed import Observed

log = logging.getLogger(__name__)

TRIES = 3
"""Attempts for one circuit, as the specification has it."""
MOST_TARGETS = 4
"""Addresses of a peer that are knocked at: it has one or two."""
MOST_AT_ONCE = 8
"""Attempts that run at the same time."""
LEAVE_AFTER = 5.0
"""Seconds between two looks whether the circuit is idle, once there is a direct connection."""
LEAVE_AT_LAST = 60.0
"""Seconds after which it is closed, idle or not."""


class Puncher:
    """The attempts of one host."""

    def __init__(self, host: Host, observed: Observed) -> None:
        self.counts: Counter[str] = Counter()
        """Holes punched, and attempts that failed."""
        self._host = host
        self._observed = observed
        self._tried: WeakKeyDictionary[INetConn, int] = WeakKeyDictionary()
        self._busy: set[str] = set()

    def serve(self) -> None:
        """Answer peers that we called through a relay."""
        self._host.set_stream_handler(PUNCH, self._asked)

    async def do_without(self, peer: str) -> None:
        """Have a direct connection to a peer that called through a relay, if that can be.

        Never raises, whatever the peer or a router does: there is the circuit.
        """
        try:
            await self._do_without(peer)
        except Exception:
            # It runs beside everything else: a bug here may end this attempt and nothing more.
            log.exception("the attempt to reach %s without a relay failed", peer)

    async def _do_without(self, peer: str) -> None:
        circuit = self._circuit(peer)
        if circuit is None:
            return
        wide = [one for one in self._host.known_addresses(peer) if one.reach is Reach.WORLD]
        for _ in range(TRIES):
            try:
                if any(one.relay is None for one in wide):  # it can be dialled, and we can't
                    await self._host.reach(peer, relayed=False)
                else:
                    await self._begin(peer, circuit)
            except NetworkError as exc:
                log.debug("no way to %s but through a relay yet: %s", peer, exc)
                wide = []
            if self._direct(peer):
                await self._leave(circuit)
                return

    async def _begin(self, peer: str, circuit: INetConn) -> None:
        with self._attempt(peer, circuit):
            own = await self._own(circuit, peer)
            stream = await self._host.open_stream(peer, PUNCH)
            try:
                await send(stream, _connect(own), peer)
                asked = trio.current_time()
                answer = await receive(stream, HolePunch, peer)
                if answer.type != HolePunch.CONNECT:
                    raise PeerFault("Expected where to knock.", peer=peer)
                trip = trio.current_time() - asked
                await send(stream, HolePunch(type=HolePunch.SYNC), peer)
                await trio.sleep(trip / 2)
                await self._knock(peer, own, self._targets(answer, own), initiator=False)
            finally:
                await stream.abort()

    async def _asked(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        ours = self._host.wrap(stream, peer)
        circuit = self._circuit(peer)
        if circuit is None or circuit.muxed_conn is not stream.muxed_conn:
            raise PeerFault("A hole is punched beside a circuit only.", peer=peer)
        try:
            with self._attempt(peer, circuit):
                own = await self._own(circuit, peer)
                asked = await receive(ours, HolePunch, peer)
                if asked.type != HolePunch.CONNECT:
                    raise PeerFault("Expected where to knock.", peer=peer)
                await send(ours, _connect(own), peer)
                if (await receive(ours, HolePunch, peer)).type != HolePunch.SYNC:
                    raise PeerFault("Expected the word to knock.", peer=peer)
                await self._knock(peer, own, self._targets(asked, own), initiator=True)
        except PeerFault:
            raise
        except NetworkError as exc:  # nobody's fault, and least of all that of who asked
            log.debug("no hole to %s: %s", peer, exc)
            await ours.abort()

    # --- one attempt ---

    @contextmanager
    def _attempt(self, peer: str, circuit: INetConn) -> Iterator[None]:
        """One attempt at a time with a peer, and so many for a circuit; PeerFault past that.

        NetworkError when too many others are tried now.
        """
        tried = self._tried.get(circuit, 0)
        if peer in self._busy or tried >= TRIES:
            raise PeerFault("It has been tried often enough.", peer=peer)
        if len(self._busy) >= MOST_AT_ONCE:
            raise NetworkError("Too many holes are being punched already.")
        self._tried[circuit] = tried + 1
        self._busy.add(peer)
        try:
            yield
        finally:
            self._busy.discard(peer)

    async def _own(self, circuit: INetConn, peer: str) -> tuple[tuple[str, int], Address]:
        """Our end of the connection to the circuit's relay, and the address seen there."""
        relay = _relay_of(circuit)
        if relay is not None:
            await self._observed.ask(relay)
        own = self._observed.at(relay) if relay is not None else None
        if own is None:
            raise NetworkError("The relay does not say where it sees this node.")
        return own

    def _targets(self, message: HolePunch, own: tuple[tuple[str, int], Address]) -> list[Address]:
        """Where to knock: no nearer to this machine than the relay itself is."""
        seen = own[1]
        return [
            one
            for one in addresses_of(message.ObsAddrs)
            if one.relay is None and one.kind == seen.kind and one.reach >= seen.reach
        ][:MOST_TARGETS]

    async def _knock(
        self,
        peer: str,
        own: tuple[tuple[str, int], Address],
        targets: Sequence[Address],
        *,
        initiator: bool,
    ) -> None:
        """Dial all targets until one answers as the peer; NetworkError when none does."""

        async def meet(stream: trio.SocketStream) -> INetConn | None:
            raw = RawConnection(TcpStream(stream), initiator)
            return await self._shake_hands(raw, peer, initiator=initiator)

        conn = await knock(own[0], targets, meet)
        if conn is None:
            self.counts["failed"] += 1
            raise NetworkError(f"No hole could be punched to {peer}.")
        self.counts["punched"] += 1
        self._host.network.punched.add(conn)
        log.info("connected to %s directly, with a relay's help", peer)

    async def _shake_hands(
        self, raw: RawConnection, peer: str, *, initiator: bool
    ) -> INetConn | None:
        network = self._host.network
        if initiator:
            return await network.upgrade(raw, ID.from_base58(peer))
        conn = await network.shake_hands(raw, f"hole {peer}")
        if conn is not None and str(conn.muxed_conn.peer_id) != peer:
            await conn.close()
            raise SwarmException("somebody else answered")
        return conn

    # --- connections ---

    def _circuit(self, peer: str) -> INetConn | None:
        live = self._host.network.live(ID.from_base58(peer))
        return next((conn for conn in live if relayed(conn)), None)

    def _direct(self, peer: str) -> bool:
        return bool(self._host.network.direct(ID.from_base58(peer)))

    async def _leave(self, circuit: INetConn) -> None:
        """Close the circuit when nobody uses it any more: new streams go the direct way."""
        with trio.move_on_after(LEAVE_AT_LAST):
            busy = True
            while busy:  # libp2p tells nobody that a stream has ended
                await trio.sleep(LEAVE_AFTER)
                busy = bool(circuit.get_streams())
        if not circuit.is_closed:
            await circuit.close()


def _connect(own: tuple[tuple[str, int], Address]) -> HolePunch:
    return HolePunch(type=HolePunch.CONNECT, ObsAddrs=[bytes(own[1].at(None))])


def _relay_of(circuit: INetConn) -> str | None:
    for told in circuit.get_transport_addresses():
        try:
            return Address.parse(str(told)).relay
        except UsageError:
            continue
    return None
