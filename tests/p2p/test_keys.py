"""Keys: one spelling each, libp2p's PeerId, and nothing that libsodium would not sign for."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from p2p.errors import UsageError
from p2p.keys import (
    PublicKey,
    SecretKey,
)

SEEDS = st.binary(min_size=32, max_size=32)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group that RFC 8032 signs in

# The points whose order divides 8, and the spellings of them that are not canonical: RFC 8032's
# curve has eight such points, and y = 0, 1 and -1 can also be written with p added.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [  # RFC 8032 section 7.1, tests 1 to 3
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
            "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e"
            "458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290"
            "ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_signs_as_the_standard(seed: str, public: str, message: str, signature: str) -> None:
    """The standard's own vectors come out, and verify."""
    key = SecretKey.from_seed(bytes.fromhex(seed))
    assert key.public.raw == bytes.fromhex(public)
    assert key.sign(bytes.fromhex(message)) == bytes.fromhex(signature)
    assert key.public.verify(bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_refuses_weak_keys(point: str) -> None:
    """A key of small order, or one not spelled canonically, is no key at all."""
    with pytest.raises(UsageError, match="no safe Ed25519 key"):
        PublicKey(bytes.fromhex(point))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_refuses_signatures_with_a_weak_point(point: str) -> None:
    """A signature whose first half is such a point fits nothing, whatever its second half."""
    key = SecretKey.from_seed(bytes(32)).public
    for scalar in (0, 1, ORDER - 1):
        assert not key.verify(b"message", bytes.fromhex(point) + scalar.to_bytes(32, "little"))


def test_refuses_a_key_of_mixed_order() -> None:
    """A good key with a point of order two added is refused, though it lies on the curve."""
    p = 2**255 - 19
    good = int.from_bytes(SecretKey.from_seed(bytes(32)).public.raw, "little")
    y, sign = good & (1 << 255) - 1, good >> 255
    mixed = (p - y) | (1 - sign) << 255  # (x, y) + (0, -1) = (-x, -y)
    with pytest.raises(UsageError, match="no safe Ed25519 key"):
        PublicKey(mixed.to_bytes(32, "little"))


@settings(deadline=None)
@given(SEEDS, st.binary())
def test_refuses_a_scalar_with_the_order_added(seed: bytes, message: bytes) -> None:
    """Nobody makes a second valid signature out of the first."""
    key = SecretKey.from_seed(seed)
    signature = key.sign(message)
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert key.public.verify(message, signature)
    assert not key.public.verify(message, signature[:32] + scalar.to_bytes(32, "little"))


@settings(deadline=None)
@given(SEEDS, st.integers(0, 64 * 8 - 1))
def test_refuses_a_flipped_bit(seed: bytes, bit: int) -> None:
    """Any bit of a signature, or of the message, matters."""
    key = SecretKey.from_seed(seed)
    signature = bytearray(key.sign(b"message"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not key.public.verify(b"message", bytes(signature))
    assert not key.public.verify(b"messagf", key.sign(b"message"))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_refuses_signatures_of_other_lengths(length: int) -> None:
    """A signature has 64 bytes."""
    assert not SecretKey.from_seed(bytes(32)).public.verify(b"", bytes(length))


@settings(deadline=None)
@given(SEEDS)
def test_peer_id_is_libp2ps(seed: bytes) -> None:
    """The PeerId of a key is the one that libp2p gives it."""
    key = SecretKey.from_seed(seed)
    assert key.public.peer_id == ID.from_pubkey(create_new_key_pair(seed).public_key).to_base58()


def test_did_of_the_method_specification() -> None:
    """The did:key of the method's Ed25519 example is read and written back."""
    did = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    key = SecretKey.from_seed(bytes(32)).public
    assert key.did == did
    assert PublicKey.from_did(did) == key


@settings(deadline=None)
@given(SEEDS)
def test_each_notation_round_trips(seed: bytes) -> None:
    """did:key and PEM come back as the same key."""
    key = SecretKey.from_seed(seed)
    assert PublicKey.from_did(key.public.did) == key.public
    assert SecretKey.from_pem(key.pem).seed == seed


@settings(deadline=None)
@given(SEEDS, st.data())
def test_one_spelling_each(seed: bytes, data: st.DataObject) -> None:
    """A did:key with one character changed is refused, or is another key's did:key."""
    did = SecretKey.from_seed(seed).public.did
    place = data.draw(st.integers(0, len(did) - 1))
    changed = did[:place] + data.draw(st.characters()) + did[place + 1 :]
    try:
        key = PublicKey.from_did(changed)
    except UsageError:
        return
    assert key.did == changed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
        "did:key:",
        "did:key:Z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
        "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp\n",
        "did:key: z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
        "did:key:z16MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
        "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",  # an X25519 key
        "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",  # a secp256k1 key
        "did:key:z" + "1" * 47,
        "did:key:" + "z" * 100_000,
    ],
)
def test_refuses_other_spellings(text: str) -> None:
    """Nothing but did:key:z6Mk... is read as a key."""
    with pytest.raises(UsageError):
        PublicKey.from_did(text)


def test_refuses_lengths() -> None:
    """Keys and seeds have 32 bytes."""
    with pytest.raises(UsageError, match="31"):
        PublicKey(bytes(31))
    with pytest.raises(UsageError, match="33"):
        SecretKey.from_seed(bytes(33))


def test_the_secret_is_not_shown() -> None:
    """Neither repr nor str of a secret key shows its seed, and two new keys differ."""
    key, other = SecretKey.generate(), SecretKey.generate()
    assert key.seed != other.seed
    assert key.public.did in repr(key)
    assert key.seed.hex() not in repr(key) + str(key)


def test_pem_is_what_other_tools_read() -> None:
    """The PEM of both halves is read by cryptography, and is what it writes."""
    from cryptography.hazmat.primitives import serialization as s

    key = SecretKey.generate()
    secret = s.load_pem_private_key(key.pem.encode(), None)
    assert (
        secret.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()
        == key.pem
    )
    public = s.load_pem_public_key(key.public.pem.encode())
    assert (
        public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode()
        == key.public.pem
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pem: "",
        lambda pem: "-----BEGIN PRIVATE KEY-----",
        lambda pem: pem.rstrip("\n"),
        lambda pem: pem.replace("PRIVATE", "PUBLIC"),
        lambda pem: pem.replace("MC4C", "MC5C"),
        lambda pem: pem.replace("MC4C", "MÄ4C"),
        lambda pem: pem.replace("MC4C", "MC4"),
        lambda pem: pem.replace("\n-----END", "AAAA\n-----END"),
    ],
)
def test_refuses_other_pem(spoil: Callable[[str], str]) -> None:
    """A PEM that is not exactly ours is refused, and the refusal shows nothing of it."""
    pem = SecretKey.from_seed(bytes(32)).pem
    with pytest.raises(UsageError) as caught:
        SecretKey.from_pem(spoil(pem))
    assert "MC4" not in caught.value.message
