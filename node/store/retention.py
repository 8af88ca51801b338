"""What the store may hold, and what it may delete.

Pure: no disk, no clock; sums and sets.

Two rules:

- *Quota.* What the store takes from its owner's disk never passes the quota.
  Room is reserved before the first byte is written, for the whole file, so two fetches that start
  together can't both count on the last gigabyte.
  Files that share their bytes with the owner's own (reflink, hard link) take nothing and count
  nothing.
- *Garbage.* Kept is what a pinned release names, what is being put together, read or served, and
  what was added so lately that its release may not be recorded yet.
  Everything else is garbage, and only ``gc`` deletes it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from p2p.cid import CID
from p2p.errors import QuotaExceeded


class Ledger:
    """How many bytes are taken: by whole files, by partial ones at rest, by reservations."""

    def __init__(self, quota: int | None, held: int, partials: Mapping[CID, int]) -> None:
        self.quota = quota
        self.held = held
        self.reserved = 0
        self.partials = dict(partials)  # those that nobody writes now

    @property
    def used(self) -> int:
        """Every byte that is taken or promised."""
        return self.held + self.reserved + sum(self.partials.values())

    def reserve(self, amount: int) -> None:
        """Promise ``amount`` bytes, or raise ``QuotaExceeded`` and promise none."""
        used = self.used
        if self.quota is not None and amount > 0 and used + amount > self.quota:
            raise QuotaExceeded(
                f"{amount:,} more bytes would pass the store's quota of {self.quota:,}: "
                f"{used:,} are taken.",
                next="Raise store.quota, remove a release, or let `allod gc` make room.",
            )
        self.reserved += amount

    def cancel(self, amount: int) -> None:
        """Give back what was reserved and not used."""
        self.reserved -= amount

    def keep(self, amount: int) -> None:
        """Turn a reservation into bytes of a whole file."""
        self.reserved -= amount
        self.held += amount

    def enter(self, amount: int) -> None:
        """A whole file was found that nobody had counted."""
        self.held += amount

    def drop(self, amount: int) -> None:
        """A whole file is gone."""
        self.held -= amount

    def resume(self, cid: CID, size: int) -> None:
        """Somebody writes the partial file ``cid`` again: reserve all ``size`` bytes of it."""
        there = self.partials.pop(cid, 0)
        try:
            self.reserve(size)
        except QuotaExceeded:
            if there:
                self.partials[cid] = there
            raise

    def rest(self, cid: CID, size: int, there: int) -> None:
        """Nobody writes ``cid`` any more; ``there`` bytes of its reserved ``size`` lie on disk."""
        self.reserved -= size
        if there:
            self.partials[cid] = there

    def forget(self, cid: CID) -> None:
        """The partial file ``cid`` is gone."""
        self.partials.pop(cid, None)


@dataclass(frozen=True, slots=True)
class Claim:
    """A release and what it names: its files, and its listing.

    ``known`` is false where its listing was lost or is still to come, so that nobody can say which
    files it names.
    """

    manifest: CID
    pinned: bool
    files: Collection[CID]
    known: bool = True


@dataclass(frozen=True, slots=True)
class Sweep:
    """What ``gc`` deletes."""

    releases: tuple[CID, ...]
    files: tuple[CID, ...]
    partials: tuple[CID, ...]
    outlines: tuple[CID, ...]


def sweep(
    claims: Iterable[Claim],
    *,
    files: Collection[CID],
    partials: Collection[CID],
    outlines: Collection[CID],
    busy: Collection[CID],
) -> Sweep:
    """Decide what is garbage; ``busy`` are the CIDs, of releases or files, that are in use.

    As long as a kept release may name any file, no file is garbage.
    """
    busy = set(busy)
    kept = set(busy)
    releases = []
    for claim in claims:
        if claim.pinned or claim.manifest in busy:
            kept.update(claim.files)
            if not claim.known:
                kept.update(files, partials, outlines)
        else:
            releases.append(claim.manifest)
    return Sweep(
        releases=tuple(sorted(releases)),
        files=tuple(sorted(set(files) - kept)),
        partials=tuple(sorted(set(partials) - kept)),
        outlines=tuple(sorted(set(outlines) - kept)),
    )
