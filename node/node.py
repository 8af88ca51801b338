"""A node, joined from its parts: as much of it as is asked for.

``open_node`` gives the store alone, or the store on the network; leaving the block stops what runs,
in order: first the network, then the store. The HTTP door is the daemon's (daemon.py).

What takes long to import, libp2p above all, is imported only by a node that goes online.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import trio

from node.claims import Claims
from node.communities import keep_communities
from node.config import Config
from node.gate import Gate
from node.jobs import Jobs
from node.keyring import Keyring
from node.lookout import Lookout
from node.model_sig import ModelSigner
from node.pledges import Book, Times
from node.private import open_private
from node.private import peers_file as find_peers_file
from node.rulebook import Rulebook
from node.seeding import Rules, Seeding, is_near, open_tally
from node.store import Store, open_store
from node.upkeep import keep_announced, keep_peers, read_peers
from p2p.cid import CID
from p2p.errors import NetworkError
from p2p.slim import slim_imports

if TYPE_CHECKING:
    from node.accounts import Accounts
    from node.api.peer import PeerApi
    from node.crew import Network
    from node.pledges.keeper import Keeper
    from node.reading import Reader
    from node.serving.fleet import Fleet
    from p2p.discovery import Discovery
    from p2p.host import Host
    from p2p.http import Handler
    from p2p.lane import LaneServer
    from p2p.relay.relaying import Relaying


class Node:
    """One machine's node: what the operations work with."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config = config
        self.store = store
        self.keyring = Keyring(config.folders.keys)
        self.claims = Claims()
        self.jobs = Jobs()
        self.lookout = Lookout(self.jobs, (*config.p2p.peers, *config.p2p.bootstrap))
        self.model_signer = ModelSigner(store, self.keyring)
        self.book = Book(config.folders.data)
        self.keeper: Keeper | None = None
        trust = config.folders.data / "trust"
        rulebook = Rulebook(config.folders.config_file.parent, trust / "communities")
        self.gate = Gate(rulebook, store, self.keyring, trust)
        store.publishers.changed.append(lambda publisher: self.gate.changed())
        self.accounts: Accounts | None = None
        self.fleet: Fleet | None = None
        self.reader: Reader | None = None
        self.host: Host | None = None
        self.peer_api: PeerApi | None = None
        """What peers are answered over libp2p streams."""
        self.peer_door: Handler | None = None
        """The same by the rules of ``seeding``: the only way in which peers are to be answered."""
        self.lanes: LaneServer | None = None
        self.relaying: Relaying | None = None
        """The relays that this node uses, and is; only one on the network has it."""
        self.seeding: Seeding | None = None
        """To whom and when this node gives; only one on the network has it."""
        self.discovery: Discovery | None = None
        self.http_url: str | None = None
        self.gateway_urls: tuple[str, ...] = ()
        """Where the public reads, if it may at all (api/public.py)."""
        self._network: Network | None = None

    def network(self) -> "Network":
        """The network; NetworkError when this node was opened without one."""
        if self._network is None:
            raise NetworkError(
                "This node runs without the network.",
                next="Leave --offline out, or set p2p.offline to false.",
            )
        return self._network

    @property
    def default_key(self) -> str:
        """The publisher key that signs when none is named."""
        return self.config.publish.key

    def petnames(self) -> Mapping[str, str]:
        """What the owner calls publishers, and their ids; they are trusted, and followed."""
        return self.gate.petnames()

    def spread(self, cids: list[CID]) -> list[str]:
        """Announce these if this node is on the network; its addresses, none if it is not."""
        if self._network is None or self.host is None:
            return []
        self._network.announce(cids)
        return self.host.addresses

    def sign_later(self, cid: CID) -> bool:
        """Have a marked release get its model.sig in the background; False without one."""
        return self.model_signer.ask(cid)

    def join(self, host: "Host", discovery: "Discovery", network: "Network") -> None:
        """Put this node on the network."""
        self.host, self.discovery, self._network = host, discovery, network
        self.lookout.watch(host)


