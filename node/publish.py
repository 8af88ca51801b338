"""Publish: from a folder to a signed release that others can find. Reads top to bottom.

    1  walk        which files the folder has, and whether a release may name them
    2  add         one pass over the bytes: leaves, Outlines, CIDs; the files stay where they are
    3  state       the manifest: files, licence, consent, lineage; a dataset is described as well
    4  sign        with the publisher's key, which is not the node's
    5  record      one transaction; from here on the release is held
    6  list        among the publisher's releases, signed too; from here on its name means it
    7  announce    if this node is on the network; else the next one that runs here does it
    8  model.sig   for other tools; it takes longest, so it comes last, or in the background

Files that lie in no folder of the publisher's (``Stock``) go the same way from step 2 on.
Publishing the same again changes nothing and gives the same link.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import trio

from node.describe import describe
from node.importers.croissant import About, wants_croissant
from node.importers.folder import FoundFile, walk_folder
from node.importers.parts import read_parts
from node.importers.suffixes import media_type
from node.keyring import Keyring
from node.lineage import license_findings, resolve_parents
from node.messages import Note, Progress, PublishParams, Report
from node.model_sig import sign_model
from node.publisher import Repository, Waiting
from node.store import Added, Store
from node.upkeep import release_keys
from p2p.bundles import is_model_signature
from p2p.chunking import Profile
from p2p.cid import CID
from p2p.envelope import sign_bundle
from p2p.errors import NotFound, UsageError
from p2p.keys import SecretKey
from p2p.manifest import (
    NAME,
    VERSION,
    Built,
    FileEntry,
    Manifest,
    build_manifest,
    parse_manifest,
)
from p2p.naming import Metadata, Named, Names
from p2p.references import share_link


class PublishNode(Protocol):
    """What publishing needs of a node."""

    @property
    def store(self) -> Store: ...
    @property
    def keyring(self) -> Keyring: ...
    @property
    def default_key(self) -> str:
        """The publisher key that signs when none is named."""
        ...

    def petnames(self) -> Mapping[str, str]:
        """What this node's owner calls publishers, and their ids."""
        ...

    def spread(self, cids: list[CID]) -> list[str]:
        """Announce these if this node is on the network; its addresses, none if it is not."""
        ...

    def sign_later(self, cid: CID) -> bool:
        """Have a marked release get its model.sig in the background; False without one."""
        ...


Check = Callable[[Mapping[str, CID]], Awaitable[Mapping[str, str]]]
"""Compares files that were taken in, by path, with what they must be: raises, or returns the
SHA-256 of those of which the manifest is to state it."""


@dataclass(frozen=True, slots=True)
class Stock:
    """Files to publish, wherever they lie, and what is known of them beforehand.

    ``lineage``: entries that come before those of the card and the publisher. ``otherwise``: what
    one can do if the version is published with other content. ``check``: see there.
    """

    files: Sequence[FoundFile]
    lineage: Sequence[Mapping[str, Any]] = ()
    otherwise: str = "Publish this content under another version."
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """What ``--as`` says: whose release, its name, its version."""

    key: str
    name: str
    version: str


async def publish(params: PublishParams, node: PublishNode, report: Report) -> dict[str, Any]:
    """Publish a folder, or one file; returns the JSON object of ``allod publish --json``."""
    read_name(params, node)
    found = await trio.to_thread.run_sync(walk_folder, Path(params.folder))
    return await publish_files(params, Stock(found), node, report)


