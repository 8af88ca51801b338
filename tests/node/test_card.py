"""Cards: what they say about licence and lineage is stated, and nothing in them does harm."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.importers.card import (
    MAX_CARD,
    MAX_FRONT_MATTER,
    CardFacts,
    Parts,
    guess_kind,
    media_type,
    parse_card,
    read_card,
    statement_parts,
)
from node.importers.folder import walk_folder
from node.importers.suffixes import MEDIA_TYPES
from node.messages import PublishParams
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.errors import UsageError
from p2p.keys import SecretKey, publisher_id
from p2p.manifest import FileEntry, build_manifest
from p2p.references import share_link

MODEL = b"""---
license: apache-2.0
language:
- en
- no
base_model: [org/base-7b, "org/other.v2"]
base_model_relation: merge
datasets:
  - squad
  - org/words   # all of them
tags: tiny
pipeline_tag: text-generation
model-index:
- name: x
  results: [{value: 0.5}, *broken
---
# Tiny
license: mit
"""
FACTS = CardFacts(
    license="Apache-2.0",
    base_model=("org/base-7b", "org/other.v2"),
    base_model_relation="merge",
    datasets=("squad", "org/words"),
    tags=("tiny",),
    language=("en", "no"),
    kind="model",
)


def front(text: str) -> CardFacts:
    """Read a card with this front matter."""
    return parse_card(f"---\n{text}\n---\n".encode())


def test_reads_a_model_card() -> None:
    """The facts of a card are read as text; what else it holds does not matter."""
    assert parse_card(MODEL) == FACTS
    assert parse_card(MODEL.replace(b"\n", b"\r\n")) == FACTS
    assert parse_card(b"\xef\xbb\xbf" + MODEL) == FACTS


def test_reads_the_card_of_a_folder(tmp_path: Path) -> None:
    """Only the README.md at the top is the release's card."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "README.md").write_bytes(MODEL)
    assert read_card(walk_folder(tmp_path)) == CardFacts()
    (tmp_path / "README.md").write_bytes(MODEL)
    found = walk_folder(tmp_path)
    assert read_card(found) == FACTS
    (tmp_path / "README.md").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        read_card(found)


@pytest.mark.parametrize(
    "data",
    [b"", b"# Title\n", b"---\n", b"---\nlicense: mit\n", b"---\n\n---\n", b"---\n# nothing\n---\n",
     b"text\n---\nlicense: mit\n---\n", b"---\nother: 1\n---\n", MODEL[: MAX_CARD][:30]],
)  # fmt: skip
def test_cards_that_say_nothing(data: bytes) -> None:
    """A card without front matter, or without these keys, says nothing."""
    assert parse_card(data) == CardFacts()


@pytest.mark.parametrize(
    ("text", "license"),
    [
        ("license: mit", "MIT"),
        ('"license" : MIT', "MIT"),
        ("license: cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
        ("license: gpl-3.0", "GPL-3.0-only"),
        ("license: GPL-3.0-or-later", "GPL-3.0-or-later"),
        ("license: odc-by", "ODC-By-1.0"),
        ("license: llama3.1", "LicenseRef-llama3.1"),
        ("license: bigscience-openrail-m", "LicenseRef-bigscience-openrail-m"),
        ("license: openrail++", "LicenseRef-openrail"),
        ("license: LicenseRef-mine", "LicenseRef-mine"),
        ("license: [mit, apache-2.0, mit]", "MIT AND Apache-2.0"),
        ("license: other\nlicense_name: My Licence (v2)", "LicenseRef-My-Licence-v2"),
        ("license: other\nlicense_name: 'mit'", "MIT"),
        ("license: other", ""),
        ("license: unknown", ""),
        ("license:", ""),
        ("license: '???'", ""),
        ("license: {a: b}", ""),
        ("license: " + "x" * 600, ""),
        ("license: 2024-01-01", "LicenseRef-2024-01-01"),
    ],
)
def test_licenses(text: str, license: str) -> None:
    """Licences get their SPDX names, and those that SPDX does not know a LicenseRef."""
    assert front(text).license == license


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("license: [mit", "not YAML"),
        ("license: &a mit\ntags: *a", "aliases are not read"),
        ("tags: [&a [x, x], &b [*a, *a]]", "aliases are not read"),
        ("tags: " + "[" * 100_000, "more than 16 levels"),
        ("tags:\n- " + "- " * 20 + "x", "more than 16 levels"),
        ("license: mit\nlicense: gpl-3.0", "the key license comes twice"),
        ("license: 'a\x00b'", "not YAML"),
        ("{license: mit}", "it has no keys"),
        ("just words", "it has no keys"),
        ("tags: [" + "a, " * MAX_FRONT_MATTER, "more than 131072 bytes"),
    ],
)
def test_refuses(text: str, reason: str) -> None:
    """A card that cannot be read, or that is made to do harm, is an error and not silence."""
    with pytest.raises(UsageError, match=reason) as caught:
        front(text)
    assert "\n" not in caught.value.message


