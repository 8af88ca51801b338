"""Receipts: who says which model gave which answer, in bytes that leave nothing open."""

import hashlib
import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import canonical
from p2p.cid import CID, Codec
from p2p.envelope import sign_bundle
from p2p.errors import UsageError, VerificationFailed
from p2p.keys import SecretKey
from p2p.receipt import (
    MAX_RECEIPT,
    MAX_SKEW,
    Body,
    Exchange,
    Receipt,
    check_receipt,
    read_receipt,
    sign_receipt,
)
from tests.p2p.statements import (
    ALICE,
    ANSWERED,
    ASKED,
    BOB,
    EXCHANGE,
    MODEL_SIG,
    RECEIPT,
    RELEASE,
    SIGNED,
    body,
    payload_of,
    said,
)

NOW = 1795392000.0  # 2026-11-23T00:00:00Z
PEER = "12D3KooWCugzopk9fYBy1pvYVi94Qr2y9PL4CjSpYZUaXir3YWb7"


def test_a_receipt_is_a_statement_about_the_answer() -> None:
    """It has in-toto's form, its one subject is the answer's bytes; the bytes never change."""
    assert json.loads(payload_of(RECEIPT)) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": "chat/completions answer",
                "digest": {"sha256": hashlib.sha256(ANSWERED).hexdigest()},
            }
        ],
        "predicateType": "urn:allod:receipt:v1",
        "predicate": {
            "model": str(RELEASE.cid),
            "publisher": "alice",
            "endpoint": "chat/completions",
            "request": {"sha256": hashlib.sha256(ASKED).hexdigest(), "size": 22},
            "response": {"sha256": hashlib.sha256(ANSWERED).hexdigest(), "size": 14},
            "status": 200,
            "time": "2026-11-23T00:00:00Z",
            "servedBy": PEER,
            "signedBy": PEER,
        },
    }
    envelope = json.loads(RECEIPT)["dsseEnvelope"]
    assert envelope["signatures"] == [
        {
            "keyid": BOB.public.did,
            "sig": "44qaixgNND6CzcSuyeCSN8NCdm9T8PfRYTvbjtZJc7hZ102s3sQn/7Xode2X9RM+/E974Sn8OP1pMX"
            "M75n+SBg==",
        }
    ]
    assert hashlib.sha256(RECEIPT).hexdigest() == (
        "094fde467a59484ccc977a005b01bfeaa2e80763464bc1fd882ca7fcb4bdedd1"
    )


def test_round_trip() -> None:
    """What was signed is read, with the signer and whose engine answered."""
    assert read_receipt(RECEIPT) == Receipt(EXCHANGE, BOB.public, RECEIPT)
    forwarded = read_receipt(sign_receipt(EXCHANGE, ALICE))
    assert (forwarded.served_by, forwarded.signed_by) == (PEER, ALICE.public.peer_id)
    assert forwarded.exchange == EXCHANGE


HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
BODIES = st.builds(Body, HEX, st.integers(0, 2**53 - 1))


