"""Whether a publisher's metadata is true: python-tuf's rules, and three that it leaves open.

The rules of The Update Framework (TUF) are python-tuf's ``TrustedMetadataSet``: a chain of roots
each of which is signed by enough keys of the one before and of its own, then the timestamp, the
snapshot that it names, the targets that this one names.
What is checked here beside them, for every file, before anything in it is used:

- one spelling: the bytes are canonical JSON, hold nothing outside what is signed but signatures,
  and each signature is by a key of the role and right; so nobody can make a second file of one;
- one kind of key: Ed25519, under the id that TUF computes for it, so that one key can't stand in a
  role twice; signatures are counted by the bytes of the keys;
- libsodium's verification, which refuses keys of small order that other libraries let pass.

Each failure is ``VerificationFailed`` and begins with the name of the attack that it would be.

This module and draft.py are the only ones that know python-tuf; it takes a quarter of a second to
load, so they are imported when they are needed.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from tuf.api.exceptions import (
    BadVersionNumberError,
    EqualVersionNumberError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata as File
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from p2p import canonical
from p2p.errors import UsageError, VerificationFailed
from p2p.keys import PublicKey
from p2p.naming.metadata import (
    MAX_ALL_ROOTS,
    MAX_ROOT,
    MAX_ROOTS,
    MAX_SNAPSHOT,
    MAX_TARGETS,
    MAX_TIMESTAMP,
    MAX_VERSION,
    TARGETS_ENTRY,
    Metadata,
    publisher_of_root,
)

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

MAX_KEYS: Final = 64
"""Keys of one root: a large organisation's. Each may cost two checks of a signature."""
MAX_VALUES: Final = 1 << 19
"""Values in one file: python-tuf looks at each several times. A release has some fifteen."""
MAX_SHORT: Final = 32 << 10
"""Bytes of metadata that is remembered as verified: some twenty releases. Read it takes ten times
as much memory. Who publishes asks five times in a row about what was said and what is said now."""
REMEMBERED: Final = 8
"""Of how many that is remembered."""

_ALWAYS: Final = datetime.min.replace(tzinfo=UTC)  # a time at which nothing has expired
_HEX_KEY: Final = re.compile("[0-9a-f]{64}")
_HEX_SIGNATURE: Final = re.compile("[0-9a-f]{128}")
_ASK_ANOTHER: Final = "Ask another source; if all say the same, ask the publisher."


@dataclass(frozen=True)
class Chain:
    """A publisher's metadata that was verified, and what was read from it."""

    metadata: Metadata
    roots: tuple[Root, ...]
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets

    @property
    def expires(self) -> datetime:
        """When the first role that speaks now stops doing so."""
        return min(one.expires for _, one in self.speaking)

    @property
    def speaking(self) -> tuple[tuple[str, Signed], ...]:
        """The roles that speak now; of the roots only the last."""
        return (
            ("root", self.roots[-1]),
            ("timestamp", self.timestamp),
            ("snapshot", self.snapshot),
            ("targets", self.targets),
        )


def verify(publisher: str, metadata: Metadata) -> Chain:
    """Verify all of it, whatever the time is; what is short is remembered for a while."""
    return (_verify_short if metadata.size <= MAX_SHORT else _verify)(publisher, metadata)


def _verify(publisher: str, metadata: Metadata) -> Chain:
    trusted, roots = _trust(publisher, metadata.roots)
    root = roots[-1]
    _, timestamp = _open(Timestamp, metadata.timestamp, MAX_TIMESTAMP, "timestamp", [root])
    _match("timestamp", "snapshot", timestamp.snapshot_meta, metadata.snapshot)
    _, snapshot = _open(Snapshot, metadata.snapshot, MAX_SNAPSHOT, "snapshot", [root])
    if set(snapshot.meta) != {TARGETS_ENTRY}:
        raise VerificationFailed(f"The snapshot names {TARGETS_ENTRY} and no other file here.")
    _match("snapshot", "targets", snapshot.meta[TARGETS_ENTRY], metadata.targets)
    _, targets = _open(Targets, metadata.targets, MAX_TARGETS, "targets", [root])
    if targets.delegations is not None:
        raise VerificationFailed("The targets delegate to others, which a publisher here doesn't.")
    with _tuf_errors():
        trusted.update_timestamp(metadata.timestamp)
        trusted.update_snapshot(metadata.snapshot)
        trusted.update_targets(metadata.targets)
    return Chain(metadata, roots, timestamp, snapshot, targets)


_verify_short = lru_cache(maxsize=REMEMBERED)(_verify)


def verify_roots(publisher: str, roots: tuple[bytes, ...]) -> tuple[Root, ...]:
    """Verify the roots alone."""
    return _trust(publisher, roots)[1]


