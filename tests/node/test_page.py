"""The page and the tree of a provenance say what is known, and obey nobody."""

import hashlib
import re
from base64 import b64encode
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.cli.lineage import draw
from node.cli.text import plain
from node.page import provenance_page
from p2p.errors import UsageError

Json = dict[str, Any]
WHEN = "2026-11-22T00:00:00Z"
VOID = {"meta", "br", "hr", "img", "link", "input"}


def release(cid: str, *parents: Json, **fields: Any) -> Json:
    return {
        "manifest": cid,
        "depth": 0,
        "here": True,
        "complete": True,
        "publisher": "bagaaiera",
        "petname": "alice",
        "name": f"name-of-{cid}",
        "version": "1",
        "kind": "model",
        "created": "2026-11-22T00:00:00Z",
        "size": 12345678,
        "files": 3,
        "license": "Apache-2.0",
        "description": "",
        "signatures": {"ok": True, "keys": ["did:key:z6Mk"], "reason": ""},
        "names": {"version": 3, "expires": "2027-01-01", "stale": False},
        "status": None,
        "statements": [],
        "consent": {},
        "findings": [],
        "verdict": {"admitted": True, "rule": "default", "reason": "It is let in."},
        "parents": list(parents),
    } | fields


def made_from(cid: str | None, role: str = "base_model", **fields: Any) -> Json:
    return {"role": role, "relation": "", "manifest": cid, "uri": "", "name": ""} | fields


def provenance(*chain: Json, **fields: Any) -> Json:
    return {
        "ok": True,
        "verdict": "admitted",
        "rule": "default",
        "reason": "Nothing speaks against it.",
        "evidence": ["signed by alice"],
        "cut": False,
        "chain": list(chain),
    } | fields


FOUR = provenance(
    release("q", made_from("tuned", relation="quantized")),
    release("tuned", made_from("base", relation="finetune"), made_from("data", "dataset")),
    release(
        "base",
        made_from("data", "dataset"),
        made_from(None, "dataset", uri="hf://datasets/org/web"),
        status={"state": "revoked", "reason": "wrong weights", "at": WHEN},
        findings=[{"level": "problem", "rule": "nc", "text": "It must not be sold.", "parent": ""}],
    ),
    release(
        "data",
        kind="dataset",
        consent={"basis": "asked", "redistribution": False, "allowedUses": ["research", "art"]},
        statements=[
            {
                "kind": "endorsement", "publisher": "bagaaicarol", "petname": None, "key": "did:x",
                "known": False, "passed": True, "at": WHEN, "text": "looked at it",
            }
        ],
    ),
)  # fmt: skip


