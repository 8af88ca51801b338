"""The manifest: what a publisher says, once and for all, about one release.

It is an in-toto Statement v1 with one subject a file and a predicate of our own: which files, under
which licence and consent, made from what. Its bytes are canonical JSON; its address is their CID.

Rules that make it one statement and not several:

- the bytes that came are the bytes that are hashed, verified and kept: nothing is written anew;
- the folder is built again from the entries, and its CID must be ``content.root``; so the entries
  say the same as the tree that an IPFS reader would walk;
- the subjects, which tools that know only in-toto read, say the same as the entries;
- fields that this version does not know stay where they are.

Past ``MAX_MANIFEST`` the entries move to a listing (entries.py) and the only subject is the folder.

Pure. Knows nothing of signatures (envelope.py), nor of whether anybody should be believed.
Specifications: in-toto Statement v1, RFC 8785; docs/explanation/formats.md, "The manifest".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast, get_args

from p2p import canonical, terms
from p2p.chunking import Profile
from p2p.cid import CID, Codec, Hash
from p2p.directory import Tree, TreeFile, build_tree
from p2p.entries import (
    MAX_FILES,
    MAX_LISTING,
    FileEntry,
    Listing,
    check_entries,
    check_entry,
    name_listing,
    read_entry,
    read_listing,
    write_entry,
    write_listing,
)
from p2p.errors import UsageError, VerificationFailed
from p2p.fields import Fields
from p2p.memo import remembered

__all__ = [
    "MAX_FILES",
    "MAX_LISTING",
    "MAX_MANIFEST",
    "NAME",
    "PUBLISHER",
    "VERSION",
    "Built",
    "FileEntry",
    "Kind",
    "Listing",
    "Manifest",
    "build_manifest",
    "parse_manifest",
    "title_of",
]

Kind = Literal["model", "dataset"]

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:allod:release:v1"

MAX_MANIFEST: Final = 4 << 20
"""Bytes of a manifest: some 10,000 files, and read by everyone who only wants to look."""
NAME: Final = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
"""A release's name: also a folder's, so no dot at its ends."""
VERSION: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")
"""A version; shorter than any CID, so that ``name@version`` and ``name@CID`` never look alike."""
PUBLISHER: Final = re.compile("[A-Za-z0-9]{1,128}")
"""A publisher's id, which is opaque here."""


@dataclass(frozen=True)
class Manifest:
    """A manifest that was checked, beside the bytes that it was read from.

    ``size``: bytes of all files. ``files`` is empty where ``listing`` is set and was not read yet.
    ``statement`` is everything that was said, with what this version does not know.
    """

    payload: bytes
    cid: CID
    kind: Kind
    publisher: str
    name: str
    version: str
    created: str
    supersedes: CID | None
    root: CID
    profile: Profile
    size: int
    files: tuple[FileEntry, ...]
    listing: Listing | None
    license: Mapping[str, Any]
    consent: Mapping[str, Any]
    lineage: tuple[Mapping[str, Any], ...]
    web_seeds: tuple[str, ...]
    docs: Mapping[str, Any]
    statement: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Built:
    """A new manifest, the folder's blocks, and the bytes of the listing where it needs one."""

    manifest: Manifest
    tree: Tree
    listing_bytes: bytes | None


