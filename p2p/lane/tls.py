"""The TLS of a lane: 1.3 only, a certificate for each run, pinned by its hash.

The certificate says nothing that anybody checks: who answers is proved by the libp2p connection
that told its hash, and who asks by the ticket. So there is no name, no chain and no trust store.
"""

import datetime
import hashlib
import ssl
import tempfile
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LIFETIME = datetime.timedelta(days=3650)
"""Nobody reads it: the certificate ends with the process."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's context and what its peers pin."""

    context: ssl.SSLContext
    sha256: str


def make_certificate() -> Certificate:
    """Make a key and a self-signed certificate; blocks for some milliseconds."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "allod lane")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)  # clocks may be wrong: pinned anyway
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + 3 * LIFETIME)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # sessions are not resumed: each connection shows a ticket of ours
    # The ssl module reads keys from files only; this one is its owner's, and gone at once.
    with tempfile.NamedTemporaryFile(prefix="allod-lane-") as file:
        pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write(pkcs8 + certificate.public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return Certificate(context, hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest())


def client_context() -> ssl.SSLContext:
    """A context that takes any certificate: the caller compares its hash."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(sock: ssl.SSLSocket) -> str:
    """The hash of the certificate that the other side showed."""
    return hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
