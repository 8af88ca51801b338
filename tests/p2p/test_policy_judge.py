"""A table of cases: which release, by which policy, is let in or not, and by which rule."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.keys import PublicKey, SecretKey
from p2p.manifest import FileEntry, build_manifest
from p2p.policy import (
    Community,
    Evidence,
    Facts,
    File,
    Finding,
    denied,
    judge,
    judge_release,
    read_deny_list,
    read_policy,
    refused_files,
)
from p2p.policy.model import Party
from p2p.policy.votes import count_votes

ALICE, BOB, CAROL = (str(CID.of(name, Codec.JSON)) for name in (b"alice", b"bob", b"carol"))
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def key(number: int) -> PublicKey:
    return SecretKey.from_seed(bytes([number]) * 32).public


def cid(text: str, codec: Codec = Codec.RAW) -> CID:
    return CID.of(text.encode(), codec)


NAMES = f'[publishers]\nalice = "{ALICE}"\nbob = "{BOB}"\ncarol = "{CAROL}"\n'
KEYS = {ALICE: frozenset({key(1)}), BOB: frozenset({key(2)}), CAROL: frozenset({key(3), key(4)})}


@dataclass(frozen=True)
class Said:
    """Somebody's statement."""

    key: PublicKey
    passed: bool | None = True
    at: str = "2026-11-01T00:00:00Z"
    kind: str = "endorsement"
    publisher: str = BOB


@dataclass(frozen=True)
class Gone:
    """A status."""

    state: str
    reason: str = "it leaks"


FACTS = Facts(
    cid=cid("manifest", Codec.JSON), root=cid("root", Codec.DAG_PB), kind="model", publisher=ALICE,
    name="tiny", version="1", license="Apache-2.0", consent={}, parents=(),
)  # fmt: skip
EVIDENCE = Evidence(FACTS, NOW, signers=frozenset({key(1)}), keys=KEYS)


def files(*paths: str) -> Sequence[File]:
    return [File(path, cid(path)) for path in paths]


def facts(**changes: Any) -> Facts:
    return replace(FACTS, **changes)


BASE = replace(EVIDENCE, facts=facts(cid=cid("base", Codec.JSON), name="base"))
CHILD = facts(parents=(BASE.facts.cid,))

