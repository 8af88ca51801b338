"""What a release's files say about it: the front matter of its card, and what kind it is.

A card is the README.md of a model or dataset repository, with YAML between two lines of dashes at
its top, as the Hugging Face Hub has it. Of that only the keys below are read, everything as text
(so that the language ``no`` stays Norwegian), with no anchors, tags or deep nesting.
Cards are often strangers' work, so all is bounded; a card that cannot be read is an error and not
silence, because what it says about the licence would be lost.

``statement_parts`` joins what the card says with what the publisher says; the publisher wins.
Specifications: the Hub's "model card metadata" and "dataset card metadata"; SPDX 3.0 licence list.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from node.importers.folder import FoundFile
from node.importers.licenses import on_card, spelled
from node.importers.suffixes import WEIGHTS, media_type, suffix
from node.messages import PublishParams
from p2p.errors import UsageError
from p2p.references import parse_reference

__all__ = [
    "CardFacts",
    "Parts",
    "guess_kind",
    "media_type",
    "parse_card",
    "read_card",
    "statement_parts",
]

CARD: Final = "README.md"
CROISSANT: Final = "croissant.json"

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

_TEXTS: Final = ("license_name", "license_link", "base_model_relation")
_LISTS: Final = ("license", "base_model", "datasets", "tags", "language")
# Only models have the first, only datasets the second, whatever else stands in the card.
_OF_MODELS: Final = ("pipeline_tag", "library_name", "base_model", "model-index", "datasets")
_OF_DATASETS: Final = (
    "annotations_creators",
    "configs",
    "dataset_info",
    "size_categories",
    "task_categories",
    "task_ids",
)
_LOADER: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml's, where it was built in
_FRONT_MATTER: Final = re.compile(rb"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_KEY: Final = re.compile(r"""["']?([A-Za-z0-9_-]+)["']?[ \t]*:(?:\s|$)""")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_LICENSE_FILE: Final = re.compile(r"(?:licen[cs]e|copying)(?:\.(?:txt|md))?", re.IGNORECASE)


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
    tags: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    kind: Literal["model", "dataset", ""] = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a statement that say on what terms a release comes, as they stand in JSON."""

    license: dict[str, Any] = field(default_factory=dict)
    consent: dict[str, Any] = field(default_factory=dict)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    docs: dict[str, Any] = field(default_factory=dict)


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
    licenses = [on_card(one, *names[:1]) for one in _texts(values.get("license"))]
    return CardFacts(
        license=" AND ".join(dict.fromkeys(filter(None, licenses))),
        license_name="".join(names[:1]),
        license_link="".join(_texts(values.get("license_link"))[:1]),
        base_model=_texts(values.get("base_model")),
        base_model_relation="".join(_texts(values.get("base_model_relation"))[:1]),
        datasets=_texts(values.get("datasets")),
        tags=_texts(values.get("tags")),
        language=_texts(values.get("language")),
        kind=_kind(keys),
    )


def guess_kind(paths: Iterable[str], facts: CardFacts) -> Literal["model", "dataset"]:
    """Say what a folder holds: as its card says, else a model if it has weights, else data."""
    if facts.kind:
        return facts.kind
    return "model" if any(suffix(path) in WEIGHTS for path in paths) else "dataset"


def statement_parts(params: PublishParams, facts: CardFacts, paths: Sequence[str]) -> Parts:
    """Join what the publisher says with what the card says, for a release with these paths.

    What the publisher says of a thing replaces all that the card says of it.
    ``UsageError`` for a parent that is named so that nobody could find it again.
    """
    parts = Parts()
    if params.license:
        parts.license["spdx"] = spelled(params.license)
    elif facts.license:
        parts.license["spdx"] = facts.license
        if facts.license_name:
            parts.license["name"] = facts.license_name
    files = [path for path in paths if _LICENSE_FILE.fullmatch(path)]
    if not params.license and facts.license_link:
        if facts.license_link in paths:
            files.insert(0, facts.license_link)
        else:
            parts.license["link"] = facts.license_link
    if files:
        parts.license["file"] = files[0]

    for key, value in {
        "basis": params.consent_basis,
        "personalData": params.personal_data,
        "allowedUses": list(params.allowed_uses),
        "contact": params.contact,
    }.items():
        if value:
            parts.consent[key] = value
    if params.redistribution is not None:
        parts.consent["redistribution"] = params.redistribution

    if params.base:
        parts.lineage.extend(_parent("base_model", text) for text in params.base)
    else:
        for text in facts.base_model:
            parent = _on_the_hub("base_model", "hf://", text)
            if facts.base_model_relation:
                parent["relation"] = facts.base_model_relation
            parts.lineage.append(parent)
    if params.data:
        parts.lineage.extend(_parent("dataset", text) for text in params.data)
    else:
        parts.lineage.extend(
            _on_the_hub("dataset", "hf://datasets/", text) for text in facts.datasets
        )

    for key, path in {"card": CARD, "croissant": CROISSANT}.items():
        if path in paths:
            parts.docs[key] = path
    return parts


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


def _kind(keys: set[str]) -> Literal["model", "dataset", ""]:
    """Say what has such keys in its card."""
    models, datasets = len(keys.intersection(_OF_MODELS)), len(keys.intersection(_OF_DATASETS))
    if models == datasets:
        return ""
    return "model" if models > datasets else "dataset"


def _parent(role: str, text: str) -> dict[str, Any]:
    """Return what a publisher named as a parent: an exact release, or an address elsewhere."""
    if text.startswith("hf:") and not text.startswith("hf://"):
        text = "hf://" + text.removeprefix("hf:")
    if _URI.fullmatch(text) and not text.startswith("allod:"):
        return {"role": role, "uri": text}
    reference = parse_reference(text)
    if reference.manifest is None:
        raise UsageError(
            f"{text!r} may name another release tomorrow, and a lineage names exactly one.",
            next="Give its manifest CID or its share link, or hf://ORG/REPO for one on the Hub.",
        )
    return {"role": role, "manifest": str(reference.manifest)}


def _on_the_hub(role: str, prefix: str, text: str) -> dict[str, Any]:
    """Return what a card named as a parent: a repository, an address, or only a name."""
    if _REPOSITORY.fullmatch(text):
        return {"role": role, "uri": prefix + text}
    return {"role": role, "uri" if _URI.fullmatch(text) else "name": text}
