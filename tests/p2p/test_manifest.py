"""The manifest: what is stated can be checked by anyone, and nothing else is taken for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p import canonical
from p2p.chunking import LEAF_SIZE, Profile
from p2p.cid import CID, Codec, Hash
from p2p.errors import AllodError, UsageError, VerificationFailed
from p2p.manifest import (
    MAX_FILES,
    MAX_LISTING,
    MAX_MANIFEST,
    Built,
    FileEntry,
    Manifest,
    build_manifest,
    parse_manifest,
    title_of,
)

PUBLISHER = str(CID.of(b"root", Codec.JSON))
PARENT = CID.of(b"{}", Codec.JSON)


def shown(value: object) -> str | None:
    """A case's name; the same in every process, so functions have none of their own."""
    return None if callable(value) else str(value)[:40]


def raw(path: str, content: bytes = b"x", **more: Any) -> FileEntry:
    """Return the entry of a file of one leaf."""
    return FileEntry(path, len(content), CID.of(content, Codec.RAW), len(content), **more)


def large(path: str, size: int = 5 * LEAF_SIZE, hash: Hash = Hash.BLAKE3) -> FileEntry:
    """Return the entry of a file of many leaves, whose root nobody looks at here."""
    return FileEntry(path, size, CID.of(path.encode(), Codec.DAG_PB, hash), size + 300)


FILES = (
    raw("LICENSE", b"Apache"),
    raw("README.md", b"# Tiny", sha256="ab" * 32, media_type="text/markdown"),
    large("model.safetensors"),
    raw("sub/a/empty.txt", b""),
    raw("sub/config.json", b"{}"),
)


def build(**changes: Any) -> Built:
    """State an ordinary release, with changes."""
    return build_manifest(
        **{
            "kind": "model",
            "publisher": PUBLISHER,
            "name": "tiny-llm",
            "version": "1.2.0",
            "created": "2026-11-22T00:00:00Z",
            "files": FILES,
            "profile": Profile.TENSOR_1M,
            "license": {"spdx": "Apache-2.0", "file": "LICENSE"},
            "consent": {
                "basis": "public domain",
                "personalData": "none",
                "allowedUses": ["research"],
                "redistribution": True,
                "contact": "a@example.org",
            },
            "lineage": [
                {"role": "base_model", "manifest": str(PARENT)},
                {"role": "dataset", "uri": "hf://datasets/org/words"},
                {"role": "dataset", "name": "a disk in a drawer"},
            ],
            "web_seeds": ["https://example.org/tiny/"],
            "docs": {"card": "README.md"},
        }
        | changes
    )


def altered(change: Callable[[dict[str, Any]], object], payload: bytes | None = None) -> bytes:
    """Return a canonical statement with a change made to its JSON."""
    statement = json.loads(payload or build().manifest.payload)
    change(statement)
    return canonical.encode(statement)


def many(count: int) -> list[FileEntry]:
    """Return the entries of many small files, with paths so long that few fill a manifest."""
    cid = CID.of(b"x", Codec.RAW)
    folders = "/".join(["train"] + ["x" * 220] * 4)
    return [FileEntry(f"{folders}/{i:07d}.txt", 1, cid, 1) for i in range(count)]


LISTED = build(files=many(2_500), kind="dataset")


def test_says_what_it_was_told() -> None:
    """Everything that was stated is read back from the bytes alone."""
    built = build(supersedes=PARENT, description="A tiny one")
    manifest = parse_manifest(built.manifest.payload)
    assert manifest == built.manifest
    assert manifest.cid == CID.of(manifest.payload, Codec.JSON)
    assert manifest.files == FILES
    assert manifest.root == built.tree.root
    assert manifest.size == sum(entry.size for entry in FILES)
    assert manifest.supersedes == PARENT
    assert (manifest.kind, manifest.name, manifest.version) == ("model", "tiny-llm", "1.2.0")
    assert manifest.publisher == PUBLISHER == title_of(manifest.payload)[0]
    assert manifest.license["spdx"] == "Apache-2.0"
    assert manifest.consent["redistribution"] is True
    assert [parent["role"] for parent in manifest.lineage] == ["base_model", "dataset", "dataset"]
    assert manifest.web_seeds == ("https://example.org/tiny/",)
    assert manifest.docs == {"card": "README.md"}
    assert manifest.statement["predicate"]["description"] == "A tiny one"
    assert manifest.listing is None
    assert built.listing_bytes is None


