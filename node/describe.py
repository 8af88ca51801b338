"""Describe: the Croissant metadata that a dataset gets when it is published without any.

It is a file of the release like any other, and signed with it, but it lies in the store alone: the
publisher's folder stays as it is.
"""

from collections.abc import Sequence
from dataclasses import replace

import trio

from node.importers.croissant import About, write_croissant
from node.importers.folder import FoundFile
from node.importers.parts import CROISSANT
from node.importers.suffixes import media_type
from node.store import Added, Store
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.manifest import FileEntry, Manifest


async def describe(
    found: Sequence[FoundFile],
    about: About,
    earlier: Manifest | None,
    profile: Profile,
    store: Store,
) -> tuple[FileEntry, Added]:
    """Write a dataset's metadata into the store; return its entry, for the manifest.

    The version and the day stand in it. Where nothing else changed since the ``earlier`` release
    they stay those, so that publishing the same again is the same release.
    """
    data = b""
    if earlier is not None:
        same = replace(about, version=earlier.version, created=earlier.created)
        data = await trio.to_thread.run_sync(write_croissant, found, same)
        cid = CID.of(data, Codec.RAW, profile.hash)  # it is one leaf
        if not any(one.path == CROISSANT and one.cid == cid for one in earlier.files):
            data = b""
    data = data or await trio.to_thread.run_sync(write_croissant, found, about)
    added = await store.add_bytes(data, profile)
    outline = added.outline
    entry = FileEntry(
        path=CROISSANT,
        size=added.size,
        cid=outline.root,
        dag_size=outline.dag_size,
        media_type=media_type(CROISSANT),
    )
    return entry, added
