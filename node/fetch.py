"""Fetch: from a reference to verified files on this disk. Reads top to bottom.

1  who may have it                     the link's peers, the LAN, the DHT; goes on all the time;
                                       web servers that the release names, where nobody else has it
2  what the reference names            a manifest CID: given, or what its publisher says today
3  the statement                       manifest and signatures; nothing large moves before
4  which files, and their Outlines     let in by the policy; each checked against the manifest
5  what is missing                     resuming, and reusing a base's leaves, are this line
6  the transfer                        many sources at once, each leaf verified, then written;
                                       beside it the statements of the release's ancestors are asked
                                       for, and what is here is looked into
7  the record                          what the bytes are is judged; one transaction; the folder
8  the announcement                    from now on this node is a source too
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import trio

from node.assembly import Assembly, Wanted
from node.claims import Claims
from node.crew import Crew, Member, Network
from node.explaining import Seen, explain
from node.export import export_files
from node.forebears import gathering
from node.gate import Asked, Gate
from node.jobs import Feed, tell_sources
from node.keyring import Keyring
from node.looking import looking
from node.messages import FetchParams, Note, Progress, Report
from node.naming import resolve, whose
from node.selection import select_files
from node.slicing import Slicer
from node.statement import Statement, read_outline, read_statement
from node.store import Store
from node.transfer import Transfer
from node.upkeep import release_keys
from node.webseeds import seeds_of
from p2p.cid import CID
from p2p.errors import AllodError, QuotaExceeded, Refused, UsageError, culprit
from p2p.manifest import FileEntry
from p2p.ranges import RangeSet
from p2p.references import Reference, parse_reference, publisher_cid, share_link

OUTLINES_AT_ONCE = 8  # each is one request; more would only queue at the sources


class FetchNode(Protocol):
    """What a fetch needs of a node."""

    @property
    def store(self) -> Store: ...
    @property
    def keyring(self) -> Keyring: ...
    @property
    def claims(self) -> Claims: ...
    @property
    def gate(self) -> Gate: ...
    def petnames(self) -> Mapping[str, str]: ...
    def network(self) -> Network:
        """The network; NetworkError when this node was opened without one."""
        ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be fetched: every content once, which leaves are missing, the files' sizes."""

    wanted: list[Wanted]
    missing: list[RangeSet]
    sizes: list[int]

    @property
    def total(self) -> int:
        return sum(self.sizes)

    @property
    def missing_bytes(self) -> int:
        return sum(
            stop - start
            for want, leaves in zip(self.wanted, self.missing, strict=True)
            for start, stop in (want.outline.span(*run) for run in leaves)
        )


async def fetch(params: FetchParams, node: FetchNode, report: Report) -> dict[str, Any]:
    """Fetch a release, or a part of it; returns the JSON object of ``allod fetch --json``."""
    reference, publisher = await trio.to_thread.run_sync(_read_reference, params, node)
    key = reference.manifest or publisher_cid(str(publisher))
    if params.offline:
        crew = Crew(_Nowhere(), report, (), [key])
    else:
        hints = (*reference.peers, *params.peers)
        crew = Crew(node.network(), report, hints, [key], reuse=True)
    tell_sources(lambda: [_feed(one) for one in crew.members.values() if one.bytes])
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.recruit)
            cid, named, stale = reference.manifest, None, False
            if cid is None:
                crew.begin("name")
                wire = None if params.offline else crew
                resolved = await resolve(reference, node, wire, now=datetime.now(UTC))
                publisher, named, stale = resolved.publisher, resolved.named, resolved.stale
                cid = named.manifest
                report(Note(f"{params.ref} is version {named.version}: {cid}"))
                crew.seek(cid)
            asked = Asked(yes=params.yes, ask=params.ask, stale=stale)
            result = await _fetch(params, asked, node, publisher, cid, crew, report)
            if params.explain:
                result["explain"] = _explained(crew)
            if named is not None:
                detail = f"the publisher lists it as {named.path} since {named.added[:10]}"
                result["checks"].insert(0, {"name": "name", "ok": True, "detail": detail})
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = culprit(group)  # not except*: what is raised there may be wrapped in a group anew
        if isinstance(error, AllodError):
            if params.explain:
                for sentence in _explained(crew)["why"]:
                    report(Note(sentence))
            raise error from None
        raise
    return result


def _explained(crew: Crew) -> dict[str, Any]:
    seen = [_seen(one) for one in crew.members.values()]
    return explain(crew.trace, seen, trio.current_time())


