"""Croissant metadata: a real loader finds it valid, and reads the records that it describes."""

import base64
import io
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.importers.card import CardFacts
from node.importers.columns import MAX_COLUMNS, Column, read_columns
from node.importers.croissant import MAX_BYTES, MAX_PATHS, MAX_SETS, About, write_croissant
from node.importers.folder import walk_folder
from node.importers.parquet import MAX_ELEMENTS, parquet_columns
from node.importers.parts import Parts
from tests.releases import write_folder

with warnings.catch_warnings():  # its own libraries warn while they are imported
    warnings.simplefilter("ignore")
    import mlcroissant

# id int64, text string, score double, tags list<string>, image struct<bytes, path>, at timestamp;
# two rows, written by Arrow's C++ library.
PARQUET = base64.b64decode(
    "UEFSMRUAFSwVPiwVBBUAFQYVBhwAAAAotS/9IBaxAAACAAAABAEBAAAAAAAAAAIAAAAAAAAAFQAVIBUyLBUEFQAVBhUG"
    "HAAAACi1L/0gEIEAAAIAAAAEAQEAAABhAQAAAGIVABUsFT4sFQQVABUGFQYcAAAAKLUv/SAWsQAAAgAAAAQBAAAAAAAA"
    "4D8AAAAAAAD4PxUAFTYVSCwVBhUAFQYVBhwAAAAotS/9IBvZAAACAAAAAwQCAAAABgMBAAAAYQEAAABiAQAAAGMVABUg"
    "FTIsFQQVABUGFQYcAAAAKLUv/SAQgQAAAgAAAAQCAQAAAHgBAAAAeBUAFSAVMiwVBBUAFQYVBhwAAAAotS/9IBCBAAAC"
    "AAAABAIBAAAAcAEAAABwFQAVLBU+LBUEFQAVBhUGHAAAACi1L/0gFrEAAAIAAAAEAQBA+sEImwUAAED6wQibBQAVBBm8"
    "NQAYBnNjaGVtYRUMABUEJQIYAmlkABUMJQIYBHRleHQlAEwcAAAAFQolAhgFc2NvcmUANQIYBHRhZ3MVAhUGTDwAAAA1"
    "BBgEbGlzdBUCABUMJQIYB2VsZW1lbnQlAEwcAAAANQIYBWltYWdlFQQAFQwlAhgFYnl0ZXMAFQwlAhgEcGF0aCUATBwA"
    "AAAVBCUCGAJhdCUUTIwSHCwAAAAAABYEGRwZfCYAHBUEGSUGABkYAmlkFQwWBBZSFmQmCEkcFQAVABUCADwpBhkmAAQA"
    "AAAmABwVDBklBgAZGAR0ZXh0FQwWBBZGFlgmbEkcFQAVABUCADwWBBkGGSYABAAAACYAHBUKGSUGABkYBXNjb3JlFQwW"
    "BBZSFmQmxAFJHBUAFQAVAgA8KQYZJgAEAAAAJgAcFQwZJQYAGTgEdGFncwRsaXN0B2VsZW1lbnQVDBYGFlwWbiaoAkkc"
    "FQAVABUCADwWBhkmBAIZRgAAAAYAAAAmABwVDBklBgAZKAVpbWFnZQVieXRlcxUMFgQWRhZYJpYDSRwVABUAFQIAPBYE"
    "GQYZNgAABAAAACYAHBUMGSUGABkoBWltYWdlBHBhdGgVDBYEFkYWWCbuA0kcFQAVABUCADwWBBkGGTYAAAQAAAAmABwV"
    "BBklBgAZGAJhdBUMFgQWUhZkJsYESRwVABUAFQIAPCkGGSYABAAAABakBBYEJggWogUAKCBwYXJxdWV0LWNwcC1hcnJv"
    "dyB2ZXJzaW9uIDI2LjAuMRl8HAAAHAAAHAAAHAAAHAAAHAAAHAAAAFQCAABQQVIx"
)
ABOUT = About(
    "z6MkPublisher",
    "words",
    "1.0.0",
    "2026-11-22T00:00:00Z",
    Parts("dataset", license={"spdx": "CC-BY-4.0"}),
)


