"""What others say: a statement proves who said it of which release, and leaves nothing open."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from p2p import canonical
from p2p.attest import (
    MAX_ATTESTATION,
    MAX_ATTESTATION_BUNDLE,
    POLICY,
    PREDICATES,
    read_attestation,
    write_attestation,
)
from p2p.cid import CID, Codec, Hash
from p2p.envelope import sign_bundle
from p2p.errors import UsageError, VerificationFailed
from tests.p2p.statements import BOB, CAROL, MODEL_SIG, RELEASE, SIGNED, payload_of, said

EVALUATED = {
    "configuration": [{"name": "hellaswag", "uri": "https://example.org/hellaswag"}],
    "passedTests": ["hellaswag"],
    "allod_metrics": {"accuracy": "0.43"},
}


def test_an_endorsement_is_a_verification_summary() -> None:
    """An endorsement says who verified what by which policy, as SLSA's VSA does."""
    bundle = said(passed=False, text="Wrong weights.", policy="https://example.org/policy")
    assert json.loads(payload_of(bundle)) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": "tiny@1",
                "digest": {"blake3": RELEASE.cid.digest.hex()},
                "uri": f"ipfs://{RELEASE.cid}",
            }
        ],
        "predicateType": "https://slsa.dev/verification_summary/v1",
        "predicate": {
            "verifier": {"id": "allod:bob"},
            "timeVerified": "2026-11-23T00:00:00Z",
            "resourceUri": f"ipfs://{RELEASE.cid}",
            "policy": {"uri": "https://example.org/policy"},
            "verificationResult": "FAILED",
            "verifiedLevels": ["FAILED"],
            "allod_note": "Wrong weights.",
        },
    }
    read = read_attestation(bundle)
    assert (read.kind, read.manifest, read.key) == ("endorsement", RELEASE.cid, BOB.public)
    assert (read.publisher, read.passed, read.text) == ("bob", False, "Wrong weights.")
    assert (read.at, read.bundle) == ("2026-11-23T00:00:00Z", bundle)
    assert read_attestation(said(text="")).text == ""
    assert read_attestation(said()).details["policy"]["uri"] == POLICY


def test_an_evaluation_is_a_test_result() -> None:
    """An evaluation keeps in-toto's fields and figures; a warning is neither pass nor failure."""
    read = read_attestation(said("evaluation", passed=None, details=EVALUATED))
    assert (read.kind, read.passed, read.publisher) == ("evaluation", None, "bob")
    assert read.details["result"] == "WARNED"
    assert read.details.items() >= EVALUATED.items()
    linked = said("evaluation", details={"url": "https://example.org/run/7"})
    assert read_attestation(linked).details["configuration"] == []


def test_a_review_is_words() -> None:
    """A review may have paragraphs, and a verdict or none."""
    read = read_attestation(said("review", passed=None, text="Good.\n\n\tÜber alles gut 😀"))
    assert (read.kind, read.passed, read.text) == (
        "review",
        None,
        "Good.\n\n\tÜber alles gut 😀",
    )
    assert read_attestation(said("review", passed=True)).passed is True


def test_a_later_word_on_the_same_topic() -> None:
    """A topic is the key, the kind, and the policy or what was tested."""
    topics = [
        read_attestation(bundle).topic
        for bundle in (
            said(),
            said(policy="https://example.org/other"),
            said("evaluation"),
            said("evaluation", details=EVALUATED),
            said("review"),
            said(key=CAROL),
        )
    ]
    assert len(set(topics)) == len(topics)
    assert read_attestation(said(at="2027-01-01T00:00:00Z", passed=False)).topic == topics[0]


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("endorsement", {"passed": None}, "verificationResult is 'WARNED'"),
        ("endorsement", {"at": "yesterday"}, "timeVerified is 'yesterday'"),
        ("endorsement", {"at": "2026-02-30T00:00:00Z"}, "which is no time"),
        ("endorsement", {"policy": "two words"}, r"policy\.uri"),
        ("endorsement", {"text": "two\nlines"}, "allod_note"),
        ("endorsement", {"publisher": "not one"}, r"verifier\.id"),
        ("endorsement", {"details": {"verifiedLevels": ["x"] * 17}}, "has 17 items"),
        ("endorsement", {"details": {"more": "x" * MAX_ATTESTATION}}, "the limit is 65536"),
        ("evaluation", {"details": {"configuration": "x"}}, "configuration is 'x'"),
        ("evaluation", {"details": {"configuration": ["x"]}}, r"configuration\[0\]"),
        ("evaluation", {"details": {"failedTests": [1]}}, r"failedTests\[0\]"),
        ("evaluation", {"details": {"url": 5}}, "url is 5"),
        ("evaluation", {"details": {"figure": 0.5}}, "no float"),
        ("review", {"text": ""}, "text is ''"),
        ("review", {"text": "\x1b[2J"}, "predicate.text"),
    ],
)
def test_what_cannot_be_stated(kind: Any, more: dict[str, Any], reason: str) -> None:
    """A mistake is the caller's, and is told before anything is signed."""
    with pytest.raises(UsageError, match=reason):
        said(kind, **more)


