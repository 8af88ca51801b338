"""The commands that look at releases and carry them, as a person types them."""

import json
from pathlib import Path

import pytest

from tests.node.conftest import Said
from tests.releases import noise, write_folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the commands a home of their own, where no node runs."""
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "home"))


def test_a_release_is_looked_at_and_carried(
    allod: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published with its dataset, found, shown, explained, saved, put into a file and taken out."""
    data = write_folder(tmp_path / "data", {"train.txt": b"words\n"})
    model = write_folder(tmp_path / "model", {"model.gguf": noise(3000)})
    assert allod("key", "new", "alice")[0] == 0
    assert allod("publish", str(data), "--as", "words", "--kind", "dataset", "--offline")[0] == 0
    words = ("--license", "MIT", "--data", "alice/words", "--description", "A <b>tiny</b> one")
    assert allod("publish", str(model), "--as", "tiny", *words, "--offline")[0] == 0

    code, out, _ = allod("search", "TINY")
    assert (code, "alice/tiny" in out, "alice/words" in out) == (0, True, False)
    code, out, err = allod("search", "elephant")
    assert (code, out) == (0, "")
    assert "Nothing." in err

    page, proofs = tmp_path / "tiny.html", tmp_path / "proofs"
    code, out, _ = allod("provenance", "alice/tiny", "--html", str(page), "--save", str(proofs))
    assert code == 0
    assert "admitted, by the rule default" in out
    assert "└─ dataset: alice/words 1" in out
    assert out.splitlines()[-1].startswith("model_signing verify certificate ")
    assert "A &lt;b&gt;tiny&lt;/b&gt; one" in page.read_text()
    assert {one.name for one in proofs.iterdir()} == {
        "statement.json", "publisher.sigstore.json", "model.sig", "publisher.pem",
    }  # fmt: skip

    code, out, _ = allod("why", "alice/tiny")
    assert (code, out.splitlines()[0]) == (0, "admitted, by the rule default")
    code, out, _ = allod("impact", "alice/words")
    assert (code, "alice/tiny" in out) == (0, True)
    assert "Nothing that this machine knows" in allod("impact", "alice/tiny")[2]

    file = tmp_path / "tiny.car"
    code, out, _ = allod("bundle", "export", "alice/tiny", str(file))
    assert (code, "2 releases" in out) == (0, True)
    assert allod("bundle", "export", "alice/tiny", str(file))[0] == 2
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "other"))
    code, out, _ = allod("bundle", "import", str(file), "--dry-run")
    assert (code, "is whole: 2 releases" in out) == (0, True)
    code, out, _ = allod("bundle", "import", str(file))
    assert code == 0
    assert (Path(out.splitlines()[-1]) / "model.gguf").read_bytes() == noise(3000)
    code, out, _ = allod("why", json.loads(allod("ls", "--json")[1])["releases"][0]["ref"])
    assert (code, out.splitlines()[0]) == (0, "admitted, by the rule default")
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = allod("bundle", "import", str(file))
    assert (code, "ends in the middle of leaf 0 of train.txt of words 1" in err) == (4, True)
