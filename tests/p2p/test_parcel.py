"""A parcel is read as it was written, and no other sequence of bytes is one."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p import parcel
from p2p.car import car_header, read_car
from p2p.chunking import LEAF_SIZE, Profile
from p2p.cid import CID, Codec, Hash
from p2p.dag import Outline
from p2p.directory import TreeFile, build_tree
from p2p.entries import write_listing
from p2p.errors import UsageError, VerificationFailed
from p2p.manifest import FileEntry, Manifest, build_manifest
from p2p.parcel import Index, Item, PublisherPart, ReleasePart
from tests.releases import noise

BASE = {
    "LICENSE": b"do what you like\n",
    "a/b/same.bin": noise(5000, 1),
    "empty": b"",
    "model.bin": noise(3 * LEAF_SIZE + 77, 2),
}
CHILD = {
    "LICENSE": b"do what you like\n",
    "model.bin": noise(3 * LEAF_SIZE + 77, 2)[: 2 * LEAF_SIZE] + noise(LEAF_SIZE, 3),
}


def outline_of(data: bytes) -> Outline:
    sizes = [min(LEAF_SIZE, len(data) - at) for at in range(0, len(data), LEAF_SIZE)] or [0]
    leaves = (data[at : at + LEAF_SIZE] for at in range(0, len(sizes) * LEAF_SIZE, LEAF_SIZE))
    digests = b"".join(Hash.BLAKE3.digest(leaf) for leaf in leaves)
    return Outline.build(sizes, digests, Hash.BLAKE3)


def state(name: str, files: Mapping[str, bytes], *parents: CID) -> Manifest:
    entries = []
    for path, data in files.items():
        outline = outline_of(data)
        entries.append(FileEntry(path, len(data), outline.root, outline.dag_size))
    return build_manifest(
        kind="model",
        publisher="somebody",
        name=name,
        version="1",
        created="2026-11-22T00:00:00Z",
        files=entries,
        profile=Profile.FIXED_1M,
        license={"spdx": "Apache-2.0"},
        lineage=[{"role": "base_model", "manifest": str(cid)} for cid in parents],
    ).manifest


def state_entries(name: str, entries: Sequence[FileEntry]) -> Manifest:
    """A release of these entries, with a list of them where they are many."""
    built = build_manifest(
        kind="model",
        publisher="somebody",
        name=name,
        version="1",
        created="2026-11-22T00:00:00Z",
        files=entries,
        profile=Profile.FIXED_1M,
        license={},
    )
    return replace(built.manifest, files=tuple(entries))


def opened(manifest: Manifest) -> bytes:
    """A parcel of one release as far as its statements go; its files are to come."""
    item = Item.of(manifest.payload)
    index = parcel.write_index(Index((ReleasePart(item, (), True),)))
    return parcel.opening(index) + parcel.frame(item.cid, item.size) + manifest.payload


def write_files(manifest: Manifest, files: Mapping[str, bytes], told: parcel.Told) -> bytes:
    tree = build_tree(
        (TreeFile(one.path, one.cid, one.dag_size) for one in manifest.files), Hash.BLAKE3
    )
    out = b""
    for cid, block in parcel.folder_blocks(tree.root, tree.blocks):
        out += parcel.frame(cid, len(block)) + block
    for entry in manifest.files:
        if told.knows(entry.cid):
            continue
        outline = outline_of(files[entry.path])
        for cid, block in outline.blocks():
            out += parcel.frame(cid, len(block)) + block
        for first, stop in told.fresh(outline):
            for index in range(first, stop):
                start, end = outline.span(index, index + 1)
                out += parcel.leaf_frame(outline, index) + files[entry.path][start:end]
        told.add(outline)
    return out


def write(
    releases: Sequence[tuple[Manifest, Mapping[str, bytes] | None]],
    *,
    signatures: Sequence[bytes] = (b'{"signed":true}',),
    metadata: Mapping[str, bytes] | None = None,
    missing: Sequence[CID] = (),
) -> bytes:
    """A parcel of these releases, those without files by their statements alone."""
    metadata = {"1.root.json": b'{"root":1}', "timestamp.json": b'{"time":1}', **(metadata or {})}
    items = tuple((name, Item.of(data)) for name, data in metadata.items())
    signed = tuple(map(Item.of, signatures))
    index = Index(
        tuple(
            ReleasePart(Item.of(manifest.payload), signed, files is not None)
            for manifest, files in releases
        ),
        (PublisherPart("somebody", items),),
        tuple(missing),
    )
    out = parcel.opening(parcel.write_index(index))
    said = [*metadata.values()]
    for manifest, _ in releases:
        said += [manifest.payload, *signatures]
    for data in said:
        out += parcel.frame(CID.of(data, Codec.JSON), len(data)) + data
    told = parcel.Told()
    for manifest, files in releases:
        if files is not None:
            out += write_files(manifest, files, told)
    return out


def read(data: bytes) -> tuple[parcel.Statements, dict[str, dict[str, bytes]]]:
    """Read a parcel as an import would; of each release its files."""
    whole: dict[bytes, bytes] = {}  # leaves by their digests
    known: dict[CID, bytes] = {}
    found: dict[str, dict[str, bytes]] = {}
    events = parcel.read_parcel(io.BytesIO(data).readinto)
    statements = next(events)
    assert isinstance(statements, parcel.Statements)
    manifests = []
    outline: Outline | None = None
    for event in events:
        if isinstance(event, parcel.Release):
            manifests.append(event.manifest)
        elif isinstance(event, parcel.File):
            outline = event.outline
        elif isinstance(event, parcel.Leaves):
            assert outline is not None
            at, index = 0, event.first
            while at < len(event.data) or (not outline.size and not at and index == 0):
                start, stop = outline.span(index, index + 1)
                whole[outline.digest(index)] = bytes(event.data[at : at + stop - start])
                at, index = at + stop - start, index + 1
        elif isinstance(event, parcel.FileEnd):
            assert outline is not None
            digests = [outline.digest(index) for index in range(len(outline))]
            known[outline.root] = b"".join(whole[digest] for digest in digests)
    for manifest in manifests:
        found[manifest.name] = {entry.path: known[entry.cid] for entry in manifest.files}
    return statements, found


base = state("base", BASE)
child = state("child", CHILD, base.cid)
WHOLE = write([(child, CHILD), (base, BASE)])


def test_what_was_packed_comes_out() -> None:
    """Statements and files of a release and its ancestor are read as they were."""
    statements, files = read(WHOLE)
    assert files == {"child": CHILD, "base": BASE}
    assert [one.manifest.payload for one in statements.releases] == [child.payload, base.payload]
    assert statements.releases[0].signatures == (b'{"signed":true}',)
    assert statements.publishers["somebody"]["timestamp.json"] == b'{"time":1}'


def test_what_two_releases_share_is_there_once() -> None:
    """A fine-tune in the same parcel costs what it changed, not what it kept."""
    alone = len(write([(child, CHILD), (base, None)]))
    assert len(WHOLE) - alone < sum(map(len, BASE.values())) - 2 * LEAF_SIZE + 5000


def test_a_parcel_is_a_car_that_others_read() -> None:
    """Every block stands under its CID, and the folder of the release is among them."""
    statements, _ = read(WHOLE)
    blocks = dict(read_car(WHOLE, statements.cid))
    assert child.root in blocks
    assert base.root in blocks
    assert base.payload == blocks[base.cid]


def test_an_ancestor_may_come_without_its_files_or_not_at_all() -> None:
    """Then the parcel says so."""
    statements, files = read(write([(child, CHILD), (base, None)]))
    assert files == {"child": CHILD}
    assert [one.files for one in statements.releases] == [True, False]
    statements, files = read(write([(child, CHILD)], missing=[base.cid]))
    assert statements.index.missing == (base.cid,)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(([(child, CHILD)], []), id="an ancestor is missing and nobody says so"),
        pytest.param(([(child, CHILD), (base, None)], [base.cid]), id="it is there and missing"),
        pytest.param(([(base, BASE), (child, CHILD)], []), id="nothing in it descends from child"),
        pytest.param(([(base, BASE)], [child.cid]), id="missing, and nobody's ancestor"),
    ],
)
def test_a_parcel_holds_a_lineage_and_nothing_else(
    parts: tuple[list[tuple[Manifest, dict[str, bytes]]], list[CID]],
) -> None:
    """The releases are one and its ancestors, and the gaps are named."""
    data = write(parts[0], missing=parts[1])
    with pytest.raises(VerificationFailed):
        read(data)


def test_the_file_and_the_leaf_are_named() -> None:
    """A wrong bit in a leaf is refused with the leaf's number, its file and its release."""
    at = WHOLE.index(CHILD["model.bin"][LEAF_SIZE : LEAF_SIZE + 100])
    with pytest.raises(VerificationFailed, match=r"leaf 1 of model\.bin of child 1"):
        read(WHOLE[: at + 5] + bytes([WHOLE[at + 5] ^ 4]) + WHOLE[at + 6 :])


