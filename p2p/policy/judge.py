"""Judging a release by a policy: yes or no, by which rule, resting on what.

The same policy and the same evidence give the same verdict, always, and every evidence gets one.
What is asked, in this order, the first no being the verdict:

    deny[0]                    a deny list names it, its publisher, a signer or a file
    status.revoked, .withdrawn its publisher has taken it back
    consent.expires            the consent behind the data has ended
    consent.redistribution     its publisher lets nobody else pass it on (asked when serving)
    tofu                       the publisher is new here
    rules[0].licenses, ...     a rule of the owner's that matches it
    subscribe[0].rules[0]...   a rule of a community that the owner follows
    default.stale, .formats    what holds where no rule says otherwise

Pure: knows no clock; the time is part of the evidence.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Final

from p2p.cid import CID
from p2p.errors import UsageError
from p2p.keys import PublicKey
from p2p.policy.deny import Denied, DenyList
from p2p.policy.evidence import MAX_DEPTH, Evidence, Facts, File, Verdict
from p2p.policy.formats import format_of
from p2p.policy.model import DATASET_FORMATS, MODEL_FORMATS, Need, Policy, Rule
from p2p.policy.terms import check_license
from p2p.policy.votes import count_votes
from p2p.terms import expired

CLOCK_SKEW: Final = timedelta(days=1)
"""How far ahead of this clock a statement may be dated: time zones, and clocks that are off."""
MAX_ANCESTORS: Final = 10_000
"""Ancestors that are looked at, as everywhere that lineage is walked."""


def judge(policy: Policy, evidence: Evidence) -> Verdict:
    """Say whether a release, with the files that were asked for, is let in."""
    verdict = judge_release(policy, evidence)
    if not verdict.admitted:
        return verdict
    for refusal in refused_files(policy, evidence).values():
        return refusal
    return verdict


def judge_release(policy: Policy, evidence: Evidence) -> Verdict:
    """Say whether a release is let in, whatever its files are."""
    for refusal in _refusals(policy, evidence):
        return replace(refusal, evidence=(*refusal.evidence, *_known(policy, evidence)))
    facts = evidence.facts
    mine = [rule.where for rule in policy.rules if _matches(rule, facts)]
    return Verdict(True, mine[-1] if mine else "default", f"{facts} is let in.",
                   _known(policy, evidence))  # fmt: skip


def refused_files(policy: Policy, evidence: Evidence) -> dict[str, Verdict]:
    """Return the files, by path, that are not let in though the release may be."""
    found: dict[str, Verdict] = {}
    allowed = _formats(policy, evidence)
    lists = [*_lists(policy)]
    deep = any(each.has_paths for _, each in lists)
    for file in evidence.files:
        refusal = None
        for where, each in lists:
            denied = each.denies(file.cid) or (
                each.denies(evidence.facts.root, file.path) if deep else None
            )
            if denied is not None:
                refusal = _denied(where, denied, f"{file.path}: ")
                break
        if refusal is None and not evidence.own:
            refusal = _format(allowed, file, evidence)
        if refusal is not None:
            found[file.path] = refusal
    return found


def denied(policy: Policy, cid: CID, path: str = "") -> Verdict | None:
    """Say whether a deny list names this CID, or what lies at ``path`` below it."""
    for where, each in _lists(policy):
        found = each.denies(cid, path)
        if found is not None:
            return _denied(where, found)
    return None


# --- the questions, in their order --------------------------------------------------------------


def _refusals(policy: Policy, evidence: Evidence) -> Iterator[Verdict]:
    """Yield every reason to refuse a release, the strongest first."""
    facts = evidence.facts
    yield from _deny_lists(policy, evidence)
    if evidence.status is not None:
        state, reason = evidence.status.state, evidence.status.reason
        what = "has revoked it" if state == "revoked" else "has withdrawn the consent behind it"
        yield _no(f"status.{state}", f"{facts}: its publisher {what} ({reason}).",
                  "A newer version may be good: fetch it by name.")  # fmt: skip
    yield from _consent(evidence)
    if not evidence.own:
        yield from _trust(policy, evidence)
    matching = [rule for rule in policy.rules if _matches(rule, facts)]
    for rule in matching:
        yield from _rule(policy, rule, rule.where, evidence)
    for community in policy.communities:
        for rule in community.policy.rules:
            if _matches(rule, facts):
                yield from _rule(policy, rule, f"{community.where}.{rule.where}", evidence)
    if evidence.stale and policy.stale == "refuse" and not any(rule.stale for rule in matching):
        yield _stale("default.stale", facts)


def _deny_lists(policy: Policy, evidence: Evidence) -> Iterator[Verdict]:
    facts = evidence.facts
    cids = [facts.cid, facts.root]
    publisher = _cid(facts.publisher)
    if publisher is not None:
        cids.append(publisher)
    for where, each in _lists(policy):
        for cid in cids:
            found = each.denies(cid)
            if found is not None:
                yield _denied(where, found)
        for key in sorted(evidence.signers, key=lambda key: key.raw):
            found = each.denies_key(key)
            if found is not None:
                yield _denied(where, found)


def _consent(evidence: Evidence) -> Iterator[Verdict]:
    facts, consent = evidence.facts, evidence.facts.consent
    if expired(consent, evidence.now.astimezone(UTC).date()):
        yield _no("consent.expires", f"{facts}: the consent behind it ended {consent['expires']}.",
                  "Ask its publisher for a newer version.")  # fmt: skip
    if evidence.serving and not evidence.own and consent.get("redistribution") is False:
        yield _no(
            "consent.redistribution", f"{facts}: its publisher lets nobody else pass it on.", ""
        )


def _trust(policy: Policy, evidence: Evidence) -> Iterator[Verdict]:
    publisher = evidence.facts.publisher
    if policy.petname(publisher) is not None or policy.tofu == "always":
        return
    add = f"`allod trust add {publisher} --as NAME` trusts this publisher."
    if policy.tofu == "never":
        yield _no("tofu", f"The publisher {publisher} is none that you trust, and tofu is never.",
                  add)  # fmt: skip
    elif not evidence.seen:
        said = f"The publisher {publisher} is new here, and nobody has said yes."
        yield replace(_no("tofu", said, f"--yes says yes; {add}"), asks=True)


def _rule(policy: Policy, rule: Rule, where: str, evidence: Evidence) -> Iterator[Verdict]:
    facts = evidence.facts
    if rule.refuse:
        yield _no(f"{where}.refuse", f"{facts} is refused: {rule.refuse}.", "")
    if rule.licenses is not None:
        problem = check_license(facts.license, rule.licenses)
        if problem:
            yield _no(f"{where}.licenses", f"{facts}: {problem}.",
                      f"Change {where}.licenses in policy.toml if it should be.")  # fmt: skip
    if rule.signatures is not None:
        spoke = sorted(evidence.signers, key=lambda key: key.raw)
        yield from _need(policy, rule.signatures, f"{where}.require.signatures", evidence, spoke)
    for name, need in (("endorsements", rule.endorsements), ("evaluations", rule.evaluations)):
        if need is not None:
            spoke = _spoken(evidence, name.removesuffix("s"), need.max_age)
            yield from _need(policy, need, f"{where}.require.{name}", evidence, spoke)
    yield from _lineage(rule, where, evidence)
    if evidence.stale and rule.stale == "refuse":
        yield _stale(f"{where}.stale", facts)


def _need(
    policy: Policy, need: Need, where: str, evidence: Evidence, spoke: Sequence[PublicKey]
) -> Iterator[Verdict]:
    """Refuse where too few different ones have signed, endorsed or evaluated."""
    facts, what = evidence.facts, where.rpartition(".")[2].removesuffix("s")
    if what == "signature" and not need.by:  # of the publisher's own keys, each counts
        own = evidence.keys.get(facts.publisher, frozenset())
        names = sorted(key.did for key in spoke if key in own)
    else:
        parties = need.by or policy.trusted()
        names = [party.name for party in count_votes(parties, evidence.keys, spoke)]
    if len(names) >= need.count:
        return
    who = ", ".join(party.name for party in need.by) or (
        "the publisher's keys" if what == "signature" else "those whom you trust"
    )
    came = f"by {', '.join(names)}" if names else "none"
    age = f" not older than {need.max_age.days} days" if need.max_age else ""
    yield _no(
        where,
        f"{facts}: {need.count} {what}{'s' * (need.count > 1)} by {who}{age} "
        f"{'are' if need.count > 1 else 'is'} required, there {'is' if len(names) < 2 else 'are'} "
        f"{len(names) or ''} {came}.".replace("  ", " "),
        "Ask them to look at it, or change that rule in policy.toml.",
    )


def _lineage(rule: Rule, where: str, evidence: Evidence) -> Iterator[Verdict]:
    lineage, facts = rule.lineage, evidence.facts
    if lineage.depth is None and lineage.unknown is None and lineage.revoked is None:
        return
    missing: list[str] = []
    count = 0
    layer, depth = [evidence], 0
    while layer:
        if lineage.depth is not None and depth > lineage.depth:
            yield _no(f"{where}.lineage.depth",
                      f"{facts} has more than {lineage.depth} generations of ancestors.",
                      "Raise that depth in policy.toml if it should be.")  # fmt: skip
            break
        below: list[Evidence] = []
        for one in layer:
            known = {parent.facts.cid for parent in one.chain}
            missing += [
                str(parent or f"a parent of {one.facts} that has no CID")
                for parent in one.facts.parents
                if parent not in known
            ]
            below += one.chain
        for parent in below:
            if parent.status is not None and lineage.revoked == "refuse":
                yield _no(f"{where}.lineage.revoked",
                          f"{facts} descends from {parent.facts}, which is "
                          f"{parent.status.state} ({parent.status.reason}).", "")  # fmt: skip
        count += len(below)
        layer, depth = below, depth + 1
        if depth > MAX_DEPTH or count > MAX_ANCESTORS:
            missing.append(f"whatever is above {depth} generations")
            break
    if lineage.unknown == "refuse" and missing:
        yield _no(f"{where}.lineage.unknown",
                  f"{facts} descends from what is not known here: {missing[0]}.",
                  "Fetch that first; its statement is enough: --include README.md.")  # fmt: skip


# --- formats -------------------------------------------------------------------------------------


def _formats(policy: Policy, evidence: Evidence) -> list[tuple[str, frozenset[str]]]:
    """Return the sets of formats that a file must be in, each with the rule that says so."""
    facts = evidence.facts
    found = list(_stated(policy, facts, ""))
    if not found:
        usual = MODEL_FORMATS if facts.kind == "model" else DATASET_FORMATS
        found = [("default.formats", usual)]
    for community in policy.communities:
        found += _stated(community.policy, facts, f"{community.where}.")
    return found


def _stated(policy: Policy, facts: Facts, before: str) -> Iterator[tuple[str, frozenset[str]]]:
    for rule in policy.rules:
        if rule.formats is not None and _matches(rule, facts):
            yield f"{before}{rule.where}.formats", rule.formats


def _format(
    allowed: Iterable[tuple[str, frozenset[str]]], file: File, evidence: Evidence
) -> Verdict | None:
    """Refuse a file for what its name says that it is, or for what its bytes are."""
    seen: list[tuple[str, str]] = []
    named = format_of(file.path)
    if named is not None:
        seen.append((named, f"its name says that it is {_CALLED[named]}"))
    finding = evidence.contents.get(file.cid)
    if finding is not None and not (
        finding.names and evidence.paths >= _beside(file.path, finding.names)
    ):
        seen.append((finding.format, finding.why))
    for where, formats in allowed:
        for format, why in seen:
            if format not in formats:
                pattern = f"*.{file.path.rpartition('.')[2]}" if "." in file.path else file.path
                return _no(
                    where,
                    f"{file.path} of {evidence.facts} is refused: {why}.",
                    f"Leave it out with --exclude '{pattern}', or let {format} in by a rule's "
                    "formats in policy.toml.",
                )
    return None


_CALLED: Final = {
    "safetensors": "safetensors",
    "gguf": "GGUF",
    "onnx": "ONNX",
    "tflite": "TensorFlow Lite",
    "tensorflow": "a TensorFlow graph",
    "keras": "a Keras model, which may hold code",
    "pickle": "a pickle, which runs code when it is loaded",
    "code": "code",
}


def _beside(path: str, names: Iterable[str]) -> set[str]:
    """Return the paths of files that are named beside another."""
    folder = path.rpartition("/")[0]
    return {f"{folder}/{name}" if folder else name for name in names}


# --- small things ---------------------------------------------------------------------------------


def _matches(rule: Rule, facts: Facts) -> bool:
    if rule.kinds and facts.kind not in rule.kinds:
        return False
    if rule.publishers and not any(one.publisher == facts.publisher for one in rule.publishers):
        return False
    return not rule.names or any(fnmatchcase(facts.name, pattern) for pattern in rule.names)


def _lists(policy: Policy) -> Iterator[tuple[str, DenyList]]:
    """Yield every deny list that holds, with what a verdict calls it."""
    for index, each in enumerate(policy.lists):
        yield f"deny[{index}]", each
    for community in policy.communities:
        for index, each in enumerate(community.policy.lists):
            yield f"{community.where}.deny[{index}]", each


def _spoken(evidence: Evidence, kind: str, max_age: timedelta | None) -> list[PublicKey]:
    """Return the keys whose newest statement of this kind says yes, and is not too old."""
    newest: dict[PublicKey, tuple[datetime, bool]] = {}
    for one in evidence.attestations:
        at = _time(one.at)
        if one.kind != kind or at is None or at > evidence.now + CLOCK_SKEW:
            continue
        known = newest.get(one.key)
        if known is None or (at, one.passed is not True) > (known[0], not known[1]):
            newest[one.key] = at, one.passed is True
    return [
        key
        for key, (at, passed) in newest.items()
        if passed and (max_age is None or evidence.now - at <= max_age)
    ]


def _known(policy: Policy, evidence: Evidence) -> tuple[str, ...]:
    """Return what a verdict rests on, one short line each."""
    facts = evidence.facts
    name = policy.petname(facts.publisher)
    who = (
        "trusted as " + name
        if name
        else "published here"
        if evidence.own
        else ("seen before" if evidence.seen else "new here")
    )
    lines = [f"publisher {facts.publisher}: {who}"]
    lines += [f"signed by {key.did}" for key in sorted(evidence.signers, key=lambda key: key.raw)]
    lines.append(f"licence {facts.license or 'not stated'}")
    for one in evidence.attestations:
        word = "" if one.passed is None else "passed" if one.passed else "failed"
        lines.append(" ".join(f"{one.kind} {word} by {one.key.did} at {one.at}".split()))
    if evidence.stale:
        lines.append("the publisher's metadata has expired")
    return tuple(lines)


def _time(text: str) -> datetime | None:
    """Read an RFC 3339 time, or a day; None for what is neither."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _cid(text: str) -> CID | None:
    try:
        return CID.parse(text) if len(text) in (59, 61) else None
    except UsageError:
        return None


def _denied(where: str, found: Denied, before: str = "") -> Verdict:
    return _no(where, f"{before}{found}.", f"Take that line out of {found.list} if it is wrong.")


def _stale(where: str, facts: Facts) -> Verdict:
    return _no(
        where,
        f"{facts}: the publisher's metadata has expired, so nobody knows whether it is still good.",
        "Try again when the publisher's node runs, or name the release by its manifest CID.",
    )


def _no(rule: str, reason: str, next: str) -> Verdict:
    return Verdict(False, rule, reason, next=next)
