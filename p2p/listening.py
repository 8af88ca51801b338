"""The sockets that a host listens on, and the addresses under which others can dial them.

Knows this machine's interfaces; must not know libp2p.
Without SO_REUSEPORT (which stock sets), a port that another program has is an error and not a
second listener that takes half of its connections.
"""

import errno
import time
from collections.abc import Iterable, Sequence

import psutil
import trio

from p2p.address import Address
from p2p.errors import NetworkError, PortInUse

INTERFACE_TIME = 10.0
"""Seconds that the list of interfaces is good for: asking the kernel each time costs 0.2 ms."""

_interfaces: dict[str, tuple[float, list[str]]] = {}


def endpoints(listeners: Iterable[trio.SocketListener]) -> list[tuple[str, int]]:
    """Return the (host, port) of open sockets."""
    return [listener.socket.getsockname()[:2] for listener in listeners]


def dialable(bound: Iterable[tuple[str, int]]) -> list[Address]:
    """Return the addresses of these endpoints; a wildcard stands for that of every interface."""
    found: list[Address] = []
    for host, port in bound:
        kind = "ip6" if ":" in host else "ip4"
        hosts = [host] if host not in ("0.0.0.0", "::") else _hosts(kind)
        found += [Address.parse(f"/{kind}/{each}/tcp/{port}") for each in hosts]
    return found


def _hosts(kind: str) -> list[str]:
    now = time.monotonic()
    if _interfaces.get(kind, (0.0, []))[0] <= now:
        family = "AF_INET6" if kind == "ip6" else "AF_INET"
        hosts = [
            entry.address
            for entries in psutil.net_if_addrs().values()
            for entry in entries
            if entry.family.name == family and "%" not in entry.address
        ]
        _interfaces[kind] = (now + INTERFACE_TIME, hosts)
    return _interfaces[kind][1]


async def open_listeners(hosts: Sequence[str], port: int) -> list[trio.SocketListener]:
    """Listen on one port (0: a free one) of each host; PortInUse, NetworkError."""
    listeners: list[trio.SocketListener] = []
    try:
        for host in hosts:
            try:
                opened = await trio.open_tcp_listeners(port, host=host)
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    raise PortInUse(
                        f"Another program listens on {host} port {port}.",
                        next="Choose another port, or 0 for a free one.",
                    ) from exc
                raise NetworkError(
                    f"This machine can't listen on {host} port {port} ({exc.strerror}).",
                    next="Choose an address of this machine and a port that you may use.",
                ) from exc
            listeners += opened
            port = port or opened[0].socket.getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners
