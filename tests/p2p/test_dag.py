"""Outlines: one tree for given leaves, and nothing else decodes."""

import hashlib
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import dag
from p2p.car import car_block, car_header, write_car
from p2p.chunking import LEAF_SIZE, MAX_TENSORS, LeafSizes, max_leaves
from p2p.cid import CID, Codec, Hash
from p2p.dag import Leaf, Outline, max_outline
from p2p.dagpb import MAX_LINKS, FileNode, encode_file
from p2p.errors import AllodError, UsageError, VerificationFailed


def digests(count: int, hash: Hash = Hash.BLAKE3) -> bytes:
    """As many digests as asked for, all different."""
    return b"".join(hash.digest(index.to_bytes(4, "big")) for index in range(count))


def outline(count: int, hash: Hash = Hash.BLAKE3, last: int = 5) -> Outline:
    """An Outline of full leaves and a last one of ``last`` bytes."""
    return Outline.build([LEAF_SIZE] * (count - 1) + [last], digests(count, hash), hash)


def node(
    codec: Codec, names: bytes, sizes: list[int], dag_sizes: list[int] | None = None
) -> tuple[CID, bytes]:
    """A file's node, right or wrong, with its CID."""
    block = encode_file(
        FileNode(codec, Hash.BLAKE3, names, tuple(sizes), tuple(dag_sizes or sizes))
    )
    return CID.of(block, Codec.DAG_PB), block


@pytest.mark.parametrize("hash", Hash)
@pytest.mark.parametrize(
    "count",
    [2, 3, 1023, 1024, 1025, 2048, 2049, pytest.param((1 << 20) + 1, marks=pytest.mark.long)],
)
def test_round_trip(count: int, hash: Hash) -> None:
    """A tree of any height is written and read back whole, node for node."""
    one = outline(count, hash)
    car = one.encode()
    two = Outline.decode(one.root, car, one.size)
    assert two == one
    assert hash is one.hash is two.hash
    assert two.encode() == car
    assert (two.size, two.dag_size, len(two)) == (one.size, one.dag_size, count)
    blocks = list(one.blocks())
    assert blocks[0][0] == one.root
    assert all(cid.matches(block) for cid, block in blocks)
    assert one.dag_size == one.size + sum(len(block) for _, block in blocks)
    assert len(car) <= count * 52 + 100


@given(st.integers(2, 400), st.integers(2, 5))
def test_tall_trees(count: int, width: int) -> None:
    """The walk down and the walk up agree in trees of many rows too (narrow ones, to be quick)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dag, "MAX_LINKS", width)
        one = outline(count)
        car = one.encode()
        assert Outline.decode(one.root, car).encode() == car
        assert one.dag_size == one.size + sum(len(block) for _, block in one.blocks())


@pytest.mark.parametrize("size", [0, 1, LEAF_SIZE])
def test_one_leaf(size: int) -> None:
    """A file of one leaf is that leaf: no node, an Outline without blocks, no bytes more."""
    digest = Hash.BLAKE3.digest(bytes(size))
    one = Outline.build([size], digest, Hash.BLAKE3)
    assert one.root == CID(Codec.RAW, Hash.BLAKE3, digest)
    assert one == Outline.single(one.root, size) == Outline.decode(one.root, one.encode(), size)
    assert (one.dag_size, len(one), list(one.blocks())) == (size, 1, [])
    assert one.encode() == car_header(one.root)
    assert one.verify(0, bytes(size))


def test_single_leaf_refusals() -> None:
    """What a single leaf's Outline cannot be: of a tree, too long, of unknown size, with blocks."""
    tree, raw = outline(2).root, outline(1).root
    with pytest.raises(VerificationFailed, match="named by a raw CID"):
        Outline.single(tree, 5)
    for size in (LEAF_SIZE + 1, -1):
        with pytest.raises(VerificationFailed, match="1 to 1048576 bytes"):
            Outline.single(raw, size)
    with pytest.raises(UsageError, match="no size"):
        Outline.decode(raw, car_header(raw))
    block = b"more"
    car = car_header(raw) + car_block(CID.of(block, Codec.RAW), block)
    with pytest.raises(VerificationFailed, match="goes on"):
        Outline.decode(raw, car, 5)
    manifest = CID.of(b"{}", Codec.JSON)
    with pytest.raises(VerificationFailed):
        Outline.decode(manifest, write_car(manifest, [(manifest, b"{}")]), 2)