def test_every_place_is_guarded() -> None:
    """One bit of any byte, and the parcel is refused."""
    small = {"x": b"12345", "y/z": noise(300, 9)}
    one = state("one", small)
    data = write([(one, small)])
    for at in range(len(data)):
        with pytest.raises(VerificationFailed):
            read(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])


SMALL = {"a": b"first", "b/c": noise(700, 4), "b/d": noise(2 * LEAF_SIZE, 5)}
small = state("small", SMALL)
SMALL_PARCEL = write([(small, SMALL)])


def _mutated(draw: st.DrawFn) -> bytes:
    data = SMALL_PARCEL
    at = draw(st.one_of(st.integers(0, 4000), st.integers(0, len(data) - 1)))
    size = draw(st.integers(1, 40))
    other = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["flip", "cut", "drop", "insert", "copy", "swap", "append"]))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "drop":
        return data[:at] + data[at + size :]
    if kind == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=40)) + data[at:]
    if kind == "copy":
        return data[:at] + data[other : other + size] + data[at + size :]
    if kind == "swap":
        first, last = sorted((at, other))
        middle = data[first + size : last]
        return (
            data[:first]
            + data[last : last + size]
            + middle
            + data[first : first + size]
            + data[last + size :]
        )
    return data + draw(st.binary(min_size=1, max_size=40))


