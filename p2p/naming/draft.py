"""Writing a publisher's metadata: the next version of each file, and signatures on it.

A file is changed as the JSON that it is, so that fields of later versions stay where they are; a
new version begins without signatures, and each key adds its own.
What is written here is what chain.py accepts: canonical JSON, key ids as TUF computes them,
signatures in the order of those.

Pure: the time and the keys are given.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from p2p import canonical
from p2p.cid import CID
from p2p.errors import NotFound, UsageError
from p2p.keys import PublicKey, SecretKey
from p2p.naming.metadata import MAX_TARGETS, SNAPSHOT_ENTRY, TARGETS_ENTRY, Metadata
from p2p.naming.names import Named, Status, read_entries, write_entry

LIFE: Final[Mapping[str, timedelta]] = {
    "root": timedelta(days=5 * 365),
    "targets": timedelta(days=365),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=7),
}
"""How long each role speaks: the online key's roles are renewed by the publisher's running node,
the others wait until their owner takes the keys out."""

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
SPEC_VERSION: Final = "1.0.31"
"""The TUF specification that the files follow."""


@dataclass(frozen=True, slots=True)
class Role:
    """Who speaks for a role: at least ``threshold`` of these keys."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1

    def replace(self, old: PublicKey, new: PublicKey) -> "Role":
        """Return the role with one key in another's place."""
        return Role(tuple(new if key == old else key for key in self.keys), self.threshold)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who speaks for a publisher; one online key signs both the snapshot and the timestamp."""

    root: Role
    targets: Role
    online: PublicKey


def next_root(roles: Roles, now: datetime, before: bytes | None = None) -> bytes:
    """Write the root that gives the roles to these keys; ``UsageError`` where that can't be."""
    for name, role in (("root", roles.root), ("targets", roles.targets)):
        if len(set(role.keys)) != len(role.keys):
            raise UsageError(f"One key stands in the role {name} twice.")
        if not 1 <= role.threshold <= len(role.keys):
            raise UsageError(
                f"The role {name} has {len(role.keys)} keys, so its threshold is 1 to "
                f"{len(role.keys)}, not {role.threshold}."
            )
    online = Role((roles.online,))
    stated = {"root": roles.root, "targets": roles.targets, "snapshot": online, "timestamp": online}
    keys = {key for role in stated.values() for key in role.keys}
    signed = _next("root", before, now)
    signed["consistent_snapshot"] = True
    signed["keys"] = {key_id(key): _key(key) for key in keys}
    signed["roles"] = {
        name: {"keyids": sorted(key_id(key) for key in role.keys), "threshold": role.threshold}
        for name, role in stated.items()
    }
    return _unsigned(signed)


def next_targets(entries: Iterable[Named], now: datetime, before: bytes | None = None) -> bytes:
    """Write the next list of releases, with these entries added or changed.

    ``UsageError`` where it would be longer than anybody reads.
    """
    signed = _next("targets", before, now)
    targets = signed.setdefault("targets", {})
    for one in entries:
        known = targets.get(one.path, {})
        written = write_entry(one)
        said = known.get("custom", {}).get("allod", {}) | written["custom"]["allod"]
        custom = known.get("custom", {}) | {"allod": said}
        targets[one.path] = known | written | {"custom": custom}
    data = _unsigned(signed)
    if len(data) > MAX_TARGETS:
        raise UsageError(
            f"The list of releases would have {len(data)} bytes, and the limit is {MAX_TARGETS}.",
            next="Make another publisher for what comes now.",
        )
    return data


def next_snapshot(targets: bytes, now: datetime, before: bytes | None = None) -> bytes:
    """Write the snapshot that names these targets."""
    signed = _next("snapshot", before, now)
    signed["meta"] = {TARGETS_ENTRY: _named(targets)}
    return _unsigned(signed)


def next_timestamp(snapshot: bytes, now: datetime, before: bytes | None = None) -> bytes:
    """Write the timestamp that names this snapshot."""
    signed = _next("timestamp", before, now)
    signed["meta"] = {SNAPSHOT_ENTRY: _named(snapshot)}
    return _unsigned(signed)


def sign(file: bytes, *keys: SecretKey) -> bytes:
    """Add the signatures of these keys; those that are there stay."""
    from tuf.api.metadata import Metadata as File

    message = File.from_dict(_read(file)).signed_bytes
    made = {key_id(key.public): key.sign(message).hex() for key in keys}
    value = _read(file)
    stood = {one["keyid"]: one["sig"] for one in value["signatures"]}
    value["signatures"] = [
        {"keyid": keyid, "sig": sig} for keyid, sig in sorted((stood | made).items())
    ]
    return canonical.encode(value)