def test_where_leaves_lie() -> None:
    """Leaves are found by index and by byte range; ranges that hold nothing give none."""
    one = Outline.build([10, 5, 1], digests(3), Hash.BLAKE3)
    assert one.leaf(1) == Leaf(1, 10, 5, CID(Codec.RAW, Hash.BLAKE3, one.digest(1)))
    assert one.digest(2) == digests(3)[64:]
    assert one.span(0, 3) == (0, 16)
    assert one.span(1, 2) == (10, 15)
    assert list(one.leaves_in(0, 16)) == [0, 1, 2]
    assert list(one.leaves_in(9, 10)) == [0]
    assert list(one.leaves_in(10, 11)) == [1]
    assert list(one.leaves_in(9, 11)) == [0, 1]
    assert list(one.leaves_in(15, 99)) == [2]
    assert list(one.leaves_in(-5, 1)) == [0]
    for start, stop in ((16, 20), (5, 5), (7, 3), (-2, 0)):
        assert list(one.leaves_in(start, stop)) == []
    for first, stop in ((0, 0), (-1, 2), (2, 4), (2, 1)):
        with pytest.raises(UsageError, match="has no leaves"):
            one.span(first, stop)
    for wrong in (one.leaf, one.digest):
        for index in (-1, 3):
            with pytest.raises(UsageError, match="has no leaves"):
                wrong(index)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.data())
def test_ranges_and_leaves_agree(sizes: list[int], data: st.DataObject) -> None:
    """The leaves of a range are exactly those that overlap it."""
    one = Outline.build(sizes, digests(len(sizes)), Hash.BLAKE3)
    start = data.draw(st.integers(0, one.size))
    stop = data.draw(st.integers(start, one.size))
    ends = list(accumulate(sizes))
    expected = [
        index
        for index, (size, end) in enumerate(zip(sizes, ends, strict=True))
        if start < stop and end - size < stop and start < end
    ]
    assert list(one.leaves_in(start, stop)) == expected


def test_verify() -> None:
    """A leaf verifies when every byte is right, from any buffer, and else not."""
    leaves = [b"alpha", b"beta"]
    names = b"".join(map(Hash.BLAKE3.digest, leaves))
    one = Outline.build(map(len, leaves), names, Hash.BLAKE3)
    assert one.verify(0, b"alpha")
    assert one.verify(1, memoryview(bytearray(b"beta")))
    for data in (b"alphb", b"alph", b"alpha\0", b"", b"beta"):
        assert not one.verify(0, data)


