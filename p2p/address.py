"""Where a peer may be dialled: the part of multiaddr that Allod uses.

Pure, and free of the multiaddr library, whose import alone costs a third of a second.
Kinds: ``/ip4``, ``/ip6``, ``/dns``, ``/dns4``, ``/dns6``, then ``/tcp/PORT``, then maybe
``/p2p/PEER``, or ``/p2p/RELAY/p2p-circuit`` and then maybe ``/p2p/PEER``: a place that a peer has
at a relay. Everything else (QUIC, WebSocket, relays behind relays) is no address here.
An address that a stranger gives is a hint; ``reach`` says how far it can lead.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import IntEnum

import base58

from p2p.errors import UsageError

MAX_TEXT = 400
"""Characters of an address: a DNS name has at most 253, a peer id 59, and there may be two."""

# Labels with dots between them: where the dots could be left out, one text could be cut in
# exponentially many ways, and a label could be longer than the resolver takes.
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_CODES = {"ip4": 4, "ip6": 41, "dns": 53, "dns4": 54, "dns6": 55}
_KINDS = {code: kind for kind, code in _CODES.items()}
_TCP = 6
_P2P = 421
_P2P_BYTES = b"\xa5\x03"
_CIRCUIT_BYTES = b"\xa2\x02"
_CIRCUIT = "p2p-circuit"
_NEXT = "Write it like /ip4/192.0.2.7/tcp/9770/p2p/12D3KooW..."


class Reach(IntEnum):
    """How far an address leads: this machine, this network, the world; or nowhere."""

    NOWHERE = 0
    MACHINE = 1
    NETWORK = 2
    WORLD = 3


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A TCP endpoint and, maybe, who is to answer there (a peer id in base58).

    With a relay, the endpoint is the relay's, and the peer is reached through it.
    """

    kind: str
    host: str
    port: int
    peer: str | None = None
    relay: str | None = None
    """The peer id of the relay; None: the endpoint is the peer's own."""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``/ip4/1.2.3.4/tcp/9770/p2p/12D3...``; UsageError when it is not in the profile."""
        parts = text.split("/")
        known = len(text) <= MAX_TEXT and len(parts) in (5, 7, 8, 10) and not parts[0]
        if not known or parts[3] != "tcp":
            raise UsageError(f"Expected a TCP multiaddr, came {text[:80]!r}.", next=_NEXT)
        kind, host, port = parts[1], parts[2], parts[4]
        relay = peer = None
        if len(parts) > 7:
            if parts[7] != _CIRCUIT:
                raise UsageError(f"Expected /{_CIRCUIT} after the relay in {text!r}.", next=_NEXT)
            relay = _named(parts[5:7], text)
            peer = _named(parts[8:], text) if len(parts) == 10 else None
        elif len(parts) == 7:
            peer = _named(parts[5:], text)
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            raise UsageError(f"Expected a port from 0 to 65535 in {text!r}.", next=_NEXT)
        return cls(kind, _host(kind, host, text), int(port), peer, relay)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Address":
        """Read the binary form, as the DHT carries it; UsageError when it is not in the profile."""
        if len(raw) > MAX_TEXT or len(raw) < 5 or raw[0] not in _KINDS:
            raise UsageError("Expected a binary TCP multiaddr.")
        kind = _KINDS[raw[0]]
        if kind == "ip4":
            start, host = 5, str(ipaddress.IPv4Address(raw[1:5]))
        elif kind == "ip6":
            if len(raw) < 17:
                raise UsageError("A binary multiaddr is cut off.")
            start, host = 17, str(ipaddress.IPv6Address(raw[1:17]))
        else:
            start = 2 + raw[1]  # a name has under 128 bytes in the profile: a one-byte varint
            name = raw[2:start].decode("ascii", "replace")
            host = _host(kind, name, "a binary multiaddr")
        port = raw[start + 1 : start + 3]
        if raw[start : start + 1] != bytes([_TCP]) or len(port) != 2:
            raise UsageError("Expected /tcp in a binary multiaddr.")
        rest = raw[start + 3 :]
        relay = peer = None
        if rest:
            peer, rest = _named_bytes(rest)
        if rest[:2] == _CIRCUIT_BYTES:
            relay, peer, rest = peer, None, rest[2:]
            if rest:
                peer, rest = _named_bytes(rest)
        if rest:
            raise UsageError("Expected the end of a binary multiaddr.")
        return cls(kind, host, int.from_bytes(port, "big"), peer, relay)

    def __bytes__(self) -> bytes:
        head = bytes([_CODES[self.kind]])
        if self.kind in ("ip4", "ip6"):
            head += ipaddress.ip_address(self.host).packed
        else:
            name = self.host.encode("ascii")
            head += bytes([len(name)]) + name
        tail = b""
        if self.relay is not None:
            tail = _peer_bytes(self.relay) + _CIRCUIT_BYTES
        if self.peer is not None:
            tail += _peer_bytes(self.peer)
        return head + bytes([_TCP]) + self.port.to_bytes(2, "big") + tail

    def __str__(self) -> str:
        tail = f"/p2p/{self.relay}/{_CIRCUIT}" if self.relay is not None else ""
        tail += f"/p2p/{self.peer}" if self.peer is not None else ""
        return f"/{self.kind}/{self.host}/tcp/{self.port}{tail}"

    def at(self, peer: str | None) -> "Address":
        """The same endpoint, and the same relay if there is one, answered by ``peer``."""
        return Address(self.kind, self.host, self.port, peer, self.relay)

    def through(self, peer: str | None) -> "Address":
        """Where ``peer`` is found if the peer that answers here is its relay; it must be named."""
        assert self.peer is not None
        assert self.relay is None
        return Address(self.kind, self.host, self.port, peer, self.peer)

    @property
    def endpoint(self) -> "Address":
        """What is dialled first: the address itself, or the relay's own."""
        if self.relay is None:
            return self
        return Address(self.kind, self.host, self.port, self.relay)

    @property
    def reach(self) -> Reach:
        """How far the address leads, or that of the relay; a name may lead anywhere."""
        if not self.port:
            return Reach.NOWHERE
        if self.kind not in ("ip4", "ip6"):
            return Reach.WORLD
        ip = ip_of(self.host)
        assert ip is not None
        if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
            return Reach.NOWHERE
        if ip.is_loopback:
            return Reach.MACHINE
        if ip.is_link_local and ip.version == 6:
            return Reach.NOWHERE  # needs a zone, which a multiaddr of another machine can't name
        return Reach.WORLD if ip.is_global else Reach.NETWORK