# (the policy, what is different about the evidence, the rule that says no; "" for yes)
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, "tofu"),
    ("", {"seen": True}, ""),
    ("", {"own": True}, ""),
    ("tofu = 'always'", {}, ""),
    ("tofu = 'never'", {"seen": True}, "tofu"),
    ("tofu = 'never'", {"own": True}, ""),
    ("tofu = 'never'\n" + NAMES, {}, ""),
    # what a publisher has taken back
    (NAMES, {"status": Gone("revoked")}, "status.revoked"),
    (NAMES, {"status": Gone("withdrawn"), "own": True}, "status.withdrawn"),
    # consent
    (NAMES, {"facts": facts(consent={"expires": "2026-11-21"})}, "consent.expires"),
    (NAMES, {"facts": facts(consent={"expires": "2026-11-22"})}, ""),
    (NAMES, {"facts": facts(consent={"expires": "9999-12-31"})}, ""),
    (NAMES, {"facts": facts(consent={"expires": "no time"})}, ""),
    (NAMES, {"facts": facts(consent={"redistribution": False})}, ""),
    (NAMES, {"facts": facts(consent={"redistribution": False}), "serving": True},
     "consent.redistribution"),
    (NAMES, {"facts": facts(consent={"redistribution": False}), "serving": True, "own": True}, ""),
    # formats by name
    (NAMES, {"files": files("model.safetensors", "README.md", "model.bin")}, ""),
    (NAMES, {"files": files("a/weights.pt")}, "default.formats"),
    (NAMES, {"files": files("modeling_x.py")}, "default.formats"),
    (NAMES, {"files": files("model.onnx")}, "default.formats"),
    (NAMES, {"files": files("weights.pt"), "own": True}, ""),
    (NAMES, {"files": files("load.py", "a.h5"), "facts": facts(kind="dataset")}, ""),
    (NAMES, {"files": files("a.pkl"), "facts": facts(kind="dataset")}, "default.formats"),
    (NAMES + "[[rules]]\nformats = ['pickle']", {"files": files("a.pkl")}, ""),
    (NAMES + "[[rules]]\nformats = ['pickle']", {"files": files("a.gguf")}, "rules[0].formats"),
    (NAMES + "[[rules]]\nkind = 'dataset'\nformats = ['pickle']", {"files": files("a.pkl")},
     "default.formats"),
    (NAMES + "[[rules]]\nformats = ['pickle', 'gguf']\n[[rules]]\nformats = ['gguf']",
     {"files": files("a.gguf", "a.pkl")}, "rules[1].formats"),
    # formats by bytes
    (NAMES, {"files": files("model.bin"),
             "contents": {cid("model.bin"): Finding("pickle", "its bytes are a pickle")}},
     "default.formats"),
    (NAMES, {"files": files("c/config.json"), "paths": frozenset({"c/m.py"}),
             "contents": {cid("c/config.json"): Finding("code", "auto_map", ("m.py",))}}, ""),
    (NAMES, {"files": files("config.json"), "paths": frozenset({"m.py"}),
             "contents": {cid("config.json"): Finding("code", "auto_map", ("m.py", "n.py"))}},
     "default.formats"),
    # licences
    (NAMES + "[[rules]]\nlicenses.allow = ['permissive']", {}, ""),
    (NAMES + "[[rules]]\nlicenses.allow = ['mit']", {}, "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.allow = []", {}, "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.deny = ['Apache-*']", {}, "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.deny = ['non-commercial']",
     {"facts": facts(license="CC-BY-NC-4.0")}, "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.deny = ['non-commercial']",
     {"facts": facts(license="CC-BY-NC-4.0 OR MIT")}, ""),
    (NAMES + "[[rules]]\nlicenses.allow = ['MIT']",
     {"facts": facts(license="MIT AND GPL-3.0-only")}, "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.allow = ['GPL-2.0-only']",
     {"facts": facts(license="GPL-2.0-only WITH Classpath-exception-2.0")}, ""),
    (NAMES + "[[rules]]\nlicenses.allow = ['MIT']", {"facts": facts(license="")},
     "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.deny = ['MIT']", {"facts": facts(license="")}, ""),
    (NAMES + "[[rules]]\nlicenses.allow = ['MIT']", {"facts": facts(license="((")},
     "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.deny = ['CC-BY-NC-*']",
     {"facts": facts(license="CC-BY-NC-4.0 AND")}, "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.deny = ['CC-BY-NC-*']",
     {"facts": facts(license="CC-BY-NC-4.0" + " AND (A OR B OR C OR D)" * 4)},
     "rules[0].licenses"),
    (NAMES + "[[rules]]\nlicenses.deny = ['MIT']", {"facts": facts(license="( OR MIT")},
     "rules[0].licenses"),
    # which releases a rule is about
    (NAMES + "[[rules]]\nname = 'big-*'\nrefuse = 'no'", {}, ""),
    (NAMES + "[[rules]]\nname = ['big-*', 'tin?']\nrefuse = 'no'", {}, "rules[0].refuse"),
    (NAMES + "[[rules]]\npublisher = 'bob'\nrefuse = 'no'", {}, ""),
    (NAMES + f"[[rules]]\npublisher = ['bob', '{ALICE}']\nrefuse = 'no'", {}, "rules[0].refuse"),
    (NAMES + "[[rules]]\nkind = ['dataset', 'model']\nrefuse = 'no'", {}, "rules[0].refuse"),
    (NAMES + "[[rules]]\n[[rules]]\nrefuse = 'no'", {}, "rules[1].refuse"),
    # signatures
    (NAMES + "[[rules]]\nrequire.signatures = {}", {}, ""),
    (NAMES + "[[rules]]\nrequire.signatures = { count = 2 }", {}, "rules[0].require.signatures"),
    (NAMES + "[[rules]]\nrequire.signatures = { count = 2 }",
     {"signers": frozenset({key(1), key(9)})}, "rules[0].require.signatures"),
    (NAMES + "[[rules]]\nrequire.signatures = { by = ['bob'] }",
     {"signers": frozenset({key(1), key(2)})}, ""),
    (NAMES + "[[rules]]\nrequire.signatures = { by = ['bob'] }", {},
     "rules[0].require.signatures"),
    # endorsements
    (NAMES + "[[rules]]\nrequire.endorsements = {}", {}, "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}", {"attestations": [Said(key(2))]}, ""),
    (NAMES + "[[rules]]\nrequire.endorsements = {}", {"attestations": [Said(key(8))]},
     "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}", {"attestations": [Said(key(2), False)]},
     "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}", {"attestations": [Said(key(2), None)]},
     "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}",
     {"attestations": [Said(key(2)), Said(key(2), False, "2026-11-02T00:00:00Z")]},
     "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}",
     {"attestations": [Said(key(2), False, "2026-10-02T00:00:00Z"), Said(key(2))]}, ""),
    (NAMES + "[[rules]]\nrequire.endorsements = {}",
     {"attestations": [Said(key(2)), Said(key(2), False)]}, "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = { max_age = '21d' }",
     {"attestations": [Said(key(2))]}, ""),
    (NAMES + "[[rules]]\nrequire.endorsements = { max_age = '20d' }",
     {"attestations": [Said(key(2))]}, "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}",
     {"attestations": [Said(key(2), at="2030-01-01T00:00:00Z")]}, "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}",
     {"attestations": [Said(key(2), at="once")]}, "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.endorsements = {}",
     {"attestations": [Said(key(2), kind="evaluation")]}, "rules[0].require.endorsements"),
    (NAMES + "[[rules]]\nrequire.evaluations = {}",
     {"attestations": [Said(key(2), kind="evaluation")]}, ""),
    (NAMES + "[[rules]]\nrequire.endorsements = { count = 2, by = ['bob', 'carol'] }",
     {"attestations": [Said(key(2)), Said(key(3))]}, ""),
    (NAMES + "[[rules]]\nrequire.endorsements = { count = 2, by = ['bob', 'carol'] }",
     {"attestations": [Said(key(3)), Said(key(4))]}, "rules[0].require.endorsements"),
    (NAMES + f"[[rules]]\nrequire.endorsements = {{ count = 2, by = ['bob', '{key(2).did}'] }}",
     {"attestations": [Said(key(2))]}, "rules[0].require.endorsements"),
    (NAMES + f"[[rules]]\nrequire.endorsements = {{ count = 2, by = ['carol', '{key(3).did}'] }}",
     {"attestations": [Said(key(3)), Said(key(4))]}, ""),
    (NAMES + "caroline = '" + CAROL + "'\n[[rules]]\nrequire.endorsements = { count = 2 }",
     {"attestations": [Said(key(3)), Said(key(4))]}, "rules[0].require.endorsements"),
    # lineage
    (NAMES + "[[rules]]\nlineage.unknown = 'refuse'", {}, ""),
    (NAMES + "[[rules]]\nlineage.unknown = 'refuse'", {"facts": CHILD}, "rules[0].lineage.unknown"),
    (NAMES + "[[rules]]\nlineage.unknown = 'refuse'", {"facts": CHILD, "chain": [BASE]}, ""),
    (NAMES + "[[rules]]\nlineage.unknown = 'refuse'", {"facts": facts(parents=(None,))},
     "rules[0].lineage.unknown"),
    (NAMES + "[[rules]]\nlineage.depth = 1", {"facts": CHILD, "chain": [BASE]}, ""),
    (NAMES + "[[rules]]\nlineage.depth = 0", {"facts": CHILD, "chain": [BASE]},
     "rules[0].lineage.depth"),
    (NAMES, {"facts": CHILD, "chain": [replace(BASE, status=Gone("revoked"))]}, ""),
    (NAMES + "[[rules]]\nlineage.revoked = 'refuse'",
     {"facts": CHILD, "chain": [replace(BASE, status=Gone("revoked"))]},
     "rules[0].lineage.revoked"),
    # stale metadata
    (NAMES, {"stale": True}, "default.stale"),
    ("stale = 'warn'\n" + NAMES, {"stale": True}, ""),
    (NAMES + "[[rules]]\nstale = 'warn'", {"stale": True}, ""),
    ("stale = 'warn'\n" + NAMES + "[[rules]]\nstale = 'refuse'", {"stale": True},
     "rules[0].stale"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "changes", "rule"), CASES)
