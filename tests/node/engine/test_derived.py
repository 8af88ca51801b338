"""What was converted is found again if it can be believed, and goes when its release goes."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.engine.convert import VERSION
from node.engine.derived import CONVERTER, Derived
from p2p.cid import CID, Codec, Hash
from p2p.errors import UsageError

RELEASE, OTHER = (CID.of(word, Codec.RAW) for word in (b"release", b"other"))
SOURCES = {
    "model.safetensors": CID.of(b"weights", Codec.RAW),
    "config.json": CID.of(b"settings", Codec.RAW),
}
DATA = b"GGUF and so on"


def made(root: Path, release: CID = RELEASE, type: str = "f16") -> tuple[Derived, Path]:
    """A file that was converted and noted."""
    derived = Derived(root)
    file = derived.prepare(release, type)
    file.write_bytes(DATA)
    assert derived.note(release, type, SOURCES) == file
    return derived, file


def test_what_was_noted_is_found(tmp_path: Path) -> None:
    """A file with its record is found by its release, its type and what it was made of."""
    derived, file = made(tmp_path / "derived")
    assert file == tmp_path / "derived" / str(RELEASE) / f"f16-{VERSION}.gguf"
    assert derived.find(RELEASE, "f16", SOURCES) == file
    assert derived.find(RELEASE, "auto", SOURCES) is None
    assert derived.find(OTHER, "f16", SOURCES) is None
    assert derived.find(RELEASE, "f16", {**SOURCES, "x.json": OTHER}) is None


def test_a_record_names_where_it_came_from(tmp_path: Path) -> None:
    """The record has the release, its files, the converter, the type and the file's hash."""
    derived, file = made(tmp_path)
    record = derived.record(RELEASE, "f16")
    assert record is not None
    assert record.manifest == str(RELEASE)
    assert record.sources == {path: str(cid) for path, cid in SOURCES.items()}
    assert (record.type, record.size) == ("f16", len(DATA))
    assert record.blake3 == Hash.BLAKE3.digest(DATA).hex()
    assert (record.converter, record.version) == (CONVERTER, VERSION)
    assert record.gguf
    assert json.loads(file.with_suffix(".json").read_text())["sources"] == record.sources


@pytest.mark.parametrize(
    "change",
    [
        {"size": len(DATA) + 1},
        {"size": str(len(DATA))},
        {"size": True},
        {"manifest": str(OTHER)},
        {"type": "q8_0"},
        {"version": "0"},
        {"converter": "another"},
        {"sources": []},
        {"blake3": None},
    ],
)
def test_a_record_that_does_not_fit_is_not_believed(tmp_path: Path, change: Any) -> None:
    """A record of another file, release, converter or form means: convert again."""
    derived, file = made(tmp_path)
    record = file.with_suffix(".json")
    said = json.loads(record.read_text())
    record.write_text(json.dumps({**said, "later": "field"}))
    assert derived.find(RELEASE, "f16", SOURCES) == file
    record.write_text(json.dumps({**said, **change}))
    assert derived.find(RELEASE, "f16", SOURCES) is None


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "[" * 100_000, "x" * (5 << 20)])
def test_a_record_that_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands in the record's place, nothing worse comes of it than another conversion."""
    derived, file = made(tmp_path)
    file.with_suffix(".json").write_text(text)
    assert derived.find(RELEASE, "f16", SOURCES) is None


def test_half_of_a_pair_is_nothing(tmp_path: Path) -> None:
    """A file without its record is not believed, nor a record without its file, nor a cut file."""
    derived, file = made(tmp_path)
    record = file.with_suffix(".json").read_bytes()
    file.with_suffix(".json").unlink()
    assert derived.find(RELEASE, "f16", SOURCES) is None
    file.with_suffix(".json").write_bytes(record)
    file.write_bytes(DATA[:-1])
    assert derived.find(RELEASE, "f16", SOURCES) is None
    file.unlink()
    assert derived.find(RELEASE, "f16", SOURCES) is None


def test_what_is_made_anew_is_not_believed_meanwhile(tmp_path: Path) -> None:
    """From when a conversion begins until it is noted there is nothing to be found."""
    derived, file = made(tmp_path)
    assert derived.prepare(RELEASE, "f16") == file
    assert not file.exists()
    assert derived.record(RELEASE, "f16") is None


def test_a_release_takes_what_was_made_of_it_along(tmp_path: Path) -> None:
    """All that was made of one release is deleted together, and nothing of another."""
    derived, file = made(tmp_path)
    made(tmp_path, RELEASE, "q8_0")
    _, other = made(tmp_path, OTHER)
    derived.remove(RELEASE)
    derived.remove(RELEASE)
    assert not file.parent.exists()
    assert derived.find(OTHER, "f16", SOURCES) == other


def test_cleaning_keeps_what_is_held_and_whole(tmp_path: Path) -> None:
    """What no held release needs goes, and older versions, halves and strange files with it."""
    derived, file = made(tmp_path)
    _, gone = made(tmp_path, OTHER)
    old, part = (file.with_name(name) for name in ("f16-0.gguf", f"q8_0-{VERSION}.gguf.part"))
    half = file.with_name(f"bf16-{VERSION}.gguf")
    for each in (old, part, half, tmp_path / "stray"):
        each.write_bytes(b"12345")
    freed = derived.clean({RELEASE})
    assert sorted(tmp_path.iterdir()) == [file.parent]
    assert sorted(file.parent.iterdir()) == [file, file.with_suffix(".json")]
    assert derived.find(RELEASE, "f16", SOURCES) == file
    assert not gone.exists()
    assert freed > 15 + len(DATA)
    assert derived.clean({RELEASE}) == 0
    assert Derived(tmp_path / "none").clean(()) == 0


def test_types_are_those_that_there_are(tmp_path: Path) -> None:
    """A type that is none is no part of a path."""
    with pytest.raises(UsageError, match="made into auto, f16"):
        Derived(tmp_path).place(RELEASE, "../x")