async def publish_files(
    params: PublishParams, stock: Stock, node: PublishNode, report: Report
) -> dict[str, Any]:
    """Publish files, wherever they lie; ``params.folder`` is not looked at."""
    called, found = read_name(params, node), stock.files
    repository = node.keyring.repository(called.key)
    publisher, key, metadata = await trio.to_thread.run_sync(_look_at, repository)
    await node.store.publishers.put(publisher, metadata)
    listed = await node.store.publishers.names(publisher)
    assert listed is not None
    profile = _profile(params.profile)

    params = await resolve_parents(params, node.store, node.keyring, node.petnames(), report)
    parts = await trio.to_thread.run_sync(read_parts, params, found)
    parts.lineage[:0] = [dict(entry) for entry in stock.lineage]
    added = await _add(found, profile, node.store, report)
    sums: Mapping[str, str] = {}
    if stock.check is not None:
        cids = {file.path: one.outline.root for file, one in zip(found, added, strict=True)}
        sums = await stock.check(cids)
    files = [
        FileEntry(
            path=file.path,
            size=one.size,
            cid=one.outline.root,
            dag_size=one.outline.dag_size,
            sha256=sums.get(file.path),
            media_type=media_type(file.path),
        )
        for file, one in zip(found, added, strict=True)
    ]

    earlier = await _earlier(node.store, publisher, called, listed)
    newest = max(
        (one for one in listed.entries if one.name == called.name),
        key=lambda one: one.sequence,
        default=None,
    )
    about = About(
        publisher=publisher,
        name=called.name,
        version=called.version or _next_version(newest or earlier),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        parts=parts,
        description=params.description,
        web_seeds=params.web_seeds,
    )
    if params.croissant and wants_croissant(found, parts, params.kind):
        entry, one = await describe(found, about, earlier, profile, node.store)
        files.append(entry)
        added.append(one)
        parts.docs["croissant"] = entry.path
    built = _state(about, files, profile, newest)
    if earlier is not None and _says_the_same(earlier, built.manifest, called.version):
        report(Note("This very release is published already; nothing changes."))
        waiting = await _list(repository, earlier, node.store, report)
        result = _result(earlier, added, node, waiting)
        return result | {"modelSig": await _model_sig(params, earlier, key, node, report)}
    if called.version and listed.find(called.name, called.version) is not None:
        raise UsageError(
            f"Version {called.version} of {called.name} is published with other content.",
            next=stock.otherwise,
        )

    if earlier is not None:
        await _tell_of_edits(node.store, earlier, built.manifest, report)
    bundle = sign_bundle(built.manifest.payload, key)
    if built.listing_bytes is not None:
        await node.store.add_bytes(built.listing_bytes, Profile.FIXED_1M)
    await node.store.record(
        built.manifest,
        [bundle],
        pin=True,
        complete=True,
        petname=called.key,
        linked={file.path: file.file for file in found},
        directory_blocks=built.tree.blocks,
    )
    await node.store.view(built.manifest)
    for finding in await license_findings(node.store, built.manifest):
        report(Note(finding.text, "warning" if finding.level == "problem" else "info"))
    waiting = await _list(repository, built.manifest, node.store, report)
    result = _result(built.manifest, added, node, waiting)
    return result | {"modelSig": await _model_sig(params, built.manifest, key, node, report)}


def read_name(params: PublishParams, node: PublishNode) -> Called:
    """Read ``[PUBLISHER/]NAME[@VERSION]``; the publisher is a key of this machine."""
    rest, _, version = params.name.partition("@")
    owner, slash, name = rest.rpartition("/")
    if version and params.version and version != params.version:
        raise UsageError(f"The version is {version} in --as and {params.version} in --version.")
    if slash and params.key and owner != params.key:
        raise UsageError(f"The publisher is {owner} in --as and {params.key} in --key.")
    if NAME.fullmatch(name) is None:  # said now, and not after hours of hashing
        raise UsageError(
            f"A release's name has letters, digits, '.', '_' and '-', this is {name[:80]!r}.",
            next="Write --as NAME, --as PUBLISHER/NAME or --as PUBLISHER/NAME@VERSION.",
        )
    version = params.version or version
    if version and VERSION.fullmatch(version) is None:
        raise UsageError(
            f"A version has at most 40 letters, digits, '.', '_', '+' and '-', "
            f"this is {version[:80]!r}.",
            next="Leave it out, and the versions are counted.",
        )
    key = owner or params.key
    if not key:
        names = node.keyring.names()
        key = names[0] if len(names) == 1 else node.default_key
        if key not in names:
            raise NotFound(
                f"No publisher was named, and this machine has no key called {key!r}.",
                next="Make one with `allod key new NAME`, and publish --as NAME/RELEASE.",
            )
    return Called(key, name, version)


def _profile(text: str) -> Profile:
    try:
        return Profile(text or Profile.TENSOR_1M)
    except ValueError as exc:
        known = ", ".join(Profile)
        raise UsageError(f"The profile is one of {known}, not {text!r}.") from exc


async def _add(
    found: Sequence[FoundFile], profile: Profile, store: Store, report: Report
) -> list[Added]:
    """Step 2: take the files in, with progress; the answers are in the order of ``found``."""
    total, done = sum(file.size for file in found), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        report(Progress("hash", done=done, total=total))

    files = [(file.file, file.path) for file in found]
    return await store.add_many(files, profile, progress=count)


def _look_at(repository: Repository) -> tuple[str, SecretKey, Metadata]:
    """The publisher's id, the key that signs its releases, and what it says."""
    return repository.id, repository.signer, repository.metadata()


async def _earlier(store: Store, publisher: str, called: Called, listed: Names) -> Manifest | None:
    """The release that this one follows: of its version if that was published, else the last.

    Not one that was taken back: the same content is published anew then, or not at all.
    """
    taken = {one.manifest for one in listed.entries if one.status is not None}
    releases = [
        release
        for release in await store.releases()
        if release.publisher == publisher
        and release.name == called.name
        and release.manifest_cid not in taken
    ]
    same = [release for release in releases if release.version == called.version]
    if not releases:
        return None
    release = max(same or releases, key=lambda one: one.added)
    known = await store.manifest(release.manifest_cid)
    if known is None:
        return None
    payload, _, listing = known
    return parse_manifest(payload, listing)