def test_the_table(text: str, changes: dict[str, Any], rule: str) -> None:
    """Each case is refused by the rule that it names, with a sentence, or let in."""
    evidence = replace(EVIDENCE, **changes)
    verdict = judge(read_policy(text), evidence)
    assert verdict.admitted is (rule == ""), verdict
    if rule:
        assert verdict.rule == rule
    assert verdict.reason.endswith(".")
    assert "  " not in verdict.reason
    assert verdict.asks is (rule == "tofu" and "never" not in text)
    assert verdict == judge(read_policy(text), evidence)


def test_a_yes_names_its_rule_and_what_it_rests_on() -> None:
    """A release that is let in says by which rule, and shows the evidence."""
    verdict = judge(
        read_policy(NAMES + "[[rules]]\n[[rules]]\nname = 'no'"),
        replace(EVIDENCE, attestations=[Said(key(2)), Said(key(3), None, kind="review")]),
    )
    assert verdict.rule == "rules[0]"
    assert f"publisher {ALICE}: trusted as alice" in verdict.evidence
    assert f"signed by {key(1).did}" in verdict.evidence
    assert f"endorsement passed by {key(2).did} at 2026-11-01T00:00:00Z" in verdict.evidence
    assert f"review by {key(3).did} at 2026-11-01T00:00:00Z" in verdict.evidence
    assert judge(read_policy(NAMES), EVIDENCE).rule == "default"


