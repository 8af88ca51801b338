"""dag-pb blocks: what we write reads back, and nothing that we would not write is read."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.cid import CID, Codec, Hash
from p2p.dagpb import (
    MAX_BLOCK,
    MAX_LINKS,
    MAX_SIZE,
    DirectoryNode,
    FileNode,
    Link,
    ShardNode,
    decode,
    decode_file,
    encode_directory,
    encode_file,
    encode_link,
    encode_shard,
    read_varint,
    varint,
)
from p2p.errors import AllodError, VerificationFailed

RAW = CID.of(b"x", Codec.RAW)
FOLDER = CID.of(b"y", Codec.DAG_PB, Hash.SHA2_256)

cids = st.builds(
    CID, st.sampled_from(Codec), st.sampled_from(Hash), st.binary(min_size=32, max_size=32)
)
names = st.text(min_size=1, max_size=10).filter(
    lambda name: name not in (".", "..") and not {"/", "\0"} & set(name) and name.isprintable()
)
numbers = st.integers(0, 2**40)


@st.composite
def file_nodes(draw: st.DrawFn) -> FileNode:
    """File nodes of a few links."""
    count = draw(st.integers(1, 6))
    several = st.lists(numbers, min_size=count, max_size=count).map(tuple)
    return FileNode(
        draw(st.sampled_from([Codec.RAW, Codec.DAG_PB])),
        draw(st.sampled_from(Hash)),
        draw(st.binary(min_size=32 * count, max_size=32 * count)),
        draw(several),
        draw(several),
    )


links = st.lists(st.builds(Link, names, cids, numbers), max_size=6, unique_by=lambda x: x.name)


@st.composite
def shards(draw: st.DrawFn) -> list[Link]:
    """Links of a shard: entries, and deeper shards."""
    places = draw(st.lists(st.integers(0, 255), max_size=6, unique=True))
    found = []
    for place, link in zip(places, draw(links), strict=False):
        deeper = draw(st.booleans())
        cid = CID(Codec.DAG_PB, link.cid.hash, link.cid.digest) if deeper else link.cid
        found.append(Link(f"{place:02X}{'' if deeper else link.name}", cid, link.dag_size))
    return found if len({link.name[2:] for link in found if link.name[2:]}) else found[:1]


blocks = st.one_of(
    file_nodes().map(encode_file), links.map(encode_directory), shards().map(encode_shard)
)


@given(file_nodes())
def test_file_nodes(node: FileNode) -> None:
    """A file's node reads back as it was written."""
    assert decode(encode_file(node)) == node


@given(links)
def test_directories(content: list[Link]) -> None:
    """A directory reads back sorted by the bytes of its names."""
    found = decode(encode_directory(content))
    assert found == DirectoryNode(tuple(sorted(content, key=lambda link: link.name.encode())))


@given(shards())
def test_shards(content: list[Link]) -> None:
    """A directory shard reads back sorted by place."""
    found = decode(encode_shard(content))
    assert found == ShardNode(tuple(sorted(content, key=lambda link: link.name)))


@settings(max_examples=250)
@given(blocks, st.data())
def test_mutations(block: bytes, data: st.DataObject) -> None:
    """A changed block is refused, or is the one way to write some other node."""
    place = data.draw(st.integers(0, len(block)))
    stop = data.draw(st.integers(place, min(len(block), place + 8)))
    changed = block[:place] + data.draw(st.binary(max_size=8)) + block[stop:]
    check_strict(changed)


@settings(max_examples=250)
@given(st.binary(max_size=80) | st.lists(blocks, max_size=3).map(b"".join))
def test_garbage(raw: bytes) -> None:
    """Whatever bytes come, they are refused or are the one way to write what was read."""
    check_strict(raw)


def check_strict(raw: bytes) -> None:
    write: dict[type, Callable[..., bytes]] = {
        DirectoryNode: lambda node: encode_directory(node.links),
        ShardNode: lambda node: encode_shard(node.links),
        FileNode: encode_file,
    }
    try:
        node = decode(raw)
    except AllodError:
        return
    assert write[type(node)](node) == raw


@given(st.integers(0, 2**63 - 1))
def test_numbers(number: int) -> None:
    """Numbers read back, and no number can be written in two ways."""
    written = varint(number)
    assert read_varint(b"\xff" + written + b"rest", 1) == (number, 1 + len(written))
    padded = written[:-1] + bytes([written[-1] | 0x80, 0])
    with pytest.raises(VerificationFailed, match=r"longer than it needs|within nine bytes"):
        read_varint(padded, 0)


def test_numbers_that_do_not_end() -> None:
    """A number that goes on past nine bytes, or past the data, is refused."""
    for data in (b"\xff" * 9 + b"\x01", b"\x80", b""):
        with pytest.raises(VerificationFailed, match="within nine bytes"):
            read_varint(data, 0)


def data_field(inner: bytes) -> bytes:
    return b"\x0a" + varint(len(inner)) + inner


