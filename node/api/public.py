"""The IPFS gateway for the public: a port of its own that gives what this node holds, and no more.

The owner names its addresses (``gateway.listen``), none by default. It answers GET and HEAD under
``/ipfs/`` (gateway.py) and a browser's preflight; control, models, and what peers ask each other
are not here. Any page may read it (CORS), for it has no secret: the gate decides what is given, as
for peers.

Askers are strangers without a key, known by their IP address. Each address counts as one peer: the
same budget of requests, the same ``limits`` on what is sent. Connections are bounded in all and for
each address; silence, slow heads and readers that take nothing end a connection (``HttpLimits``).
An address of this machine stands for many, since it is a proxy in front, and has no bound of its
own on connections.

Knows sockets and HTTP; knows no store and no operation.
"""

import ipaddress
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

import trio

from node.kinds import split_endpoint
from p2p.address import line_of
from p2p.errors import AllodError, NotFound, PeerFault, PeerGone, PeerRefused
from p2p.http import Handler, HttpLimits, Request, Response, error_response, serve_http
from p2p.limits import Account, Book
from p2p.listening import dialable, endpoints, open_listeners
from p2p.rates import PeerRates, Rates

log = logging.getLogger(__name__)

CONNECTIONS: Final = 256
"""Connections in all: at some 30 KB each 8 MB, and a quarter of a usual limit on open files."""
CONNECTIONS_PER_ADDRESS: Final = 32
"""From one address: a browser opens six, a household behind one address has a few of them."""
METHODS: Final = ("GET", "HEAD", "OPTIONS")
WAITS: Final = HttpLimits(head=10.0, idle=30.0, send=60.0)
"""Shorter than for peers: a connection here costs its owner nothing. One piece (1 MiB) in 60 s is
17 KB/s."""

EXPOSED: Final = (
    "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Retry-After, "
    "X-Ipfs-Path, X-Ipfs-Roots"
)
"""Headers of an answer that a page may read."""
ALLOWED: Final = "Accept, Cache-Control, Content-Type, If-None-Match, Range, X-Requested-With"
"""Headers that a page may send; User-Agent is the browser's own affair."""
PREFLIGHT_AGE: Final = 86400
"""Seconds for which a browser need not ask again: these answers never change."""

CORS: Final = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": EXPOSED,
    # A page with "cross-origin isolation" may embed it too.
    "cross-origin-resource-policy": "cross-origin",
}
PREFLIGHT: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": ", ".join(METHODS),
    "access-control-allow-headers": ALLOWED,
    "access-control-max-age": str(PREFLIGHT_AGE),
}


class Budget(Protocol):
    """What peers are allowed, here given to IP addresses; ``p2p.host.Host`` has it."""

    @property
    def book(self) -> Book: ...

    @property
    def rates(self) -> Rates: ...

    def charged(self, handler: Handler) -> Handler: ...


class Started(Protocol):
    """What ``nursery.start`` hands to a server, to be told once that it listens."""

    def started(self, value: list[str]) -> None: ...


def for_public(handler: Handler) -> Handler:
    """Narrow a handler to what the public may ask, and mark its answers for pages of any site.

    The errors of ``handler`` are answers then, so that a page can read them too.
    """

    async def answer(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(204, PREFLIGHT)
        try:
            if not request.path.startswith("/ipfs/"):
                raise NotFound("This is an IPFS gateway: what it holds is under /ipfs/CID.")
            response = await handler(request)
        except AllodError as exc:
            response = error_response(exc)
            if response.status >= 500:
                log.warning("the request for %s failed: %s", request.path[:200], exc)
        return replace(response, headers={**response.headers, **CORS})

    return answer


async def serve_public(
    handler: Handler,
    listen: Sequence[str],
    budget: Budget,
    *,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the gateway on these endpoints until cancelled; reports its URLs once it listens.

    ``listen`` has texts like 0.0.0.0:8080 (port 0: a free one); ``handler`` answers ``/ipfs/``.
    PortInUse and NetworkError when an endpoint cannot be had.
    """
    door = _Door(for_public(budget.charged(handler)), budget)
    listeners: list[trio.SocketListener] = []
    try:
        for endpoint in listen:
            host, port = split_endpoint(endpoint)
            listeners += await open_listeners([host], port)
        urls = [
            f"http://{f'[{one.host}]' if one.kind == 'ip6' else one.host}:{one.port}"
            for one in dialable(endpoints(listeners))
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, door.serve, listeners)
            task_status.started(urls)
    finally:
        for listener in listeners:
            listener.socket.close()


class _Door:
    """The open connections, and who has them."""

    def __init__(self, handler: Handler, budget: Budget) -> None:
        self._handler = handler
        self._budget = budget
        self._open: Counter[str] = Counter()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection; whatever it does, it ends alone."""
        try:
            asker = line_of(stream.socket.getpeername()[0])
        except OSError:  # gone already
            await trio.aclose_forcefully(stream)
            return
        if not self._admits(asker):
            await trio.aclose_forcefully(stream)
            return
        self._open[asker] += 1
        try:
            await self._talk(stream, asker)
        finally:
            self._open[asker] -= 1
            if not self._open[asker]:
                del self._open[asker]

    def _admits(self, asker: str) -> bool:
        if self._budget.book.banned(asker, trio.current_time()):
            return False
        if self._open.total() >= CONNECTIONS:
            return False
        return is_local(asker) or self._open[asker] < CONNECTIONS_PER_ADDRESS

    async def _talk(self, stream: trio.SocketStream, asker: str) -> None:
        book = self._budget.book
        account = book.account(asker, trio.current_time())
        metered = _Metered(stream, account, self._budget.rates.of(asker))
        try:
            await serve_http(metered, self._handler, peer=asker, limits=WAITS, methods=METHODS)
        except (PeerGone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # gone in the middle: an everyday end
        except PeerRefused:
            pass  # it has been told: a method or a body that nobody takes, a head that never came
        except PeerFault as exc:
            now = trio.current_time()
            if book.log_line(asker, now) is not None:
                log.info("the gateway was asked nonsense by %s: %s", asker, exc)
            if not is_local(asker):
                account.fault(now)
        except AllodError as exc:
            log.warning("an answer of the gateway to %s broke off: %s", asker, exc)
        except Exception:
            # A bug of ours: it may end this connection only.
            if book.log_line(asker, trio.current_time()) is not None:
                log.exception("a connection of the gateway with %s failed", asker)


class _Metered:
    """A connection that sends no faster than ``limits`` say, and counts what it sends."""

    def __init__(self, stream: trio.SocketStream, account: Account, rates: PeerRates) -> None:
        self._stream = stream
        self._account = account
        self._up = rates.up

    async def send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while self._up.limited and len(view) > self._up.piece:
            await self._send(view[: self._up.piece])
            view = view[self._up.piece :]
        await self._send(view)

    async def _send(self, view: memoryview) -> None:
        await trio.sleep(self._up.reserve(len(view)))
        await self._stream.send_all(view)
        self._account.bytes_out += len(view)
        self._up.count("gateway", len(view))

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def is_local(asker: str) -> bool:
    """Say whether it is this machine: a proxy in front, most likely, that speaks for many."""
    return ipaddress.ip_network(asker).is_loopback
