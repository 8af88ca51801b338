"""``fetch --tensor``: single tensors of a release's safetensors files, as smaller valid files.

The headers are read first, a leaf and then the rest of each; they say where every tensor lies;
only the leaves that hold the chosen ones are fetched.
Those stay in the store as parts of the whole files, so a later fetch of the rest finds them.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from node.assembly import Assembly, Wanted
from node.crew import Crew
from node.export import beside, make_place
from node.messages import Report
from node.selection import select_names
from node.store import Store, durable
from node.transfer import Transfer
from p2p.cid import CID
from p2p.errors import NotFound, UsageError, VerificationFailed
from p2p.ranges import RangeSet
from p2p.tensors import MAX_SAFETENSORS_HEADER, ReadAt, read_safetensors, slice_safetensors

LENGTH = 8  # bytes of a safetensors file that say how long its header is
PIECE = 8 << 20  # bytes copied at once
SHOWN = 80  # characters of a tensor's name in a message

Spans = list[tuple[int, int]]


class Slicer:
    """Fetches chosen tensors of a release."""

    def __init__(self, release: CID, store: Store, crew: Crew, report: Report) -> None:
        self._release = release
        self._store = store
        self._crew = crew
        self._report = report

    async def fetch(
        self, files: Sequence[Wanted], patterns: Sequence[str], target: Path
    ) -> tuple[list[Wanted], list[RangeSet]]:
        """Write a smaller file into ``target`` for each of ``files`` that has a matching tensor.

        Returns those files and which of their leaves were fetched. NotFound when no tensor
        matches, UsageError when no file is safetensors.
        """
        wanted = [replace(f, keep=False) for f in files if f.path.endswith(".safetensors")]
        if not wanted:
            raise UsageError(
                "--tensor reads safetensors files, and none of the chosen files is one.",
                next="Leave --tensor out, or choose the files with --include.",
            )
        async with Assembly(self._store, wanted) as assembly:
            slices = await self._choose(assembly, patterns)
            pulled = await self._pull(
                assembly, {file: spans for file, (_, spans) in slices.items()}
            )
            for file, (header, spans) in slices.items():
                await self._write(assembly, file, header, spans, target)
        chosen = sorted(slices)
        return [wanted[file] for file in chosen], [pulled[file] for file in chosen]

    async def _choose(
        self, assembly: Assembly, patterns: Sequence[str]
    ) -> dict[int, tuple[bytes, Spans]]:
        """By file: the header of the smaller file, and the spans of the whole one to copy."""
        files = range(len(assembly.wanted))
        sizes = [want.outline.size for want in assembly.wanted]
        await self._pull(assembly, {file: [(0, min(LENGTH, sizes[file]))] for file in files})
        stops = {}
        for file in files:
            length = int.from_bytes(
                await assembly.read(file, 0, min(LENGTH, sizes[file])), "little"
            )
            if length > MAX_SAFETENSORS_HEADER:
                raise VerificationFailed(
                    f"{assembly.wanted[file].path} says that its header has {length} bytes, the "
                    f"limit is {MAX_SAFETENSORS_HEADER}."
                )
            stops[file] = min(sizes[file], LENGTH + length)
        await self._pull(assembly, {file: [(0, stops[file])] for file in files})
        slices: dict[int, tuple[bytes, Spans]] = {}
        names: list[str] = []
        for file in files:
            head = await assembly.read(file, 0, stops[file])
            # A header may have 16 MiB, which take seconds.
            here, chosen = await trio.to_thread.run_sync(_slice, head, sizes[file], patterns)
            names += here
            if chosen is not None:
                slices[file] = chosen
        if not slices:
            shown = ", ".join(name[:SHOWN] for name in names[:6])
            shown += ", ..." if len(names) > 6 else ""
            raise NotFound(
                f"None of the {len(names)} tensors matches the patterns.",
                next=f"There are: {shown}.",
            )
        return slices

    async def _pull(self, assembly: Assembly, spans: dict[int, Spans]) -> dict[int, RangeSet]:
        """Fetch the leaves that hold these bytes of each file; returns those that were missing."""
        missing = [RangeSet() for _ in assembly.wanted]
        for file, runs in spans.items():
            outline = assembly.wanted[file].outline
            leaves = RangeSet()
            for start, stop in runs:
                around = outline.leaves_in(start, stop)
                leaves.add(around.start, around.stop)
            missing[file] = await assembly.survey(file, leaves)
        if any(missing):
            await Transfer(self._release, assembly, missing, self._crew, self._report).run()
        return dict(enumerate(missing))

    async def _write(
        self, assembly: Assembly, file: int, header: bytes, spans: Spans, target: Path
    ) -> None:
        """Write one smaller file, whole or not at all."""
        path = assembly.wanted[file].path
        place = await durable.on_disk(f"make {path}", partial(make_place, target, path))
        new = beside(place)

        def begin() -> int:
            durable.unlink(new)
            return durable.create(new)

        written = await durable.on_disk(f"make {place}", begin)
        try:
            await durable.on_disk(f"write {place}", lambda: durable.write_at(written, header, 0))
            at = len(header)
            for start, stop in spans:
                for piece in range(start, stop, PIECE):
                    data = await assembly.read(file, piece, min(piece + PIECE, stop))
                    await durable.on_disk(
                        f"write {place}", partial(durable.write_at, written, data, at)
                    )
                    at += len(data)
            await durable.on_disk(f"write {place}", lambda: durable.sync_file(written))
            await durable.on_disk(f"name {place}", lambda: durable.rename(new, place))
        finally:
            os.close(written)
            durable.unlink(new)


def _slice(
    head: bytes, size: int, patterns: Sequence[str]
) -> tuple[list[str], tuple[bytes, Spans] | None]:
    """The names of a file's tensors; the header of the smaller file and what to copy behind it."""
    whole = read_safetensors(_reader(head), size)
    names = [tensor.name for tensor in whole.tensors]
    picked = select_names(names, patterns)
    return names, slice_safetensors(whole, picked) if picked else None


def _reader(head: bytes) -> ReadAt:
    """A reader of a file of which only the head is here."""
    return lambda at, size: head[at : at + size]
