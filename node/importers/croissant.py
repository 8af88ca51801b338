"""Croissant metadata for a dataset: what its files are, which columns they have, on what terms.

Croissant is schema.org's description of a dataset with the shape of its records added; loaders and
search engines read it. A dataset that is published without a ``croissant.json`` gets one, as a file
of the release, made from its files, its card and what the publisher says.

Files are described as sets (``cr:FileSet``), by the patterns of their paths from the folder on:
single ones (``cr:FileObject``) would need their SHA-256, which costs more than all else that
publishing does, while the manifest beside says, signed, which bytes each file has. A loader that
opens ``croissant.json`` in a fetched folder reads the records out of it.

The same release gives the same bytes. Blocks for a look at some of the files.
Specification: Croissant 1.1.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.importers.card import CARD
from node.importers.columns import Column, read_columns
from node.importers.folder import FoundFile
from node.importers.parts import CROISSANT, Parts
from node.importers.suffixes import DATA_FORMATS, data_format, ending
from p2p.licenses import spdx_id

MAX_SETS: Final = 200
"""Sets of files that are told apart, each with a look at its first file; else one for a format."""
MAX_PATHS: Final = 200
"""Paths that a set names one by one; of more, the pattern that catches them."""
MAX_BYTES: Final = 1 << 20
"""Bytes of the metadata, so that it is one leaf; past them the columns are left out."""

CONFORMS: Final = "http://mlcommons.org/croissant/1.1"

_TABLES: Final = frozenset({"csv", "tsv", "jsonl", "parquet"})
_CONTENT: Final = {"image": "sc:ImageObject", "audio": "sc:AudioObject", "video": "sc:VideoObject"}
_NOT_ALONE: Final = frozenset({"json", "txt", "gz", "zip"})  # a folder of these may be anything
_SHARD: Final = re.compile(r"[-_.]?\d+(?:[-_]of[-_]\d+)?(?:-[0-9a-f]{16})?$")
_NOT_IN_ID: Final = re.compile(r"[^\w./-]+", re.ASCII)
_ABOUT: Final = re.compile(r"(?i)(?:licen[cs]e|copying|readme|notice|citation)[^/]*")

_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
} | {
    word: f"cr:{word}"
    for word in (
        "annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty",
        "excludes", "extract", "field", "fileObject", "fileProperty", "fileSet", "format",
        "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path",
        "readLines", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
        "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value",
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class About:
    """What is said of a release beside its files; ``created`` is a time like 2026-11-22T00:00:00Z.

    ``publisher`` is its id.
    """

    publisher: str
    name: str
    version: str
    created: str
    parts: Parts
    description: str = ""
    web_seeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Set:
    """Files of one format that belong together."""

    name: str
    format: str
    files: tuple[FoundFile, ...]
    includes: tuple[str, ...]


def wants_croissant(files: Iterable[FoundFile], parts: Parts, kind: str) -> bool:
    """Say whether these files get metadata: they have none, and are data.

    ``kind``: what the publisher says that it is. Where neither that nor the card tells, the files
    must look like data: a folder of anything else that holds no weights is none.
    """
    paths = [file.path for file in files]
    if CROISSANT in paths or parts.kind != "dataset":
        return False
    told = "dataset" in (kind, parts.facts.kind)
    return told or any(data_format(path) not in ("", *_NOT_ALONE) for path in paths)


def write_croissant(files: Sequence[FoundFile], about: About) -> bytes:
    """Write the metadata of a dataset with these files."""
    sets = list(_sets(files))
    for looked in (True, False):
        text = json.dumps(_dataset(sets, about, looked), ensure_ascii=False, indent=1)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text.encode() + b"\n"


def _dataset(sets: Sequence[_Set], about: About, looked: bool) -> dict[str, Any]:
    """Return the whole document."""
    parts, facts = about.parts, about.parts.facts
    found: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": facts.pretty_name or about.name,
        "description": about.description or facts.pretty_name or about.name,
        "url": about.web_seeds[0] if about.web_seeds else f"allod:{about.publisher}/{about.name}",
        "version": about.version,
        "datePublished": about.created[:10],
        "creator": {"@type": "sc:Organization", "name": about.publisher},
        "license": _license(parts.license),
        "keywords": list(facts.tags),
        "inLanguage": list(facts.language),
        "usageInfo": _usage(parts.consent),
        "rai:dataUseCases": list(parts.consent.get("allowedUses", ())),
        "rai:personalSensitiveInformation": parts.consent.get("personalData", ""),
        "prov:wasDerivedFrom": [{"@id": one} for one in _parents(parts.lineage)],
        "distribution": [],
        "recordSet": [],
    }
    taken: set[str] = set()
    for one in sets:
        id = _unused(one.name, taken)
        files = _unused(f"{id}-files", taken)
        found["distribution"].append(
            {
                "@type": "cr:FileSet",
                "@id": files,
                "name": files,
                "description": f"{len(one.files)} {one.format or 'other'} files",
                "encodingFormat": list(DATA_FORMATS.get(one.format, ("application/octet-stream",))),
                "includes": list(one.includes),
            }
        )
        records = _records(one, id, files, taken) if looked else None
        if records is not None:
            found["recordSet"].append(records)
    return {key: value for key, value in found.items() if value not in ("", [], {})}


def _records(one: _Set, id: str, files: str, taken: set[str]) -> dict[str, Any] | None:
    """Return the record set of a set of files, where their records can be told."""
    fields = []
    if one.format in _TABLES:
        columns = read_columns(one.files[0].file, one.format)
        fields = [_field(c, id, files, {"column": c.name}, taken) for c in columns]
    elif one.format:
        kind = _CONTENT.get(DATA_FORMATS[one.format][0].partition("/")[0])
        if one.format == "txt":
            kind = "sc:Text"
        if kind is not None:
            path = Column("path", "sc:Text")
            fields = [
                _field(Column("content", kind), id, files, {"fileProperty": "content"}, taken),
                _field(path, id, files, {"fileProperty": "fullpath"}, taken),
            ]
    if not fields:
        return None
    return {"@type": "cr:RecordSet", "@id": id, "name": id, "field": fields}


def _field(
    column: Column, id: str, files: str, extract: dict[str, str], taken: set[str]
) -> dict[str, Any]:
    name = _unused(f"{id}/{column.name}", taken)
    found: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": name,
        "name": column.name,
        "dataType": column.type,
        "source": {"fileSet": {"@id": files}, "extract": extract},
    }
    return found | {"isArray": True, "arrayShape": "-1"} if column.many else found


def _sets(files: Sequence[FoundFile]) -> Iterator[_Set]:
    """Put the files into sets: tables by folder and by name without number, others by format."""
    data = [one for one in files if not _is_about(one.path)] or list(files)
    groups: dict[tuple[str, str], list[FoundFile]] = {}
    for one in data:
        kind, name = data_format(one.path), ""
        if kind in _TABLES:
            folder, slash, last = one.path.rpartition("/")
            stem = last.removesuffix(ending(last))
            name = folder + slash + (_SHARD.sub("", stem) or kind)
        groups.setdefault((kind, name), []).append(one)
    longest = max((len(group) for (_, name), group in groups.items() if name), default=0)
    if len(groups) > MAX_SETS or longest > MAX_PATHS:
        groups = {}
        for one in data:
            groups.setdefault((data_format(one.path), ""), []).append(one)
    everywhere = Counter([_end(one.path) for one in files] + [_end(CROISSANT)])
    for (kind, name), group in sorted(groups.items()):
        paths = {one.path for one in group}
        yield _Set(name or kind or "other", kind, tuple(group), _patterns(paths, everywhere))


def _patterns(paths: set[str], everywhere: Counter[str]) -> tuple[str, ...]:
    """Return patterns that match these paths and, where they are not too many, no others.

    ``everywhere``: how often each suffix occurs among all files of the release.
    """
    here = Counter(_end(path) for path in paths)
    alone = all(end and everywhere[end] == count for end, count in here.items())
    if alone or len(paths) > MAX_PATHS:
        return tuple(f"*{end}" for end in sorted(here))
    return tuple(re.sub(r"[*?[]", r"[\g<0>]", path) for path in sorted(paths))


def _end(path: str) -> str:
    """Return a path's suffix as it is written; nothing of one that a pattern cannot name."""
    end = ending(path)
    return "" if re.search(r"[*?[]", end) else end


