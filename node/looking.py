"""Looking into the files of a fetch while the others still come.

What they turn out to be is noted and judged when all are here, after ``Gate.look_into``, which then
finds most of it done: a thousand small files take a quarter of a second, in which nothing else is
left to do.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from node.assembly import Assembly
from node.gate import Gate
from p2p.cid import CID
from p2p.manifest import FileEntry


@asynccontextmanager
async def looking(
    gate: Gate, assembly: Assembly, entries: Sequence[FileEntry]
) -> AsyncIterator[None]:
    """Look into those of the files that become whole while the block runs."""
    named: defaultdict[CID, list[FileEntry]] = defaultdict(list)
    for entry in entries:
        named[entry.cid].append(entry)

    async def look() -> None:
        while True:
            kept = await assembly.next_kept()
            await gate.look_into([entry for cid in kept for entry in named[cid]], note=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        yield
        nursery.cancel_scope.cancel()
