"""The model.sig: the same wherever it is made, one for one release, no choice left to anybody."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from p2p import canonical
from p2p.bridge import (
    MAX_MODEL_SIGNATURE,
    check_model_signature,
    read_model_signature,
    write_model_signature,
)
from p2p.certificates import ORDER, certify, check_chain, signer_key
from p2p.chunking import Profile
from p2p.cid import Hash
from p2p.envelope import signed_bytes
from p2p.errors import AllodError, UsageError, VerificationFailed
from p2p.keys import SecretKey
from tests.p2p.statements import (
    ALICE,
    BOB,
    FILES,
    MODEL_SIG,
    RELEASE,
    SIGNED,
    altered,
    payload_of,
    release,
    sums,
)
from tests.p2p.test_keys import SMALL_ORDER

Change = Callable[[dict[str, Any]], object]


def with_payload(change: Change, key: SecretKey = ALICE) -> bytes:
    """A model.sig with a change to its statement, truly signed."""
    statement = json.loads(payload_of(MODEL_SIG))
    change(statement)
    payload = canonical.encode(statement)
    r, s = decode_dss_signature(signer_key(key).sign(signed_bytes(payload), ec.ECDSA(SHA256())))
    signature = encode_dss_signature(r, min(s, ORDER - s))

    def put(bundle: dict[str, Any]) -> None:
        bundle["dsseEnvelope"]["payload"] = b64encode(payload).decode()
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = b64encode(signature).decode()

    return altered(MODEL_SIG, put)


def with_certificate(number: int, change: Callable[[bytes], bytes]) -> bytes:
    """A model.sig with another certificate in it."""

    def put(bundle: dict[str, Any]) -> None:
        one = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][number]
        one["rawBytes"] = b64encode(change(b64decode(one["rawBytes"]))).decode()

    return altered(MODEL_SIG, put)


def test_round_trip() -> None:
    """What was signed is read: who, which release, and every file's SHA-256."""
    read = read_model_signature(MODEL_SIG)
    assert (read.key, read.publisher, read.manifest) == (ALICE.public, "alice", RELEASE.cid)
    assert read.sums == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    check_model_signature(read, RELEASE)


def test_the_same_wherever_it_is_made() -> None:
    """Neither the time nor chance is in it: other versions of the libraries give these bytes."""
    assert write_model_signature(RELEASE, sums(), ALICE) == MODEL_SIG
    golden = "3771a5efa7a9d06297fe172ba5fefe551c1e7bdae3a8cab16376305f1f8b785c"
    assert hashlib.sha256(MODEL_SIG).hexdigest() == golden


def test_one_authority_for_all_releases_of_a_key() -> None:
    """publisher.pem is the key's certificate: the same for each release, another for each key."""
    other = release({"x": b"1"})
    sig = write_model_signature(other, sums({"x": b"1"}), ALICE)
    assert read_model_signature(sig).authority == read_model_signature(MODEL_SIG).authority
    by_bob = write_model_signature(RELEASE, sums(), BOB)
    assert read_model_signature(by_bob).authority != read_model_signature(MODEL_SIG).authority


def test_the_certificates_are_what_x509_wants() -> None:
    """The authority may only certify, the signer only sign code, and both name the publisher."""
    signer, authority = map(x509.load_der_x509_certificate, certify(ALICE, "alice"))
    signer.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(authority)
    assert authority.public_key().public_bytes_raw() == ALICE.public.raw  # type: ignore[union-attr]
    constraints = [
        one.extensions.get_extension_for_class(x509.BasicConstraints).value
        for one in (signer, authority)
    ]
    assert [(one.ca, one.path_length) for one in constraints] == [(False, None), (True, 0)]
    usage = signer.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    for one in (signer, authority):
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["allod:alice"]


