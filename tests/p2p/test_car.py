"""CARv1 as we write it is read back; anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.car import car_block, car_header, read_car, write_car
from p2p.cid import CID, Codec, Hash
from p2p.dagpb import MAX_BLOCK
from p2p.errors import AllodError, VerificationFailed

blocks = st.lists(
    st.builds(
        lambda data, codec, hash: (CID.of(data, codec, hash), data),
        st.binary(max_size=50),
        st.sampled_from(Codec),
        st.sampled_from(Hash),
    ),
    max_size=5,
)
ROOT = CID.of(b"root", Codec.RAW)


@given(blocks, st.sampled_from(Codec))
def test_round_trip(content: list[tuple[CID, bytes]], codec: Codec) -> None:
    """Blocks of every kind, repeated or not, come back as they went in."""
    root = CID.of(b"root", codec)
    assert list(read_car(write_car(root, content), root)) == content


def test_golden() -> None:
    """The bytes are those of the specification: dag-cbor header, then length, CID, block."""
    root = bytes(ROOT)
    car = write_car(ROOT, [(ROOT, b"root")])
    assert car == (
        bytes.fromhex("3aa265726f6f747381d82a582500")
        + root
        + bytes.fromhex("6776657273696f6e01")
        + bytes([len(root) + 4])
        + root
        + b"root"
    )


@given(blocks, st.data())
def test_mutations(content: list[tuple[CID, bytes]], data: st.DataObject) -> None:
    """A changed CAR is refused, or holds other blocks that match their own CIDs."""
    car = write_car(ROOT, content)
    place = data.draw(st.integers(0, len(car)))
    stop = data.draw(st.integers(place, min(len(car), place + 50)))
    changed = car[:place] + data.draw(st.binary(max_size=50)) + car[stop:]
    try:
        found = list(read_car(changed, ROOT))
    except AllodError:
        return
    assert all(cid.matches(block) for cid, block in found)
    assert write_car(ROOT, found) == changed


@given(st.binary(max_size=200))
def test_garbage(raw: bytes) -> None:
    """Whatever follows the header, only blocks that match their CIDs come out."""
    try:
        found = list(read_car(car_header(ROOT) + raw, ROOT))
    except AllodError:
        return
    assert write_car(ROOT, found) == car_header(ROOT) + raw


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"\x00", "wrong CID"),
        (b"\x24" + bytes(ROOT)[:-1], "bytes: at most"),
        (b"\x23" + bytes(ROOT)[:-1], "wrong CID"),
        (b"\x25" + bytes(ROOT) + b"x", "is not"),
        (b"\xff" * 20, "does not end"),
        (b"\x80", "does not end"),
        (b"\xa8\x00" + bytes(ROOT) + b"root", "longer than it needs"),
        (car_block(CID.of(bytes(MAX_BLOCK), Codec.RAW), bytes(MAX_BLOCK)), "at most 2097152"),
    ],
)
def test_refusals(rest: bytes, reason: str) -> None:
    """Wrong lengths, CIDs and contents are told apart."""
    with pytest.raises(VerificationFailed, match=reason):
        list(read_car(car_header(ROOT) + rest, ROOT))


def test_other_root() -> None:
    """A CAR whose header names another root, more roots or version 2 is refused."""
    other = CID.of(b"other", Codec.RAW)
    header = car_header(ROOT)
    for car in (car_header(other), b"", header[:-1], header[:-1] + b"\x02", b"\x00" + header):
        with pytest.raises(VerificationFailed, match="does not begin with the header"):
            list(read_car(car, ROOT))


def test_what_came_before_stays_right() -> None:
    """Blocks are given one by one, so a stream that goes wrong late has given its good ones."""
    found = read_car(write_car(ROOT, [(ROOT, b"root"), (ROOT, b"wrong")]), ROOT)
    assert next(found) == (ROOT, b"root")
    with pytest.raises(VerificationFailed, match="is not"):
        next(found)
