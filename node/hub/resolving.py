"""From ``org/repo`` and a revision, as the Hub's clients say it, to an open release.

``org/repo`` is, in this order,

1. a release of Allod's: ``org`` is a publisher of this machine, or a petname of its policy;
2. a release that is held here and was imported from that repository at the Hub;
3. a release that a publisher whom the owner knows by name lists as ``org--repo``, which is what
   ``allod import`` calls one, and says to be imported from there.

A publisher without a name is called by its id, or, where something of it is held, by the end of it.
A revision is ``main``, a commit, a version, or a manifest's CID.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from node.hub.origin import (
    COMMIT,
    REPO,
    SHORT,
    Origin,
    commit_of,
    mirror_name,
    origin_of,
    own_commit,
)
from node.naming import taken_back
from node.reading import OpenRelease, Reader
from p2p.cid import CID
from p2p.errors import NetworkError, NotFound, Refused, UsageError
from p2p.manifest import NAME, Kind, Manifest, parse_manifest
from p2p.naming import Named
from p2p.references import PETNAME, publisher_cid

if TYPE_CHECKING:
    from node.fetch import FetchNode
    from node.store import Release

MAIN: Final = ("main", "HEAD", "refs/heads/main")
"""How clients call the newest revision."""


class Missing(Exception):
    """There is no such thing; ``what`` is the Hub's word for it: RepoNotFound, ..."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what
        self.message = message


