"""Licences: each expression has one spelling, and plain contradictions are seen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.errors import UsageError
from p2p.licenses import (
    FAMILIES,
    OBLIGATIONS,
    check_expression,
    findings,
    read_terms,
    spdx_id,
)
from p2p.licenses.expressions import MAX_CHOICES, MAX_EXPRESSION, choices


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("mit", "MIT"),
        ("APACHE-2.0", "Apache-2.0"),
        ("Apache-2.0 or mit", "Apache-2.0 OR MIT"),
        ("mit and (apache-2.0 or isc)", "MIT AND (Apache-2.0 OR ISC)"),
        ("(mit or isc) or zlib", "MIT OR ISC OR Zlib"),
        ("((mit))", "MIT"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("GPL-3.0+", "GPL-3.0-or-later"),
        ("apache-2.0+", "Apache-2.0+"),
        ("gpl-2.0-only with classpath-exception-2.0",
         "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("Apache-2.0 WITH LLVM-exception OR MIT", "Apache-2.0 WITH LLVM-exception OR MIT"),
        ("LicenseRef-My.Own-2", "LicenseRef-My.Own-2"),
        ("DocumentRef-a:LicenseRef-b AND mit", "DocumentRef-a:LicenseRef-b AND MIT"),
        ("LicenseRef-x WITH LLVM-exception", "LicenseRef-x WITH LLVM-exception"),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
    ],
)  # fmt: skip
def test_one_spelling(text: str, spelled: str) -> None:
    """An expression gets SPDX's spelling whatever its case, and keeps its meaning."""
    assert check_expression(text) == spelled
    assert check_expression(spelled) == spelled
    assert choices(text) == choices(spelled)


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("Apache-2", "lists no licence 'Apache-2'", "Apache-2.0"),
        ("apache license 2.0", "lists no licence", "Apache-2.0"),
        ("CC BY-NC 4.0", "lists no licence", "CC-BY-NC-4.0"),
        ("MIT AND Apachee-2.0", "'Apachee-2.0'", "Apache-2.0"),
        ("llama3", "lists no licence 'llama3'", "LicenseRef-"),
        ("licenseref_x", "lists no licence", "LicenseRef-"),
        ("", "no SPDX licence expression", "Apache-2.0"),
        ("(MIT", "no SPDX licence expression", "AND"),
        ("MIT OR", "no SPDX licence expression", "AND"),
        ("MIT ISC", "no SPDX licence expression", "AND"),
        ("MIT/ISC", "no SPDX licence expression", "AND"),
        ("GPL-2.0-only WITH MIT", "no SPDX licence expression", "WITH"),
        ("Classpath-exception-2.0", "no SPDX licence expression", "WITH"),
        ("MIT WITH nothing", "no SPDX licence expression", "WITH"),
        ("x" * (MAX_EXPRESSION + 1), "at most 512 characters", ""),
    ],
)
def test_refuses(text: str, reason: str, hint: str) -> None:
    """What SPDX does not know is named, with the nearest that it does know."""
    with pytest.raises(UsageError, match=reason) as caught:
        check_expression(text)
    assert hint in caught.value.next
    assert "permissive" not in read_terms(text).families


def test_names() -> None:
    """One name is looked up in any case; an exception is no licence."""
    assert spdx_id("bsd-3-clause") == "BSD-3-Clause"
    assert spdx_id("LLVM-exception") is None
    assert spdx_id("llama2") is None


