"""Ed25519 keys: who signs, and how a key is written down.

A key is 32 bytes, and it has exactly one spelling in each notation:

    did:key    ``did:key:z6Mk...``  the multicodec ed25519-pub and the key, in base58btc
    PeerId     ``12D3KooW...``      libp2p's: the protobuf of the key in an identity multihash
    PEM        SubjectPublicKeyInfo and PKCS #8 (RFC 8410), which openssl and others read

All signing and checking is libsodium's, through PyNaCl, because it is the strict one: it refuses
points of small order (under which one signature fits any message), points and scalars that are not
written in their canonical form, so nobody can turn one valid signature into a second one.
A key that fails those rules is refused here as soon as it is read, not only when it is used.

Pure, except for ``SecretKey.generate``, which asks the operating system for 32 random bytes.
Specifications: RFC 8032, W3C did:key, libp2p peer-ids, RFC 8410.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from typing import Final

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from nacl.utils import random

from p2p.errors import UsageError

KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ED25519_PUB: Final = b"\xed\x01"  # the multicodec's varint
_PEER_ID: Final = bytes.fromhex("002408011220")  # identity multihash of 36 bytes; type 1; 32 bytes
_SPKI: Final = bytes.fromhex("302a300506032b6570032100")  # RFC 8410 section 4, before the key
_PKCS8: Final = bytes.fromhex("302e020100300506032b657004220420")  # section 7, before the seed
_WORD: Final = re.compile(f"z[{_ALPHABET}]{{47}}")  # 34 bytes that begin with ed 01 need 47 digits
_DID: Final = "did:key:"
_CHECK_THE_TEXT: Final = "Copy it again from where it came: one wrong character makes another key."


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key; ``UsageError`` for 32 bytes that libsodium's checks refuse."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_SIZE:
            raise UsageError(f"An Ed25519 key has {KEY_SIZE} bytes, this one {len(self.raw)}.")
        if not crypto_core_ed25519_is_valid_point(self.raw):
            raise UsageError(
                f"These {KEY_SIZE} bytes are no safe Ed25519 key: {self.raw.hex()}.",
                next=_CHECK_THE_TEXT,
            )

    @classmethod
    def from_did(cls, text: str) -> "PublicKey":
        """Read ``did:key:z6Mk...``; ``UsageError`` unless it is spelled exactly so."""
        if not text.startswith(_DID):
            raise UsageError(f"A key is written did:key:z6Mk..., this is {text[:60]!r}.")
        return _key_of(text.removeprefix(_DID))

    @property
    def did(self) -> str:
        """The key as a W3C did:key."""
        return f"{_DID}z{_base58(_ED25519_PUB + self.raw)}"

    @property
    def peer_id(self) -> str:
        """The key as a libp2p PeerId, in base58."""
        return _base58(_PEER_ID + self.raw)

    @property
    def pem(self) -> str:
        """The key as a SubjectPublicKeyInfo in PEM."""
        return _pem("PUBLIC KEY", _SPKI + self.raw)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Say whether ``signature`` is this key's, and a canonical one, over ``message``."""
        if len(signature) != SIGNATURE_SIZE:
            return False
        try:
            VerifyKey(self.raw).verify(message, signature)
        except BadSignatureError:
            return False
        return True


class SecretKey:
    """An Ed25519 key that can sign; made of a seed of 32 bytes, which ``repr`` never shows."""

    __slots__ = ("_key", "public")

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.public = PublicKey(bytes(key.verify_key))

    @classmethod
    def from_seed(cls, seed: bytes) -> "SecretKey":
        """Make the key of this seed; ``UsageError`` unless it has 32 bytes."""
        if len(seed) != KEY_SIZE:
            raise UsageError(f"The seed of a key has {KEY_SIZE} bytes, this one {len(seed)}.")
        return cls(SigningKey(seed))

    @classmethod
    def generate(cls) -> "SecretKey":
        """Make a new key from the operating system's randomness."""
        return cls.from_seed(random(KEY_SIZE))

    @classmethod
    def from_pem(cls, text: str) -> "SecretKey":
        """Read what ``pem`` wrote; ``UsageError`` unless it is exactly that."""
        lines = text.split("\n")
        try:
            raw = b64decode(lines[1], validate=True) if len(lines) > 1 else b""
        except (Base64Error, ValueError):  # ValueError: letters outside ASCII
            raw = b""
        if raw.startswith(_PKCS8) and len(raw) == len(_PKCS8) + KEY_SIZE:
            key = cls.from_seed(raw.removeprefix(_PKCS8))
            if key.pem == text:
                return key
        # What came is not shown: it may be most of a secret.
        raise UsageError("This text is not an Ed25519 private key in PEM (PKCS #8, no password).")

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return bytes(self._key)

    @property
    def pem(self) -> str:
        """The key, secret and all, as PKCS #8 in PEM."""
        return _pem("PRIVATE KEY", _PKCS8 + self.seed)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of signature over ``message``."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"SecretKey({self.public.did})"


def _key_of(word: str) -> PublicKey:
    """Return the key that a did:key ends with; ``UsageError`` unless it is spelled exactly so."""
    if _WORD.fullmatch(word) is None:
        raise UsageError(
            f"A key is written did:key:z6Mk and 44 letters and digits more, this is {word[:60]!r}.",
            next=_CHECK_THE_TEXT,
        )
    raw = _unbase58(word[1:])
    if not raw.startswith(_ED25519_PUB) or len(raw) != len(_ED25519_PUB) + KEY_SIZE:
        raise UsageError(f"{word!r} is not an Ed25519 key.", next=_CHECK_THE_TEXT)
    return PublicKey(raw.removeprefix(_ED25519_PUB))


def _base58(raw: bytes) -> str:
    """Write bytes in base58btc: a number in base 58, each leading zero byte as a ``1``."""
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


def _unbase58(text: str) -> bytes:
    """Read base58btc; the caller has checked the length and the alphabet."""
    number = 0
    for character in text:
        number = number * 58 + _ALPHABET.index(character)
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _pem(label: str, der: bytes) -> str:
    """Write DER of under 49 bytes, so that its base64 fits one line."""
    return f"-----BEGIN {label}-----\n{b64encode(der).decode()}\n-----END {label}-----\n"
