"""A parcel: a release, all that it descends from, and every proof of it, in one file.

It is what ``allod bundle`` writes and reads; in the code "bundle" is a signature's.

A parcel is a CARv1, so that tools which know IPFS can read it, with one root: its *index*.
The index names every statement that the parcel holds, the statements name the files, and the files
their leaves. So each byte of a parcel hangs on the CID in its first forty, and there is exactly one
sequence of blocks for given contents: whoever reads one always knows which block is next.

    index     what is in here: publishers, releases, ancestors that are not
    order     which blocks a release's files bring along, and which came before
    reader    a parcel read block by block, every one checked before it is handed on

Goals: carrying releases where there is no network; refusing a parcel in which one bit is wrong, and
saying which file that was; memory that doesn't grow with the files.
Non-goals: random access, compression (weights don't shrink), parcels of half a file.

Pure: reads through a function that it is given. Knows nothing of stores, policies and clocks, nor
of whether a signature counts: it hands on what was said.
Specification: docs/explanation/formats.md, "The bundle file".
"""

from p2p.parcel.index import (
    FORMAT,
    MAX_INDEX,
    MAX_PUBLISHERS,
    MAX_RELEASES,
    MAX_STATEMENTS,
    Index,
    Item,
    PublisherPart,
    ReleasePart,
    read_index,
    write_index,
)
from p2p.parcel.order import MAX_TOLD, Told, folder_blocks, frame, leaf_frame, opening
from p2p.parcel.reader import (
    File,
    FileEnd,
    Leaves,
    Opened,
    Release,
    Stated,
    Statements,
    parents,
    read_parcel,
)

__all__ = [
    "FORMAT",
    "MAX_INDEX",
    "MAX_PUBLISHERS",
    "MAX_RELEASES",
    "MAX_STATEMENTS",
    "MAX_TOLD",
    "File",
    "FileEnd",
    "Index",
    "Item",
    "Leaves",
    "Opened",
    "PublisherPart",
    "Release",
    "ReleasePart",
    "Stated",
    "Statements",
    "Told",
    "folder_blocks",
    "frame",
    "leaf_frame",
    "opening",
    "parents",
    "read_index",
    "read_parcel",
    "write_index",
]
