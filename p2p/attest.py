"""What others say of a release: endorsements, evaluations, reviews.

Each is an in-toto statement with one subject, the manifest of the release, so it covers every byte
that the manifest does; it is signed as a manifest is, in a bundle of its own.

    endorsement  passed or failed by somebody's policy    SLSA VSA v1
    evaluation   the outcome of tests, with figures       in-toto test-result v0.1
    review       what somebody has to say in words        ours

The two public predicates have fields of ours where they have none for who speaks, when, and in
which words; those begin with ``allod_``, as SLSA wants of extensions.

Whoever speaks names himself in the statement, by a publisher's id. What is proved is the key alone:
whether it is a key of that publisher says the publisher's metadata, and whether he is to be
believed says a policy.

Pure; what comes from others raises ``VerificationFailed``.
Specifications: in-toto Statement v1, SLSA Verification Summary v1, in-toto test-result v0.1;
docs/explanation/formats.md, "What others say".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from p2p import canonical
from p2p.cid import CID, Codec, Hash
from p2p.envelope import open_bundle
from p2p.errors import UsageError, VerificationFailed
from p2p.fields import Fields
from p2p.keys import PublicKey
from p2p.manifest import NAME, PUBLISHER, STATEMENT_TYPE, VERSION

Kind = Literal["endorsement", "evaluation", "review"]

PREDICATES: Final[Mapping[Kind, str]] = {
    "endorsement": "https://slsa.dev/verification_summary/v1",
    "evaluation": "https://in-toto.io/attestation/test-result/v0.1",
    "review": "urn:allod:review:v1",
}
POLICY: Final = "urn:allod:policy:personal:v1"
"""By which policy a release passed or failed, where none is named: whoever signs looked at it."""

MAX_ATTESTATION: Final = 64 << 10
"""Bytes of a statement: a long review, or some hundred figures; strangers' take room here too."""
MAX_ATTESTATION_BUNDLE: Final = 2 * MAX_ATTESTATION
"""Bytes of its bundle: a third more for base64, and the signature."""
MAX_TESTS: Final = 1024
"""Names in each list of tests, and configurations that were tested."""
MAX_LEVELS: Final = 16
"""Properties that an endorsement can say were verified."""

_WHO: Final = re.compile(f"allod:(?P<publisher>{PUBLISHER.pattern})")
_RELEASE: Final = re.compile(f"{NAME.pattern}@{VERSION.pattern}")
_URI: Final = re.compile("[!-~]{1,2048}")
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")
_TEXT: Final = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f]{1,16384}")  # a review may have paragraphs
_PASSED: Final = {"PASSED": True, "FAILED": False, "WARNED": None}
_RESULTS: Final = {True: "PASSED", False: "FAILED", None: "WARNED"}


@dataclass(frozen=True, slots=True)
class Attestation:
    """A statement about a release, and the key whose signature over it was verified.

    ``publisher`` is who it says has spoken, ``at`` when: both by his own word. ``passed`` is None
    for a result in between, and for a review that gives none. ``details`` is the whole predicate,
    with what this version does not know; ``bundle`` the bytes that it came in.
    """

    kind: Kind
    manifest: CID
    key: PublicKey
    publisher: str
    passed: bool | None
    at: str
    text: str
    details: Mapping[str, Any]
    bundle: bytes

    @property
    def topic(self) -> tuple[bytes, Kind, bytes]:
        """What a later statement by the same key must share to take this one's place."""
        about: object = ""
        if self.kind == "endorsement":
            about = self.details["policy"]["uri"]
        elif self.kind == "evaluation":
            about = self.details["configuration"]
        return self.key.raw, self.kind, canonical.encode(about)


class _Said(TypedDict):
    """What a statement says by itself."""

    kind: Kind
    manifest: CID
    publisher: str
    passed: bool | None
    at: str
    text: str
    details: Mapping[str, Any]


def write_attestation(
    kind: Kind,
    *,
    manifest: CID,
    release: str,
    publisher: str,
    at: str,
    passed: bool | None,
    text: str = "",
    policy: str = "",
    details: Mapping[str, Any] | None = None,
) -> bytes:
    """State something about a release; ``UsageError`` says what about it cannot be stated.

    ``release``: NAME@VERSION. ``at``: a UTC time like 2026-11-22T00:00:00Z. ``policy``: its URI, of
    an endorsement. ``details``: further fields of the predicate; those named here go before them.
    """
    uri = f"ipfs://{manifest}"
    who = {"id": f"allod:{publisher}"}
    predicate: dict[str, Any] = dict(details or {})
    if kind == "endorsement":
        levels = ["SLSA_BUILD_LEVEL_UNEVALUATED"] if passed else ["FAILED"]
        predicate |= {
            "verifier": who,
            "timeVerified": at,
            "resourceUri": uri,
            "policy": {"uri": policy or POLICY},
            "verificationResult": _RESULTS[passed],
        }
        predicate.setdefault("verifiedLevels", levels)
    elif kind == "evaluation":
        predicate |= {"result": _RESULTS[passed], "allod_evaluator": who, "allod_time": at}
        predicate.setdefault("configuration", [])
    else:
        predicate |= {"reviewer": who, "time": at, "text": text}
        if passed is not None:
            predicate["result"] = _RESULTS[passed]
    if text and kind != "review":
        predicate["allod_note"] = text
    subject = {"name": release, "digest": {"blake3": manifest.digest.hex()}, "uri": uri}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [subject],
        "predicateType": PREDICATES[kind],
        "predicate": predicate,
    }
    payload = canonical.encode(statement)
    try:
        _check(payload)
    except VerificationFailed as exc:
        raise UsageError(f"This {kind} cannot be stated: {exc}") from exc
    return payload


