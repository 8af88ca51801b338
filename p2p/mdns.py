"""Nodes on the local network, by multicast DNS (RFC 6762, 6763).

Knows service records; must not know the DHT.
The service is ``_allod._tcp.local.`` and not libp2p's ``_p2p._udp``: other libp2p programs on the
same network have nothing to say to us.
zeroconf does the protocol on an asyncio loop, which runs in a thread of its own; what it hears
crosses into trio in one place.
The loop is made here: where trio_asyncio is loaded too (the store's index), zeroconf's own way of
making one gives a loop that can't be closed from another thread.
Everything heard is a hint from whoever is on the network, and bounded.
Without multicast (containers, some clouds) discovery goes on without it.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

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
MAX_LOOKING = 64
"""Records asked for at the same time: a flood of names must not become a flood of questions."""

Heard = Callable[[str, list[Address]], None]
T = TypeVar("T")


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


class _Loop:
    """A plain asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mdns", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` there and wait for its result; not from the loop's own thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End what still runs there, stop the loop and wait for its thread."""

        async def end() -> None:
            rest = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Started:
    """A running zeroconf with our record and a browser."""

    def __init__(self, loop: _Loop, zeroconf: Any) -> None:
        self._loop = loop
        self._zeroconf = zeroconf

    def close(self) -> None:
        """Say goodbye and stop; up to a second."""
        try:
            self._loop.run(self._zeroconf.async_close())
        except Exception:  # the network may be gone by now
            log.debug("the local network was not told of the end", exc_info=True)
        self._loop.close()


def _start(
    own: Sequence[Address], heard: _Crossing, interfaces: Sequence[str] | None
) -> _Started | None:
    if not own or own[0].peer is None:
        return None
    loop = _Loop()
    try:
        return _Started(loop, loop.run(_begin(own, own[0].peer, heard, interfaces)))
    except Exception as exc:
        # zeroconf raises OSError and its own errors where there is no multicast.
        log.info("no discovery on the local network: %r", exc)
        loop.close()
        return None


async def _begin(
    own: Sequence[Address], peer: str, heard: _Crossing, interfaces: Sequence[str] | None
) -> Any:
    # Imported here: it costs 0.1 s, and a node with mDNS off never needs it.
    from zeroconf import InterfaceChoice, ServiceListener, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    info = AsyncServiceInfo(
        SERVICE,
        f"{peer}.{SERVICE}",
        port=own[0].port,
        properties={
            f"addr{number}": str(address) for number, address in enumerate(own[:MAX_ADDRESSES])
        },
        server=f"{peer[-40:].lower()}.local.",
        parsed_addresses=[address.host for address in own if address.kind in ("ip4", "ip6")],
    )
    looking: set[asyncio.Task[None]] = set()

    async def look(zc: Zeroconf, name: str) -> None:
        record = AsyncServiceInfo(SERVICE, name)
        if await record.async_request(zc, ANSWER_TIME):
            found = read_record(record.properties.values())
            if found is not None and found[0] != peer:
                heard(*found)

    class Listener(ServiceListener):
        """Reads the record behind each name."""

        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            if name != info.name and len(looking) < MAX_LOOKING:
                task = asyncio.get_running_loop().create_task(look(zc, name))
                looking.add(task)
                task.add_done_callback(looking.discard)

        update_service = add_service

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            """Nothing: whoever is gone does not answer."""

    zeroconf = AsyncZeroconf(
        interfaces=list(interfaces) if interfaces is not None else InterfaceChoice.Default
    )
    try:
        await zeroconf.async_register_service(info, cooperating_responders=True)
        AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, listener=Listener())
    except BaseException:
        await zeroconf.async_close()
        raise
    return zeroconf
