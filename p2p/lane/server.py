"""The answering end: a socket of its own, a thread for each connection, bounded in every way.

Trio's thread accepts, counts, redeems tickets and runs the handler; threads do the handshakes and
move the payload. A connection that shows no good ticket within some seconds is closed, so what a
stranger without a libp2p identity can hold are a few threads for a few seconds.

Faults of a peer that is known are told to ``fault``, which keeps its budget; those of an address
without a ticket are only counted. Leaving ``open_lane_server`` ends every connection and thread.
"""

import logging
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio

from p2p.address import Address, line_of
from p2p.errors import AllodError, NotFound, PeerFault, PeerGone, PeerRefused
from p2p.http import FileBody, Handler, HttpLimits, Request, Response, error_response
from p2p.http.outlet import open_body
from p2p.http.server import split_target
from p2p.lane.client import run_blocking
from p2p.lane.offer import HEADER, TICKET_BYTES, TICKET_TIME, TICKETS, Encryption, Offer, Tickets
from p2p.lane.tls import Certificate, make_certificate
from p2p.lane.wire import Wire
from p2p.listening import dialable, endpoints, open_listeners
from p2p.rates import Meter, Rates

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The bounds on strangers; every default has its reason here."""

    lanes: int = 64
    """Connections in all, each with a thread: 64 threads with 1 MiB of buffer are 64 MiB."""
    lanes_per_address: int = 32
    """Of one IP address: a dozen machines behind one, with two lanes each."""
    lanes_per_peer: int = 8
    """Of one peer: it opens two, and again where one broke."""
    strangers: int = 16
    """Connections that have shown no ticket yet; the next one is closed at once."""
    prove_time: float = 5.0
    """Seconds from accept to a good ticket, the TLS handshake included."""
    idle: float = 30.0
    """Seconds between two requests: a thread waits meanwhile."""
    http: HttpLimits = field(default_factory=HttpLimits)


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """How lanes are offered and used."""

    port: int = 0
    hosts: tuple[str, ...] = ("0.0.0.0",)
    encryption: Encryption = "tls"
    limits: LaneLimits = field(default_factory=LaneLimits)


@dataclass(frozen=True, slots=True)
class Door:
    """What the lane server needs of the host that it belongs to."""

    handler: Handler
    fault: Callable[[str, BaseException], Awaitable[None]]
    banned: Callable[[str], bool]
    told: Callable[[], Sequence[Address]]
    """The addresses of the host that others are told; the lane listens on the same machines."""
    outside: Callable[[Address, int], int] = lambda address, port: port
    """By which port of such an address others get to a port of this machine."""


class LaneServer:
    """Offers lanes and serves them; made by ``open_lane_server``."""

    def __init__(
        self, door: Door, settings: LaneSettings, rates: Rates, certificate: Certificate,
        bound: Sequence[tuple[str, int]],
    ) -> None:  # fmt: skip
        self.settings = settings
        self.counts: Counter[str] = Counter()
        """What happened, by a word: lanes, requests, bytes, and every kind of refusal."""
        self._door = door
        self._rates = rates
        self._certificate = certificate
        self._bound = tuple(bound)
        self._tickets = Tickets()
        self._wires: dict[Wire, str] = {}
        """Every open connection and its address."""
        self._peers: dict[Wire, str] = {}
        """Those that have shown a ticket, and whose."""
        self._threads = trio.CapacityLimiter(settings.limits.lanes)

    def __len__(self) -> int:
        """How many connections are open."""
        return len(self._wires)

    @property
    def port(self) -> int:
        """The TCP port of this machine that it listens on."""
        return self._bound[0][1]

    @property
    def addresses(self) -> list[Address]:
        """Where lanes can be opened: as the host is told to others, with our port."""
        told = [
            Address(one.kind, one.host, self._door.outside(one, self.port))
            for one in self._door.told()
            if one.relay is None
        ]
        return list(dict.fromkeys(told)) or dialable(self._bound)

    def offer(self, peer: str, wants: Encryption) -> Offer:
        """Make an offer to a peer that has proved who it is."""
        encryption: Encryption = "off" if wants == self.settings.encryption == "off" else "tls"
        words = [secrets.token_hex(TICKET_BYTES) for _ in range(TICKETS)]
        tickets = self._tickets.give(peer, words, encryption, trio.current_time())
        return Offer(
            tuple(self.addresses), self._certificate.sha256, tickets, TICKET_TIME, encryption
        )

    def drop(self, peer: str) -> None:
        """End every lane of a peer."""
        for wire, whose in self._peers.items():
            if whose == peer:
                wire.abort()

    # -- on trio's thread

    async def accept(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends, if there is room for it."""
        try:
            address = line_of(str(stream.socket.getpeername()[0]))
        except OSError:  # it has hung up meanwhile
            self.counts["gone"] += 1
            return
        if not self._room(address):
            self.counts["refused: too many"] += 1
            return
        wire = Wire(socket.socket(fileno=stream.socket.detach()), self.settings.limits.http)
        self._wires[wire] = address
        try:
            await run_blocking(wire, lambda: self._serve(wire), self._threads)
        except PeerGone:
            self.counts["gone"] += 1
        except AllodError as exc:
            self.counts["faults"] += 1
            peer = self._peers.get(wire)
            log.debug("a lane of %s (%s) ended: %s", address, peer or "no peer", exc)
            if peer is not None:
                await self._door.fault(peer, exc)
        except Exception:
            # A bug of ours may end this lane, not the node.
            log.exception("a lane of %s failed", address)
        finally:
            self._peers.pop(wire, None)
            del self._wires[wire]
            wire.close()

    def _room(self, address: str) -> bool:
        limits = self.settings.limits
        return (
            len(self._wires) < limits.lanes
            and len(self._wires) - len(self._peers) < limits.strangers
            and sum(one == address for one in self._wires.values()) < limits.lanes_per_address
        )

    def _redeem(self, wire: Wire, word: str) -> str:
        """Find whose a ticket is; PeerRefused(401) when it is not good."""
        encryption: Encryption = "tls" if wire.encrypted else "off"
        peer = self._tickets.take(word, encryption, trio.current_time())
        if peer is None or self._door.banned(peer):
            self.counts["refused: ticket"] += 1
            raise PeerRefused("That ticket is not good (any more).", status=401)
        if sum(one == peer for one in self._peers.values()) >= self.settings.limits.lanes_per_peer:
            self.counts["refused: too many"] += 1
            raise PeerRefused("This peer has too many lanes.", status=429, retry_after=1.0)
        self._peers[wire] = peer
        self.counts["lanes"] += 1
        return peer

    async def _answer(self, request: Request) -> Response:
        if self._door.banned(request.peer):
            raise PeerRefused("This peer is kept out.", status=403, peer=request.peer)
        self.counts["requests"] += 1
        return await self._door.handler(request)

    # -- in the connection's thread

    def _serve(self, wire: Wire) -> None:
        limits = self.settings.limits
        deadline = time.monotonic() + limits.prove_time
        if self.settings.encryption == "tls" or wire.speaks_tls(limits.prove_time):
            wire.serve_tls(self._certificate.context, limits.prove_time)
        peer, rest = "", b""
        while True:
            head, rest = _read_head(wire, deadline, rest)
            if head is None:
                return
            headers = _headers(head)
            try:
                if not peer:
                    ticket = headers.get(HEADER, "")
                    peer = trio.from_thread.run_sync(self._redeem, wire, ticket)
                    wire.peer = peer
                request = _request(head, headers, peer)
            except PeerRefused as exc:
                _send(wire, error_response(exc), close=True)
                raise
            self._respond(wire, request)
            deadline = time.monotonic() + limits.idle

    def _respond(self, wire: Wire, request: Request) -> None:
        response: Response | None = None
        meter = self._rates.of(wire.peer).up
        file = -1
        try:
            try:
                response = trio.from_thread.run(self._answer, request)
                if isinstance(response.body, FileBody) and request.method == "GET":
                    file = open_body(response.body)
                elif not isinstance(response.body, FileBody | bytes):
                    raise NotFound("A lane carries bytes of files, nothing else.")
            except AllodError as exc:
                _send(wire, error_response(exc))
                return
            _send(wire, response, head_only=True)
            if isinstance(response.body, FileBody) and file >= 0:
                self._send_file(wire, file, response.body, meter)
            elif isinstance(response.body, bytes) and request.method == "GET":
                wire.send_metered(response.body, meter)
        finally:
            if file >= 0:
                os.close(file)
            if response is not None and response.done is not None:
                trio.from_thread.run_sync(response.done)

    def _send_file(self, wire: Wire, file: int, body: FileBody, meter: Meter) -> None:
        sent = wire.send_file(file, body.offset, body.length, meter)
        self.counts["bytes"] += sent
        if sent != body.length:
            wire.abort()  # the head is out: only a broken lane can tell the peer
            log.warning("a file of the store became shorter while it was sent")
            raise wire.gone()


