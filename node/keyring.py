"""The keys of this machine: one that the node answers with, and those of each publisher on it.

    node.key            the node's: online, and tied to its addresses
    publishers/NAME/    a publisher: its keys, and what it says (publisher/)

They are different keys, so that who breaks into a node's network side signs nothing.
Copying a publisher's folder away is the backup, copying it back the restore.

All methods block for some disk accesses; there is no cache, so files may come and go.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.keyfiles import SUFFIX, make_folder, read_key, unreadable, write_key
from p2p.errors import NotFound, StoreError, UsageError
from p2p.keys import PublicKey, SecretKey

if TYPE_CHECKING:  # a node that publishes nothing loads none of it
    from node.publisher import Repository, RoleName

NAME: Final = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
"""What a publisher on this machine may be called: a folder's name, and a petname in references."""


class Keyring:
    """The keys in one folder, which is made when the first key is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._publishers = folder / "publishers"

    def node(self) -> SecretKey:
        """Return the node's key, making it on first use; ``StoreError`` if it cannot be trusted."""
        path = self._folder / f"node{SUFFIX}"
        key = read_key(path)
        if key is None:
            make_folder(self._folder)
            write_key(path, SecretKey.generate())  # another process may have been faster
            key = read_key(path)
        if key is None:
            raise StoreError(f"The node's key {path} disappeared while it was made.")
        return key

    def new(
        self, name: str, *, members: Iterable[PublicKey] = (), threshold: int = 1
    ) -> "Repository":
        """Make a publisher; ``UsageError`` where there is one of that name already.

        With ``members`` these keys have the same say as its own; it takes ``threshold`` of all to
        say anything, so above one the publisher is founded once enough have signed.
        """
        from node.publisher import found

        path = self._path(name)
        make_folder(self._folder)
        make_folder(self._publishers)
        repository = found(path, name, members, threshold)
        if repository is None:
            raise UsageError(
                f"There is a publisher {name!r} already.",
                next="Choose another name: keys that have signed releases are not overwritten.",
            )
        return repository

    def repository(self, name: str) -> "Repository":
        """Return a publisher of this machine; ``NotFound`` where there is none of that name."""
        from node.publisher import Repository

        path = self._path(name)
        if not path.is_dir():
            raise NotFound(
                f"There is no publisher {name!r} on this machine.",
                next=f"Make it with `allod key new {name}`; `allod key list` shows all.",
            )
        return Repository(path, name)

    def publisher(self, name: str) -> SecretKey:
        """Return the key that signs a publisher's releases; ``NotFound`` where it is not here."""
        return self.repository(name).signer

    def names(self) -> tuple[str, ...]:
        """Return the names of all publishers of this machine, sorted; some may not be founded."""
        try:
            folders = [path.name for path in self._publishers.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise unreadable(self._publishers, exc) from exc
        return tuple(sorted(name for name in folders if NAME.fullmatch(name)))

    def stamp(self) -> int:
        """Return what changes when a publisher comes or goes: the time of their folder, in ns."""
        try:
            return self._publishers.stat().st_mtime_ns
        except OSError:
            return 0

    def ids(self) -> dict[str, str]:
        """Return the ids of this machine's publishers, by name; those that are founded."""
        found = ((name, self.repository(name)) for name in self.names())
        return {name: repository.id for name, repository in found if repository.founded}

    def find(self, publisher: str) -> "Repository | None":
        """Return this machine's publisher of this id; None where it is somebody else's."""
        for name in self.names():
            repository = self.repository(name)
            if repository.founded and repository.id == publisher:
                return repository
        return None

    def export(self, name: str, role: "RoleName" = "targets") -> str:
        """Return a secret key of a publisher as PEM, for a backup."""
        key = self.repository(name).key(role)
        if key is None:
            raise NotFound(f"The {role} key of {name!r} is not on this machine.")
        return key.pem

    def _path(self, name: str) -> Path:
        """Return where a publisher lies, or would."""
        if NAME.fullmatch(name) is None:
            raise UsageError(
                f"A publisher's name here has letters, digits, '.', '_' and '-', not {name[:80]!r}."
            )
        return self._publishers / name