def test_refuses_what_is_no_text() -> None:
    """A card that is not UTF-8 says so."""
    with pytest.raises(UsageError, match="utf-8"):
        parse_card(b"---\nlicense: \xff\n---\n")


def test_long_cards() -> None:
    """A card that lists thousands of configurations is read at once: they do not matter."""
    configs = "".join(f"- config_name: c{i}\n  data_files: c{i}/*\n" for i in range(20_000))
    facts = front(f"license: mit\nconfigs:\n{configs}task_categories: [x]\nlanguage: de")
    assert facts == CardFacts(license="MIT", language=("de",), kind="dataset")


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_card(text: str) -> None:
    """Whatever stands in a card, the answer is facts or one of our errors."""
    for prefix in ("", "license: ", "tags:\n"):
        try:
            facts = front(prefix + text)
        except UsageError:
            continue
        assert isinstance(facts, CardFacts)


@pytest.mark.parametrize(
    ("paths", "facts", "kind"),
    [
        (["model.safetensors", "config.json"], CardFacts(), "model"),
        (["a/b/Model-00001.GGUF"], CardFacts(), "model"),
        (["train/0.parquet", "README.md"], CardFacts(), "dataset"),
        (["notes.txt"], CardFacts(), "dataset"),
        (["train/0.parquet"], CardFacts(kind="model"), "model"),
        (["pytorch_model.bin"], CardFacts(kind="dataset"), "dataset"),
    ],
)
def test_kinds(paths: list[str], facts: CardFacts, kind: str) -> None:
    """The card says what a folder holds, else the names of its files do."""
    assert guess_kind(paths, facts) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("pipeline_tag: x", "model"),
        ("base_model: a/b", "model"),
        ("task_categories: [x]", "dataset"),
        ("dataset_info:\n  features: []", "dataset"),
        ("license: mit", ""),
        ("pipeline_tag: x\nconfigs: []", ""),
    ],
)
def test_kinds_of_cards(text: str, kind: str) -> None:
    """Keys that only models have, or only datasets, tell them apart."""
    assert front(text).kind == kind


def test_media_types() -> None:
    """Common files get their media type, on every machine the same."""
    assert media_type("a/b.JSON") == "application/json"
    assert media_type("x.parquet") == "application/vnd.apache.parquet"
    assert media_type("model.safetensors") is None
    assert media_type("LICENSE") is None
    for value in MEDIA_TYPES.values():
        build(Parts(license={}), media=value)


def build(parts: Parts, media: str | None = None) -> None:
    """State a release with these parts, which checks their form."""
    build_manifest(
        kind="model",
        publisher=publisher_id(SecretKey.from_seed(bytes(32)).public),
        name="x",
        version="1",
        created="2026-11-22T00:00:00Z",
        files=[FileEntry("a", 0, CID.of(b"", Codec.RAW), 0, media_type=media)],
        profile=Profile.FIXED_1M,
        license=parts.license,
        consent=parts.consent,
        lineage=parts.lineage,
        docs=parts.docs,
    )


def params(**more: object) -> PublishParams:
    """Return what the publisher says."""
    return PublishParams(folder="/x", name="x", **more)  # type: ignore[arg-type]


