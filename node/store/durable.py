"""The few operations that decide what is left after a power cut, and how the disk says no.

Every byte and every name that the store promises to keep goes through this module, and through
nothing else but SQLite.
What it knows of a file system is the little that POSIX promises and that all of ext4, XFS, btrfs,
ZFS and APFS keep:

- written bytes are on disk only after ``sync_file`` (or ``sync_disk``);
- a name made, moved or taken away is on disk only after ``sync_folder`` of the folder it is in;
- ``rename`` and ``link`` happen wholly or not at all; everything else may be torn.

So a file is kept in this order, and only then spoken of:
write under another name, ``sync_file``, ``rename``, ``sync_folder``, and then the row in the index.

All functions here block: call them in a worker thread, through ``on_disk``, which also turns the
operating system's errors into ours.
Tests replace single functions of this module in a child process in order to cut the power there.
"""

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import trio

from node.store.layout import temporary
from p2p.cid import Buffer
from p2p.errors import AllodError, DiskFull, ReadOnly, StoreError

T = TypeVar("T")

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: RLIMIT_FSIZE, or FAT's 4 GiB
_READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
_FICLONE: Final = 0x40049409  # linux/fs.h
# What FICLONE answers where one file cannot share another's extents: it differs by file system.
_NO_CLONE: Final = {
    errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS,
    errno.ETXTBSY, errno.EISDIR, errno.EBADF,
}  # fmt: skip
# What link() answers where there can be no second name: another disk, a file system without hard
# links, too many names already, or a kernel that guards other users' files.
_NO_LINK: Final = {
    errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EACCES,
}  # fmt: skip


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the operating system's errors into ours; ``what`` ends the sentence "could not ..."."""
    try:
        yield
    except AllodError:
        raise
    except OSError as exc:
        raise store_error(exc, what) from exc


def store_error(exc: OSError, what: str) -> StoreError:
    """Say in our words why ``what`` could not be done."""
    where = f" ({exc.filename})" if exc.filename else ""
    if exc.errno in _FULL:
        return DiskFull(
            f"The disk is full: the store could not {what}{where}.",
            next="Free some room on this disk, or let `allod gc` delete what nobody pinned.",
        )
    if exc.errno in _READ_ONLY:
        return ReadOnly(
            f"The store may not be written: it could not {what}{where}: {exc.strerror}.",
            next="Check the owner and the mount options of the store's folder.",
        )
    return StoreError(f"The store could not {what}{where}: {exc.strerror or exc}.")


async def on_disk(
    what: str, work: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None
) -> T:
    """Run ``work`` in a worker thread and map its errors; a cancel waits for the thread to end."""
    with disk_errors(what):
        return await trio.to_thread.run_sync(work, limiter=limiter)


# --- one system call each ---------------------------------------------------------------------


def create(path: Path, mode: int = 0o644) -> int:
    """Make a new file and return its descriptor, open for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def write_at(fd: int, data: Buffer, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def begin_write_back(fd: int, offset: int, size: int) -> None:
    """Have the disk begin with these bytes, so that a later ``sync_file`` has less to wait for.

    Promises nothing. Linux has sync_file_range(); elsewhere the system begins when it likes.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, 2)  # SYNC_FILE_RANGE_WRITE


def truncate(fd: int, size: int) -> None:
    """Give the file ``size`` bytes; new ones are a hole."""
    os.ftruncate(fd, size)


def seal(path: Path) -> None:
    """Take away the right to write: whole files of the store don't change."""
    os.chmod(path, 0o444)


def sync_file(fd: int) -> None:
    """Return when the file's bytes are on disk."""
    if sys.platform == "darwin":  # there fsync only reaches the drive's cache
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def sync_folder(path: Path) -> None:
    """Return when the names in the folder are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_disk(path: Path) -> bool:
    """Return True when everything written to the file system of ``path`` is on disk.

    False where the system cannot: Linux has syncfs(), which reports write errors since 5.8.
    """
    syncfs = getattr(_libc, "syncfs", None) if sys.platform == "linux" else None
    if syncfs is None:
        return False
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)
    return True


def rename(source: Path, target: Path) -> None:
    """Move a name, replacing ``target``."""
    os.rename(source, target)


def link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where there can be none."""
    try:
        os.link(source, target)
    except OSError as exc:
        if exc.errno in _NO_LINK:
            return False
        raise
    return True


def clone(source: int, target: int) -> bool:
    """Make the file ``target`` share the bytes of ``source`` (a reflink); False where it can't."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as exc:
        if exc.errno in _NO_CLONE:
            return False
        raise
    return True


def unlink(path: Path) -> None:
    """Take a name away, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder, if it is not there; its parent must be there."""
    with suppress(FileExistsError):
        os.mkdir(path, mode)


# --- put together -------------------------------------------------------------------------------


def sync_files(paths: list[Path], disk: Path) -> None:
    """Return when the bytes of all ``paths`` are on disk: one by one, or many with one call.

    ``disk`` is a folder on the file system where they all are.
    """
    if len(paths) >= MANY and sync_disk(disk):
        return
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync_file(fd)
        finally:
            os.close(fd)


def sync_folders(paths: set[Path], disk: Path) -> None:
    """Return when the names in all of ``paths`` are on disk."""
    if len(paths) >= MANY and sync_disk(disk):
        return
    for path in sorted(paths):
        sync_folder(path)


MANY: Final = 32
"""From how many files on syncfs() is better than a fsync each: here 30,000 files a second against
4,600 (and against 10,000 from 16 threads); on a disk that really waits the gap is wider."""


def write_file(path: Path, data: Buffer) -> None:
    """Write a new file and wait for its bytes, not for its name."""
    fd = create(path)
    try:
        write_at(fd, data, 0)
        sync_file(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: Buffer, temp: Path) -> None:
    """Give ``path`` new bytes, wholly or not at all; ``temp`` is a folder on the same disk."""
    new = temporary(temp)
    try:
        write_file(new, data)
        rename(new, path)
    except BaseException:
        with suppress(OSError):
            unlink(new)
        raise
    sync_folder(path.parent)


_libc: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_sync_file_range: Final = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