@pytest.mark.parametrize(
    ("text", "families", "obligations"),
    [
        ("MIT", "permissive", "attribution"),
        ("CC0-1.0", "permissive data", ""),
        ("cc0-1.0 OR MIT", "permissive data", ""),
        ("CC-BY-4.0", "permissive data", "attribution"),
        ("CC-BY-SA-4.0", "share-alike data", "attribution same-license"),
        ("CC-BY-NC-ND-4.0", "non-commercial no-derivatives data",
         "attribution non-commercial no-derivatives"),
        ("ODbL-1.0", "share-alike data", "attribution same-license"),
        ("CDLA-Sharing-1.0", "share-alike data", "attribution same-license"),
        ("CDLA-Permissive-2.0", "permissive data", "attribution"),
        ("C-UDA-1.0", "use-restricted data", "attribution use-restrictions"),
        ("MPL-2.0", "weak-copyleft", "attribution same-license-files"),
        ("GPL-2.0-only", "strong-copyleft", "attribution disclose-source same-license"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "weak-copyleft",
         "attribution same-license-files"),
        ("AGPL-3.0-or-later", "network-copyleft",
         "attribution disclose-source-network same-license"),
        ("GPL-3.0-only OR MIT", "permissive", "attribution"),
        ("GPL-3.0-only AND MIT", "strong-copyleft", "attribution disclose-source same-license"),
        ("LicenseRef-llama3.1", "use-restricted", "attribution use-restrictions"),
        ("LicenseRef-gemma", "use-restricted", "attribution use-restrictions"),
        ("LicenseRef-bigscience-openrail-m", "use-restricted", "attribution use-restrictions"),
        ("LicenseRef-deepfloyd-if-license", "non-commercial use-restricted",
         "attribution non-commercial use-restrictions"),
        ("LicenseRef-gpl", "strong-copyleft", "attribution disclose-source same-license"),
        ("PolyForm-Noncommercial-1.0.0", "non-commercial", "attribution non-commercial"),
        ("BUSL-1.1", "use-restricted", "attribution use-restrictions"),
        ("LicenseRef-mine", "unknown", "ask"),
        ("LicenseRef-mit-and-more", "unknown", "ask"),
        ("LicenseRef-cc", "unknown", "ask"),
        ("MIT AND LicenseRef-mine", "unknown", "ask"),
        ("MIT OR LicenseRef-mine", "permissive", "attribution"),
        ("", "unknown", "ask"),
        ("((", "unknown", "ask"),
        ("()", "unknown", "ask"),
        ("( OR MIT", "unknown", "ask"),
    ],
)  # fmt: skip
def test_what_licences_ask(text: str, families: str, obligations: str) -> None:
    """Each licence is in its families, of choices the mildest counts, and unknown stays unknown."""
    terms = read_terms(text)
    assert terms.families == set(families.split())
    assert terms.families <= set(FAMILIES)
    assert set(terms.obligations) == set(obligations.split()) <= set(OBLIGATIONS)
    assert terms.known is (families != "unknown")
    assert terms.expression == text


