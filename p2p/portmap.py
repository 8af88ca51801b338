"""The router asked to pass connections on: port mappings by UPnP (IGD 1 and 2).

Knows routers; must not know peers. miniupnpc speaks the protocol, in blocking calls, so each call
runs in a thread that is left behind when it takes too long.
What a router says of its address is a candidate like any other: the peers try it (``p2p.autonat``).

Mappings last an hour and are renewed, so that a node which dies leaves nothing behind; one that
ends in order takes them back. The outer port is the inner one unless somebody else has it.
"""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import trio

from p2p.address import Address, Reach
from p2p.errors import NetworkError, UsageError
from p2p.reachability import Reachability

log = logging.getLogger(__name__)

LEASE = 3600
"""Seconds that a mapping lasts."""
RENEW = 600.0
"""Seconds between two renewals: a router that was restarted has forgotten them."""
SEARCH_TIME = 2000
"""Milliseconds in which routers answer the search."""
ASK_TIME = 20.0
"""Seconds for a search, or for the mappings; a dead device may keep a call for long."""
LEAVE_TIME = 2.0
"""Seconds to take the mappings back at the end."""
TRIES = 4
"""Outer ports that are tried."""
NAME = "Allod"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a router passes on."""

    host: str
    """Its address outside, as it says."""
    ports: dict[int, int]
    """The outer port of each inner one."""


class Router:
    """A gateway that was found; all its methods block."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def map(self, ports: Iterable[int], taken: dict[int, int]) -> Mapping:
        """Map TCP ports, the outer ones of ``taken`` again; NetworkError when it refuses."""
        mapped: dict[int, int] = {}
        for port in ports:
            mapped[port] = self._map(port, taken.get(port, port))
        try:
            return Mapping(str(self._found.externalipaddress()), mapped)
        except Exception as exc:  # miniupnpc raises nothing else
            raise NetworkError(f"The router does not say its address ({exc}).") from exc

    def _map(self, port: int, first: int) -> int:
        refusal: Exception | None = None
        others = (random.randint(20000, 60000) for _ in range(TRIES - 1))
        for outer in (first, *others):
            for lease in (LEASE, 0):  # IGD 1 may know permanent mappings only (error 725)
                try:
                    self._found.addportmapping(
                        outer, "TCP", self._found.lanaddr, port, NAME, "", lease
                    )
                    return outer
                except Exception as exc:
                    if type(exc) is not Exception:  # what miniupnpc raises has no class of its own
                        raise
                    refusal = exc
                    if "OnlyPermanent" not in str(exc):
                        break
            if "Conflict" not in str(refusal):
                break
        raise NetworkError(f"The router passes port {port} not on ({refusal}).") from refusal

    def unmap(self, outer: Iterable[int]) -> None:
        """Take mappings back, as far as the router lets."""
        for port in outer:
            try:
                self._found.deleteportmapping(port, "TCP")
            except Exception as exc:  # miniupnpc raises nothing else; the lease ends by itself
                log.debug("a mapping of port %d stays for a while: %s", port, exc)


def find_router(description: str | None = None) -> Router | None:
    """Search the local network for a router, which takes seconds; None where there is none.

    ``description``: the URL of its description, where that is known.
    """
    import miniupnpc  # type: ignore[import-not-found]

    found = miniupnpc.UPnP()
    found.discoverdelay = SEARCH_TIME
    try:
        if description is not None:
            found.selectigd(description)
        else:
            found.discover()
            found.selectigd()
    except Exception:  # miniupnpc raises nothing else
        return None
    return Router(found)


async def keep_mapped(
    reach: Reachability,
    ports: Sequence[int],
    *,
    needed: Callable[[], bool] = lambda: True,
    find: Callable[[], Router | None] = find_router,
) -> None:
    """Have the router pass these ports on, the first being the host's; never returns.

    ``needed`` is asked before each renewal: an address of its own makes a node do without.
    """
    router: Router | None = None
    mapping: Mapping | None = None
    limiter = trio.CapacityLimiter(2)  # its own: a call that hangs must not take others' threads
    try:
        while True:
            if not needed():
                with trio.move_on_after(ASK_TIME):
                    await _leave(router, mapping, limiter)
                router = mapping = None
            else:
                taken = mapping.ports if mapping is not None else {}
                try:
                    if router is None:
                        router = await _in_thread(find, limiter)
                    mapping = None
                    if router is not None:
                        mapping = await _in_thread(partial(router.map, ports, taken), limiter)
                except (NetworkError, trio.TooSlowError) as exc:
                    log.info("no ports are mapped: %s", str(exc) or "the router did not answer")
                    router = None
            reach.map(outer_address(mapping, ports), mapping.ports if mapping else None)
            await trio.sleep(RENEW)
    finally:
        reach.map(None)
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + LEAVE_TIME
            await _leave(router, mapping, limiter)


def outer_address(mapping: Mapping | None, ports: Sequence[int]) -> Address | None:
    """Return where the first port is reached; None where the router is behind another one."""
    if mapping is None:
        return None
    try:
        address = Address.parse(f"/ip4/{mapping.host}/tcp/{mapping.ports[ports[0]]}")
    except UsageError:
        log.info("the router gives %r as its address", mapping.host[:40])
        return None
    if address.reach is not Reach.WORLD:
        log.info("the router is behind another one: its address is %s", address.host)
        return None
    return address


async def _leave(
    router: Router | None, mapping: Mapping | None, limiter: trio.CapacityLimiter
) -> None:
    if router is not None and mapping is not None:
        outer = list(mapping.ports.values())
        await trio.to_thread.run_sync(  # type: ignore[call-arg]
            router.unmap, outer, abandon_on_cancel=True, limiter=limiter
        )


async def _in_thread(call: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    with trio.fail_after(ASK_TIME):
        found: T = await trio.to_thread.run_sync(  # type: ignore[call-arg]
            call, abandon_on_cancel=True, limiter=limiter
        )
        return found