def build_manifest(
    *,
    kind: str,
    publisher: str,
    name: str,
    version: str,
    created: str,
    files: Iterable[FileEntry],
    profile: Profile,
    license: Mapping[str, Any],
    consent: Mapping[str, Any] | None = None,
    lineage: Sequence[Mapping[str, Any]] = (),
    supersedes: CID | None = None,
    web_seeds: Sequence[str] = (),
    docs: Mapping[str, Any] | None = None,
    description: str = "",
) -> Built:
    """State a release; ``UsageError`` says what about it cannot be stated.

    ``created``: a UTC time like 2026-11-22T00:00:00Z. Entries come in any order.
    """
    entries = sorted(files, key=lambda entry: entry.path)
    try:
        for entry in entries:
            check_entry(entry)
        size = check_entries(entries, profile)
        tree = _tree(entries, profile)
        content: dict[str, Any] = {"root": str(tree.root), "profile": str(profile), "size": size}
        predicate: dict[str, Any] = {
            "kind": kind,
            "publisher": publisher,
            "name": name,
            "version": version,
            "created": created,
            "content": content,
            "license": dict(license),
            "consent": dict(consent or {}),
            "lineage": [dict(parent) for parent in lineage],
            "webSeeds": list(web_seeds),
            "docs": dict(docs or {}),
        }
        if supersedes is not None:
            predicate["supersedes"] = str(supersedes)
        if description:
            predicate["description"] = description
        payload, listing = _payload(predicate, entries, tree.root)
        return Built(_read(payload, entries), tree, listing)
    except VerificationFailed as exc:
        raise UsageError(exc.message, next=exc.next) from exc


def parse_manifest(payload: bytes, listing: bytes | None = None) -> Manifest:
    """Check a manifest, and all its entries where they are at hand; ``VerificationFailed`` if not.

    ``listing``: the bytes that ``Manifest.listing`` names. Without them such a manifest comes back
    with no files, and only what it says itself is checked.
    """
    manifest = _read(payload, None)
    if manifest.listing is not None:
        if listing is None:
            return manifest
        manifest = replace(manifest, files=tuple(read_listing(listing, manifest.listing)))
    elif listing is not None:
        raise VerificationFailed("A listing came for a manifest that names none.")
    size = check_entries(manifest.files, manifest.profile)
    if size != manifest.size:
        raise VerificationFailed(f"The files have {size} bytes, content.size says {manifest.size}.")
    root = _tree(manifest.files, manifest.profile).root
    if root != manifest.root:
        raise VerificationFailed(f"The files make the folder {root}, not {manifest.root}.")
    return manifest


@remembered
def title_of(payload: bytes) -> tuple[str, str, str]:
    """Return a manifest's publisher, name and version; nothing else of it is checked."""
    predicate = _statement(payload).child("predicate")
    return (
        predicate.text("publisher", PUBLISHER),
        predicate.text("name", NAME),
        predicate.text("version", VERSION),
    )


def _tree(entries: Iterable[FileEntry], profile: Profile) -> Tree:
    """Build the folder of these entries."""
    files = (TreeFile(entry.path, entry.cid, entry.dag_size) for entry in entries)
    return build_tree(files, profile.hash)


def _payload(
    predicate: dict[str, Any], entries: Sequence[FileEntry], root: CID
) -> tuple[bytes, bytes | None]:
    """Write the statement; return it, and the listing where it does not hold the entries itself."""
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    content = predicate["content"]
    data = write_listing(entries)
    if len(data) <= MAX_MANIFEST:
        content["files"] = [write_entry(entry) for entry in entries]
        statement["subject"] = [_subject(entry) for entry in entries]
        payload = canonical.encode(statement)
        if len(payload) <= MAX_MANIFEST:
            return payload, None
        del content["files"]
    if len(data) > MAX_LISTING:
        raise UsageError(
            f"The listing of {len(entries)} files would have {len(data)} bytes, the limit is "
            f"{MAX_LISTING}.",
            next="Put many small files into fewer large ones, such as tar or parquet shards.",
        )
    listing = name_listing(data, len(entries))
    content["listing"] = {
        "cid": str(listing.cid),
        "size": listing.size,
        "files": listing.files,
    }
    statement["subject"] = [_resource("", root)]
    return canonical.encode(statement), data


def _subject(entry: FileEntry) -> dict[str, Any]:
    """Return the in-toto subject of a file."""
    subject = _resource(entry.path, entry.cid)
    if entry.sha256 is not None:
        subject["digest"]["sha256"] = entry.sha256
    return subject


