"""Directories: one tree for given files, golden CIDs, and no tree from paths that make none."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import directory
from p2p.cid import CID, Codec, Hash
from p2p.dagpb import MAX_SIZE, DirectoryNode, FileNode, ShardNode, decode
from p2p.directory import MAX_DEPTH, MAX_FLAT, Tree, TreeFile, build_tree
from p2p.errors import AllodError, VerificationFailed
from p2p.murmur import murmur3_x64_64
from tests.vectors import paths, unixfs


def named(path: str, hash: Hash = Hash.SHA2_256) -> TreeFile:
    """A file whose bytes are its path."""
    return TreeFile(path, CID.of(path.encode(), Codec.RAW, hash), len(path.encode()))


def walk(tree: Tree, cid: CID, prefix: str = "", shard: bool = False) -> list[str]:
    """Read the paths back out of a tree's blocks, checking each block on the way."""
    if cid not in tree.blocks:
        return [prefix]
    block = tree.blocks[cid]
    assert cid.matches(block)
    node = decode(block)
    assert not isinstance(node, FileNode)
    assert not shard or isinstance(node, ShardNode)
    found: list[str] = []
    for link in node.links:
        name = link.name[2:] if isinstance(node, ShardNode) else link.name
        if isinstance(node, ShardNode) and not name:
            found += walk(tree, link.cid, prefix, shard=True)
        else:
            found += walk(tree, link.cid, f"{prefix}/{name}" if prefix else name)
    return found


@pytest.mark.parametrize("case", unixfs()["directories"], ids=lambda case: str(case["name"]))
def test_golden(case: dict[str, Any]) -> None:
    """The CIDs and sizes are those that the JavaScript ipfs-unixfs-importer gave."""
    tree = build_tree(map(named, paths(case)), Hash.SHA2_256)
    assert (str(tree.root), tree.dag_size) == (case["cid"], case["dagSize"])


def test_empty() -> None:
    """No files make the empty directory that every IPFS node knows."""
    tree = build_tree([], Hash.SHA2_256)
    assert str(tree.root) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    assert tree.dag_size == 4


@pytest.mark.parametrize("hash", Hash)
@pytest.mark.parametrize("count", [3, 4000, 9000])
def test_read_back(count: int, hash: Hash) -> None:
    """Whatever the order that files come in, one tree results, and it holds exactly these files."""
    names = [f"data/{i}.bin" for i in range(count)] + ["README.md", "data.txt", "a/b/c"]
    tree = build_tree([named(name, hash) for name in names], hash)
    shuffled = random.Random(count).sample(names, len(names))
    again = build_tree([named(name, hash) for name in shuffled], hash)
    assert (again.root, again.dag_size, again.blocks) == (tree.root, tree.dag_size, tree.blocks)
    assert tree.root.hash is hash
    assert sorted(walk(tree, tree.root)) == sorted(names)
    assert all(len(block) <= MAX_FLAT for block in tree.blocks.values())


def test_threshold_counts_subdirectories() -> None:
    """A directory is sharded when its own block passes 256 KiB, of whatever its links are."""
    few = build_tree([named(f"{i}/x") for i in range(4000)], Hash.SHA2_256)
    many = build_tree([named(f"{i}/x") for i in range(6000)], Hash.SHA2_256)
    assert isinstance(decode(few.blocks[few.root]), DirectoryNode)
    assert isinstance(decode(many.blocks[many.root]), ShardNode)