def test_too_many_choices() -> None:
    """An expression that leaves more choices than anybody weighs is unknown, and costs nothing."""
    text = " AND ".join(["(MIT OR ISC)"] * 20)
    assert len(choices(text) or ()) == 3  # the one, the other, or both
    names = ["MIT", "ISC", "Zlib", "0BSD", "NCSA", "ECL-2.0", "OFL-1.1", "MPL-2.0", "EPL-2.0"]
    names += ["Apache-2.0", "BSL-1.0", "AFL-3.0", "WTFPL", "PostgreSQL", "MS-PL", "CC0-1.0"]
    many = " AND ".join(f"({a} OR {b})" for a, b in zip(names[::2], names[1::2], strict=True))
    assert 2 ** (len(names) // 2) > MAX_CHOICES
    assert choices(many) is None
    assert not read_terms(many).known
    assert check_expression(many) == many


CASES = [
    # child, role, parent, the rules that are broken: a problem is written with !
    ("Apache-2.0", "base_model", "MIT", ""),
    ("Apache-2.0", "base_model", "CC-BY-NC-4.0", "non-commercial!"),
    ("CC-BY-NC-4.0", "base_model", "CC-BY-NC-4.0", ""),
    ("CC-BY-NC-SA-4.0", "base_model", "CC-BY-NC-4.0", ""),
    ("MIT OR CC-BY-NC-4.0", "base_model", "CC-BY-NC-4.0", "non-commercial!"),
    ("MIT AND CC-BY-NC-4.0", "base_model", "CC-BY-NC-4.0", ""),
    ("Apache-2.0", "base_model", "CC-BY-NC-4.0 OR MIT", ""),
    ("Apache-2.0", "dataset", "CC-BY-NC-4.0", "non-commercial"),
    ("MIT", "source_dataset", "CC-BY-NC-4.0", "non-commercial!"),
    ("LicenseRef-mine", "base_model", "CC-BY-NC-4.0", "non-commercial"),
    ("CC-BY-4.0", "base_model", "CC-BY-ND-4.0", "no-derivatives!"),
    ("CC-BY-ND-4.0", "base_model", "CC-BY-ND-4.0", "no-derivatives!"),
    ("MIT", "base_model", "CC-BY-NC-ND-4.0", "no-derivatives! non-commercial!"),
    ("CC-BY-4.0", "source_dataset", "CC-BY-SA-4.0", "share-alike!"),
    ("CC-BY-SA-4.0", "source_dataset", "CC-BY-SA-3.0", ""),
    ("CC-BY-SA-3.0", "source_dataset", "CC-BY-SA-4.0", "share-alike!"),
    ("GPL-3.0-only", "base_model", "CC-BY-SA-4.0", ""),
    ("CC-BY-NC-SA-4.0", "base_model", "CC-BY-SA-4.0", "share-alike!"),
    ("CC-BY-SA-4.0", "dataset", "ODbL-1.0", "share-alike"),
    ("MIT", "base_model", "GPL-3.0-only", "share-alike!"),
    ("GPL-3.0-or-later", "base_model", "GPL-3.0-only", ""),
    ("GPL-3.0-only", "base_model", "GPL-2.0-only", "share-alike!"),
    ("GPL-3.0-only", "base_model", "GPL-2.0-or-later", ""),
    ("AGPL-3.0-only", "base_model", "GPL-3.0-only", ""),
    ("GPL-3.0-only", "base_model", "AGPL-3.0-only", "share-alike!"),
    ("Apache-2.0", "base_model", "GPL-2.0-only WITH Classpath-exception-2.0", "same-files"),
    ("Apache-2.0", "base_model", "MPL-2.0", "same-files"),
    ("MPL-2.0 AND MIT", "base_model", "MPL-2.0", ""),
    ("GPL-3.0-only", "base_model", "LGPL-3.0-only", ""),
    ("Apache-2.0", "base_model", "LicenseRef-llama3.1", "use-restrictions!"),
    ("LicenseRef-llama3.1", "base_model", "LicenseRef-llama3.1", ""),
    ("LicenseRef-gemma", "base_model", "LicenseRef-llama3.1", "use-restrictions"),
    ("MIT", "base_model", "LicenseRef-creativeml-openrail-m", "use-restrictions!"),
    ("MIT", "base_model", "LicenseRef-mine", "unknown"),
    ("MIT", "base_model", "not a (licence", "unknown"),
    ("MIT", "base_model", "", "unlicensed"),
    ("", "base_model", "MIT", ""),
    ("", "base_model", "CC-BY-NC-4.0", "unlicensed"),
]


@pytest.mark.parametrize(("child", "role", "parent", "rules"), CASES)
def test_findings(child: str, role: str, parent: str, rules: str) -> None:
    """Each contradiction is found, as a problem only where it is plain, and names both sides."""
    found = findings(read_terms(child), [(role, "alice/base", read_terms(parent))])
    shown = [one.rule + "!" * (one.level == "problem") for one in found]
    assert sorted(shown) == sorted(rules.split())
    for one in found:
        assert (one.child, one.parent) == (child, "alice/base")
        assert "alice/base" in one.text
        assert one.text.endswith(".")


def test_problems_come_first() -> None:
    """Of several parents the problems are told before the notices, in the parents' order."""
    parents = [
        ("dataset", "a", read_terms("CC-BY-NC-4.0")),
        ("base_model", "b", read_terms("GPL-3.0-only")),
        ("base_model", "c", read_terms("CC-BY-ND-4.0")),
    ]
    found = findings(read_terms("MIT"), parents)
    assert [(one.level, one.parent) for one in found] == [
        ("problem", "b"), ("problem", "c"), ("notice", "a"),
    ]  # fmt: skip
    assert findings(read_terms("MIT"), []) == ()


WORDS = st.sampled_from(
    ["MIT", "mit", "GPL-2.0+", "CC-BY-NC-4.0", "LicenseRef-x", "LLVM-exception", "AND", "or",
     "WITH", "(", ")", "+", "and", "foo", "Apache", "2.0", "/", "\x00", "é"]
)  # fmt: skip
ANY = st.text(max_size=600) | st.lists(WORDS, max_size=30).map(" ".join)


@settings(deadline=None)
@given(ANY, ANY)
def test_any_text(child: str, parent: str) -> None:
    """Whatever a manifest says, reading it never fails; checking it may, with a usage error."""
    terms = read_terms(child)
    assert terms.obligations or terms.families == {"permissive", "data"} or terms.known
    for one in findings(terms, [("base_model", "x", read_terms(parent))]):
        assert one.text
    try:
        spelled = check_expression(child)
    except UsageError:
        return
    assert check_expression(spelled) == spelled
    assert read_terms(spelled).families == terms.families
