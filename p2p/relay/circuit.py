"""A stream through a relay in the shape of a socket, for libp2p to make a connection of.

The connection inside is encrypted and authenticated between its two ends; the relay sees sealed
bytes. What goes through is counted where it is used, in the streams inside, and not here again.
"""

import trio
from libp2p.connection_types import ConnectionType
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.network.connection.raw_connection import RawConnection
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.address import Address
from p2p.streams import PeerStream

READ_SIZE = 1 << 18
"""Bytes taken at once where the reader names no number: a window of the stream."""


class CircuitStream(ReadWriteCloser):
    """Read, write and close, as libp2p wants them of a socket."""

    def __init__(self, stream: PeerStream) -> None:
        self._stream = stream.uncounted()

    async def read(self, n: int | None = None) -> bytes:
        """Return up to ``n`` bytes, none at the end; ConnectionClosedError after a reset."""
        if n == 0:
            return b""
        try:
            return await self._stream.receive_some(min(n or READ_SIZE, READ_SIZE))
        except trio.BrokenResourceError as exc:
            raise ConnectionClosedError(f"the circuit ended: {exc}") from exc

    async def write(self, data: bytes) -> None:
        """Send all of ``data``; IOException when the circuit is gone."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as exc:
            raise IOException(f"the circuit ended: {exc}") from exc

    async def close(self) -> None:
        """Say that nothing more comes; the stream ends when the other side says the same, or soon.

        No reset: it would overtake the last bytes, which are still on their way.
        """
        await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The other side has no address that this one can see."""
        return None


def circuit_connection(stream: PeerStream, address: Address, *, initiator: bool) -> RawConnection:
    """Return a relayed connection of libp2p's over a stream that a relay has joined."""
    told = [Multiaddr(str(address))]
    return RawConnection(CircuitStream(stream), initiator, ConnectionType.RELAYED, told)