def read_attestation(bundle: bytes) -> Attestation:
    """Read a bundle, verify its signature, and check what it says; ``VerificationFailed``."""
    if len(bundle) > MAX_ATTESTATION_BUNDLE:
        raise VerificationFailed(
            f"A statement about a release comes in at most {MAX_ATTESTATION_BUNDLE} bytes, this "
            f"one has {len(bundle)}."
        )
    signed = open_bundle(bundle)
    return Attestation(key=signed.key, bundle=bundle, **_check(signed.payload))


def _check(payload: bytes) -> "_Said":
    """Check a statement, whoever signed it, and return what it says."""
    value = canonical.decode(payload, limit=MAX_ATTESTATION, what="statement")
    statement = Fields.of(value, "")
    statement.one_of("_type", [STATEMENT_TYPE])
    predicate_type = statement.one_of("predicateType", PREDICATES.values())
    kind = next(kind for kind, uri in PREDICATES.items() if uri == predicate_type)
    manifest = _subject(statement)
    predicate = statement.child("predicate")
    if kind == "endorsement":
        who, at, passed = _read_endorsement(predicate, manifest)
    elif kind == "evaluation":
        who, at, passed = _read_evaluation(predicate)
    else:
        who, at, passed = _read_review(predicate)
    text = "text" if kind == "review" else "allod_note"
    words = ""
    if kind == "review" or text in predicate:
        words = predicate.text(text, _TEXT if kind == "review" else _LINE)
    match = _WHO.fullmatch(who.text("id", _WHO))
    assert match is not None
    return _Said(
        kind=kind,
        manifest=manifest,
        publisher=match["publisher"],
        passed=passed,
        at=at,
        text=words,
        details=predicate.value,
    )


def _subject(statement: Fields) -> CID:
    """Return which manifest it is about."""
    subjects = statement.children("subject", 1)
    if not subjects:
        raise VerificationFailed("The statement is about nothing: it has no subject.")
    [subject] = subjects
    uri = subject.text("uri", _URI)
    address = Fields({"uri": uri.removeprefix("ipfs://")}, subject.name)
    manifest = address.cid("uri", Codec.JSON)
    digest = subject.child("digest").get("blake3", str)
    if manifest.hash is not Hash.BLAKE3 or digest != manifest.digest.hex():
        raise VerificationFailed(
            f"{subject.name} names the manifest {manifest}, but its digest is {digest[:64]!r}."
        )
    if uri != f"ipfs://{manifest}":
        raise VerificationFailed(f"{subject.name}.uri is {uri[:80]!r}, not ipfs://{manifest}.")
    subject.text("name", _RELEASE)
    return manifest


def _read_endorsement(predicate: Fields, manifest: CID) -> tuple[Fields, str, bool | None]:
    predicate.one_of("resourceUri", [f"ipfs://{manifest}"])
    predicate.child("policy").text("uri", _URI)
    predicate.texts("verifiedLevels", _LINE, MAX_LEVELS)
    result = predicate.one_of("verificationResult", ["PASSED", "FAILED"])
    return predicate.child("verifier"), predicate.time("timeVerified"), _PASSED[result]


def _read_evaluation(predicate: Fields) -> tuple[Fields, str, bool | None]:
    predicate.children("configuration", MAX_TESTS)
    if "url" in predicate:
        predicate.text("url", _URI)
    for key in ("passedTests", "warnedTests", "failedTests"):
        if key in predicate:
            predicate.texts(key, _LINE, MAX_TESTS)
    result = predicate.one_of("result", _PASSED)
    return predicate.child("allod_evaluator"), predicate.time("allod_time"), _PASSED[result]


def _read_review(predicate: Fields) -> tuple[Fields, str, bool | None]:
    passed = None
    if "result" in predicate:
        passed = _PASSED[predicate.one_of("result", ["PASSED", "FAILED"])]
    return predicate.child("reviewer"), predicate.time("time"), passed
