"""Protobuf messages behind their length as a varint: how libp2p's protocols frame what they say.

Knows streams and lengths; must not know any message's meaning. Nothing is read past the message,
so what follows on the stream may be something else.
"""

from typing import Protocol, TypeVar

from google.protobuf.message import Message

from p2p.errors import PeerFault

AnyMessage = TypeVar("AnyMessage", bound=Message)
MAX_LENGTH_BYTES = 3
"""Bytes of the length: they reach 2 MiB, far over any bound."""


class Readable(Protocol):
    """What a message is read from."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return some bytes, none at the end."""


def frame(message: Message) -> bytes:
    """Return the message behind its length."""
    body = message.SerializeToString()
    head = bytearray()
    left = len(body)
    while left >= 0x80:
        head.append(left & 0x7F | 0x80)
        left >>= 7
    head.append(left)
    return bytes(head) + body


async def read_message(
    stream: Readable, kind: type[AnyMessage], *, limit: int, peer: str, name: str
) -> AnyMessage | None:
    """Read one message of at most ``limit`` bytes; None at an end before its first byte.

    ``name`` says in errors what was expected, as in "DHT message".
    Raises PeerFault when it is malformed, cut off or too long.
    """
    size = 0
    for shift in range(0, 7 * MAX_LENGTH_BYTES, 7):
        byte = await stream.receive_some(1)
        if not byte:
            if shift:
                raise PeerFault(f"A {name} ends in its length.", peer=peer)
            return None
        size |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    else:
        size = limit + 1
    if size > limit:
        raise PeerFault(f"Expected a {name} of at most {limit} bytes.", peer=peer)
    body = b""
    while len(body) < size:
        part = await stream.receive_some(size - len(body))
        if not part:
            raise PeerFault(f"A {name} is cut off.", peer=peer)
        body += part
    message = kind()
    try:
        message.ParseFromString(body)
    except Exception as exc:  # protobuf's DecodeError, by a name that its packages disagree on
        raise PeerFault(f"A {name} is no protobuf.", peer=peer) from exc
    return message
