"""Getting the statement of a release from strangers: manifest, signatures, list of files.

Nothing large moves before ``read_statement`` has returned.
The manifest is addressed by its hash, so whoever sends other bytes is lying; what the right bytes
say, and whether its publisher signed it, is the publisher's doing and not the source's.
"""

from collections.abc import Collection
from dataclasses import dataclass

import trio

from node.assembly import Assembly, Wanted
from node.crew import Crew, Get, Unproved
from node.messages import Report
from node.naming import read_source, refresh
from node.store import Store
from node.transfer import Transfer
from p2p.bundles import MAX_TOTAL, keep_bundles
from p2p.cid import CID, Codec
from p2p.dag import Outline, max_outline
from p2p.envelope import MAX_BUNDLES, signers
from p2p.errors import NetworkError, NotFound, VerificationFailed
from p2p.keys import PublicKey
from p2p.manifest import MAX_MANIFEST, Listing, Manifest, parse_manifest
from p2p.naming import authenticate

MAX_ANSWER = MAX_TOTAL
SEVERAL = 3  # sources whose bundles are put together
ASK_WITHIN = 2.0  # seconds; who takes longer to say what others say may say it another time


@dataclass(frozen=True, slots=True)
class Statement:
    """What a publisher said of a release, verified: who signed, what is in it."""

    manifest: Manifest
    bundles: tuple[bytes, ...]
    listing: bytes | None


async def read_statement(
    cid: CID,
    publisher: str | None,
    store: Store,
    crew: Crew,
    report: Report,
    *,
    listed: bool = True,
    trusted: Collection[str] = (),
) -> Statement:
    """Return the verified statement of a release, from the store or from the crew's sources.

    Its publisher's metadata is in the store afterwards; without ``listed`` a list of files that
    is not part of the manifest is left where it is. Where there is no room for the word of all,
    that of the ``trusted`` publishers goes before that of strangers.
    VerificationFailed when it is malformed, not signed by its publisher, or by another publisher
    than was asked for; NotFound or NoSources when nobody has it.
    """
    known = await store.manifest(cid)
    if known is not None:
        payload, bundles, listing = known
    else:
        payload = await crew.ask(
            f"the manifest {cid}",
            f"/allod/v1/manifest/{cid}",
            MAX_MANIFEST,
            lambda data: _addressed(cid, data),
        )
        bundles, listing = (), None
    manifest = await trio.to_thread.run_sync(parse_manifest, payload, listing)
    if publisher not in (None, manifest.publisher):
        raise VerificationFailed(
            f"The release was to be by {publisher}, but its manifest is by {manifest.publisher}.",
            next="Ask whoever gave you the link for the right one.",
        )
    if known is None:
        bundles = await _read_signatures(cid, manifest, store, crew)
        bundles = await _with_others(cid, manifest, bundles, store, crew, trusted)
    else:
        bundles = await _check_signatures(cid, manifest, bundles, store, crew)
        if await hear_others(cid, manifest.publisher, store, crew, trusted):
            statement = await store.statement(cid)
            bundles = statement.bundles if statement is not None else bundles
    if listed and manifest.listing is not None and listing is None:
        listing = await _read_listing(cid, manifest.listing, store, crew, report)
        manifest = await trio.to_thread.run_sync(parse_manifest, payload, listing)
    return Statement(manifest, bundles, listing)


async def _check_signatures(
    cid: CID, manifest: Manifest, bundles: tuple[bytes, ...], store: Store, crew: Crew
) -> tuple[bytes, ...]:
    """Return the bundles that are held, checked by what is known of the publisher's keys today."""
    held = await store.publishers.get(manifest.publisher)
    try:
        if held is None:
            raise VerificationFailed(f"Nothing is held of the keys of {manifest.publisher}.")
        await trio.to_thread.run_sync(authenticate, manifest.payload, bundles, held)
        return bundles
    except VerificationFailed as exc:  # the disk may have lost something, or a key was replaced
        try:
            return await _read_signatures(cid, manifest, store, crew)
        except (NetworkError, NotFound):
            raise exc from None


