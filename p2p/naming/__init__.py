"""Names: what a publisher says about its releases, and whether it may be believed.

Each publisher is a repository of The Update Framework (TUF), and its id is the CID of the first
root: whoever has the id can tell the publisher's own keys from anybody else's, and the id outlives
each of the keys. From the first root a chain of signatures leads to the list of releases.

    root       which keys speak for which role, and how many of them it takes; may lie offline
    targets    the list of releases; the same keys sign the releases themselves
    snapshot   which list is the present one
    timestamp  that the snapshot is still the present one; signed anew every few days

It keeps these promises against whoever stands between a publisher and a reader:

- rollback: what a reader has seen, it does not go behind again (``newer``);
- freeze: a reader notices when it is shown nothing new for longer than the publisher promised;
- mix and match: all files are of one state;
- a stolen key that was replaced signs nothing more, although its earlier releases stay good
  (``authenticate``).

Pure: knows no clock, disk or network; every judgement is ``VerificationFailed`` or a value.
Specifications: TUF 1.0.31; docs/explanation/formats.md, "Names".
"""

from p2p.naming.metadata import (
    MAX_ALL_ROOTS,
    MAX_ROOT,
    MAX_ROOTS,
    MAX_SNAPSHOT,
    MAX_TARGETS,
    MAX_TIMESTAMP,
    TIMESTAMP,
    Metadata,
    file_limit,
    files_of,
    metadata_of,
    publisher_of_root,
    root_file,
    snapshot_file,
    targets_file,
)
from p2p.naming.names import MAX_DESCRIPTION, Named, Names, State, Status, name_release
from p2p.naming.verify import authenticate, newer, read_names, signing_keys

__all__ = [
    "MAX_ALL_ROOTS",
    "MAX_DESCRIPTION",
    "MAX_ROOT",
    "MAX_ROOTS",
    "MAX_SNAPSHOT",
    "MAX_TARGETS",
    "MAX_TIMESTAMP",
    "TIMESTAMP",
    "Metadata",
    "Named",
    "Names",
    "State",
    "Status",
    "authenticate",
    "file_limit",
    "files_of",
    "metadata_of",
    "name_release",
    "newer",
    "publisher_of_root",
    "read_names",
    "root_file",
    "signing_keys",
    "snapshot_file",
    "targets_file",
]