def _resource(name: str, cid: CID) -> dict[str, Any]:
    """Return an in-toto descriptor. It must have a digest, so the CID serves as one."""
    return {"name": name, "digest": {"cid": str(cid)}, "uri": f"ipfs://{cid}"}


def _read(payload: bytes, entries: Sequence[FileEntry] | None) -> Manifest:
    """Read a statement and check all that it says, except what its entries say together.

    ``entries``: those of the listing, checked, where the manifest has one and it was read.
    """
    statement = _statement(payload)
    predicate = statement.child("predicate")
    content = predicate.child("content")
    root = content.cid("root", Codec.DAG_PB)
    listing: Listing | None = None
    if "listing" not in content:
        entries = [read_entry(value) for value in content.get("files", list)]
        subjects = [_subject(entry) for entry in entries]
    elif "files" in content:
        raise VerificationFailed("content.files and content.listing exclude each other.")
    else:
        listing = _listing(content.child("listing"))
        subjects = [_resource("", root)]
    _check_subjects(statement, subjects)
    return Manifest(
        payload=payload,
        cid=CID.of(payload, Codec.JSON, Hash.BLAKE3),
        kind=cast(Kind, predicate.one_of("kind", get_args(Kind))),
        publisher=predicate.text("publisher", PUBLISHER),
        name=predicate.text("name", NAME),
        version=predicate.text("version", VERSION),
        created=predicate.time("created"),
        supersedes=predicate.cid("supersedes", Codec.JSON) if "supersedes" in predicate else None,
        root=root,
        profile=Profile(content.one_of("profile", Profile)),
        size=content.get("size", int),
        files=tuple(entries or ()),
        listing=listing,
        license=terms.read_license(predicate),
        consent=terms.read_consent(predicate),
        lineage=terms.read_lineage(predicate),
        web_seeds=terms.read_web_seeds(predicate),
        docs=terms.read_docs(predicate),
        statement=statement.value,
    )


def _statement(payload: bytes) -> Fields:
    """Read canonical JSON that says it is one of our statements."""
    value = canonical.decode(payload, limit=MAX_MANIFEST, what="manifest")
    statement = Fields.of(value, "")
    statement.one_of("_type", [STATEMENT_TYPE])
    statement.one_of("predicateType", [PREDICATE_TYPE])
    return statement


def _listing(fields: Fields) -> Listing:
    """Read where the listing is, and refuse one that is larger than any may be."""
    listing = Listing(
        fields.cid("cid", Codec.RAW, Codec.DAG_PB),
        fields.get("size", int),
        fields.get("files", int),
    )
    if not 0 < listing.size <= MAX_LISTING or not 0 < listing.files <= MAX_FILES:
        raise VerificationFailed(
            f"The listing has {listing.files} files in {listing.size} bytes, the limits are "
            f"{MAX_FILES} files and {MAX_LISTING} bytes."
        )
    if listing.cid.hash is not Profile.FIXED_1M.hash:
        raise VerificationFailed(f"The listing {listing.cid} is not hashed with BLAKE3.")
    return listing


def _check_subjects(statement: Fields, expected: Sequence[dict[str, Any]]) -> None:
    """Refuse subjects that do not say what the files say; they may say more."""
    subjects = statement.children("subject", len(expected))
    if len(subjects) != len(expected):
        raise VerificationFailed(
            f"The manifest has {len(subjects)} subjects for {len(expected)} files."
        )
    for subject, file in zip(subjects, expected, strict=True):
        digest = subject.child("digest")
        same = (subject.value.get("name"), subject.value.get("uri")) == (file["name"], file["uri"])
        # sha256 must be in both or in neither; other digests are for tools that know them.
        for key in ("cid", "sha256"):
            same = same and digest.value.get(key) == file["digest"].get(key)
        if not same:
            raise VerificationFailed(
                f"{subject.name} says something else than content says about {file['name']!r}."
            )