@asynccontextmanager
async def open_node(
    config: Config, *, network: bool, control_token: str = ""
) -> AsyncIterator[Node]:
    """Open the store, and with ``network`` a libp2p host that serves it.

    With ``control_token``, a daemon's, the accounts too, which hold the ledger as long as the node
    runs; commands that need them without a daemon open the ledger themselves (tokens.py).
    StoreError when the store cannot be used, NetworkError when the port cannot.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(config.store.folder, quota=config.store.quota, reserve=config.store.reserve)
        )
        node = Node(config, store)
        if control_token:
            from node.accounts import open_accounts

            node.accounts = await stack.enter_async_context(
                open_accounts(
                    config.folders.data, auth=config.serve.auth, control_token=control_token
                )
            )
        if network:
            await _go_online(node, stack)
        yield node


async def _go_online(node: Node, stack: AsyncExitStack) -> None:
    with slim_imports():
        from node.circuits import relay_settings
        from node.peers import PeerNetwork
        from p2p.autonat import open_autonat
        from p2p.discovery import open_discovery
        from p2p.host import HostSettings, open_host
        from p2p.relay.observed import Observed
        from p2p.relay.relaying import open_relaying
    from node.api.peer import PeerApi
    from node.following import Following
    from node.hearing import keep_hearing
    from node.pledges.keeper import Keeper
    from p2p.lane import Encryption, LaneServer

    await node.gate.policy()  # what is wrong in it is said now, not to the first who asks
    config = node.config
    swarm_key = await trio.to_thread.run_sync(open_private, config)
    peers_file = find_peers_file(config, swarm_key)
    settings = HostSettings(
        listen_port=config.p2p.port,
        listen_hosts=config.p2p.listen,
        bootstrap=(*config.p2p.bootstrap, *config.p2p.peers),
        dht=config.p2p.dht,
        mdns=config.p2p.mdns,
        announce=config.p2p.announce,
        known_peers=await read_peers(peers_file),
        swarm_key=swarm_key,
        members=frozenset(config.p2p.members),
    )
    host = await stack.enter_async_context(open_host(node.keyring.node(), settings))
    host.rates.change(**asdict(config.limits))
    tally = await stack.enter_async_context(
        open_tally(config.folders.data / "seeding.json", host.rates)
    )
    node.seeding = seeding = Seeding(Rules.of(config.seeding), tally, node.gate, node.store)
    lanes: LaneServer | None = None
    if config.lane.enabled:
        lanes = node.lanes = await stack.enter_async_context(_open_lanes(node, host, seeding))
    offer = lanes.offer if lanes is not None else None
    node.peer_api = PeerApi(node.store, offer, gate=node.gate)
    node.peer_door = seeding.guarded(node.peer_api, partial(_is_near, host))
    host.set_handler(node.peer_door)
    observed = Observed(host)  # each connection is asked about once, whoever wants to know
    await stack.enter_async_context(open_autonat(host, observed))
    node.relaying = await stack.enter_async_context(
        open_relaying(host, relay_settings(config), observed)
    )
    discovery = await stack.enter_async_context(open_discovery(host))
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    wants: Encryption | None = None
    if config.lane.enabled:
        wants = "off" if config.lane.encryption == "off" else "tls"
    network = PeerNetwork(host, discovery, nursery, node.gate, wants, seeding.hidden)
    node.join(host, discovery, network)
    node.store.gone.append(network.withdraw)
    if config.p2p.upnp:
        nursery.start_soon(_keep_mapped, host, lanes)
    nursery.start_soon(tally.run)
    nursery.start_soon(node.gate.watch)
    nursery.start_soon(keep_communities, node)
    nursery.start_soon(keep_announced, node.store, node.gate, network, seeding.hidden)
    nursery.start_soon(keep_peers, discovery, peers_file)
    nursery.start_soon(node.model_signer.run)
    nursery.start_soon(
        lambda: keep_hearing(
            node.store, node.network(), trusted=lambda: list(node.petnames().values())
        )
    )
    check = config.pledge.check
    node.keeper = keeper = Keeper(node, host.peer_id, node.book, Times.of(check or 300), node.jobs)
    host.parted.append(keeper.lost)
    nursery.start_soon(Following(node, node.network(), also=keeper.publishers).run)
    if check is not None:
        nursery.start_soon(keeper.run)


async def _keep_mapped(host: "Host", lanes: "LaneServer | None") -> None:
    """Have the router pass on what strangers need of this node, while it has no other way in."""
    from p2p.address import Reach
    from p2p.portmap import keep_mapped

    def needed() -> bool:
        reaches = {one.reach for one in host.interfaces() if one.kind == "ip4"}
        return Reach.NETWORK in reaches and Reach.WORLD not in reaches

    ports = [port for name, port in host.bound if ":" not in name][:1]
    if ports:
        ports += [lanes.port] if lanes is not None else []
        await keep_mapped(host.reachability, ports, needed=needed)


def _is_near(host: "Host", peer: str) -> bool:
    return any(map(is_near, host.hosts_of(peer)))


def _open_lanes(
    node: Node, host: "Host", seeding: Seeding
) -> "AbstractAsyncContextManager[LaneServer]":
    """The lanes of a node: the same answers as on its streams, and the same budgets."""
    from node.api.peer import PeerApi
    from p2p.lane import Door, LaneSettings, open_lane_server

    config = node.config
    door = Door(
        handler=host.charged(
            seeding.guarded(PeerApi(node.store, gate=node.gate), partial(_is_near, host))
        ),
        fault=host.fault,
        banned=host.banned,
        told=host.own_addresses,
        outside=host.reachability.outside,
    )
    settings = LaneSettings(
        port=config.lane.port,
        hosts=config.p2p.listen,
        encryption="off" if config.lane.encryption == "off" else "tls",
    )
    return open_lane_server(door, settings, host.rates)
