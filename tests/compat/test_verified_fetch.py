"""@helia/verified-fetch, IPFS for web pages, reads from the gateway and verifies all of it."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.compat.npm import NODE, install_or_skip
from tests.network.people import Person
from tests.releases import MIB, noise, write_folder

FOLDER = Path(__file__).parent / "helia"
SHARDED = 900  # files whose names make a directory of more than 256 KiB
FILES = {
    "model.bin": noise(3 * MIB + 17, 1),  # a file of several leaves
    "config.json": b'{"a": 1}',
    "sub/folder/words.txt": b"words " * 1000,
    "empty": b"",
}


async def verified(gateway: str, *wanted: tuple[str, str | None]) -> list[dict[str, Any]]:
    """Have verified-fetch read these ipfs URLs, each with a Range or without."""
    command = [NODE, str(FOLDER / "read.mjs"), gateway, json.dumps(wanted)]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


async def curl(url: str, byte_range: str = "") -> bytes:
    """Read the same with curl."""
    extra = ["--range", byte_range] if byte_range else []
    done = await trio.run_process(
        ["curl", "--silent", "--show-error", "--fail", *extra, url], capture_stdout=True
    )
    return bytes(done.stdout)


def told(status: int, data: bytes) -> dict[str, Any]:
    return {"status": status, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.long
async def test_verified_fetch_reads_a_release(tmp_path: Path) -> None:
    """Files by path and by CID, a range over the border of two leaves; curl reads the same."""
    await trio.to_thread.run_sync(partial(install_or_skip, FOLDER))
    many = {f"many/{'x' * 240}-{n}": b"%d" % n for n in range(SHARDED)}
    folder = write_folder(tmp_path / "files", FILES | many)
    alice = Person(tmp_path / "alice")
    alice.environ["ALLOD_GATEWAY_LISTEN"] = "127.0.0.1:0"
    release = await alice.publish(folder, "files")
    cids = {file["path"]: file["cid"] for file in release["files"]}
    root, model = release["root"], FILES["model.bin"]
    first, last = MIB - 5, 2 * MIB + 4
    some = f"many/{'x' * 240}-77"
    async with alice.node() as node:
        [gateway] = node.status["gateway"]
        answers = await verified(
            gateway,
            *[(f"ipfs://{root}/{path}", None) for path in FILES],
            (f"ipfs://{cids['model.bin']}", None),
            (f"ipfs://{cids['model.bin']}", f"bytes={first}-{last}"),
            (f"ipfs://{root}/model.bin", f"bytes={first}-{last}"),
            (f"ipfs://{root}/{some}", None),
        )
        assert answers == [
            *[told(200, data) for data in FILES.values()],
            told(200, model),
            told(206, model[first : last + 1]),
            told(206, model[first : last + 1]),
            told(200, b"77"),
        ]
        if shutil.which("curl") is None:
            pytest.skip("there is no curl")
        url = f"{gateway}/ipfs/{root}/model.bin"
        assert await curl(url) == model
        assert await curl(url, f"{first}-{last}") == model[first : last + 1]
