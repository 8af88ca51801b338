"""``allod fetch --hf-cache``: a release in the cache of Hugging Face's clients, by links.

What the library makes of a download, and finds again with no network at all:

    models--alice--tiny/blobs/ETAG             the bytes: git's SHA-1 of small files, else SHA-256
    models--alice--tiny/snapshots/COMMIT/PATH  a relative link to a blob
    models--alice--tiny/refs/main              the commit

A blob shares the bytes of the store's file: by reflink, by hard link, or, on another disk, by a
symbolic link. The ref comes last, so that whoever reads meanwhile sees all files or the commit
before. What is there already is never replaced by other bytes: a blob is named by its hash, and a
commit at the Hub has one content, so that a difference is somebody's lie or a damaged disk.

Layout: huggingface_hub's file_download.py.
"""

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from node.export import make_place
from node.gate import Gate
from node.hub.origin import SHORT, commit_of, is_large, origin_of
from node.messages import FetchParams, Note, Progress, Report
from node.naming import NamingNode
from node.store import durable
from p2p.cid import CID
from p2p.errors import UsageError, VerificationFailed
from p2p.manifest import FileEntry, Manifest, parse_manifest
from p2p.references import SCHEME, parse_reference

Json = dict[str, Any]

MAIN: Final = "main"

# What huggingface_hub's validate_repo_id lets pass.
_ID: Final = re.compile(r"(?:\b[\w.-]+\b/)?\b[\w.-]{1,96}\b", re.ASCII)
_MAX_ID: Final = 96


class CacheNode(NamingNode, Protocol):
    """What this needs of a node."""

    @property
    def gate(self) -> Gate: ...


