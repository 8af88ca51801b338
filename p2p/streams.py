"""libp2p's streams as trio-like byte streams.

Knows libp2p's stream classes and their exceptions; nobody above does.
Payload is counted in the peer's account; nothing is buffered here.
"""

import logging

import trio
from libp2p.abc import INetStream
from libp2p.connection_types import ConnectionType
from libp2p.host.exceptions import HostException
from libp2p.io.exceptions import IOException
from libp2p.stream_muxer.exceptions import (
    MuxedConnError,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from p2p.limits import Account, PeerLimits
from p2p.rates import UNLIMITED, PeerRates

log = logging.getLogger(__name__)

NEGOTIATE_TIME = 10
"""Seconds to agree on the protocol of a connection or stream."""

BROKEN = (MuxedStreamError, MuxedConnError, IOException, HostException)
"""What libp2p raises when a stream or its connection is gone: an everyday end."""


class PeerStream:
    """A libp2p stream as a trio-like ByteStream; counts payload in the peer's account."""

    def __init__(
        self, stream: INetStream, account: Account, rates: PeerRates | None = None
    ) -> None:
        self._stream = stream
        self._muxed = stream.muxed_stream  # type: ignore[attr-defined]
        self._account = account
        self._rates = rates if rates is not None else UNLIMITED
        self._ended = False

    @property
    def relayed(self) -> bool:
        """Whether it goes through a relay."""
        conn = self._stream.muxed_conn
        return conn.get_connection_type() is ConnectionType.RELAYED

    def uncounted(self) -> "PeerStream":
        """The same stream without budget and rates: what it carries is counted elsewhere."""
        return PeerStream(self._stream, Account(PeerLimits(), 0.0))

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send all of ``data``; trio.BrokenResourceError when the stream or connection is gone."""
        up = self._rates.up
        if up.limited:
            view = memoryview(data)
            while len(view) > up.piece:
                piece, view = view[: up.piece], view[up.piece :]
                await trio.sleep(up.reserve(len(piece)))
                await self._write(bytes(piece))
            await trio.sleep(up.reserve(len(view)))
            data = view
        await self._write(data if isinstance(data, bytes) else bytes(data))

    async def _write(self, data: bytes) -> None:
        try:
            await self._muxed.write(data)
        except (MuxedStreamError, MuxedConnError, IOException) as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        self._account.bytes_out += len(data)
        self._rates.up.count("stream", len(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return some bytes, ``b""`` at the end; trio.BrokenResourceError after a reset."""
        if self._ended:
            return b""
        down, size = self._rates.down, max_bytes or 65536
        try:
            data: bytes = await self._muxed.read(min(size, down.piece) if down.limited else size)
        except (MuxedStreamEOF, MuxedStreamClosed):
            data = b""
        except (MuxedStreamReset, MuxedStreamError, MuxedConnError, IOException) as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        self._ended = not data
        self._account.bytes_in += len(data)
        down.count("stream", len(data))
        wait = down.reserve(len(data))
        if wait:
            await trio.sleep(wait)
        return data

    async def wait_reset(self) -> None:
        """Return once the peer has reset the stream, or the connection is gone; reads nothing."""
        await self._muxed.wait_reset()

    async def aclose(self) -> None:
        """Say that nothing more will be sent."""
        try:
            await self._stream.close()
        except (MuxedStreamError, MuxedConnError, IOException):
            log.debug("a stream was gone before it was closed", exc_info=True)

    async def abort(self) -> None:
        """Reset the stream: the peer stops sending what nobody reads."""
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + 1
            await self._stream.reset()
