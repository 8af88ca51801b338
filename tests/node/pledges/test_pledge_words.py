"""Pledges as a person types them, where no node runs."""

import json
from pathlib import Path

import pytest

from tests.node.conftest import Said
from tests.releases import noise, write_folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the commands a home of their own, where no node runs."""
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "home"))


def test_pledges_are_made_listed_and_taken_back(allod: Said, tmp_path: Path) -> None:
    """To a publisher and to a release, with and without the word `add`, again in other words."""
    folder = write_folder(tmp_path / "model", {"model.gguf": noise(3000)})
    assert allod("key", "new", "alice")[0] == 0
    assert "None yet" in allod("pledge", "list")[2]
    assert allod("pledge", "alice/tiny", "--max", "1MB")[0] == 6  # not held, and no network
    words = ("--as", "alice/tiny", "--license", "MIT", "--offline")
    assert allod("publish", str(folder), *words)[0] == 0

    assert allod("pledge", "alice", "--keep", "2", "--max", "5GB")[:2] == (
        0,
        "all releases of alice: 2 copies, at most 5GB\n",
    )
    assert allod("pledge", "--keep", "1", "alice/tiny", "--max", "none")[1] == (
        "alice/tiny: 1 copy, no limit\n"
    )
    assert allod("pledge", "add", "alice")[0] == 0
    code, out, err = allod("pledge", "list")
    assert code == 0
    assert "tiny@1   ?/3" in out
    assert "alice: 0 B of 200GB taken" in out
    assert "No node runs" in err
    found = json.loads(allod("pledge", "list", "--json")[1])
    assert [(one["kind"], one["keep"], one["max"]) for one in found["pledges"]] == [
        ("publisher", 3, 200_000_000_000),
        ("release", 1, None),
    ]
    assert allod("pledge", "rm", "alice/tiny")[:2] == (
        0,
        "alice/tiny: 0 releases, 0 B may go now\n",
    )
    assert allod("pledge", "rm", "alice/tiny")[0] == 3
    assert allod("pledge", "nobody")[0] == 2
    assert allod("pledge", "alice", "--keep", "0")[0] == 2
    assert allod("pledge", "alice", "--max", "much")[0] == 2
    assert "Help to keep" in allod("pledge", "--help")[1]


def test_a_damaged_book_stops_gc(allod: Said, tmp_path: Path) -> None:
    """What was taken is not known then, and must not be deleted for that."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "pledges.json").write_text("{")
    code, _, err = allod("gc")
    assert code == 8
    assert "pledges.json cannot be read" in err
