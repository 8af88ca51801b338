"""Names: from ``alice/tiny-llm`` to the manifest that alice means by it now.

Who ``alice`` is, this machine says: one of its own publishers, or a petname of its policy.
What alice says is metadata that she signed, and that anybody may pass on: several strangers are
asked for it, what each gives is verified by itself, and the newest is kept, never an older one.

Whose fault is what:

- a source whose files contradict each other lies, and is banned: nodes verify what they keep;
- a source that is behind (it has an older set, and a whole one) is no liar;
- what is sound, and contradicts what this node has seen before, was signed with the publisher's
  keys: nobody is banned for passing it on, and nothing of it is kept.

Expired metadata is kept, for it may be all that there is; who goes by a name is told that it is
stale, and a release that is named by its CID does not need it fresh.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import trio

from node.crew import Crew, Get, Unproved
from node.keyring import Keyring
from node.messages import Note
from node.store import Store
from p2p.errors import (
    NetworkError,
    NotFound,
    PeerRefused,
    Refused,
    TooMuch,
    UsageError,
    VerificationFailed,
)
from p2p.naming import (
    MAX_ALL_ROOTS,
    MAX_ROOTS,
    TIMESTAMP,
    Metadata,
    Named,
    Names,
    Status,
    file_limit,
    read_names,
    root_file,
    snapshot_file,
    targets_file,
)
from p2p.references import Reference, publisher_cid

SOURCES = 3
"""Sources that are asked what a name means: one may be behind, and one may be a thief's."""
LINGER = 4.0
"""Seconds that the others may take longer than the first of them."""


