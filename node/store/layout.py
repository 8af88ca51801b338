"""Where each thing lies in the store's folder.

    blobs/<2 letters>/<file CID>          whole files, as plain files
    outlines/<2 letters>/<file CID>.car   their Outlines; a file of one leaf needs none
    partial/<file CID>                    files that are being put together, with holes
    manifests/<manifest CID>/             manifest.json, record.json, bundles/<sha256>.json
    publishers/<publisher id>/<number>/   a publisher's metadata, see publishers.py
    view/<manifest CID>/<path>            hard links to blobs: the folder that engines open
    quarantine/                           what turned out damaged
    temp/                                 half-made things; emptied whenever the store opens
    index.sqlite                          a cache of all that
    lock                                  held by the process that has the store open

The two letters are those before the last one of the CID: its first ones are always the same, and
the last one has only eight values.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2p.cid import CID
from p2p.errors import UsageError
from p2p.references import publisher_cid

BLOBS: Final = "blobs"
OUTLINES: Final = "outlines"
OUTLINE_SUFFIX: Final = ".car"
PUBLISHERS: Final = "publishers"


def temporary(folder: Path) -> Path:
    """Return a name in ``folder`` that nothing has yet."""
    return folder / secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below the store's folder ``root``."""

    root: Path

    def folders(self) -> list[Path]:
        """Return every folder that an open store has, parents first."""
        names = (BLOBS, OUTLINES, "partial", "manifests", PUBLISHERS, "view", "quarantine", "temp")
        return [self.root / name for name in names]

    def blob(self, cid: CID) -> Path:
        """Return where the whole file ``cid`` lies."""
        text = str(cid)
        return self.root.joinpath(BLOBS, text[-3:-1], text)

    def outline(self, cid: CID) -> Path:
        """Return where the Outline of the file ``cid`` lies."""
        text = str(cid)
        return self.root.joinpath(OUTLINES, text[-3:-1], text + OUTLINE_SUFFIX)

    def partial(self, cid: CID) -> Path:
        """Return where the file ``cid`` is put together."""
        return self.root / "partial" / str(cid)

    def manifest(self, cid: CID) -> Path:
        """Return the folder of what is known of the release ``cid``."""
        return self.root / "manifests" / str(cid)

    def publisher(self, publisher: str) -> Path:
        """Return the folder of what a publisher says; ``UsageError`` unless it is one's id."""
        return self.root / PUBLISHERS / str(publisher_cid(publisher))

    def view(self, cid: CID) -> Path:
        """Return the folder in which the files of the release ``cid`` have their own names."""
        return self.root / "view" / str(cid)

    @property
    def manifests(self) -> Path:
        """Where the releases are recorded."""
        return self.root / "manifests"

    @property
    def quarantine(self) -> Path:
        """Where damaged bytes go."""
        return self.root / "quarantine"

    @property
    def temp(self) -> Path:
        """Where half-made things are."""
        return self.root / "temp"

    @property
    def index(self) -> Path:
        """The database."""
        return self.root / "index.sqlite"

    @property
    def lock(self) -> Path:
        """The file that an open store holds locked."""
        return self.root / "lock"

    def blobs_there(self) -> Iterator[CID]:
        """List the whole files that lie on disk, without looking into them."""
        return _sharded(self.root / BLOBS, "")

    def outlines_there(self) -> Iterator[CID]:
        """List the Outlines that lie on disk."""
        return _sharded(self.root / OUTLINES, OUTLINE_SUFFIX)

    def partials_there(self) -> Iterator[CID]:
        """List the files that were being put together."""
        return _cids(self.root / "partial", "")

    def publishers(self) -> Iterator[str]:
        """List the publishers of whom something is on disk."""
        return map(str, _cids(self.root / PUBLISHERS, ""))

    def manifests_there(self) -> Iterator[CID]:
        """List the releases that are recorded on disk."""
        return _cids(self.root / "manifests", "")


def _sharded(folder: Path, suffix: str) -> Iterator[CID]:
    for shard in sorted(os.listdir(folder)):
        if (folder / shard).is_dir():
            yield from _cids(folder / shard, suffix)


def _cids(folder: Path, suffix: str) -> Iterator[CID]:
    """Read CIDs from names; a name that is none was not made by the store and is left alone."""
    for name in sorted(os.listdir(folder)):
        if name.endswith(suffix):
            with suppress(UsageError):
                yield CID.parse(name.removesuffix(suffix))
