"""Envelopes: a bundle proves who signed what, and there is one bundle for one signature."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import canonical
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.envelope import MAX_BUNDLE, MAX_BUNDLES, open_bundle, sign_bundle, signers
from p2p.errors import AllodError, UsageError, VerificationFailed
from p2p.keys import PublicKey, SecretKey
from p2p.manifest import MAX_MANIFEST, FileEntry, build_manifest

ALICE, BOB = SecretKey.from_seed(b"a" * 32), SecretKey.from_seed(b"b" * 32)
PAYLOAD = build_manifest(
    kind="model",
    publisher=str(CID.of(b"root", Codec.JSON)),
    name="tiny",
    version="1",
    created="2026-11-22T00:00:00Z",
    files=[FileEntry("a", 1, CID.of(b"x", Codec.RAW), 1)],
    profile=Profile.FIXED_1M,
    license={"spdx": "MIT"},
).manifest.payload
BUNDLE = sign_bundle(PAYLOAD, ALICE)


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the bundle with a change made to its JSON, in canonical form."""
    bundle = json.loads(BUNDLE)
    change(bundle)
    return canonical.encode(bundle)


def test_round_trip() -> None:
    """A signed statement is opened, and says by whom."""
    signed = open_bundle(BUNDLE)
    assert signed.payload == PAYLOAD
    assert signed.key == ALICE.public
    assert signed.keyid == ALICE.public.did


def test_is_a_sigstore_bundle_with_a_dsse_envelope() -> None:
    """The JSON is that of sigstore's bundle v0.3, and the signature is over DSSE's encoding."""
    bundle = json.loads(BUNDLE)
    assert bundle.keys() == {"mediaType", "verificationMaterial", "dsseEnvelope"}
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"] == {"publicKey": {"hint": ALICE.public.did}}
    envelope = bundle["dsseEnvelope"]
    assert base64.b64decode(envelope["payload"]) == PAYLOAD
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == ALICE.public.did
    encoding = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(PAYLOAD)).encode() + b" "
    assert ALICE.public.verify(encoding + PAYLOAD, base64.b64decode(signature["sig"]))


def test_the_largest_manifest_fits() -> None:
    """A manifest of 4 MiB can be signed; what would not be read back is not signed at all."""
    payload = b"x" * MAX_MANIFEST
    assert open_bundle(sign_bundle(payload, ALICE)).payload == payload
    with pytest.raises(UsageError, match="at most 8388608 bytes"):
        sign_bundle(b"x" * MAX_BUNDLE, ALICE)


def envelope(bundle: dict[str, Any]) -> dict[str, Any]:
    """Return the envelope in the bundle."""
    value: dict[str, Any] = bundle["dsseEnvelope"]
    return value


def impersonate(bundle: dict[str, Any]) -> None:
    """Say that the signature is Bob's."""
    bundle["verificationMaterial"]["publicKey"]["hint"] = BOB.public.did
    envelope(bundle)["signatures"][0]["keyid"] = BOB.public.did


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.update(mediaType=b["mediaType"].replace("v0.3", "v0.4")), "mediaType"),
        (lambda b: b.pop("mediaType"), "mediaType is missing"),
        (lambda b: b.pop("dsseEnvelope"), "dsseEnvelope is missing"),
        (lambda b: b.pop("verificationMaterial"), "holds more than"),
        (lambda b: b["verificationMaterial"].update(tlogEntries=[]), "holds more than"),
        (lambda b: b["verificationMaterial"]["publicKey"].update(hint="x"), "holds more than"),
        (lambda b: b.update(later=1), "holds more than"),
        (lambda b: envelope(b).update(payloadType="text/plain"), "payloadType is 'text/plain'"),
        (lambda b: envelope(b).update(payload=[]), r"payload is \[\]"),
        (lambda b: envelope(b).update(payload="%"), "payload is not base64"),
        (lambda b: envelope(b).update(payload="ä"), "payload is not base64"),
        (lambda b: envelope(b).update(payload="eA"), "payload is not base64"),
        (lambda b: envelope(b).update(payload="eB=="), "holds more than"),  # spare bits are set
        (lambda b: envelope(b).update(payload="eA=="), "not one by"),
        (lambda b: envelope(b).update(signatures=[]), "no signature"),
        (lambda b: envelope(b)["signatures"].append(envelope(b)["signatures"][0]), "2 items"),
        (lambda b: envelope(b)["signatures"][0].update(sig=""), "not one by"),
        (lambda b: envelope(b)["signatures"][0].update(keyid="alice"), "keyid names no key"),
        (lambda b: envelope(b)["signatures"][0].update(keyid=5), "keyid is 5"),
        (lambda b: envelope(b)["signatures"][0].update(keyid=BOB.public.did), "holds more than"),
        (impersonate, "not one by"),
    ],
)
def test_refuses(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """A bundle that says anything but what its signature covers is refused."""
    with pytest.raises(VerificationFailed, match=reason):
        open_bundle(altered(change))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        BUNDLE + b"\n",
        BUNDLE.replace(b":", b": "),
        b" " * (MAX_BUNDLE + 1),
        b"{" * 1_000_000,
    ],
    ids=lambda data: repr(data[:10]),
)
def test_refuses_other_bytes(data: bytes) -> None:
    """Other spellings of a bundle, and bytes that are none, are refused."""
    with pytest.raises(VerificationFailed):
        open_bundle(data)