def test_golden() -> None:
    """The bytes of a small statement never change, so neither does its address."""
    manifest = build(
        files=[raw("a.txt")], lineage=(), consent=None, web_seeds=(), docs=None
    ).manifest
    cid = "bafkr4ib247mal5tytjsaflfxblkas2ufuvv7nacov4s4asj2y2lvjdjqwu"
    root = "bafyb4igavxvmj3g6dem3d6abru4wyr6zdrrabowxawtopuzrn7gf35ppr4"
    assert manifest.payload.decode() == (
        '{"_type":"https://in-toto.io/Statement/v1","predicate":{"consent":{},"content":{"files":'
        f'[{{"cid":"{cid}","dagSize":1,"path":"a.txt","size":1}}],"profile":"tensor-1m","root":'
        f'"{root}","size":1}},"created":"2026-11-22T00:00:00Z","docs":{{}},"kind":"model","license"'
        ':{"file":"LICENSE","spdx":"Apache-2.0"},"lineage":[],"name":"tiny-llm","publisher":'
        f'"{PUBLISHER}","version":"1.2.0","webSeeds":[]}},"predicateType":"urn:allod:release:v1",'
        f'"subject":[{{"digest":{{"cid":"{cid}"}},"name":"a.txt","uri":"ipfs://{cid}"}}]}}'
    )


def test_the_order_of_files_is_theirs() -> None:
    """The same files in another order make the same statement."""
    assert build(files=reversed(FILES)).manifest == build().manifest


def test_unknown_fields_survive() -> None:
    """What later versions add is kept where it was, and the bytes stay as they came."""

    def extend(statement: dict[str, Any]) -> None:
        statement["later"] = {"x": [1, None, True]}
        statement["predicate"]["energy"] = {"kWh": 12}
        statement["predicate"]["consent"]["until"] = "2030"
        statement["predicate"]["content"]["files"][0]["mode"] = "0644"
        statement["subject"][0]["digest"]["blake3"] = "00" * 32
        statement["predicate"]["docs"]["paper"] = ["x"]

    payload = altered(extend)
    manifest = parse_manifest(payload)
    assert manifest.payload == payload
    assert canonical.encode(dict(manifest.statement)) == payload
    assert manifest.consent["until"] == "2030"
    assert manifest.files == FILES


def test_is_an_in_toto_statement() -> None:
    """What in-toto's own validation asks of a statement is there: type, subjects with digests."""
    for built in (build(), LISTED):
        statement = built.manifest.statement
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"]
        for subject in statement["subject"]:
            assert all(isinstance(value, str) for value in subject["digest"].values())
            assert subject["digest"]
            assert subject["uri"] == "ipfs://" + subject["digest"]["cid"]
    assert statement["subject"][0]["name"] == ""


P = "predicate"