def _read_head(wire: Wire, deadline: float, rest: bytes) -> tuple[h11.Request | None, bytes]:
    """Read one request head up to ``deadline``; None when the peer closed before it began.

    ``rest`` is what came behind the request before, and what is returned beside the head is what
    came behind this one: who has many small files to ask for does not wait for each answer.
    """
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=wire.limits.max_head)
    room = memoryview(b"")
    begun = bool(rest)
    if begun:
        conn.receive_data(rest)
        deadline = min(deadline, time.monotonic() + wire.limits.head)
    while True:
        try:
            event = conn.next_event()
        except h11.RemoteProtocolError as exc:
            raise PeerFault(f"Expected an HTTP request, came: {exc}.", peer=wire.peer) from exc
        if isinstance(event, h11.Request):
            return event, conn.trailing_data[0]
        if event is not h11.NEED_DATA:
            return None, b""
        left = deadline - time.monotonic()
        if left <= 0:
            raise wire.gone(TimeoutError()) if not begun else _slow(wire)
        try:
            room = room or memoryview(bytearray(wire.limits.max_head))
            count = wire.receive(room, left)
        except PeerGone as exc:
            if begun and time.monotonic() >= deadline:
                raise _slow(wire) from exc
            raise
        if count and not begun:
            begun = True
            deadline = min(deadline, time.monotonic() + wire.limits.head)
        conn.receive_data(bytes(room[:count]))