def advance(publisher: str, known: Chain, came: Chain) -> None:
    """Refuse what may not follow what is known, as TUF's client workflow says.

    What is known is loaded first, so that its versions bind, unless ``came`` has replaced the keys
    that signed them: whoever stole those could have counted as high as he liked.
    """
    trusted, _ = _trust(publisher, came.metadata.roots)
    with _tuf_errors():
        with suppress(RepositoryError):  # signed with keys that were replaced
            trusted.update_timestamp(known.metadata.timestamp)
        with suppress(EqualVersionNumberError):
            trusted.update_timestamp(came.metadata.timestamp)
        with suppress(RepositoryError):
            trusted.update_snapshot(known.metadata.snapshot, trusted=True)
        trusted.update_snapshot(came.metadata.snapshot)
        trusted.update_targets(came.metadata.targets)


def role_keys(root: Root, role: str) -> tuple[frozenset[PublicKey], int]:
    """Return the keys of a role, and how many of them it takes."""
    found = root.roles[role]
    return frozenset(_public(root, keyid) for keyid in found.keyids), found.threshold


def same(one: Signed, other: Signed) -> bool:
    """Say whether two files state the same, whoever signed them."""
    return canonical.encode(one.to_dict()) == canonical.encode(other.to_dict())


def still_signed(root: Root, data: bytes, role: str) -> bool:
    """Say whether enough keys that this root gives a role have signed a file."""
    file = _parse(data, MAX_TARGETS, role)
    keys, threshold = role_keys(root, role)
    try:
        return len(keys & set(_signers(file, [root], role))) >= threshold
    except VerificationFailed:  # one of the signers has no say any more
        return False


def _trust(publisher: str, roots: tuple[bytes, ...]) -> tuple[TrustedMetadataSet, tuple[Root, ...]]:
    """Verify the roots from the first, whose very bytes are the publisher's id."""
    if not roots or len(roots) > MAX_ROOTS or sum(map(len, roots)) > MAX_ALL_ROOTS:
        raise VerificationFailed(
            f"A publisher has 1 to {MAX_ROOTS} roots in at most {MAX_ALL_ROOTS} bytes, here are "
            f"{len(roots)} in {sum(map(len, roots))}."
        )
    if publisher_of_root(roots[0]) != publisher:
        raise VerificationFailed(
            f"Wrong root: the first root makes {publisher_of_root(roots[0])}, "
            f"and not the publisher {publisher}.",
            next=_ASK_ANOTHER,
        )
    read: list[Root] = []
    for number, data in enumerate(roots, 1):
        _, root = _open(Root, data, MAX_ROOT, f"root {number}", read[-1:])
        if root.version != number:
            raise VerificationFailed(
                f"Rollback: root {number} says that it is version {root.version}.",
                next=_ASK_ANOTHER,
            )
        read.append(root)
    with _tuf_errors():
        trusted = TrustedMetadataSet(roots[0], EnvelopeType.METADATA)
        trusted.reference_time = _ALWAYS
        for data in roots[1:]:
            trusted.update_root(data)
    return trusted, tuple(read)


def _open(
    kind: type[S],
    data: bytes,
    limit: int,
    what: str,
    delegators: list[Root],
) -> tuple[File[S], S]:
    """Read a file that has one spelling and enough good signatures of its role."""
    file = _parse(data, limit, what)
    signed = file.signed
    if not isinstance(signed, kind):
        raise VerificationFailed(f"The {what} says that it is {signed.type}.")
    if type(signed.version) is not int or not 0 < signed.version <= MAX_VERSION:
        raise VerificationFailed(f"The {what} has the version {signed.version!r}.")
    if isinstance(signed, Root):
        _check_root(signed)
        delegators = [*delegators, signed]
    signers = _signers(file, delegators, what)
    for delegator in delegators:
        keys, threshold = role_keys(delegator, signed.type)
        count = len(keys & set(signers))
        if count < threshold:
            raise VerificationFailed(
                f"Under threshold: the {what} is signed by {count} of the {threshold} keys that "
                f"version {delegator.version} of the root asks for.",
                next=_ASK_ANOTHER,
            )
    return file, signed


