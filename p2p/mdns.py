"""Nodes on the local network, by multicast DNS (RFC 6762, 6763).

Knows service records; must not know the DHT.
The service is ``_allod._tcp.local.`` and not libp2p's ``_p2p._udp``: other libp2p programs on the
same network have nothing to say to us.
zeroconf does the protocol in a thread of its own; what it hears crosses into trio in one place.
Everything heard is a hint from whoever is on the network, and bounded.
Without multicast (containers, some clouds) discovery goes on without it.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2p.address import Address, Reach
from p2p.errors import UsageError

log = logging.getLogger(__name__)

SERVICE = "_allod._tcp.local."
MAX_ADDRESSES = 8
"""Addresses in a record: it must fit into one packet."""
MAX_TEXT = 255
"""Bytes of one TXT string."""
ANSWER_TIME = 3000
"""Milliseconds to ask for a record whose name was heard."""

Heard = Callable[[str, list[Address]], None]


def read_record(texts: Iterable[bytes | None]) -> tuple[str, list[Address]] | None:
    """Return the peer and the addresses that a record's TXT strings name, None if it is not ours.

    All addresses must name the same peer; those that are malformed or lead nowhere are left out.
    """
    found: list[Address] = []
    for text, _ in zip(texts, range(MAX_ADDRESSES * 2), strict=False):
        if text is None or len(text) > MAX_TEXT:
            continue
        try:
            address = Address.parse(text.decode("ascii", "replace"))
        except UsageError:
            continue
        if address.peer is not None and address.reach is not Reach.NOWHERE:
            found.append(address)
    peers = {address.peer for address in found}
    peer = peers.pop() if len(peers) == 1 else None
    return (peer, found[:MAX_ADDRESSES]) if peer is not None else None


@asynccontextmanager
async def open_mdns(
    own: Sequence[Address], heard: Heard, *, interfaces: Sequence[str] | None = None
) -> AsyncIterator[bool]:
    """Tell the local network of ``own`` and call ``heard(peer, addresses)`` for each other node.

    Yields False, and does nothing, where multicast doesn't work.
    """
    started = await trio.to_thread.run_sync(
        _start, own, _Crossing(trio.lowlevel.current_trio_token(), heard), interfaces
    )
    try:
        yield started is not None
    finally:
        if started is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(started.close)


class _Crossing:
    """Carry what zeroconf's thread hears into the trio thread."""

    def __init__(self, token: trio.lowlevel.TrioToken, heard: Heard) -> None:
        self._token = token
        self._heard = heard

    def __call__(self, peer: str, addresses: list[Address]) -> None:
        try:
            self._token.run_sync_soon(self._heard, peer, addresses)
        except trio.RunFinishedError:
            log.debug("heard of a node after the end")


class _Started:
    """A running zeroconf with our record and a browser."""

    def __init__(self, zeroconf: Any, info: Any) -> None:
        self._zeroconf = zeroconf
        self._info = info

    def close(self) -> None:
        """Say goodbye and stop; up to a second."""
        try:
            self._zeroconf.unregister_service(self._info)
        except Exception:  # the network may be gone by now
            log.debug("the local network was not told of the end", exc_info=True)
        self._zeroconf.close()


def _start(
    own: Sequence[Address], heard: _Crossing, interfaces: Sequence[str] | None
) -> _Started | None:
    # Imported here: it costs 0.1 s, and a node with mDNS off never needs it.
    from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

    if not own or own[0].peer is None:
        return None
    peer = own[0].peer
    name = f"{peer}.{SERVICE}"
    info = ServiceInfo(
        SERVICE,
        name,
        port=own[0].port,
        properties={
            f"addr{number}": str(address) for number, address in enumerate(own[:MAX_ADDRESSES])
        },
        server=f"{peer[-40:].lower()}.local.",
        parsed_addresses=[address.host for address in own if address.kind in ("ip4", "ip6")],
    )

    class Listener(ServiceListener):
        """Reads the record behind each name."""

        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            if name != info.name:
                record = zc.get_service_info(type_, name, ANSWER_TIME)
                found = read_record(record.properties.values()) if record else None
                if found is not None and found[0] != peer:
                    heard(*found)

        update_service = add_service

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            """Nothing: whoever is gone does not answer."""

    try:
        zeroconf = Zeroconf(
            interfaces=list(interfaces) if interfaces is not None else InterfaceChoice.Default
        )
        try:
            zeroconf.register_service(info, cooperating_responders=True)
            ServiceBrowser(zeroconf, SERVICE, listener=Listener())
        except BaseException:
            zeroconf.close()
            raise
    except Exception as exc:
        # zeroconf raises OSError and its own errors where there is no multicast.
        log.info("no discovery on the local network: %r", exc)
        return None
    return _Started(zeroconf, info)
