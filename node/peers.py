"""The real network of a fetch: a libp2p host and its discovery, as ``crew.Network``.

It also finds the peers that answer for a model, as ``federation.survey.Network`` wants it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from node.gate import Gate
from p2p.address import Address
from p2p.cid import CID
from p2p.discovery import Discovery
from p2p.errors import StoreError, UsageError
from p2p.host import Host
from p2p.lane import Encryption
from p2p.policy import Web
from p2p.serving import serving_key
from p2p.sources import PeerSource
from p2p.web import Url, WebSource

log = logging.getLogger(__name__)

JOIN_WITHIN = 5.0  # seconds; joining takes one, and where there is nobody to join it never ends
BAN_SECONDS = 3600.0  # long enough to be of no use to a liar, short enough for a repaired disk


class PeerNetwork:
    """Sources over libp2p; ``nursery`` runs what goes on in the background."""

    def __init__(
        self,
        host: Host,
        discovery: Discovery,
        nursery: trio.Nursery,
        gate: Gate,
        lanes: Encryption | None = None,
        hidden: Callable[[CID], Awaitable[bool]] | None = None,
    ) -> None:
        """``gate``, ``hidden``: what may be announced, and what of it is not for everybody.

        ``lanes``: what is wanted of them; None: no lanes.
        """
        self._hidden = hidden
        self._lanes = lanes
        self._host = host
        self._discovery = discovery
        self._nursery = nursery
        self._gate = gate
        self._join_by = trio.current_time() + JOIN_WITHIN

    def hinted(self, multiaddr: str) -> PeerSource:
        """A source at an address with a peer id; UsageError if it is none."""
        address = Address.parse(multiaddr)
        if address.peer is None:
            raise UsageError(
                f"Expected an address with a peer id, came {multiaddr}.",
                next="Add /p2p/ and the id that the other node shows when it starts.",
            )
        return self._source(address.peer, (multiaddr,))

    def web(
        self, bases: Sequence[Url], files: Mapping[CID, Sequence[tuple[str, int]]], web: Web
    ) -> WebSource:
        """A web server with folders that hold these files; its bytes count on this node's rates."""
        return WebSource(bases, files, web, down=self._host.rates.of(bases[0].origin).down)

    def neighbours(self) -> Sequence[PeerSource]:
        """Nodes of the LAN and those that are connected."""
        near = {peer.peer: peer.addresses for peer in self._discovery.lan_peers()}
        near |= {peer.peer: peer.addresses for peer in self._host.peers()}
        return [self._source(peer, addresses) for peer, addresses in near.items()]

    async def providers(self, cid: CID) -> Sequence[PeerSource]:
        """Nodes that the DHT names for ``cid``; a node that has just started joins it first."""
        with trio.move_on_at(self._join_by):
            await self._discovery.wait_ready()
        found = await self._discovery.providers(cid)
        return [self._source(info.peer, info.addresses) for info in found]

    async def answering(self, manifest: CID, within: float) -> Sequence[PeerSource]:
        """Nodes that the DHT says answer for a release, those found in ``within`` seconds."""
        found = await self._discovery.providers(serving_key(manifest), timeout=within)
        return [self._source(info.peer, info.addresses) for info in found]

    def _source(self, peer: str, addresses: Sequence[str]) -> PeerSource:
        return PeerSource(self._host, peer, addresses, lanes=self._lanes)

    def ban(self, peer: str, reason: str) -> None:
        """Keep a peer out for an hour; a web server is out of one fetch alone (webseeds.py)."""
        if "://" in peer:
            log.warning("the web seed %s is not asked any more: %s", peer, reason)
            return
        self._nursery.start_soon(self._host.ban, peer, reason, BAN_SECONDS)

    def announce(self, cids: Sequence[CID]) -> None:
        """Have the DHT know that this node holds these."""
        self._nursery.start_soon(self._announce, tuple(cids))

    async def _announce(self, cids: Sequence[CID]) -> None:
        try:
            given = [cid for cid in cids if await self._gate.refuses(cid) is None]
            if self._hidden is not None:
                given = [cid for cid in given if not await self._hidden(cid)]
        except StoreError as exc:  # they are announced again when the node starts anew
            log.warning("%d keys are not announced: %s", len(cids), exc)
            return
        await self._discovery.announce(given)

    def withdraw(self, cids: Sequence[CID]) -> None:
        """Have the DHT told no longer that this node holds these."""
        self._discovery.withdraw(cids)