def _slow(wire: Wire) -> PeerFault:
    return PeerFault("A request head took too long.", peer=wire.peer)


def _headers(head: h11.Request) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}


def _request(head: h11.Request, headers: Mapping[str, str], peer: str) -> Request:
    if head.method not in (b"GET", b"HEAD"):
        raise PeerRefused("Expected the method GET or HEAD.", status=405, peer=peer)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise PeerRefused("Expected a request without a body.", status=413, peer=peer)
    path, query = split_target(head.target, peer)
    return Request(head.method.decode("ascii"), path, query, headers, peer)


def _send(wire: Wire, response: Response, *, head_only: bool = False, close: bool = False) -> None:
    """Send the head, and the body too where it is in memory."""
    body = response.body if isinstance(response.body, bytes) else b""
    length = response.body.length if isinstance(response.body, FileBody) else len(body)
    lines = [f"HTTP/1.1 {response.status} -", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += ["connection: close"] if close else []
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    wire.send(head if head_only else head + body)


@asynccontextmanager
async def open_lane_server(
    door: Door, settings: LaneSettings, rates: Rates
) -> AsyncIterator[LaneServer]:
    """Listen for lanes; PortInUse or NetworkError when that can't be.

    Leaving the context closes all connections and waits for their threads.
    """
    certificate = await trio.to_thread.run_sync(make_certificate)
    listeners = await open_listeners(settings.hosts, settings.port)
    try:
        server = LaneServer(door, settings, rates, certificate, endpoints(listeners))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.accept, listeners)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.socket.close()
