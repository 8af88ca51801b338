"""The disk of the store: room, inodes, the kind of file system, and whether it can share bytes.

All functions block for some disk accesses; the only thing written is a small file in the store's
``temp``, which is deleted again.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from node.config import Config
from node.doctor.finding import Finding, count_text, size_text
from node.store import durable
from node.store.layout import Layout, temporary

FEW_INODES: Final = 20_000
"""Files that can still be made: a dataset has as many, and each has an Outline beside it."""
REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "webdav", "fuse.sshfs", "fuse.rclone", "9p"}
)
"""Their locks, and what they keep when the power goes, are not what SQLite needs."""
FORGETFUL: Final = frozenset({"tmpfs", "ramfs"})


def look_at_disk(config: Config) -> Iterator[Finding]:
    """Look at the file system of the store."""
    folder = config.store.folder
    there = existing(folder)
    facts = os.statvfs(there)
    yield from _room(config, facts)
    if facts.f_files:  # btrfs and others have no number of inodes
        free = facts.f_favail
        text = f"{count_text(free, 'file')} can still be made."
        low = free < FEW_INODES
        fix = "`allod gc`, or move the store to another disk: `allod config set store.folder`."
        yield Finding("disk.inodes", "warning" if low else "ok", text, fix if low else "")
    yield from _kind(there, facts)
    if folder.is_dir():
        yield from _sharing(folder)


def existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that there is."""
    return next(one for one in (path, *path.parents) if one.exists())


def _room(config: Config, facts: os.statvfs_result) -> Iterator[Finding]:
    free, quota, reserve = facts.f_bavail * facts.f_frsize, config.store.quota, config.store.reserve
    size = facts.f_blocks * facts.f_frsize
    text = f"{size_text(free)} of {size_text(size)} are free, {size_text(reserve)} stay so."
    if free <= reserve:
        fix = "`allod gc`, or free some room on this disk."
        yield Finding("disk", "problem", f"{text} Nothing can be fetched.", fix)
    elif quota is not None and quota > size:
        text += f" The quota of {size_text(quota)} is more than the disk has."
        fix = f"allod config set store.quota {max(1, (size - reserve) >> 30)}GiB"
        yield Finding("disk", "note", text, fix)
    else:
        yield Finding("disk", "ok", text)


def _kind(folder: Path, facts: os.statvfs_result) -> Iterator[Finding]:
    kind = file_system(folder)
    fix = "Put the store on a disk of this machine: `allod config set store.folder`."
    if facts.f_flag & os.ST_RDONLY:
        text = f"The file system of {folder} is read-only."
        yield Finding("disk.kind", "problem", text, "Mount it for writing; the kernel's log says"
                      " whether the disk failed.")  # fmt: skip
    elif kind in REMOTE:
        text = f"The store is on {kind}: over a network, locks and a power cut may damage it."
        yield Finding("disk.kind", "warning", text, fix)
    elif kind in FORGETFUL:
        text = f"The store is on {kind}: it is gone when the machine restarts."
        yield Finding("disk.kind", "warning", text, fix)
    else:
        yield Finding("disk.kind", "ok", f"The store is on {kind or 'a file system'}.")


def file_system(folder: Path) -> str:
    """Return what kind of file system a folder is on, such as ext4; empty if that is not known."""
    best, kind = -1, ""
    path = folder.resolve()
    for one in psutil.disk_partitions(all=True):
        mount = Path(one.mountpoint)
        if path.is_relative_to(mount) and len(mount.parts) > best:
            best, kind = len(mount.parts), one.fstype
    return kind


def _sharing(folder: Path) -> Iterator[Finding]:
    """Try to give a small file a second name, and a second file the same bytes."""
    temp = Layout(folder).temp
    if not temp.is_dir():
        return
    first, second = temporary(temp), temporary(temp)
    try:
        durable.write_file(first, b"Does this file system share bytes?")
        linked = durable.link(first, second)
        durable.unlink(second)
        source, target = os.open(first, os.O_RDONLY), durable.create(second)
        try:
            cloned = durable.clone(source, target)
        finally:
            os.close(source)
            os.close(target)
    finally:
        for path in (first, second):
            with suppress(OSError):
                durable.unlink(path)
    can = [name for name, good in (("hard links", linked), ("reflinks", cloned)) if good]
    if can:
        text = f"The file system has {' and '.join(can)}: publishing takes no second copy."
        yield Finding("disk.links", "ok", text)
    else:
        text = "The file system shares no bytes: what is published is kept twice."
        yield Finding("disk.links", "note", text, "ext4, xfs, btrfs and apfs do.")
