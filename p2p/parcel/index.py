"""The index of a parcel: which statements are in it, in which order, and which are missing.

Canonical JSON, so that one list has one CID:

    format      FORMAT
    releases    the release itself, then its ancestors: manifest, signatures, with files or without
    publishers  in the order of their ids: the files of their metadata
    missing     manifests that the lineage names and that are not in here, in order of their texts

Every item comes with its CID and its size: so the reader of a parcel knows of every byte of the
statements what it must be, and of hostile ones how much they would take, before it reads them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from p2p import canonical
from p2p.cid import CID, Codec
from p2p.envelope import MAX_BUNDLE, MAX_BUNDLES
from p2p.errors import UsageError, VerificationFailed
from p2p.fields import Fields
from p2p.manifest import MAX_MANIFEST, PUBLISHER

FORMAT: Final = "urn:allod:bundle:v1"

MAX_INDEX: Final = 16 << 20
"""Bytes of an index: ten thousand releases with a dozen signatures each."""
MAX_RELEASES: Final = 10_000
"""Releases in a parcel: as many as a lineage is followed through."""
MAX_PUBLISHERS: Final = 10_000
"""Publishers in a parcel: one for each release."""
MAX_METADATA: Final = 16 << 20
"""Bytes of one file of a publisher's metadata: the largest list of releases that is read."""
MAX_METADATA_FILES: Final = 1024 + 3
"""Files of one publisher's metadata: every root there may be, and the three others."""
MAX_STATEMENTS: Final = 128 << 20
"""Bytes of all statements of a parcel: they are held in memory until every one is checked."""

_METADATA: Final = re.compile(r"[1-9][0-9]{0,9}\.(?:root|snapshot|targets)\.json|timestamp\.json")


@dataclass(frozen=True, slots=True)
class Item:
    """A statement in a parcel: the CID and the size of its bytes."""

    cid: CID
    size: int

    @classmethod
    def of(cls, data: bytes) -> "Item":
        """Name these bytes; all statements are JSON."""
        return cls(CID.of(data, Codec.JSON), len(data))


@dataclass(frozen=True, slots=True)
class ReleasePart:
    """A release in a parcel: its manifest, the signatures over it, whether its files are there."""

    manifest: Item
    signatures: tuple[Item, ...]
    files: bool


@dataclass(frozen=True, slots=True)
class PublisherPart:
    """A publisher in a parcel: the id, and the files of the metadata by their names."""

    id: str
    metadata: tuple[tuple[str, Item], ...]


@dataclass(frozen=True, slots=True)
class Index:
    """What a parcel holds: the release that it was made for comes first."""

    releases: tuple[ReleasePart, ...]
    publishers: tuple[PublisherPart, ...] = ()
    missing: tuple[CID, ...] = ()


def write_index(index: Index) -> bytes:
    """Write an index; ``UsageError`` if it would pass a limit."""
    value = {
        "format": FORMAT,
        "releases": [
            {
                "manifest": _json(one.manifest),
                "signatures": [_json(item) for item in one.signatures],
                "files": one.files,
            }
            for one in index.releases
        ],
        "publishers": [
            {
                "id": one.id,
                "metadata": [{"name": name} | _json(item) for name, item in one.metadata],
            }
            for one in index.publishers
        ],
        "missing": [str(cid) for cid in index.missing],
    }
    data = canonical.encode(value)
    try:
        read_index(data)
    except VerificationFailed as exc:
        raise UsageError(
            f"This is too much for one bundle: {exc.message}",
            next="Export a release with fewer ancestors.",
        ) from exc
    return data


def read_index(data: bytes) -> Index:
    """Read an index; ``VerificationFailed`` unless it is exactly what ``write_index`` writes."""
    value = canonical.decode(data, limit=MAX_INDEX, what="index")
    fields = Fields.of(value, "index")
    _only(fields, "format", "releases", "publishers", "missing")
    fields.one_of("format", [FORMAT])
    index = Index(
        tuple(_release(one) for one in fields.children("releases", MAX_RELEASES)),
        tuple(_publisher(one) for one in fields.children("publishers", MAX_PUBLISHERS)),
        tuple(_missing(fields)),
    )
    if not index.releases:
        raise VerificationFailed("The index names no release.")
    _once("release", [one.manifest.cid for one in index.releases], ordered=False)
    _once("publisher", [one.id for one in index.publishers])
    _once("missing ancestor", [str(cid) for cid in index.missing])
    total = sum(item.size for item in items(index))
    if total > MAX_STATEMENTS:
        raise VerificationFailed(
            f"The statements of a bundle have at most {MAX_STATEMENTS} bytes, these {total}."
        )
    return index


def items(index: Index) -> Iterable[Item]:
    """Give every statement in the order in which they come."""
    for publisher in index.publishers:
        yield from (item for _, item in publisher.metadata)
    for release in index.releases:
        yield release.manifest
        yield from release.signatures


def _release(fields: Fields) -> ReleasePart:
    _only(fields, "manifest", "signatures", "files")
    manifest = fields.child("manifest")
    _only(manifest, "cid", "size")
    signatures = []
    for one in fields.children("signatures", MAX_BUNDLES):
        _only(one, "cid", "size")
        signatures.append(_item(one, MAX_BUNDLE))
    return ReleasePart(_item(manifest, MAX_MANIFEST), tuple(signatures), fields.get("files", bool))


def _publisher(fields: Fields) -> PublisherPart:
    _only(fields, "id", "metadata")
    metadata = []
    for one in fields.children("metadata", MAX_METADATA_FILES):
        _only(one, "name", "cid", "size")
        metadata.append((one.text("name", _METADATA), _item(one, MAX_METADATA)))
    _once("file of metadata", [name for name, _ in metadata])
    return PublisherPart(fields.text("id", PUBLISHER), tuple(metadata))


def _missing(fields: Fields) -> Iterable[CID]:
    for text in fields.get("missing", list):
        yield Fields({"missing": text}, "index").cid("missing", Codec.JSON)


def _item(fields: Fields, limit: int) -> Item:
    item = Item(fields.cid("cid", Codec.JSON), fields.get("size", int))
    if not 0 < item.size <= limit:
        raise VerificationFailed(
            f"{fields.name} has 1 to {limit} bytes, and the index says {item.size}."
        )
    return item


def _json(item: Item) -> dict[str, Any]:
    return {"cid": str(item.cid), "size": item.size}


def _only(fields: Fields, *keys: str) -> None:
    """Refuse fields that nobody checks: one sequence of bytes for one content."""
    if set(fields.value) != set(keys):
        raise VerificationFailed(
            f"{fields.name} has the fields {', '.join(sorted(fields.value))[:200]}; "
            f"{', '.join(sorted(keys))} were expected."
        )


def _once(what: str, values: Any, *, ordered: bool = True) -> None:
    """Refuse a list that names something twice, or is not in order."""
    if len(set(values)) != len(values) or (ordered and list(values) != sorted(values)):
        raise VerificationFailed(f"The index names a {what} twice, or out of order.")
