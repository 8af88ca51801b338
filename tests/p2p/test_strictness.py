"""A signature counts once and for one statement: every known way round that is tried on bundles."""

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2p.attest import read_attestation
from p2p.envelope import open_bundle, sign_bundle, signed_bytes
from p2p.errors import VerificationFailed
from p2p.keys import PublicKey
from p2p.manifest import parse_manifest
from tests.p2p.statements import ALICE, BOB, MODEL_SIG, RELEASE, SIGNED, altered, payload_of, said
from tests.p2p.test_keys import ORDER, SMALL_ORDER

IDENTITY = bytes([1]) + bytes(31)
READERS = [open_bundle, read_attestation]


def unchecked_did(raw: bytes) -> str:
    """The did:key of any 32 bytes, also of those that are no key here."""
    key = object.__new__(PublicKey)
    object.__setattr__(key, "raw", raw)
    return key.did


def forged(bundle: bytes, did: str, signature: bytes) -> bytes:
    """The bundle with another signer and signature."""

    def change(value: dict[str, Any]) -> None:
        sig = b64encode(signature).decode()
        value["dsseEnvelope"]["signatures"] = [{"keyid": did, "sig": sig}]
        value["verificationMaterial"]["publicKey"]["hint"] = did

    return altered(bundle, change)


def signature_of(bundle: bytes) -> bytes:
    return b64decode(json.loads(bundle)["dsseEnvelope"]["signatures"][0]["sig"])


def test_the_forgery_is_one() -> None:
    """The control: a library that checks less takes such a signature for any statement at all."""
    loose = Ed25519PublicKey.from_public_bytes(IDENTITY)
    for statement in (RELEASE.payload, b"anything else"):
        try:
            loose.verify(IDENTITY + bytes(32), signed_bytes(statement))
        except InvalidSignature:
            pytest.skip("cryptography refuses it by now")


@pytest.mark.parametrize("point", SMALL_ORDER)
@pytest.mark.parametrize("by", SMALL_ORDER[:2])
def test_keys_of_small_order(point: str, by: str) -> None:
    """A signature by a key under which it fits every statement is refused, for each such key."""
    for bundle in (SIGNED, said()):
        forgery = forged(bundle, unchecked_did(bytes.fromhex(point)), bytes.fromhex(by) + bytes(32))
        for reader in READERS:
            with pytest.raises(VerificationFailed):
                reader(forgery)


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order(point: str) -> None:
    """A signature whose R is such a point is refused, under a good key too."""
    signature = bytes.fromhex(point) + signature_of(SIGNED)[32:]
    with pytest.raises(VerificationFailed):
        open_bundle(forged(SIGNED, ALICE.public.did, signature))


@pytest.mark.parametrize("times", range(1, 16))
def test_scalars_that_are_not_canonical(times: int) -> None:
    """s + n L is s to the curve; written so it would be a second signature, and is refused."""
    signature = signature_of(SIGNED)
    scalar = int.from_bytes(signature[32:], "little") + times * ORDER
    if scalar >= 2**256:
        return
    again = signature[:32] + scalar.to_bytes(32, "little")
    with pytest.raises(VerificationFailed):
        open_bundle(forged(SIGNED, ALICE.public.did, again))


@pytest.mark.parametrize("y", [2**255 - 19 + offset for offset in range(19)])
@pytest.mark.parametrize("sign", [0, 1])
def test_points_that_are_not_canonical(y: int, sign: int) -> None:
    """A y that is not less than p is refused, in a key and in a signature."""
    raw = (y | sign << 255).to_bytes(32, "little")
    signature = signature_of(SIGNED)
    for did, by in (
        (unchecked_did(raw), signature),
        (unchecked_did(raw), raw + bytes(32)),
        (ALICE.public.did, raw + signature[32:]),
    ):
        with pytest.raises(VerificationFailed):
            open_bundle(forged(SIGNED, did, by))


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 128])
def test_signatures_of_other_lengths(length: int) -> None:
    """A signature has 64 bytes; one that goes on, or stops, is refused."""
    signature = (signature_of(SIGNED) * 2)[:length]
    with pytest.raises(VerificationFailed):
        open_bundle(forged(SIGNED, ALICE.public.did, signature))


def test_more_than_one_signature() -> None:
    """A second signature, a true one at that, and the same one twice are refused."""
    mine = json.loads(SIGNED)["dsseEnvelope"]["signatures"][0]
    bobs = json.loads(sign_bundle(RELEASE.payload, BOB))["dsseEnvelope"]["signatures"][0]
    for signatures in ([mine, bobs], [bobs, mine], [mine, mine], [mine, {}]):
        with pytest.raises(VerificationFailed, match="2 items"):
            open_bundle(altered(SIGNED, lambda b: b["dsseEnvelope"].update(signatures=signatures)))  # noqa: B023


TWO = [
    b'%b%b' % (RELEASE.payload, RELEASE.payload),
    b"[%b,%b]" % (RELEASE.payload, payload_of(said())),
    RELEASE.payload.replace(b'{"_type"', b'{"_type":"x","_type"', 1),
    RELEASE.payload.replace(b'"name":"tiny"', b'"name":"tiny","name":"large"', 1),
    RELEASE.payload.replace(b'"name":"tiny"', b'"name":"tiny","n\\u0061me":"large"', 1),
    payload_of(said()).replace(b'"subject"', b'"subject":[],"subject"', 1),
    payload_of(said()).replace(b'"verificationResult"', b'"verificationResult":"FAILED",' * 1
                               + b'"verificationResult"', 1),
    payload_of(said()) + b"\n",
    b"\xef\xbb\xbf" + payload_of(said()),
]  # fmt: skip


@pytest.mark.parametrize("payload", TWO)
def test_two_statements_under_one_signature(payload: bytes) -> None:
    """Bytes that one reader may take for this and another for that are no statement at all."""
    bundle = sign_bundle(payload, BOB)
    with pytest.raises(VerificationFailed):
        parse_manifest(payload)
    with pytest.raises(VerificationFailed):
        read_attestation(bundle)


@pytest.mark.parametrize(
    "twice",
    [
        (b'"payload":', b'"payload":"e30=","payload":'),
        (b'"signatures":', b'"signatures":[],"signatures":'),
        (b'"keyid":', b'"keyid":"did:key:z6Mk","keyid":'),
        (b'"dsseEnvelope":', b'"dsseEnvelope":{},"dsseEnvelope":'),
    ],
)
def test_two_payloads_in_one_bundle(twice: tuple[bytes, bytes]) -> None:
    """A bundle in which a field stands twice is refused, whichever comes last."""
    for bundle in (SIGNED, said(), MODEL_SIG):
        with pytest.raises(VerificationFailed):
            open_bundle(bundle.replace(*twice, 1))


def test_a_statement_of_one_kind_is_none_of_another() -> None:
    """Who signs a manifest endorses nothing, and who endorses has published nothing."""
    with pytest.raises(VerificationFailed):
        read_attestation(SIGNED)
    with pytest.raises(VerificationFailed):
        parse_manifest(payload_of(said()))
    with pytest.raises(VerificationFailed):
        open_bundle(MODEL_SIG)
    other_type = altered(
        SIGNED, lambda b: b["dsseEnvelope"].update(payloadType="application/vnd.in-toto")
    )
    with pytest.raises(VerificationFailed, match="payloadType"):
        open_bundle(other_type)
