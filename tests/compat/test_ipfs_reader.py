"""A bundle file is a CAR, and the JavaScript implementations of IPFS read it."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from p2p.car import read_car
from p2p.cid import CID
from tests.compat.npm import NODE, install_or_skip
from tests.p2p.test_parcel import BASE, CHILD, WHOLE, base, child, read

FOLDER = Path(__file__).parent / "ipfs_reader"


@pytest.fixture(scope="module")
def reader() -> list[str]:
    """The command that reads a CAR; its packages are installed at the first use."""
    install_or_skip(FOLDER)
    return [NODE, str(FOLDER / "read.mjs")]


def test_ipfs_tools_read_the_folders(reader: list[str], tmp_path: Path) -> None:
    """@ipld/car finds every block, ipfs-unixfs-exporter the files of both releases."""
    file = tmp_path / "whole.car"
    file.write_bytes(WHOLE)
    statements, _ = read(WHOLE)
    folders = [str(child.root), str(base.root)]
    ran = subprocess.run(
        [*reader, str(file), *folders], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["roots"] == [str(statements.cid)]
    assert answer["blocks"] == len(list(read_car(WHOLE, CID.parse(answer["roots"][0]))))
    for folder, files in zip(folders, (CHILD, BASE), strict=True):
        expected = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        assert answer["folders"][folder] == expected