@pytest.mark.parametrize(
    "line",
    [
        str(FACTS.cid), str(FACTS.root), ALICE, key(1).did, f"/ipfs/{FACTS.root}/*",
        str(cid("weights.gguf")), f"/ipfs/{FACTS.root}/weights.gguf", f"/ipfs/{FACTS.root}/wei*",
    ],
)  # fmt: skip
def test_deny_lists_beat_everything(line: str) -> None:
    """Who is trusted, or even published here, is refused all the same if a list names it."""
    policy = replace(read_policy(NAMES), lists=(read_deny_list(f"#\n{line} why", "bad"),))
    evidence = replace(EVIDENCE, files=files("README.md", "weights.gguf"), own=True)
    verdict = judge(policy, evidence)
    assert not verdict.admitted
    assert verdict.rule == "deny[0]"
    assert "line 2" in verdict.reason
    about_a_file = "/wei" in line or line == str(cid("weights.gguf"))
    other = replace(evidence, files=files("README.md"))
    assert judge(policy, other).admitted is about_a_file


def test_a_single_denied_file_leaves_the_others() -> None:
    """Files are refused one by one, so that the rest can still be served."""
    bad = cid("weights.gguf")
    policy = replace(read_policy(NAMES), lists=(read_deny_list(str(bad), "bad"),))
    evidence = replace(EVIDENCE, files=files("README.md", "weights.gguf", "code.py"))
    assert judge_release(policy, evidence).admitted
    assert {path: one.rule for path, one in refused_files(policy, evidence).items()} == {
        "weights.gguf": "deny[0]",
        "code.py": "default.formats",
    }
    assert denied(policy, bad) is not None
    assert denied(policy, cid("README.md")) is None


def community(text: str, **changes: Any) -> Community:
    policy = replace(read_policy(text, community=True), **changes)
    return Community("subscribe[0]", True, policy)


def test_a_community_forbids_more_and_lets_nothing_in() -> None:
    """Its rules hold besides the owner's, and it makes nobody trusted and no format allowed."""
    theirs = f"[publishers]\nmallory = '{ALICE}'\n"
    base = read_policy("")
    assert judge(replace(base, communities=(community(theirs),)), EVIDENCE).rule == "tofu"
    loose = community("[[rules]]\nformats = ['pickle', 'safetensors']")
    mine = replace(read_policy(NAMES), communities=(loose,))
    assert judge(mine, replace(EVIDENCE, files=files("a.pkl"))).rule == "default.formats"
    assert judge(mine, replace(EVIDENCE, files=files("a.gguf"))).rule == (
        "subscribe[0].rules[0].formats"
    )
    strict = community("[[rules]]\nname = 'tiny'\nrefuse = 'harmful'")
    verdict = judge(replace(read_policy(NAMES), communities=(strict,)), EVIDENCE)
    assert (verdict.rule, verdict.reason) == (
        "subscribe[0].rules[0].refuse", "tiny 1 is refused: harmful."
    )  # fmt: skip
    lists = community("", lists=(read_deny_list(str(FACTS.cid), "theirs"),))
    verdict = judge(replace(read_policy(NAMES), communities=(lists,)), EVIDENCE)
    assert verdict.rule == "subscribe[0].deny[0]"


