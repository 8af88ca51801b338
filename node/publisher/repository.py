"""A publisher of this machine: what it says, and how that changes.

Every change goes the same way: the next root and the next list of releases are written, the keys
that lie here sign them, and if that is enough they are put into force, with a snapshot and a
timestamp by the online key. If it is not, because the root key is kept elsewhere or several people
must sign, the change becomes a proposal. What would be put into force is first verified as any
stranger would verify it, so a mistake here cannot make a publisher that nobody believes.

There is no cache: another process may have changed the folder since. All methods block.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from node.keyfiles import write_key
from node.publisher.changes import (
    Applied,
    Waiting,
    check_next,
    drop_stale,
    due_again,
    founding,
    kept_bundles,
    same_role,
    settle,
)
from node.publisher.proposal import Proposal, read_proposal
from node.publisher.shelf import NEXT, Shelf, make_shelf
from node.store import durable
from p2p.cid import CID
from p2p.errors import NotFound, StoreError, UsageError
from p2p.keys import PublicKey, SecretKey
from p2p.manifest import Manifest, parse_manifest
from p2p.naming import (
    Metadata,
    Names,
    Status,
    draft,
    name_release,
    publisher_of_root,
    read_names,
)

RoleName = Literal["root", "targets", "online"]


def found(
    folder: Path,
    name: str,
    members: Iterable[PublicKey] = (),
    threshold: int = 1,
    *,
    now: datetime | None = None,
) -> "Repository | None":
    """Make a publisher with new keys, all at once; None where the folder is taken.

    Where ``threshold`` is more than one, its first root and its empty list of releases wait for
    the signatures of ``members``; only then does it have an id.
    """
    keys = {role: SecretKey.generate() for role in ("root", "targets", "online")}
    files = founding(name, keys, tuple(members), threshold, _time(now))
    return Repository(folder, name) if make_shelf(folder, keys, files) else None


class Repository:
    """One publisher of this machine; ``name`` is what it is called here."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._shelf = Shelf(folder)

    @property
    def id(self) -> str:
        """The publisher's id; ``NotFound`` before it is founded."""
        with self._shelf.locked():
            root = self._shelf.first_root()
        if root is None:
            raise self._unfounded()
        return publisher_of_root(root)

    @property
    def founded(self) -> bool:
        """Whether enough people have signed the first root."""
        with self._shelf.locked():
            return self._shelf.first_root() is not None

    @property
    def signer(self) -> SecretKey:
        """The key that signs releases; ``NotFound`` where it lies elsewhere."""
        key = self.key("targets")
        if key is None:
            raise NotFound(
                f"The key that signs the releases of {self.name!r} is not on this machine.",
                next="Publish where it is, or put its backup back as targets.key.",
            )
        return key

    def key(self, role: RoleName) -> SecretKey | None:
        """Return the secret key of a role; None where it is not on this machine."""
        with self._shelf.locked():
            return self._shelf.key(role)

    def metadata(self) -> Metadata:
        """Return what the publisher says now; ``NotFound`` before it is founded."""
        with self._shelf.locked():
            return self._known()

    def names(self) -> Names:
        """Return the list of releases, whether or not it has expired."""
        metadata = self.metadata()
        return read_names(publisher_of_root(metadata.roots[0]), metadata, now=None)

    def roles(self) -> draft.Roles:
        """Return who speaks for the publisher."""
        return draft.roles_of(self.metadata().roots[-1])

    # -- releases

    def add(self, payload: bytes, *, now: datetime | None = None) -> Metadata | Waiting:
        """List a release by its manifest; the same again changes nothing.

        ``UsageError`` for another publisher's manifest, or a version that is taken.
        """
        manifest = parse_manifest(payload)
        with self._shelf.locked():
            known = self._known()
            publisher = publisher_of_root(known.roots[0])
            if manifest.publisher != publisher:
                raise UsageError(
                    f"The release states {manifest.publisher} as its publisher, and "
                    f"{self.name!r} is {publisher}."
                )
            entries = draft.entries_of(known.targets)
            if any(one.manifest == manifest.cid for one in entries):
                return known
            _check_free(manifest, [one.path for one in entries])
            sequence = 1 + max((one.sequence for one in entries), default=0)
            now = _time(now)
            entry = name_release(manifest, sequence, draft.time_text(now))
            targets = draft.next_targets([entry], now, known.targets)
            proposal = Proposal(self.name, known, None, targets, ((payload, ()),))
            return settle(self._shelf, proposal, now, entry.path)

    def mark(
        self, manifest: CID, status: Status, *, now: datetime | None = None
    ) -> Metadata | Waiting:
        """Say that a release is no longer good, for ever; ``NotFound`` where it is not listed."""
        with self._shelf.locked():
            known = self._known()
            entry = draft.with_status(known.targets, manifest, status)
            if any(
                one.manifest == manifest and one.status for one in draft.entries_of(known.targets)
            ):
                return known
            now = _time(now)
            targets = draft.next_targets([entry], now, known.targets)
            proposal = Proposal(self.name, known, None, targets)
            return settle(self._shelf, proposal, now, f"{status.state}-{entry.path}")

    # -- time

    def renew(self, now: datetime | None = None) -> Metadata | None:
        """Sign anew what expires soon, as far as the keys here suffice; None if nothing was due."""
        now = _time(now)
        with self._shelf.locked():
            known = self._known()
            proposal = due_again(self._shelf, Proposal(self.name, known, None, None), now)
            if proposal is None:
                return None
            done = settle(self._shelf, proposal, now, "renewal")
            return done if isinstance(done, Metadata) else None

    def extend(self, now: datetime | None = None) -> Metadata | Waiting:
        """Sign everything anew now, whether or not it expires soon."""
        now = _time(now)
        with self._shelf.locked():
            known = self._known()
            root = draft.next_root(draft.roles_of(known.roots[-1]), now, known.roots[-1])
            targets = draft.next_targets([], now, known.targets)
            proposal = Proposal(self.name, known, root, targets)
            return settle(self._shelf, proposal, now, "renewal")

    # -- keys

    def rotate(self, role: RoleName, now: datetime | None = None) -> Metadata | Waiting:
        """Replace the key that this machine has for a role by a new one."""
        now = _time(now)
        with self._shelf.locked():
            known = self._known()
            roles = draft.roles_of(known.roots[-1])
            old = self._own(roles, role)
            new = self._shelf.key(role + NEXT)  # of an attempt that still waits, or was cut short
            if new is None:
                new = SecretKey.generate()
                self._shelf.keep_key(role + NEXT, new)
            if role == "online":
                roles = replace(roles, online=new.public)
            elif role == "root":
                roles = replace(roles, root=roles.root.replace(old, new.public))
            else:
                roles = replace(roles, targets=roles.targets.replace(old, new.public))
            return self._change(known, roles, now, called=f"rotate-{role}")

    def change_members(
        self,
        *,
        add: Iterable[PublicKey] = (),
        remove: Iterable[PublicKey] = (),
        threshold: int | None = None,
        now: datetime | None = None,
    ) -> Metadata | Waiting:
        """Let others sign for the publisher, or no longer, and set how many it takes."""
        with self._shelf.locked():
            known = self._known()
            roles = draft.roles_of(known.roots[-1])
            add, remove = tuple(add), tuple(remove)
            for key in remove:
                if key not in roles.root.keys and key not in roles.targets.keys:
                    raise NotFound(f"{key.did} has no say in {self.name!r}.")

            def changed(role: draft.Role) -> draft.Role:
                keys = [key for key in role.keys if key not in remove]
                keys += [key for key in add if key not in keys]
                return draft.Role(tuple(keys), threshold or min(role.threshold, len(keys)))

            roles = replace(roles, root=changed(roles.root), targets=changed(roles.targets))
            return self._change(known, roles, _time(now), called="members")

    def lock(self, file: Path) -> PublicKey:
        """Move the root key into a file elsewhere, so that nobody who breaks in here has it.

        It is taken away only once the file was written and read again. ``NotFound`` where it is
        not here, ``UsageError`` where the file exists.
        """
        with self._shelf.locked():
            known, key = self._known(), self._shelf.key("root")
            if key is None:
                raise NotFound(f"The root key of {self.name!r} is not on this machine.")
            if not write_key(file, key):
                raise UsageError(
                    f"There is a file {file} already.",
                    next="Name a new one, best on a medium that you take out.",
                )
            with durable.disk_errors("read the root key again"):
                again = file.read_text()
            if again != key.pem:
                raise StoreError(f"What was written to {file} is not what is read from it.")
            self._shelf.commit(known, {"root": None})
            return key.public

    # -- proposals

    def waiting(self) -> tuple[Path, ...]:
        """Return the files of the changes that wait for signatures."""
        with self._shelf.locked():
            return tuple(self._shelf.waiting())

    def apply(self, data: bytes, *, now: datetime | None = None) -> Applied:
        """Put a proposal into force; ``UsageError`` where it is not what comes next here."""
        proposal = read_proposal(data)
        now = _time(now)
        with self._shelf.locked():
            known = self._shelf.metadata()
            check_next(self._shelf, self.name, proposal)
            proposal = replace(proposal, metadata=known)
            # Signed is only what was read and signed elsewhere: nobody looks at a file here.
            done = settle(self._shelf, proposal, now, "rest", sign=False)
            if isinstance(done, Waiting):
                raise UsageError(
                    f"The proposal still needs {done.missing} more "
                    f"signature{'s' if done.missing > 1 else ''}.",
                    next="Have it signed with `allod key sign` by one of: "
                    + ", ".join(key.did for key in done.asks),
                )
            drop_stale(self._shelf, self.name)
            return Applied(done, kept_bundles(proposal))

    # -- what they have in common

    def _known(self) -> Metadata:
        """Return what the publisher says now."""
        known = self._shelf.metadata()
        if known is None:
            raise self._unfounded()
        return known

    def _unfounded(self) -> NotFound:
        return NotFound(
            f"The publisher {self.name!r} is not founded yet: others have to sign its first root.",
            next=f"Collect signatures on the file in {self._shelf.proposals} with `allod key "
            "sign`, then `allod key apply`.",
        )

    def _change(
        self, known: Metadata, roles: draft.Roles, now: datetime, called: str
    ) -> Metadata | Waiting:
        """Give the roles to other keys; what they say is signed again by those it now takes."""
        root, targets = draft.next_root(roles, now, known.roots[-1]), None
        if not same_role(roles.targets, draft.roles_of(known.roots[-1]).targets):
            targets = draft.next_targets([], now, known.targets)
            here = [key for key in self._shelf.keys().values() if key.public in roles.targets.keys]
            if draft.missing(draft.sign(targets, *here), roles.targets) == 0:
                targets = None  # settle() makes it when the root is in force: nobody else is needed
        return settle(self._shelf, Proposal(self.name, known, root, targets), now, called)

    def _own(self, roles: draft.Roles, role: RoleName) -> PublicKey:
        """Return the key of a role that is this machine's, in force and perhaps kept elsewhere."""
        if role == "online":
            return roles.online
        keys = (roles.root if role == "root" else roles.targets).keys
        here = self._shelf.key(role)
        if here is not None and here.public in keys:
            return here.public
        if len(keys) == 1:
            return keys[0]
        raise NotFound(
            f"Which of the {len(keys)} {role} keys of {self.name!r} is this machine's cannot be "
            "said: none of them is here.",
            next="Name them with `allod key members`.",
        )


def _check_free(manifest: Manifest, paths: Iterable[str]) -> None:
    """Refuse a second release under one version."""
    if f"{manifest.name}@{manifest.version}" in paths:
        raise UsageError(
            f"Version {manifest.version} of {manifest.name} is published with other content.",
            next="Publish this content under another version.",
        )


def _time(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else now
