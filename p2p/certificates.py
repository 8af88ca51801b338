"""The X.509 certificates behind a ``model.sig``: a publisher's Ed25519 key as an authority.

    authority    the publisher's key, certified by itself: publisher.pem
    signer       a P-256 key made of the same seed, certified by the authority for code signing

Nothing in them depends on when or where they are made, and a reader makes them again from their
keys: what is not the same byte for byte is refused, so X.509 leaves nobody a choice here.
The certificates never end: keys do, and publishers say so in their metadata.

Pure. The signatures in them are made and checked by libsodium (keys.py), as all Ed25519 here.
Specifications: RFC 5280, RFC 8410, RFC 5869.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2p.errors import UsageError, VerificationFailed
from p2p.keys import SIGNATURE_SIZE, PublicKey, SecretKey

ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""How many points the group of P-256 has."""
_INFO: Final = b"allod model_signing P-256 v1"
# The tool looks at the certificates as they were when the lower one began to hold.
_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
_UNTIL: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 section 4.1.2.5: never
_ED25519: Final = bytes.fromhex("300506032b6570")  # RFC 8410: the algorithm of both signatures
_NOBODY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))


def certify(key: SecretKey, publisher: str) -> tuple[bytes, bytes]:
    """Return the certificates of the signer and of the authority, in DER."""
    signer, authority = _certificates(key.public, publisher, signer_key(key).public_key())
    return _signed(signer, key.sign(signer)), _signed(authority, key.sign(authority))


def check_chain(
    chain: Sequence[bytes], publisher: str
) -> tuple[PublicKey, ec.EllipticCurvePublicKey]:
    """Return the keys of the authority and of the signer; ``VerificationFailed``.

    ``chain``: two certificates in DER, which must be what ``certify`` makes of their keys.
    """
    key, signer = _read_keys(chain)
    for certificate, der in zip(_certificates(key, publisher, signer), chain, strict=True):
        by_key = der[-SIGNATURE_SIZE:]
        if _signed(certificate, by_key) != der or not key.verify(certificate, by_key):
            raise VerificationFailed(
                f"A certificate in the model.sig is not one by {key.did} for {publisher}."
            )
    return key, signer


def signer_key(key: SecretKey) -> ec.EllipticCurvePrivateKey:
    """Make the P-256 key that belongs to an Ed25519 seed.

    48 bytes taken modulo the group's order are as good as uniform (FIPS 186-5 appendix A.2.1).
    """
    raw = HKDF(hashes.SHA256(), 48, salt=None, info=_INFO).derive(key.seed)
    return ec.derive_private_key(int.from_bytes(raw, "big") % (ORDER - 1) + 1, ec.SECP256R1())


def _certificates(
    key: PublicKey, publisher: str, signer: ec.EllipticCurvePublicKey
) -> tuple[bytes, bytes]:
    """Return the certificates of signer and authority up to where their signatures begin."""
    ed25519 = Ed25519PublicKey.from_public_bytes(key.raw)
    issuer = _name("Allod publisher", key)
    issuer_id = x509.SubjectKeyIdentifier.from_public_key(ed25519)
    upper = (
        _builder(ed25519, issuer, issuer, publisher)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(issuer_id, critical=False)
    )
    issued = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id)
    lower = (
        _builder(signer, _name("Allod model signing", key), issuer, publisher)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(signer), critical=False)
        .add_extension(issued, critical=False)
    )
    # What this key signs is dropped: only keys.py signs and verifies with Ed25519.
    return (
        lower.sign(_NOBODY, None).tbs_certificate_bytes,
        upper.sign(_NOBODY, None).tbs_certificate_bytes,
    )


def _builder(
    public: ec.EllipticCurvePublicKey | Ed25519PublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    publisher: str,
) -> x509.CertificateBuilder:
    """Begin a certificate with what both have."""
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"allod:{publisher}")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(int.from_bytes(hashlib.sha256(der).digest()[:16], "big") + 1)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(names, critical=False)
    )


def _name(organization: str, key: PublicKey) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, key.did),
        ]
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(certificate: bytes, signature: bytes) -> bytes:
    """Put an Ed25519 signature under what it covers: RFC 5280 section 4.1, in DER."""
    body = certificate + _ED25519 + b"\x03\x41\x00" + signature
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def _read_keys(chain: Sequence[bytes]) -> tuple[PublicKey, ec.EllipticCurvePublicKey]:
    """Return the Ed25519 key of the authority and the P-256 key that signs."""
    try:
        signer, authority = (x509.load_der_x509_certificate(der).public_key() for der in chain)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise VerificationFailed(f"The model.sig holds no certificate: {exc}.") from exc
    if not isinstance(authority, Ed25519PublicKey):
        raise VerificationFailed("The authority in the model.sig is no Ed25519 key.")
    if not isinstance(signer, ec.EllipticCurvePublicKey) or signer.curve.name != "secp256r1":
        raise VerificationFailed("The model.sig is not signed by a P-256 key.")
    try:
        return PublicKey(authority.public_bytes_raw()), signer
    except UsageError as exc:
        raise VerificationFailed(f"The authority in the model.sig: {exc}") from exc


def as_pem(der: bytes) -> str:
    """Write a certificate as PEM."""
    certificate = x509.load_der_x509_certificate(der)
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
