"""How commands find the running node, and what it leaves for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.config import Config, load_config
from node.presence import announce_node, card_file, find_node, make_token
from p2p.errors import AllodError, StoreError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(environ={"ALLOD_HOME": str(tmp_path)})


def test_a_running_node_is_found_and_a_stopped_one_is_not(config: Config) -> None:
    """The files are there while the node runs, for its owner only, and gone afterwards."""
    assert find_node(config.folders) is None
    with announce_node(config, http="http://127.0.0.1:9", token="secret") as here:
        found = find_node(config.folders)
        assert found == here
        assert found is not None
        assert (found.http, found.pid, found.token()) == (
            "http://127.0.0.1:9",
            os.getpid(),
            "secret",
        )
        assert config.folders.run.stat().st_mode & 0o777 == 0o700
        for file in config.folders.run.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600
    assert find_node(config.folders) is None
    assert list(config.folders.run.iterdir()) == []
    assert here.token() == ""


def test_what_a_dead_node_left_does_not_count(config: Config) -> None:
    """A card of a process that is gone is no running node."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    config.folders.run.mkdir(parents=True)
    card = {"http": "http://127.0.0.1:9", "token": "/x", "pid": child.pid}
    card_file(config.folders).write_text(json.dumps(card))
    assert find_node(config.folders) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"http": "http://127.0.0.1:9", "token": "/x", "pid": "me"}',
        '{"http": "http://127.0.0.1:9", "token": "/x", "pid": 0}',
        '{"http": "http://127.0.0.1:9", "token": "/x", "pid": 99999999999999999999}',
        '{"http": "file:///etc/passwd", "token": "/x", "pid": 1}',
        "[" * 60_000,
    ],
)
def test_a_broken_card_is_no_node(config: Config, text: str) -> None:
    """Whatever stands in node.json, it is a node or it is none."""
    config.folders.run.mkdir(parents=True)
    card_file(config.folders).write_text(text)
    assert find_node(config.folders) is None


def test_a_node_that_ends_leaves_its_successors_files_alone(config: Config) -> None:
    """The files go away with the node that they tell of, not with the one before."""
    with announce_node(config, http="http://127.0.0.1:1", token="one"):
        second = announce_node(config, http="http://127.0.0.1:2", token="two")
        second.__enter__()
    found = find_node(config.folders)
    assert found is not None
    assert (found.http, found.token()) == ("http://127.0.0.1:2", "two")
    second.__exit__(None, None, None)
    assert find_node(config.folders) is None


def test_tokens_are_fresh_unless_the_owner_fixes_one(config: Config, tmp_path: Path) -> None:
    """Two starts have two tokens; ALLOD_TOKEN has its way."""
    assert make_token(config) != make_token(config)
    assert len(make_token(config)) >= 40
    fixed = load_config(environ={"ALLOD_HOME": str(tmp_path), "ALLOD_TOKEN": "f" * 20})
    assert make_token(fixed) == "f" * 20


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Where the files can't be left the error says which folder."""
    (tmp_path / "run").write_text("a file")
    config = load_config(environ={"ALLOD_HOME": str(tmp_path)})
    with (
        pytest.raises(AllodError) as caught,
        announce_node(config, http="http://127.0.0.1:9", token="x"),
    ):
        pass
    assert isinstance(caught.value, StoreError)
    assert str(tmp_path / "run") in caught.value.message