def _is_about(path: str) -> bool:
    """Say whether a file describes the dataset, and is no part of the data."""
    return path in (CARD, CROISSANT) or _ABOUT.fullmatch(path) is not None


def _license(license: Mapping[str, Any]) -> str:
    """Return the licence: its address at SPDX where it is one that SPDX lists."""
    text = str(license.get("spdx", ""))
    name = spdx_id(text)
    known = name is not None and not name.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{name}" if known else text or str(license.get("link", ""))


def _usage(consent: Mapping[str, Any]) -> dict[str, str]:
    """Return the consent in words, as schema.org has a place for it."""
    words = []
    if "basis" in consent:
        words.append(f"Basis: {consent['basis']}.")
    if "allowedUses" in consent:
        words.append(f"Allowed uses: {', '.join(consent['allowedUses'])}.")
    if "redistribution" in consent:
        words.append(f"Redistribution is {'' if consent['redistribution'] else 'not '}allowed.")
    if "expires" in consent:
        words.append(f"Until {consent['expires']}.")
    if "contact" in consent:
        words.append(f"Contact: {consent['contact']}.")
    if not words:
        return {}
    return {"@type": "sc:CreativeWork", "name": "Consent", "text": " ".join(words)}


def _parents(lineage: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield addresses of what a dataset was made from."""
    for parent in lineage:
        if "manifest" in parent:
            yield f"ipfs://{parent['manifest']}"
        elif "uri" in parent:
            uri = str(parent["uri"])
            yield re.sub(r"^hf://", "https://huggingface.co/", uri)


def _unused(wanted: str, taken: set[str]) -> str:
    """Return an identifier like this that no other part of the document has."""
    base = _NOT_IN_ID.sub("-", wanted).strip("-") or "x"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(name)
    return name
