"""Runs the JavaScript ipfs-unixfs-importer, and writes the golden vectors that it gives.

``python -m tests.compat.unixfs_importer`` writes the answers in tests/vectors/ anew.
"""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypedDict

from tests.compat.npm import NODE, install
from tests.vectors import UNIXFS, paths, unixfs

HERE: Final = Path(__file__).parent


class Answer(TypedDict):
    """What the importer said of a file or a directory."""

    cid: str
    dagSize: int


def run(
    jobs: Iterable[dict[str, Any]], *, mend: bool = False, timeout: float = 100
) -> list[Answer]:
    """Import each ``{"size": n}`` or ``{"paths": [...]}``, as tests/vectors describes them.

    ``mend``: have it write sizes from 2 GiB on as protobuf says, which it does not by itself.
    """
    done = subprocess.run(
        [NODE, "unixfs_importer.mjs", *(["--mend"] if mend else [])],
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
    install(HERE)
    vectors = unixfs()
    jobs = [{"size": case["size"]} for case in vectors["files"]]
    jobs += [{"paths": paths(case)} for case in vectors["directories"]]
    for case, answer in zip(vectors["files"] + vectors["directories"], run(jobs), strict=True):
        case.update(answer)
    UNIXFS.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
