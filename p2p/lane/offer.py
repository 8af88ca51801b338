"""What two peers agree on before there is a lane: the offer, and the tickets in it.

Pure: time and random words come in.
An offer is only ever given over a connection that proved who the asker is, so a ticket stands for
its asker: whoever shows it on a lane is that peer, once, for a minute.
"""

import hmac
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from p2p.address import Address
from p2p.errors import PeerFault, UsageError

PATH = "/allod/v1/lane"
HEADER = "allod-ticket"
"""The request header that carries a ticket, in the first request of a lane."""
TICKET_TIME = 60.0
"""Seconds that a ticket is good for: it is used at once or not at all."""
TICKETS = 4
"""Tickets in one offer: a fetch opens two lanes, and a broken one again."""
MAX_PER_PEER = 16
"""Tickets of one peer that are good at the same time; older ones end."""
MAX_TICKETS = 4096
"""Of all peers: half a megabyte."""
MAX_ADDRESSES = 8
"""Addresses of an offer that are looked at: a host has a few interfaces."""
MAX_OFFER = 8192
"""Bytes of an offer."""
TICKET_BYTES = 24
"""Random bytes in a ticket: nobody guesses one."""

Encryption = Literal["tls", "off"]


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a lane can be opened, who answers there, and what to show."""

    addresses: tuple[Address, ...]
    certificate_sha256: str
    """Of the certificate's DER, in lower-case hex."""
    tickets: tuple[str, ...]
    expires: float
    """Seconds from now until the tickets end."""
    encryption: Encryption

    def encode(self) -> bytes:
        """Write it as the JSON that goes over the wire."""
        return json.dumps(
            {
                "addresses": [str(address) for address in self.addresses],
                "certificate_sha256": self.certificate_sha256,
                "tickets": list(self.tickets),
                "expires": self.expires,
                "encryption": self.encryption,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes, peer: str = "") -> "Offer":
        """Read it; PeerFault when it is malformed. Addresses that we don't know are left out."""
        try:
            said = json.loads(data)
            certificate = said["certificate_sha256"]
            tickets = tuple(said["tickets"][: 2 * TICKETS])
            encryption = said["encryption"]
            good = (
                len(bytes.fromhex(certificate)) == 32
                and isinstance(said["tickets"], list)
                and isinstance(said["addresses"], list)
                and all(isinstance(t, str) and t.isascii() and t.isalnum() for t in tickets)
                and encryption in ("tls", "off")
            )
            if not good:
                raise ValueError
            addresses = [_address(text) for text in said["addresses"][:MAX_ADDRESSES]]
            return cls(
                tuple(address for address in addresses if address is not None),
                certificate.lower(),
                tickets,
                float(said["expires"]),
                encryption,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise PeerFault("It made a malformed offer of a lane.", peer=peer) from exc


def _address(text: str) -> Address | None:
    try:
        return Address.parse(text)
    except UsageError:
        return None


@dataclass(frozen=True, slots=True)
class _Ticket:
    peer: str
    encryption: Encryption
    ends: float


class Tickets:
    """The tickets that are good now; the oldest go first when there are too many."""

    def __init__(self) -> None:
        self._good: OrderedDict[str, _Ticket] = OrderedDict()
        self._of: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._good)

    def give(
        self, peer: str, words: Sequence[str], encryption: Encryption, now: float
    ) -> tuple[str, ...]:
        """Make these fresh random words good for ``peer``."""
        mine = self._of.get(peer, [])
        for word in mine[: max(0, len(mine) + len(words) - MAX_PER_PEER)]:
            self._end(word)
        while len(self._good) + len(words) > MAX_TICKETS:
            self._end(next(iter(self._good)))
        for word in words:
            self._good[word] = _Ticket(peer, encryption, now + TICKET_TIME)
            self._of.setdefault(peer, []).append(word)
        return tuple(words)

    def _end(self, word: str) -> _Ticket | None:
        ticket = self._good.pop(word, None)
        if ticket is not None:
            mine = self._of[ticket.peer]
            mine.remove(word)
            if not mine:
                del self._of[ticket.peer]
        return ticket

    def take(self, word: str, encryption: Encryption, now: float) -> str | None:
        """Use a ticket up: the peer it was given to, or None if it is not good."""
        ticket = self._end(word)
        if ticket is None or now >= ticket.ends or ticket.encryption != encryption:
            return None
        return ticket.peer


def same_certificate(pinned: str, seen: str) -> bool:
    """Compare two digests in hex in constant time."""
    return hmac.compare_digest(pinned, seen)
