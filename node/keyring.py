"""The keys of this machine: one that the node answers with, and one for each publisher on it.

    node.key               the node's: online, and tied to its addresses
    publishers/NAME.key    a publisher's: what its releases are signed with

They are different keys, so that who breaks into a node's network side signs nothing.
A key file is a PEM (PKCS #8) that openssl reads too; copying it away is the backup, copying it back
the restore. It is made under another name and given its own only when it is wholly on disk, never
over another; its mode is 0600 from the first moment, in folders of mode 0700.
A key that other users of the machine could have read, or could have put there, is not used.

All methods block for some disk accesses; there is no cache, so files may come and go.
"""

import os
import re
import secrets
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.store import durable
from p2p.errors import NotFound, StoreError, UsageError
from p2p.keys import SecretKey

NAME: Final = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
"""What a publisher on this machine may be called: a file's name, and a petname in references."""
MAX_KEY_FILE: Final = 4096
"""Bytes of a key file that are read: a key has 119."""

_OTHERS: Final = 0o077  # mode bits of the group and of everyone
_SUFFIX: Final = ".key"


class Keyring:
    """The keys in one folder, which is made when the first key is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._publishers = folder / "publishers"

    def node(self) -> SecretKey:
        """Return the node's key, making it on first use; ``StoreError`` if it cannot be trusted."""
        path = self._folder / f"node{_SUFFIX}"
        key = _read(path)
        if key is None:
            _make_folder(self._folder)
            _write(path, SecretKey.generate())  # another process may have been faster
            key = _read(path)
        if key is None:
            raise StoreError(f"The node's key {path} disappeared while it was made.")
        return key

    def publisher(self, name: str) -> SecretKey:
        """Return a publisher's key; ``NotFound`` where there is none of that name."""
        key = _read(self._path(name))
        if key is None:
            raise NotFound(
                f"There is no publisher key {name!r} on this machine.",
                next=f"Make it with `allod key new {name}`; `allod key list` shows all.",
            )
        return key

    def new(self, name: str) -> SecretKey:
        """Make a publisher's key; ``UsageError`` where there is one of that name already."""
        path, key = self._path(name), SecretKey.generate()
        _make_folder(self._folder)
        _make_folder(self._publishers)
        if not _write(path, key):
            raise UsageError(
                f"There is a publisher key {name!r} already.",
                next="Choose another name: a key that has signed releases is not overwritten.",
            )
        return key

    def names(self) -> tuple[str, ...]:
        """Return the names of all publishers that have a key here, sorted."""
        try:
            files = [path.name for path in self._publishers.iterdir()]
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise _unreadable(self._publishers, exc) from exc
        names = (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))
        return tuple(sorted(name for name in names if NAME.fullmatch(name)))

    def export(self, name: str) -> str:
        """Return a publisher's secret key as PEM, for a backup."""
        return self.publisher(name).pem

    def _path(self, name: str) -> Path:
        """Return where a publisher's key lies, or would."""
        if NAME.fullmatch(name) is None:
            raise UsageError(
                f"A publisher's name here has letters, digits, '.', '_' and '-', not {name[:80]!r}."
            )
        return self._publishers / f"{name}{_SUFFIX}"


def _read(path: Path) -> SecretKey | None:
    """Read a key file that nobody else could have read; None where there is none."""
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
            text = os.read(fd, MAX_KEY_FILE)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    _check_folder(path.parent)
    try:
        return SecretKey.from_pem(text.decode("ascii"))
    except (UsageError, UnicodeDecodeError):
        # Without the cause: a traceback must not show what may be most of a secret.
        raise StoreError(
            f"The file {path} is not an Ed25519 private key in PEM.",
            next="Put a backup of the key there, or move the file away.",
        ) from None


def _check_folder(folder: Path) -> None:
    """Refuse a folder into which other users could have put a key of theirs."""
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreError(
            f"The folder {folder} has mode {stat.S_IMODE(mode):04o}: other users may write into "
            "it; 0700 was expected.",
            next=f"Run: chmod 700 {shlex.quote(str(folder))}",
        )


def _make_folder(folder: Path) -> None:
    """Make a folder for this user alone, if it is not there, and wait until its name is on disk."""
    with durable.disk_errors("make the folder of the keys"):
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            durable.sync_folder(folder.parent)
    _check_folder(folder)


def _write(path: Path, key: SecretKey) -> bool:
    """Keep a new key; False, and nothing done, where its name is taken."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.new")
    with durable.disk_errors("keep a new key"):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                durable.write_at(fd, key.pem.encode(), 0)
                durable.sync_file(fd)
            finally:
                os.close(fd)
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


def _unreadable(path: Path, exc: OSError) -> StoreError:
    """Say in our words why a key cannot be read."""
    return StoreError(
        f"The key {path} cannot be read: {exc.strerror or exc}.",
        next="Check the owner and the mode of the file and of the folders above it.",
    )
