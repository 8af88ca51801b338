"""Signed statements: a DSSE envelope with one Ed25519 signature, as a sigstore bundle.

What is signed is DSSE's pre-authentication encoding of the payload and its type, so a signature
over a statement can be taken for nothing else.
Around it stands the JSON of a sigstore bundle v0.3, which other tools read; its key hint and the
envelope's keyid are both the did:key of the signer.

A bundle holds exactly the fields that ``sign_bundle`` writes, in canonical form: everything outside
the signature could be changed by anybody on the way, so there is nothing to change.
Who has a bundle can make no second one out of it; so nodes may keep and pass on what they verified.

Pure. Knows nothing of what a signer may say, or whether he is trusted.
Specifications: DSSE v1 (secure-systems-lab/dsse), sigstore protobuf-specs ``Bundle`` v0.3.
"""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from p2p import canonical
from p2p.errors import UsageError, VerificationFailed
from p2p.fields import Fields
from p2p.keys import PublicKey, SecretKey
from p2p.memo import remembered

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

MAX_BUNDLE: Final = 8 << 20
"""Bytes of a bundle: a manifest of MAX_MANIFEST is 5.6 MB in base64."""
MAX_BUNDLES: Final = 64
"""Bundles of one manifest that are looked at: each may cost 8 MiB and a signature check."""

_COMMAS: Final = 64  # a bundle has 5; to read millions of values takes seconds


@dataclass(frozen=True, slots=True)
class Signed:
    """A payload, and the key whose signature over it was verified; ``keyid`` is its did:key."""

    payload: bytes
    key: PublicKey
    keyid: str


def sign_bundle(payload: bytes, key: SecretKey) -> bytes:
    """Sign an in-toto statement; ``UsageError`` for one too large to be read back."""
    data = _write(payload, key.public, key.sign(signed_bytes(payload)))
    if len(data) > MAX_BUNDLE:
        raise UsageError(f"A bundle has at most {MAX_BUNDLE} bytes, this one has {len(data)}.")
    return data


@remembered
def open_bundle(data: bytes) -> Signed:
    """Read a bundle and verify its signature; ``VerificationFailed`` for anything less."""
    if data.count(b",") > _COMMAS:
        raise VerificationFailed("The bundle holds more than a payload, a keyid and a signature.")
    bundle = Fields.of(canonical.decode(data, limit=MAX_BUNDLE, what="bundle"), "bundle")
    bundle.one_of("mediaType", [BUNDLE_TYPE])
    envelope = bundle.child("dsseEnvelope")
    envelope.one_of("payloadType", [PAYLOAD_TYPE])
    signatures = envelope.children("signatures", 1)
    if not signatures:
        raise VerificationFailed("The bundle holds no signature.")
    payload = envelope.base64("payload")
    signature = signatures[0].base64("sig")
    try:
        key = PublicKey.from_did(signatures[0].get("keyid", str))
    except UsageError as exc:
        raise VerificationFailed(f"The bundle's keyid names no key: {exc}") from exc
    if _write(payload, key, signature) != data:
        raise VerificationFailed("The bundle holds more than a payload, a keyid and a signature.")
    if not key.verify(signed_bytes(payload), signature):
        raise VerificationFailed(
            f"The bundle's signature is not one by {key.did} over its payload."
        )
    return Signed(payload, key, key.did)


def signed_bytes(payload: bytes) -> bytes:
    """Return what DSSE signs: the type and the payload, each with its length."""
    return b"DSSEv1 %d %b %d %b" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )


def signers(payload: bytes, bundles: Iterable[bytes]) -> tuple[dict[PublicKey, bytes], str]:
    """Return who signed exactly this payload, each with one bundle, in the order they came.

    Others are left out; the second value says why the last was, or that there was none.
    """
    good: dict[PublicKey, bytes] = {}
    reason = "none came"
    for data in islice(bundles, MAX_BUNDLES):
        try:
            signed = open_bundle(data)
        except VerificationFailed as exc:
            reason = f"the last error was: {exc}"
            continue
        if signed.payload == payload:
            good.setdefault(signed.key, data)
        else:
            reason = "the last signs something else"
    return good, reason


def _write(payload: bytes, key: PublicKey, signature: bytes) -> bytes:
    """Return the one bundle of these three."""
    bundle: dict[str, Any] = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.did}},
        "dsseEnvelope": {
            "payload": b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": key.did, "sig": b64encode(signature).decode()}],
        },
    }
    return canonical.encode(bundle)
