"""The files of a release, as a manifest or its listing names them.

An entry says where a file lies in the release's folder, how long it is, and the CID of its bytes.
Entries come in the order of their paths' code points, so that the same files give the same bytes.

A release of more files than a manifest has room for keeps its entries in a *listing*: the canonical
JSON array of the same entries, itself a file with a CID that is fetched and checked like any other.

Pure. Knows which entries are sound, alone and together; what a release says besides, manifest.py
knows. All errors are ``VerificationFailed``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from p2p import canonical
from p2p.chunking import LEAF_SIZE, Profile
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.errors import UsageError, VerificationFailed
from p2p.paths import check_paths

MAX_FILES: Final = 1_000_000
"""Files in a release: past that, folders are slow on every file system, and shards do better."""
MAX_LISTING: Final = 256 << 20
"""Bytes of a listing: MAX_FILES entries of an ordinary length."""

_SHA256: Final = re.compile("[0-9a-f]{64}")
_MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}"
)  # RFC 6838


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a release.

    ``size``: bytes of the file. ``dag_size``: bytes of its leaves and nodes together, which a
    UnixFS folder writes down and so the release's root binds. ``sha256``: lower-case hex.
    """

    path: str
    size: int
    cid: CID
    dag_size: int
    sha256: str | None = None
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """Where the entries are when a manifest has no room: in ``size`` bytes, for ``files`` files."""

    cid: CID
    size: int
    files: int


def write_entry(entry: FileEntry) -> dict[str, Any]:
    """Return the entry as it stands in JSON."""
    value: dict[str, Any] = {
        "path": entry.path,
        "size": entry.size,
        "cid": str(entry.cid),
        "dagSize": entry.dag_size,
    }
    if entry.sha256 is not None:
        value["sha256"] = entry.sha256
    if entry.media_type is not None:
        value["mediaType"] = entry.media_type
    return value


def read_entry(value: object) -> FileEntry:
    """Read an entry from JSON; fields that nobody knows yet are passed over."""
    if not isinstance(value, Mapping):
        raise VerificationFailed(f"A file's entry is an object, not {str(value)[:60]!r}.")
    path, cid = value.get("path"), value.get("cid")
    if not isinstance(path, str) or not isinstance(cid, str):
        raise VerificationFailed("A file's entry has no path or no cid.")
    try:
        entry = FileEntry(
            path,
            value.get("size"),  # type: ignore[arg-type]  # check_entry looks at the rest
            CID.parse(cid),
            value.get("dagSize"),  # type: ignore[arg-type]
            value.get("sha256"),
            value.get("mediaType"),
        )
    except UsageError as exc:
        raise VerificationFailed(f"The entry of {path[:60]!r} is wrong: {exc}") from exc
    check_entry(entry)
    return entry


def check_entry(entry: FileEntry) -> None:
    """Refuse an entry that cannot be true of any file, whatever its path."""
    size, dag_size, cid = entry.size, entry.dag_size, entry.cid
    if type(size) is not int or type(dag_size) is not int or size < 0:
        raise _wrong(entry, "size and dagSize are whole numbers")
    if cid.codec is Codec.RAW:
        if size > LEAF_SIZE or dag_size != size:
            raise _wrong(entry, f"a raw CID names one leaf of at most {LEAF_SIZE} bytes")
    elif cid.codec is not Codec.DAG_PB or not 0 < size < dag_size:
        raise _wrong(entry, "a file's CID is raw, or dag-pb with a dagSize over its size")
    if entry.sha256 is not None and not _matches(_SHA256, entry.sha256):
        raise _wrong(entry, "sha256 is 64 digits in lower-case hex")
    if entry.media_type is not None and not _matches(_MEDIA_TYPE, entry.media_type):
        raise _wrong(entry, "mediaType is like text/plain")


def check_entries(entries: Sequence[FileEntry], profile: Profile) -> int:
    """Refuse entries that cannot stand together; return the bytes of all files.

    They are in the order of their paths, safe together (paths.py), hashed as ``profile`` says, and
    not more than ``MAX_FILES``.
    """
    if not 0 < len(entries) <= MAX_FILES:
        raise VerificationFailed(f"A release has 1 to {MAX_FILES} files, this one {len(entries)}.")
    check_paths(entry.path for entry in entries)
    total, before = 0, ""
    for entry in entries:
        if entry.path < before:
            raise VerificationFailed(
                f"The entries are not in the order of their paths: {entry.path!r} comes too late."
            )
        if entry.cid.hash is not profile.hash:
            raise _wrong(entry, f"the profile {profile} hashes with {profile.hash.name}")
        total, before = total + entry.size, entry.path
    if total > canonical.MAX_INTEGER:
        raise VerificationFailed(f"The files have {total} bytes together, which JSON cannot hold.")
    return total


def write_listing(entries: Iterable[FileEntry]) -> bytes:
    """Return the bytes of the listing of these entries."""
    return canonical.encode([write_entry(entry) for entry in entries])


def read_listing(data: bytes, listing: Listing) -> list[FileEntry]:
    """Read the bytes that ``listing`` names, checking them against its CID first."""
    if len(data) > MAX_LISTING or len(data) != listing.size:
        raise VerificationFailed(
            f"The listing has {len(data)} bytes, the manifest says {listing.size} and the limit is "
            f"{MAX_LISTING}."
        )
    if name_listing(data, listing.files) != listing:
        raise VerificationFailed(f"The listing's bytes do not match its CID {listing.cid}.")
    entries: list[FileEntry] = []
    for value in canonical.decode_items(data, limit=MAX_LISTING, what="listing"):
        if len(entries) == listing.files:
            break
        entries.append(read_entry(value))
    else:
        if len(entries) == listing.files:
            return entries
    raise VerificationFailed(
        f"The listing does not hold as many entries as the manifest says: {listing.files}."
    )


def name_listing(data: bytes, files: int) -> Listing:
    """Say where to find the listing whose bytes these are: a file cut as ``fixed-1m``."""
    hash = Profile.FIXED_1M.hash
    view = memoryview(data)
    leaves = [view[at : at + LEAF_SIZE] for at in range(0, len(data), LEAF_SIZE)]
    digests = b"".join(hash.digest(leaf) for leaf in leaves)
    return Listing(Outline.build(map(len, leaves), digests, hash).root, len(data), files)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    """Say whether ``value`` is a text of this form."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _wrong(entry: FileEntry, expected: str) -> VerificationFailed:
    """Say which entry is wrong, and how it should be."""
    return VerificationFailed(
        f"The entry of {entry.path[:60]!r} is wrong: {expected}; it has size "
        f"{str(entry.size)[:20]}, dagSize {str(entry.dag_size)[:20]}, {entry.cid}."
    )