def other_hash(value: dict[str, Any]) -> None:
    """Name a manifest that is not hashed with BLAKE3, as no manifest is."""
    cid = CID.of(b"x", Codec.JSON, Hash.SHA2_256)
    value["subject"][0] |= {"uri": f"ipfs://{cid}", "digest": {"blake3": cid.digest.hex()}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v2"), "_type"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "predicateType"),
        (lambda s: s.update(subject=[]), "no subject"),
        (lambda s: s["subject"].append(s["subject"][0]), "2 items"),
        (lambda s: s["subject"][0].update(name="tiny"), r"subject\[0\]\.name"),
        (lambda s: s["subject"][0].update(uri=f"ipfs:/{RELEASE.cid}"), "is no CID"),
        (lambda s: s["subject"][0].update(uri=str(RELEASE.cid)), "not ipfs://"),
        (lambda s: s["subject"][0].update(uri=f"ipfs://{RELEASE.root}"), "codec JSON"),
        (lambda s: s["subject"][0].update(digest={"blake3": "00" * 32}), "its digest is"),
        (lambda s: s["subject"][0].update(digest={"sha256": "00" * 32}), "blake3 is missing"),
        (other_hash, "its digest is"),
        (lambda s: s["predicate"].update(resourceUri="ipfs://other"), "resourceUri"),
        (lambda s: s["predicate"].update(verificationResult="passed"), "verificationResult"),
        (lambda s: s["predicate"].update(verifier={"id": "bob"}), r"verifier\.id"),
        (lambda s: s["predicate"].pop("policy"), "policy is missing"),
        (lambda s: s["predicate"].pop("verifiedLevels"), "verifiedLevels is missing"),
        (lambda s: s.pop("predicate"), "predicate is missing"),
    ],
)
def test_refuses(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """A statement that leaves open what is meant is refused, however well it is signed."""
    statement = json.loads(payload_of(said()))
    change(statement)
    with pytest.raises(VerificationFailed, match=reason):
        read_attestation(sign_bundle(canonical.encode(statement), BOB))


def test_unknown_fields_stay() -> None:
    """What a later version adds to a predicate is passed over, and kept."""
    statement = json.loads(payload_of(said()))
    statement["predicate"]["later"] = {"more": [1]}
    read = read_attestation(sign_bundle(canonical.encode(statement), BOB))
    assert read.details["later"] == {"more": [1]}


def test_refuses_what_is_no_statement_of_this_kind() -> None:
    """A release's own signature, a model.sig, and what is too long to be read are none of these."""
    for bundle in (SIGNED, MODEL_SIG, b"x", b"", b"x" * (MAX_ATTESTATION_BUNDLE + 1)):
        with pytest.raises(VerificationFailed):
            read_attestation(bundle)


def test_the_predicates_are_those_of_the_standards() -> None:
    """Other tools know two of the three by these names."""
    assert set(PREDICATES) == {"endorsement", "evaluation", "review"}
    for uri in ("slsa.dev/verification_summary/v1", "in-toto.io/attestation/test-result/v0.1"):
        assert f"https://{uri}" in PREDICATES.values()
    assert write_attestation(
        "review",
        manifest=RELEASE.cid,
        release="tiny@1",
        publisher="bob",
        at="2026-11-23T00:00:00Z",
        passed=None,
        text="x",
    )
