"""What a publisher's targets say about its releases: one entry a release, named NAME@VERSION.

An entry is an ordinary TUF target whose content is the manifest: its length and its SHA-256 are
those of the payload. What TUF has no word for stands in ``custom.allod``: the manifest's CID, the
order of publication, what people search for, and the status of a release that is no longer good.

Entries without ``custom.allod`` are somebody else's and are passed over; one that has it and is
wrong in any field spoils the whole, since its publisher signed it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast, get_args

from p2p.cid import CID, Codec
from p2p.errors import VerificationFailed
from p2p.fields import Fields
from p2p.manifest import MAX_MANIFEST, NAME, VERSION, Manifest
from p2p.terms import MAX_LINEAGE

State = Literal["revoked", "withdrawn"]

MAX_DESCRIPTION: Final = 1000
"""Characters of a description in the list of releases: everyone who follows holds all of them."""
TIME: Final = re.compile("[0-9]{4}(?:-[0-9]{2}){2}T[0-9]{2}(?::[0-9]{2}){2}Z")
REASON: Final = re.compile(r"[^\x00-\x1f\x7f]{1,1000}")
"""Why a release is no longer good: one line."""

_KIND: Final = re.compile("[a-z][a-z0-9_-]{0,31}")
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{0,1000}")
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Status:
    """Why a release is no longer good; ``at`` is a UTC time like 2026-11-22T00:00:00Z."""

    state: State
    reason: str
    at: str


@dataclass(frozen=True, slots=True)
class Named:
    """One release as its publisher lists it.

    ``sequence`` grows with each publication; ``sha256`` and ``length`` are the manifest payload's;
    ``license`` is an SPDX expression or empty; ``parents`` are manifests; ``added`` is a UTC time.
    """

    name: str
    version: str
    manifest: CID
    sequence: int
    kind: str
    license: str
    description: str
    parents: tuple[CID, ...]
    added: str
    sha256: str
    length: int
    status: Status | None = None

    @property
    def path(self) -> str:
        """What the target is called: NAME@VERSION."""
        return f"{self.name}@{self.version}"

    def check(self, payload: bytes, name: str, version: str) -> None:
        """Refuse a manifest other than the one that was listed; ``VerificationFailed``."""
        same = len(payload) == self.length and hashlib.sha256(payload).hexdigest() == self.sha256
        if not same or not self.manifest.matches(payload) or (name, version) != self._called:
            raise VerificationFailed(
                f"Swapped target: the manifest that came is {name}@{version} in {len(payload)} "
                f"bytes, not the {self.path} of {self.length} bytes that its publisher listed.",
                next="Ask another source.",
            )

    @property
    def _called(self) -> tuple[str, str]:
        return self.name, self.version


@dataclass(frozen=True)
class Names:
    """What a publisher says now, verified; ``expires`` is when the first of its roles does."""

    publisher: str
    version: int
    expires: datetime
    entries: tuple[Named, ...]

    def find(self, name: str, version: str | None = None) -> Named | None:
        """Return the newest release of this name that is still good, or exactly this version."""
        found = [one for one in self.entries if one.name == name]
        if version is not None:
            return next((one for one in found if one.version == version), None)
        good = [one for one in found if one.status is None]
        return max(good, key=lambda one: one.sequence, default=None)

    def of(self, manifest: CID) -> Named | None:
        """Return the entry of a manifest."""
        return next((one for one in self.entries if one.manifest == manifest), None)

    def stale(self, now: datetime) -> bool:
        """Say whether the publisher has been silent for longer than it promised."""
        return now >= self.expires


def name_release(manifest: Manifest, sequence: int, added: str) -> Named:
    """Return the entry with which a publisher lists a manifest of its own."""
    said = manifest.statement["predicate"].get("description", "")
    line = " ".join(said.split()) if isinstance(said, str) else ""
    description = "".join(one for one in line if one.isprintable())[:MAX_DESCRIPTION]
    parents = (parent["manifest"] for parent in manifest.lineage if "manifest" in parent)
    return Named(
        name=manifest.name,
        version=manifest.version,
        manifest=manifest.cid,
        sequence=sequence,
        kind=manifest.kind,
        license=str(manifest.license.get("spdx", "")),
        description=description,
        parents=tuple(CID.parse(text) for text in dict.fromkeys(parents)),
        added=added,
        sha256=hashlib.sha256(manifest.payload).hexdigest(),
        length=len(manifest.payload),
    )


def write_entry(named: Named) -> dict[str, Any]:
    """Return the target that ``read_entries`` reads."""
    said: dict[str, Any] = {
        "manifest": str(named.manifest),
        "sequence": named.sequence,
        "kind": named.kind,
        "license": named.license,
        "description": named.description,
        "parents": [str(parent) for parent in named.parents],
        "added": named.added,
    }
    if named.status is not None:
        said["status"] = write_status(named.status)
    return {
        "length": named.length,
        "hashes": {"sha256": named.sha256},
        "custom": {"allod": said},
    }


def write_status(status: Status) -> dict[str, str]:
    """Return the status as it stands in an entry."""
    return {"state": status.state, "reason": status.reason, "at": status.at}


def read_entries(targets: Mapping[str, Any]) -> tuple[Named, ...]:
    """Read all entries, in the order of publication; ``VerificationFailed`` where one is wrong."""
    entries = sorted(
        (
            _read_entry(path, Fields.of(target, path[:200]))
            for path, target in targets.items()
            if isinstance(target.get("custom"), dict) and "allod" in target["custom"]
        ),
        key=lambda one: one.sequence,
    )
    for what in ("sequence", "manifest"):
        if len({getattr(one, what) for one in entries}) != len(entries):
            raise VerificationFailed(f"Two entries of the targets have the same {what}.")
    return tuple(entries)


def _read_entry(path: str, target: Fields) -> Named:
    said = target.child("custom").child("allod")
    name, _, version = path.partition("@")
    if NAME.fullmatch(name) is None or VERSION.fullmatch(version) is None:
        raise VerificationFailed(f"A release is listed as NAME@VERSION, not as {path[:80]!r}.")
    hashes = target.child("hashes")
    sequence, length = said.get("sequence", int), target.get("length", int)
    if set(hashes.value) != {"sha256"} or not 0 < length <= MAX_MANIFEST or sequence < 1:
        raise VerificationFailed(
            f"The entry {path} needs a SHA-256 alone, a length up to {MAX_MANIFEST} and a sequence "
            "from 1 on."
        )
    parents = said.get("parents", list)
    if len(parents) > MAX_LINEAGE:
        raise VerificationFailed(f"The entry {path} names {len(parents)} parents.")
    return Named(
        name=name,
        version=version,
        manifest=said.cid("manifest", Codec.JSON),
        sequence=sequence,
        kind=said.text("kind", _KIND),
        license=said.text("license", _LINE),
        description=said.text("description", _LINE),
        parents=tuple(Fields({"parent": one}, path).cid("parent", Codec.JSON) for one in parents),
        added=_time(said, "added"),
        sha256=hashes.text("sha256", _SHA256),
        length=length,
        status=_read_status(said.child("status")) if "status" in said else None,
    )


def _read_status(status: Fields) -> Status:
    state = cast(State, status.one_of("state", get_args(State)))
    return Status(state, status.text("reason", REASON), _time(status, "at"))


def _time(fields: Fields, key: str) -> str:
    """Return a time that there was or will be."""
    text = fields.text(key, TIME)
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError as exc:
        raise VerificationFailed(f"{fields.name}.{key} is {text}, which is no time.") from exc
    return text