def test_resources_are_in_the_tools_order() -> None:
    """Paths are compared part by part, so a/b.bin comes before a-b.bin."""
    statement = json.loads(payload_of(MODEL_SIG))
    resources = statement["predicate"]["resources"]
    names = [one["name"] for one in resources]
    assert names == ["LICENSE", "a/b.bin", "a-b.bin", "a.bin", "ä ö.txt"]
    joined = b"".join(bytes.fromhex(one["digest"]) for one in resources)
    assert statement["subject"][0]["digest"] == {"sha256": hashlib.sha256(joined).hexdigest()}
    assert statement["predicate"]["manifest"] == str(RELEASE.cid)


def resource(value: object, key: str = "digest") -> Change:
    return lambda s: s["predicate"]["resources"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(_type="x"), "_type"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "predicateType"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "method"),
        (lambda s: s["predicate"]["serialization"].update(hash_type="blake3"), "hash_type"),
        (lambda s: s["predicate"]["serialization"].update(ignore_paths=["a"]), "passes over"),
        (lambda s: s["predicate"].pop("manifest"), "manifest is missing"),
        (lambda s: s["predicate"].update(publisher="../bob"), "publisher"),
        (lambda s: s["predicate"].update(publisher="bob"), "not one by"),
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "twice"),
        (lambda s: s["predicate"]["resources"].pop(), "sha256 is"),
        (lambda s: s["predicate"]["resources"].reverse(), "sha256 is"),
        (resource("00" * 32), "sha256 is"),
        (resource("00"), "digest is '00'"),
        (resource("sha512", "algorithm"), "algorithm"),
        (resource(7, "name"), "name is 7"),
        (lambda s: s.update(subject=[]), "or nothing"),
        (lambda s: s["subject"].append({}), "2 items"),
    ],
)
def test_refuses_other_statements(change: Change, reason: str) -> None:
    """A statement that the tool would not take, or that names no release, is refused."""
    with pytest.raises(VerificationFailed, match=reason):
        read_model_signature(with_payload(change))


def test_refuses_a_signer_that_is_not_the_certified_one() -> None:
    """Who is not the key of the certificate cannot sign, and not by a key of his own either."""
    with pytest.raises(VerificationFailed, match="not one over its statement"):
        read_model_signature(with_payload(lambda s: None, BOB))
    chains = [certify(key, "alice") for key in (ALICE, BOB)]
    for chain in ([chains[1][0], chains[0][1]], [chains[0][0], chains[1][1]]):
        with pytest.raises(VerificationFailed, match="not one by"):
            check_chain(chain, "alice")


def test_refuses_the_other_spelling_of_a_signature() -> None:
    """Of (r, s) and (r, -s), which are both valid ECDSA, only one is read."""

    def negate(bundle: dict[str, Any]) -> None:
        one = bundle["dsseEnvelope"]["signatures"][0]
        r, s = decode_dss_signature(b64decode(one["sig"]))
        one["sig"] = b64encode(encode_dss_signature(r, ORDER - s)).decode()

    with pytest.raises(VerificationFailed, match="not one over its statement"):
        read_model_signature(altered(MODEL_SIG, negate))


def envelope(bundle: dict[str, Any]) -> Any:
    return bundle["dsseEnvelope"]


def certificates(bundle: dict[str, Any]) -> Any:
    return bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.update(mediaType="x"), "holds more"),
        (lambda b: b.update(later=1), "holds more"),
        (lambda b: envelope(b)["signatures"][0].update(keyid="x"), "holds more"),
        (lambda b: envelope(b)["signatures"].append(envelope(b)["signatures"][0]), "2 items"),
        (lambda b: envelope(b).update(signatures=[]), "one signature"),
        (lambda b: envelope(b)["signatures"][0].update(sig=""), "not one over"),
        (lambda b: envelope(b)["signatures"][0].update(sig="%"), "not base64"),
        (lambda b: certificates(b).pop(), "two certificates"),
        (lambda b: certificates(b).append(certificates(b)[1]), "3 items"),
        (lambda b: certificates(b).reverse(), "no Ed25519 key"),
        (lambda b: certificates(b)[0].update(rawBytes="AAAA"), "no certificate"),
        (lambda b: certificates(b)[0].update(certificates(b)[1]), "not signed by a P-256"),
    ],
)
def test_refuses_other_bundles(change: Change, reason: str) -> None:
    """What is not covered by a signature cannot be changed."""
    with pytest.raises(VerificationFailed, match=reason):
        read_model_signature(altered(MODEL_SIG, change))


