"""Content identifiers: the few kinds of CID that Allod speaks, and the hash functions behind them.

A CID names bytes by their hash.
The specification leaves base, version, codec, hash and digest length open; strangers who compare
names need exactly one spelling for one content, so this profile leaves little:

    text     ``b`` and lower-case base32 without padding, the spare bits zero
    version  1
    codec    raw (a leaf, or a file of one leaf), dag-pb (a tree of leaves, a folder), json
    hash     blake3 or sha2-256, always 32 bytes of digest

Whatever does not come out the same when it is written again is not a CID here.
This is the only module that knows which hash functions there are; the others say ``Hash``.

Pure: knows nothing of what the named bytes mean, nor where they are.
Specifications: github.com/multiformats/cid, /multibase, /multicodec, /multihash.
"""

import hashlib
import re
from base64 import b32encode
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, Protocol, TypeAlias

from blake3 import blake3

from p2p.errors import UsageError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that may be read where they lie, without a copy."""

DIGEST_SIZE: Final = 32
"""Bytes of digest in every CID: a shorter one would be easier to forge."""


REMEMBERED: Final = 1 << 14
"""CIDs whose texts are at hand, some 4 MB: a file's text is in every path of it, and base32 is slow
in Python."""
MAX_FOREIGN: Final = 128
"""Characters of a text in which another system's CID is looked for: those of IPFS have 46 to 62."""


class Hasher(Protocol):
    """A hash that takes its bytes in pieces, as in hashlib."""

    def update(self, data: Buffer, /) -> object:
        """Take the next piece."""

    def digest(self) -> bytes:
        """Return the 32 bytes of digest of everything taken so far."""


class Codec(IntEnum):
    """What kind of block a CID names: its multicodec code."""

    RAW = 0x55
    DAG_PB = 0x70
    JSON = 0x0200


class Hash(IntEnum):
    """A hash function: its multihash code."""

    BLAKE3 = 0x1E
    SHA2_256 = 0x12

    def digest(self, data: Buffer) -> bytes:
        """Return the 32 bytes of digest of ``data``."""
        if self is Hash.BLAKE3:
            return blake3(data).digest()
        return hashlib.sha256(data).digest()

    def new(self) -> Hasher:
        """Start a hash over bytes that come in pieces."""
        return blake3() if self is Hash.BLAKE3 else hashlib.sha256()


def _varint(number: int) -> bytes:
    """Write an unsigned LEB128 number, as multiformats do: the codes here need one byte or two."""
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])


# Everything of a binary CID that comes before the digest, for the six kinds that there are.
_HEADS: Final = {
    (codec, hash): b"\x01" + _varint(codec) + bytes([hash, DIGEST_SIZE])
    for codec in Codec
    for hash in Hash
}
_KINDS: Final = {head: kind for kind, head in _HEADS.items()}

# A binary CID has 36 bytes, or 37 with the two-byte code of json; five bits go into a character.
_TEXT: Final = re.compile("b(?:[a-z2-7]{58}|[a-z2-7]{60})")
_SIZES: Final = {59: (36, 58 * 5 - 36 * 8), 61: (37, 60 * 5 - 37 * 8)}  # text -> bytes, spare bits
# int() reads digits of any base up to 36, far faster than b32decode: its digits for base32's.
_DIGITS: Final = str.maketrans(
    "abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv"
)
_CHECK_THE_TEXT: Final = "Copy it again from where it came: one wrong character spoils a CID."


@dataclass(frozen=True, slots=True, order=True)
class CID:
    """The name of a block of bytes: what kind it is, the hash function, and 32 bytes of digest.

    ``str()`` gives the text (59 or 61 characters), ``bytes()`` the binary form (36 or 37 bytes).
    """

    codec: Codec
    hash: Hash
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_SIZE:
            raise UsageError(
                f"A CID holds {DIGEST_SIZE} bytes of digest, this one {len(self.digest)}."
            )

    @classmethod
    def parse(cls, text: str) -> "CID":
        """Read the text of a CID; ``UsageError`` unless it is in the profile, spelled as we do."""
        if len(text) not in _SIZES:
            raise UsageError(
                f"A CID has 59 characters or 61, this text has {len(text)}.",
                next=foreign(text) or _CHECK_THE_TEXT,
            )
        if _TEXT.fullmatch(text) is None:
            raise UsageError(
                f"A CID is 'b' and then letters a-z and digits 2-7, this is {text!r}.",
                next=foreign(text) or _CHECK_THE_TEXT,
            )
        size, spare = _SIZES[len(text)]
        number = int(text[1:].translate(_DIGITS), 32)
        if number & (1 << spare) - 1:
            raise UsageError(
                f"The last character of a CID leaves its spare bits zero, in {text!r} it does not.",
                next=_CHECK_THE_TEXT,
            )
        return cls.from_bytes((number >> spare).to_bytes(size, "big"))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "CID":
        """Read a binary CIDv1; ``UsageError`` unless it is in the profile."""
        kind = _KINDS.get(raw[:-DIGEST_SIZE])
        if kind is None:
            raise UsageError(
                "A CID here is version 1, raw, dag-pb or json, with 32 bytes of blake3 or "
                f"sha2-256; these {len(raw)} bytes begin with {bytes(raw[:5]).hex() or 'nothing'}.",
                next=_CHECK_THE_TEXT,
            )
        return cls(*kind, raw[-DIGEST_SIZE:])

    @classmethod
    def of(cls, data: Buffer, codec: Codec, hash: Hash = Hash.BLAKE3) -> "CID":
        """Name ``data``."""
        return cls(codec, hash, hash.digest(data))

    def matches(self, data: Buffer) -> bool:
        """Say whether ``data`` is what this CID names."""
        return self.hash.digest(data) == self.digest

    def __bytes__(self) -> bytes:
        return _HEADS[self.codec, self.hash] + self.digest

    def __str__(self) -> str:
        return _text_of(bytes(self))


@lru_cache(maxsize=REMEMBERED)
def _text_of(raw: bytes) -> str:
    return "b" + b32encode(raw).decode().rstrip("=").lower()


def foreign(text: str) -> str:
    """Say what a text is that is a CID elsewhere and none in this profile; empty if it is no CID.

    The whole of multiformats is asked here, once a text was refused and a person waits for a
    reason; it takes a quarter of a second to load.
    """
    if len(text) > MAX_FOREIGN:
        return ""
    import multiformats

    try:
        cid = multiformats.CID.decode(text)
    except Exception:  # what it raises for a text that is no CID depends on the text
        return ""
    return (
        f"It is a CIDv{cid.version} in {cid.base.name} of {cid.codec.name} with "
        f"{cid.hashfun.name}; here it must be version 1 in base32 with blake3 or sha2-256."
    )