mutations = st.composite(_mutated)
SLOW = [HealthCheck.too_slow]  # on a busy machine it says nothing about the test


def _is_refused(data: bytes) -> None:
    if data == SMALL_PARCEL:
        return
    with pytest.raises(VerificationFailed):
        read(data)


@given(mutations())
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_nothing_else_is_a_parcel(data: bytes) -> None:
    """Whatever is changed, left out, added or moved, the parcel is refused and nothing crashes."""
    _is_refused(data)


@pytest.mark.long
@pytest.mark.timeout(1200)
@given(mutations())
@settings(max_examples=20_000, deadline=None, suppress_health_check=SLOW)
def test_nothing_else_is_a_parcel_at_length(data: bytes) -> None:
    """Twenty thousand changes, each refused."""
    _is_refused(data)


index = Index(
    (ReleasePart(Item.of(b"{}"), (Item.of(b"[]"),), True),),
    (PublisherPart("somebody", (("1.root.json", Item.of(b"1")),)),),
    (CID.of(b"gone", Codec.JSON),),
)


def test_an_index_is_read_as_it_was_written() -> None:
    """Nothing is lost, and writing it again gives the same bytes."""
    assert parcel.read_index(parcel.write_index(index)) == index


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b'"format":', b'"extra":1,"format":'),
        (b'"files":true', b'"files":1'),
        (b'"files":true', b'"files":true,"more":0'),
        (b'"size":2', b'"size":0'),
        (b'"size":2', b'"size":99999999999'),
        (b"1.root.json", b"2.root.jsom"),
        (b"1.root.json", b"../root.json"),
        (b"urn:allod:bundle:v1", b"urn:allod:bundle:v2"),
        (b'"somebody"', b'"some/body"'),
    ],
)
def test_an_index_says_nothing_else(was: bytes, becomes: bytes) -> None:
    """Fields that nobody knows, sizes that cannot be, names that lead elsewhere: refused."""
    data = parcel.write_index(index)
    assert was in data
    with pytest.raises(VerificationFailed):
        parcel.read_index(data.replace(was, becomes))


