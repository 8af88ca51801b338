"""The parts of a statement that say on what terms a release comes, and what it was made from.

What the publisher says is joined with what the card says; of one thing the publisher's word
replaces all that the card says of it.

A parent is stated by its manifest where that is known, else by an address (``hf://ORG/REPO``,
``hf://datasets/ORG/REPO``, any URI), else by the name that it was given, which proves nothing but
tells a reader what to look for.

Specification: docs/explanation/formats.md, "Licence, consent and lineage".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from node.importers.card import CARD, CardFacts, guess_kind, read_card
from node.importers.folder import FoundFile
from node.importers.licenses import stated
from node.messages import PublishParams
from p2p.errors import UsageError
from p2p.references import parse_reference
from p2p.terms import expired

CROISSANT: Final = "croissant.json"

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_HUB: Final = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^\s?#]+?)/?")
_LICENSE_FILE: Final = re.compile(r"(?:licen[cs]e|copying)(?:\.(?:txt|md))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a statement that say on what terms a release comes, as they stand in JSON.

    Beside them what was made out about it: its kind, and what its card says.
    """

    kind: str = ""
    facts: CardFacts = field(default_factory=CardFacts)
    license: dict[str, Any] = field(default_factory=dict)
    consent: dict[str, Any] = field(default_factory=dict)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    docs: dict[str, Any] = field(default_factory=dict)


def read_parts(params: PublishParams, files: Sequence[FoundFile]) -> Parts:
    """Read the card among these files, and do ``statement_parts``; blocks for a disk access."""
    return statement_parts(params, read_card(files), [file.path for file in files])


def statement_parts(params: PublishParams, facts: CardFacts, paths: Sequence[str]) -> Parts:
    """Join what the publisher says with what the card says, for a release with these paths.

    What the publisher says of a thing replaces all that the card says of it.
    A parent that is named by no address and no manifest is stated by its name alone.
    ``UsageError`` for a licence that nobody knows, a malformed parent, a consent that has ended.
    """
    parts = Parts(params.kind or guess_kind(paths, facts), facts)
    if params.license:
        parts.license["spdx"] = stated(params.license)
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
        "expires": params.consent_expires,
    }.items():
        if value:
            parts.consent[key] = value
    if params.redistribution is not None:
        parts.consent["redistribution"] = params.redistribution
    if expired(parts.consent, datetime.now(UTC).date()):
        raise UsageError(f"The consent would have ended on {params.consent_expires} already.")

    if params.base:
        parts.lineage.extend(_parent("base_model", text) for text in params.base)
    else:
        for text in facts.base_model:
            parent = _on_the_hub("base_model", "hf://", text)
            if facts.base_model_relation:
                parent["relation"] = facts.base_model_relation
            parts.lineage.append(parent)
    role = "dataset"  # a model was trained on it
    datasets = facts.datasets
    if parts.kind == "dataset":
        role, datasets = "source_dataset", (*facts.source_datasets, *facts.datasets)
    if params.data:
        parts.lineage.extend(_parent(role, text) for text in params.data)
    else:
        parts.lineage.extend(_on_the_hub(role, "hf://datasets/", text) for text in datasets)

    for key, path in {"card": CARD, "croissant": CROISSANT}.items():
        if path in paths:
            parts.docs[key] = path
    return parts


def _parent(role: str, text: str) -> dict[str, Any]:
    """Return what a publisher named as a parent: an exact release, an address, or only a name."""
    if text.startswith("hf:") and not text.startswith("hf://"):
        text = "hf://" + text.removeprefix("hf:")
    if _URI.fullmatch(text) and not text.startswith("allod:"):
        return {"role": role, "uri": _short(text)}
    reference = parse_reference(text)
    if reference.manifest is None:
        return {"role": role, "name": text}
    return {"role": role, "manifest": str(reference.manifest)}


def _on_the_hub(role: str, prefix: str, text: str) -> dict[str, Any]:
    """Return what a card named as a parent: a repository, an address, or only a name."""
    if _REPOSITORY.fullmatch(text):
        return {"role": role, "uri": prefix + text}
    if _URI.fullmatch(text):
        return {"role": role, "uri": _short(text)}
    return {"role": role, "name": text}


def _short(uri: str) -> str:
    """Return an address; that of a page of the Hub in the form in which lineages are compared."""
    match = _HUB.fullmatch(uri)
    if match is None or not _REPOSITORY.fullmatch(match[1].removeprefix("datasets/")):
        return uri
    return "hf://" + match[1]
