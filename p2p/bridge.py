"""The bridge to OpenSSF model signing: a signature that the ``model_signing`` command verifies.

That tool knows nothing of manifests, of BLAKE3 or of Ed25519. So the publisher makes a second
statement, over the SHA-256 of every whole file, and signs it with a key that the tool does know:
P-256, which is certified by an X.509 authority that is the publisher's Ed25519 key itself.

    Ed25519 key of the publisher --signs--> its own certificate          publisher.pem
                                 --signs--> the certificate of a P-256 key
    P-256 key, made of the same seed --signs--> the statement            model.sig

Everything follows from the seed, the manifest and the digests: no dates, no random numbers. So the
same release has the same ``model.sig`` wherever it is made, and a publisher has one
``publisher.pem`` for each of his keys.

Who has a ``model.sig`` can make no second one out of it: the bundle is canonical, the certificates
leave nobody a choice (certificates.py), and of ECDSA's two spellings of a signature the lower one
counts.
A good ``model.sig`` says only that this key signed these digests: whose key it is, and that the
files are those of the manifest, is ``check_model_signature``'s and the caller's to see.

Pure. Specifications: OpenSSF Model Signing v1.0, RFC 5280, RFC 8410, RFC 6979, DSSE v1.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from p2p import canonical
from p2p.certificates import ORDER, as_pem, certify, check_chain, signer_key
from p2p.cid import CID, Codec, Hash
from p2p.envelope import BUNDLE_TYPE, MAX_BUNDLE, PAYLOAD_TYPE, signed_bytes
from p2p.errors import UsageError, VerificationFailed
from p2p.fields import Fields
from p2p.keys import PublicKey, SecretKey
from p2p.manifest import PUBLISHER, STATEMENT_TYPE, Manifest
from p2p.memo import remembered
from p2p.paths import MAX_PATH

PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"

MAX_MODEL_SIGNATURE: Final = MAX_BUNDLE
"""Bytes of a ``model.sig``, a bundle like others: it names every file, and some 35,000 fit."""
MAX_RESOURCES: Final = 50_000
"""Files that one names: no more would fit."""

_SHA256: Final = re.compile("[0-9a-f]{64}")
_NAME: Final = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_PATH}}}")
_ECDSA: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """A ``model.sig`` whose signatures were verified: who signed which digests, of which release.

    ``key`` is the publisher's, by which the one that signed is certified; ``sums``: path -> SHA-256
    in hex; ``authority``: the text of ``publisher.pem``.
    """

    key: PublicKey
    publisher: str
    manifest: CID
    sums: Mapping[str, str]
    authority: str
    bundle: bytes


def write_model_signature(manifest: Manifest, sums: Mapping[CID, str], key: SecretKey) -> bytes:
    """Sign the SHA-256 of every file, ``sums`` by the files' CIDs; ``UsageError`` if too many.

    The manifest's entries must be at hand.
    """
    payload = _payload(manifest, {entry.path: sums[entry.cid] for entry in manifest.files})
    signature = signer_key(key).sign(signed_bytes(payload), _ECDSA)
    data = _write(payload, _lower(signature), certify(key, manifest.publisher))
    if len(data) > MAX_MODEL_SIGNATURE:
        raise UsageError(
            f"A model.sig has at most {MAX_MODEL_SIGNATURE} bytes, that of {len(manifest.files)} "
            f"files would have {len(data)}.",
            next="The manifest's own signature covers every file; `allod verify` checks them.",
        )
    return data


@remembered
def read_model_signature(data: bytes) -> ModelSignature:
    """Read a ``model.sig`` and verify its three signatures; ``VerificationFailed``."""
    value = canonical.decode(data, limit=MAX_MODEL_SIGNATURE, what="model.sig")
    bundle = Fields.of(value, "")
    envelope = bundle.child("dsseEnvelope")
    signatures = envelope.children("signatures", 1)
    material = bundle.child("verificationMaterial").child("x509CertificateChain")
    certificates = material.children("certificates", 2)
    if not signatures or len(certificates) != 2:
        raise VerificationFailed("A model.sig has one signature and two certificates.")
    payload = envelope.base64("payload")
    signature = signatures[0].base64("sig")
    chain = [certificate.base64("rawBytes") for certificate in certificates]
    if _write(payload, signature, chain) != data:
        raise VerificationFailed("The model.sig holds more than what its signatures cover.")
    manifest, publisher, sums = _read_payload(payload)
    key, signer = check_chain(chain, publisher)
    _check_signature(signer, signed_bytes(payload), signature)
    return ModelSignature(key, publisher, manifest, sums, as_pem(chain[1]), data)


def check_model_signature(signature: ModelSignature, manifest: Manifest) -> None:
    """Refuse a ``model.sig`` that says something else than the manifest; ``VerificationFailed``.

    The manifest's entries must be at hand.
    """
    if (signature.manifest, signature.publisher) != (manifest.cid, manifest.publisher):
        raise VerificationFailed(
            f"The model.sig is for {signature.manifest} by {signature.publisher}, not for "
            f"{manifest.cid} by {manifest.publisher}."
        )
    if signature.sums.keys() != {entry.path for entry in manifest.files}:
        raise VerificationFailed("The model.sig names other files than the manifest.")
    for entry in manifest.files:
        digest = signature.sums[entry.path]
        if entry.sha256 not in (None, digest) or (
            entry.cid.codec is Codec.RAW
            and entry.cid.hash is Hash.SHA2_256
            and entry.cid.digest.hex() != digest
        ):
            raise VerificationFailed(
                f"The model.sig has another SHA-256 of {entry.path} than the manifest."
            )


def _payload(manifest: Manifest, sums: Mapping[str, str]) -> bytes:
    """Return the statement: the tool's fields, and two of ours, which it passes over."""
    paths = sorted(sums, key=lambda path: path.split("/"))  # the tool's own order
    return canonical.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": f"{manifest.name}@{manifest.version}",
                    "digest": {"sha256": _root(sums[path] for path in paths)},
                }
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [],
                },
                "resources": [
                    {"name": path, "algorithm": "sha256", "digest": sums[path]} for path in paths
                ],
                "manifest": str(manifest.cid),
                "publisher": manifest.publisher,
            },
        }
    )


