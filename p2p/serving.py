"""What two nodes agree on when one answers for a model in the other's place.

A node that shares a model says so in the DHT under a key of its own, made of the manifest's CID:
providers of the manifest hold it, providers of this key answer for it. Who looks for an answer is
not sent to a thousand nodes that only store, and who fetches is not sent to one that only answers.

Pure: what comes from others raises ``PeerFault``.
Specification: docs/explanation/formats.md, "Answering for models".
"""

import json
import re
from dataclasses import dataclass
from typing import Final

from p2p.cid import CID, Codec
from p2p.errors import PeerFault, VerificationFailed
from p2p.fields import Fields

SERVING: Final = "/allod/v1/serving"
"""Where a node says how busy a model is; the manifest follows."""
ANSWER: Final = "/allod/v1/answer"
"""Where a node answers; the manifest follows, and the endpoint."""
RECEIPT: Final = "/allod/v1/receipt"
"""Where a node gives the receipt of an answer; its id follows."""

DIGEST_HEADER: Final = "x-model-digest"
PUBLISHER_HEADER: Final = "x-model-publisher"
RECEIPT_HEADER: Final = "x-receipt-id"

RECEIPT_ID: Final = re.compile("[A-Za-z0-9_-]{16,64}")
"""A receipt's id, which goes into a path."""

BEAT: Final = 10.0
"""Seconds after which a stream of events in which nothing comes brings a comment: it lives."""
SIGN_OF_LIFE: Final = b":\n\n"
"""That comment. It is part of the answer's bytes as a receipt counts them."""

PLACES: Final = 4
"""Requests of one peer that a node answers, or lets wait, at the same time: its queue is for all.
Who asks keeps to it too, and spares both the refusals."""

MAX_SERVING: Final = 4096
"""Bytes of what a node says of a model: some 200."""
MAX_SLOTS: Final = 1 << 20
"""Slots, and requests that wait, that are believed: far more than any machine has."""

_PREFIX: Final = b"allod serves "
_WORD: Final = re.compile("[a-z][a-z0-9_/]{0,31}")
_MAX_WORDS: Final = 32


def serving_key(manifest: CID) -> CID:
    """Return the key under which the DHT names the nodes that answer for a release."""
    return CID.of(_PREFIX + bytes(manifest), Codec.RAW)


@dataclass(frozen=True, slots=True)
class Serving:
    """How a node serves a model at this moment, by its own word."""

    slots: int
    """Requests that it answers at the same time; at least one."""
    busy: int
    waiting: int
    context: int
    """Tokens of one request; 0: it does not know."""
    capabilities: frozenset[str]
    state: str
    """cold, loading, ready, failed."""

    @property
    def load(self) -> float:
        """Requests for each slot: from 1 on a new one waits."""
        return (self.busy + self.waiting) / self.slots

    def encode(self) -> bytes:
        """Write it as the JSON that goes over the wire."""
        said = {
            "slots": self.slots,
            "busy": self.busy,
            "waiting": self.waiting,
            "context": self.context,
            "capabilities": sorted(self.capabilities),
            "state": self.state,
        }
        return json.dumps(said).encode()

    @classmethod
    def decode(cls, data: bytes, peer: str = "") -> "Serving":
        """Read it; PeerFault when it is malformed. Fields that nobody knows are passed over."""
        try:
            said = Fields.of(json.loads(data), "serving")
            return cls(
                slots=_count(said, "slots", 1),
                busy=_count(said, "busy"),
                waiting=_count(said, "waiting"),
                context=_count(said, "context", most=1 << 40),
                capabilities=frozenset(said.texts("capabilities", _WORD, _MAX_WORDS)),
                state=said.text("state", _WORD),
            )
        except (VerificationFailed, ValueError, RecursionError) as exc:
            raise PeerFault(f"It said nothing sensible of a model: {exc}", peer=peer) from exc


def _count(said: Fields, name: str, least: int = 0, most: int = MAX_SLOTS) -> int:
    value = said.get(name, int)
    if not least <= value <= most:
        raise VerificationFailed(f"{name} is {value}, {least} to {most} were expected.")
    return value
