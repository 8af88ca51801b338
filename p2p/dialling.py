"""Opening a TCP connection to an address that a stranger may have told.

An IP address shows where it leads, and whoever keeps it has looked (``Host.reaches``). A name does
not: it can lead to this machine's own services, and elsewhere a moment later. So a name is
resolved here, what it leads to is judged like any other address, and exactly that is dialled.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import trio

from p2p.address import Address
from p2p.errors import UsageError

Reaches = Callable[[Address], bool]
"""Says whether an IP address may be dialled."""

STAGGER = 0.25
"""Seconds that one address has before the next is tried beside it (RFC 8305)."""
MAX_ADDRESSES = 8
"""Of a name that are tried: two or three are usual."""

_FAMILIES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


async def open_tcp(address: Address, reaches: Reaches) -> trio.SocketStream:
    """Connect to the endpoint of ``address``; OSError when nothing answers, or none may be asked.

    ``reaches`` judges what a name leads to; an IP address is taken as it is.
    """
    if address.kind not in _FAMILIES:
        return await trio.open_tcp_stream(address.host, address.port)
    found = [one for one in await resolve(address) if reaches(one)]
    if not found:
        raise OSError(f"{address.host} leads to no address that a node may be asked at")
    return await _first_to_answer(found[:MAX_ADDRESSES])


async def resolve(address: Address) -> list[Address]:
    """Return the IP addresses of a name, in the resolver's order; OSError when it has none."""
    told = await trio.socket.getaddrinfo(
        address.host, address.port, family=_FAMILIES[address.kind], type=socket.SOCK_STREAM
    )
    found: dict[Address, None] = {}
    for family, *_, (host, port, *_) in told:
        kind = "ip6" if family == socket.AF_INET6 else "ip4"
        try:
            found[Address.parse(f"/{kind}/{host}/tcp/{port}")] = None
        except UsageError:  # one with a zone, which leads to a neighbour of this machine
            continue
    return list(found)


async def _first_to_answer(addresses: list[Address]) -> trio.SocketStream:
    opened: list[trio.SocketStream] = []
    failures: list[OSError] = []

    async def attempt(address: Address) -> None:
        try:
            opened.append(await trio.open_tcp_stream(address.host, address.port))
        except OSError as exc:
            failures.append(exc)
            raise

    try:
        if not await race([partial(attempt, address) for address in addresses], (OSError,)):
            raise failures[0]
        return opened.pop(0)
    finally:
        for late in opened:
            late.socket.close()


async def race(
    tries: Iterable[Callable[[], Awaitable[object]]], expected: tuple[type[Exception], ...]
) -> bool:
    """Begin one try a moment after the last, or as soon as that failed; the first success ends it.

    Whether there was one: all may end in ``expected`` errors. Two may succeed in the same moment.
    """
    won = False

    async def attempt(one: Callable[[], Awaitable[object]], failed: trio.Event) -> None:
        nonlocal won
        try:
            await one()
        except expected:
            failed.set()
        else:
            won = True
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for one in tries:
            failed = trio.Event()
            nursery.start_soon(attempt, one, failed)
            with trio.move_on_after(STAGGER):
                await failed.wait()
    return won
