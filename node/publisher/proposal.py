"""Changes of a publisher that need signatures of keys which lie elsewhere.

A proposal is one file that goes from hand to hand: each signer adds a signature, and the machine
that proposed puts it into force once there are enough. It holds no secret, and nothing in it needs
to be believed: it carries what the publisher says now, which is verified from the publisher's id,
and a signer is shown the difference, which is worked out from the very bytes that are to be signed.
Those must be what is written here to make just that difference, so nothing else rides along.

What is signed: the next root, by enough keys of the present one and of its own; the next list of
releases, by enough keys that may sign it from then on; and manifests, each in a bundle.

Pure but for the format: knows no disk.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from p2p import canonical
from p2p.envelope import MAX_BUNDLES, sign_bundle, signers
from p2p.errors import UsageError, VerificationFailed
from p2p.fields import Fields
from p2p.keys import PublicKey, SecretKey
from p2p.manifest import MAX_MANIFEST, parse_manifest, title_of
from p2p.naming import (
    MAX_ALL_ROOTS,
    MAX_TARGETS,
    Metadata,
    Named,
    draft,
    files_of,
    metadata_of,
    name_release,
    publisher_of_root,
    read_names,
)

TYPE: Final = "urn:allod:proposal:v1"
MAX_PROPOSAL: Final = 2 * (MAX_ALL_ROOTS + 2 * MAX_TARGETS + 4 * MAX_MANIFEST)
"""Bytes of a proposal: what a publisher says now and next, and a few manifests, as text."""
MAX_STATEMENTS: Final = 16
"""Manifests that wait in one proposal: publishing makes one."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that waits for signatures.

    ``metadata``: what the publisher says now, None before it is founded. ``root`` and ``targets``
    come next, where they change. ``statements``: manifests, each with the bundles it has so far.
    """

    name: str
    metadata: Metadata | None
    root: bytes | None
    targets: bytes | None
    statements: tuple[tuple[bytes, tuple[bytes, ...]], ...] = ()

    @property
    def publisher(self) -> str:
        """The publisher's id; empty before it is founded."""
        return "" if self.metadata is None else publisher_of_root(self.metadata.roots[0])

    @property
    def present(self) -> draft.Roles | None:
        """Who speaks for the publisher now."""
        return None if self.metadata is None else draft.roles_of(self.metadata.roots[-1])

    @property
    def roles(self) -> draft.Roles:
        """Who speaks for the publisher once the change is in force."""
        if self.root is not None:
            return draft.roles_of(self.root)
        assert self.metadata is not None  # read_proposal and Repository see to it
        return draft.roles_of(self.metadata.roots[-1])

    def sign(self, keys: Iterable[SecretKey]) -> "Proposal":
        """Add the signatures of such of these keys as have a say."""
        root, targets, statements = self.root, self.targets, self.statements
        for key in keys:
            if root is not None and key.public in self._root_keys():
                root = draft.sign(root, key)
            if key.public not in self.roles.targets.keys:
                continue
            targets = None if targets is None else draft.sign(targets, key)
            statements = tuple(
                (payload, (*bundles, sign_bundle(payload, key)))
                if key.public not in signers(payload, bundles)[0]
                else (payload, bundles)
                for payload, bundles in statements
            )
        return replace(self, root=root, targets=targets, statements=statements)

    def missing(self) -> int:
        """Return how many signatures it still needs, where it needs most; none is verified."""
        counts = [0]
        if self.root is not None:
            counts.append(draft.missing(self.root, self.roles.root))
            if self.present is not None:
                counts.append(draft.missing(self.root, self.present.root))
        if self.targets is not None:
            counts.append(draft.missing(self.targets, self.roles.targets))
        for payload, bundles in self.statements:
            mine = self._signers(payload, bundles)
            counts.append(max(0, self.roles.targets.threshold - len(mine)))
        return max(counts)

    def waits_for(self) -> tuple[PublicKey, ...]:
        """Return the keys that could still sign."""
        done = {
            key
            for key in self._all_keys()
            if all(
                draft.key_id(key) in draft.signed_by(file)
                for file, role in self._files()
                if key in role
            )
        }
        return tuple(sorted(self._all_keys() - done, key=lambda key: key.did))

    def differences(self) -> Iterator[str]:
        """Say what the change does, a line each, from the bytes that are to be signed."""
        before, after = self.present, self.roles
        if self.root is not None:
            yield f"root {draft.version_of(self.root)}, good until {_until(self.root)}"
            for what in ("root", "targets"):
                yield from _role_lines(
                    what, None if before is None else getattr(before, what), getattr(after, what)
                )
            if before is None or before.online != after.online:
                yield f"snapshot and timestamp are signed by {after.online.did}"
        if self.targets is not None:
            version = draft.version_of(self.targets)
            yield f"list of releases, version {version}, good until {_until(self.targets)}"
            yield from self._release_lines(self.targets)
        for payload, _ in self.statements:
            _, name, version_ = title_of(payload)
            yield f"the manifest of {name}@{version_} itself is signed too"

    def check(self) -> None:
        """Refuse files that differ from those now in more than signers are shown.

        New releases are those whose manifests are there, and a release that is no longer good stays
        so. ``VerificationFailed``.
        """
        known = self.metadata
        if self.targets is None and (known is None or self.statements):
            raise VerificationFailed("The proposal has manifests or a first root, and no list.")
        files = []
        if self.root is not None:
            at, before = draft.written_at(self.root), None if known is None else known.roots[-1]
            files.append((self.root, draft.next_root(self.roles, at, before)))
        if self.targets is not None:
            at, before = draft.written_at(self.targets), None if known is None else known.targets
            files.append((self.targets, draft.next_targets(self._entries(), at, before)))
        if any(draft.unsigned(file) != written for file, written in files):
            raise VerificationFailed(
                "The proposal changes more than can be shown to those who sign it.",
                next="Do not sign it; have the change proposed anew.",
            )

    def _entries(self) -> Iterator[Named]:
        """Yield the entries that the next list of releases may add or change."""
        assert self.targets is not None
        known = {}
        if self.metadata is not None:
            known = {one.path: one for one in draft.entries_of(self.metadata.targets)}
        for one in draft.entries_of(self.targets):
            old = known.get(one.path)
            if old is not None and old.status is None and one.status is not None:
                yield replace(old, status=one.status)
        added = draft.time_text(draft.written_at(self.targets))
        first = 1 + max((one.sequence for one in known.values()), default=0)
        for sequence, (payload, _) in enumerate(self.statements, first):
            manifest = parse_manifest(payload)
            entry = name_release(manifest, sequence, added)
            if manifest.publisher != self.publisher or entry.path in known:
                raise VerificationFailed(
                    f"The proposal has a manifest {entry.path} of {manifest.publisher}, which is "
                    "not a new one by its publisher."
                )
            yield entry

    def _release_lines(self, targets: bytes) -> Iterator[str]:
        known = {}
        if self.metadata is not None:
            known = {one.path: one for one in draft.entries_of(self.metadata.targets)}
        now = {one.path: one for one in draft.entries_of(targets)}
        for path, one in now.items():
            old = known.get(path)
            if old is None:
                yield f"+ {path} ({one.manifest})"
            elif old.status is None and one.status is not None:
                yield f"! {path} is {one.status.state}: {one.status.reason}"

    def _signers(self, payload: bytes, bundles: tuple[bytes, ...]) -> set[PublicKey]:
        return set(signers(payload, bundles)[0]) & set(self.roles.targets.keys)

    def _root_keys(self) -> set[PublicKey]:
        before = set() if self.present is None else set(self.present.root.keys)
        return before | set(self.roles.root.keys) if self.root is not None else set()

    def _all_keys(self) -> set[PublicKey]:
        return {key for _, keys in self._files() for key in keys}

    def _files(self) -> Iterator[tuple[bytes, set[PublicKey]]]:
        if self.root is not None:
            yield self.root, self._root_keys()
        if self.targets is not None:
            yield self.targets, set(self.roles.targets.keys)