def test_a_community_adds_endorsers_where_nobody_is_named() -> None:
    """Who it names counts for a rule without names, and never for one that has some."""
    theirs = community(f"[publishers]\nlab = '{CAROL}'\n")
    names = f"[publishers]\nalice = '{ALICE}'\nbob = '{BOB}'\n"
    evidence = replace(EVIDENCE, attestations=[Said(key(3))])
    for need, added, admitted in (
        ("{}", True, True),
        ("{}", False, False),
        ("{ by = ['bob'] }", True, False),
    ):
        policy = read_policy(f"{names}[[rules]]\nrequire.endorsements = {need}")
        policy = replace(policy, communities=(replace(theirs, endorsers=added),))
        assert judge(policy, evidence).admitted is admitted


def test_votes_are_counted_by_distinct_keys_and_distinct_names() -> None:
    """One key under two names is one vote, one publisher with two keys too."""
    lab, one, two = Party("lab", CAROL), Party("k3", key=key(3)), Party("again", key=key(3))
    assert len(count_votes([one, two], KEYS, [key(3)])) == 1
    assert len(count_votes([lab, one], KEYS, [key(3)])) == 1
    assert len(count_votes([lab, one], KEYS, [key(3), key(4)])) == 2
    assert len(count_votes([lab], KEYS, [key(3), key(4)])) == 1
    assert len(count_votes([lab, Party("x", "unknown")], KEYS, [key(9)])) == 0
    same = PublicKey(bytes(key(3).raw))
    assert len(count_votes([one, lab], KEYS, [key(3), same])) == 1


def test_long_chains_end() -> None:
    """A chain longer than is ever looked at counts as unknown from there on."""
    one = replace(BASE, facts=replace(BASE.facts, cid=cid("0", Codec.JSON)))
    for number in range(1, 80):
        parent = one.facts.cid
        one = replace(
            BASE, chain=[one],
            facts=facts(cid=cid(str(number), Codec.JSON), parents=(parent,)),
        )  # fmt: skip
    verdict = judge(read_policy(NAMES + "[[rules]]\nlineage.unknown = 'refuse'"), one)
    assert verdict.rule == "rules[0].lineage.unknown"


def test_facts_come_from_a_manifest() -> None:
    """What is judged is what was signed."""
    outline = Outline.single(cid("x"), 1)
    manifest = build_manifest(
        kind="model", publisher=ALICE, name="tiny", version="1", created="2026-11-22T00:00:00Z",
        files=[FileEntry("x.txt", 1, outline.root, outline.dag_size)], profile=Profile.TENSOR_1M,
        license={"spdx": "MIT"},
        lineage=[{"role": "base_model", "manifest": str(FACTS.cid)},
                 {"role": "dataset", "uri": "hf://org/x"}],
    ).manifest  # fmt: skip
    found = Facts.of(manifest)
    assert (found.cid, found.root, found.license) == (manifest.cid, manifest.root, "MIT")
    assert found.parents == (FACTS.cid, None)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(CASES),
    st.fixed_dictionaries(
        {
            "license": st.text(max_size=30),
            "name": st.text(max_size=10),
            "consent": st.dictionaries(
                st.sampled_from(["expires", "redistribution"]),
                st.booleans() | st.text(max_size=25) | st.datetimes().map(datetime.isoformat),
            ),
        }
    ),
    st.lists(
        st.builds(
            Said, st.integers(1, 9).map(key), st.none() | st.booleans(),
            st.text(max_size=25) | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            st.sampled_from(["endorsement", "evaluation", "review", "x"]),
        )
    ),
    st.lists(st.text(max_size=20)),
)  # fmt: skip
def test_every_evidence_gets_a_verdict(
    case: tuple[str, dict[str, Any], str],
    changes: dict[str, Any],
    said: list[Said],
    paths: list[str],
) -> None:
    """Nothing that a stranger can say breaks the judge."""
    text, more, _ = case
    evidence = replace(EVIDENCE, **more)
    evidence = replace(
        evidence, facts=replace(evidence.facts, **changes), attestations=said, files=files(*paths)
    )
    assert judge(read_policy(text), evidence).reason


def test_age_is_counted_to_the_moment() -> None:
    """An endorsement counts up to its age, and not a second longer."""
    policy = read_policy(NAMES + "[[rules]]\nrequire.endorsements = { max_age = '12h' }")
    evidence = replace(EVIDENCE, attestations=[Said(key(2), at="2026-11-21T12:00:00Z")])
    assert judge(policy, evidence).admitted
    assert not judge(policy, replace(evidence, now=NOW + timedelta(seconds=1))).admitted
