"""The statements of a fetched release's ancestors, so that its lineage can be checked from then on.

They are small, and who holds a release mostly has the statements of its lineage too. So they are
asked for while the files come, of the sources that are there anyway; nobody waits long for them.
Files of ancestors are not fetched. What nobody has stays a gap, which ``allod provenance`` shows.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.crew import Crew
from node.messages import Report
from node.statement import read_statement
from node.store import Store
from p2p.cid import CID
from p2p.errors import NetworkError, NotFound, Refused, VerificationFailed
from p2p.manifest import Manifest, parse_manifest
from p2p.parcel import parents

MAX_FOREBEARS: Final = 64
"""Ancestors that are asked for: each costs a few requests, and lineages have dozens at most."""
AT_ONCE: Final = 4
"""Ancestors that are asked for at the same time: the sources have files to send too."""
GRACE: Final = 2.0
"""Seconds that they may take longer than the files."""


@asynccontextmanager
async def gathering(
    manifest: Manifest, store: Store, crew: Crew, report: Report, *, pin: bool | None
) -> AsyncIterator[None]:
    """Ask for the ancestors' statements while the block runs, and for a moment after it."""
    async with trio.open_nursery() as nursery:
        if parents(manifest):
            nursery.start_soon(_gather, manifest, store, crew, report, pin)
        yield
        nursery.cancel_scope.deadline = trio.current_time() + GRACE


async def _gather(
    manifest: Manifest, store: Store, crew: Crew, report: Report, pin: bool | None
) -> None:
    """Record what can be had, one generation after the other."""
    met, due = {manifest.cid}, parents(manifest)
    limit = trio.CapacityLimiter(AT_ONCE)
    while due:
        below: list[CID] = []

        async def visit(cid: CID, below: list[CID] = below) -> None:
            async with limit:
                found = await _statement(cid, store, crew, report, pin)
            if found is not None:
                below += parents(found)

        async with trio.open_nursery() as nursery:
            for cid in due:
                if cid not in met and len(met) <= MAX_FOREBEARS:
                    met.add(cid)
                    nursery.start_soon(visit, cid)
        due = below


async def _statement(
    cid: CID, store: Store, crew: Crew, report: Report, pin: bool | None
) -> Manifest | None:
    """Return an ancestor's manifest, recorded if it is new here; None if nobody has it."""
    try:
        known = await store.statement(cid)
        if known is not None:
            return await trio.to_thread.run_sync(parse_manifest, known.payload)
        came = await read_statement(cid, None, store, crew, report, listed=False)
        await store.record(came.manifest, came.bundles, pin=pin, complete=False)
        return came.manifest
    except (NetworkError, NotFound, Refused, VerificationFailed):
        return None
