"""Cards: what they say about licence and lineage is stated, and nothing in them does harm."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.importers.card import (
    MAX_CARD,
    MAX_FRONT_MATTER,
    CardFacts,
    guess_kind,
    media_type,
    parse_card,
    read_card,
)
from node.importers.folder import walk_folder
from node.importers.licenses import NOT_IN_SPDX, SHORTER, on_card, stated
from node.importers.parts import Parts, statement_parts
from node.importers.suffixes import MEDIA_TYPES
from node.messages import PublishParams
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.errors import UsageError
from p2p.licenses import check_expression, read_terms
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
    pipeline_tag="text-generation",
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
        ("license: apache-2.0 OR mit", "Apache-2.0 OR MIT"),
        ("license: [apache-2.0 OR mit, isc]", "(Apache-2.0 OR MIT) AND ISC"),
        ("license: Apache License 2.0", "LicenseRef-Apache-License-2.0"),
        ("licenses: [cc-by-4.0]", "CC-BY-4.0"),
        ("license: bsl-1.0", "BSL-1.0"),
        ("license: lgpl-lr", "LGPLLR"),
        ("license: pddl", "PDDL-1.0"),
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
        publisher=PUBLISHER,
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
PUBLISHER = str(CID.of(b"root", Codec.JSON))


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
    link = share_link(PUBLISHER, "base", MANIFEST, [])
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
    assert parts == Parts("model")
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


SHARED = ["config.json", "model.safetensors"]
REAL = [
    # The front matter of cards on the Hub, without what is not read of them.
    (
        "base_model: meta-llama/Llama-3.1-8B-Instruct\nlibrary_name: peft\nlicense: llama3.1\n"
        "language:\n- en\ntags:\n- lora\ndatasets:\n- AaronHuang160/dax-explanations",
        SHARED,
        {"spdx": "LicenseRef-llama3.1"},
        ["base_model hf://meta-llama/Llama-3.1-8B-Instruct",
         "dataset hf://datasets/AaronHuang160/dax-explanations"],
    ),
    (
        "pipeline_tag: text-generation\nlicense: other\nlicense_name: llama3\n"
        "license_link: LICENSE\nbase_model: meta-llama/Meta-Llama-3-8B-Instruct",
        [*SHARED, "LICENSE"],
        {"spdx": "LicenseRef-llama3", "name": "llama3", "file": "LICENSE"},
        ["base_model hf://meta-llama/Meta-Llama-3-8B-Instruct"],
    ),
    (
        "base_model:\n- SicariusSicariiStuff/Negative_LLAMA_70B\n"
        "- aaditya/Llama3-OpenBioLLM-70B\nlibrary_name: transformers\ntags:\n- merge\n"
        "license: llama3.3\nlicense_name: llama3.3",
        SHARED,
        {"spdx": "LicenseRef-llama3.3", "name": "llama3.3"},
        ["base_model hf://SicariusSicariiStuff/Negative_LLAMA_70B",
         "base_model hf://aaditya/Llama3-OpenBioLLM-70B"],
    ),
    (
        "license: other\nlicense_name: flux-1-dev-non-commercial-license\n"
        "license_link: LICENSE.md\npipeline_tag: image-to-image\nextra_gated_prompt: By clicking "
        "\"Agree\", you agree\n  to the [terms](https://example.org)",
        [*SHARED, "LICENSE.md"],
        {"spdx": "LicenseRef-flux-1-dev-non-commercial-license", "file": "LICENSE.md",
         "name": "flux-1-dev-non-commercial-license"},
        [],
    ),
    (
        "annotations_creators:\n- no-annotation\nlanguage_creators:\n- found\nlanguage:\n- ca\n"
        "license:\n- cc-by-sa-4.0\npretty_name: Catalan Textual Corpus\nsize_categories:\n"
        "- 10M<n<100M\nsource_datasets:\n- original\n- extended|opus_dogc\n"
        "- extended|projecte-aina/catalan_general_crawling\ntask_categories:\n- fill-mask",
        ["corpus.txt"],
        {"spdx": "CC-BY-SA-4.0"},
        ["source_dataset hf://datasets/opus_dogc",
         "source_dataset hf://datasets/projecte-aina/catalan_general_crawling"],
    ),
    (
        "annotations_creators:\n- crowdsourced\nlanguages:\n- en\nlicenses:\n- cc-by-4.0\n"
        "size_categories:\n- 10K<n<100K\nsource_datasets:\n- extended|wikipedia\n- original",
        ["train.json"],
        {"spdx": "CC-BY-4.0"},
        ["source_dataset hf://datasets/wikipedia"],
    ),
    (
        "license: other\nlicense_name: mixed-non-commercial\nlicense_link: LICENSE.md\n"
        "pretty_name: Robot navigation evaluation suite\nsize_categories:\n- n<1K\nconfigs:\n"
        "- config_name: v2\n  default: true\n  data_files:\n  - split: test\n"
        "    path: data/v2/test-*.parquet",
        ["data/v2/test-0.parquet"],
        {"spdx": "LicenseRef-mixed-non-commercial", "name": "mixed-non-commercial",
         "link": "LICENSE.md"},
        [],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "paths", "license", "lineage"), REAL)
def test_real_cards(
    text: str, paths: list[str], license: dict[str, str], lineage: list[str]
) -> None:
    """Cards as they stand on the Hub give the licence and the lineage that they state."""
    parts = statement_parts(params(), front(text), paths)
    assert parts.license == license
    assert [f"{one['role']} {one['uri']}" for one in parts.lineage] == lineage
    assert parts.kind == ("model" if paths[:2] == SHARED else "dataset")
    build(parts)


@pytest.mark.parametrize("name", [*NOT_IN_SPDX, *SHORTER])
def test_every_licence_of_the_hub(name: str) -> None:
    """Each licence that the Hub lists beside SPDX's has one name, as a flag and on a card."""
    spelled = on_card(name)
    assert spelled
    assert spelled == on_card(name.upper()) == stated(name)
    assert check_expression(spelled) == spelled
    assert read_terms(spelled).known is (name != "cc"), "which is no licence but a family of all"


