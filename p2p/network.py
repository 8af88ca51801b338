"""libp2p's Swarm with the parts replaced that make it unfit for strangers: dial, accept, tasks.

Knows connections; must not know HTTP, the DHT or any protocol on a stream.
Rules that it keeps, each against a trap of libp2p 0.8.1 (docs/explanation/libp2p.md):

- A dial tries all usable addresses, the next one 250 ms after the last or as soon as that failed,
  and ends at the first success. A failure is forgotten at once.
- An accepted socket has a bounded time to become a connection, and the place it takes is given
  back when it closes (stock keeps it for the life of the process).
- Every task lives in the nursery that the caller gives; no task can end another one.
- Reads before authentication are bounded, whatever length a stranger announces.
"""

import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakSet

import trio
from libp2p.abc import IListener, IMuxedConn, INetConn
from libp2p.connection_types import ConnectionType
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmDialAllFailedError, SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils import varint
from libp2p.utils.logging import setup_logging
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.address import Address, line_of
from p2p.dialling import Reaches, open_tcp, race
from p2p.errors import NetworkError
from p2p.limits import Book
from p2p.private import protect
from p2p.swarmkey import SwarmKey

log = logging.getLogger(__name__)

DIAL_TIME = 10.0
"""Seconds for one address: connect, authenticate, multiplex."""
MAX_DIAL_ADDRESSES = 16
"""Addresses tried for one peer: a machine has a few interfaces, a liar has thousands."""
MAX_DIAL_CIRCUITS = 4
"""Places at relays that are tried among them, after the others."""
MAX_READ = 1 << 20
"""Bytes asked of a socket at once; stock asks for whatever length the stranger announced."""
MAX_NEGOTIATION = 1024
"""Bytes of one multistream-select message, as go-libp2p and js-libp2p have it."""
RTT_AT = 68
"""Where in Linux's struct tcp_info the smoothed round trip stands, four bytes of microseconds."""
TCP_INFO_SIZE = 104
"""Bytes of it that are asked for: those that every kernel has."""
DEAD_AFTER = 30
"""Seconds after which the kernel gives up a peer that acknowledges nothing."""
NO_MEMBER = "is no member of this network (p2p.members)"
SHARE_PORT = (
    socket.SO_REUSEADDR,
    *([socket.SO_REUSEPORT] if hasattr(socket, "SO_REUSEPORT") else []),
)
"""What lets several sockets of one program use a port; a listener of ours has it never."""
NO_ANSWER = (SwarmException, NetworkError, OSError, trio.TooSlowError)
"""What an address raises at which this peer does not answer."""
CONNECTIONS_PER_PEER = 8
"""Connections of one peer: two dials that cross make two; a client has a few more at worst."""


class TcpStream(TrioTCPStream):
    """libp2p's socket with bounded reads and with IPv6 peers that have an address."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        sock = stream.socket
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A hole is punched from the port that the relay sees (p2p/relay/knock.py).
        for option in SHARE_PORT:
            stream.setsockopt(socket.SOL_SOCKET, option, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER * 1000)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_AFTER)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_AFTER // 3)
        try:
            host, port = sock.getpeername()[:2]
            self._cached_remote_address = (str(host).partition("%")[0], int(port))
        except OSError:  # already gone: the next read says so
            self._cached_remote_address = None

    async def read(self, n: int | None = None) -> bytes:
        """Return up to ``n`` bytes, and never more than MAX_READ."""
        return await super().read(MAX_READ if n is None else min(n, MAX_READ))


class Listener(IListener):
    """Open sockets, as libp2p wants to see them; accepting is the Network's."""

    def __init__(self, addresses: Callable[[], list[Address]]) -> None:
        self._addresses = addresses

    async def listen(self, maddr: Multiaddr) -> None:
        """Not used: sockets are open before the network is."""
        raise NotImplementedError

    async def close(self) -> None:
        """Not needed: the nursery that serves the sockets closes them."""

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """The addresses that are told to peers."""
        return tuple(Multiaddr(str(address.at(None))) for address in self._addresses())


