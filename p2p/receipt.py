"""Receipts: a node's signed word that this model gave this answer to this request.

It is an in-toto statement about one thing, the answer's bytes, in a bundle as every other statement
here: so a tool that knows in-toto and sigstore finds the SHA-256 of the file that it checks where
it expects it. What was asked, of which release, and whose engine answered stands in the predicate.

A receipt proves who says so, and that these very bytes are meant. It proves no computation: whoever
has the key can sign what a model never said.
``signedBy`` is the node whose door the client used and whose key this is, ``servedBy`` the one
whose engine answered; they differ where a peer answered in this node's place.

A receipt has exactly the fields that ``sign_receipt`` writes; one with more, or fewer, is refused.

Pure; what comes from others raises ``VerificationFailed``.
Specifications: in-toto Statement v1; docs/explanation/formats.md, "Receipts".
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from p2p import canonical
from p2p.cid import CID, Codec
from p2p.envelope import open_bundle, sign_bundle
from p2p.errors import UsageError, VerificationFailed
from p2p.fields import Fields
from p2p.keys import PublicKey, SecretKey
from p2p.manifest import PUBLISHER, STATEMENT_TYPE

PREDICATE_TYPE: Final = "urn:allod:receipt:v1"

MAX_RECEIPT: Final = 64 << 10
"""Bytes of a receipt's bundle: one has some 1,400, and who reads a stranger's reads no more."""
MAX_SKEW: Final = 600
"""Seconds by which two nodes' clocks may differ: laptops that slept, machines without NTP."""

_SHA256: Final = re.compile("[0-9a-f]{64}")
_ENDPOINT: Final = re.compile("[a-z0-9][a-z0-9/._-]{0,63}")
_PEER: Final = re.compile("12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a request or of an answer: their SHA-256 in lower-case hex, and how many."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as a receipt states them.

    ``endpoint``: what was asked for, such as chat/completions. ``status``: the answer's HTTP
    status. ``at``: a UTC time like 2026-11-22T00:00:00Z. ``served_by``: a peer id.
    """

    model: CID
    publisher: str
    endpoint: str
    request: Body
    response: Body
    status: int
    at: str
    served_by: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt whose signature was verified: what it says, whose key says so, and its bytes."""

    exchange: Exchange
    key: PublicKey
    bundle: bytes

    @property
    def served_by(self) -> str:
        """The peer id of the node whose engine answered, by the signer's word."""
        return self.exchange.served_by

    @property
    def signed_by(self) -> str:
        """The peer id of the node that signed."""
        return self.key.peer_id


def sign_receipt(exchange: Exchange, key: SecretKey) -> bytes:
    """Sign a receipt with a node's key; ``UsageError`` says what about it cannot be stated."""
    payload = _payload(exchange, key.public.peer_id)
    try:
        _check(payload, key.public)
    except VerificationFailed as exc:
        raise UsageError(f"This receipt cannot be stated: {exc}") from exc
    return sign_bundle(payload, key)


def read_receipt(data: bytes) -> Receipt:
    """Read a receipt, verify its signature, and check what it says; ``VerificationFailed``."""
    if len(data) > MAX_RECEIPT:
        raise VerificationFailed(
            f"A receipt has at most {MAX_RECEIPT} bytes, this one has {len(data)}."
        )
    signed = open_bundle(data)
    return Receipt(_check(signed.payload, signed.key), signed.key, data)


def check_receipt(
    receipt: Receipt,
    *,
    manifest: CID,
    peer: str,
    request_sha256: str,
    response_sha256: str,
    now: float,
) -> None:
    """Refuse a receipt that is not for this exchange; ``VerificationFailed`` says what differs.

    ``peer`` is who was asked: it has to have signed, and to have answered itself. ``manifest``
    is the model that was meant. ``now``: seconds since 1970; the receipt is at most ``MAX_SKEW``
    older or younger.
    """
    said = receipt.exchange
    for what, came, expected in (
        ("is signed by", receipt.signed_by, peer),
        ("is for an answer served by", said.served_by, peer),
        ("is for the model", str(said.model), str(manifest)),
        ("is for a request of SHA-256", said.request.sha256, request_sha256),
        ("is for a response of SHA-256", said.response.sha256, response_sha256),
    ):
        if came != expected:
            raise VerificationFailed(f"The receipt {what} {came}, {expected} was expected.")
    age = now - datetime.strptime(said.at, _TIME).replace(tzinfo=UTC).timestamp()
    if not -MAX_SKEW <= age <= MAX_SKEW:
        raise VerificationFailed(
            f"The receipt is of {said.at}, which is {abs(age):.0f} seconds "
            f"{'ago' if age > 0 else 'ahead'}; at most {MAX_SKEW} were expected."
        )


def _payload(said: Exchange, signed_by: str) -> bytes:
    """Return the one statement of these."""
    return canonical.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": f"{said.endpoint} answer", "digest": {"sha256": said.response.sha256}}
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "model": str(said.model),
                "publisher": said.publisher,
                "endpoint": said.endpoint,
                "request": {"sha256": said.request.sha256, "size": said.request.size},
                "response": {"sha256": said.response.sha256, "size": said.response.size},
                "status": said.status,
                "time": said.at,
                "servedBy": said.served_by,
                "signedBy": signed_by,
            },
        }
    )


def _check(payload: bytes, key: PublicKey) -> Exchange:
    """Check a statement that ``key`` signed, or is to sign, and return what it says."""
    value = canonical.decode(payload, limit=MAX_RECEIPT, what="receipt")
    statement = Fields.of(value, "")
    statement.one_of("_type", [STATEMENT_TYPE])
    statement.one_of("predicateType", [PREDICATE_TYPE])
    predicate = statement.child("predicate")
    status = predicate.get("status", int)
    if not 100 <= status <= 599:
        raise VerificationFailed(f"predicate.status is {status}, an HTTP status was expected.")
    signed_by = predicate.text("signedBy", _PEER)
    if signed_by != key.peer_id:
        raise VerificationFailed(
            f"The receipt names {signed_by} as its signer, but is signed by {key.peer_id}."
        )
    said = Exchange(
        model=predicate.cid("model", Codec.JSON),
        publisher=predicate.text("publisher", PUBLISHER),
        endpoint=predicate.text("endpoint", _ENDPOINT),
        request=_body(predicate.child("request")),
        response=_body(predicate.child("response")),
        status=status,
        at=predicate.time("time"),
        served_by=predicate.text("servedBy", _PEER),
    )
    if _payload(said, signed_by) != payload:
        raise VerificationFailed(
            "The receipt's subject is not the answer that it speaks of, or it has more fields than "
            "a receipt has."
        )
    return said


def _body(fields: Fields) -> Body:
    size = fields.get("size", int)
    if size < 0:
        raise VerificationFailed(f"{fields.name}.size is {size}, a size was expected.")
    return Body(fields.text("sha256", _SHA256), size)