@dataclass(frozen=True, slots=True)
class _File:
    """A file that goes into the cache: its path, its ETag, where its bytes are, how many."""

    path: str
    etag: str
    source: Path
    size: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a cache a commit of a repository lies."""

    folder: Path
    commit: str

    @classmethod
    def of(cls, cache: str, kind: str, repo: str, commit: str) -> "_Place":
        """``cache`` is cleared of ``..``, since links are compared by their words."""
        folder = f"{kind}s--{repo.replace('/', '--')}"
        return cls(Path(os.path.normpath(cache)) / folder, commit)

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshots" / self.commit

    def blob(self, file: _File) -> Path:
        return self.folder / "blobs" / file.etag


def wants_cache(params: FetchParams) -> bool:
    """Say whether a fetch is to fill such a cache; ``UsageError`` if it cannot."""
    if not params.hf_cache:
        return False
    if not Path(params.hf_cache).is_absolute():
        raise UsageError(f"The cache {params.hf_cache!r} is not named by an absolute path.")
    if params.tensors:
        raise UsageError(
            "Single tensors make files that the release does not have, so they do not go into a "
            "cache of it.",
            next="Leave --hf-cache or --tensor out.",
        )
    return not params.dry_run


async def fill_cache(params: FetchParams, found: Json, node: CacheNode, report: Report) -> Json:
    """Put into the cache what is held, and let in, of the release that a fetch has ``found``.

    Returns what ``allod fetch --json`` says of it. ``VerificationFailed`` where the cache has other
    bytes under a name that can only have one content.
    """
    cid = CID.parse(found["manifest"])
    known = await node.store.manifest(cid)
    assert known is not None  # it was recorded by the fetch
    payload, bundles, listing = known
    manifest = parse_manifest(payload, listing)
    repo, commit = _called(params.ref, manifest, node, report), commit_of(manifest)
    let_in = await node.gate.let_in(manifest, bundles)
    files = await _files(manifest, let_in.files, node, report)
    place = _Place.of(params.hf_cache, manifest.kind, repo, commit)

    def work() -> tuple[int, str]:
        _compare(place, files)
        linked = _write(place, files)
        if manifest.version != commit:
            _point(place, manifest.version)
        return linked, _point(place, MAIN)

    linked, before = await durable.on_disk(f"fill the cache {params.hf_cache}", work)
    if before:
        report(Note(f"{repo} was at {before} in that cache, and is at {commit} now."))
    return {
        "hfCache": {
            "repo": repo,
            "kind": manifest.kind,
            "commit": commit,
            "path": str(place.snapshot),
            "files": len(files),
            "linked": linked,
        }
    }


def _called(ref: str, manifest: Manifest, node: CacheNode, report: Report) -> str:
    """Return what clients are to call the release: as at the Hub, else PUBLISHER/NAME."""
    known = {**node.petnames(), **node.keyring.ids()}
    owner = next((name for name, id in known.items() if id == manifest.publisher), "")
    origin = origin_of(manifest)
    if origin is not None:
        if not owner:
            report(
                Note(
                    f"That these are the Hub's files of {origin.repo} is the word of a publisher "
                    "to whom you gave no name.",
                    "warning",
                )
            )
        repo = origin.repo
    else:
        written = None if ref.startswith(SCHEME) else parse_reference(ref).publisher
        if written is not None and written != manifest.publisher:
            owner = written
        repo = f"{owner or manifest.publisher[-SHORT:]}/{manifest.name}"
    if (
        len(repo) > _MAX_ID
        or _ID.fullmatch(repo) is None
        or any(bad in repo for bad in ("--", ".."))
        or repo.endswith(".git")
    ):
        raise UsageError(
            f"Hugging Face's clients take {repo[:120]} for no repository.",
            next="Open the folder that `allod fetch` prints instead: they take paths, too.",
        )
    return repo


async def _files(
    manifest: Manifest, entries: Sequence[FileEntry], node: CacheNode, report: Report
) -> list[_File]:
    """Return those of the files that are here, with their ETags."""
    store = node.store
    here = await store.has_many({entry.cid for entry in entries})
    held = [entry for entry in entries if entry.cid in here]
    large = [entry for entry in held if is_large(manifest, entry)]
    total, done = sum(entry.size for entry in large), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        report(Progress("hash", done=done, total=total))

    sha256 = await store.sha256({entry.cid for entry in large}, count)
    small = {entry.cid for entry in held} - {entry.cid for entry in large}
    etags = sha256 | await store.git_sha1(small)
    files = []
    for entry in held:
        one = await store.held(entry.cid)
        if one is None or entry.cid not in etags:
            raise VerificationFailed(
                f"{entry.path} was damaged, or went away, since it was fetched.",
                next="`allod verify` and the same fetch again repair it.",
            )
        files.append(_File(entry.path, etags[entry.cid], one.path, one.size))
    return files


# --- in the cache: blocks for disk accesses -------------------------------------------------------


def _compare(place: _Place, files: Sequence[_File]) -> None:
    """Raise where the cache has something else under the same names, before anything is written."""
    for file in files:
        blob, pointer = place.blob(file), place.snapshot / file.path
        if blob.exists() and blob.stat().st_size != file.size:
            raise VerificationFailed(
                f"The cache has {blob.stat().st_size:,} bytes in {blob}, where the hash is that of "
                f"{file.size:,} bytes.",
                next="That copy is damaged: delete it, and fetch again.",
            )
        if not os.path.lexists(pointer):
            continue
        if pointer.is_symlink():
            same = Path(os.path.normpath(pointer.parent / pointer.readlink())) == blob
        else:
            same = pointer.is_file() and pointer.stat().st_size == file.size
        if not same:
            raise VerificationFailed(
                f"The cache has another {file.path} for commit {place.commit}, of which there is "
                "only one: either it or this release is not what it claims to be.",
                next=f"Delete {place.folder} if you trust this release's publisher more.",
            )


def _write(place: _Place, files: Sequence[_File]) -> int:
    """Make blobs and links; returns how many blobs were not there."""
    blobs = place.folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    place.snapshot.mkdir(parents=True, exist_ok=True)
    linked = 0
    for file in files:
        blob = place.blob(file)
        if not blob.exists():  # nor where it is a link into a store that has lost the file
            _share(file.source, blob)
            linked += 1
        try:
            pointer = make_place(place.snapshot, file.path)
        except UsageError as exc:
            hint = "Choose another folder for --hf-cache, or move that away."
            raise UsageError(exc.message, next=hint) from exc
        if not os.path.lexists(pointer):
            os.symlink(os.path.relpath(blob, pointer.parent), pointer)
    return linked


def _share(source: Path, blob: Path) -> None:
    """Give the cache the bytes of the store's file: a reflink, a hard link, a symbolic link."""
    new = blob.with_name(f".allod-{secrets.token_hex(8)}")
    try:
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            writing = durable.create(new)
            try:
                shared = durable.clone(reading, writing)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        if not shared:
            durable.unlink(new)
            if not durable.link(source, new):
                os.symlink(source, new)
        durable.rename(new, blob)
    finally:
        durable.unlink(new)


def _point(place: _Place, revision: str) -> str:
    """Have a ref mean the commit; returns the other commit that it meant before, if any."""
    ref = place.folder / "refs" / revision
    ref.parent.mkdir(exist_ok=True)
    try:
        with ref.open("rb") as stream:
            before = stream.read(40).decode("ascii", "replace")
    except FileNotFoundError:
        before = ""
    if before == place.commit:
        return ""
    new = ref.with_name(f".allod-{secrets.token_hex(8)}")
    try:
        new.write_text(place.commit)
        durable.rename(new, ref)
    finally:
        durable.unlink(new)
    return before
