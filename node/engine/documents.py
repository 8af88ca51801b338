"""The small files of a release, as strangers wrote them: JSON and templates, read with bounds.

A file is measured before it is read and parsed once; what is too large, too deep or no JSON is one
``VerificationFailed``, whatever the parser's own word for it.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from p2p.errors import VerificationFailed

MAX_DOCUMENT: Final = 4 << 20
"""Bytes of a JSON file or a template: settings have some KiB; parsed, this takes 100 MB at most."""


def read_bytes(file: Path, limit: int = MAX_DOCUMENT) -> bytes | None:
    """Return all of a file of at most ``limit`` bytes; None where there is none."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        os.close(fd)
        raise VerificationFailed(f"{file.name} should be a file, and is none.")
    with os.fdopen(fd, "rb") as stream:
        data = stream.read(limit + 1) if about.st_size <= limit else b""
    if about.st_size > limit or len(data) > limit:
        raise VerificationFailed(
            f"{file.name} has at most {limit:,} bytes, this one has {about.st_size:,}."
        )
    return data


def read_text(file: Path, limit: int = MAX_DOCUMENT) -> str | None:
    """Return a file's text; None where there is none."""
    data = read_bytes(file, limit)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError as exc:
        raise VerificationFailed(f"{file.name} should be text in UTF-8, and is none.") from exc


def read_object(file: Path, limit: int = MAX_DOCUMENT) -> dict[str, Any] | None:
    """Return the JSON object that a file holds; None where there is no file."""
    value = read_json(file, limit)
    if value is None or isinstance(value, dict):
        return value
    raise VerificationFailed(
        f"{file.name} should hold a JSON object, and holds a {type(value).__name__}."
    )


def read_json(file: Path, limit: int = MAX_DOCUMENT) -> Any:
    """Return the JSON that a file holds; None where there is no file."""
    data = read_bytes(file, limit)
    return None if data is None else parse_json(data, file.name)


def parse_json(data: bytes, name: str) -> Any:
    """Parse what stands in the file ``name``; ``VerificationFailed`` if that is no JSON."""
    try:
        return json.loads(data)
    except RecursionError as exc:
        raise VerificationFailed(f"{name} is nested deeper than any JSON of a model is.") from exc
    except ValueError as exc:  # digits that are too many for a number, too
        raise VerificationFailed(f"{name} should be JSON, and is none: {exc!s:.120}.") from exc