@dataclass(frozen=True, slots=True)
class Place:
    """Where a repository may be: a publisher's id and a release's name.

    ``meant``: by whoever asked, so that the network is asked too; else it is a guess.
    """

    publisher: str
    name: str
    meant: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A revision of a repository."""

    repo: str
    commit: str
    version: str
    manifest: CID
    date: str


class Repositories:
    """What a node can answer for as if it were the Hub."""

    def __init__(self, node: "FetchNode", reader: Reader) -> None:
        self._node = node
        self._reader = reader
        self._origins: dict[CID, Origin | None] = {}

    async def open(self, kind: Kind, repo: str, revision: str) -> OpenRelease:
        """Return a revision of a repository; Missing, or the errors of ``Reader.open``."""
        if REPO.fullmatch(repo) is None:
            raise Missing("RepoNotFound", f"{repo[:100]!r} is no name of a repository.")
        missing, trouble = None, None
        for place in await self._places(kind, repo):
            try:
                opened = await self._open(place, revision)
            except NotFound:
                continue
            except Missing as exc:
                missing = missing or exc
            except (NetworkError, Refused) as exc:
                if place.meant and isinstance(exc, Refused):
                    raise  # and nobody else's takes its place
                trouble = trouble or exc
            else:
                manifest = opened.manifest
                if manifest.kind == kind and (place.meant or _is_from(manifest, repo)):
                    return opened
        error = missing or trouble
        raise error or Missing("RepoNotFound", f"Nobody whom this node has a name for has {repo}.")

    async def revisions(self, kind: Kind, repo: str) -> list[Listed]:
        """Return the revisions of a repository that are not taken back, the newest first."""
        manifest = (await self.open(kind, repo, "main")).manifest
        main = Listed(repo, commit_of(manifest), manifest.version, manifest.cid, manifest.created)
        entries = await self._entries(manifest.publisher)
        good = [one for one in entries or () if one.name == manifest.name and one.status is None]
        listed = [_listed(repo, one) for one in good if one.manifest != manifest.cid]
        return [main, *sorted(listed, key=lambda one: one.date, reverse=True)]

    async def search(self, kind: Kind, text: str, author: str, limit: int) -> list[Listed]:
        """Return what is held here, or listed by publishers with a name, whose id has the words."""
        words = text.lower().split()
        found: dict[str, Listed] = {}

        def see(repo: str, one: Named) -> None:
            if one.kind != kind or one.status is not None or "--" in repo:  # no id at the Hub
                return
            id = repo.lower()
            mine = not author or id.partition("/")[0] == author.lower()
            if mine and all(word in id for word in words):
                found.setdefault(repo, _listed(repo, one))

        named = await self._named()
        for called, publisher in named.items():
            for one in await self._newest(publisher):
                mirrored = COMMIT.fullmatch(one.version) and "--" in one.name
                see(one.name.replace("--", "/", 1) if mirrored else f"{called}/{one.name}", one)
        held = {release.manifest_cid: release for release in await self._node.store.releases()}
        publishers = {release.publisher for release in held.values()}
        for publisher in sorted(publishers.difference(named.values())):
            for one in await self._newest(publisher):
                if one.manifest in held:
                    see(f"{publisher[-SHORT:]}/{one.name}", one)
        return sorted(found.values(), key=lambda one: one.date, reverse=True)[:limit]

    # -- places

    async def _named(self) -> dict[str, str]:
        """Return the publishers whom the owner has a name for; own names go before petnames."""
        return {**self._node.petnames(), **await self._reader.voices.ids()}

    async def _places(self, kind: Kind, repo: str) -> list[Place]:
        named = await self._named()
        owner, _, name = repo.rpartition("/")
        found = []
        if owner in named:
            found.append(Place(named[owner], name, meant=True))
        elif owner and PETNAME.fullmatch(owner) and _is_id(owner):
            found.append(Place(owner, name, meant=True))
        known = frozenset(named.values())  # a stranger's word on where it comes from is none
        for release in await self._node.store.releases():
            if owner and owner == release.publisher[-SHORT:] and name == release.name:
                found.append(Place(release.publisher, name, meant=True))
            imported = release.kind == kind and COMMIT.fullmatch(release.version)
            if imported and release.publisher in known:
                origin = await self._origin(release)
                if origin is not None and origin.repo == repo:
                    found.append(Place(release.publisher, release.name))
        found += [Place(publisher, mirror_name(repo)) for publisher in sorted(known)]
        return list(dict.fromkeys(found))

    async def _origin(self, release: "Release") -> Origin | None:
        """Return from where a held release was imported; remembered, for it never changes."""
        cid = release.manifest_cid
        if cid not in self._origins:
            statement = await self._node.store.statement(cid)
            if statement is None:
                return None
            payload = statement.payload
            manifest = await trio.to_thread.run_sync(parse_manifest, payload)
            self._origins[cid] = origin_of(manifest)
        return self._origins[cid]

    # -- revisions

    async def _open(self, place: Place, revision: str) -> OpenRelease:
        """Return the revision at a place; NotFound for no repository, Missing for no revision."""
        if NAME.fullmatch(place.name) is None:
            raise NotFound(f"No release is called {place.name[:100]}.")
        whole = f"{place.publisher}/{place.name}"
        entries = await self._entries(place.publisher)
        listed = [one for one in entries or () if one.name == place.name]
        if not listed and not place.meant and entries is not None:
            raise NotFound(f"{place.publisher} lists no release {place.name}.")
        if revision in MAIN:
            return await self._reader.open(whole)
        found = _find(listed, revision)
        if found is None and (entries is None or not listed):
            await self._reader.open(whole)  # so that what the publisher lists is here
            entries = await self._entries(place.publisher)
            found = _find([one for one in entries or () if one.name == place.name], revision)
        if found is None:
            raise Missing("RevisionNotFound", f"{whole} has no revision {revision[:100]!r}.")
        if found.status is not None:
            raise taken_back(found.path, found.status)
        return await self._reader.open(f"{whole}@{found.manifest}")

    async def _newest(self, publisher: str) -> list[Named]:
        """Return what a publisher lists, as far as it is known here, the newest first."""
        return sorted(await self._entries(publisher) or (), key=lambda one: -one.sequence)

    async def _entries(self, publisher: str) -> Sequence[Named] | None:
        """Return what a publisher lists, as far as it is known here."""
        names = await self._reader.voices.names(publisher)
        if names is None:
            names = await self._node.store.publishers.names(publisher)
        return names.entries if names is not None else None


def _is_from(manifest: Manifest, repo: str) -> bool:
    origin = origin_of(manifest)
    return origin is not None and origin.repo == repo


def _find(listed: Sequence[Named], revision: str) -> Named | None:
    return next(
        (one for one in listed if revision in (_commit(one), one.version, str(one.manifest))), None
    )


def _commit(named: Named) -> str:
    """Return the commit of a listed release: an import's is its version."""
    if COMMIT.fullmatch(named.version) is not None:
        return named.version
    return own_commit(named.manifest)


def _listed(repo: str, named: Named) -> Listed:
    return Listed(repo, _commit(named), named.version, named.manifest, named.added)


def _is_id(text: str) -> bool:
    try:
        publisher_cid(text)
    except UsageError:
        return False
    return True
