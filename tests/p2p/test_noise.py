"""The noise transport phase: frames, packing, fragments, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.backends.default.ciphers import ChaCha20Cipher  # type: ignore[import-untyped]

from p2p.errors import PeerFault
from p2p.noise import MAX_FRAME, MAX_NONCE, MAX_PLAIN, OVERHEAD, Opener, Sealer, sealed_size

KEY = bytes(range(32))


def open_all(opener: Opener, raw: bytes) -> bytes:
    """What one call makes of ``raw``."""
    into = memoryview(bytearray(opener.plain_size(len(raw))))
    return bytes(into[: opener.open(raw, into)])


@pytest.mark.parametrize("size", [0, 1, 100, MAX_PLAIN - 1, MAX_PLAIN, MAX_PLAIN + 1, 300_000])
def test_round_trip(size: int) -> None:
    """Frames are as full as they can be, and come back whole."""
    plain = bytes(i % 253 for i in range(size))
    raw = bytes(Sealer(KEY).seal([plain]))
    assert len(raw) == sealed_size(size)
    assert open_all(Opener(KEY), raw) == plain


def test_same_as_the_reference() -> None:
    """A frame is what the noiseprotocol package makes of the same key and nonce."""
    cipher = ChaCha20Cipher()
    cipher.initialize(KEY)
    expected = cipher.encrypt(KEY, 7, b"", b"hello")
    assert bytes(Sealer(KEY, 7).seal([b"hel", b"lo"])) == bytes([0, 21]) + expected
    assert open_all(Opener(KEY, 7), bytes([0, 21]) + expected) == b"hello"


def test_empty_frame() -> None:
    """A frame without plaintext is allowed and makes nothing."""
    cipher = ChaCha20Cipher()
    cipher.initialize(KEY)
    raw = bytes([0, 16]) + cipher.encrypt(KEY, 0, b"", b"")
    assert open_all(Opener(KEY), raw) == b""


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cut(draw: st.DataObject) -> None:
    """However plaintext is put together and ciphertext is cut, the same bytes come out."""
    sealer, opener = Sealer(KEY), Opener(KEY)
    sizes = st.sampled_from([0, 1, 12, 1000, MAX_PLAIN - 12, MAX_PLAIN, 2 * MAX_PLAIN + 3])
    wanted, raw = bytearray(), bytearray()
    for number, parts in enumerate(draw.draw(st.lists(st.lists(sizes, max_size=5), max_size=5))):
        pieces = [bytes([number + 1]) * size for size in parts]
        wanted += b"".join(pieces)
        raw += sealer.seal(pieces)
    out = bytearray()
    cuts = st.sampled_from([1, 2, 3, 17, 18, 1000, MAX_FRAME, MAX_FRAME + 2, 200_000])
    while raw:
        cut = draw.draw(cuts) if len(raw) < 1000 else max(1000, draw.draw(cuts))
        out += open_all(opener, bytes(raw[:cut]))
        del raw[:cut]
    assert out == wanted
    assert not opener.inside_frame


def test_byte_by_byte() -> None:
    """A frame that comes byte by byte is one frame."""
    raw = bytes(Sealer(KEY).seal([b"slow"]))
    opener = Opener(KEY)
    out = [open_all(opener, raw[i : i + 1]) for i in range(len(raw))]
    assert out == [b""] * (len(raw) - 1) + [b"slow"]


@pytest.mark.parametrize("at", [2, 10, 25])
def test_tampering(at: int) -> None:
    """One changed bit of a frame ends the connection."""
    raw = bytearray(Sealer(KEY).seal([b"0123456789"]))
    raw[at] ^= 1
    with pytest.raises(PeerFault):
        open_all(Opener(KEY), bytes(raw))


def test_replay() -> None:
    """A frame that comes twice does not authenticate the second time."""
    raw = bytes(Sealer(KEY).seal([b"once"]))
    with pytest.raises(PeerFault):
        open_all(Opener(KEY), raw + raw)


@pytest.mark.parametrize("raw", [b"\x00\x0f" + bytes(15), b"\x00", b""], ids=["short", "1", "0"])
@pytest.mark.parametrize("first", [b"", b"\x00"], ids=["whole", "cut"])
def test_impossible_length(first: bytes, raw: bytes) -> None:
    """A frame that is shorter than its tag cannot be."""
    opener = Opener(KEY)
    assert open_all(opener, first) == b""
    raw = raw[len(first) :]
    if len(first) + len(raw) < 2:
        assert open_all(opener, raw) == b""
        assert opener.plain_size(0) == len(first + raw)
    else:
        with pytest.raises(PeerFault):
            open_all(opener, raw)


def test_nonces_end() -> None:
    """The last counter is never used, in neither direction."""
    with pytest.raises(PeerFault):
        Sealer(KEY, MAX_NONCE).seal([b"x"])
    with pytest.raises(PeerFault):
        open_all(Opener(KEY, MAX_NONCE), bytes(Sealer(KEY).seal([b"x"])))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Whatever a stranger sends is refused or waits for its rest, of one frame at most."""
    opener = Opener(KEY)
    try:
        open_all(opener, raw)
    except PeerFault:
        return
    assert opener.plain_size(0) <= MAX_FRAME + OVERHEAD
