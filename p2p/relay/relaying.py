"""Relays over one host: being one, using them, doing without them."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import trio
from libp2p.network.connection.raw_connection import RawConnection

from p2p.address import Address, Reach
from p2p.errors import PeerGone
from p2p.host import Host
from p2p.relay.client import RelayClient
from p2p.relay.observed import Observed
from p2p.relay.places import RelayLimits
from p2p.relay.punch import Puncher
from p2p.relay.service import Relay

log = logging.getLogger(__name__)

When = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class RelaySettings:
    """When this host uses relays, and when it is one."""

    use: When = "auto"
    """"auto": while it has no address that leads to it from everywhere."""
    serve: When = "auto"
    """"auto": while it has one."""
    relays: tuple[Address, ...] = ()
    """Relays to ask, each with its peer id; none: the connected peers that offer it."""
    limits: RelayLimits = field(default_factory=RelayLimits)


class Relaying:
    """The relay of one host, and its places at others; made by ``open_relaying``."""

    def __init__(
        self, host: Host, settings: RelaySettings, observed: Observed, nursery: trio.Nursery
    ) -> None:
        self.settings = settings
        self.relay = Relay(host, settings.limits)
        self.observed = observed
        self.puncher = Puncher(host, self.observed)
        self.client = RelayClient(
            host, settings.relays, self._wanted, self._accept, self.observed.ask
        )
        self.serving = False
        """Whether this host is a relay for others now."""
        self._host = host
        self._nursery = nursery
        if settings.use != "never":
            host.circuits = self.client.circuits
            host.network.through = self.client.through
            self.puncher.serve()
            nursery.start_soon(self.client.run)

    async def run(self) -> None:
        """Follow the host's addresses: be a relay, or look for one; never returns."""
        while True:
            moved = self._host.on_moved
            serve = self.settings.serve
            if serve == "always" or (serve == "auto" and self._reachable()):
                if not self.serving:
                    log.debug("this node is a relay for others")
                self.relay.serve()
                self.serving = True
            elif self.serving:
                self.relay.rest()
                self.serving = False
            self.client.look_again()
            await moved.wait()

    def _reachable(self) -> bool:
        """Whether an address of this host's own leads here from everywhere."""
        own = self._host.own_addresses()
        return any(one.relay is None and one.reach is Reach.WORLD for one in own)

    def _wanted(self) -> bool:
        if self.settings.use == "auto":
            if self._host.reachability.verdict == "private":
                return True
            own = self._host.own_addresses()
            beyond = any(one.relay is None and one.reach is Reach.NETWORK for one in own)
            return beyond and not self._reachable()
        return self.settings.use == "always"

    async def _accept(self, raw: RawConnection, relay: str, peer: str) -> None:
        """Make a connection of a circuit, try to do without it, and stay until it has ended."""
        network, origin = self._host.network, f"relay {relay}"
        if not await network.has_room(origin):
            raise PeerGone("There is no room for one more call.", peer=relay)
        try:
            conn = await network.shake_hands(raw, origin)
        except Exception as exc:
            # A stranger's bytes may trip anything, and the relay that carried them is not to blame.
            log.debug("a call of %s through %s came to nothing: %r", peer, relay, exc)
            raise PeerGone("A call through it came to nothing.", peer=relay) from exc
        if conn is None:
            return
        if str(conn.muxed_conn.peer_id) != peer:
            log.info("the relay %s named another peer than came", relay)
            await conn.close()
            return
        self._nursery.start_soon(self.puncher.do_without, peer)
        await conn.event_closed.wait()


@asynccontextmanager
async def open_relaying(
    host: Host, settings: RelaySettings, observed: Observed | None = None
) -> AsyncIterator[Relaying]:
    """Run relays over a host; leaving gives up all places and circuits.

    ``observed``: what others see of this host, if it is asked for elsewhere too.
    """
    async with trio.open_nursery() as nursery:
        relaying = Relaying(host, settings, observed or Observed(host), nursery)
        nursery.start_soon(relaying.run)
        try:
            yield relaying
        finally:
            host.circuits = list
            host.network.through = None
            nursery.cancel_scope.cancel()
