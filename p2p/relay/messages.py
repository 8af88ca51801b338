"""What circuit relay v2 and DCUtR say on the wire, with libp2p's own message classes.

Specifications: libp2p/specs, relay/circuit-v2.md and relay/DCUtR.md.
"""

from collections.abc import Iterable
from typing import Protocol

import base58
import trio
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, PeerId, Status, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch

from p2p.address import Address, check_peer_id
from p2p.delimited import AnyMessage, frame, read_message
from p2p.errors import PeerFault, PeerGone, UsageError

__all__ = ["HolePunch", "HopMessage", "Limit", "Status", "StopMessage"]

HOP = "/libp2p/circuit/relay/0.2.0/hop"
"""Spoken to a relay: give me a place, or connect me to a peer that has one."""
STOP = "/libp2p/circuit/relay/0.2.0/stop"
"""Spoken by a relay to a peer that has a place: somebody wants you."""
PUNCH = "/libp2p/dcutr"
"""Spoken between two peers over a circuit."""
MAX_MESSAGE = 4096
"""Bytes of one message, as the specification of DCUtR has it."""
MAX_ADDRESSES = 8
"""Addresses taken from one message."""
ANSWER_TIME = 15.0
"""Seconds for one answer."""


class Wire(Protocol):
    """What messages go over."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return some bytes, none at the end."""

    async def send_all(self, data: bytes) -> None:
        """Send all of ``data``."""


async def receive(stream: Wire, kind: type[AnyMessage], peer: str) -> AnyMessage:
    """Read one message; PeerFault when it is malformed, PeerGone when none comes in time."""
    try:
        with trio.fail_after(ANSWER_TIME):
            message = await read_message(
                stream, kind, limit=MAX_MESSAGE, peer=peer, name="relay message"
            )
    except trio.BrokenResourceError as exc:
        raise PeerGone("It reset the stream.", peer=peer) from exc
    except trio.TooSlowError as exc:
        raise PeerGone(f"It said nothing for {ANSWER_TIME:g} s.", peer=peer) from exc
    if message is None:
        raise PeerGone("It said nothing.", peer=peer)
    return message


async def send(stream: Wire, message: HopMessage | StopMessage | HolePunch, peer: str) -> None:
    """Send one message; PeerGone when the stream is gone, or the peer does not take it in time."""
    try:
        with trio.fail_after(ANSWER_TIME):
            await stream.send_all(frame(message))
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        raise PeerGone("It takes no message.", peer=peer) from exc


def named(peer: str) -> PeerId:
    """Return a peer as messages name it."""
    return PeerId(id=base58.b58decode(peer))


def peer_of(message: HopMessage | StopMessage, sender: str) -> str:
    """Return the peer that a message names; PeerFault when it names none."""
    raw = message.peer.id
    try:
        if not 34 <= len(raw) <= 44:
            raise UsageError("No peer id.")
        return check_peer_id(base58.b58encode(raw).decode("ascii"))
    except UsageError as exc:
        raise PeerFault("A relay message names no peer.", peer=sender) from exc


def addresses_of(raw: Iterable[bytes]) -> list[Address]:
    """Return the addresses among some bytes that are in our profile, the first few of them."""
    found: list[Address] = []
    for data, _ in zip(raw, range(MAX_ADDRESSES), strict=False):
        try:
            found.append(Address.from_bytes(data))
        except UsageError:
            continue  # QUIC, WebSocket and nonsense alike
    return found