@given(
    st.builds(
        Exchange,
        model=st.binary().map(lambda data: CID.of(data, Codec.JSON)),
        publisher=st.from_regex("[A-Za-z0-9]{1,128}", fullmatch=True),
        endpoint=st.sampled_from(["completions", "embeddings", "responses", "api/chat"]),
        request=BODIES,
        response=BODIES,
        status=st.integers(100, 599),
        at=st.sampled_from(["2026-11-23T00:00:00Z", "1970-01-01T23:59:59Z"]),
        served_by=st.sampled_from([PEER, ALICE.public.peer_id]),
    ),
    st.binary(min_size=32, max_size=32).map(SecretKey.from_seed),
)
def test_whatever_can_be_signed_is_read(exchange: Exchange, key: SecretKey) -> None:
    """Every receipt comes back as it was stated, far below the limit."""
    bundle = sign_receipt(exchange, key)
    assert read_receipt(bundle) == Receipt(exchange, key.public, bundle)
    assert len(bundle) < MAX_RECEIPT // 32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"publisher": "not one"}, "publisher"),
        ({"endpoint": ""}, "endpoint"),
        ({"endpoint": "Chat"}, "endpoint"),
        ({"request": Body("00", 1)}, r"request\.sha256"),
        ({"response": Body("0" * 64, -1)}, r"response\.size is -1"),
        ({"response": Body("0" * 64, 2**53)}, "under 2"),
        ({"status": 99}, "status is 99"),
        ({"status": 600}, "status is 600"),
        ({"at": "2026-02-30T00:00:00Z"}, "which is no time"),
        ({"served_by": "12D3KooW"}, "servedBy"),
        ({"served_by": "http://127.0.0.1"}, "servedBy"),
        ({"model": RELEASE.root}, "codec JSON"),
    ],
)
def test_what_cannot_be_stated(change: dict[str, Any], reason: str) -> None:
    """A mistake is the caller's, and is told before anything is signed."""
    with pytest.raises(UsageError, match=reason):
        sign_receipt(replace(EXCHANGE, **change), BOB)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v2"), "_type"),
        (lambda s: s.update(predicateType="urn:allod:receipt:v2"), "predicateType"),
        (lambda s: s.update(more=1), "more fields"),
        (lambda s: s.update(subject=[]), "subject"),
        (lambda s: s["subject"].append(s["subject"][0]), "subject"),
        (lambda s: s["subject"][0].update(name="another"), "subject"),
        (lambda s: s["subject"][0].update(digest={"sha256": "0" * 64}), "subject"),
        (lambda s: s["subject"][0]["digest"].update(sha512="0" * 128), "subject"),
        (lambda s: s.pop("predicate"), "predicate is missing"),
        (lambda s: s["predicate"].update(later=1), "more fields"),
        (lambda s: s["predicate"].pop("signedBy"), "signedBy is missing"),
        (lambda s: s["predicate"].update(signedBy=ALICE.public.peer_id), "names .* as its signer"),
        (lambda s: s["predicate"].update(servedBy="0" * 52), "servedBy"),
        (lambda s: s["predicate"].update(status=True), "status is True"),
        (lambda s: s["predicate"].update(status="200"), "status is '200'"),
        (lambda s: s["predicate"]["request"].update(size=True), r"request\.size"),
        (lambda s: s["predicate"]["request"].update(size=-1), r"request\.size"),
        (lambda s: s["predicate"]["request"].update(sha256="A" * 64), r"request\.sha256"),
        (lambda s: s["predicate"]["response"].update(sha256="0" * 64), "subject"),
        (lambda s: s["predicate"]["response"].update(more=1), "more fields"),
        (lambda s: s["predicate"].update(model="bafy"), "is no CID"),
        (lambda s: s["predicate"].update(time="today"), "time is 'today'"),
    ],
)
def test_refuses(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """A receipt that says more, less or other than it should is refused, however well signed."""
    statement = json.loads(payload_of(RECEIPT))
    change(statement)
    with pytest.raises(VerificationFailed, match=reason):
        read_receipt(sign_bundle(canonical.encode(statement), BOB))


def test_refuses_what_is_no_receipt() -> None:
    """Other bundles, other bytes, and what is too long to be read are none."""
    for data in (SIGNED, MODEL_SIG, said(), b"", b"{}", RECEIPT + b" ", b" " * (MAX_RECEIPT + 1)):
        with pytest.raises(VerificationFailed):
            read_receipt(data)
    with pytest.raises(VerificationFailed, match="at most 65536 bytes"):
        read_receipt(b" " * (MAX_RECEIPT + 1))
    assert len(b64decode(json.loads(RECEIPT)["dsseEnvelope"]["payload"])) < MAX_RECEIPT


def check(bundle: bytes = RECEIPT, **other: Any) -> None:
    expected: dict[str, Any] = {
        "manifest": RELEASE.cid,
        "peer": PEER,
        "request_sha256": body(ASKED).sha256,
        "response_sha256": body(ANSWERED).sha256,
        "now": NOW,
    }
    check_receipt(read_receipt(bundle), **(expected | other))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"manifest": RELEASE.root}, f"is for the model {RELEASE.cid}, {RELEASE.root} was"),
        ({"peer": ALICE.public.peer_id}, f"is signed by {PEER}"),
        ({"request_sha256": body(b"").sha256}, "is for a request of SHA-256"),
        ({"response_sha256": body(b"").sha256}, "is for a response of SHA-256"),
        ({"now": NOW + MAX_SKEW + 1}, "601 seconds ago"),
        ({"now": NOW - MAX_SKEW - 1}, "601 seconds ahead"),
    ],
)
def test_what_differs_is_told(other: dict[str, Any], reason: str) -> None:
    """A true receipt for something else is refused, and the difference named."""
    check()
    check(now=NOW + MAX_SKEW)
    check(now=NOW - MAX_SKEW)
    with pytest.raises(VerificationFailed, match=reason):
        check(**other)


def test_a_peer_that_passed_it_on_is_told_apart() -> None:
    """A peer that signs for another's engine has not answered, and that other did not sign."""
    forwarded = sign_receipt(EXCHANGE, ALICE)
    with pytest.raises(VerificationFailed, match="is for an answer served by"):
        check(forwarded, peer=ALICE.public.peer_id)
    with pytest.raises(VerificationFailed, match="is signed by"):
        check(forwarded)
