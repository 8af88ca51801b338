"""``allod import``: a repository of the Hugging Face Hub as a release of this machine's publisher.

    1  list        what the Hub says that the commit holds; offline what its clients' cache holds
    2  choose      by the patterns; what others' default policy refuses stays out unless it is named
    3  gather      what is not in the cache is downloaded into it by huggingface_hub
    4  look        into the bytes: a pickle under another name stays out too
    5  publish     as a folder is published, in place: the store shares its bytes with the cache
    6  check       every file against the hash that the Hub has for it, before anything is signed

The release says where it is from (``origin`` in its lineage), is called by the repository's id, and
its version is the commit; so importing the same again changes nothing and gives the same link.
What the importer signs is that these are the bytes that the Hub had, and no more.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar

import trio

from node.hub.checking import Check, Promised
from node.hub.choosing import Choice, Wanted, choose, look, some
from node.hub.origin import ROLE, Origin, mirror_name
from node.hub.repository import Repository, parse_repository
from node.importers.card import read_card
from node.importers.hub import Hub, HubFile, Snapshot, abort_downloads
from node.importers.hub_errors import Unreachable
from node.messages import ImportParams, Note, Progress, PublishParams, Report
from node.publish import PublishNode, Stock, publish_files, read_name
from p2p.errors import (
    AllodError,
    DiskFull,
    NetworkError,
    NoSources,
    NotFound,
    UsageError,
    culprit,
)
from p2p.web import read_base

Json = dict[str, Any]
T = TypeVar("T")

DOWNLOADS: Final = 4
"""Files that are downloaded at once: the library's large ones have several connections each."""


@dataclass(slots=True)
class _Haul:
    """What is being imported.

    ``listed``: the Hub itself said which files there are. ``where``: the bytes, by path, of those
    that are in the cache; ``found`` in it before anything was downloaded.
    """

    named: Repository
    snapshot: Snapshot
    listed: bool
    choice: Choice
    where: dict[str, Path]
    found: frozenset[str]

    @property
    def origin(self) -> Origin:
        return Origin(self.named.kind, self.named.repo, self.snapshot.commit)

    @property
    def missing(self) -> list[HubFile]:
        return [file for file in self.choice.files if file.path not in self.where]


async def import_repository(params: ImportParams, node: PublishNode, report: Report) -> Json:
    """Import a repository; returns the JSON object of ``allod import --json``."""
    named = parse_repository(params.ref)
    terms = _terms(params, named)
    read_name(terms, node)
    hub = await trio.to_thread.run_sync(Hub, named, params.cache, params.endpoint)
    snapshot, listed = await _list(hub, params, report)
    wanted = Wanted(params.include, params.exclude)
    choice = await trio.to_thread.run_sync(choose, snapshot.files, wanted, named)
    where = await trio.to_thread.run_sync(_find, hub, snapshot.commit, choice)
    haul = _Haul(named, snapshot, listed, choice, where, frozenset(where))
    _tell(haul, report)
    if params.dry_run:
        return _preview(haul, terms)

    await _gather(hub, haul, report)
    if listed:
        await trio.to_thread.run_sync(hub.remember, snapshot.commit)

    def warn(text: str) -> None:
        report(Note(text, "warning"))

    haul.choice, files = await trio.to_thread.run_sync(look, choice, where, wanted, named, warn)
    try:
        await trio.to_thread.run_sync(read_card, files)
    except UsageError as exc:  # a stranger's card cannot be mended here
        hint = "Leave it out with --exclude README.md, and say the licence with --license."
        raise UsageError(exc.message, next=hint) from exc
    seeds = _seeds(haul, hub.endpoint)
    stock = Stock(
        files,
        lineage=[{"role": ROLE, "uri": haul.origin.uri}],
        otherwise="Give what differs, such as another choice of files, a name of its own: --as.",
        check=Check(Promised(haul.choice.files, haul.where, listed, named), node.store, report),
    )
    terms = _terms(params, named, version=snapshot.commit, web_seeds=seeds)
    result = await publish_files(terms, stock, node, report)
    return result | _told(haul)


def _terms(
    params: ImportParams,
    named: Repository,
    *,
    version: str = "",
    web_seeds: tuple[str, ...] = (),
) -> PublishParams:
    name = params.name or mirror_name(named.repo)
    if "@" in name:
        raise UsageError(
            "The version of what is imported is the Hub's commit, so --as names none.",
            next="Write hf:ORG/REPO@REVISION to choose the commit.",
        )
    return PublishParams(
        folder="",
        name=name,
        kind=named.kind,
        version=version,
        license=params.license,
        description=params.description,
        key=params.key,
        profile=params.profile,
        sha256=params.sha256,
        web_seeds=web_seeds,
        offline=params.offline,
        croissant=False,  # the files are the Hub's, and no others
    )