async def _tell_of_edits(
    store: Store, earlier: Manifest, manifest: Manifest, report: Report
) -> None:
    """Say so when an edit in place took the earlier version's bytes from this store."""
    release = await store.release(earlier.cid)
    if release is None or not release.complete:
        return
    now = {entry.path: entry.cid for entry in manifest.files}
    changed = [one for one in earlier.files if one.cid != now.get(one.path, one.cid)]
    held = await store.has_many({entry.cid for entry in changed})
    gone = [entry.path for entry in changed if entry.cid not in held]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        report(
            Note(
                f"{gone[0]}{more} was edited in place, so version {earlier.version} is no longer "
                "whole on this machine; replace files to keep earlier versions.",
                "warning",
            )
        )


def _state(about: About, files: list[FileEntry], profile: Profile, newest: Named | None) -> Built:
    """Step 3: the manifest; UsageError when something in it cannot be said.

    ``newest`` is what the publisher listed last under that name, whether or not it is held here.
    """
    parts = about.parts
    return build_manifest(
        kind=parts.kind,
        publisher=about.publisher,
        name=about.name,
        version=about.version,
        created=about.created,
        files=files,
        profile=profile,
        supersedes=newest.manifest if newest is not None else None,
        web_seeds=about.web_seeds,
        license=parts.license,
        consent=parts.consent,
        lineage=parts.lineage,
        docs=parts.docs,
        description=about.description,
    )


def _next_version(earlier: Manifest | Named | None) -> str:
    """Count 1, 2, 3; after a version that is no number, the day and the time."""
    if earlier is None:
        return "1"
    if earlier.version.isdecimal():
        return str(int(earlier.version) + 1)
    return datetime.now(UTC).strftime("%Y.%m.%d-%H%M%S")


def _says_the_same(old: Manifest, new: Manifest, version: str) -> bool:
    """Whether a new manifest says nothing that the old one does not: only its date differs."""
    if version and old.version != version:
        return False
    if _description(old) != _description(new):
        return False
    return all(
        getattr(old, name) == getattr(new, name)
        for name in (
            "kind",
            "root",
            "profile",
            "license",
            "consent",
            "lineage",
            "web_seeds",
            "docs",
        )
    )


def _description(manifest: Manifest) -> object:
    return manifest.statement["predicate"].get("description")


async def _model_sig(
    params: PublishParams, manifest: Manifest, key: SecretKey, node: PublishNode, report: Report
) -> str:
    """Step 8: make the model.sig now, or have it made; say which."""
    statement = await node.store.statement(manifest.cid)
    if statement is not None and any(map(is_model_signature, statement.bundles)):
        return "made"
    if not params.sha256:
        return "none"
    await node.store.want_model_signature(manifest.cid, True)
    if node.sign_later(manifest.cid):
        return "later"
    made = await sign_model(manifest.cid, key, node.store, report)
    await node.store.want_model_signature(manifest.cid, False)
    return "made" if made else "none"


async def _list(
    repository: Repository, manifest: Manifest, store: Store, report: Report
) -> Waiting | None:
    """Step 6: list the release; what waits for others' signatures is returned."""
    done = await trio.to_thread.run_sync(repository.add, manifest.payload)
    metadata = await trio.to_thread.run_sync(repository.metadata)
    await store.publishers.put(manifest.publisher, metadata)
    if not isinstance(done, Waiting):
        return None
    report(
        Note(
            f"The release needs {done.missing} more signature{'s' if done.missing > 1 else ''} "
            f"before it counts: send {done.path} round, for `allod key sign`.",
            "warning",
        )
    )
    return done


def _result(
    manifest: Manifest, added: list[Added], node: PublishNode, waiting: Waiting | None
) -> dict[str, Any]:
    """Step 7, and the JSON object."""
    peers = [] if waiting else node.spread(release_keys(manifest))
    new = sum(one.size for one in added if one.method != "present")
    return {
        "ok": True,
        "ref": share_link(manifest.publisher, manifest.name, manifest.cid, peers),
        "manifest": str(manifest.cid),
        "root": str(manifest.root),
        "publisher": manifest.publisher,
        "name": manifest.name,
        "version": manifest.version,
        "kind": manifest.kind,
        "license": manifest.license.get("spdx", ""),
        "files": [
            {"path": entry.path, "size": entry.size, "cid": str(entry.cid)}
            for entry in manifest.files
        ],
        "bytes": {"total": manifest.size, "new": new, "shared": manifest.size - new},
        "announced": bool(peers),
        "waiting": waiting
        and {
            "file": str(waiting.path),
            "missing": waiting.missing,
            "asks": [key.did for key in waiting.asks],
        },
    }