def describe(folder: Path, about: About = ABOUT) -> dict[str, Any]:
    """Describe a folder, and write the description into it, as a fetched release has it."""
    data = write_croissant(walk_folder(folder), about)
    assert data == write_croissant(walk_folder(folder), about)
    (folder / "croissant.json").write_bytes(data)
    document: dict[str, Any] = json.loads(data)
    return document


def load(folder: Path) -> Any:
    """Have mlcroissant validate a folder's description; return its dataset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = mlcroissant.Dataset(str(folder / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert {text.partition("]")[2] for text in issues.warnings} <= {
        ' Property "http://mlcommons.org/croissant/citeAs" is recommended, but does not exist.',
        ' Property "https://schema.org/license" is recommended, but does not exist.',
    }
    return dataset


def records(dataset: Any, name: str) -> list[dict[str, Any]]:
    """Return the records of a set as mlcroissant reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(dataset.records(name))


def sets(document: dict[str, Any]) -> dict[str, list[str]]:
    """Return the patterns of every set of files."""
    return {one["@id"]: one["includes"] for one in document["distribution"]}


def columns(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the names and types of every set of records."""
    return {
        one["@id"]: {field["name"]: field["dataType"] for field in one["field"]}
        for one in document["recordSet"]
    }


FOLDER = {
    "README.md": b"---\nlicense: mit\n---\n",
    "LICENSE.txt": b"MIT",
    "people.csv": b"id,full name\n1,Ada\n2,Bob\n",
    "odd [1].tsv": b"\xef\xbb\xbfa\tb\n1\t2\n",
    "talk/chat.jsonl": b'{"text": "hi", "score": 1, "tags": ["a"], "deep": {"x": 1}}\n'
    b'{"text": "ho", "score": 1.5, "tags": [], "deep": null}\n',
    "data/train-00000-of-00002.parquet": PARQUET,
    "data/train-00001-of-00002.parquet": PARQUET,
    "data/test.parquet": PARQUET,
    "more.arrow": b"ARROW1\0\0",
    "img/cat/a.jpg": b"\xff\xd8",
    "img/dog/b b.JPEG": b"\xff\xd8",
    "img/c.png": b"\x89PNG",
    "sound/a.wav": b"RIFF",
    "text/one.txt": b"hello",
    "labels.json": b"{}",
    "unheard.of": b"1",
}


def test_a_folder_of_many_formats(tmp_path: Path) -> None:
    """Every file of data is in one set, tables have their columns, and mlcroissant agrees."""
    folder = write_folder(tmp_path / "d", FOLDER)
    document = describe(folder)
    assert sets(document) == {
        "other-files": ["*.of"],
        "arrow-files": ["*.arrow"],
        "people-files": ["*.csv"],
        "jpg-files": ["*.JPEG", "*.jpg"],
        "json-files": ["labels.json"],
        "talk/chat-files": ["*.jsonl"],
        "data/test-files": ["data/test.parquet"],
        "data/train-files": [
            "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
        ],
        "png-files": ["*.png"],
        "odd-1-files": ["*.tsv"],
        "txt-files": ["text/one.txt"],
        "wav-files": ["*.wav"],
    }  # fmt: skip
    table = {"id": "sc:Integer", "text": "sc:Text", "score": "sc:Float", "tags": "sc:Text",
             "at": "sc:DateTime"}  # fmt: skip
    assert columns(document) == {
        "people": {"id": "sc:Text", "full name": "sc:Text"},
        "jpg": {"content": "sc:ImageObject", "path": "sc:Text"},
        "talk/chat": {"text": "sc:Text", "score": "sc:Float", "tags": "sc:Text"},
        "data/test": table,
        "data/train": table,
        "png": {"content": "sc:ImageObject", "path": "sc:Text"},
        "odd-1": {"a": "sc:Text", "b": "sc:Text"},
        "txt": {"content": "sc:Text", "path": "sc:Text"},
        "wav": {"content": "sc:AudioObject", "path": "sc:Text"},
    }
    dataset = load(folder)
    assert records(dataset, "people") == [
        {"people/id": b"1", "people/full-name": b"Ada"},
        {"people/id": b"2", "people/full-name": b"Bob"},
    ]
    assert records(dataset, "talk/chat")[0] == {
        "talk/chat/text": b"hi", "talk/chat/score": 1.0, "talk/chat/tags": [b"a"],
    }  # fmt: skip
    assert records(dataset, "odd-1") == [{"odd-1/a": b"1", "odd-1/b": b"2"}]
    assert records(dataset, "txt") == [{"txt/content": b"hello", "txt/path": b"text/one.txt"}]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "a.arrow", "a.png"])
def test_a_single_file(tmp_path: Path, name: str) -> None:
    """Each format alone is valid, also where the file is not what its name says."""
    folder = write_folder(tmp_path / "d", {name: b"\x00\x01"})
    describe(folder)
    assert load(folder).metadata.name == "words"


def test_what_is_said_of_a_dataset(tmp_path: Path) -> None:
    """Licence, consent, sources, keywords and names are there in Croissant's words."""
    folder = write_folder(tmp_path / "d", {"a.csv": b"x\n1\n"})
    facts = CardFacts(pretty_name="Fine Words", tags=("poems",), language=("de",))
    consent = {
        "basis": "contract", "allowedUses": ["research", "teaching"], "redistribution": False,
        "personalData": "voices", "contact": "a@example.org", "expires": "9000-01-01",
    }  # fmt: skip
    lineage = [
        {"role": "source_dataset", "manifest": "bagaaiera"},
        {"role": "source_dataset", "uri": "hf://datasets/org/x"},
        {"role": "source_dataset", "name": "somewhere"},
    ]
    parts = Parts("dataset", facts, {"spdx": "MIT OR ISC"}, consent, lineage)
    about = About(
        "z6Mk", "words", "1.0.0", "2026-11-22T00:00:00Z", parts, "Words.", ("https://w/",)
    )
    document = describe(folder, about)
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert (document["name"], document["description"]) == ("Fine Words", "Words.")
    assert (document["license"], document["url"]) == ("MIT OR ISC", "https://w/")
    assert (document["version"], document["datePublished"]) == ("1.0.0", "2026-11-22")
    assert (document["keywords"], document["inLanguage"]) == (["poems"], ["de"])
    assert document["usageInfo"]["text"] == (
        "Basis: contract. Allowed uses: research, teaching. Redistribution is not allowed. "
        "Until 9000-01-01. Contact: a@example.org."
    )
    assert document["rai:personalSensitiveInformation"] == "voices"
    assert document["rai:dataUseCases"] == ["research", "teaching"]
    assert [one["@id"] for one in document["prov:wasDerivedFrom"]] == [
        "ipfs://bagaaiera", "https://huggingface.co/datasets/org/x",
    ]  # fmt: skip
    metadata = load(folder).metadata
    assert metadata.data_use_cases == ["research", "teaching"]
    nothing = About("z6Mk", "words", "1.0.0", "2026-11-22T00:00:00Z", Parts("dataset"))
    assert not {"license", "usageInfo", "keywords"} & describe(folder, nothing).keys()
    load(folder)


def test_many_files(tmp_path: Path) -> None:
    """Thousands of images or shards are a pattern, and hundreds of tables one set, all valid."""
    folder = write_folder(tmp_path / "a", {f"img/{i}.jpg": b"" for i in range(MAX_PATHS + 50)})
    assert sets(describe(folder)) == {"jpg-files": ["*.jpg"]}
    load(folder)
    shards = {f"x-{i:05}.csv": b"a,b\n" for i in range(MAX_PATHS + 1)}
    folder = write_folder(tmp_path / "b", shards | {"y.csv": b"c\n"})
    document = describe(folder)
    assert sets(document) == {"csv-files": ["*.csv"]}
    load(folder)
    tables = {f"t{'x' * i}.csv": b"a\n" for i in range(MAX_SETS + 1)}
    assert len(sets(describe(write_folder(tmp_path / "c", tables)))) == 1
    wide = b",".join(b"%0200d" % i for i in range(MAX_COLUMNS)) + b"\n"
    folder = write_folder(tmp_path / "d", {f"{'x' * i}.csv": wide for i in range(1, 30)})
    document = describe(folder)
    assert (folder / "croissant.json").stat().st_size < MAX_BYTES
    assert "recordSet" not in document
    assert len(document["distribution"]) == 29
    load(folder)


def test_names_that_collide(tmp_path: Path) -> None:
    """Sets and columns whose names differ in odd letters only have identifiers of their own."""
    folder = write_folder(tmp_path / "d", {"a b.csv": b"x y,x-y\n1,2\n", "a-b.tsv": b"x\n1\n"})
    document = describe(folder)
    assert sets(document).keys() == {"a-b-files", "a-b-2-files"}
    assert [field["@id"] for field in document["recordSet"][0]["field"]] == ["a-b/x-y", "a-b/x-y-2"]
    load(folder)


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("x.csv", b"", ()),
        ("x.csv", b'"a,b",c\n1,2\n', (Column("a,b"), Column("c"))),
        ("x.csv", b"a,a\n", ()),
        ("x.csv", b"a,,b\n", ()),
        ("x.csv", b"\xff\xfe", ()),
        ("x.csv", b"a" * 300 + b"\n", ()),
        ("x.csv", b",".join(b"%d" % i for i in range(MAX_COLUMNS + 1)), ()),
        ("x.jsonl", b"[1]\n", ()),
        ("x.jsonl", b"{", ()),
        ("x.jsonl", b"[" * 100_000, ()),
        ("x.jsonl", b'{"a": 1}\n{"a": "x", "b": true}\n', (Column("b", "sc:Boolean"),)),
        ("x.jsonl", b'{"a": [[1]], "b": [1, "x"], "c": [1, 2]}\n',
         (Column("c", "sc:Integer", True),)),
        ("x.jsonl", b'{"a": 1}\n' + b"x" * 300_000, (Column("a", "sc:Integer"),)),
        ("x.parquet", b"", ()),
        ("x.parquet", b"PAR1" + b"x" * 20, ()),
        ("x.arrow", b"a,b\n", ()),
    ],
)  # fmt: skip
def test_columns(tmp_path: Path, name: str, data: bytes, found: tuple[Column, ...]) -> None:
    """What the beginning of a file tells is told; what cannot be told in one look is left out."""
    file = tmp_path / name
    file.write_bytes(data)
    assert read_columns(file, name.partition(".")[2]) == found
    assert read_columns(tmp_path / "gone", "csv") == ()


def test_columns_of_parquet() -> None:
    """The schema of a real file is read; lists of values are told, what is nested is left out."""
    assert parquet_columns(io.BytesIO(PARQUET)) == [
        ("id", "sc:Integer", False),
        ("text", "sc:Text", False),
        ("score", "sc:Float", False),
        ("tags", "sc:Text", True),
        ("at", "sc:DateTime", False),
    ]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | st.tuples(st.integers(480, 944), st.integers(1, 255)))
def test_any_footer(change: bytes | tuple[int, int]) -> None:
    """A broken footer is a ValueError, never another error, and never many columns."""
    if isinstance(change, bytes):
        data = change + len(change).to_bytes(4, "little") + b"PAR1"
        data = b"PAR1" + data
    else:
        at, value = change
        data = PARQUET[:at] + bytes([PARQUET[at] ^ value]) + PARQUET[at + 1 :]
    with suppress(ValueError):
        assert len(parquet_columns(io.BytesIO(data))) <= MAX_ELEMENTS
