"""A running libp2p host: an identity, open connections, and HTTP over streams.

Knows peers and streams; must not know CIDs, manifests or the store.
Transport is TCP with noise and yamux, never plaintext, never anything else.

Rules that it keeps:

- One fault boundary: whatever a peer's stream raises ends that stream. The peer's breaches of
  protocol are counted, logged once a minute a peer, and end in a ban for a minute; our own bugs
  are logged with their traceback.
- Every peer has a budget (``p2p.limits``): past it, streams are reset and requests get 429.
- Leaving ``open_host`` ends every connection and task.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio
from libp2p.abc import INetStream, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_pair
from libp2p.custom_types import TMuxerOptions, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader

from p2p.address import Address, Reach
from p2p.errors import (
    AllodError,
    NoSources,
    PeerFault,
    PeerGone,
    PeerRefused,
    UsageError,
)
from p2p.http import FileBody, Handler, HttpLimits, Request, Response, serve_http
from p2p.keys import SecretKey
from p2p.limits import Book, PeerLimits
from p2p.listening import dialable, endpoints, open_listeners
from p2p.mux import install
from p2p.network import (
    Listener,
    Network,
    connected_since,
    dialled_us,
    far_host,
    open_network,
    round_trip,
)
from p2p.rates import Rates
from p2p.reachability import Reachability
from p2p.streams import BROKEN, NEGOTIATE_TIME, PeerStream
from p2p.swarmkey import SwarmKey

log = logging.getLogger(__name__)

HTTP = "/http/1.1"
"""The protocol id of libp2p's HTTP specification."""
OPEN_TIME = 15.0
"""Seconds to open a stream, the dial included."""
UPLOAD_AGAIN = 2.0
"""Seconds after which a peer may ask again that found all places for uploads taken."""
MAX_KNOWN_PEERS = 4096
"""Peers whose addresses are kept: a few hundred KB."""
MAX_KNOWN_ADDRESSES = 16
"""Addresses kept of one peer."""


@dataclass(frozen=True)
class HostSettings:
    """How a host runs; addresses are multiaddrs."""

    listen_port: int = 0
    """0 picks a free one."""
    listen_hosts: tuple[str, ...] = ("0.0.0.0",)
    """IP addresses of this machine; none at all: the host only dials."""
    bootstrap: tuple[str, ...] = ()
    dht: str = "server"
    """"server" answers DHT queries, "client" only asks."""
    mdns: bool = True
    limits: PeerLimits = field(default_factory=PeerLimits)
    known_peers: tuple[str, ...] = ()
    """Peers of an earlier run."""
    swarm_key: SwarmKey | None = None
    """Of the private network that the host is in."""
    members: frozenset[str] = frozenset()
    """Ids of the peers that alone may be connected; none: everybody."""
    announce: tuple[str, ...] = ()
    """What is told to others instead of the addresses of the interfaces: a forwarded port."""
    http: HttpLimits = field(default_factory=HttpLimits)


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected peer."""

    peer: str
    addresses: tuple[str, ...]
    since: float
    """Unix time of the oldest open connection."""
    round_trip: float | None = None
    """Seconds, as the kernel measured them on the fastest connection; None where it does not."""
    inbound: bool = False
    """Whether the peer dialled."""
    path: str = "direct"
    """How it is reached: "direct"; "punched", directly with a relay's help; "relay", through it."""


def session_options(key: KeyPair) -> tuple[dict[TProtocol, ISecureTransport], TMuxerOptions]:
    """Return the security transports and the multiplexers that this node speaks.

    The one place that chooses them: what is not here is refused in both directions.
    libp2p hard-codes the classes behind both names; ``install`` puts ours there.
    """
    install()
    noise = NoiseTransport(key, noise_privkey=x25519_pair().private_key)
    return {TProtocol(NOISE): noise}, {TProtocol(YAMUX): Yamux}


class _PeerHost(BasicHost):
    """libp2p's host whose tasks live in a nursery of ours and not in trio's system nursery."""

    nursery: trio.Nursery
    identified: Sequence[Callable[[str], None]] = ()

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        if peer_id == self.get_id() or peer_id in self._identify_inflight:
            return
        if not self._should_identify_peer(peer_id) or peer_id in self._identified_peers:
            return
        self._identify_inflight.add(peer_id)
        self.nursery.start_soon(self._identify_task_entry, peer_id, reason)

    async def _identify_task_entry(self, peer_id: ID, reason: str) -> None:
        try:
            await super()._identify_task_entry(peer_id, reason)
            for tell in self.identified:
                tell(str(peer_id))
        except Exception:
            # What a peer says about itself is optional, and so is the answer to asking.
            log.debug("identify failed", exc_info=True)


