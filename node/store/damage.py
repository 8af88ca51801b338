"""What happens to a whole file that turned out damaged.

It stops being held at once, the releases that name it are no longer complete, and their views go.
Its good leaves go back to ``partial/``, so that the next fetch moves only the bad ones; the bad
bytes go to ``quarantine/`` for whoever wants to know what happened.

A file that shares its bytes with a file of the owner is never written to: its good leaves are
copied, as far as quota and disk allow, and the name alone goes to the quarantine.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.store import durable
from node.store.hashing import PIECE, Checked
from node.store.layout import Layout, temporary
from p2p.dag import Outline
from p2p.errors import DiskFull
from p2p.ranges import RangeSet

QUARANTINED_LEAVES: Final = 64
"""Bad leaves of one file whose bytes are kept: evidence, not a backup."""


def set_aside(
    layout: Layout, outline: Outline, checked: Checked, *, shared: bool, may_copy: bool
) -> int:
    """Take a damaged file out of its place; return how many bytes lie in ``partial/`` for it.

    ``shared``: others have the file under a name of their own, so copy and don't move.
    ``may_copy``: the quota has room for that.
    """
    blob = layout.blob(outline.root)
    partial = layout.partial(outline.root)
    durable.unlink(partial)
    try:
        shared = shared or os.stat(blob).st_nlink > 1
    except FileNotFoundError:
        return 0
    if not shared and checked.good:
        _keep_evidence(layout, blob, outline, checked.bad)
        os.chmod(blob, 0o644)
        fd = os.open(blob, os.O_RDWR | os.O_CLOEXEC)
        try:
            durable.truncate(fd, outline.size)
        finally:
            os.close(fd)
        durable.rename(blob, partial)
    else:
        if checked.good and may_copy:
            _copy_good(layout, blob, partial, outline.size, checked.good)
        durable.rename(blob, temporary(layout.quarantine).with_suffix(f".{outline.root}"))
    durable.sync_folder(blob.parent)
    return allocated(partial)


def allocated(path: Path) -> int:
    """Return how much of the disk a file takes, in bytes; 0 if it is not there."""
    with suppress(FileNotFoundError):
        return os.stat(path).st_blocks * 512  # POSIX counts in these whatever the block size is
    return 0


def _keep_evidence(layout: Layout, blob: Path, outline: Outline, bad: list[int]) -> None:
    """Copy the first bad leaves, as far as the disk can read them."""
    fd = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for index in bad[:QUARANTINED_LEAVES]:
            start, stop = outline.span(index, index + 1)
            with suppress(OSError):
                durable.write_file(
                    temporary(layout.quarantine).with_suffix(f".{outline.root}.{start}"),
                    os.pread(fd, stop - start, start),
                )
    finally:
        os.close(fd)


def _copy_good(layout: Layout, blob: Path, partial: Path, size: int, good: RangeSet) -> None:
    """Copy the good leaves into a new partial file; none if there is no room for them."""
    temp = temporary(layout.temp)
    source = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = durable.create(temp)
        try:
            durable.truncate(target, size)
            for start, stop in good:
                for at in range(start, stop, PIECE):
                    durable.write_at(target, os.pread(source, min(PIECE, stop - at), at), at)
        finally:
            os.close(target)
        durable.rename(temp, partial)
    except OSError as exc:
        durable.unlink(temp)
        if not isinstance(durable.store_error(exc, ""), DiskFull):
            raise
    finally:
        os.close(source)