def _read_reference(params: FetchParams, node: FetchNode) -> tuple[Reference, str | None]:
    """Read the reference, and find out whose release it names, if it says that."""
    reference = parse_reference(params.ref)
    if params.revision:
        if reference.manifest is not None or reference.version is not None:
            raise UsageError("The reference names a version already; leave --revision out.")
        reference = parse_reference(f"{params.ref}@{params.revision}")
    return reference, reference.publisher and whose(reference.publisher, node)


async def _fetch(
    params: FetchParams,
    asked: Asked,
    node: FetchNode,
    publisher: str | None,
    cid: CID,
    crew: Crew,
    report: Report,
) -> dict[str, Any]:
    store = node.store
    trusted = node.petnames().values()
    crew.begin("statement")
    statement = await read_statement(cid, publisher, store, crew, report, trusted=trusted)
    manifest = statement.manifest
    report(Note(f"{manifest.name} {manifest.version} by {manifest.publisher}: signature checked"))
    crew.keys += [manifest.root]

    crew.begin("policy")
    chosen = select_files(manifest.files, params.include, params.exclude)
    verdict = await node.gate.admit(manifest, statement.bundles, asked, chosen=chosen)
    report(Note(f"The policy lets it in, by {verdict.rule}."))
    if not params.offline:  # asked when no node gives what is missing: see transfer.py
        crew.seeds = seeds_of(manifest, await node.gate.policy(), crew.network, report)
    if params.statement_only:
        if await store.release(cid) is None:
            await store.record(manifest, statement.bundles, pin=params.pin, complete=False)
        return _result(params, statement, _Plan([], [], []), crew, None)
    crew.begin("outlines")
    # Two files with the same bytes are one to fetch: a partial file has a single writer.
    contents = {entry.cid: entry for entry in reversed(chosen)}
    wanted = await _outlines(list(reversed(contents.values())), store, crew, report)
    sizes = [entry.size for entry in chosen]
    if params.tensors:
        crew.begin("transfer")
        target = _target(params)
        slicer = Slicer(cid, store, crew, report)
        sliced, missing = await slicer.fetch(wanted, params.tensors, target)
        plan = _Plan(sliced, missing, [want.outline.size for want in sliced])
        return _result(params, statement, plan, crew, target)

    if params.dry_run:
        crew.begin("survey")
        async with Assembly(store, wanted) as assembly:
            missing = [await assembly.preview(file) for file in range(len(wanted))]
        plan = _Plan(wanted, missing, sizes)
        return _result(params, statement, plan, crew, None)

    new = await store.release(cid) is None
    if new:  # from now on others can take from here what has come
        await store.record(manifest, statement.bundles, pin=params.pin, complete=False)
    async with AsyncExitStack() as stack:
        if not params.offline:
            asking = gathering(manifest, store, crew, report, pin=params.pin)
            await stack.enter_async_context(asking)
        missing = await _transfer(node, cid, chosen, wanted, crew, report)
    crew.begin("record")
    if await node.gate.look_into(chosen):
        try:
            await node.gate.admit(manifest, statement.bundles, asked, chosen=chosen)
        except Refused:
            if new:
                await store.remove(cid)  # gc then takes the bytes, and nobody is given them
            raise

    complete = len(chosen) == len(manifest.files)
    await store.record(manifest, statement.bundles, pin=params.pin, complete=complete)
    if await node.gate.remember(manifest.publisher):
        add = f"`allod trust add {manifest.publisher} --as NAME`"
        report(Note(f"This is the first release of its publisher here; {add} gives it a name."))
    path = await store.view(await node.gate.let_in(manifest, statement.bundles))
    if params.local_dir:
        path = await export_files(path, Path(params.local_dir), [entry.path for entry in chosen])
    if not params.offline:
        crew.network.announce(release_keys(manifest, [entry.path for entry in chosen]))
    return _result(params, statement, _Plan(wanted, missing, sizes), crew, path)


async def _transfer(
    node: FetchNode,
    cid: CID,
    chosen: Sequence[FileEntry],
    wanted: list[Wanted],
    crew: Crew,
    report: Report,
) -> list[RangeSet]:
    """Steps 5 and 6: find out what is missing, and get it."""
    async with (
        node.claims.hold([want.outline.root for want in wanted]),
        Assembly(node.store, wanted) as assembly,
        looking(node.gate, assembly, chosen),
    ):
        await _check_room(node.store, wanted)
        crew.begin("survey")
        missing = []
        for file in range(len(wanted)):
            missing.append(await assembly.survey(file))
            report(Progress("look", done=file + 1, total=len(wanted), unit="files"))
        if any(missing):
            crew.network.announce([cid])
        crew.begin("transfer")
        await Transfer(cid, assembly, missing, crew, report).run()
        await assembly.finish_all()
    return missing


