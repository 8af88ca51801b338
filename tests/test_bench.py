"""The bench runs and says what it promises to say; its numbers are not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_bench_writes_its_file(tmp_path: Path) -> None:
    """A tiny run of Allod alone gives machine, rows and ratios, and the tables on stdout."""
    file = tmp_path / "bench.json"
    words = ["--mib", "4", "--rounds", "1", "--peers", "tls,stream", "--only", "f1g,publish"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *words, "--json", str(file), "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(file.read_text())
    assert set(answer) == {"command", "machine", "rows", "ratios", "skipped"}
    assert answer["machine"]["memory"]
    rows = {(row["work"], row["name"]): row for row in answer["rows"]}
    assert set(rows) == {
        ("f1g", "tls"), ("f1g", "stream"), ("publish", "in-place"), ("publish", "blake3")
    }  # fmt: skip
    fetched = rows["f1g", "tls"]
    assert fetched["mb_s"] > 0
    assert fetched["rounds"] == [round(fetched["mb_s"], 1)]
    assert {"seconds", "cpu_send", "cpu_receive", "mb_send", "mb_receive"} <= set(fetched)
    assert {"f1g/tls/stream", "publish/in-place/blake3"} <= set(answer["ratios"])
    assert "| fetch f1g | MB/s |" in done.stdout
    assert "| `publish/in-place/blake3` |" in done.stdout
    assert list(tmp_path.iterdir()) == [file]
