"""The questions that are asked of a publisher's metadata, a pure function each."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from p2p.cid import CID, Codec
from p2p.envelope import signers
from p2p.errors import VerificationFailed
from p2p.keys import PublicKey
from p2p.manifest import title_of
from p2p.naming.metadata import Metadata
from p2p.naming.names import Names, read_entries

if TYPE_CHECKING:
    from tuf.api.metadata import Signed

    from p2p.naming.chain import Chain

REMEMBERED: Final = 4
"""Publishers whose verified metadata is kept at hand: a lineage has a few, each asked for release
by release, and to verify the longest list takes seconds and to hold it some 60 MB."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found in metadata that was verified: the names, the keys, and how long it is good.

    ``speaking``: the role, its version and when it expires.
    """

    names: Names
    signing: tuple[tuple[frozenset[PublicKey], int], ...]
    speaking: tuple[tuple[str, int, datetime], ...]


def read_names(publisher: str, metadata: Metadata, *, now: datetime | None) -> Names:
    """Verify a publisher's metadata and return what it says; ``VerificationFailed`` if it is false.

    With ``now`` (UTC, with its zone) metadata that has expired is refused too: a freeze.
    """
    seen = _look(publisher, metadata)
    _check_fresh(seen, now)
    return seen.names


def newer(
    publisher: str, known: Metadata | None, came: Metadata, *, now: datetime | None
) -> Metadata:
    """Return which to keep of what is known and what came; the same object where it is ``known``.

    ``known`` was kept before, and is what nobody goes behind again. What is merely older comes from
    somebody who has not heard the news, and is no lie. ``VerificationFailed`` for what no honest
    node can have: metadata that is false in itself, that mixes new with old, that is signed with
    keys that were replaced, or that says otherwise under a version that is known already; and, with
    ``now``, for news that has expired.
    """
    from p2p.naming import chain

    if known is not None and came == known:
        return known
    if known is None:
        _check_fresh(_look(publisher, came), now)
        return came
    found = chain.verify(publisher, came)
    before = chain.verify(publisher, known)
    _check_forks(before, found)
    if _is_older(before, found):
        return known
    if len(came.roots) < len(known.roots):
        raise VerificationFailed(
            f"Replaced key: the metadata is signed with keys of root {len(came.roots)}, and root "
            f"{len(known.roots)} of the publisher has replaced them.",
            next="Nothing: what is known of the publisher is kept.",
        )
    roots = known.roots + came.roots[len(known.roots) :]
    came = Metadata(roots, came.timestamp, came.snapshot, came.targets)
    if roots != found.metadata.roots:  # known roots stand with the signatures that are known
        found = chain.verify(publisher, came)
    chain.advance(publisher, before, found)
    if found.targets.version < before.targets.version and chain.still_signed(
        found.roots[-1], known.targets, "targets"
    ):
        raise VerificationFailed(
            f"Rollback: version {found.targets.version} of the targets came, and version "
            f"{before.targets.version} is known.",
            next="Nothing: what is known of the publisher is kept.",
        )
    _check_fresh(_seen(publisher, found), now)
    return came


def signing_keys(
    publisher: str, roots: tuple[bytes, ...]
) -> list[tuple[frozenset[PublicKey], int]]:
    """Return for each root which keys sign releases, and how many of them it takes."""
    from p2p.naming import chain

    return [chain.role_keys(root, "targets") for root in chain.verify_roots(publisher, roots)]


def authenticate(payload: bytes, bundles: Iterable[bytes], metadata: Metadata) -> tuple[bytes, ...]:
    """Return the bundles that sign exactly this manifest: its publisher's, then one a key.

    A release is its publisher's if enough keys of one root have signed it, and that root is the
    last, or the publisher lists the release today: so a key that was stolen and then replaced signs
    nothing more. Whether the publisher took it back is not asked here. ``VerificationFailed`` if
    not; others' bundles that do not verify are left out.
    """
    publisher, name, version = title_of(payload)
    seen = _look(publisher, metadata)
    listed = seen.names.of(CID.of(payload, Codec.JSON))
    if listed is not None:
        listed.check(payload, name, version)
    good, reason = signers(payload, bundles)
    replaced = False
    keys, threshold = seen.signing[-1]
    for number, (theirs, enough) in enumerate(reversed(seen.signing)):
        mine = [key for key in good if key in theirs]
        if len(mine) < enough:
            continue
        if number == 0 or listed is not None:
            return (*(good.pop(key) for key in mine), *good.values())
        replaced = True
    if replaced:
        raise VerificationFailed(
            f"Replaced key: the manifest is signed with keys that its publisher "
            f"{publisher} has replaced, and the publisher does not list it.",
            next="Do not use it: whoever stole the old key could have made it.",
        )
    count = sum(key in keys for key in good)
    raise VerificationFailed(
        f"The manifest is signed by {count} of the {threshold} keys of its publisher "
        f"{publisher} that it needs ({reason}).",
        next="Ask another source, or the publisher.",
    )


@lru_cache(maxsize=REMEMBERED)
def _lately(publisher: str) -> list[tuple[Metadata, _Seen]]:
    """Return the place for what was verified last of a publisher: it holds one, or none yet."""
    return []


def _look(publisher: str, metadata: Metadata) -> _Seen:
    """Verify metadata, or remember that it was: of each publisher that which was asked for last."""
    from p2p.naming import chain

    place = _lately(publisher)
    for known, seen in tuple(place):  # a copy: other threads look, too
        if known == metadata:
            return seen
    seen = _seen(publisher, chain.verify(publisher, metadata))
    place[:] = [(metadata, seen)]
    return seen


def _seen(publisher: str, found: "Chain") -> _Seen:
    from p2p.naming.chain import role_keys

    entries = read_entries(found.targets.to_dict()["targets"])
    speaking = tuple((role, one.version, one.expires) for role, one in found.speaking)
    return _Seen(
        Names(publisher, found.targets.version, found.expires, entries),
        tuple(role_keys(root, "targets") for root in found.roots),
        speaking,
    )


def _check_fresh(seen: _Seen, now: datetime | None) -> None:
    for role, version, expires in seen.speaking:
        if now is not None and now >= expires:
            raise VerificationFailed(
                f"Freeze: the publisher's {role} (version {version}) expired on "
                f"{expires:%Y-%m-%d %H:%M} UTC, and nothing newer came.",
                next="Ask another source, or the publisher; a manifest CID never expires.",
            )


def _is_older(known: "Chain", came: "Chain") -> bool:
    """Say whether nothing of what came is newer than what is known."""
    return len(came.roots) <= len(known.roots) and all(
        theirs.version <= ours.version
        for (_, ours), (_, theirs) in zip(known.speaking, came.speaking, strict=True)
    )


def _check_forks(known: "Chain", came: "Chain") -> None:
    """Refuse two different files of one version: no honest publisher makes them."""
    from p2p.naming.chain import same

    pairs: list[tuple[str, Signed, Signed]] = [
        (f"root {number}", *pair)
        for number, pair in enumerate(zip(known.roots, came.roots, strict=False), 1)
    ]
    if len(known.roots) == len(came.roots):  # else the keys that count versions may be others
        pairs += [
            (f"version {ours.version} of the {role}", ours, theirs)
            for (role, ours), (_, theirs) in zip(known.speaking, came.speaking, strict=True)
            if ours.version == theirs.version
        ]
    for what, ours, theirs in pairs:
        if not same(ours, theirs):
            raise VerificationFailed(
                f"Two files under one version: {what} that came says something else than the one "
                "that is known, and both are signed.",
                next="Ask the publisher: its keys may have been stolen.",
            )