async def _read_signatures(
    cid: CID, manifest: Manifest, store: Store, crew: Crew
) -> tuple[bytes, ...]:
    """Return the bundles of a manifest, its publisher's first, from a source that has them right.

    Those in which others say something of the release are among them. What the publisher says of
    its keys is kept on the way: it is what they are checked by.
    """
    publisher, payload = manifest.publisher, manifest.payload
    names = await store.publishers.names(publisher)
    if names is None or names.of(cid) is None:  # the first source will do: who has the CID, has it
        await refresh(publisher, store, crew, linger=0.0)

    async def visit(get: Get) -> tuple[bytes, ...]:
        data = await get(f"/allod/v1/bundles/{cid}", MAX_ANSWER)
        lines = data.split(b"\n", MAX_BUNDLES)[:MAX_BUNDLES]
        known = await store.publishers.get(publisher)
        assert known is not None
        try:
            await trio.to_thread.run_sync(authenticate, payload, lines, known)
        except VerificationFailed:
            if not (await trio.to_thread.run_sync(signers, payload, lines))[0]:
                raise  # no signature at all: no node keeps such a release
            # Keys may have been replaced since, and this source may know of it, or be behind.
            came = await read_source(get, publisher, known)
            try:
                kept = await store.publishers.put(publisher, came)
                await trio.to_thread.run_sync(authenticate, payload, lines, kept)
            except VerificationFailed as exc:
                raise Unproved(exc.message, next=exc.next) from exc
        owners = await store.publishers.keys(publisher)
        return await trio.to_thread.run_sync(keep_bundles, payload, (), lines, owners)

    return (await crew.visit(f"the signatures of {cid}", visit))[0]


async def _with_others(
    cid: CID,
    manifest: Manifest,
    bundles: tuple[bytes, ...],
    store: Store,
    crew: Crew,
    trusted: Collection[str],
) -> tuple[bytes, ...]:
    """Return the bundles of a release that is new here, with those that other sources have."""
    if len(list(crew.active)) > 1:  # else the one who is there has given his already
        owners, known = await _keys(manifest.publisher, store, trusted)
        for lines in await ask_around(cid, crew):
            bundles = await trio.to_thread.run_sync(
                keep_bundles, manifest.payload, bundles, lines, owners, known
            )
    return bundles


async def hear_others(
    cid: CID, publisher: str, store: Store, crew: Crew, trusted: Collection[str] = ()
) -> int:
    """Keep what the sources that are there now know of a release that is held here.

    Returns how many statements are new.
    """
    answers = await ask_around(cid, crew)
    owners, known = await _keys(publisher, store, trusted)
    return sum([await store.add_bundles(cid, lines, owners, known) for lines in answers])


async def _keys(
    publisher: str, store: Store, trusted: Collection[str]
) -> tuple[frozenset[PublicKey], set[PublicKey]]:
    """Return a publisher's keys, and those of all whom the owner trusts: their word comes first.

    Not of all whose keys are known here: anybody gets known by one release that is fetched.
    """
    known = {key for one in trusted for key in await store.publishers.keys(one)}
    return await store.publishers.keys(publisher), known


async def ask_around(cid: CID, crew: Crew) -> list[list[bytes]]:
    """Return what each of several sources has of the bundles of a release, unverified.

    Who holds a release knows its publisher's; what others say of it is not with everybody.
    """
    target = f"/allod/v1/bundles/{cid}"
    answers = await crew.poll(target, MAX_ANSWER, count=SEVERAL, within=ASK_WITHIN)
    return [data.split(b"\n", MAX_BUNDLES)[:MAX_BUNDLES] for data in answers]


async def read_outline(cid: CID, size: int, store: Store, crew: Crew) -> Outline:
    """Return the Outline of a file of ``size`` bytes, from the store or a source, verified."""
    if cid.codec is Codec.RAW:
        return Outline.single(cid, size)
    outline = await store.outline(cid)
    if outline is None:
        outline = await crew.ask(
            f"the outline of {cid}",
            f"/allod/v1/outline/{cid}",
            max_outline(size),
            lambda data: Outline.decode(cid, data),
        )
    if outline.size != size:  # no fault of the source: the CID binds what it sent
        raise VerificationFailed(
            f"The manifest says that {cid} has {size} bytes, but it has {outline.size}.",
            next="Tell the publisher: nobody can fetch this file.",
        )
    return outline


async def _read_listing(
    release: CID, listing: Listing, store: Store, crew: Crew, report: Report
) -> bytes:
    """Fetch the list of files of a large release: a file like any other."""
    outline = await read_outline(listing.cid, listing.size, store, crew)
    async with Assembly(store, [Wanted("the list of files", outline)]) as assembly:
        missing = [await assembly.survey(0)]
        await Transfer(release, assembly, missing, crew, report).run()
        await assembly.finish_all()
        return await assembly.read(0, 0, listing.size)


def _addressed(cid: CID, data: bytes) -> bytes:
    if not cid.matches(data):
        raise VerificationFailed(f"It sent {len(data)} bytes that are not the manifest {cid}.")
    return data