def write_proposal(proposal: Proposal) -> bytes:
    """Write the file that goes from hand to hand."""
    value: dict[str, Any] = {"type": TYPE, "name": proposal.name}
    if proposal.metadata is not None:
        value["metadata"] = {
            name: data.decode() for name, data in files_of(proposal.metadata).items()
        }
    for role in ("root", "targets"):
        data = getattr(proposal, role)
        if data is not None:
            value[role] = data.decode()
    value["statements"] = [
        {
            "payload": b64encode(payload).decode(),
            "bundles": [b64encode(bundle).decode() for bundle in bundles],
        }
        for payload, bundles in proposal.statements
    ]
    return canonical.encode(value)


def read_proposal(data: bytes) -> Proposal:
    """Read such a file; what the publisher says now is verified, ``VerificationFailed`` if false.

    Signatures on what comes next are counted when it is put into force.
    """
    value = Fields.of(canonical.parse(data, limit=MAX_PROPOSAL, what="proposal"), "proposal")
    value.one_of("type", [TYPE])
    metadata = None
    if "metadata" in value:
        metadata = metadata_of(_texts(value.child("metadata")))
        read_names(publisher_of_root(metadata.roots[0]), metadata, now=None)
    proposal = Proposal(
        name=value.get("name", str),
        metadata=metadata,
        root=value.get("root", str).encode() if "root" in value else None,
        targets=value.get("targets", str).encode() if "targets" in value else None,
        statements=tuple(
            (_base64(one, "payload"), tuple(_bundles(one)))
            for one in value.children("statements", MAX_STATEMENTS)
        ),
    )
    if proposal.root is None and (proposal.metadata is None or proposal.targets is None):
        raise VerificationFailed("The proposal changes nothing, or nobody's metadata.")
    try:
        proposal.check()
        proposal.missing()
        list(proposal.differences())
    except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError, UsageError) as exc:
        raise VerificationFailed(f"The proposal is damaged: {exc!s:.200}") from exc
    return proposal


def _role_lines(what: str, before: draft.Role | None, after: draft.Role) -> Iterator[str]:
    if before is None or before.threshold != after.threshold:
        yield f"{what} takes {after.threshold} of {len(after.keys)} keys"
    known = set() if before is None else set(before.keys)
    for key in sorted(set(after.keys) - known, key=lambda one: one.did):
        yield f"+ {what}: {key.did}"
    for key in sorted(known - set(after.keys), key=lambda one: one.did):
        yield f"- {what}: {key.did}"


def _until(file: bytes) -> str:
    return f"{draft.expires_of(file):%Y-%m-%d}"


def _texts(fields: Fields) -> Mapping[str, bytes]:
    return {name: fields.get(name, str).encode() for name in fields.value}


def _bundles(fields: Fields) -> Iterator[bytes]:
    values = fields.get("bundles", list)
    if len(values) > MAX_BUNDLES:
        raise VerificationFailed(f"A manifest in the proposal has {len(values)} bundles.")
    for value in values:
        yield _base64(Fields({"bundle": value}, fields.name), "bundle")


def _base64(fields: Fields, key: str) -> bytes:
    try:
        return b64decode(fields.get(key, str), validate=True)
    except ValueError as exc:
        raise VerificationFailed(f"{fields.name}.{key} is not base64.") from exc