LINK = encode_link(Link("a", RAW, 1))
FILE = encode_file(FileNode(Codec.RAW, Hash.BLAKE3, RAW.digest * 2, (1, 2), (1, 2)))
FILE_LINKS = FILE[: -(FILE[::-1].index(0x0A) + 1)]
DIRECTORY = data_field(b"\x08\x01")


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "no UnixFS message"),
        (LINK, "no UnixFS message"),
        (b"\x08\x01", "no UnixFS message"),
        (data_field(b""), "no UnixFS file"),
        (data_field(b"\x08\x04"), "no UnixFS file"),  # a symbolic link
        (data_field(b"\x12\x01x\x08\x02"), "no UnixFS file"),  # the type not first
        (b"\x0d\x00\x00\x00\x00", "wire type 5"),
        (b"\x0a\x05\x08\x01", "to the end of its message"),
        (DIRECTORY + b"\x12", "within nine bytes"),
        (DIRECTORY + LINK, "one way"),
        (data_field(b"\x08\x01\x38\xa4\x03"), "one way"),  # a mode
        (LINK + DIRECTORY + b"\x1a\x00", "one way"),
        (LINK + DIRECTORY + DIRECTORY, "one way"),
        (encode_link(Link("b", RAW, 1)) + LINK + DIRECTORY, "one way"),
        (LINK + LINK + DIRECTORY, "same name"),
        (encode_directory([Link("", RAW, 1)]), "may not hold"),
        (encode_directory([Link("..", RAW, 1)]), "may not hold"),
        (encode_directory([Link("a/b", RAW, 1)]), "may not hold"),
        (encode_directory([Link("a\0", RAW, 1)]), "may not hold"),
        (encode_directory([Link("a", RAW, MAX_SIZE + 1)]), "lacks"),
        (b"\x12\x00" + DIRECTORY, "lacks"),
        (b"\x12\x07\x0a\x01x\x12\x00\x18\x01" + DIRECTORY, "link of a directory is wrong"),
        (LINK.replace(b"\x12\x01a", b"\x12\x01\xff") + DIRECTORY, "link of a directory is wrong"),
        (
            LINK.replace(b"\x0a\x24\x01", b"\x0a\x24\x02") + DIRECTORY,
            "link of a directory is wrong",
        ),
        (b"\x10\x00" + DIRECTORY, "one way"),
        (encode_shard([Link("0Aa", RAW, 1), Link("0Ab", RAW, 1)]), "same place"),
        (encode_shard([Link("0Aa", RAW, 1), Link("0Ba", RAW, 1)]), "same name"),
        (encode_shard([Link("0aa", RAW, 1)]), "upper-case hex"),
        (encode_shard([Link("0A", RAW, 1)]), "does not name dag-pb"),
        (encode_shard([Link("0A..", RAW, 1)]), "may not hold"),
        (encode_shard([Link("0Aa", RAW, 1)]).replace(b"\x28\x22", b"\x28\x1e"), "one way"),
        (encode_shard([Link("0Aa", RAW, 1)])[:-3] + b"\x30\x80\x04", "one way"),
        (LINK + data_field(b"\x08\x05"), "upper-case hex"),
        (data_field(b"\x08\x02\x18\x00"), "1 to 1024 links, not 0"),
        (FILE_LINKS + data_field(b"\x08\x02\x18\x03\x20\x01"), "2 links and 1 sizes"),
        (FILE_LINKS + data_field(b"\x08\x02\x18\x03\x22\x01\x01\x20\x02"), "2 links and 1 sizes"),
        (FILE_LINKS + data_field(b"\x08\x02\x18\x04\x20\x01\x20\x02"), "one way"),  # a wrong sum
        (FILE_LINKS + data_field(b"\x08\x02\x12\x01x\x18\x03\x20\x01\x20\x02"), "one way"),
        (b"\x10\x00" + FILE, "no UnixFS|one way"),
        (FILE + b"\x12\x00", "one way"),
        (FILE[:-1], "to the end of its message"),
        (LINK + FILE, "wire type 1"),
    ],
)
def test_refusals(block: bytes, reason: str) -> None:
    """Every way to write a node that is not ours is refused, and the reason named."""
    with pytest.raises(VerificationFailed, match=reason):
        decode(block)


def test_bounds() -> None:
    """A block of more bytes, a node of more links or of absurd sizes is refused."""
    with pytest.raises(VerificationFailed, match="at most 2097152 bytes"):
        decode(bytes(MAX_BLOCK + 1))
    for count in (MAX_LINKS, MAX_LINKS + 1):
        sizes = (1,) * count
        block = encode_file(FileNode(Codec.RAW, Hash.BLAKE3, bytes(32 * count), sizes, sizes))
        if count == MAX_LINKS:
            assert len(decode_file(block).sizes) == MAX_LINKS
        else:
            with pytest.raises(VerificationFailed, match="not 1025"):
                decode_file(block)
    for sizes, dag_sizes in (((MAX_SIZE, 1), (1, 1)), ((1, 1), (MAX_SIZE, 1))):
        block = encode_file(FileNode(Codec.RAW, Hash.BLAKE3, bytes(64), sizes, dag_sizes))
        with pytest.raises(VerificationFailed, match="more than"):
            decode_file(block)


def test_links_of_different_kinds() -> None:
    """A file's node whose links are not all of one codec and hash is refused."""
    one = FileNode(Codec.RAW, Hash.BLAKE3, RAW.digest * 2, (1, 1), (1, 1))
    block = encode_file(one)
    second = block.index(b"\x12\x2a", 40)
    mixed = block[: second + 5] + b"\x70" + block[second + 6 :]
    assert mixed != block
    with pytest.raises(VerificationFailed, match="one way"):
        decode_file(mixed)
