"""The files of a publisher's metadata as bytes: what they are called, how large they may be.

Nothing here says whether they are true; that is chain.py's.
With consistent snapshots each file but the timestamp carries its version in its name, so a file
once made never changes, and a reader asks downwards: the timestamp names the snapshot, the
snapshot names the targets, and the roots are counted from one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from p2p import canonical
from p2p.cid import CID, Codec
from p2p.errors import VerificationFailed
from p2p.fields import Fields

MAX_ROOT: Final = 512 << 10
"""Bytes of one root: some hundreds of keys, and what python-tuf's own client takes."""
MAX_ROOTS: Final = 1024
"""Roots of one publisher: one a week for twenty years."""
MAX_ALL_ROOTS: Final = 2 << 20
"""Bytes of all roots of one publisher together: everyone who follows it keeps and checks all, and
with many keys in each that takes five seconds."""
MAX_TIMESTAMP: Final = 16 << 10
"""Bytes of a timestamp, the one file that is asked for again and again: it has some 500."""
MAX_SNAPSHOT: Final = 64 << 10
"""Bytes of a snapshot: one entry, and as many signatures as a role may have."""
MAX_TARGETS: Final = 16 << 20
"""Bytes of the list of releases: some 20,000 of them."""
MAX_VERSION: Final = 2**53 - 1
"""The highest version of a file: what every JSON reader holds exactly."""

TIMESTAMP: Final = "timestamp.json"
SNAPSHOT_ENTRY: Final = "snapshot.json"
TARGETS_ENTRY: Final = "targets.json"

_NUMBERED: Final = re.compile(r"([1-9][0-9]{0,15})\.(root|snapshot|targets)\.json")
_LIMITS: Final = {"root": MAX_ROOT, "snapshot": MAX_SNAPSHOT, "targets": MAX_TARGETS}


@dataclass(frozen=True, slots=True)
class Metadata:
    """All that a publisher says now, and how it came to be who says it; ``roots`` from the first.

    Only a carrier: whoever holds one knows no more than that somebody sent it.
    """

    roots: tuple[bytes, ...]
    timestamp: bytes
    snapshot: bytes
    targets: bytes

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, (*self.roots, self.timestamp, self.snapshot, self.targets)))


def publisher_of_root(first_root: bytes) -> str:
    """Return the id of the publisher that begins with this root: the CID of its very bytes."""
    return str(CID.of(first_root, Codec.JSON))


def root_file(version: int) -> str:
    """Return what the root of this version is called."""
    return f"{version}.root.json"


def snapshot_file(timestamp: bytes) -> str:
    """Return what the snapshot is called that a timestamp names; nothing of it is verified."""
    version = _named_version(timestamp, MAX_TIMESTAMP, "timestamp", SNAPSHOT_ENTRY)
    return f"{version}.snapshot.json"


def targets_file(snapshot: bytes) -> str:
    """Return what the targets are called that a snapshot names; nothing of it is verified."""
    version = _named_version(snapshot, MAX_SNAPSHOT, "snapshot", TARGETS_ENTRY)
    return f"{version}.targets.json"


def file_limit(name: str) -> int | None:
    """Return how many bytes the file of this name may have; None if no file is called so."""
    if name == TIMESTAMP:
        return MAX_TIMESTAMP
    found = _NUMBERED.fullmatch(name)
    if found is None or int(found[1]) > (MAX_ROOTS if found[2] == "root" else MAX_VERSION):
        return None
    return _LIMITS[found[2]]


def files_of(metadata: Metadata) -> dict[str, bytes]:
    """Return the files by their names, in the order in which a reader may show them to others.

    ``VerificationFailed`` where they do not say what they are called.
    """
    files = {root_file(n): data for n, data in enumerate(metadata.roots, 1)}
    files[targets_file(metadata.snapshot)] = metadata.targets
    files[snapshot_file(metadata.timestamp)] = metadata.snapshot
    files[TIMESTAMP] = metadata.timestamp
    return files


def metadata_of(files: Mapping[str, bytes]) -> Metadata:
    """Put the files together again, all roots and what the timestamp leads to; others are left.

    ``VerificationFailed`` where one is missing.
    """
    timestamp = _file(files, TIMESTAMP)
    snapshot = _file(files, snapshot_file(timestamp))
    targets = _file(files, targets_file(snapshot))
    return Metadata(tuple(_roots(files)), timestamp, snapshot, targets)


def _roots(files: Mapping[str, bytes]) -> Iterator[bytes]:
    yield _file(files, root_file(1))
    for version in range(2, MAX_ROOTS + 1):
        if root_file(version) not in files:
            return
        yield files[root_file(version)]


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    data = files.get(name)
    if data is None:
        raise VerificationFailed(f"The publisher's metadata lacks the file {name}.")
    return data


def _named_version(data: bytes, limit: int, what: str, entry: str) -> int:
    """Return the version of the one file that a timestamp or a snapshot names."""
    file = Fields.of(canonical.decode(data, limit=limit, what=what), what)
    version = file.child("signed").child("meta").child(entry).get("version", int)
    if not 0 < version <= MAX_VERSION:
        raise VerificationFailed(f"The {what} names version {version} of {entry}.")
    return version
