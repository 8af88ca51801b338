"""Where a muxed connection gets its plaintext from: one call in, one call out, nothing per frame.

What it knows: how to take as much as the socket has in one system call, and how to put the pure
noise session (`p2p.noise`) in the place of py-libp2p's.  What it must not know: yamux.

The rules that it keeps: the buffers that bytes are received into are shared by all connections of
a trio run, so an idle connection costs almost nothing, and what `Wire.receive` returns must be
used up before the next await; `Wire.send` has encrypted or copied its parts before it first waits.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.secure_session import SecureSession

from p2p.buffers import make_buffer
from p2p.noise import LENGTH, MAX_FRAME, Data, Opener, Sealer
from p2p.private import PrivateStream

READ_SIZE = 1 << 20  # bytes a system call may return; a socket on loopback fills it


class Scratch:
    """Room for one read and its plaintext."""

    def __init__(self) -> None:
        self.sealed = make_buffer(READ_SIZE)
        self.plain = make_buffer(READ_SIZE + MAX_FRAME + LENGTH.size)


_scratch: trio.lowlevel.RunVar[Scratch] = trio.lowlevel.RunVar("allod.channel.scratch")


def scratch() -> Scratch:
    """The buffers of this trio run."""
    try:
        return _scratch.get()
    except LookupError:
        made = Scratch()
        _scratch.set(made)
        return made


class Wire(Protocol):
    """What a muxed connection needs of the connection under it."""

    async def receive(self) -> Data:
        """At least one byte, or none at the end; gone at the next await."""

    async def send(self, parts: Sequence[Data]) -> None:
        """All of ``parts``, in order."""

    async def finish(self) -> None:
        """Say that nothing more is sent, where the transport can; receiving goes on."""

    async def close(self) -> None:
        """Close it, at once."""


class PlainWire:
    """Any secure connection of py-libp2p, as it is."""

    def __init__(self, conn: ISecureConn) -> None:
        self._conn = conn

    async def receive(self) -> Data:
        # Without a number: with one, sessions wait until they have that many.
        return await self._conn.read()

    async def send(self, parts: Sequence[Data]) -> None:
        await self._conn.write(b"".join(parts))

    async def finish(self) -> None:
        pass

    async def close(self) -> None:
        await self._conn.close()


class NoiseSession(BaseSession):
    """A noise channel after the handshake; the session that py-libp2p hands to its muxer."""

    def __init__(self, stock: SecureSession) -> None:
        """Take over from a session that has neither sent nor received anything yet."""
        super().__init__(
            local_peer=stock.local_peer,
            local_private_key=stock.local_private_key,
            remote_peer=stock.remote_peer,
            remote_permanent_pubkey=stock.remote_permanent_pubkey,
            is_initiator=stock.is_initiator,
        )
        transport = stock.conn
        assert isinstance(transport, NoiseTransportReadWriter)
        protocol = transport.noise_state.noise_protocol
        assert protocol is not None
        sending, receiving = protocol.cipher_state_encrypt, protocol.cipher_state_decrypt
        self._sealer = Sealer(bytes(sending.k), sending.n)
        self._opener = Opener(bytes(receiving.k), receiving.n)
        self._raw: IRawConnection = transport.conn  # type: ignore[assignment]
        self._socket = _socket_of(self._raw)
        bare = not isinstance(getattr(self._raw, "stream", None), PrivateStream)
        self._stream = self._socket if bare else None  # read without any layer between
        self._unread = bytearray()  # plaintext that `read` left: the muxer is still negotiated
        self._sending = trio.Lock()

    @property
    def socket_stream(self) -> trio.SocketStream | None:
        """The socket below, for what the kernel can tell of it; not to be read or written."""
        return self._socket

    async def receive(self) -> Data:
        """Plaintext of at least one whole frame, or nothing at the end of the connection."""
        if self._unread:
            data, self._unread = self._unread, bytearray()
            return data
        room = scratch()
        while True:
            sealed = await self._receive_sealed(room)
            if not sealed:
                if self._opener.inside_frame:
                    raise ConnectionClosedError("the connection ended inside a noise frame")
                return b""
            made = self._opener.open(sealed, room.plain)
            if made:
                return room.plain[:made]

    async def _receive_sealed(self, room: Scratch) -> Data:
        if self._stream is None:
            return await self._raw.read(READ_SIZE)
        while True:
            descriptor = self._stream.socket.fileno()
            if descriptor < 0:
                raise trio.ClosedResourceError("the connection was closed on this side")
            await trio.lowlevel.wait_readable(descriptor)
            try:
                size = os.readv(descriptor, [room.sealed])
            except BlockingIOError:  # pragma: no cover - the kernel changed its mind
                continue
            return room.sealed[:size]

    async def send(self, parts: Sequence[Data]) -> None:
        """Encrypt all parts, then write them in one go; one sender at a time."""
        await self._raw.write(self._sealer.seal(parts))  # type: ignore[arg-type]

    async def finish(self) -> None:
        """End the direction that we send in."""
        if self._socket is not None:
            await self._socket.send_eof()

    async def read(self, n: int | None = None) -> bytes:
        """At most ``n`` bytes, as soon as there are any; for the negotiation of the muxer."""
        if not self._unread:
            self._unread += await self.receive()
            if not self._unread:
                raise ConnectionClosedError("the connection was closed")
        taken = bytes(self._unread[:n])
        del self._unread[:n]
        return taken

    async def write(self, data: bytes) -> None:
        """All of ``data``."""
        async with self._sending:
            await self.send([data])

    async def close(self) -> None:
        """Close the connection under it."""
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The address and port of the other side."""
        return self._raw.get_remote_address()

    def get_transport_addresses(self) -> list[Any]:
        """The other side as multiaddresses."""
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        return self._raw.get_connection_type()


def _socket_of(raw: object) -> trio.SocketStream | None:
    """The socket's stream, where ``raw`` is py-libp2p's TCP connection, also under a swarm key."""
    stream = raw.stream if isinstance(raw, RawConnection) else None
    stream = stream.below if isinstance(stream, PrivateStream) else stream
    inner = stream.stream if isinstance(stream, TrioTCPStream) else None
    return inner if isinstance(inner, trio.SocketStream) else None


class NoisePattern(PatternXX):
    """py-libp2p's XX handshake, ending in our session."""

    async def handshake_inbound(self, conn: IRawConnection) -> ISecureConn:
        """As the side that was dialled."""
        return _ours(await super().handshake_inbound(conn))

    async def handshake_outbound(self, conn: IRawConnection, remote_peer: object) -> ISecureConn:
        """As the side that dialled."""
        return _ours(await super().handshake_outbound(conn, remote_peer))  # type: ignore[arg-type]


def _ours(session: ISecureConn) -> NoiseSession:
    assert isinstance(session, SecureSession)
    return NoiseSession(session)