def put(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change: the last of ``keys`` is put where the others lead, or taken away if None."""
    *way, last, value = keys

    def change(statement: Any) -> None:
        for key in way:
            statement = statement[key]
        if value is None:
            del statement[last]
        else:
            statement[last] = value

    return change


def swap(statement: dict[str, Any]) -> None:
    """Put two entries and their subjects into the wrong order."""
    for values in (statement["subject"], statement[P]["content"]["files"]):
        values[0], values[1] = values[1], values[0]


def twice(statement: dict[str, Any]) -> None:
    """Name one file twice."""
    for values in (statement["subject"], statement[P]["content"]["files"]):
        values.insert(0, values[0])


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """Give a file another path, and keep everything else right."""

    def change(statement: dict[str, Any]) -> None:
        for values, key in (
            (statement["subject"], "name"),
            (statement[P]["content"]["files"], "path"),
        ):
            for value in values:
                if value[key] == old:
                    value[key] = new
            values.sort(key=lambda value: value[key])

    return change


def both(*changes: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """Make several changes."""

    def change(statement: dict[str, Any]) -> None:
        for one in changes:
            one(statement)

    return change


C = (P, "content")
F = (*C, "files", 0)
RAW = str(CID.of(b"y", Codec.RAW))
SHA = str(CID.of(b"Apache", Codec.RAW, Hash.SHA2_256))
LYING = [
    (put("_type", "x"), "_type is 'x'"),
    (put("predicateType", "x"), "predicateType is 'x'"),
    (put(P, None), "predicate is missing"),
    (put(P, [1]), "predicate is"),
    (put("subject", None), "subject is missing"),
    (put("subject", []), "0 subjects for 5 files"),
    (put("subject", 0, 1), r"subject\[0\] is 1"),
    (put("subject", 4, None), "4 subjects for 5 files"),
    (lambda s: s["subject"].append(s["subject"][0]), "6 items, the limit is 5"),
    (put("subject", 0, "name", "LICENCE"), r"subject\[0\] says something else"),
    (put("subject", 0, "name", None), r"subject\[0\] says something else"),
    (put("subject", 0, "uri", "ipfs://" + RAW), r"subject\[0\] says something else"),
    (put("subject", 0, "digest", None), r"subject\[0\].digest is missing"),
    (put("subject", 0, "digest", "cid", RAW), r"subject\[0\] says something else"),
    (put("subject", 0, "digest", "cid", None), r"subject\[0\] says something else"),
    (put("subject", 0, "digest", "sha256", "ab" * 32), r"subject\[0\] says something else"),
    (put("subject", 1, "digest", "sha256", "cd" * 32), r"subject\[1\] says something else"),
    (put("subject", 1, "digest", "sha256", None), r"subject\[1\] says something else"),
    (put(*F[:-1], 1, "sha256", None), r"subject\[1\] says something else"),
    (put(P, "kind", "app"), "predicate.kind is 'app', model or dataset was expected"),
    (put(P, "publisher", ""), "predicate.publisher is ''"),
    (put(P, "publisher", "a/b"), "predicate.publisher is 'a/b'"),
    (put(P, "publisher", None), "predicate.publisher is missing"),
    (put(P, "name", "../x"), "predicate.name"),
    (put(P, "name", "x" * 129), "predicate.name"),
    (put(P, "name", "tiny\n"), "predicate.name"),
    (put(P, "version", "1 0"), "predicate.version"),
    (put(P, "version", "b" + "a" * 58), "predicate.version"),
    (put(P, "created", "2026-11-22"), "predicate.created"),
    (put(P, "created", "2026-02-30T00:00:00Z"), "no time"),
    (put(P, "created", "2026-11-22T00:00:00+01:00"), "predicate.created"),
    (put(P, "supersedes", RAW), "predicate.supersedes is .* a CID of the codec JSON"),
    (put(P, "supersedes", 5), "predicate.supersedes is 5"),
    (put(P, "supersedes", "x"), "predicate.supersedes is no CID"),
    (put(P, "content", None), "predicate.content is missing"),
    (put(*C, "root", RAW), "predicate.content.root is .* DAG_PB"),
    (put(*C, "root", str(CID.of(b"", Codec.DAG_PB))), "make the folder"),
    (put(*C, "profile", "x"), "predicate.content.profile is 'x'"),
    (put(*C, "profile", "unixfs-v1-2025"), "hashes with SHA2_256"),
    (put(*C, "size", 1), "content.size says 1"),
    (put(*C, "size", True), "predicate.content.size is True"),
    (put(*C, "files", None), "predicate.content.files is missing"),
    (both(put(*C, "files", []), put("subject", [])), "1 to 1000000 files"),
    (put(*C, "files", {}), "predicate.content.files is {}"),
    (put(*C, "listing", {}), "exclude each other"),
    (put(*F[:-1], 0, 7), "entry is an object"),
    (put(*F, "path", None), "no path or no cid"),
    (put(*F, "cid", None), "no path or no cid"),
    (put(*F, "cid", "b" + "a" * 58), "entry of 'LICENSE' is wrong"),
    (put(*F, "cid", str(PARENT)), "raw, or dag-pb"),
    (both(put(*F, "cid", SHA), put("subject", 0, "uri", "ipfs://" + SHA),
          put("subject", 0, "digest", "cid", SHA)), "hashes with BLAKE3"),
    (put(*F, "size", -1), "whole numbers"),
    (put(*F, "size", "6"), "whole numbers"),
    (put(*F, "size", True), "whole numbers"),
    (put(*F, "dagSize", None), "whole numbers"),
    (put(*F, "size", 7), "a raw CID names one leaf"),
    (put(*F, "dagSize", 7), "a raw CID names one leaf"),
    (both(put(*F, "size", LEAF_SIZE + 1), put(*F, "dagSize", LEAF_SIZE + 1)), "one leaf"),
    (put(*F[:-1], 2, "dagSize", 5 * LEAF_SIZE), "dagSize over its size"),
    (put(*F[:-1], 2, "dagSize", 5 * LEAF_SIZE + 301), "make the folder"),
    (put(*F[:-1], 2, "size", 5 * LEAF_SIZE - 1), "content.size says"),
    (put(*F[:-1], 2, "size", 0), "dagSize over its size"),
    (put(*F, "sha256", "AB" * 32), "64 digits"),
    (put(*F, "sha256", 5), "64 digits"),
    (put(*F, "mediaType", "text"), "text/plain"),
    (swap, "not in the order"),
    (twice, "named twice"),
    (renamed("sub/config.json", "../x"), r"'../x' is not allowed"),
    (renamed("sub/config.json", "/etc/passwd"), "not allowed"),
    (renamed("sub/config.json", "readme.MD"), "differ in case only"),
    (renamed("sub/config.json", "LICENSE/x"), "is a file, and the folder"),
    (renamed("sub/config.json", "sub/other.json"), "make the folder"),
    (put(P, "license", None), "predicate.license is missing"),
    (put(P, "license", "MIT"), "predicate.license is 'MIT'"),
    (put(P, "license", "spdx", "MIT\n"), "license.spdx"),
    (put(P, "license", "file", "../x"), "not allowed"),
    (put(P, "license", "link", 3), "license.link"),
    (put(P, "consent", []), "predicate.consent"),
    (put(P, "consent", "basis", "a\nb"), "consent.basis"),
    (put(P, "consent", "allowedUses", ["x"] * 65), "65 items"),
    (put(P, "consent", "allowedUses", [3]), r"allowedUses\[0\] is 3"),
    (put(P, "consent", "redistribution", "yes"), "redistribution is 'yes', true or false"),
    (put(P, "lineage", {}), "predicate.lineage"),
    (put(P, "lineage", [{"role": "x", "name": "y"}] * 1025), "1025 items"),
    (put(P, "lineage", 0, "manifest", RAW), r"lineage\[0\].manifest"),
    (put(P, "lineage", 0, "role", None), r"lineage\[0\].role is missing"),
    (put(P, "lineage", 1, "uri", 3), r"lineage\[1\].uri"),
    (put(P, "lineage", 2, "name", None), r"lineage\[2\].name is missing"),
    (put(P, "webSeeds", ["ftp://x/"]), r"webSeeds\[0\]"),
    (put(P, "webSeeds", ["https://x/"] * 33), "33 items"),
    (put(P, "docs", []), "predicate.docs"),
    (put(P, "docs", "card", "../../.ssh/id"), "not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), LYING, ids=shown)
def test_refuses(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """A statement that is malformed or contradicts itself is refused in one sentence."""
    with pytest.raises(VerificationFailed, match=reason) as caught:
        parse_manifest(altered(change))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("key", ["consent", "lineage", "webSeeds", "docs"])
def test_may_say_less(key: str) -> None:
    """Consent, lineage, web seeds and documents may be left out."""
    manifest = parse_manifest(altered(put(P, key, None)))
    assert key not in manifest.statement[P]
    assert len((manifest.consent, manifest.lineage, manifest.web_seeds, manifest.docs)) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        build().manifest.payload + b"\n",
        build().manifest.payload.replace(b",", b", ", 1),
        b" " * (MAX_MANIFEST + 1),
        b"[" * MAX_MANIFEST,
        b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_refuses_other_bytes(data: bytes) -> None:
    """Bytes that are no canonical statement, however long, are refused."""
    for read in (parse_manifest, title_of):
        with pytest.raises(VerificationFailed):
            read(data)


UNSTATABLE = [
    ({"files": [raw("../x")]}, "The path '../x' is not allowed: it holds '..'"),
    ({"files": [raw("/x")]}, "does not start in the release's own folder"),
    ({"files": [raw("a\\b")]}, "backslash"),
    ({"files": [raw("NUL.txt")]}, "device"),
    ({"files": [raw("a"), raw("a")]}, "named twice"),
    ({"files": [raw("a"), raw("A")]}, "differ in case only"),
    ({"files": [raw("a"), raw("a/b")]}, "the folder of"),
    ({"files": []}, "1 to 1000000 files"),
    ({"files": [replace(raw("a"), size=9)]}, "one leaf"),
    ({"files": [replace(raw("a"), sha256="x")]}, "64 digits"),
    ({"files": [replace(raw("a"), media_type="x")]}, "text/plain"),
    ({"files": [large("a", hash=Hash.SHA2_256)]}, "hashes with BLAKE3"),
    ({"files": [large("a", 2**53 - 400), large("b", 2**53 - 400)]}, "which JSON cannot hold"),
    ({"kind": "app"}, "model or dataset"),
    ({"publisher": "Alice Smith"}, "publisher"),
    ({"name": "tiny llm"}, "predicate.name is 'tiny llm'"),
    ({"name": ""}, "predicate.name"),
    ({"version": ""}, "predicate.version"),
    ({"created": "yesterday"}, "predicate.created"),
    ({"supersedes": CID.of(b"", Codec.RAW)}, "predicate.supersedes"),
    ({"license": {"spdx": ""}}, "license.spdx"),
    ({"license": {"weight": 1.5}}, "JSON here holds no float"),
    ({"license": {"text": "\ud800"}}, "surrogate"),
    ({"web_seeds": ["file:///etc"]}, "webSeeds"),
    ({"docs": {"card": "../README.md"}}, "not allowed"),
    ({"lineage": [{"role": "base_model"}]}, "lineage"),
    ({"docs": {"text": "x" * MAX_MANIFEST}}, "the limit is 4194304"),
]


@pytest.mark.parametrize(("changes", "reason"), UNSTATABLE, ids=shown)
def test_refuses_to_state(changes: dict[str, Any], reason: str) -> None:
    """What cannot be published is refused in one clear sentence before anything is signed."""
    with pytest.raises(UsageError, match=reason) as caught:
        build(**changes)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


def test_a_large_release_has_a_listing() -> None:
    """A statement that would pass 4 MiB names its entries by CID, and is checked with them."""
    built = LISTED
    manifest, data = built.manifest, built.listing_bytes
    assert data is not None
    assert len(manifest.payload) < 2000
    assert manifest.listing is not None
    assert (manifest.listing.files, manifest.listing.size) == (2_500, len(data))
    bare = parse_manifest(manifest.payload)
    assert bare.files == ()
    assert bare.listing == manifest.listing
    assert (bare.root, bare.size, bare.cid) == (manifest.root, 2_500, manifest.cid)
    assert parse_manifest(manifest.payload, data) == manifest
    assert canonical.decode(data, limit=MAX_LISTING)[0] == {
        "cid": str(manifest.files[0].cid), "dagSize": 1, "path": manifest.files[0].path, "size": 1,
    }  # fmt: skip


def test_where_a_listing_begins() -> None:
    """There is a listing from where entries and subjects together pass 4 MiB, and not before."""
    assert LISTED.listing_bytes is not None
    assert len(LISTED.listing_bytes) < MAX_MANIFEST  # the entries alone would fit
    assert build(files=many(1_500)).listing_bytes is None
    built = build(files=many(5_000))
    assert len(built.listing_bytes or b"") > MAX_MANIFEST
    assert parse_manifest(built.manifest.payload, built.listing_bytes) == built.manifest


def relisted(change: Callable[[list[Any]], object]) -> tuple[bytes, bytes]:
    """Return a statement and a listing that was changed, with its CID, size and count put right."""
    from p2p.entries import name_listing

    assert LISTED.listing_bytes is not None
    entries = json.loads(LISTED.listing_bytes)
    change(entries)
    data = canonical.encode(entries)
    listing = name_listing(data, len(entries))
    named = {"cid": str(listing.cid), "size": listing.size, "files": listing.files}
    return altered(put(*C, "listing", named), LISTED.manifest.payload), data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entries: entries.pop(), "2499 bytes, content.size says 2500"),
        (lambda entries: entries.reverse(), "not in the order"),
        (lambda entries: entries.append(entries[-1]), "named twice"),
        (lambda entries: entries[0].update(path="../x"), "'../x' is not allowed"),
        (lambda entries: entries[0].update(path="a"), "make the folder"),
        (lambda entries: entries[0].update(size=2), "one leaf"),
        (lambda entries: entries.insert(0, 5), "an object, not '5'"),
        (lambda entries: entries[0].update(x="x" * 70_000), "longer than 65536"),
    ],
)
def test_refuses_listings(change: Callable[[list[Any]], object], reason: str) -> None:
    """The entries of a listing are checked like those of a manifest, even when its CID is right."""
    payload, data = relisted(change)
    with pytest.raises(VerificationFailed, match=reason):
        parse_manifest(payload, data)


def test_a_listing_may_say_more() -> None:
    """Unknown fields of an entry stay in the listing's bytes and do not disturb."""
    payload, data = relisted(lambda entries: entries[0].update(mode={"unix": 420}))
    assert parse_manifest(payload, data).files == LISTED.manifest.files


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(*C, "listing", 1), "predicate.content.listing is 1"),
        (put(*C, "listing", "size", 0), "limits are"),
        (put(*C, "listing", "size", MAX_LISTING + 1), "limits are"),
        (put(*C, "listing", "files", MAX_FILES + 1), "limits are"),
        (put(*C, "listing", "files", 2_499), "as many entries"),
        (put(*C, "listing", "files", 2_501), "as many entries"),
        (put(*C, "listing", "size", 5), "the manifest says 5"),
        (put(*C, "listing", "cid", RAW), "do not match its CID"),
        (put(*C, "listing", "cid", SHA), "not hashed with BLAKE3"),
        (put(*C, "listing", "cid", str(PARENT)), "codec RAW or DAG_PB"),
        (put(*C, "size", 2_501), "content.size says 2501"),
        (put("subject", 0, "name", "x"), "says something else"),
        (put("subject", 0, "uri", "ipfs://" + RAW), "says something else"),
        (put("subject", []), "0 subjects"),
    ],
)
def test_refuses_manifests_of_listings(
    change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """A manifest with a listing is held to what it says of it."""
    with pytest.raises(VerificationFailed, match=reason):
        parse_manifest(altered(change, LISTED.manifest.payload), LISTED.listing_bytes)


def test_refuses_a_listing_that_nobody_named() -> None:
    """Bytes that come along with a manifest that has no listing are not ignored."""
    with pytest.raises(VerificationFailed, match="names none"):
        parse_manifest(build().manifest.payload, b"[]")


def test_refuses_a_listing_past_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose listing would be too long is told to make fewer files."""
    monkeypatch.setattr("p2p.manifest.MAX_LISTING", 1_000_000)
    with pytest.raises(UsageError, match="the limit is 1000000") as caught:
        build(files=many(2_500))
    assert "shards" in caught.value.next


def check_same_or_refused(read: Callable[[], Manifest], original: Manifest) -> None:
    """Whatever was changed is refused with one of our errors, or is another release."""
    try:
        manifest = read()
    except AllodError:
        return
    assert manifest.cid != original.cid


def mutated(draw: st.DataObject, data: bytes) -> bytes:
    """Return ``data`` with some bytes changed, taken out, doubled or put in; never the same."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        place = draw.draw(st.integers(0, len(changed)))
        length = draw.draw(st.sampled_from([0, 1, 1, 2, 8, 60]))
        piece = draw.draw(
            st.binary(max_size=3)
            | st.sampled_from(
                [b'"', b"{", b"}", b",", b"null", b"0", b"9" * 17, b"../", b"\\u0000"]
            )
            | st.just(bytes(changed[place : place + length]) * 2)
        )
        changed[place : place + length] = piece
    return bytes(changed) if bytes(changed) != data else data + b" "


SMALL = build().manifest


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_manifests(draw: st.DataObject) -> None:
    """Changed bytes of a manifest are never taken for it, and raise nothing but our errors."""
    payload = mutated(draw, SMALL.payload)
    check_same_or_refused(lambda: parse_manifest(payload), SMALL)
    check_same_or_refused(lambda: parse_manifest(payload, payload), SMALL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.just("../x"),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_statements(draw: st.DataObject) -> None:
    """A canonical statement with any value replaced is another release or none, and no crash."""
    statement = json.loads(SMALL.payload)
    places: list[tuple[Any, Any]] = []
    stack = [statement]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list):
            keys = item.keys() if isinstance(item, dict) else range(len(item))
            places += [(item, key) for key in keys]
            stack += [item[key] for key in keys]
    item, key = draw.draw(st.sampled_from(range(len(places))).map(places.__getitem__))
    item[key] = draw.draw(JSON)
    payload = canonical.encode(statement)
    if payload != SMALL.payload:
        check_same_or_refused(lambda: parse_manifest(payload), SMALL)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_listings(draw: st.DataObject) -> None:
    """Changed bytes of a listing are refused."""
    assert LISTED.listing_bytes is not None
    data = mutated(draw, LISTED.listing_bytes)
    with pytest.raises(VerificationFailed):
        parse_manifest(LISTED.manifest.payload, data)