def _seeds(haul: _Haul, endpoint: str) -> tuple[str, ...]:
    """Return the folder at the Hub as a web seed; none where it is no address for everybody.

    One with a password in it stays here: what is published is signed, and read for ever.
    """
    url = haul.origin.url(endpoint)
    try:
        read_base(url)
    except NoSources:
        return ()
    return (url,)


# --- 1 and 2: what there is, and what of it is wanted ---------------------------------------------


async def _list(hub: Hub, params: ImportParams, report: Report) -> tuple[Snapshot, bool]:
    """Step 1; the second is whether the Hub itself was asked."""
    why = ""
    if not params.cached_only:
        try:
            return await _abandoned(hub.list_files), True
        except Unreachable as exc:
            why = exc.why
    try:
        snapshot = await trio.to_thread.run_sync(hub.cached)
    except NotFound as exc:
        if not why:
            raise
        raise NetworkError(
            f"{hub.endpoint} cannot be reached ({why}), and {exc.message[0].lower()}"
            f"{exc.message[1:]}",
            next="Try again when it can be reached.",
        ) from exc
    asked = f"{hub.endpoint} cannot be reached" if why else "The Hub was not asked"
    report(
        Note(
            f"{asked}: this is what the cache holds of {hub.repository} at {snapshot.commit}, "
            "and whether that is all of it could not be compared.",
            "warning",
        )
    )
    return snapshot, False


def _find(hub: Hub, commit: str, choice: Choice) -> dict[str, Path]:
    found = ((file.path, hub.find(commit, file)) for file in choice.files)
    return {path: place for path, place in found if place is not None}


def _tell(haul: _Haul, report: Report) -> None:
    """Say what is left out, and that not everybody is given it at the Hub."""
    left = list(haul.choice.left)
    if left:
        report(
            Note(
                f"Left out, since others refuse it unless their policy says otherwise: "
                f"{some(left)}; --include '*' --include {left[0]} takes it along.",
                "warning",
            )
        )
    if haul.snapshot.closed:
        report(
            Note(
                f"{haul.named} is not given to everybody at the Hub, and whoever fetches this "
                "release gets it all the same.",
                "warning",
            )
        )


async def _abandoned(work: Callable[[], T]) -> T:
    """Run the library in a thread that a cancel leaves behind: its own timeouts end it."""
    # The stubs that mypy finds are of an older trio.
    found: T = await trio.to_thread.run_sync(work, abandon_on_cancel=True)  # type: ignore[call-arg]
    return found


# --- 3: the bytes ---------------------------------------------------------------------------


async def _gather(hub: Hub, haul: _Haul, report: Report) -> None:
    """Step 3: download what is missing, some files at once, into the cache."""
    missing = haul.missing
    total = sum(file.size for file in missing)
    if missing and not haul.listed:
        raise NotFound(f"The cache {hub.cache} no longer has {missing[0].path}.")
    await trio.to_thread.run_sync(_check_room, hub.cache, total)
    done, stop, turns = 0, Event(), iter(missing)

    def told(size: int) -> None:
        nonlocal done
        done += size  # from several threads: a figure for a bar, and no more
        report(Progress("download", done=done, total=total))

    async def work() -> None:
        for file in turns:
            download = partial(hub.download, haul.snapshot.commit, file, told, stop)
            haul.where[file.path] = await _abandoned(download)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(min(DOWNLOADS, len(missing))):
                nursery.start_soon(work)
    except BaseExceptionGroup as group:
        error = culprit(group)
        if isinstance(error, AllodError):
            raise error from None
        raise
    finally:
        stop.set()
        if haul.missing:  # some are in flight yet
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(abort_downloads)


def _check_room(cache: Path, needed: int) -> None:
    """Say at once, and not after hours, that the disk has no room for the download."""
    while not cache.exists():
        cache = cache.parent
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise DiskFull(
            f"{needed:,} bytes have to be downloaded, but the disk of {cache} has {free:,} left.",
            next="Free some room there, set HF_HOME to a folder on another disk, or choose files "
            "with --include.",
        )


# --- what is told ---------------------------------------------------------------------------------


def _told(haul: _Haul) -> Json:
    return {
        "origin": haul.origin.uri,
        "compared": haul.listed,
        "left": [{"path": path, "format": format} for path, format in haul.choice.left.items()],
        "adopted": sum(file.size for file in haul.choice.files if file.path in haul.found),
        "downloaded": sum(file.size for file in haul.choice.files if file.path not in haul.found),
    }


def _preview(haul: _Haul, terms: PublishParams) -> Json:
    total = sum(file.size for file in haul.choice.files)
    download = sum(file.size for file in haul.missing)
    return {
        "ok": True,
        "dryRun": True,
        "name": terms.name,
        "version": haul.snapshot.commit,
        "kind": haul.named.kind,
        "files": [
            {"path": file.path, "size": file.size, "cached": file.path in haul.where}
            for file in haul.choice.files
        ],
        "bytes": {"total": total, "download": download, "cached": total - download},
    } | _told(haul)