@pytest.mark.parametrize("number", [0, 1])
def test_refuses_other_certificates(number: int) -> None:
    """A certificate with one bit changed, wherever that is, is refused."""
    der = certify(ALICE, "alice")[number]
    for bit in range(0, 8 * len(der), 37):

        def flip(data: bytes, bit: int = bit) -> bytes:
            return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")

        with pytest.raises(VerificationFailed):
            read_model_signature(with_certificate(number, flip))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_refuses_an_authority_whose_key_fits_everything(point: str) -> None:
    """A key of small order certifies nothing here, though X.509 libraries may take it."""
    raw = bytes.fromhex(point)
    with pytest.raises(VerificationFailed):
        read_model_signature(with_certificate(1, lambda data: data.replace(ALICE.public.raw, raw)))


def test_refuses_an_authority_that_somebody_else_made() -> None:
    """The authority's certificate is ours byte for byte: X.509 offers no room for another."""
    signer, authority = certify(ALICE, "alice")
    loaded = x509.load_der_x509_certificate(authority)
    other = (
        x509.CertificateBuilder()
        .subject_name(loaded.subject)
        .issuer_name(loaded.issuer)
        .public_key(loaded.public_key())
        .serial_number(7)
        .not_valid_before(loaded.not_valid_before_utc)
        .not_valid_after(loaded.not_valid_after_utc)
        .sign(Ed25519PrivateKey.from_private_bytes(ALICE.seed), None)
    )
    with pytest.raises(VerificationFailed, match="not one by"):
        check_chain([signer, other.public_bytes(Encoding.DER)], "alice")


def test_must_fit_the_manifest() -> None:
    """Another release, other files, and other digests than the manifest states are refused."""
    read = read_model_signature(MODEL_SIG)
    with pytest.raises(VerificationFailed, match="is for"):
        check_model_signature(read, release({"x": b""}))
    fewer = read_model_signature(
        with_payload(
            lambda s: (
                s["predicate"].update(resources=s["predicate"]["resources"][:1]),
                s["subject"][0]["digest"].update(
                    sha256=hashlib.sha256(
                        bytes.fromhex(s["predicate"]["resources"][0]["digest"])
                    ).hexdigest()
                ),
            )
        )
    )
    with pytest.raises(VerificationFailed, match="other files"):
        check_model_signature(fewer, RELEASE)
    profile = Profile.UNIXFS_V1_2025
    manifest = release({"x": b"1"}, profile)
    right = sums({"x": b"1"}, Hash.SHA2_256)
    check_model_signature(
        read_model_signature(write_model_signature(manifest, right, ALICE)), manifest
    )
    wrong = dict.fromkeys(right, "00" * 32)
    with pytest.raises(VerificationFailed, match="another SHA-256 of x"):
        check_model_signature(
            read_model_signature(write_model_signature(manifest, wrong, ALICE)), manifest
        )


def test_is_bounded() -> None:
    """A release of too many files gets none, and nobody reads one that is longer."""
    files = {f"{number:06}-{'x' * 200}": b"" for number in range(MAX_MODEL_SIGNATURE // 400)}
    with pytest.raises(UsageError, match="at most 8388608 bytes"):
        write_model_signature(release(files), sums(), ALICE)
    with pytest.raises(VerificationFailed, match="limit"):
        read_model_signature(b"x" * (MAX_MODEL_SIGNATURE + 1))


@pytest.mark.parametrize("data", [b"", b"{}", b"x", SIGNED, MODEL_SIG + b" ", MODEL_SIG[:-1]])
def test_refuses_what_is_none(data: bytes) -> None:
    """Other bundles and other spellings are refused."""
    with pytest.raises(AllodError):
        read_model_signature(data)
