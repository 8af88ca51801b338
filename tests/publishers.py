"""Publishers for tests: the same keys every time, metadata in memory, no disk and no clock."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.keys import SecretKey
from p2p.manifest import FileEntry, Manifest, build_manifest
from p2p.naming import Metadata, Named, Names, Status, draft, name_release, publisher_of_root
from p2p.naming import read_names as read

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DAY = timedelta(days=1)


def key(number: int) -> SecretKey:
    """The key of this number."""
    return SecretKey.from_seed(bytes([number]) * 32)


def named(name: str = "tiny", version: str = "1", *, sequence: int = 1, **fields: object) -> Named:
    """An entry of a release that nobody has seen."""
    entry = Named(
        name=name,
        version=version,
        manifest=CID.of(f"{name}@{version}".encode(), Codec.JSON),
        sequence=sequence,
        kind="model",
        license="Apache-2.0",
        description="",
        parents=(),
        added=draft.time_text(NOW),
        sha256="ab" * 32,
        length=1000,
    )
    return replace(entry, **fields)  # type: ignore[arg-type]  # the caller's to get right


def manifest(publisher: str, version: str = "1", **more: Any) -> Manifest:
    """A manifest of one file."""
    cid = CID.of(version.encode(), Codec.RAW)
    return build_manifest(
        kind="model",
        publisher=publisher,
        name="tiny",
        version=version,
        created="2026-11-22T00:00:00Z",
        files=[FileEntry("model.bin", 1, cid, 1)],
        profile=Profile.FIXED_1M,
        license={"spdx": "MIT"},
        **more,
    ).manifest


class Publisher:
    """A publisher whose keys are all at hand; ``number`` makes it another one.

    ``people`` sign for root and targets, ``threshold`` of them; ``now`` is when it speaks.
    """

    def __init__(self, number: int = 100, *, people: int = 1, threshold: int = 1) -> None:
        self.now = NOW
        self.root_keys = [key(number + 3 * n) for n in range(people)]
        self.targets_keys = [key(number + 3 * n + 1) for n in range(people)]
        self.online = key(number + 2)
        self.threshold = threshold
        root = draft.found(self.roles(), self.root_keys, self.now)
        self.id = publisher_of_root(root)
        targets = draft.sign(draft.next_targets([], self.now), *self.targets_keys)
        self.metadata = draft.publish((root,), targets, self.online, self.now)

    @property
    def signer(self) -> SecretKey:
        """The first of the keys that sign releases."""
        return self.targets_keys[0]

    def roles(self) -> draft.Roles:
        """Who speaks for it now."""
        return draft.Roles(
            draft.Role(tuple(one.public for one in self.root_keys), self.threshold),
            draft.Role(tuple(one.public for one in self.targets_keys), self.threshold),
            self.online.public,
        )

    def names(self) -> Names:
        """What it says now."""
        return read(self.id, self.metadata, now=self.now)

    def list(self, *entries: Named) -> Metadata:
        """List these entries."""
        targets = draft.next_targets(entries, self.now, self.metadata.targets)
        return self._speak(draft.sign(targets, *self.targets_keys))

    def add(self, *manifests: Manifest) -> Metadata:
        """List these manifests."""
        first = 1 + max((one.sequence for one in self.names().entries), default=0)
        added = draft.time_text(self.now)
        return self.list(
            *(name_release(one, number, added) for number, one in enumerate(manifests, first))
        )

    def mark(self, manifest: CID, status: Status) -> Metadata:
        """Take a release back."""
        return self.list(draft.with_status(self.metadata.targets, manifest, status))

    def renew(self) -> Metadata:
        """Say again what is said."""
        return self._speak(self.metadata.targets)

    def rotate(
        self,
        *,
        root: Iterable[SecretKey] | None = None,
        targets: Iterable[SecretKey] | None = None,
        online: SecretKey | None = None,
    ) -> Metadata:
        """Give roles to other keys."""
        signers = [*self.root_keys]
        self.root_keys = [*(root or self.root_keys)]
        self.targets_keys = [*(targets or self.targets_keys)]
        self.online = online or self.online
        data = draft.next_root(self.roles(), self.now, self.metadata.roots[-1])
        data = draft.sign(data, *signers, *self.root_keys)
        self.metadata = replace(self.metadata, roots=(*self.metadata.roots, data))
        return self.list()

    def _speak(self, targets: bytes) -> Metadata:
        known = self.metadata
        self.metadata = draft.publish(known.roots, targets, self.online, self.now, known)
        return self.metadata
