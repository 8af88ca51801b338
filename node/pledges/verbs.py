"""The verbs on pledges: make, list and take back; and how many copies of a release there are."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from node.crew import Crew
from node.fetch import FetchNode, fetch
from node.holdings import find_release, link, spell_out
from node.kinds import LIMIT
from node.messages import FetchParams, PledgeParams, Report
from node.naming import refresh, whose
from node.pledges.book import MAX_KEEP, Book, Pledge
from node.pledges.keeper import Keeper, named_by
from node.pledges.watch import Watch
from p2p.address import Address
from p2p.cid import CID
from p2p.errors import NetworkError, NotFound, UsageError, VerificationFailed
from p2p.policy.reader import PUBLISHER
from p2p.references import publisher_cid

if TYPE_CHECKING:
    from node.store import Release

Json = dict[str, Any]

MAX_PEERS: Final = 16
"""Addresses that a pledge keeps, of those who are asked first."""


class PledgeNode(FetchNode, Protocol):
    """What these verbs need of a node."""

    @property
    def book(self) -> Book: ...
    @property
    def keeper(self) -> Keeper | None: ...


# -- pledging


async def pledge(params: PledgeParams, node: PledgeNode, report: Report) -> Json:
    """Promise to help keep copies; a pledge of the same is put in other words."""
    if not 1 <= params.keep <= MAX_KEEP:
        raise UsageError(f"A pledge is for 1 to {MAX_KEEP} copies, not {params.keep}.")
    try:
        limit: int | None = LIMIT.parse(params.max)
    except ValueError as exc:
        raise UsageError(f"--max expects {LIMIT.expects}, but {params.max[:80]!r} came.") from exc
    for peer in params.peers[:MAX_PEERS]:
        if Address.parse(peer).peer is None:
            raise UsageError(f"A peer is an address with /p2p/ at its end, this is {peer[:200]!r}.")
    await node.book.open()
    made = await _find_out(params, node, report)
    made = replace(
        made, keep=params.keep, limit=limit, peers=made.peers or params.peers[:MAX_PEERS]
    )
    await node.book.put(made)
    return {"ok": True} | await _shown(made, node)


async def _find_out(params: PledgeParams, node: PledgeNode, report: Report) -> Pledge:
    """Find out whether a text names a publisher or a release, and which.

    A publisher's id and a manifest's CID look the same: what is held decides, then the network.
    """
    ref = params.ref
    blank = Pledge("", True, ref, 1, None, (), time.time())
    publisher = None if "/" in ref or "?" in ref else await _publisher(ref, node)
    if publisher is not None and await _is_publisher(publisher, node):
        return replace(blank, id=publisher)
    try:
        release = await find_release(node.store, node.keyring, _spelled(ref, node))
        return replace(blank, id=str(release.manifest_cid), publisher=False)
    except NotFound:
        pass
    asked = FetchParams(ref, peers=params.peers, statement_only=True, pin=None)
    try:
        found = await fetch(asked, node, report)
    except (NetworkError, NotFound):
        if publisher is None or not await _hear_of(publisher, params, node, report):
            raise
        return replace(blank, id=publisher)
    return replace(blank, id=found["manifest"], publisher=False)


async def _publisher(text: str, node: PledgeNode) -> str | None:
    """Return the id that a text means, if it may mean a publisher; ``UsageError`` for nothing."""
    try:
        return await trio.to_thread.run_sync(whose, text, node)
    except NotFound:
        if PUBLISHER.fullmatch(text):
            return None  # an address, but none that a publisher can have
        raise UsageError(
            f"{text[:80]!r} names neither a publisher nor a release.",
            next="Write a publisher's id or petname, PUBLISHER/NAME, or the CID of a manifest.",
        ) from None


async def _hear_of(id: str, params: PledgeParams, node: PledgeNode, report: Report) -> bool:
    """Ask the network for what a publisher says; False where nobody knows of one."""
    crew = Crew(node.network(), report, params.peers, [publisher_cid(id)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crew.recruit)
        try:
            await refresh(id, node.store, crew, linger=0.0)
            known = True
        except (NetworkError, NotFound, VerificationFailed):
            known = False
        nursery.cancel_scope.cancel()
    return known


async def _is_publisher(id: str, node: PledgeNode) -> bool:
    """Say whether it is known here that this is a publisher's id, and no manifest's CID."""
    if id in node.petnames().values() or id in node.keyring.ids().values():
        return True
    return await node.store.publishers.names(id) is not None


def _spelled(ref: str, node: PledgeNode) -> str:
    return spell_out(ref, node.keyring, node.petnames())


async def take_back(ref: str, node: PledgeNode) -> Json:
    """Take a pledge back; what was taken for it stays until gc, or another pledge wants it."""
    await node.book.open()
    found = await _find(ref, node)
    if found is None:
        raise NotFound(
            f"Nothing is pledged to {ref}.", next="`allod pledge list` shows what is pledged."
        )
    freed = await node.book.remove(found.id)
    return {
        "ok": True,
        "id": found.id,
        "ref": found.name,
        "releases": len(freed),
        "bytes": sum(one.size for one in freed),
    }


async def _find(ref: str, node: PledgeNode) -> Pledge | None:
    """Return the pledge that a text means: as it was made, an id, a petname, a reference."""
    pledges = {one.id: one for one in node.book.pledges()}
    for one in pledges.values():
        if ref in (one.id, one.name):
            return one
    try:
        if "/" not in ref:
            return pledges.get(await trio.to_thread.run_sync(whose, ref, node))
        release = await find_release(node.store, node.keyring, _spelled(ref, node))
        return pledges.get(str(release.manifest_cid))
    except (NotFound, UsageError):
        return None


# -- looking


async def list_pledges(node: PledgeNode) -> Json:
    """Show what was pledged, what it takes, and how each release stands."""
    await node.book.open()
    shown = [await _shown(one, node) for one in node.book.pledges()]
    return {"ok": True, "running": node.keeper is not None, "pledges": shown}


async def _shown(pledge: Pledge, node: PledgeNode) -> Json:
    under = await named_by(pledge, node.store, node.book)
    return {
        "id": pledge.id,
        "ref": pledge.name,
        "kind": "publisher" if pledge.publisher else "release",
        "keep": pledge.keep,
        "max": pledge.limit,
        "taken": sum(one.size for one in node.book.taken(pledge.id)),
        "since": pledge.since,
        "releases": [await _release(manifest, node) for manifest in under],
    }


async def _release(manifest: CID, node: PledgeNode) -> Json:
    """Show one release as it was last seen, without looking."""
    release = await node.store.release(manifest)
    watch = node.keeper.watches.get(manifest) if node.keeper is not None else None
    seen = watch is not None and watch.looked is not None
    return {
        "manifest": str(manifest),
        "name": release.name if release is not None else "",
        "version": release.version if release is not None else "",
        "size": release.size if release is not None else None,
        "held": release is not None and release.complete,
        "taken": node.book.is_taken(manifest),
        "healthy": _healthy(watch) if watch is not None and seen else None,
        "trouble": watch.trouble if watch is not None else "",
    }


async def copies(ref: str, node: PledgeNode, report: Report) -> Json:
    """Say how many healthy copies of a release were seen, whose, and when.

    What is pledged was looked at lately; anything else is looked at now, which takes a few seconds.
    NotFound for what nobody has, and the network's errors.
    """
    await node.book.open()
    node.network()  # says why there is none
    manifest = await _manifest(ref, node, report)
    keeper = node.keeper
    assert keeper is not None  # every node on the network has one
    goal = keeper.goals.get(manifest)
    with ExitStack() as stack:
        watch = keeper.watches.get(manifest)
        if watch is None or watch.looked is None:
            stack.enter_context(node.store.using(manifest))
            watch = await keeper.look_once(manifest)
    release = await node.store.release(manifest)
    if release is None:
        raise NotFound(f"The statement of {manifest} did not stay.")
    return _standing(release, watch, goal.keep if goal is not None else None, node)


async def _manifest(ref: str, node: PledgeNode, report: Report) -> CID:
    try:
        found = await find_release(node.store, node.keyring, _spelled(ref, node))
        return found.manifest_cid
    except NotFound:
        params = FetchParams(ref, statement_only=True, pin=None)
        return CID.parse((await fetch(params, node, report))["manifest"])


def _healthy(watch: Watch) -> int:
    return len(watch.standing.healthy(trio.current_time())) + watch.mine.whole


def _standing(release: "Release", watch: Watch, keep: int | None, node: PledgeNode) -> Json:
    now, wall = trio.current_time(), time.time()
    standing = watch.standing

    def when(at: float) -> float | None:
        return round(wall - (now - at), 3) if at > float("-inf") else None

    rows: list[Mapping[str, Any]] = [
        {
            "peer": copy.peer,
            "healthy": standing.is_healthy(copy, now),
            "whole": copy.whole,
            "answered": when(copy.answered),
            "proved": when(copy.proved),
            "failed": copy.failed,
            "why": copy.why,
        }
        for copy in sorted(standing.copies.values(), key=lambda one: one.order)
    ]
    return {
        "ok": True,
        "ref": link(release),
        "manifest": str(release.manifest_cid),
        "name": release.name,
        "version": release.version,
        "keep": keep,
        "healthy": _healthy(watch),
        "checked": when(watch.looked) if watch.looked is not None else None,
        "here": {
            "whole": watch.mine.whole,
            "taken": node.book.is_taken(release.manifest_cid),
            "pinned": release.pinned,
            "fetching": watch.fetching is not None,
        },
        "trouble": watch.trouble,
        "copies": rows,
    }