def found(roles: Roles, keys: Iterable[SecretKey], now: datetime) -> bytes:
    """Write the first root, signed with such of these keys as it is signed with."""
    root = next_root(roles, now)
    return sign(root, *(key for key in keys if key.public in roles.root.keys))


def publish(
    roots: tuple[bytes, ...],
    targets: bytes,
    online: SecretKey,
    now: datetime,
    before: Metadata | None = None,
) -> Metadata:
    """Put signed targets into force: with the snapshot and the timestamp that follow."""
    snapshot = next_snapshot(targets, now, None if before is None else before.snapshot)
    snapshot = sign(snapshot, online)
    timestamp = next_timestamp(snapshot, now, None if before is None else before.timestamp)
    return Metadata(roots, sign(timestamp, online), snapshot, targets)


def missing(file: bytes, role: Role) -> int:
    """Return how many signatures of a role a file still needs; none of them is verified."""
    return max(0, role.threshold - len(signed_by(file) & {key_id(key) for key in role.keys}))


def signed_by(file: bytes) -> frozenset[str]:
    """Return the ids of the keys whose signatures a file has."""
    return frozenset(one["keyid"] for one in _read(file)["signatures"])


def roles_of(root: bytes) -> Roles:
    """Return who speaks for a publisher, of a root that was verified or made here."""
    signed = _read(root)["signed"]

    def role(name: str) -> Role:
        stated = signed["roles"][name]
        keys = (signed["keys"][keyid]["keyval"]["public"] for keyid in stated["keyids"])
        return Role(tuple(PublicKey(bytes.fromhex(key)) for key in keys), stated["threshold"])

    return Roles(role("root"), role("targets"), role("timestamp").keys[0])


def entries_of(targets: bytes) -> tuple[Named, ...]:
    """Return the entries of a list of releases that was verified or made here."""
    return read_entries(_read(targets)["signed"]["targets"])


def with_status(targets: bytes, manifest: CID, status: Status) -> Named:
    """Return the entry of a release as it stands once it is no longer good; ``NotFound``."""
    for one in entries_of(targets):
        if one.manifest == manifest:
            return replace(one, status=status)
    raise NotFound(f"The publisher does not list the release {manifest}.")


def version_of(file: bytes) -> int:
    """Return a file's version."""
    return int(_read(file)["signed"]["version"])


def expires_of(file: bytes) -> datetime:
    """Return when a file expires."""
    return datetime.strptime(_read(file)["signed"]["expires"], _TIME).replace(tzinfo=UTC)


def key_id(key: PublicKey) -> str:
    """Return the id of a key as TUF computes it."""
    return hashlib.sha256(canonical.encode(_key(key))).hexdigest()


def written_at(file: bytes) -> datetime:
    """Return when a file was written, so that it expires when it does."""
    return expires_of(file) - LIFE[_read(file)["signed"]["_type"]]


def unsigned(file: bytes) -> bytes:
    """Return a file as it was before anybody had signed it."""
    return _unsigned(_read(file)["signed"])


def time_text(now: datetime) -> str:
    """Write a UTC time as it stands in metadata."""
    return now.strftime(_TIME)


_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


def _key(key: PublicKey) -> dict[str, Any]:
    return {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": key.raw.hex()}}


def _named(file: bytes) -> dict[str, Any]:
    """Return how a file is named in the one above it."""
    return {
        "version": version_of(file),
        "length": len(file),
        "hashes": {"sha256": hashlib.sha256(file).hexdigest()},
    }


def _next(role: str, before: bytes | None, now: datetime) -> dict[str, Any]:
    """Return what the next version of a file says, before what it is about."""
    signed: dict[str, Any] = {} if before is None else _read(before)["signed"]
    return signed | {
        "_type": role,
        "spec_version": SPEC_VERSION,
        "version": signed.get("version", 0) + 1,
        "expires": time_text(now + LIFE[role]),
    }


def _unsigned(signed: dict[str, Any]) -> bytes:
    return canonical.encode({"signatures": [], "signed": signed})


def _read(file: bytes) -> dict[str, Any]:
    value: dict[str, Any] = canonical.decode(file, limit=MAX_TARGETS, what="metadata")
    return value
