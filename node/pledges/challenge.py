"""A challenge: does a peer have a release, all of it, and the bytes too?

First what it says (``/allod/v1/have``), which costs nothing and is believed where it says no. Then
a leaf of a file, both chosen by chance, which must be the one that the Outline names. Who has not
the bytes can't have them ready, for nobody knows beforehand which leaf is asked for. Somebody who
gets them from another the moment that he is asked can't be told from one who keeps them.

One leaf finds a copy of which the share ``f`` is missing with the chance ``f``, so in a few looks
what misses much, and in time what misses little. Half of the files are drawn by their bytes and
half by their number, so that neither a large one hides among small ones nor a small beside a large.
"""

import secrets
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import trio

from p2p import canonical
from p2p.cid import CID, Codec
from p2p.dag import Outline, max_outline
from p2p.errors import AllodError, BadBytes, PeerFault, PeerRefused, TooMuch, VerificationFailed

if TYPE_CHECKING:
    from node.store import Store
    from p2p.sources import Session

MAX_HAVE: Final = 16 << 20
"""Bytes of what a peer says that it has: as in a fetch."""

Pick = Callable[[int], int]
"""Returns a number from 0 to below n that nobody can foresee."""


@dataclass(frozen=True, slots=True)
class Had:
    """What a peer says of a release: that it has the ``whole``, or how much it has.

    How much is the bytes that are there, and one for each file that is there or being put together:
    so a fetch is seen before its first byte has come.
    """

    whole: bool
    have: int


class Lots:
    """The files of a release, to draw leaves from: (CID, size) of each content that has bytes."""

    def __init__(self, files: Sequence[tuple[CID, int]]) -> None:
        self._files = [(cid, size) for cid, size in dict(files).items() if size]
        self._ends = list(accumulate(size for _, size in self._files))

    def draw(self, pick: Pick = secrets.randbelow) -> tuple[CID, int, int] | None:
        """Return a file, its size, and a byte of it, by chance; None where there are no bytes."""
        if not self._files:
            return None
        by_bytes = bool(pick(2))
        at = bisect_right(self._ends, pick(self._ends[-1])) if by_bytes else pick(len(self._files))
        cid, size = self._files[at]
        return cid, size, pick(size)


async def ask_have(session: "Session", manifest: CID, peer: str) -> Had | None:
    """Ask what a peer has of a release; None for nothing. NetworkError for a wrong answer."""
    try:
        answer = await session.get(f"/allod/v1/have/{manifest}", limit=MAX_HAVE)
    except TooMuch:
        return Had(False, 0)
    except PeerRefused as exc:
        if exc.status == 404:
            return None
        raise
    try:
        if len(answer) < 1 << 16:
            return _read_had(answer)
        return await trio.to_thread.run_sync(_read_had, answer)
    except (ValueError, KeyError, TypeError, AttributeError, AllodError) as exc:
        raise PeerFault("It answered malformed JSON about what it has.", peer=peer) from exc


def _read_had(answer: bytes) -> Had:
    said = canonical.parse(answer, limit=MAX_HAVE, what="answer")
    if said["complete"] is True:
        return Had(True, 0)
    files = said["files"].values()
    spans = [span for file in files for span in file]
    return Had(False, len(files) + sum(max(0, int(stop) - int(start)) for start, stop in spans))


async def ask_leaf(
    session: "Session", lots: Lots, store: "Store", peer: str, pick: Pick = secrets.randbelow
) -> None:
    """Have a peer give a leaf by chance.

    BadBytes for wrong ones, another NetworkError for none. An Outline that is not here comes from
    the same peer, is verified, and stays.
    """
    drawn = lots.draw(pick)
    if drawn is None:
        return
    cid, size, at = drawn
    outline = await _outline(session, cid, size, store, peer)
    [index] = outline.leaves_in(at, at + 1)
    start, stop = outline.span(index, index + 1)
    data = bytearray()
    async for piece in session.read(cid, start, stop):
        data += piece
    if not await trio.to_thread.run_sync(outline.verify, index, data):
        raise BadBytes(f"Bytes {start} to {stop} of {cid} came with wrong bytes.", peer=peer)


async def _outline(session: "Session", cid: CID, size: int, store: "Store", peer: str) -> Outline:
    if cid.codec is Codec.RAW:
        return Outline.single(cid, size)
    known = await store.outline(cid)
    if known is not None:
        return known
    data = await session.get(f"/allod/v1/outline/{cid}", limit=max_outline(size))
    try:
        outline = await trio.to_thread.run_sync(Outline.decode, cid, data, size)
    except VerificationFailed as exc:
        raise BadBytes(f"The outline of {cid} came wrong: {exc.message}", peer=peer) from exc
    await store.put_outline(outline)
    return outline


async def own_leaf(lots: Lots, store: "Store", pick: Pick = secrets.randbelow) -> bool:
    """Say whether a leaf by chance of this node's own copy is what it must be."""
    drawn = lots.draw(pick)
    if drawn is None:
        return True
    cid, _, at = drawn
    held = await store.held(cid)
    if held is None:
        return False
    [index] = held.outline.leaves_in(at, at + 1)
    start, stop = held.outline.span(index, index + 1)

    def read() -> bool:
        try:
            with held.path.open("rb") as file:
                file.seek(start)
                return held.outline.verify(index, file.read(stop - start))
        except OSError:
            return False

    return await trio.to_thread.run_sync(read)