@pytest.mark.parametrize(
    "wrong",
    [
        ["a", "a"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["a/b", "a/b/c"],
        [""],
        ["/a"],
        ["a/"],
        ["a//b"],
        ["."],
        ["a/../b"],
        ["a/./b"],
        ["a\0b"],
        ["\ud800"],
        ["\ud800/a"],
        ["/".join("x" * (MAX_DEPTH + 2))],
        ["x/" * 1_000_000 + "x"],
    ],
    ids=lambda wrong: repr(wrong)[:20],
)
def test_paths_that_make_no_tree(wrong: list[str]) -> None:
    """Paths that are twice there, both file and folder, empty, dots or bottomless are refused."""
    cid = CID.of(b"", Codec.RAW)
    with pytest.raises(VerificationFailed):
        build_tree([TreeFile(path, cid, 0) for path in wrong], Hash.BLAKE3)


def test_deepest() -> None:
    """The deepest tree that is allowed is built."""
    path = "/".join("x" * (MAX_DEPTH + 1))
    tree = build_tree([named(path)], Hash.BLAKE3)
    assert walk(tree, tree.root) == [path]


def test_impossible_files() -> None:
    """A file named as a manifest, or of a size that cannot be, is refused; so is an absurd sum."""
    raw, json = CID.of(b"", Codec.RAW), CID.of(b"", Codec.JSON)
    for file in (TreeFile("a", json, 0), TreeFile("a", raw, -1), TreeFile("a", raw, MAX_SIZE + 1)):
        with pytest.raises(VerificationFailed, match="named by a raw or dag-pb CID"):
            build_tree([file], Hash.BLAKE3)
    with pytest.raises(VerificationFailed, match="pass"):
        build_tree([TreeFile("a", raw, MAX_SIZE), TreeFile("b", raw, 1)], Hash.BLAKE3)


def test_one_enormous_name() -> None:
    """A name that makes a shard larger than a block may be is refused."""
    with pytest.raises(VerificationFailed, match="pass"):
        build_tree([named("x" * (3 << 20))], Hash.BLAKE3)


def test_colliding_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that agree in their whole hash are refused in a large directory, named, at once."""
    monkeypatch.setattr(directory, "murmur3_x64_64", lambda name: 7)
    with pytest.raises(VerificationFailed, match="'0' and '1' have the same hash"):
        build_tree([named(str(i)) for i in range(6000)], Hash.BLAKE3)


def test_deep_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that agree in all but the last byte of their hash lie eight shards deep."""
    monkeypatch.setattr(directory, "murmur3_x64_64", lambda name: 7 << 8 | int(name))
    monkeypatch.setattr(directory, "MAX_FLAT", 100)
    names = [str(i) for i in range(200)]
    tree = build_tree(map(named, names), Hash.BLAKE3)
    assert len(tree.blocks) == 8
    assert sorted(walk(tree, tree.root)) == sorted(names)


@given(
    st.lists(
        st.builds(
            TreeFile,
            st.text("ab/.\0é😀\ud800", max_size=8),
            st.builds(CID.of, st.just(b""), st.sampled_from(Codec)),
            st.integers(-1, MAX_SIZE + 1),
        ),
        max_size=6,
    )
)
def test_hostile_files(files: list[TreeFile]) -> None:
    """Any list of files is refused, or makes a tree that holds just these."""
    try:
        tree = build_tree(files, Hash.BLAKE3)
    except AllodError:
        return
    assert sorted(walk(tree, tree.root)) == sorted(file.path for file in files) or not files
    assert tree.dag_size == sum(file.dag_size for file in files) + sum(
        len(tree.blocks[cid]) for cid in every_block(tree, tree.root)
    )


def every_block(tree: Tree, cid: CID) -> list[CID]:
    """The blocks of a tree, each as often as it hangs."""
    if cid not in tree.blocks:
        return []
    node = decode(tree.blocks[cid])
    assert not isinstance(node, FileNode)
    return [cid, *(below for link in node.links for below in every_block(tree, link.cid))]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"hello", 0xCBD8A7B341BD9B02),
        (b"hello, world", 0x342FAC623A5EBC8E),
        (b"19 Jan 2038 at 3:14:07 AM", 0xB89E5988B737AFFC),
        (b"The quick brown fox jumps over the lazy dog.", 0xCD99481F9EE902C9),
    ],
)
def test_murmur(data: bytes, expected: int) -> None:
    """The hash is the first half of MurmurHash3_x64_128, by vectors in wide use."""
    assert murmur3_x64_64(data) == expected
