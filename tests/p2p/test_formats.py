"""The page about the formats is true: its examples are read, its limits are the code's."""

import importlib
import json
import re
from pathlib import Path

import pytest

from p2p import canonical
from p2p.cid import Codec, Hash
from p2p.envelope import open_bundle
from p2p.keys import PublicKey
from p2p.manifest import parse_manifest
from p2p.references import parse_reference, publisher_cid

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "formats.md").read_text()
MANIFEST, BUNDLE = (
    json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
)
LIMITS = re.findall(r"^\| [^|]+ \| ([0-9]+) \| `([a-z0-9_.]+)\.([A-Z_]+)` \|$", PAGE, re.MULTILINE)


def test_the_manifest() -> None:
    """The example is a manifest that passes every check, and has the address that the page says."""
    manifest = parse_manifest(canonical.encode(MANIFEST))
    assert f"has the address `{manifest.cid}`" in PAGE
    for key in MANIFEST["predicate"]:
        assert f"| `{key}`" in PAGE or f"`{key}`, " in PAGE or f", `{key}` |" in PAGE


def test_the_bundle() -> None:
    """The example is a bundle whose signature verifies."""
    signed = open_bundle(canonical.encode(BUNDLE))
    assert f"`{signed.keyid}`" in PAGE


def test_keys() -> None:
    """The did:key on the page is a key, and the publisher id that of the example's publisher."""
    (did,) = re.findall(r"\| `(did:key:\w+)` \|", PAGE)
    assert PublicKey.from_did(did).did == did
    (publisher,) = re.findall(r"\| publisher id \| `(\w+)` \|", PAGE)
    assert str(publisher_cid(publisher)) == publisher == MANIFEST["predicate"]["publisher"]


def test_the_link() -> None:
    """The example is a link to the example's manifest by its publisher."""
    (link,) = re.findall(r"```\n(allod:.*)\n```", PAGE)
    reference = parse_reference(link)
    assert reference.manifest == parse_manifest(canonical.encode(MANIFEST)).cid
    assert reference.publisher == MANIFEST["predicate"]["publisher"]
    assert reference.peers


def test_codes() -> None:
    """The codes of codecs and hash functions are those of the code."""
    for code in (*Codec, *Hash):
        width = 4 if code > 0xFF else 2
        assert f"| `0x{code:0{width}x}` |" in PAGE


@pytest.mark.parametrize(("value", "module", "name"), LIMITS)
def test_limits(value: str, module: str, name: str) -> None:
    """A limit on the page is the constant of that name."""
    assert getattr(importlib.import_module(module), name) == int(value)


def test_there_are_limits() -> None:
    """The table of limits is found on the page."""
    assert len(LIMITS) >= 20


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:p2p|node)/[\w/]+\.py)`", PAGE))))
def test_modules(name: str) -> None:
    """A module that the page names is there."""
    assert (Path(__file__).parents[2] / name).is_file()


def test_one_sentence_a_line() -> None:
    """Prose has one sentence on each line."""
    for line in re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL).splitlines():
        if not line.startswith("|"):
            assert not re.search(r"[a-z0-9`)][.!?] [A-Z`]", line), line