class Reader(HTMLParser):
    """What a browser would see: tags that match, attributes, text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data


def test_the_page_says_everything() -> None:
    """Every release of the chain, what is wrong with it, and who speaks for it."""
    words = Reader(provenance_page(FOUR, WHEN)).words
    for text in (
        "alice/name-of-q 1", "alice/name-of-tuned", "alice/name-of-base", "alice/name-of-data",
        "base model, quantized", "hf://datasets/org/web", "wrong weights", "It must not be sold.",
        "looked at it", "nothing ties to that name", "research, art", "Admitted", WHEN, "as above",
    ):  # fmt: skip
        assert text in words, text


def test_the_page_asks_nobody_for_anything() -> None:
    """No script, no address but anchors in the page; its policy allows its own style alone."""
    page = provenance_page(FOUR, WHEN)
    reader = Reader(page)
    assert {tag for tag, _ in reader.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "section", "strong",
        "p", "code", "ul", "li", "article", "dl", "dt", "dd", "a", "footer",
    }  # fmt: skip
    for _, attributes in reader.tags:
        assert set(attributes) <= {
            "lang", "charset", "http-equiv", "content", "name", "class", "id", "href",
        }  # fmt: skip
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [one["content"] for _, one in reader.tags if one.get("http-equiv")]
    assert policies == [f"default-src 'none'; style-src 'sha256-{digest}'"]
    assert "prefers-color-scheme: dark" in style


def test_anchors_lead_somewhere() -> None:
    """A release that is an ancestor twice stands there once and is pointed at."""
    reader = Reader(provenance_page(FOUR, WHEN))
    ids = [one["id"] for _, one in reader.tags if "id" in one]
    assert ids == ["q", "tuned", "base", "data"]
    assert [one["href"] for tag, one in reader.tags if tag == "a"] == ["#data"]


EVIL = "\"><script>alert(1)</script><img src=//x onerror=y>' & \u202e \x1b[2J \ud800"


def spoil(value: Any) -> Any:
    """Put something evil into every text that a stranger chooses."""
    if isinstance(value, str):
        return value + EVIL
    if isinstance(value, list):
        return [spoil(one) for one in value]
    if isinstance(value, dict):
        return {key: spoil(one) for key, one in value.items()}
    return value


def test_what_strangers_write_stays_text() -> None:
    """Markup in any text is shown, not obeyed; what turns or hides text is written out."""
    clean, spoilt = Reader(provenance_page(FOUR, WHEN)), provenance_page(spoil(FOUR), WHEN)
    reader = Reader(spoilt)
    assert {tag for tag, _ in reader.tags} <= {tag for tag, _ in clean.tags}
    for _, attributes in reader.tags:
        assert not {name for name in attributes if name.startswith("on")}
    assert "<script>alert(1)</script>" in reader.words
    assert not re.search("[\u202e\x1b\ud800]", spoilt)
    spoilt.encode()


@given(st.text(max_size=50))
@settings(max_examples=100, deadline=None)
def test_no_text_breaks_the_page(text: str) -> None:
    """Whatever a release is called, the page is whole and says it in one place."""
    page = provenance_page(provenance(release("x", name=text, description=text)), WHEN)
    Reader(page)
    page.encode()


def test_what_is_wrong_is_marked() -> None:
    """Not signed, stale, refused, failed, parts missing, no licence, nothing said by a policy."""
    found = provenance(
        release(
            "x",
            made_from("cut off"),
            complete=False,
            license="",
            description="A model.",
            names={"version": 1, "expires": "2026-01-01", "stale": True},
            signatures={"ok": False, "keys": [], "reason": "none came"},
            verdict={"admitted": False, "rule": "rules[2].formats", "reason": "It is a pickle."},
            statements=[
                {
                    "kind": "evaluation", "publisher": "b", "petname": "bob", "key": "did:x",
                    "known": True, "passed": passed, "at": WHEN, "text": "",
                }
                for passed in (True, False, None)
            ],
        ),
        verdict="refused",
        rule="rules[2].formats",
    )  # fmt: skip
    page = Reader(provenance_page(found, WHEN)).words
    tree = "\n".join(draw(found))
    for text in ("none came", "2026-01-01", "It is a pickle.", "not followed", "bob", "passed"):
        assert text in page, text
        assert text in tree, text
    for text in ("none stated", "not all of them here", "A model.", "Refused", "failed"):
        assert text in page, text
    for text in ("NOT SIGNED", "STALE", "REFUSED by rules[2].formats", "files not held"):
        assert text in tree, text
    plainly = provenance(release("x"), rule="", verdict="unjudged")
    assert draw(plainly)[0] == "alice/name-of-x 1"
    assert "verdict" not in [
        one.get("class") for _, one in Reader(provenance_page(plainly, WHEN)).tags
    ]


def test_a_missing_ancestor_is_said() -> None:
    """Nothing is known of it, and nothing is made up."""
    found = provenance(release("x", made_from("gone")), release("gone", here=False), cut=True)
    words = Reader(provenance_page(found, WHEN)).words
    assert "Nothing of it is on this machine" in words
    assert "goes on further" in words
    lines = draw(found)
    assert "└─ base model: gone, of which this machine knows nothing" in lines
    assert lines[-1] == "This lineage goes on further than is followed."


def test_no_page_of_nothing() -> None:
    """A provenance without a release is none."""
    with pytest.raises(UsageError):
        provenance_page(provenance(), WHEN)


def test_the_tree() -> None:
    """The terminal shows the same chain, drawn once, with what is wrong in capitals."""
    lines = draw(FOUR)
    assert lines[:2] == ["admitted, by the rule default", "  signed by alice"]
    assert lines[2] == "alice/name-of-q 1"
    text = "\n".join(lines)
    for one in (
        "└─ base model (quantized): alice/name-of-tuned 1",
        "   ├─ base model (finetune): alice/name-of-base 1",
        "   │  ├─ dataset: alice/name-of-data 1",
        "   │  └─ dataset: hf://datasets/org/web, which nothing here proves",
        "   └─ dataset: alice/name-of-data 1, as above",
        "REVOKED on 2026-11-22T00:00:00Z: wrong weights",
        "PROBLEM (nc): It must not be sold.",
        "consent: allowedUses research, art; basis asked; redistribution no",
        "endorsement by bagaaicarol, passed",
    ):
        assert one in text, one


def test_the_tree_obeys_nobody() -> None:
    """What a terminal would obey is written out."""
    text = "\n".join(plain(line) for line in draw(spoil(FOUR)))
    assert not re.search("[\u202e\x1b]", text)
