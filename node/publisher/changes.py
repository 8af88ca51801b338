"""How a change of a publisher is put into force, or waits for signatures."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from node.publisher.proposal import Proposal, read_proposal, write_proposal
from node.publisher.shelf import NEXT, PROPOSAL, Shelf
from node.store import durable
from p2p.cid import CID, Codec
from p2p.envelope import signers
from p2p.errors import NotFound, UsageError, VerificationFailed
from p2p.keys import PublicKey, SecretKey
from p2p.naming import Metadata, draft, files_of, newer, publisher_of_root, read_names

RENEW: Final[Mapping[str, timedelta]] = {
    "root": timedelta(days=180),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=15),
    "timestamp": timedelta(days=3, hours=12),
}
"""How long before it expires a role is signed anew: half its life where the online key does it, so
that a machine may be off for days; months where somebody may have to fetch a key."""
FIRST: Final = "first-root"
"""What the proposal of a publisher that is not founded yet is called."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A change that waits for signatures: the file that goes round, and how many it needs."""

    path: Path
    missing: int
    asks: tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """A proposal that is in force; ``bundles``: manifests with signatures for them to be kept."""

    metadata: Metadata
    bundles: tuple[tuple[CID, tuple[bytes, ...]], ...]


def settle(
    shelf: Shelf, proposal: Proposal, now: datetime, called: str, *, sign: bool = True
) -> Metadata | Waiting:
    """Sign a change with the keys that are here, and put it into force if that is enough.

    Otherwise it is kept as a proposal, under the name ``called``. The shelf is locked.
    """
    here, known, roles = shelf.keys(), proposal.metadata, proposal.roles
    if sign:
        proposal = proposal.sign(here.values())
    missing = proposal.missing()
    if missing:
        path = shelf.keep_proposal(called, write_proposal(proposal)) if sign else Path()
        return Waiting(path, missing, proposal.waits_for())
    online = next((key for key in here.values() if key.public == roles.online), None)
    if online is None:
        raise NotFound(
            f"The online key of {proposal.name!r} is not on this machine.",
            next="Do it where it is, or put its backup back as online.key.",
        )
    roots = () if known is None else known.roots
    if proposal.root is not None:
        roots = (*roots, proposal.root)
    targets = _targets(proposal, here.values(), now)
    metadata = draft.publish(roots, targets, online, now, known)
    publisher = publisher_of_root(roots[0])
    read_names(publisher, metadata, now=None)
    if newer(publisher, known, metadata, now=None) != metadata:
        raise UsageError("The change is older than what the publisher says already.")
    shelf.commit(metadata, _coming(roles, here))
    return metadata


def founding(
    name: str,
    keys: Mapping[str, SecretKey],
    members: tuple[PublicKey, ...],
    threshold: int,
    now: datetime,
) -> dict[str, bytes]:
    """Return the files with which a publisher begins: its metadata, or the proposal of it."""
    roles = draft.Roles(
        draft.Role((keys["root"].public, *members), threshold),
        draft.Role((keys["targets"].public, *members), threshold),
        keys["online"].public,
    )
    root = draft.sign(draft.next_root(roles, now), keys["root"])
    targets = draft.sign(draft.next_targets([], now), keys["targets"])
    if threshold > 1:
        proposal = Proposal(name, None, root, targets)
        return {f"proposals/{FIRST}{PROPOSAL}": write_proposal(proposal)}
    metadata = draft.publish((root,), targets, keys["online"], now)
    read_names(publisher_of_root(root), metadata, now=now)
    return {f"metadata/{file}": data for file, data in files_of(metadata).items()}


def drop_stale(shelf: Shelf, name: str) -> None:
    """Take away the proposals that can no longer come into force."""
    for path in shelf.waiting():
        with suppress(OSError):
            try:
                check_next(shelf, name, read_proposal(path.read_bytes()))
            except (UsageError, VerificationFailed):
                durable.unlink(path)


