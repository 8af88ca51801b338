"""A publisher's folder: keys and metadata that change together, also when the power goes.

    root.key, targets.key, online.key   the secret keys that lie here; the root's need not
    *.next.key                          keys whose time comes once others have signed for them
    metadata/                           the TUF files, as any web server could serve them
    change.json                         a change that was decided, and is perhaps not whole
    proposals/                          changes that wait for signatures

A change is written down as a whole first; it has happened once ``change.json`` has its name. Then
its parts are put where they belong, the timestamp last, and the next reader goes on with that where
it was left. So there is never a root without the list of releases that its keys have signed, nor a
list without its snapshot, and no key is gone before its successor is in force.

Processes take turns by a lock on the folder. All methods block.
"""

import fcntl
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from node.keyfiles import SUFFIX, check_folder, make_folder, read_key, replace, unused, write_new
from node.store import durable
from p2p import canonical
from p2p.errors import StoreError, VerificationFailed
from p2p.keys import SecretKey
from p2p.naming import (
    MAX_ALL_ROOTS,
    MAX_TARGETS,
    TIMESTAMP,
    Metadata,
    file_limit,
    files_of,
    metadata_of,
    root_file,
)

NEXT: Final = ".next"
"""Stands in the name of a key that is not in force yet."""
PROPOSAL: Final = ".proposal.json"

_MAX_CHANGE: Final = 2 * (MAX_ALL_ROOTS + MAX_TARGETS)  # its files in base64, and room to spare
_CHANGE: Final = "change.json"


class Shelf:
    """The folder of one publisher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proposals = folder / "proposals"
        self._metadata = folder / "metadata"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out; what a crash left half done is whole inside. Not to be nested."""
        with durable.disk_errors("open the folder of a publisher"):
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks: then there is no other either
                fcntl.flock(fd, fcntl.LOCK_EX)
            check_folder(self.folder)
            self._finish()
            yield
        finally:
            os.close(fd)

    def metadata(self) -> Metadata | None:
        """Return what the publisher says now, unverified; None before it is founded."""
        with durable.disk_errors("read the metadata of a publisher"):
            if not (self._metadata / TIMESTAMP).exists():
                return None
            names = [one.name for one in self._metadata.iterdir()]
            files = {
                name: (self._metadata / name).read_bytes()
                for name in names
                if file_limit(name) is not None
            }
        try:
            return metadata_of(files)
        except VerificationFailed as exc:
            raise StoreError(
                f"The metadata in {self._metadata} is damaged: {exc.message}",
                next="Put a backup of the folder there.",
            ) from exc

    def first_root(self) -> bytes | None:
        """Return the root whose CID is the publisher's id; None before it is founded."""
        with durable.disk_errors("read the metadata of a publisher"):
            if not (self._metadata / TIMESTAMP).exists():
                return None
            return (self._metadata / root_file(1)).read_bytes()

    def key(self, role: str) -> SecretKey | None:
        """Return the secret key of this role; None where it does not lie here."""
        return read_key(self.folder / f"{role}{SUFFIX}")

    def keys(self) -> dict[str, SecretKey]:
        """Return all secret keys here by their role, those not in force yet too."""
        found = {}
        for role in ("root", "targets", "online"):
            for name in (role, role + NEXT):
                key = self.key(name)
                if key is not None:
                    found[name] = key
        return found

    def keep_key(self, role: str, key: SecretKey) -> None:
        """Keep a key for later."""
        with durable.disk_errors("keep a new key"):
            replace(self.folder / f"{role}{SUFFIX}", key.pem.encode())
            durable.sync_folder(self.folder)

    def commit(self, metadata: Metadata, keys: Mapping[str, SecretKey | None]) -> None:
        """Put metadata and keys into force together; None takes a key away."""
        files = {name: b64encode(data).decode() for name, data in self._fresh(metadata).items()}
        pems = {role: None if key is None else key.pem for role, key in keys.items()}
        change = canonical.encode({"files": files, "keys": pems})
        with durable.disk_errors("write down a change of a publisher"):
            replace(self.folder / _CHANGE, change)
            durable.sync_folder(self.folder)
        self._finish()
        self._clean(metadata)

    def waiting(self) -> Iterator[Path]:
        """Yield the files of all changes that wait here for signatures."""
        with durable.disk_errors("read the proposals"), suppress(FileNotFoundError):
            yield from sorted(self.proposals.glob(f"*{PROPOSAL}"))

    def keep_proposal(self, name: str, data: bytes) -> Path:
        """Keep a change that waits for signatures; return where."""
        make_folder(self.proposals)
        path = self.proposals / f"{name}{PROPOSAL}"
        with durable.disk_errors("write a proposal"):
            replace(path, data)
            durable.sync_folder(self.proposals)
        return path

    def _fresh(self, metadata: Metadata) -> dict[str, bytes]:
        """Return the files that are not on disk yet; the timestamp is always one."""
        return {
            name: data
            for name, data in files_of(metadata).items()
            if name == TIMESTAMP or not _holds(self._metadata / name, data)
        }

    def _finish(self) -> None:
        """Put everything where it belongs that was written down; again, where it was cut short."""
        path = self.folder / _CHANGE
        try:
            written = path.read_bytes()
        except FileNotFoundError:
            return
        change: dict[str, Any] = canonical.decode(written, limit=_MAX_CHANGE, what="change")
        with durable.disk_errors("change a publisher"):
            durable.make_folder(self._metadata, 0o700)
            for name, text in change["files"].items():
                if name != TIMESTAMP:
                    replace(self._metadata / name, b64decode(text))
            durable.sync_folder(self._metadata)
            replace(self._metadata / TIMESTAMP, b64decode(change["files"][TIMESTAMP]))
            durable.sync_folder(self._metadata)
            for role, pem in change["keys"].items():
                key = self.folder / f"{role}{SUFFIX}"
                if pem is None:
                    durable.unlink(key)
                else:
                    replace(key, pem.encode())
            durable.sync_folder(self.folder)
            durable.unlink(path)
            durable.sync_folder(self.folder)

    def _clean(self, metadata: Metadata) -> None:
        """Take away the lists and snapshots that are superseded; nothing is lost if that fails."""
        kept = files_of(metadata).keys()
        with suppress(OSError):
            for one in self._metadata.iterdir():
                if one.name not in kept:
                    durable.unlink(one)


def make_shelf(folder: Path, keys: Mapping[str, SecretKey], files: Mapping[str, bytes]) -> bool:
    """Make a publisher's folder, wholly or not; False where its name is taken.

    ``files`` go by their paths in it, each into one of its folders.
    """
    new = unused(folder.parent)
    with durable.disk_errors("make a publisher"):
        if os.path.lexists(folder):
            return False
        try:
            durable.make_folder(new, 0o700)
            inner = [new / "metadata", new / "proposals"]
            for one in inner:
                durable.make_folder(one, 0o700)
            for role, key in keys.items():
                write_new(new / f"{role}{SUFFIX}", key.pem.encode())
            for path, data in files.items():
                write_new(new / path, data)
            for one in (*inner, new):
                durable.sync_folder(one)
            durable.rename(new, folder)  # fails over a folder that is not empty
        except BaseException:
            with suppress(OSError):
                _remove(new)
            raise
        durable.sync_folder(folder.parent)
    return True


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _remove(folder: Path) -> None:
    """Take away a folder that was not finished."""
    for one in sorted(folder.rglob("*"), reverse=True):
        if one.is_dir():
            one.rmdir()
        else:
            one.unlink()
    folder.rmdir()
