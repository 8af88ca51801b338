"""Hugging Face's clients as people have them: virtual environments with pinned versions.

Each is made once, whole or not at all, and kept in a folder of this user's under the hash of its
list; a lock holds off the other processes that tests run in.
Where the packages cannot be had, tests that need them are skipped.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

import pytest

from tests.models import CACHE

Kind = Literal["hub1", "torch"]

PINNED: Final[dict[Kind, tuple[str, ...]]] = {
    # The last of huggingface_hub before 2, with what it then takes for large files.
    "hub1": ("huggingface_hub==1.33.0", "hf_xet==1.8.0"),
    # The newest of all: 5.6 GB, most of it torch with its libraries for graphics cards.
    "torch": (
        "huggingface_hub==2.4.0",
        "hf_xet==1.8.0",
        "torch==2.15.0",
        "transformers==5.24.0",
        "datasets==5.2.0",
        "pandas==3.1.1",
        "pyarrow==26.0.1",
    ),
}
PATIENCE: Final = 540.0
"""Seconds that uv may take; for a slow line, and only to stop a hang."""


def python(kind: Kind) -> Path:
    """Return the Python of an environment, made if it is not there; skips where it cannot be."""
    text = f"{sys.version_info[:2]} {PINNED[kind]}"
    folder = CACHE / f"clients-{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    found = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"clients-{kind}.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if not done.exists():  # another process was first
                _make(kind, folder)
                done.touch()
    return found


def _make(kind: Kind, folder: Path) -> None:
    """Make an environment in place, since its programs name the folder that they lie in."""
    shutil.rmtree(folder, ignore_errors=True)
    uv, found = [sys.executable, "-m", "uv"], folder / "bin" / "python"
    commands = (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--quiet", "--python", str(found), *PINNED[kind]],
    )
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
        except (OSError, subprocess.SubprocessError) as exc:
            shutil.rmtree(folder, ignore_errors=True)
            said = getattr(exc, "stderr", "") or ""
            pytest.skip(f"uv could not install {', '.join(PINNED[kind])}: {exc} {said[-300:]}")