def check_peer_id(text: str) -> str:
    """Return ``text`` if it is a peer id in base58 (Ed25519 or another key's hash); UsageError."""
    if not 40 <= len(text) <= 60:
        raise UsageError(f"Expected a peer id, came {text[:80]!r}.", next=_NEXT)
    try:
        raw = base58.b58decode(text)
    except ValueError as exc:
        raise UsageError(f"Expected a peer id in base58, came {text!r}.", next=_NEXT) from exc
    # An identity multihash of a key of up to 42 bytes, or the SHA-256 of a longer key.
    if not ((raw[:1] == b"\x00" and len(raw) == 2 + raw[1] <= 44) or raw[:2] == b"\x12\x20"):
        raise UsageError(f"Expected the multihash of a key, came {text!r}.", next=_NEXT)
    if base58.b58encode(raw).decode("ascii") != text:
        raise UsageError(f"Expected a peer id in its one spelling, came {text!r}.", next=_NEXT)
    return text


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an IP address, without its zone; None where it is none.

    An IPv4 address in the clothes of IPv6 (RFC 4291, 2.5.5.2) is the IPv4 address.
    """
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return ip if mapped is None else mapped


def line_of(host: str) -> str:
    """Return what an IP address is counted as: itself, or of IPv6 the /64, which is one customer.

    What is no IP address comes back as it is.
    """
    ip = ip_of(host)
    if ip is None:
        return host
    if ip.version == 4 or ip.is_loopback:
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False))


def _named(parts: list[str], text: str) -> str:
    """Return the peer id of ``["p2p", PEER]``; UsageError about ``text``."""
    if parts[0] not in ("p2p", "ipfs"):
        raise UsageError(f"Expected /p2p/ and a peer id in {text!r}.", next=_NEXT)
    return check_peer_id(parts[1])


def _named_bytes(raw: bytes) -> tuple[str, bytes]:
    """Return the peer id that ``raw`` begins with, and the rest; UsageError."""
    end = 3 + raw[2] if raw[:2] == _P2P_BYTES and len(raw) > 2 else 0
    if not end or len(raw) < end:
        raise UsageError("Expected /p2p and a peer id in a binary multiaddr.")
    return check_peer_id(base58.b58encode(raw[3:end]).decode("ascii")), raw[end:]


def _peer_bytes(peer: str) -> bytes:
    raw = base58.b58decode(peer)
    return _P2P_BYTES + bytes([len(raw)]) + raw


def _host(kind: str, host: str, text: str) -> str:
    """Return the host in its one spelling, or raise UsageError about ``text``."""
    try:
        if kind == "ip4":
            return str(ipaddress.IPv4Address(host))
        if kind == "ip6" and "%" not in host:
            return str(ipaddress.IPv6Address(host))
    except ValueError as exc:
        raise UsageError(f"Expected an IP address in {text!r}.", next=_NEXT) from exc
    if kind not in ("dns", "dns4", "dns6") or len(host) > 127 or not _NAME.fullmatch(host):
        raise UsageError(f"Expected an IP address or a DNS name in {text!r}.", next=_NEXT)
    return host.lower()