PATHS = ["LICENSE", "README.md", "croissant.json", "model.safetensors", "sub/LICENSE"]
MANIFEST = CID.of(b"{}", Codec.JSON)


def test_parts_of_a_card() -> None:
    """Where the publisher says nothing, the card's licence and lineage are stated."""
    parts = statement_parts(params(), FACTS, PATHS)
    assert parts.license == {"spdx": "Apache-2.0", "file": "LICENSE"}
    assert parts.lineage == [
        {"role": "base_model", "uri": "hf://org/base-7b", "relation": "merge"},
        {"role": "base_model", "uri": "hf://org/other.v2", "relation": "merge"},
        {"role": "dataset", "uri": "hf://datasets/squad"},
        {"role": "dataset", "uri": "hf://datasets/org/words"},
    ]
    assert parts.docs == {"card": "README.md", "croissant": "croissant.json"}
    assert parts.consent == {}
    build(parts)


def test_the_publisher_wins() -> None:
    """What the publisher says replaces what the card says of the same thing."""
    link = share_link(publisher_id(SecretKey.from_seed(bytes(32)).public), "base", MANIFEST, [])
    said = params(
        license="mit",
        base=(str(MANIFEST), link, f"alice/base@{MANIFEST}"),
        data=("hf:datasets/org/x", "https://example.org/x.tar"),
        consent_basis="contract",
        personal_data="none",
        allowed_uses=("research", "teaching"),
        redistribution=False,
        contact="a@example.org",
    )
    parts = statement_parts(said, FACTS, ["model.safetensors"])
    assert parts.license == {"spdx": "MIT"}
    assert parts.lineage == [{"role": "base_model", "manifest": str(MANIFEST)}] * 3 + [
        {"role": "dataset", "uri": "hf://datasets/org/x"},
        {"role": "dataset", "uri": "https://example.org/x.tar"},
    ]
    assert parts.consent == {
        "basis": "contract",
        "personalData": "none",
        "allowedUses": ["research", "teaching"],
        "redistribution": False,
        "contact": "a@example.org",
    }
    assert parts.docs == {}
    build(parts)


def test_nothing_said() -> None:
    """A folder of bare files states nothing, which a policy can see."""
    parts = statement_parts(params(), CardFacts(), ["model.safetensors"])
    assert parts == Parts()
    build(parts)


@pytest.mark.parametrize(
    ("facts", "license"),
    [
        (
            CardFacts("LicenseRef-x", "X", "LICENSE-X.txt"),
            {"spdx": "LicenseRef-x", "name": "X", "file": "LICENSE-X.txt"},
        ),
        (
            CardFacts("LicenseRef-x", "X", "https://x.org/l"),
            {"spdx": "LicenseRef-x", "name": "X", "link": "https://x.org/l", "file": "COPYING.md"},
        ),
    ],
)
def test_the_text_of_a_licence(facts: CardFacts, license: dict[str, str]) -> None:
    """The file that the card names holds the licence, else the file of the usual name."""
    assert statement_parts(params(), facts, ["LICENSE-X.txt", "COPYING.md"]).license == license


def test_parents_without_an_address() -> None:
    """A parent that is neither on the Hub nor an address is stated by its name."""
    facts = CardFacts(base_model=("./checkpoint-100", "https://huggingface.co/org/x"))
    parts = statement_parts(params(), facts, [])
    assert parts.lineage == [
        {"role": "base_model", "name": "./checkpoint-100"},
        {"role": "base_model", "uri": "https://huggingface.co/org/x"},
    ]
    build(parts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("alice/base", "may name another release tomorrow"),
        ("alice/base@1.0", "may name another release tomorrow"),
        ("base", "does not name a release"),
        ("", "does not name a release"),
        (str(MANIFEST)[:-1], "characters"),
    ],
)
def test_refuses_vague_parents(text: str, reason: str) -> None:
    """A parent that could not be found again is refused, with the form that it should have."""
    with pytest.raises(UsageError, match=reason) as caught:
        statement_parts(params(base=(text,)), CardFacts(), [])
    assert caught.value.next
