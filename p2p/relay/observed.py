"""How a peer sees this node: the address that it observed of our connection to it.

A stranger's word, used for nothing but a try: to tell another peer where to knock at the same time
as we do (``p2p.relay.punch``).
"""

from weakref import WeakKeyDictionary

import trio
from libp2p.abc import INetConn
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.id import ID

from p2p.address import Address, Reach
from p2p.delimited import read_message
from p2p.errors import NetworkError, UsageError
from p2p.host import Host
from p2p.network import far_host, local_endpoint

IDENTIFY = "/ipfs/id/1.0.0"
MAX_IDENTIFY = 64 * 1024
"""Bytes of what a peer says of itself: its key, its protocols, its addresses."""
IDENTIFY_TIME = 5.0
"""Seconds for the whole answer."""


class Observed:
    """What relays see of this host; each connection is asked about once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._seen: WeakKeyDictionary[INetConn, Address] = WeakKeyDictionary()

    async def ask(self, peer: str) -> None:
        """Have a peer that we dialled say how it sees us; harmless when it does not."""
        conn = self._dialled(peer)
        if conn is None or conn in self._seen:
            return
        try:
            with trio.fail_after(IDENTIFY_TIME):
                stream = await self._host.open_stream(peer, IDENTIFY)
                try:
                    told = await read_message(
                        stream, Identify, limit=MAX_IDENTIFY, peer=peer, name="identity"
                    )
                finally:
                    await stream.abort()
            if told is not None:
                self._seen[conn] = Address.from_bytes(told.observed_addr)
        except (NetworkError, UsageError, trio.TooSlowError, trio.BrokenResourceError):
            return  # then nothing is known, and nothing is tried

    def at(self, peer: str) -> tuple[tuple[str, int], Address] | None:
        """Our end of the connection to ``peer``, and the address that it sees; None if unknown."""
        conn = self._dialled(peer)
        seen = self._seen.get(conn) if conn is not None else None
        own = local_endpoint(conn) if conn is not None else None
        far = far_host(conn) if conn is not None else None
        if seen is None or own is None or far is None or seen.relay is not None:
            return None
        # A name could lead anywhere. And who is far away sees no address of this network: it would
        # have us knock at the machines next door.
        kind = "ip6" if ":" in far else "ip4"
        if seen.kind not in ("ip4", "ip6") or seen.reach < Address(kind, far, 1).reach:
            return None
        if seen.reach <= Reach.MACHINE:
            return None
        return own, seen

    def _dialled(self, peer: str) -> INetConn | None:
        direct = self._host.network.direct(ID.from_base58(peer))
        return next((conn for conn in direct if local_endpoint(conn) is not None), None)
