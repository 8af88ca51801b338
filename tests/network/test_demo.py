"""The demo that the README promises really runs, and really checks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node import demo
from node.config import child_environ
from node.demo_people import DemoFailed, check


def test_the_demo_holds_and_leaves_nothing(tmp_path: Path) -> None:
    """``allod demo`` ends well, says what it did, and cleans up."""
    environ = child_environ(tmp_path / "home") | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "demo", "--json"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"]
    assert [step[0] for step in answer["steps"] if step[0].isdigit()] == list("12345678")
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_fails_is_an_error() -> None:
    """The demo's checks can fail: it does not only print."""
    with pytest.raises(DemoFailed, match="pigs fly"):
        check(False, "pigs fly")
    check(True, "water flows")


def test_a_flipped_byte_is_one_flipped_byte(tmp_path: Path) -> None:
    """The failing disk of the demo changes one byte of a read-only file and no more."""
    file = tmp_path / "f"
    file.write_bytes(bytes(100))
    file.chmod(0o444)
    demo.flip(file, 7)
    data = file.read_bytes()
    assert [at for at in range(100) if data[at]] == [7]
    assert file.stat().st_mode & 0o777 == 0o444