StreamHandler = Callable[[INetStream], Awaitable[None]]
BodyRule = Callable[[Request], int]
"""Bytes of body that a POST may bring, by its head; 0: none there. An AllodError is its answer."""


def no_body(request: Request) -> int:
    """No request may bring a body."""
    return 0


class PeerBodies:
    """The bodies of peers' requests: as the node's rule wants them, within each peer's budget."""

    def __init__(self, rule: BodyRule, book: Book) -> None:
        self._rule = rule
        self._book = book

    def limit(self, request: Request) -> int:
        """See p2p.http.Bodies.limit."""
        return self._rule(request)

    @contextmanager
    def hold(self, request: Request, size: int) -> Iterator[None]:
        """See p2p.http.Bodies.hold; PeerRefused(429) past the budget."""
        now = trio.current_time()
        account = self._book.account(request.peer, now)
        wait = self._book.open_body(account, now, size)
        if wait:
            raise PeerRefused(
                "There is no room for more requests of that size now.",
                status=429,
                retry_after=wait,
                peer=request.peer,
            )
        try:
            yield
        finally:
            self._book.close_body(account, size)


class Host:
    """The door to the network; made by ``open_host``."""

    def __init__(
        self, key: SecretKey, settings: HostSettings, bound: Sequence[tuple[str, int]]
    ) -> None:
        self.settings = settings
        self.peer_id = key.public.peer_id
        self.book = Book(settings.limits)
        self.rates = Rates()
        """Bytes a second, for streams and lanes together."""
        self.counts: Counter[str] = Counter()
        """What peers did, by a word: faults, bans."""
        self.circuits: Callable[[], list[Address]] = list
        """Where this host is reached through relays; whoever keeps places there puts it here."""
        self.on_moved = trio.Event()
        """Set, and replaced, each time that the addresses told to others have changed."""
        named = {text.rpartition("/p2p/")[2] for text in settings.bootstrap}
        self.reachability = Reachability(named=named, moved=self.moved)
        """Which of the addresses were seen to work from outside."""
        self.identified: list[Callable[[str], None]] = []
        """Who is told the id of a peer that has said what it speaks."""
        self.bound = tuple(bound)
        """The (host, port) pairs that it listens on; a host may be a wildcard."""
        self._known: OrderedDict[str, OrderedDict[Address, None]] = OrderedDict()
        self._handler: Handler | None = None
        self._bodies = PeerBodies(no_body, self.book)
        self._network: Network
        self._basic: _PeerHost

    # --- who and where ---

    @property
    def addresses(self) -> list[str]:
        """The addresses told to others, each with ``/p2p/`` and our peer id."""
        return [str(address) for address in self.own_addresses()]

    def own_addresses(self) -> list[Address]:
        """The same, parsed: what the owner says, or what is known to work and what may work."""
        if self.settings.announce:
            told = [Address.parse(text) for text in self.settings.announce]
        else:
            told = self.reachability.told(self.interfaces())
        return [*(address.at(self.peer_id) for address in told), *self.circuits()]

    def interfaces(self) -> list[Address]:
        """Where this machine listens: not on loopback, unless there is only loopback."""
        found = dialable(self.bound)
        return [address for address in found if address.reach > Reach.MACHINE] or found

    def moved(self) -> None:
        """Say that the addresses told to others have changed."""
        self.on_moved.set()
        self.on_moved = trio.Event()

    def reaches(self, address: Address) -> bool:
        """Say whether a stranger's hint may be dialled; what a name leads to is asked when it is.

        Loopback only if this host is itself on loopback: else a stranger could point us at
        this machine's own services.
        """
        if address.reach is Reach.MACHINE:
            return any(own.reach is Reach.MACHINE for own in self.own_addresses())
        return address.reach is not Reach.NOWHERE

    def remember(self, peer: str, addresses: Iterable[Address]) -> None:
        """Keep the addresses at which a peer may answer, the latest first; bounded."""
        if peer == self.peer_id:
            return
        known = self._known.setdefault(peer, OrderedDict())
        self._known.move_to_end(peer)
        for address in reversed(list(addresses)):
            if address.peer in (None, peer) and self.reaches(address):
                known[address.at(None)] = None
                known.move_to_end(address.at(None), last=False)
        while len(known) > MAX_KNOWN_ADDRESSES:
            known.popitem()
        if not known:
            del self._known[peer]
        while len(self._known) > MAX_KNOWN_PEERS:
            self._known.popitem(last=False)

    def known_addresses(self, peer: str) -> list[Address]:
        """The addresses that are known for a peer, told by anybody or by itself."""
        return [*self._known.get(peer, ()), *self._identified(peer)]

    # --- connections ---

    @property
    def parted(self) -> list[Callable[[str], None]]:
        """Who is told the id of a peer whose last connection has ended."""
        return self._network.parted

    async def connect(self, multiaddr: str) -> str:
        """Connect to ``/ip4/.../tcp/.../p2p/PEER`` and return the peer id.

        Raises UsageError for a malformed address, NoSources when nobody answers there as PEER.
        """
        address = Address.parse(multiaddr)
        if address.peer is None:
            raise UsageError(
                f"Expected an address with a peer id, came {multiaddr}.",
                next="Add /p2p/ and the id that the other node shows when it starts.",
            )
        if address.peer == self.peer_id:
            raise UsageError(f"The address {multiaddr} is this node's own.")
        await self.reach(address.peer, [address])
        known = self._known.setdefault(address.peer, OrderedDict())
        known[address.at(None)] = None
        return address.peer

    async def reach(
        self, peer: str, addresses: Iterable[Address] = (), *, relayed: bool = True
    ) -> None:
        """Have a connection to ``peer``; NoSources when none of its addresses answers as it.

        ``relayed``: whether one through a relay will do.
        """
        try:
            await self._network.dial(ID.from_base58(peer), addresses, relayed=relayed)
        except SwarmException as exc:
            raise NoSources(
                f"The peer {peer} could not be reached ({exc}).",
                next="Check that it runs and that its port is open.",
            ) from exc

    async def open_stream(self, peer: str, protocol: str = HTTP) -> PeerStream:
        """Open a stream to a peer, dialling it if need be.

        Raises NoSources when it can't be reached, PeerFault when it doesn't speak ``protocol``,
        PeerGone when it falls silent.
        """
        await self.reach(peer)
        try:
            with trio.fail_after(OPEN_TIME):
                stream = await self._basic.new_stream(ID.from_base58(peer), [TProtocol(protocol)])
        except SwarmException as exc:
            raise PeerGone(f"The connection to {peer} broke.", peer=peer) from exc
        except trio.TooSlowError as exc:
            raise PeerGone(f"{peer} opened no stream within {OPEN_TIME:g} s.", peer=peer) from exc
        except (*BROKEN, UnicodeDecodeError, ValueError) as exc:
            if "not supported" in str(exc.__cause__):
                raise PeerFault(f"{peer} doesn't speak {protocol}.", peer=peer) from exc
            raise PeerGone(f"{peer} opened no stream for {protocol}.", peer=peer) from exc
        return self.wrap(stream, peer)

    def peers(self) -> list[PeerInfo]:
        """The peers that are connected now."""
        infos = []
        for peer_id, conns in self._network.get_connections_map().items():
            live = [conn for conn in conns if not conn.is_closed]
            if live:
                peer = str(peer_id)
                texts = dict.fromkeys(str(address) for address in self.known_addresses(peer))
                trips = [trip for conn in live if (trip := round_trip(conn)) is not None]
                infos.append(
                    PeerInfo(
                        peer,
                        tuple(texts),
                        min(connected_since(conn) for conn in live),
                        min(trips, default=None),
                        all(dialled_us(conn) for conn in live),
                        self._path(peer_id),
                    )
                )
        return infos

    def _path(self, peer_id: ID) -> str:
        direct = self._network.direct(peer_id)
        if not direct:
            return "relay"
        return "punched" if all(conn in self._network.punched for conn in direct) else "direct"

    @property
    def network(self) -> Network:
        """The connections themselves, for what joins some of its own: relays and their like."""
        return self._network

    def outdone(self, stream: PeerStream, peer: str) -> bool:
        """Say whether a new stream to ``peer`` would do without the relay that ``stream`` needs."""
        return stream.relayed and bool(self._network.direct(ID.from_base58(peer)))

    def hosts_of(self, peer: str) -> list[str]:
        """The IP addresses from which a peer is connected now, without any relay between."""
        found = map(far_host, self._network.live(ID.from_base58(peer)))
        return [host for host in found if host is not None]

    def connected(self, peer: str) -> bool:
        """Say whether there is an open connection to ``peer``."""
        return bool(self._network.live(ID.from_base58(peer)))

    async def disconnect(self, peer: str) -> None:
        """Close all connections to ``peer``."""
        await self._network.close_peer(ID.from_base58(peer))

    @property
    def members(self) -> frozenset[str]:
        """The peers that alone may be connected; none: everybody."""
        return self._network.members

    async def set_members(self, members: Iterable[str]) -> None:
        """Change them; the connections of all others end at once."""
        self._network.members = frozenset(members)
        for info in self.peers():
            if self.members and info.peer not in self.members:
                log.info("peer %s is no member: its connections end", info.peer)
                await self.disconnect(info.peer)

    async def ban(self, peer: str, reason: str, seconds: float) -> None:
        """Disconnect ``peer`` and keep it out for ``seconds``."""
        now = trio.current_time()
        self.book.account(peer, now).ban(now, seconds)
        self.counts["bans"] += 1
        log.warning("peer %s is banned for %g s: %s", peer, seconds, reason)
        await self.disconnect(peer)

    def banned(self, peer: str) -> bool:
        """Say whether ``peer`` is kept out, for its faults or as no member."""
        if self.members and peer not in self.members:
            return True
        return self.book.banned(peer, trio.current_time())

    # --- serving ---

    def set_handler(self, handler: Handler, bodies: BodyRule = no_body) -> None:
        """Answer HTTP requests of peers with ``handler``; ``bodies``: which may have a body."""
        self._handler = handler
        self._bodies = PeerBodies(bodies, self.book)
        self.set_stream_handler(HTTP, self._serve_http)

    def set_stream_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Serve streams of ``protocol``; whatever ``handler`` raises ends its stream only."""
        self._basic.set_stream_handler(TProtocol(protocol), handler)

    def drop_stream_handler(self, protocol: str) -> None:
        """Serve no new streams of ``protocol``."""
        self._basic.remove_stream_handler(TProtocol(protocol))

    def protocols_of(self, peer: str) -> frozenset[str]:
        """The protocols that a connected peer says it serves (empty before it has said so)."""
        try:
            return frozenset(self._basic.get_peerstore().get_protocols(ID.from_base58(peer)))
        except Exception:  # the peer store raises different things for "unknown"
            return frozenset()

    async def fault(self, peer: str, error: BaseException) -> None:
        """Count a breach of protocol by ``peer``: log it now and then, drop the peer at last."""
        now = trio.current_time()
        self.counts["faults"] += 1
        silenced = self.book.log_line(peer, now)
        if silenced is not None:
            log.warning("peer %s: %s (%d more before)", peer, error, silenced)
        account = self.book.account(peer, now)
        leaving = account.banned(now)  # what it had under way when it was dropped is no news
        if account.fault(now) and not leaving:
            self.counts["bans"] += 1
            log.warning("peer %s is dropped: too many faults", peer)
            await self.disconnect(peer)

    def charged(self, handler: Handler) -> Handler:
        """The same handler, but each request counts in the budget of the peer that asks."""

        async def admitted(request: Request) -> Response:
            account = self.book.account(request.peer, trio.current_time())
            wait = account.open_request(trio.current_time())
            if wait:
                raise PeerRefused(
                    "This peer asks more than its share.",
                    status=429,
                    retry_after=wait,
                    peer=request.peer,
                )
            try:
                response = await handler(request)
            finally:
                account.close_request()
            if isinstance(response.body, FileBody):
                if not self.rates.begin_upload(request.peer):
                    if response.done is not None:
                        response.done()
                    raise PeerRefused(
                        "All places for uploads are taken.",
                        status=429,
                        retry_after=UPLOAD_AGAIN,
                        peer=request.peer,
                    )
                ended = partial(self.rates.end_upload, request.peer)
                if response.done is not None:
                    ended = partial(_each, ended, response.done)
                return replace(response, done=ended)
            return response

        return admitted

    async def _serve_http(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        assert self._handler is not None
        await serve_http(
            self.wrap(stream, peer),
            self.charged(self._handler),
            peer=peer,
            limits=self.settings.http,
            bodies=self._bodies,
        )

    def wrap(self, stream: INetStream, peer: str) -> PeerStream:
        """A stream of a peer, counted in its budget and under its rates."""
        account = self.book.account(peer, trio.current_time())
        return PeerStream(stream, account, self.rates.of(peer))

    async def _on_stream(self, stream: INetStream) -> None:
        """The fault boundary: every inbound stream of every protocol runs in here."""
        peer = str(stream.muxed_conn.peer_id)
        account = self.book.account(peer, trio.current_time())
        if not account.open_stream():
            await stream.reset()
            await self.fault(peer, PeerFault("Too many streams at once.", peer=peer))
            return
        try:
            await self._basic._swarm_stream_handler(stream)
        except (PeerGone, trio.BrokenResourceError, trio.ClosedResourceError, *BROKEN):
            await stream.reset()  # the stream or connection is gone: an everyday end
        except (PeerFault, UnicodeDecodeError) as exc:
            await stream.reset()
            await self.fault(peer, exc)
        except AllodError as exc:
            await stream.reset()
            log.warning("a stream of peer %s failed: %s", peer, exc)
        except Exception:
            # A bug of ours, or a foreign exception nobody has met: it may end this stream only.
            await stream.reset()
            silenced = self.book.log_line(peer, trio.current_time())
            if silenced is not None:
                log.exception("a stream of peer %s failed (%d more before)", peer, silenced)
        finally:
            account.close_stream()

    # --- inner life ---

    def _attach(self, network: Network, nursery: trio.Nursery) -> None:
        basic = _PeerHost(
            network,
            negotiate_timeout=NEGOTIATE_TIME,
            # Guessing our address from what peers claim to see is their word; `announce` is ours.
            disable_identify_address_discovery=True,
        )
        basic.nursery = nursery
        basic.identified = self.identified
        self._network, self._basic = network, basic
        network.set_stream_handler(self._on_stream)
        for text in self.settings.known_peers:
            try:
                address = Address.parse(text)
            except UsageError:
                log.debug("a remembered peer address is malformed: %s", text)
                continue
            if address.peer is not None:
                self.remember(address.peer, [address])

    def _identified(self, peer: str) -> list[Address]:
        try:
            maddrs = self._basic.get_peerstore().addrs(ID.from_base58(peer))
        except Exception:  # the peer store raises different things for "unknown"
            return []
        addresses = []
        for maddr in maddrs[:MAX_KNOWN_ADDRESSES]:
            try:
                address = Address.parse(str(maddr))
            except UsageError:
                continue
            if self.reaches(address) and address.peer in (None, peer):
                addresses.append(address.at(None))
        return addresses


def _each(*calls: Callable[[], None]) -> None:
    for call in calls:
        call()


@asynccontextmanager
async def open_host(key: SecretKey, settings: HostSettings) -> AsyncIterator[Host]:
    """Run a host with this identity; PortInUse, or NetworkError when it can't listen.

    Leaving the context closes its sockets and connections.
    """
    listeners = await open_listeners(settings.listen_hosts, settings.listen_port)
    try:
        host = Host(key, settings, endpoints(listeners))
        pair = ed25519_pair(key.seed)
        security, muxers = session_options(pair)
        upgrader = TransportUpgrader(security, muxers, NEGOTIATE_TIME)
        peer_id = ID.from_pubkey(pair.public_key)
        async with open_network(
            peer_id, upgrader, host.book, host.known_addresses, host.reaches
        ) as network:
            network.peerstore.add_key_pair(peer_id, pair)
            network.listeners["allod"] = Listener(host.own_addresses)
            network.swarm_key, network.members = settings.swarm_key, settings.members
            async with trio.open_nursery() as nursery:
                host._attach(network, nursery)
                for listener in listeners:
                    nursery.start_soon(trio.serve_listeners, network.accept, [listener])
                try:
                    yield host
                finally:
                    nursery.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.socket.close()