class NamingNode(Protocol):
    """What names need of a node."""

    @property
    def store(self) -> Store: ...
    @property
    def keyring(self) -> Keyring: ...
    def petnames(self) -> Mapping[str, str]:
        """What this node's owner calls publishers, and their ids."""
        ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means: whose release, and how it is listed; ``stale``: it may be out of date."""

    publisher: str
    named: Named
    stale: bool


# -- who


def whose(text: str, node: NamingNode) -> str:
    """Return the id of the publisher that a reference names by id, petname or own key.

    ``NotFound`` for a name that means nobody here.
    """
    if text in node.keyring.names():
        return node.keyring.repository(text).id
    petnames = node.petnames()
    if text in petnames:
        return petnames[text]
    try:
        return str(publisher_cid(text))
    except UsageError as exc:
        raise NotFound(
            f"Nobody is called {text!r} on this node.",
            next=f"`allod trust add ID --as {text}` gives a publisher that name; a share link "
            "names the publisher by id.",
        ) from exc


# -- what


async def resolve(
    reference: Reference, node: NamingNode, crew: Crew | None, *, now: datetime
) -> Resolved:
    """Return the release that a reference without a CID names now.

    ``crew`` None asks nobody. NotFound for what the publisher does not list, Refused for what it
    took back, VerificationFailed for metadata that is false, or the network's errors. What has
    expired is told, and for the policy to judge.
    """
    assert reference.publisher is not None
    assert reference.name is not None
    publisher = whose(reference.publisher, node)
    own = await own_names(publisher, node)
    if own is not None:
        names: Names | None = own
    elif crew is None:
        names = await node.store.publishers.names(publisher)
    else:
        names = await refresh(publisher, node.store, crew)
    if names is None:
        raise NotFound(
            f"Nothing is known here of what {reference.publisher} publishes.",
            next="Leave --offline out, or fetch by a share link or a manifest CID.",
        )
    named = _find(names, reference)
    stale = names.stale(now) and own is None
    if stale and crew is not None:
        told = f"what {reference.publisher} says of its names expired on {names.expires:%Y-%m-%d}"
        crew.report(Note(f"Freeze: {told}, and nobody has anything newer.", "warning"))
    return Resolved(publisher, named, stale)


def _find(names: Names, reference: Reference) -> Named:
    """Find what a reference names among what its publisher lists."""
    assert reference.name is not None
    named = names.find(reference.name, reference.version)
    listed = [one for one in names.entries if one.name == reference.name]
    if named is None and listed and reference.version is None:
        named = listed[-1]  # all of them were taken back: the newest says why
    if named is None:
        raise NotFound(
            f"{reference.publisher} lists no release {_release(reference)}.",
            next=f"The newest version of it is {listed[-1].version}."
            if listed
            else "Check the name; `allod fetch` takes a share link or a manifest CID too.",
        )
    if named.status is not None:
        raise taken_back(named.path, named.status)
    return named


def _release(reference: Reference) -> str:
    return f"{reference.name}@{reference.version}" if reference.version else str(reference.name)


def taken_back(what: str, status: Status) -> Refused:
    """Return the error for a release that its publisher took back."""
    did = "withdrew its consent to" if status.state == "withdrawn" else "revoked"
    return Refused(
        f"The publisher {did} {what} on {status.at[:10]} ({status.reason}).",
        next="Use another version, or ask the publisher.",
        taken_back=True,
    )


# -- asking for metadata


async def refresh(
    publisher: str,
    store: Store,
    crew: Crew,
    *,
    sources: int = SOURCES,
    linger: float = LINGER,
    leave: bool = False,
) -> Names:
    """Ask sources for a publisher's metadata, keep the newest, and return what it says.

    What is held already counts where nobody can be asked; it may be stale. ``linger`` and ``leave``
    as in ``Crew.visit``. VerificationFailed when all that came is false, or contradicts what is
    held; NotFound or NoSources for nothing at all.
    """
    held = await store.publishers.held(publisher)
    known = held.metadata if held is not None else None

    async def visit(get: Get) -> None:
        came = await read_source(get, publisher, known)
        try:
            await store.publishers.put(publisher, came)
        except VerificationFailed as exc:  # sound in itself: see above
            raise Unproved(exc.message, next=exc.next) from exc

    what = f"what the publisher {publisher} says"
    try:
        await crew.visit(what, visit, wanted=sources, linger=linger, leave=leave)
    except (NetworkError, NotFound) as exc:
        if held is None:
            raise
        crew.report(Note(f"Nobody could be asked {what}: {exc.message}"))
        return held.names
    names = await store.publishers.names(publisher)
    assert names is not None
    return names


async def read_source(get: Get, publisher: str, known: Metadata | None) -> Metadata:
    """Return the metadata that one source has, sound in itself; ``known`` spares asking again.

    VerificationFailed for a source that lies, PeerRefused where it has none.
    """
    try:
        came = await _read(get, publisher, known)
        if came != known:
            await trio.to_thread.run_sync(_check, publisher, came)
    except (VerificationFailed, PeerRefused):
        # It may have changed while it was read, or the source knows fewer roots: all of it again.
        came = await _read(get, publisher, None)
        await trio.to_thread.run_sync(_check, publisher, came)
    return came


def _check(publisher: str, came: Metadata) -> None:
    read_names(publisher, came, now=None)


async def _read(get: Get, publisher: str, known: Metadata | None) -> Metadata:
    """Read one set, as TUF's client does: roots upwards, then from the timestamp down."""

    async def file(name: str) -> bytes:
        limit = file_limit(name)
        if limit is None:
            raise VerificationFailed(f"It names a file of the publisher's metadata {name!r}.")
        try:
            return await get(f"/allod/v1/publisher/{publisher}/{name}", limit)
        except TooMuch as exc:
            raise VerificationFailed(
                f"Endless data: {name} of the publisher {publisher} was asked for. {exc.message}",
                next="Ask another source.",
            ) from exc

    roots = list(known.roots) if known is not None else [await file(root_file(1))]
    while len(roots) < MAX_ROOTS and sum(map(len, roots)) <= MAX_ALL_ROOTS:
        try:
            roots.append(await file(root_file(len(roots) + 1)))
        except PeerRefused as exc:
            if exc.status != 404:
                raise
            break
    timestamp = await file(TIMESTAMP)
    if known is not None and timestamp == known.timestamp:
        return Metadata(tuple(roots), timestamp, known.snapshot, known.targets)
    name = snapshot_file(timestamp)
    same = known is not None and snapshot_file(known.timestamp) == name
    snapshot = known.snapshot if known is not None and same else await file(name)
    name = targets_file(snapshot)
    same = known is not None and targets_file(known.snapshot) == name
    targets = known.targets if known is not None and same else await file(name)
    return Metadata(tuple(roots), timestamp, snapshot, targets)


# -- this machine's own publishers


async def own_names(publisher: str, node: NamingNode) -> Names | None:
    """Return what one of this machine's own publishers says; None for anybody else's id."""
    repository = await trio.to_thread.run_sync(node.keyring.find, publisher)
    if repository is None:
        return None
    await node.store.publishers.put(publisher, await trio.to_thread.run_sync(repository.metadata))
    return await node.store.publishers.names(publisher)
