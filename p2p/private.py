"""A connection of a private network: every byte under the key that its nodes share.

libp2p's "Private Networks", PSK v1: below noise, each direction begins with a nonce of 24 bytes and
goes on in XSalsa20. It keeps strangers out, noise says who the others are.

Rules that it keeps:

- Who has not the key gets nothing: the side that was dialled answers a nonce with a nonce, holds
  back all else until it has read multistream-select under the key, and hangs up on other bytes.
- What is wrong is said: without that look at the first bytes a wrong key is "an invalid message".
- Nothing is buffered but that: what is read is decrypted and given on.
"""

import os

from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException

from p2p.swarmkey import NONCE, Cipher, SwarmKey

HELLO = b"\x13/multistream/1.0.0\n"
"""The first bytes of each side of a libp2p connection, whatever comes after them."""

MAX_HELD = 4096
"""Bytes that are held back at most: the first message of the negotiation has twenty."""


class PrivateStream(ReadWriteCloser):
    """A stream under a swarm key; ``dialled``: by the other side. One task reads, one writes."""

    def __init__(self, below: ReadWriteCloser, key: SwarmKey, *, dialled: bool) -> None:
        self.below = below
        self._held = bytearray()  # what is to be sent to somebody who has not shown the key yet
        self._holds = dialled
        self._key = key
        self._seal: Cipher | None = None
        self._open: Cipher | None = None
        self._awaited = HELLO

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, after the nonce if nothing was sent yet; or hold it back."""
        if self._holds:
            self._held += data
            if len(self._held) > MAX_HELD:
                raise SwarmException("the other side has said nothing yet, but much is to be sent")
            return
        nonce = self._begin()
        assert self._seal is not None
        await self.below.write(nonce + self._seal(data))

    async def read(self, n: int | None = None) -> bytes:
        """At most ``n`` bytes, none at the end; SwarmException for who has not the key."""
        if self._open is None:
            self._open = self._key.cipher(await self._nonce())
            if nonce := self._begin():  # the other side may wait for it before it says anything
                await self.below.write(nonce)
        if not self._awaited:
            return self._open(await self.below.read(n))
        data = self._open(await self._first(n))
        said, self._awaited = self._awaited[: len(data)], self._awaited[len(data) :]
        if not data.startswith(said):
            raise SwarmException("it is not of this private network: its swarm key is another")
        if self._holds and not self._awaited:
            self._holds = False
            if self._held:
                await self.write(bytes(self._held))
            self._held.clear()
        return data

    async def close(self) -> None:
        """Close what is below."""
        await self.below.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The address and port of the other side."""
        return self.below.get_remote_address()

    def _begin(self) -> bytes:
        """The nonce that is to be sent before anything else; nothing if it was."""
        if self._seal is not None:
            return b""
        nonce = os.urandom(NONCE)
        self._seal = self._key.cipher(nonce)
        return nonce

    async def _nonce(self) -> bytes:
        got = b""
        while len(got) < NONCE:
            got += await self._first(NONCE - len(got))
            if got.startswith(HELLO):
                raise SwarmException("it is in no private network, this node is in one")
        return got

    async def _first(self, n: int | None) -> bytes:
        """Some of the first bytes of the other side; its end here means that it has another key."""
        try:
            data = await self.below.read(n)
        except ConnectionClosedError:
            data = b""
        if not data:
            raise SwarmException(
                "it closed the connection at once; perhaps it is not of this private network"
            )
        return data


def protect(raw: RawConnection, key: SwarmKey | None) -> RawConnection:
    """Put a connection that is open under the key of this node's network, if it is in one."""
    if key is not None:
        raw.stream = PrivateStream(raw.stream, key, dialled=not raw.is_initiator)
    return raw