def test_an_index_keeps_its_order() -> None:
    """Nothing stands in it twice, and lists are in order."""
    twice = Index(index.releases * 2, index.publishers, index.missing)
    with pytest.raises(UsageError):
        parcel.write_index(twice)
    with pytest.raises(UsageError):
        parcel.write_index(Index((), (), ()))
    two = (PublisherPart("b", ()), PublisherPart("a", ()))
    with pytest.raises(UsageError):
        parcel.write_index(Index(index.releases, two, ()))


def test_statements_are_bounded_before_they_are_read() -> None:
    """An index that promises more than fits into memory is refused by its sum."""
    large = tuple(Item(CID.of(bytes([n]), Codec.JSON), 8 << 20) for n in range(17))
    with pytest.raises(UsageError, match="too much"):
        parcel.write_index(Index((ReleasePart(Item.of(b"{}"), large, True),), (), ()))


def test_a_header_for_anything_else_is_refused() -> None:
    """A CAR of a file, or no CAR at all, is no parcel."""
    file = CID.of(b"x", Codec.DAG_PB)
    for data in (b"", b"PK\x03\x04" * 30, car_header(file) + bytes(60)):
        with pytest.raises(VerificationFailed):
            read(data)


def test_large_files_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed on at once is bounded, also below nodes of nodes."""
    monkeypatch.setattr("p2p.parcel.reader.PIECE", 2 * LEAF_SIZE)
    assert read(WHOLE)[1] == {"child": CHILD, "base": BASE}
    leaves = [bytes([n % 251, n // 251]) for n in range(1030)]
    digests = b"".join(map(Hash.BLAKE3.digest, leaves))
    outline = Outline.build([2] * len(leaves), digests, Hash.BLAKE3)
    entry = FileEntry("many", outline.size, outline.root, outline.dag_size)
    one = state_entries("many", [entry])
    tree = build_tree([TreeFile("many", outline.root, outline.dag_size)], Hash.BLAKE3)
    data = opened(one)
    for cid, block in [*parcel.folder_blocks(tree.root, tree.blocks), *outline.blocks()]:
        data += parcel.frame(cid, len(block)) + block
    for index, leaf in enumerate(leaves):
        data += parcel.leaf_frame(outline, index) + leaf
    assert read(data)[1] == {"many": {"many": b"".join(leaves)}}
    monkeypatch.setattr("p2p.parcel.reader.max_outline", lambda size: 1000)
    with pytest.raises(VerificationFailed, match="too long an outline"):
        read(data)


def test_a_list_of_files_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the manifest names its entries' list only, that is read, checked, and handed on."""
    files = {f"{number:03}": noise(10, number) for number in range(50)}
    monkeypatch.setattr("p2p.manifest.MAX_MANIFEST", 2000)
    entries = [FileEntry(path, 10, outline_of(data).root, 10) for path, data in files.items()]
    one = state_entries("listed", entries)
    assert one.listing is not None
    listing = write_listing(entries)
    outline = outline_of(listing)
    data = opened(one) + parcel.leaf_frame(outline, 0) + listing
    data += write_files(one, files, parcel.Told())
    assert read(data)[1] == {"listed": files}
    with pytest.raises(VerificationFailed, match="the list of listed 1"):
        read(data.replace(b'"path":"007"', b'"path":"0o7"'))


@pytest.mark.parametrize("length", [b"\x80" * 100, b"\xff\xff\xff\x7f", b"\x05", b"\xa5\x80\x00"])
def test_a_length_is_short_and_within_limits(length: bytes) -> None:
    """A block says in few bytes how long it is, and not more than may be."""
    header = car_header(CID.of(b"{}", Codec.JSON))
    with pytest.raises(VerificationFailed, match=r"over 16,777,216 bytes|has no block"):
        read(header + length + WHOLE)


def test_memory_of_what_came_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit leaves come again, and are read so."""
    monkeypatch.setattr("p2p.parcel.order.MAX_TOLD", 2)
    data = write([(child, CHILD), (base, BASE)])
    assert len(data) > len(WHOLE)
    _, files = read(data)
    assert files == {"child": CHILD, "base": BASE}