def _read_payload(payload: bytes) -> tuple[CID, str, dict[str, str]]:
    """Check the statement; return the manifest, the publisher, and the digests by path."""
    value = canonical.decode(payload, limit=MAX_MODEL_SIGNATURE, what="statement")
    statement = Fields.of(value, "")
    statement.one_of("_type", [STATEMENT_TYPE])
    statement.one_of("predicateType", [PREDICATE_TYPE])
    predicate = statement.child("predicate")
    serialization = predicate.child("serialization")
    serialization.one_of("method", ["files"])
    serialization.one_of("hash_type", ["sha256"])
    if serialization.get("ignore_paths", list):
        raise VerificationFailed("The model.sig passes over some files.")
    sums = {}
    resources = predicate.children("resources", MAX_RESOURCES)
    for resource in resources:
        resource.one_of("algorithm", ["sha256"])
        sums[resource.text("name", _NAME)] = resource.text("digest", _SHA256)
    subjects = statement.children("subject", 1)
    root = _root(sums.values())
    if len(sums) != len(resources) or not subjects:
        raise VerificationFailed("The model.sig names a file twice, or nothing.")
    subjects[0].child("digest").one_of("sha256", [root])
    return predicate.cid("manifest", Codec.JSON), predicate.text("publisher", PUBLISHER), sums


def _root(sums: Iterable[str]) -> str:
    """Return the one digest of all files: over their digests, one after the other."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in sums)).hexdigest()


def _check_signature(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> None:
    try:
        if _lower(signature) == signature:
            key.verify(signature, message, _ECDSA)
            return
    except (ValueError, InvalidSignature):
        pass
    raise VerificationFailed("The signature of the model.sig is not one over its statement.")


def _lower(signature: bytes) -> bytes:
    """Return the one of a signature's two spellings that counts here."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, ORDER - s))


def _write(payload: bytes, signature: bytes, chain: Iterable[bytes]) -> bytes:
    """Return the one bundle of these."""
    certificates = [{"rawBytes": b64encode(der).decode()} for der in chain]
    bundle: dict[str, Any] = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"x509CertificateChain": {"certificates": certificates}},
        "dsseEnvelope": {
            "payload": b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": "", "sig": b64encode(signature).decode()}],
        },
    }
    return canonical.encode(bundle)
