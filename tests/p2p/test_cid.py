"""The profile of CIDs: one spelling for one content, and nothing else gets in."""

import re

import multiformats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.cid import CID, Buffer, Codec, Hash, foreign
from p2p.errors import UsageError

EMPTY_RAW_SHA256 = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
EMPTY_RAW_BLAKE3 = "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi"

cids = st.builds(
    CID, st.sampled_from(Codec), st.sampled_from(Hash), st.binary(min_size=32, max_size=32)
)


@pytest.mark.parametrize(
    ("hash", "text"), [(Hash.SHA2_256, EMPTY_RAW_SHA256), (Hash.BLAKE3, EMPTY_RAW_BLAKE3)]
)
def test_golden(hash: Hash, text: str) -> None:
    """The CIDs of no bytes are those that the rest of the world knows."""
    assert str(CID.of(b"", Codec.RAW, hash)) == text
    assert CID.parse(text) == CID.of(b"", Codec.RAW, hash)


@given(cids)
def test_round_trip(cid: CID) -> None:
    """Text and bytes of every CID of the profile read back as the same CID."""
    assert CID.parse(str(cid)) == cid
    assert CID.from_bytes(bytes(cid)) == cid


@given(cids)
def test_multiformats_agrees(cid: CID) -> None:
    """An independent library reads the text and finds the same codec, hash and digest."""
    other = multiformats.CID.decode(str(cid))
    assert (other.version, other.codec.code, other.base.name) == (1, cid.codec, "base32")
    assert (other.hashfun.code, other.raw_digest) == (cid.hash, cid.digest)
    assert bytes(other) == bytes(cid)


@pytest.mark.parametrize("hash", Hash)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_hashes(hash: Hash, kind: type[Buffer]) -> None:
    """Whole or in pieces, from any buffer, the digest is the multihash library's."""
    data = bytes(range(256)) * 5
    expected = multiformats.multihash.digest(
        data, "blake3" if hash is Hash.BLAKE3 else "sha2-256", size=32
    )[2:]
    assert hash.digest(kind(data)) == expected
    hasher = hash.new()
    hasher.update(kind(data[:100]))
    hasher.update(kind(data[100:]))
    assert hasher.digest() == expected
    cid = CID.of(kind(data), Codec.RAW, hash)
    assert cid.matches(kind(data))
    assert not cid.matches(kind(data[1:]))


@given(cids, st.data())
def test_mutated_text(cid: CID, data: st.DataObject) -> None:
    """A changed text is refused, or is the one spelling of some other CID."""
    text = str(cid)
    place = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(place, min(len(text), place + 2)))
    changed = text[:place] + data.draw(st.text(max_size=2)) + text[stop:]
    try:
        other = CID.parse(changed)
    except UsageError:
        return
    assert str(other) == changed
    assert (other == cid) == (changed == text)


@given(
    st.text(max_size=64) | st.text("abcdefghijklmnopqrstuvwxyz234567b", min_size=58, max_size=61)
)
def test_hostile_text(text: str) -> None:
    """Whatever text comes, it is refused by name or is exactly a CID's spelling."""
    try:
        cid = CID.parse(text)
    except UsageError:
        return
    assert str(cid) == text


@given(st.binary(max_size=40))
def test_hostile_bytes(raw: bytes) -> None:
    """Whatever bytes come, they are refused or are exactly a CID's."""
    try:
        cid = CID.from_bytes(raw)
    except UsageError:
        return
    assert bytes(cid) == raw


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "this text has 0"),
        ("b" * 10_000_000, "this text has 10000000"),
        ("QmPZ9gcCEpqKTo6aq61g2nXGUhM4iCL3ewB6LDXZCtioEB", "this text has 46"),
        (EMPTY_RAW_SHA256.upper(), "a-z"),
        ("B" + EMPTY_RAW_SHA256[1:].upper(), "a-z"),
        (EMPTY_RAW_SHA256 + "\n", "this text has 60"),
        (EMPTY_RAW_SHA256[:-1] + "\n", "a-z"),
        (EMPTY_RAW_SHA256[:-1] + "v", "spare bits"),
        ("bb" + EMPTY_RAW_SHA256[2:], "begin with"),
        ("b" + "a" * 58, "begin with 0000000000"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    """A refusal says what was expected, what came, and what to do."""
    with pytest.raises(UsageError, match=re.escape(reason)) as caught:
        CID.parse(text)
    assert caught.value.next
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(CID.of(b"", Codec.RAW))[:-1],
        bytes(CID.of(b"", Codec.RAW)) + b"\0",
        b"\x01\x55\x00\x20" + bytes(32),  # the identity "hash": content in the name
        b"\x01\x55\x12\x14" + bytes(20),  # a digest cut short
        b"\x01\xd5\x00\x12\x20" + bytes(32),  # a code in more bytes than it needs
        b"\x01\x71\x12\x20" + bytes(32),  # dag-cbor
        b"\x12\x20" + bytes(32),  # version 0
    ],
)
def test_refused_bytes(raw: bytes) -> None:
    """Kinds of CID that the specification allows and the profile does not are refused."""
    with pytest.raises(UsageError):
        CID.from_bytes(raw)


def test_digest_size() -> None:
    """A CID cannot be made with a digest that is too short."""
    with pytest.raises(UsageError, match="32 bytes of digest, this one 20"):
        CID(Codec.RAW, Hash.BLAKE3, bytes(20))


def test_order_and_keys() -> None:
    """CIDs sort, and serve as keys."""
    one, two = CID.of(b"1", Codec.RAW), CID.of(b"2", Codec.DAG_PB)
    assert sorted([two, one]) == [one, two]
    assert len({one, two, CID.parse(str(one))}) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG", ["CIDv0", "base58btc", "dag-pb"]),
        ("zdj7WhuEjrB52m1BisYCtmjH1hSKa7yZ3jEZ9JcXaFRD51wVz", ["CIDv1", "base58btc"]),
        ("f01551220" + "ab" * 32, ["CIDv1", "base16", "raw"]),
    ],
)
def test_a_cid_of_another_system_is_named(text: str, words: list[str]) -> None:
    """Who pastes a CID that is valid elsewhere is told what it is."""
    with pytest.raises(UsageError) as caught:
        CID.parse(text)
    assert all(word in caught.value.next for word in words)


def test_what_is_no_cid_anywhere_is_not_named() -> None:
    """Nonsense, and texts too long to be looked at, get the usual advice."""
    assert foreign("nonsense") == foreign("b" * 1000) == foreign("") == ""
