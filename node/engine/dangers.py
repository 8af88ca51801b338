"""What a release must not have if an engine is to open it: code, and whatever runs code.

The policy has looked already, when the release came; this is asked again and of everything, since
an engine is about to open the folder, and what one program leaves alone another one loads.

Refused are
- code by its name, anywhere in the folder (``*.py``, libraries);
- pickles, Keras models and arrays of objects by their bytes, whatever they are called;
- settings that make transformers or sentence-transformers import or download code: ``auto_map``,
  ``custom_pipelines``, an attention from a hub, a module that is no part of sentence-transformers.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.engine.documents import MAX_DOCUMENT, read_json
from p2p.errors import Refused
from p2p.policy.contents import look_into
from p2p.policy.formats import format_of

MAX_FILES: Final = 20_000
"""Files of a release that are looked into; a model has some dozens, the largest a thousand."""

_SETTINGS: Final = re.compile(r"(.*/)?([^/]*config[^/]*|modules|model_index)\.json", re.IGNORECASE)
"""Files in which loaders read what to import. ``config.4.1.0.json`` is one: transformers prefers
settings that are made for its own version."""
_IMPORTS: Final = ("auto_map", "custom_pipelines", "custom_generate")
_ATTENTION: Final = ("attn_implementation", "_attn_implementation", "experts_implementation")
_LEAVE_OUT: Final = "If the model works without it, fetch it with --exclude for that file."


@dataclass(frozen=True, slots=True)
class _Content:
    """A file on disk as a policy's ``Content``."""

    fd: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        if start >= self.size:
            return b""
        return os.pread(self.fd, max(0, min(size, self.size - start)), start)


def list_files(folder: Path) -> list[str]:
    """Return the paths of all files below ``folder``, sorted; ``Refused`` where they are many."""
    found: list[str] = []
    for place, _, names in os.walk(folder):
        inside = os.path.relpath(place, folder)
        found += [name if inside == "." else f"{inside}/{name}" for name in names]
        if len(found) > MAX_FILES:
            raise Refused(
                f"A release that is served has at most {MAX_FILES:,} files, this one has more.",
                next="Fetch only the model's own files: allod fetch REF --include '*.gguf'.",
            )
    return sorted(found)


def refuse_dangers(folder: Path, paths: list[str]) -> None:
    """Raise ``Refused`` if any of the files is code, or makes a loader run some."""
    for path in paths:
        if format_of(path) == "code":
            raise Refused(f"{path} is code, and no model that has code is served.", next=_LEAVE_OUT)
        fd = os.open(folder / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            finding = look_into(path, _Content(fd, os.fstat(fd).st_size))
        finally:
            os.close(fd)
        if finding is not None:
            raise Refused(f"{path} is not served: {finding.why}.", next=_LEAVE_OUT)
        if _SETTINGS.fullmatch(path):
            _refuse_imports(path, read_json(folder / path, MAX_DOCUMENT))


def _refuse_imports(path: str, value: Any) -> None:
    for one in _objects(value):
        for key in _IMPORTS:
            if one.get(key):
                raise Refused(f"{path} is not served: its {key} names code to import.")
        for key in _ATTENTION:
            if "/" in str(one.get(key, "")):
                raise Refused(f"{path} is not served: its {key} is code from elsewhere.")
    if path.rpartition("/")[2] == "modules.json":
        for one in _objects(value):
            kind = one.get("type", "sentence_transformers.")
            if not str(kind).startswith("sentence_transformers."):
                raise Refused(f"{path} is not served: its module {kind!s:.80} is code of its own.")


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object in a JSON value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