def _parse(data: bytes, limit: int, what: str) -> File[Any]:
    """Read a file in its one spelling."""
    if data.count(b",") > MAX_VALUES:
        raise VerificationFailed(f"The {what} holds more than {MAX_VALUES} values.")
    value = canonical.decode(data, limit=limit, what=what)
    try:
        file: File[Any] = File.from_dict(value)
        again = canonical.encode(file.to_dict())
    except Exception as exc:  # whatever python-tuf meets in fields of a wrong kind
        raise VerificationFailed(f"The {what} is not TUF metadata: {exc!s:.200}") from exc
    if again != data or file.unrecognized_fields:
        raise VerificationFailed(f"The {what} holds more than what is signed, or says it twice.")
    texts: list[Any] = [
        text for one in file.signatures.values() for text in (one.keyid, one.signature)
    ]
    if not all(isinstance(text, str) for text in texts):
        raise VerificationFailed(f"A signature of the {what} is not a keyid and a text.")
    return file


def _check_root(root: Root) -> None:
    """Refuse keys and roles that could be counted in more than one way."""
    if len(root.keys) > MAX_KEYS:
        raise VerificationFailed(f"A root has at most {MAX_KEYS} keys, this one {len(root.keys)}.")
    if root.consistent_snapshot is not True:
        raise VerificationFailed("A publisher's root says consistent_snapshot, this one does not.")
    for keyid, key in root.keys.items():
        stated = key.to_dict()
        text = stated.get("keyval", {}).get("public", "")
        plain = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": text}}
        if stated != plain or _HEX_KEY.fullmatch(text) is None:
            raise VerificationFailed("A key in a root is Ed25519 and nothing else.")
        if keyid != hashlib.sha256(canonical.encode(plain)).hexdigest():
            raise VerificationFailed(
                f"One key under two ids: the key {text} has the id {keyid[:80]}, which is not its."
            )
        _public(root, keyid)
    for name, role in root.roles.items():
        if type(role.keyids) is not list or not set(role.keyids) <= root.keys.keys():
            raise VerificationFailed(f"The role {name} names a key that the root does not hold.")
        if type(role.threshold) is not int or role.threshold > len(role.keyids):
            raise VerificationFailed(f"The role {name} asks for more keys than it has.")


def _public(root: Root, keyid: str) -> PublicKey:
    try:
        return PublicKey(bytes.fromhex(root.keys[keyid].keyval["public"]))
    except UsageError as exc:
        raise VerificationFailed(f"A key in the root is refused: {exc}") from exc


def _signers(file: File[Any], delegators: list[Root], what: str) -> list[PublicKey]:
    """Return whose signatures a file has; all must be by keys of the role, and right."""
    allowed = {
        keyid: _public(root, keyid)
        for root in delegators
        for keyid in root.roles[file.signed.type].keyids
    }
    if list(file.signatures) != sorted(file.signatures):
        raise VerificationFailed(f"The signatures of the {what} are not in the order of their ids.")
    message = file.signed_bytes
    for keyid, signature in file.signatures.items():
        text = signature.signature
        if keyid not in allowed:
            raise VerificationFailed(
                f"Replaced key: the {what} is signed by the key {keyid[:64]}, which its root gives "
                "no say in it.",
                next=_ASK_ANOTHER,
            )
        if signature.unrecognized_fields or _HEX_SIGNATURE.fullmatch(text) is None:
            raise VerificationFailed(f"A signature of the {what} is not 64 bytes in hexadecimal.")
        if not allowed[keyid].verify(message, bytes.fromhex(text)):
            raise VerificationFailed(
                f"The signature of the {what} by the key {keyid} is wrong.", next=_ASK_ANOTHER
            )
    return [allowed[keyid] for keyid in file.signatures]


def _match(above: str, what: str, named: MetaFile, data: bytes) -> None:
    """Refuse a file other than the one that the file above it names."""
    hashes = {"sha256": hashlib.sha256(data).hexdigest()}
    if (
        type(named.version) is not int
        or named.length is None
        or set(named.hashes or ()) != set(hashes)
    ):
        raise VerificationFailed(
            f"The {above} names the {what} by version, length and SHA-256 here, and not as it does."
        )
    if named.length != len(data) or named.hashes != hashes:
        raise VerificationFailed(
            f"Mix and match: the {what} that came is not version {named.version} of it, which the "
            f"{above} names.",
            next=_ASK_ANOTHER,
        )


@contextmanager
def _tuf_errors() -> Iterator[None]:
    """Put python-tuf's refusals into our words."""
    try:
        yield
    except BadVersionNumberError as exc:
        raise VerificationFailed(f"Rollback: {exc}.", next=_ASK_ANOTHER) from exc
    except ExpiredMetadataError as exc:
        raise VerificationFailed(f"Freeze: {exc}.", next=_ASK_ANOTHER) from exc
    except UnsignedMetadataError as exc:
        raise VerificationFailed(f"Under threshold: {exc}.", next=_ASK_ANOTHER) from exc
    except (RepositoryError, DeserializationError) as exc:
        raise VerificationFailed(f"The metadata is refused: {exc}.", next=_ASK_ANOTHER) from exc