def test_a_licence_that_nobody_knows_is_refused() -> None:
    """A licence given by hand is SPDX's or the Hub's, and the error names the nearest."""
    for text, spelled in {"cc-by-4.0": "CC-BY-4.0", "Gemma": "LicenseRef-gemma"}.items():
        assert statement_parts(params(license=text), FACTS, []).license["spdx"] == spelled
    with pytest.raises(UsageError, match="lists no licence 'Apache2'") as caught:
        statement_parts(params(license="Apache2"), FACTS, [])
    assert "Apache-2.0" in caught.value.next


def test_a_consent_ends() -> None:
    """The last day of a consent is stated; one that has passed, or is no day, is refused."""
    parts = statement_parts(params(consent_expires="9000-12-31"), CardFacts(), [])
    assert parts.consent == {"expires": "9000-12-31"}
    build(parts)
    with pytest.raises(UsageError, match="ended on 2020-01-31"):
        statement_parts(params(consent_expires="2020-01-31"), CardFacts(), [])
    for text in ("9000-02-31", "soon", "9000-1-1"):
        with pytest.raises(UsageError, match=r"consent\.expires"):
            build(statement_parts(params(consent_expires=text), CardFacts(), []))


def test_a_dataset_names_its_sources() -> None:
    """What a dataset was made from is its source; what a model was trained on is its data."""
    said = params(data=("hf:datasets/org/x",), kind="dataset")
    assert statement_parts(said, FACTS, []).lineage[-1]["role"] == "source_dataset"
    assert statement_parts(params(), FACTS, []).lineage[-1]["role"] == "dataset"


def test_parents_without_an_address() -> None:
    """A parent that is neither on the Hub nor an address is stated by its name."""
    facts = CardFacts(
        base_model=("./checkpoint-100", "https://huggingface.co/org/x", "https://x.org/y"),
        datasets=("https://hf.co/datasets/org/words/",),
    )
    parts = statement_parts(params(base=(), data=()), facts, ["x.gguf"])
    assert parts.lineage == [
        {"role": "base_model", "name": "./checkpoint-100"},
        {"role": "base_model", "uri": "hf://org/x"},
        {"role": "base_model", "uri": "https://x.org/y"},
        {"role": "dataset", "uri": "hf://datasets/org/words"},
    ]
    build(parts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("base", "does not name a release"),
        ("", "does not name a release"),
        (str(MANIFEST)[:-1], "characters"),
    ],
)
def test_refuses_malformed_parents(text: str, reason: str) -> None:
    """A parent that is no reference is refused, with the forms that there are."""
    with pytest.raises(UsageError, match=reason) as caught:
        statement_parts(params(base=(text,)), CardFacts(), [])
    assert caught.value.next