async def _check_room(store: Store, wanted: Sequence[Wanted]) -> None:
    """Say at once, and not after hours, when a release is larger than the quota leaves room for."""
    usage = await store.usage()
    here = await store.has_many({want.outline.root for want in wanted})
    needed = sum(want.outline.size for want in wanted if want.outline.root not in here)
    taken = usage.bytes - usage.partial_bytes
    if usage.quota is not None and taken + needed > usage.quota:
        raise QuotaExceeded(
            f"The fetch needs {needed:,} bytes, but of the quota of {usage.quota:,} only "
            f"{max(0, usage.quota - taken):,} are left.",
            next="Free some with `allod rm` and `allod gc`, or raise store.quota.",
        )


def _target(params: FetchParams) -> Path:
    if not params.local_dir:
        raise UsageError(
            "Single tensors make new files, and nobody said where to put them.",
            next="Add --local-dir and a folder.",
        )
    return Path(params.local_dir)


async def _outlines(
    chosen: Sequence[FileEntry], store: Store, crew: Crew, report: Report
) -> list[Wanted]:
    """Step 4: the Outline of every file, several asked for at once, in the order of the files."""
    found: dict[int, Wanted] = {}
    turns = iter(enumerate(chosen))  # shared: a task for each of a million files would not fit

    async def read() -> None:
        for index, entry in turns:
            outline = await read_outline(entry.cid, entry.size, store, crew)
            found[index] = Wanted(entry.path, outline)
            report(Progress("plan", done=len(found), total=len(chosen), unit="files"))
            await trio.lowlevel.checkpoint()  # a file of one leaf asks nobody

    async with trio.open_nursery() as nursery:
        for _ in range(OUTLINES_AT_ONCE):
            nursery.start_soon(read)
    return [found[index] for index in range(len(chosen))]


def _result(
    params: FetchParams, statement: Statement, plan: _Plan, crew: Crew, path: Path | None
) -> dict[str, Any]:
    manifest = statement.manifest
    fetched = plan.missing_bytes
    result: dict[str, Any] = {
        "ok": True,
        "ref": share_link(manifest.publisher, manifest.name, manifest.cid, ()),
        "name": manifest.name,
        "version": manifest.version,
        "kind": manifest.kind,
        "publisher": manifest.publisher,
        "license": manifest.license.get("spdx", ""),
        "manifest": str(manifest.cid),
        "root": str(manifest.root),
        "path": None if path is None else str(path),
        "files": len(plan.sizes),
        "bytes": {"total": plan.total, "fetched": fetched, "local": plan.total - fetched},
        "sources": [
            {"peer": member.peer, "kind": kind, "bytes": size}
            for member in crew.members.values()
            for kind, size in member.by_kind.most_common()
        ],
        "banned": [
            {"peer": member.peer, "reason": member.gone}
            for member in crew.members.values()
            if member.banned
        ],
        "checks": [
            {"name": "manifest", "ok": True, "detail": f"its bytes are {manifest.cid}"},
            {
                "name": "signature",
                "ok": True,
                "detail": f"{len(statement.bundles)} valid, one by {manifest.publisher}",
            },
            {"name": "tree", "ok": True, "detail": f"the files make the directory {manifest.root}"},
        ],
    }
    if params.dry_run:
        result["dryRun"] = True
    else:
        leaves = sum(leaves.size for leaves in plan.missing)
        detail = f"{leaves} leaves verified before they were written"
        result["checks"].append({"name": "content", "ok": True, "detail": detail})
    return result


def _feed(member: Member) -> Feed:
    kinds = [kind for kind, _ in member.by_kind.most_common()]
    return Feed(member.peer, kinds[0] if kinds else member.source.kind, member.bytes)


def _seen(member: Member) -> Seen:
    return Seen(
        member.peer,
        member.source.kind,
        member.by_kind,
        member.gone,
        member.failed,
        member.record,
    )


class _Nowhere:
    """The network of ``--offline``: nobody is there."""

    def hinted(self, multiaddr: str) -> Any:
        raise UsageError(f"No peer is asked offline, not even {multiaddr}.")

    def web(self, bases: Sequence[Any], files: Mapping[CID, Any], web: Any) -> Any:
        raise UsageError(f"No web server is asked offline, not even {bases[0]}.")

    def neighbours(self) -> Sequence[Any]:
        return ()

    async def providers(self, cid: CID) -> Sequence[Any]:
        return ()

    def ban(self, peer: str, reason: str) -> None: ...

    def announce(self, cids: Sequence[CID]) -> None: ...

    def withdraw(self, cids: Sequence[CID]) -> None: ...
