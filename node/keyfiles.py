"""Files that only this user may read, and among them secret keys in PEM.

A key file is a PEM (PKCS #8) that openssl reads too. It is made under another name and given its
own only when it is wholly on disk, never over another; its mode is 0600 from the first moment, in
folders of mode 0700.
A key that other users of the machine could have read, or could have put there, is not used.

All functions block for some disk accesses.
"""

import os
import secrets
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.store import durable
from p2p.errors import StoreError, UsageError
from p2p.keys import SecretKey

MAX_KEY_FILE: Final = 4096
"""Bytes of a key file that are read: a key has 119."""
SUFFIX: Final = ".key"

_OTHERS: Final = 0o077  # mode bits of the group and of everyone


def read_secret(path: Path) -> bytes | None:
    """Read a file that nobody else could have read, MAX_KEY_FILE bytes of it; None if not there."""
    try:
        # Not blocking: a pipe put in the file's place must not hold the node up.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"The key {path} is not a file.")
            if status.st_mode & _OTHERS:
                raise StoreError(
                    f"The key {path} has mode {stat.S_IMODE(status.st_mode):04o}: other users may "
                    "read it; 0600 was expected.",
                    next=f"Run: chmod 600 {shlex.quote(str(path))}",
                )
            data = os.read(fd, MAX_KEY_FILE)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise unreadable(path, exc) from exc
    check_folder(path.parent)
    return data


def read_key(path: Path) -> SecretKey | None:
    """Read a key file that nobody else could have read; None where there is none."""
    data = read_secret(path)
    if data is None:
        return None
    try:
        return SecretKey.from_pem(data.decode("ascii"))
    except (UsageError, UnicodeDecodeError):
        # Without the cause: a traceback must not show what may be most of a secret.
        raise StoreError(
            f"The file {path} is not an Ed25519 private key in PEM.",
            next="Put a backup of the key there, or move the file away.",
        ) from None


def check_folder(folder: Path) -> None:
    """Refuse a folder into which other users could have put a key of theirs."""
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreError(
            f"The folder {folder} has mode {stat.S_IMODE(mode):04o}: other users may write into "
            "it; 0700 was expected.",
            next=f"Run: chmod 700 {shlex.quote(str(folder))}",
        )


def make_folder(folder: Path) -> None:
    """Make a folder for this user alone, if it is not there, and wait until its name is on disk."""
    with durable.disk_errors("make the folder of the keys"):
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            durable.sync_folder(folder.parent)
    check_folder(folder)


def write_key(path: Path, key: SecretKey) -> bool:
    """Keep a new key; False, and nothing done, where its name is taken."""
    return write_secret(path, key.pem.encode())


def write_secret(path: Path, data: bytes) -> bool:
    """Keep a new file of this user's alone; False, and nothing done, where its name is taken."""
    temporary = unused(path.parent)
    with durable.disk_errors("keep a new key"):
        try:
            write_new(temporary, data)
            try:
                if not durable.link(temporary, path):  # a file system without hard links
                    if path.exists():
                        return False
                    durable.rename(temporary, path)
            except FileExistsError:
                return False
            durable.sync_folder(path.parent)
        finally:
            with suppress(OSError):
                durable.unlink(temporary)
    return True


def write_new(path: Path, data: bytes) -> None:
    """Write a new file that only this user may read, and wait for its bytes, not for its name."""
    fd = durable.create(path, 0o600)
    try:
        durable.write_at(fd, data, 0)
        durable.sync_file(fd)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes) -> None:
    """Give a file that only this user may read new bytes, wholly or not at all."""
    temporary = unused(path.parent)
    try:
        write_new(temporary, data)
        durable.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            durable.unlink(temporary)
        raise


def unused(folder: Path) -> Path:
    """Return a hidden name in ``folder`` that nothing has yet."""
    return folder / f".{secrets.token_hex(8)}.new"


def unreadable(path: Path, exc: OSError) -> StoreError:
    """Say in our words why a key cannot be read."""
    return StoreError(
        f"The key {path} cannot be read: {exc.strerror or exc}.",
        next="Check the owner and the mode of the file and of the folders above it.",
    )