def test_refuses_a_key_that_fits_every_message() -> None:
    """The forgery with a key of small order, whose signature is over anything, is refused."""
    point = bytes([1]) + bytes(31)
    with pytest.raises(UsageError):
        PublicKey(point)
    forged = "did:key:z6MkeTG3bFFSLYVU7VqhgZxqr6YzpaGrQtFMh1uvqGy1vDnP"  # y = 0
    change = {"sig": base64.b64encode(point + bytes(32)).decode(), "keyid": forged}
    with pytest.raises(VerificationFailed, match="no safe Ed25519 key"):
        open_bundle(altered(lambda bundle: envelope(bundle)["signatures"][0].update(change)))


def test_signers() -> None:
    """Who signed exactly this payload counts, once each, in the order they came."""
    by_bob = sign_bundle(PAYLOAD, BOB)
    other = sign_bundle(b"{}", ALICE)
    assert signers(PAYLOAD, [BUNDLE]) == ({ALICE.public: BUNDLE}, "none came")
    found, _ = signers(PAYLOAD, [b"x", other, by_bob, BUNDLE, by_bob, BUNDLE])
    assert list(found.items()) == [(BOB.public, by_bob), (ALICE.public, BUNDLE)]
    for bundles, reason in (([], "none came"), ([other], "something else"), ([b"x"], "last error")):
        assert signers(PAYLOAD, bundles)[0] == {}
        assert reason in signers(PAYLOAD, bundles)[1]


def test_signers_stops_looking() -> None:
    """A peer cannot make a node look at bundles for ever."""
    assert signers(PAYLOAD, [b"x"] * (MAX_BUNDLES - 1) + [BUNDLE])[0]
    assert not signers(PAYLOAD, [b"x"] * MAX_BUNDLES + [BUNDLE])[0]


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_mutated_bundles(data: st.DataObject) -> None:
    """Changed bytes of a bundle are refused, and raise nothing but our errors."""
    changed = bytearray(BUNDLE)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed)))
        length = data.draw(st.sampled_from([0, 1, 1, 1, 4, 40]))
        piece = data.draw(
            st.binary(max_size=2)
            | st.sampled_from([b'"', b"=", b"A", b"}", b",", b"null", b"\\u0041", b" "])
            | st.just(bytes(changed[place : place + length]) * 2)
        )
        changed[place : place + length] = piece
    mutant = bytes(changed) if bytes(changed) != BUNDLE else BUNDLE + b" "
    with pytest.raises(AllodError):
        open_bundle(mutant)
    assert not signers(PAYLOAD, [mutant])[0]


@settings(deadline=None)
@given(st.integers(0, len(PAYLOAD) - 1), st.integers(0, 255))
def test_mutated_payloads(place: int, byte: int) -> None:
    """A signature over a manifest is none over a manifest with one byte changed."""
    payload = PAYLOAD[:place] + bytes([byte]) + PAYLOAD[place + 1 :]
    if payload == PAYLOAD:
        return
    assert not signers(payload, [BUNDLE])[0]


def test_a_bundle_of_very_many_values_is_not_read() -> None:
    """What cannot be a bundle is refused before anybody takes seconds to read it."""
    data = b"[" + b",".join([b"1"] * (MAX_BUNDLE // 2 - 1)) + b"]"
    with pytest.raises(VerificationFailed, match="holds more than a payload"):
        open_bundle(data)