def test_refused_leaves() -> None:
    """No leaf, a leaf over 1 MiB, an empty one among others, digests that do not fit: refused."""
    for sizes, count in (
        ([], 0),
        ([LEAF_SIZE + 1, 1], 2),
        ([1, 0], 2),
        ([0, 1], 2),
        ([-1, 1], 2),
        ([1, 2], 1),
        ([1], 2),
        ([0, 0], 1),
    ):
        with pytest.raises(VerificationFailed):
            Outline.build(sizes, digests(count), Hash.BLAKE3)
    with pytest.raises(VerificationFailed, match="32 for each"):
        Outline.build([1], bytes(31), Hash.BLAKE3)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of too many leaves is not built, and an Outline that is too long not looked at."""
    car = outline(9).encode()
    monkeypatch.setattr(dag, "MAX_LEAVES", 8)
    assert len(outline(8)) == 8
    with pytest.raises(VerificationFailed, match="at most 8 leaves"):
        outline(9)
    monkeypatch.setattr(dag, "MAX_OUTLINE", len(car) - 1)
    with pytest.raises(VerificationFailed, match="of any size has at most"):
        Outline.decode(outline(8).root, car)


def test_more_leaves_than_a_file_can_have() -> None:
    """For a file of known size an Outline is refused that is longer than any cut makes it."""
    count = max_leaves(1) + 1
    one = Outline.build([1] * count, digests(1) * count, Hash.BLAKE3)
    car = one.encode()
    assert Outline.decode(one.root, car) == one
    with pytest.raises(VerificationFailed, match=f"at most {count - 1} leaves, not {count}"):
        Outline.decode(one.root, car, count)
    with pytest.raises(VerificationFailed, match=r"of 1 bytes has at most \d+ bytes"):
        Outline.decode(one.root, car + bytes(1 << 20), 1)
    honest = Outline.build(LeafSizes([1] * MAX_TENSORS), digests(1) * MAX_TENSORS, Hash.BLAKE3)
    assert len(honest.encode()) <= max_outline(MAX_TENSORS)
    assert Outline.decode(honest.root, honest.encode(), MAX_TENSORS) == honest


def test_equality() -> None:
    """Outlines of the same file are equal and hash alike; other things are not equal to them."""
    assert outline(3) == outline(3)
    assert len({outline(3), outline(3), outline(4)}) == 2
    assert outline(3) != outline(3, last=6)
    assert outline(3) != "outline"
    assert "size=2097157, leaves=3" in repr(outline(3))


# --- hostile Outlines ----------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(1, 8), st.data())
def test_mutations(count: int, data: st.DataObject) -> None:
    """Change, cut or add any byte of an Outline: it is refused, or nothing changed."""
    one = outline(count)
    car = one.encode()
    place = data.draw(st.integers(0, len(car)))
    stop = data.draw(st.integers(place, min(len(car), place + 40)))
    changed = car[:place] + data.draw(st.binary(max_size=40)) + car[stop:]
    try:
        two = Outline.decode(one.root, changed, one.size)
    except AllodError:
        return
    assert changed == car
    assert two == one


@given(st.binary(max_size=300), st.sampled_from(Codec), st.booleans())
def test_garbage(raw: bytes, codec: Codec, headed: bool) -> None:
    """Whatever bytes come as an Outline, they are refused or make the very tree that was asked."""
    root = CID.of(raw, codec)
    car = write_car(root, [(root, raw)]) if headed else raw
    try:
        one = Outline.decode(root, car, 5)
    except AllodError:
        return
    assert one.root == root


def refused(root: CID, blocks: list[tuple[CID, bytes]], reason: str) -> None:
    with pytest.raises(VerificationFailed, match=reason):
        Outline.decode(root, write_car(root, blocks))


def test_wrong_trees() -> None:
    """Trees whose blocks all match their CIDs and that are still not ours are refused."""
    names = digests(4)
    raw = Codec.RAW

    one_link = node(raw, names[:32], [7])
    refused(one_link[0], [one_link], "built as it must be")

    left, right = node(raw, names[:64], [5, 5]), node(raw, names[64:], [5, 5])
    cumulative = [10 + len(left[1]), 10 + len(right[1])]
    deep = node(Codec.DAG_PB, left[0].digest + right[0].digest, [10, 10], cumulative)
    refused(deep[0], [deep, left, right], "built as it must be")

    chain = one_link
    blocks = [one_link]
    for _ in range(5000):
        chain = node(Codec.DAG_PB, chain[0].digest, [7])
        blocks.insert(0, chain)
    refused(chain[0], blocks, "built as it must be")

    huge = node(raw, names[:64], [LEAF_SIZE + 1, 1])
    refused(huge[0], [huge], "1 to 1048576 bytes")
    empty = node(raw, names[:64], [5, 0])
    refused(empty[0], [empty], "1 to 1048576 bytes")
    lie = node(raw, names[:64], [5, 5], [5, 6])
    refused(lie[0], [lie], "built as it must be")


def test_wrong_sums_above() -> None:
    """A root that says other sizes than the nodes below it is refused."""
    one = outline(1025)
    (_, _), left, right = one.blocks()
    sizes = [1024 * LEAF_SIZE, 5]
    cumulative = [sizes[0] + len(left[1]), sizes[1] + len(right[1])]
    names = left[0].digest + right[0].digest
    assert node(Codec.DAG_PB, names, sizes, cumulative)[0] == one.root
    for wrong in (
        node(Codec.DAG_PB, names, [sizes[0] - 1, 6], cumulative),
        node(Codec.DAG_PB, names, sizes, [cumulative[0] + 1, cumulative[1]]),
    ):
        refused(wrong[0], [wrong, left, right], "built as it must be")
    swapped = node(Codec.DAG_PB, right[0].digest + left[0].digest, sizes[::-1], cumulative[::-1])
    refused(swapped[0], [swapped, right, left], "built as it must be")


def test_order_and_number_of_blocks() -> None:
    """Nodes must come each once for each time they hang, in order, and none besides."""
    root, left, right = outline(1025).blocks()
    refused(root[0], [root, left], "nothing where the node")
    refused(root[0], [root, right, left], "where the node")
    refused(root[0], [left, root, right], "where the node")
    refused(root[0], [root, left, right, right], "goes on")
    refused(root[0], [], "nothing where the node")
    same = CID.of(bytes(LEAF_SIZE), Codec.RAW)
    one = Outline.build([LEAF_SIZE] * 2048, same.digest * 2048, Hash.BLAKE3)
    blocks = list(one.blocks())
    assert blocks[1] == blocks[2]
    assert Outline.decode(one.root, one.encode()) == one
    refused(one.root, blocks[:2], "nothing where the node")


def test_repetition_buys_nothing() -> None:
    """A few small blocks that claim 2**60 leaves cost no more than their bytes."""
    leaf = Hash.BLAKE3.digest(b"x")
    below = node(Codec.RAW, leaf * MAX_LINKS, [1] * MAX_LINKS)
    blocks = [below]
    size = MAX_LINKS
    for _ in range(4):
        below = node(Codec.DAG_PB, below[0].digest * MAX_LINKS, [size] * MAX_LINKS)
        size *= MAX_LINKS
        blocks.insert(0, below)
    refused(below[0], blocks, "nothing where the node|where the node")


def test_other_hash_inside() -> None:
    """A tree that changes its hash function half-way is refused."""
    leaves = hashlib.sha256(b"x").digest() * 2
    block = encode_file(FileNode(Codec.RAW, Hash.SHA2_256, leaves, (1, 1), (1, 1)))
    cid = CID.of(block, Codec.DAG_PB, Hash.BLAKE3)
    refused(cid, [(cid, block)], "built as it must be")


def test_wrong_size() -> None:
    """An Outline of another size than the manifest says is refused."""
    one = outline(3)
    with pytest.raises(VerificationFailed, match="said to have 5 bytes"):
        Outline.decode(one.root, one.encode(), 5)


def test_from_leaf_sizes() -> None:
    """The compact list of chunking.py builds the same tree as a plain one."""
    size = 3 * LEAF_SIZE + 7
    assert Outline.build(LeafSizes([size]), digests(4), Hash.BLAKE3) == outline(4, last=7)