def check_next(shelf: Shelf, name: str, proposal: Proposal) -> None:
    """Refuse a proposal that is not what comes next for this publisher; ``UsageError``."""
    known, keys = shelf.metadata(), shelf.keys()
    if proposal.metadata is None:
        mine = keys.get("root")
        if known is not None:
            raise UsageError(f"The publisher {name!r} is founded already.")
        if proposal.root is None or mine is None or not _signed(proposal.root, mine.public):
            raise UsageError(f"The proposal does not found the publisher {name!r} as it was made.")
        return
    if known is None or proposal.publisher != publisher_of_root(known.roots[0]):
        raise UsageError(f"The proposal is not one for the publisher {name!r}.")
    files = [(proposal.root, known.roots[-1]), (proposal.targets, known.targets)]
    for file, before in files:
        if file is not None and draft.version_of(file) != draft.version_of(before) + 1:
            raise UsageError(
                f"The proposal was made before {name!r} last said something.",
                next="Propose the change anew.",
            )


def due_again(shelf: Shelf, proposal: Proposal, now: datetime) -> Proposal | None:
    """Return the renewal of what expires soon, as far as the keys here suffice; None if nothing."""
    known, keys = proposal.metadata, shelf.keys().values()
    assert known is not None
    roles = draft.roles_of(known.roots[-1])
    files = {
        "root": known.roots[-1],
        "targets": known.targets,
        "snapshot": known.snapshot,
        "timestamp": known.timestamp,
    }
    speakers = {"root": roles.root, "targets": roles.targets}
    online = draft.Role((roles.online,))
    due = {
        role
        for role, file in files.items()
        if draft.expires_of(file) - now < RENEW[role] and _enough(speakers.get(role, online), keys)
    }
    if not due or not _enough(online, keys):
        return None
    if "root" in due:
        proposal = replace(proposal, root=draft.next_root(roles, now, known.roots[-1]))
    if "targets" in due:
        proposal = replace(proposal, targets=draft.next_targets([], now, known.targets))
    return proposal


def kept_bundles(proposal: Proposal) -> tuple[tuple[CID, tuple[bytes, ...]], ...]:
    """Return the manifests of a proposal with the signatures on them that are right."""
    return tuple(
        (CID.of(payload, Codec.JSON), tuple(signers(payload, bundles)[0].values()))
        for payload, bundles in proposal.statements
    )


def same_role(one: draft.Role, other: draft.Role) -> bool:
    """Say whether two roles are of the same people."""
    return set(one.keys) == set(other.keys) and one.threshold == other.threshold


def _targets(proposal: Proposal, keys: Iterable[SecretKey], now: datetime) -> bytes:
    """Return the signed list of releases that comes into force."""
    if proposal.targets is not None:
        return proposal.targets
    known, present = proposal.metadata, proposal.present
    assert known is not None
    assert present is not None
    role = proposal.roles.targets
    if same_role(role, present.targets):
        return known.targets
    targets = draft.next_targets([], now, known.targets)
    return draft.sign(targets, *(key for key in keys if key.public in role.keys))


def _coming(roles: draft.Roles, keys: Mapping[str, SecretKey]) -> dict[str, SecretKey | None]:
    """Return the keys whose time comes with these roles, in the place of those before."""
    speakers = {"root": roles.root.keys, "targets": roles.targets.keys, "online": (roles.online,)}
    coming: dict[str, SecretKey | None] = {}
    for role, speaking in speakers.items():
        key = keys.get(role + NEXT)
        if key is not None and key.public in speaking:
            coming |= {role: key, role + NEXT: None}
    return coming


def _enough(role: draft.Role, keys: Iterable[SecretKey]) -> bool:
    return len(set(role.keys) & {key.public for key in keys}) >= role.threshold


def _signed(file: bytes, key: PublicKey) -> bool:
    return draft.key_id(key) in draft.signed_by(file)
