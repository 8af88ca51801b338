"""What a release's files say about it: the front matter of its card, and what kind it is.

A card is the README.md of a model or dataset repository, with YAML between two lines of dashes at
its top, as the Hugging Face Hub has it. Of that only the keys below are read, everything as text
(so that the language ``no`` stays Norwegian), with no anchors, tags or deep nesting.
Cards are often strangers' work, so all is bounded; a card that cannot be read is an error and not
silence, because what it says about the licence would be lost.

What becomes of it in a statement is for parts.py to say.
Specifications: the Hub's "model card metadata" and "dataset card metadata"; SPDX 3.0 licence list.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from node.importers.folder import FoundFile
from node.importers.licenses import on_card
from node.importers.suffixes import WEIGHTS, media_type, suffix
from p2p.errors import UsageError

__all__ = [
    "CardFacts",
    "guess_kind",
    "media_type",
    "parse_card",
    "read_card",
]

CARD: Final = "README.md"

MAX_CARD: Final = 8 << 20
"""Bytes of a card in which its front matter must end; some list hundreds of configurations."""
MAX_FRONT_MATTER: Final = 128 << 10
"""Bytes of it that are parsed: the keys below, which are short."""
MAX_YAML_DEPTH: Final = 16
"""Levels of it, so that the parser, which calls itself, stays within its stack."""
MAX_VALUES: Final = 256
"""Values of one key that are kept."""
MAX_VALUE: Final = 512
"""Characters of one value."""

_TEXTS: Final = (
    "license_name",
    "license_link",
    "base_model_relation",
    "pretty_name",
    "pipeline_tag",
    "library_name",
)
_LISTS: Final = (
    "license",
    "licenses",
    "base_model",
    "datasets",
    "source_datasets",
    "tags",
    "language",
)
# Only models have the first, only datasets the second, whatever else stands in the card.
_OF_MODELS: Final = ("pipeline_tag", "library_name", "base_model", "model-index", "datasets")
_OF_DATASETS: Final = (
    "annotations_creators",
    "configs",
    "dataset_info",
    "language_creators",
    "pretty_name",
    "size_categories",
    "source_datasets",
    "task_categories",
    "task_ids",
)
_LOADER: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml's, where it was built in
_FRONT_MATTER: Final = re.compile(rb"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_KEY: Final = re.compile(r"""["']?([A-Za-z0-9_-]+)["']?[ \t]*:(?:\s|$)""")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says; empty where it says nothing.

    ``license`` is an SPDX expression; ``kind`` what the other keys of the card suggest.
    """

    license: str = ""
    license_name: str = ""
    license_link: str = ""
    base_model: tuple[str, ...] = ()
    base_model_relation: str = ""
    datasets: tuple[str, ...] = ()
    source_datasets: tuple[str, ...] = ()
    pretty_name: str = ""
    pipeline_tag: str = ""
    library_name: str = ""
    tags: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    kind: Literal["model", "dataset", ""] = ""


def read_card(files: Iterable[FoundFile]) -> CardFacts:
    """Read the card among these files, if there is one; blocks for a disk access.

    ``UsageError`` for a card whose front matter cannot be read.
    """
    for found in files:
        if found.path == CARD:
            return parse_card(_head(found.file))
    return CardFacts()


def parse_card(data: bytes) -> CardFacts:
    """Read the beginning of a card; ``UsageError`` where its front matter cannot be read."""
    match = _FRONT_MATTER.match(data.removeprefix(b"\xef\xbb\xbf"))
    if match is None:
        return CardFacts()
    try:
        keys, text = _known_keys(match[1].decode())
        values = _load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        reason = " ".join(str(exc).split())
        raise UsageError(
            f"The front matter of {CARD} is not YAML: {reason}.",
            next="Mend what stands between its two lines of dashes.",
        ) from exc
    names = _texts(values.get("license_name"))
    stated = values.get("license", values.get("licenses"))  # as cards had it at first
    licenses = [on_card(one, *names[:1]) for one in _texts(stated)]
    return CardFacts(
        license=_joined(licenses),
        license_name="".join(names[:1]),
        license_link=_text(values.get("license_link")),
        base_model=_texts(values.get("base_model")),
        base_model_relation=_text(values.get("base_model_relation")),
        datasets=_texts(values.get("datasets")),
        source_datasets=_sources(_texts(values.get("source_datasets"))),
        pretty_name=_text(values.get("pretty_name")),
        pipeline_tag=_text(values.get("pipeline_tag")),
        library_name=_text(values.get("library_name")),
        tags=_texts(values.get("tags")),
        language=_texts(values.get("language")),
        kind=_kind(keys),
    )


def guess_kind(paths: Iterable[str], facts: CardFacts) -> Literal["model", "dataset"]:
    """Say what a folder holds: as its card says, else a model if it has weights, else data."""
    if facts.kind:
        return facts.kind
    return "model" if any(suffix(path) in WEIGHTS for path in paths) else "dataset"


def _head(file: Path) -> bytes:
    """Read as much of a card as is looked at."""
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_CARD)
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror or exc}.") from exc


def _known_keys(text: str) -> tuple[set[str], str]:
    """Return all keys of the front matter, and the lines of those that are read.

    Whatever else is in it may be long, or wrong, and does not matter.
    """
    keys: set[str] = set()
    lines: list[str] = []
    wanted = False
    for line in text.splitlines(keepends=True):
        if line[0] not in " \t-#]}\r\n":  # else it goes on with the key above
            match = _KEY.match(line)
            key = match[1] if match else ""
            wanted = key in _TEXTS or key in _LISTS
            if wanted and key in keys:
                raise yaml.YAMLError(f"the key {key} comes twice")
            keys.add(key)
        if wanted:
            lines.append(line)
    if keys == {""}:
        raise yaml.YAMLError("it has no keys")
    return keys, "".join(lines)


def _load(text: str) -> dict[str, Any]:
    """Parse YAML into texts, lists and dicts, after a look that it is harmless."""
    if len(text.encode()) > MAX_FRONT_MATTER:
        raise UsageError(
            f"The front matter of {CARD} has more than {MAX_FRONT_MATTER} bytes under the keys "
            f"{', '.join(_LISTS + _TEXTS)}."
        )
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"it has more than {MAX_YAML_DEPTH} levels")
    values = yaml.load(text, Loader=_LOADER)
    return values if isinstance(values, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    """Return the texts of a key that may have one or a list; what is no short text is left out."""
    values = value if isinstance(value, list) else [value]
    texts = (" ".join(one.split()) for one in values if isinstance(one, str))
    return tuple(text for text in texts if text and len(text) <= MAX_VALUE)[:MAX_VALUES]


def _text(value: object) -> str:
    """Return the first text of a key that has one or a list, or nothing."""
    return next(iter(_texts(value)), "")


def _joined(licenses: list[str]) -> str:
    """Return the expression by which all of these hold."""
    all_of = list(dict.fromkeys(filter(None, licenses)))
    if len(all_of) > 1:
        all_of = [f"({one})" if " OR " in one else one for one in all_of]
    return " AND ".join(all_of)


def _kind(keys: set[str]) -> Literal["model", "dataset", ""]:
    """Say what has such keys in its card."""
    models, datasets = len(keys.intersection(_OF_MODELS)), len(keys.intersection(_OF_DATASETS))
    if models == datasets:
        return ""
    return "model" if models > datasets else "dataset"


def _sources(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the datasets that a dataset was made from, as its card writes them.

    ``original`` says that there is none, ``extended|NAME`` that it adds to one.
    """
    names = (text.rpartition("|")[2].strip() for text in texts)
    return tuple(name for name in names if name not in ("", "original", "extended"))
