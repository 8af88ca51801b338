"""What a node does all the time: keep announced what it holds and what it answers for, remember
the peers that it met."""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from node.gate import Gate
from node.inference import Inference
from node.store import Release, Store, durable
from p2p.cid import CID
from p2p.errors import AllodError, StoreError
from p2p.manifest import Manifest, parse_manifest
from p2p.references import publisher_cid
from p2p.serving import serving_key
from p2p.waiting import first_of

if TYPE_CHECKING:  # publishing needs none of libp2p
    from node.crew import Network
    from p2p.discovery import Discovery

log = logging.getLogger(__name__)

MAX_ANNOUNCED_FILES: Final = 500
"""Files of one release that are announced one by one, the largest first.

Each key costs messages to some twenty peers every few hours; whoever looks for a small file of a
large release finds it through the release."""

ANNOUNCE_AGAIN: Final = 600.0
"""Seconds between two looks at what may be announced, if nothing changes before: consent ends."""
KEEP_PEERS: Final = 300.0  # seconds between two savings of the peers
FIRST_PEERS: Final = 20.0  # seconds until the first, so that a node that soon dies has some
MAX_PEERS_FILE: Final = 256 << 10  # bytes; a hundred addresses have some 10 KiB


def release_keys(manifest: Manifest, files: Iterable[str] | None = None) -> list[CID]:
    """The CIDs under which a release is found: itself, its directory, its publisher, its files.

    ``files``: the paths that this node holds; None for all.
    """
    held = None if files is None else set(files)
    here = [entry for entry in manifest.files if held is None or entry.path in held]
    here.sort(key=lambda entry: -entry.size)
    return [
        manifest.cid,
        manifest.root,
        publisher_cid(manifest.publisher),
        *(entry.cid for entry in here[:MAX_ANNOUNCED_FILES]),
    ]


async def keep_announced(
    store: Store,
    gate: Gate,
    network: "Network",
    hidden: Callable[[CID], Awaitable[bool]] | None = None,
) -> None:
    """Announce everything that the store holds and the policy lets out; discovery repeats it.

    Anew whenever the policy has changed, and now and then, since verdicts age.
    ``hidden`` says what is not for everybody (``Seeding.hidden``).
    """
    while True:
        change = gate.next_change()  # before the look, so that none is missed meanwhile
        for release in await store.releases():
            try:
                keys = await _keys(store, release)
                told = [key for key in keys if hidden is None or not await hidden(key)]
                kept = [key for key in told if await gate.refuses(key) is not None]
                network.withdraw([*kept, *(set(keys) - set(told))])
                network.announce(told)
            except AllodError as exc:  # one damaged record must not silence the others
                log.warning("%s is not announced: %s", release.manifest_cid, exc)
        with trio.move_on_after(ANNOUNCE_AGAIN):
            await change.wait()


async def _keys(store: Store, release: Release) -> list[CID]:
    if not release.complete:
        named = {one.cid for one in await store.release_files(release.manifest_cid)}
        # An ancestor of which the statement alone is here: who wants its files is not told of it.
        return [release.manifest_cid] if await store.has_many(named) else []
    known = await store.manifest(release.manifest_cid)
    if known is None:
        return []
    payload, _, listing = known
    return release_keys(parse_manifest(payload, listing))


async def keep_shared(
    local: Inference, gate: Gate, network: "Network", next_change: Callable[[], trio.Event]
) -> None:
    """Announce for which models this node answers peers; withdraw what it shares no longer.

    ``next_change`` returns what is set when other models are shared; the policy is followed too.
    """
    announced: set[CID] = set()
    while True:
        changes = gate.next_change(), next_change()  # before the look, so that none is missed
        shared = [one.manifest for one in local.served() if one.shared and one.state != "remote"]
        wanted = {serving_key(one) for one in shared if await gate.refuses(one) is None}
        network.withdraw(sorted(announced - wanted))
        network.announce(sorted(wanted))
        announced = wanted
        with trio.move_on_after(ANNOUNCE_AGAIN):
            await first_of(*changes)


async def keep_peers(discovery: "Discovery", file: Path) -> None:
    """Save addresses of peers now and then, and at the end, for the next start."""
    try:
        await trio.sleep(FIRST_PEERS)
        while True:
            await _save(discovery, file)
            await trio.sleep(KEEP_PEERS)
    finally:
        with trio.CancelScope(shield=True):
            await _save(discovery, file)


async def _save(discovery: "Discovery", file: Path) -> None:
    peers = discovery.snapshot()
    if not peers:
        return  # what an earlier run met is better than nothing

    def write() -> None:
        durable.replace_file(file, json.dumps(peers, indent=1).encode(), file.parent)

    try:
        await durable.on_disk("remember its peers", write)
    except StoreError as exc:
        log.warning("the peers are not saved: %s", exc)


async def read_peers(file: Path) -> tuple[str, ...]:
    """Addresses that an earlier run saved; none if there are none, or the file is damaged."""

    def read() -> tuple[str, ...]:
        try:
            with file.open("rb") as stream:
                peers = json.loads(stream.read(MAX_PEERS_FILE))
            return tuple(peer for peer in peers if isinstance(peer, str))
        except (OSError, ValueError, TypeError, RecursionError):
            return ()

    return await trio.to_thread.run_sync(read)
