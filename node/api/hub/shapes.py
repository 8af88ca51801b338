"""The JSON of the Hub's answers, of open releases. Pure.

Only what is true is said: no downloads, no likes; and no hash of xet's, which clients would ask
another server for.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from node.hub.origin import commit_of, origin_of
from node.hub.resolving import Listed
from node.hub.sums import Sum
from node.importers.card import CardFacts
from p2p.manifest import FileEntry, Manifest

Json = dict[str, Any]

POINTER: Final = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
"""What stands in git for a large file."""


def info(repo: str, manifest: Manifest, card: CardFacts, sums: Mapping[str, Sum] | None) -> Json:
    """Describe a revision; with ``sums`` (``?blobs=true``) each file's too."""
    spdx = str(manifest.license.get("spdx", ""))
    origin = origin_of(manifest)
    license = (card.license or spdx).lower()
    tags = [*card.tags, *([f"license:{license}"] if license else [])]
    tags += [one for one in (card.library_name, card.pipeline_tag) if one and one not in tags]
    tags += [f"base_model:{one}" for one in card.base_model]
    tags += [f"dataset:{one}" for one in card.datasets]
    tags.append(f"allod:{manifest.publisher}")
    if origin is not None:
        tags.append(f"origin:{origin.uri}")
    found: Json = {
        "_id": manifest.cid.digest.hex()[:24],
        "id": repo,
        "author": repo.rpartition("/")[0] or None,
        "sha": commit_of(manifest),
        "lastModified": _time(manifest.created),
        "createdAt": _time(manifest.created),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "cardData": _card(card, license),
        "siblings": [_sibling(entry, sums) for entry in manifest.files],
        "usedStorage": manifest.size,
        "description": str(manifest.statement["predicate"].get("description", "")),
    }
    if manifest.kind == "model":
        found["modelId"] = repo
        found |= {"pipeline_tag": card.pipeline_tag} if card.pipeline_tag else {}
        found |= {"library_name": card.library_name} if card.library_name else {}
    return found


def search_result(kind: str, one: Listed) -> Json:
    """Describe a repository that a search found."""
    found: Json = {
        "_id": one.manifest.digest.hex()[:24],
        "id": one.repo,
        "sha": one.commit,
        "lastModified": _time(one.date),
        "createdAt": _time(one.date),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }
    if kind == "model":
        found["modelId"] = one.repo
    return found


def refs(revisions: Collection[Listed]) -> Json:
    """List the branch that there is, and the versions as tags."""
    newest = next(iter(revisions))
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": newest.commit}
    tags = [
        {"name": one.version, "ref": f"refs/tags/{one.version}", "targetCommit": one.commit}
        for one in revisions
        if one.version != one.commit
    ]
    return {"branches": [main], "converts": [], "tags": tags, "pullRequests": []}


def commits(revisions: Iterable[Listed], author: str) -> list[Json]:
    """List the revisions as commits, the newest first."""
    return [
        {
            "id": one.commit,
            "title": f"version {one.version}",
            "message": "",
            "authors": [{"user": author}],
            "date": _time(one.date),
        }
        for one in revisions
    ]


def file_json(entry: FileEntry, one: Sum) -> Json:
    """Describe a file of a tree."""
    found: Json = {"type": "file", "path": entry.path, "size": entry.size, "oid": one.digest}
    if one.large:
        pointer = POINTER.format(one.digest, entry.size)
        found["oid"] = _git("blob", pointer)
        found["lfs"] = {"oid": one.digest, "size": entry.size, "pointerSize": len(pointer)}
    return found


def folder_json(manifest: Manifest, path: str) -> Json:
    """Describe a folder of a tree."""
    oid = _git("tree", f"{manifest.root}/{path}")
    return {"type": "directory", "path": path, "oid": oid, "size": 0}


def last_commit(manifest: Manifest) -> Json:
    """Say what ``?expand=true`` adds to an entry of a tree."""
    return {
        "id": commit_of(manifest),
        "title": f"version {manifest.version}",
        "date": _time(manifest.created),
    }


def _sibling(entry: FileEntry, sums: Mapping[str, Sum] | None) -> Json:
    found: Json = {"rfilename": entry.path}
    if sums is not None:
        one = sums[entry.path]
        shown = file_json(entry, one)
        found |= {"size": entry.size, "blobId": shown["oid"]}
        if one.large:
            lfs = shown["lfs"]
            found["lfs"] = {"sha256": lfs.pop("oid"), **lfs}
    return found


def _card(card: CardFacts, license: str) -> Json:
    found: Json = {
        "license": license,
        "license_name": card.license_name,
        "license_link": card.license_link,
        "base_model": list(card.base_model),
        "datasets": list(card.datasets),
        "tags": list(card.tags),
        "language": list(card.language),
        "pretty_name": card.pretty_name,
        "pipeline_tag": card.pipeline_tag,
        "library_name": card.library_name,
    }
    return {key: value for key, value in found.items() if value}


def _git(kind: str, text: str) -> str:
    """Return what git calls an object: a pointer truly, else an id of this form."""
    data = text.encode()
    head = f"{kind} {len(data)}\0".encode()
    return hashlib.sha1(head + data, usedforsecurity=False).hexdigest()


def _time(text: str) -> str:
    """Write a UTC time as the Hub does, with milliseconds."""
    return text.removesuffix("Z") + ".000Z"
