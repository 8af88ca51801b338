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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import h11
import trio

from p2p.address import Address, line_of
from p2p.errors import AllodError, NotFound, PeerGone, PeerRefused
from p2p.http import FileBody, Handler, HttpLimits, Request, Response, error_response
from p2p.http.outlet import open_body
from p2p.lane.client import run_blocking
from p2p.lane.heads import Heads, headers_of, length_of, request_of, write_head
from p2p.lane.offer import HEADER, TICKET_BYTES, TICKET_TIME, TICKETS, Encryption, Offer, Tickets
from p2p.lane.tls import Certificate, make_certificate
from p2p.lane.wire import Wire
from p2p.listening import dialable, endpoints, open_listeners
from p2p.rates import Rates

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Requests that are answered in one trip to trio's thread, of those that came in one breath."""
AHEAD = 1 << 20
"""Bytes of answers up to which that is done."""


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
        self._token = trio.lowlevel.current_trio_token()

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

    async def _answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answer the first of some requests of a peer; each ``done`` is to be called in the end.

        Not more of them than ``AHEAD`` bytes are soon sent: what is prepared takes memory, and the
        owner may change his mind about what is to be given.
        """
        answers: list[Response] = []
        size = 0
        try:
            for request in requests:
                answer = await self._answer_one(request)
                answers.append(answer)
                size += length_of(answer)
                if size >= AHEAD:
                    break
        except BaseException:
            _end(answers)
            raise
        return answers

    async def _answer_one(self, request: Request) -> Response:
        try:
            if self._door.banned(request.peer):
                raise PeerRefused("This peer is kept out.", status=403, peer=request.peer)
            self.counts["requests"] += 1
            response = await self._door.handler(request)
        except AllodError as exc:
            return error_response(exc)
        if isinstance(response.body, FileBody | bytes):
            return response
        refusal = error_response(NotFound("A lane carries bytes of files, nothing else."))
        return replace(refusal, done=response.done)

    # -- in the connection's thread

    def _serve(self, wire: Wire) -> None:
        limits = self.settings.limits
        deadline = time.monotonic() + limits.prove_time
        if self.settings.encryption == "tls" or wire.speaks_tls(limits.prove_time):
            wire.serve_tls(self._certificate.context, limits.prove_time)
        heads, peer = Heads(wire), ""
        # The first request comes alone: only who has shown his ticket has others prepared.
        while came := heads.read(deadline, AT_ONCE if peer else 1):
            try:
                peer = peer or self._welcome(wire, came[0])
                requests = [request_of(head, headers_of(head), peer) for head in came]
            except PeerRefused as exc:
                refusal = error_response(exc)
                assert isinstance(refusal.body, bytes)
                wire.send(write_head(refusal, close=True) + refusal.body)
                raise
            self._respond(wire, requests)
            deadline = time.monotonic() + limits.idle

    def _welcome(self, wire: Wire, first: h11.Request) -> str:
        """Find who it is, by the ticket in the first request."""
        ticket = headers_of(first).get(HEADER, "")
        wire.peer = trio.from_thread.run_sync(self._redeem, wire, ticket)
        return wire.peer

    def _respond(self, wire: Wire, requests: Sequence[Request]) -> None:
        """Have requests answered, some in one trip to trio's thread, and send the answers."""
        while requests:
            answers = trio.from_thread.run(self._answer, requests)
            try:
                for request, answer in zip(requests, answers, strict=False):
                    self._send(wire, request.method, answer)
            finally:
                self._token.run_sync_soon(_end, answers)  # nobody need wait for it
            requests = requests[len(answers) :]

    def _send(self, wire: Wire, method: str, answer: Response) -> None:
        if method == "HEAD":
            wire.send(write_head(answer))
        elif isinstance(answer.body, FileBody):
            self._send_file(wire, answer, answer.body)
        elif isinstance(answer.body, bytes):
            wire.send(write_head(answer))
            wire.send_metered(answer.body, self._rates.of(wire.peer).up)

    def _send_file(self, wire: Wire, answer: Response, body: FileBody) -> None:
        try:
            file = open_body(body)
        except AllodError as exc:
            self._send(wire, "GET", error_response(exc))
            return
        try:
            meter = self._rates.of(wire.peer).up
            sent = wire.send_file(write_head(answer), file, body.offset, body.length, meter)
        finally:
            os.close(file)
        self.counts["bytes"] += sent
        if sent != body.length:
            wire.abort()  # the head is out: only a broken lane can tell the peer
            log.warning("a file of the store became shorter while it was sent")
            raise wire.gone()


def _end(answers: Sequence[Response]) -> None:
    """Say of answers that they were sent, or could not be."""
    for answer in answers:
        if answer.done is not None:
            answer.done()


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