class Tasks:
    """What libp2p's services call their manager, over one nursery of ours.

    Stock runs all connections under one manager that ends when any task raises.
    Here a task that raises takes its own connection along and nothing else.
    """

    is_running = True

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def run_task(self, function: Callable[..., Awaitable[Any]], *args: Any, **_: Any) -> None:
        """Start ``function`` in the nursery."""
        self._nursery.start_soon(self._run, function, args, name=repr(function))

    async def wait_finished(self) -> None:
        """Wait for the end of the network, which is the end of the nursery."""
        await trio.sleep_forever()

    async def stop(self) -> None:
        """The nursery's owner stops it."""

    async def _run(self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except Exception:
            # Whatever a connection raises, hostile or a bug, must not reach the other connections.
            log.debug("a connection ended with an error", exc_info=True)
            owner = getattr(function, "__self__", None)
            if owner is not None and hasattr(owner, "close"):
                with trio.CancelScope(shield=True) as scope:
                    scope.deadline = trio.current_time() + 1
                    try:
                        await owner.close()
                    except Exception:  # it is broken already
                        log.debug("a broken connection did not close", exc_info=True)


def prepare_libp2p() -> None:
    """Bound and quieten what libp2p keeps in module globals; harmless when repeated."""

    async def read_limited(reader: Any) -> bytes:
        return await varint.read_varint_prefixed_bytes_limited(reader, MAX_NEGOTIATION)

    varint.read_varint_prefixed_bytes = read_limited
    # It logs to the root logger, whose functions install a handler on stderr at their first call.
    vars(swarm_connection)["logging"] = logging.getLogger("libp2p.swarm_conn")
    logger = logging.getLogger("libp2p")
    if logger.level == logging.NOTSET:
        setup_logging()  # what libp2p/__init__ does, which slim imports leave out
    if logger.level == logging.WARNING:  # LIBP2P_DEBUG, which libp2p reads, sets another
        # An error logged for each hostile connection is a way to fill a disk; ours are limited.
        logger.setLevel(logging.CRITICAL)


class Network(Swarm):
    """Connections to peers, by peer id."""

    def __init__(
        self,
        peer_id: ID,
        upgrader: TransportUpgrader,
        book: Book,
        addresses_of: Callable[[str], Iterable[Address]],
        reaches: Reaches,
        *,
        nursery: trio.Nursery,
    ) -> None:
        limits = book.limits
        config = ConnectionConfig(
            max_connections=limits.connections,
            min_connections=0,
            low_watermark=0,  # nothing is dialled that nobody asked for
            high_watermark=limits.connections,
            max_connections_per_peer=CONNECTIONS_PER_PEER,
            inbound_upgrade_timeout=limits.handshake_time,
            outbound_upgrade_timeout=DIAL_TIME,
        )
        super().__init__(peer_id, PeerStore(), upgrader, connection_config=config)
        self._manager = Tasks(nursery)  # type: ignore[assignment]
        self.through: Callable[[Address, str], Awaitable[RawConnection]] | None = None
        """Opens a circuit to a peer at an address that is at a relay; who it is, the relay says."""
        self.punched: WeakSet[INetConn] = WeakSet()
        """Connections that a relay helped to make, and that go on without it."""
        self.swarm_key: SwarmKey | None = None
        """Of the private network that this node is in; whoever has not the key is kept out."""
        self.members: frozenset[str] = frozenset()
        """The peers that alone may be connected; none: everybody."""
        self._book = book
        self._addresses_of = addresses_of
        self._reaches = reaches
        self._dials: dict[ID, trio.Event] = {}
        self._handshakes = 0
        self._by_ip: dict[str, int] = {}
        self.parted: list[Callable[[str], None]] = []
        self.needed: list[Callable[[str], bool]] = []
        """Who says of a peer that its connections are needed, though they carry nothing now."""
        self._handshakes_by_ip: dict[str, int] = {}

    # --- dialling ---

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Return the open connections to a peer, dialling its known addresses if there are none."""
        await self.dial(peer_id, ())
        return self.live(peer_id)

    async def dial(
        self, peer_id: ID, addresses: Iterable[Address], *, relayed: bool = True
    ) -> None:
        """Have a connection to the peer: try ``addresses`` first, then those that are known.

        ``relayed``: whether a circuit through a relay will do; it is tried last.
        Raises SwarmException when no address answers as this peer.
        """
        while (running := self._dials.get(peer_id)) is not None:
            await running.wait()  # it may have known other addresses: if it failed, ours are tried
        if self._there(peer_id, relayed):
            return
        self._dials[peer_id] = ended = trio.Event()
        try:
            if self._book.banned(str(peer_id), trio.current_time()):
                raise SwarmException(f"{peer_id} is banned for its faults")
            if self.members and str(peer_id) not in self.members:
                raise SwarmException(f"{peer_id} {NO_MEMBER}")
            known = (*addresses, *self._addresses_of(str(peer_id)))
            unique = dict.fromkeys(address.at(None) for address in known)
            circuits = [one for one in unique if one.relay is not None][:MAX_DIAL_CIRCUITS]
            direct = [one for one in unique if one.relay is None]
            if not relayed:
                circuits = []
            most = MAX_DIAL_ADDRESSES - len(circuits)
            await self._race(peer_id, [*direct[:most], *circuits])
        finally:
            del self._dials[peer_id]
            ended.set()

    def _there(self, peer_id: ID, circuits: bool) -> bool:
        """Say whether there is a connection, or a direct one if circuits won't do."""
        return bool(self.live(peer_id) if circuits else self.direct(peer_id))

    def direct(self, peer_id: ID) -> list[INetConn]:
        """The connections to a peer that are not closed, and go through no relay."""
        return [conn for conn in self.live(peer_id) if not relayed(conn)]

    def live(self, peer_id: ID) -> list[INetConn]:
        """The connections to a peer that are not closed."""
        return [conn for conn in self.get_connections(peer_id) if not conn.is_closed]

    async def _race(self, peer_id: ID, addresses: list[Address]) -> None:
        failures: list[str] = []

        async def attempt(address: Address) -> INetConn:
            try:
                with trio.fail_after(DIAL_TIME):
                    return await self._connect(peer_id, address)
            except NO_ANSWER as exc:
                failures.append(f"{address}: {str(exc) or type(exc).__name__}")
                raise

        if not await race([partial(attempt, address) for address in addresses], NO_ANSWER):
            raise SwarmDialAllFailedError(
                "; ".join(failures) or f"no address of {peer_id} is known",
                peer_id=peer_id,
                num_addrs_tried=len(addresses),
            )

    async def _connect(self, peer_id: ID, address: Address) -> INetConn:
        if address.relay is None:
            stream = await open_tcp(address, self._reaches)
            return await self.upgrade(RawConnection(TcpStream(stream), True), peer_id)
        if self.through is None:
            raise SwarmException("this node uses no relays")
        return await self.upgrade(await self.through(address, str(peer_id)), peer_id)

    async def greet(self, peer_id: ID, address: Address) -> None:
        """See that the peer answers at an address, by a connection that ends with its handshake.

        Raises SwarmException, OSError or trio.TooSlowError when it does not, within DIAL_TIME.
        """
        with trio.fail_after(DIAL_TIME):
            stream = await open_tcp(address, self._reaches)
            raw = RawConnection(TcpStream(stream), True)
            try:
                sealed = protect(raw, self.swarm_key)
                await self.upgrader.upgrade_security(sealed, True, peer_id)
            except Exception as exc:
                # The other side chooses what libp2p's handshake parsers choke on.
                raise SwarmException(f"the handshake failed: {exc!r}") from exc
            finally:
                await _drop(raw)

    async def upgrade(self, raw: RawConnection, peer_id: ID) -> INetConn:
        """Make a connection to the peer of one that is open, as the side that dialled.

        Raises SwarmException when the other side is not that peer, or breaks the handshake.
        """
        done = False
        try:
            conn = await self.upgrade_outbound_raw_conn(protect(raw, self.swarm_key), peer_id)
            done = True
            return conn
        except SwarmException:
            raise
        except Exception as exc:
            # The other side chooses what libp2p's handshake parsers choke on.
            raise SwarmException(f"the handshake failed: {exc!r}") from exc
        finally:
            if not done:
                await _drop(raw)

    # --- accepting ---

    async def accept(self, stream: trio.SocketStream) -> None:
        """Turn an accepted socket into a connection, and stay until that has ended."""
        ip = ""
        try:
            tcp = TcpStream(stream)
            ip = line_of((tcp.get_remote_address() or ("", 0))[0])
            if not ip or not await self.has_room(ip):
                log.debug("no room for a connection from %s", ip)
                return
            with _counted(self._by_ip, ip):
                await self.admit(RawConnection(tcp, False), ip)
        except Exception:
            # A stranger's bytes may trip anything in the handshake; only this socket ends.
            silenced = self._book.log_line(f"ip {ip}", trio.current_time())
            if silenced is not None:
                log.info("a connection from %s failed (%d more before)", ip, silenced)
            log.debug("a connection from %s failed", ip, exc_info=True)

    async def has_room(self, origin: str) -> bool:
        """Say whether one more may come in from an IP address, or through a relay."""
        limits = self._book.limits
        return (
            self._handshakes < limits.handshakes
            and self._handshakes_by_ip.get(origin, 0) < limits.handshakes_per_address
            and self._by_ip.get(origin, 0) < limits.connections_per_address
            and await self._room()
        )

    async def admit(self, raw: RawConnection, origin: str) -> None:
        """Make a connection of one that came in, and stay until it has ended; any exception.

        ``origin``: who is counted for it, an IP address or a relay.
        """
        conn = await self.shake_hands(raw, origin)
        if conn is not None:
            await conn.event_closed.wait()

    async def shake_hands(self, raw: RawConnection, ip: str) -> SwarmConn | None:
        """Make a connection of one that came in, within a bounded time; any exception.

        None when it ended at once.
        """
        self._handshakes += 1
        try:
            with (
                _counted(self._handshakes_by_ip, ip),
                trio.fail_after(self._book.limits.handshake_time),
            ):
                raw = protect(raw, self.swarm_key)
                muxed = await self.upgrade_inbound_raw_conn(raw, Multiaddr("/ip4/0.0.0.0/tcp/0"))
        finally:
            self._handshakes -= 1
        for conn in self.get_connections(muxed.peer_id):
            if conn.muxed_conn is muxed and isinstance(conn, SwarmConn):
                return conn
        return None

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Register an authenticated connection; SwarmException for a peer that is kept out."""
        peer_id = muxed_conn.peer_id
        if self._book.banned(str(peer_id), trio.current_time()):
            reason = "is banned for its faults"
        elif self.members and str(peer_id) not in self.members:
            reason = NO_MEMBER
        elif len(self.live(peer_id)) >= CONNECTIONS_PER_PEER:
            reason = "has too many connections"
        else:
            conn = await super().add_conn(muxed_conn, direction)
            if not conn.is_closed:
                return conn
            # It ended while it was being registered: stock would keep the dead entry for ever.
            self.remove_conn(conn)
            raise SwarmException(f"{peer_id} closed the connection at once")
        await muxed_conn.close()
        raise SwarmException(f"{peer_id} {reason}")

    async def _room(self) -> bool:
        """See that one more connection fits, at the cost of the oldest one that carries nothing."""
        conns = self.get_connections()
        if len(conns) < self._book.limits.connections:
            return True
        idle = [
            conn
            for conn in conns
            if isinstance(conn, SwarmConn)
            and not conn.streams
            and not any(needs(str(conn.muxed_conn.peer_id)) for needs in self.needed)
        ]
        if not idle:
            return False
        await min(idle, key=lambda conn: conn._created_at).close()
        return True

    async def notify_disconnected(self, conn: INetConn) -> None:
        """Tell those who listen, and forget what libp2p stored of a peer that is gone."""
        await self._notify("disconnected", conn)
        peer_id = conn.muxed_conn.peer_id
        if peer_id != self.self_id and not self.get_connections(peer_id):
            self.peerstore.peer_data_map.pop(peer_id, None)  # type: ignore[attr-defined]
            self.peerstore.peer_record_map.pop(peer_id, None)  # type: ignore[attr-defined]
            if not self._closing:
                for tell in self.parted:
                    tell(str(peer_id))


class _counted:  # noqa: N801  a context manager, named like contextlib's
    """Count a key up inside the block, and forget it at zero."""

    def __init__(self, counts: dict[str, int], key: str) -> None:
        self._counts = counts
        self._key = key

    def __enter__(self) -> None:
        self._counts[self._key] = self._counts.get(self._key, 0) + 1

    def __exit__(self, *_: object) -> None:
        self._counts[self._key] -= 1
        if not self._counts[self._key]:
            del self._counts[self._key]


@asynccontextmanager
async def open_network(
    peer_id: ID,
    upgrader: TransportUpgrader,
    book: Book,
    addresses_of: Callable[[str], Iterable[Address]],
    reaches: Reaches,
) -> AsyncIterator[Network]:
    """Run a network; leaving closes all of its connections.

    ``addresses_of`` knows where a peer may answer, ``reaches`` what of it may be dialled.
    """
    prepare_libp2p()
    async with trio.open_nursery() as nursery:
        network = Network(peer_id, upgrader, book, addresses_of, reaches, nursery=nursery)
        try:
            yield network
        finally:
            network._closing = True
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + 2
                async with trio.open_nursery() as closing:
                    for conn in network.get_connections():
                        closing.start_soon(_close_quietly, conn)
            nursery.cancel_scope.cancel()


async def _close_quietly(conn: INetConn) -> None:
    try:
        await conn.close()
    except Exception:  # the network ends: there is nobody left to tell
        log.debug("a connection did not close", exc_info=True)


async def _drop(raw: RawConnection) -> None:
    """Close what is to be no connection, at once."""
    with trio.CancelScope(shield=True) as scope:
        scope.deadline = trio.current_time() + 1
        with suppress(Exception):  # it may be broken, and nobody waits for it
            await raw.close()


def connected_since(conn: INetConn) -> float:
    """Unix time at which the connection was made."""
    return float(getattr(conn, "_created_at", time.time()))


def dialled_us(conn: INetConn) -> bool:
    """Say whether the peer made the connection."""
    return conn.muxed_conn.is_initiator is False


def relayed(conn: INetConn) -> bool:
    """Say whether the connection goes through a relay."""
    return conn.get_connection_type() is ConnectionType.RELAYED


def local_endpoint(conn: INetConn) -> tuple[str, int] | None:
    """This machine's address and port of a connection that it dialled; None where there is none."""
    session = getattr(conn.muxed_conn, "secured_conn", None)
    stream = getattr(session, "socket_stream", None)
    if stream is None or dialled_us(conn):
        return None
    try:
        host, port = stream.socket.getsockname()[:2]
    except OSError:  # it is gone
        return None
    return str(host), int(port)


def far_host(conn: INetConn) -> str | None:
    """The IP address at the other end; None where the connection has no socket of its own."""
    stream = getattr(getattr(conn.muxed_conn, "secured_conn", None), "socket_stream", None)
    if stream is None or relayed(conn):
        return None
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:  # it is gone
        return None


def round_trip(conn: INetConn) -> float | None:
    """Seconds of a round trip as the kernel measured it; None where it does not tell."""
    session = getattr(conn.muxed_conn, "secured_conn", None)
    stream = getattr(session, "socket_stream", None)
    if stream is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        told = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except (OSError, trio.ClosedResourceError):  # it is gone
        return None
    if len(told) < RTT_AT + 4:
        return None
    return int.from_bytes(told[RTT_AT : RTT_AT + 4], sys.byteorder) / 1e6
