"""The key that the nodes of a private network share: its file, its fingerprint, its cipher.

The file is the one of go-libp2p and Kubo (``swarm.key``): three lines, the name of the format, the
name of the encoding, and 32 bytes in hex.
The cipher is XSalsa20, as libp2p's "Private Networks" (pnet/Private-Networks-PSK-V1.md in
libp2p/specs) wants it: a stream cipher that authenticates nothing, which noise below it does.

Pure, but for ``SwarmKey.generate``. The secret is in no ``repr`` and in no message of an error.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from Crypto.Cipher import Salsa20
from nacl.utils import random

from p2p.errors import UsageError

NONCE: Final = 24
"""Bytes by which each side's stream begins."""
MAX_KEY_FILE: Final = 1024
"""Characters of a key file that are looked at: a key has 95, and somebody may add a comment."""

_FORMAT: Final = "/key/swarm/psk/1.0.0/"
_ENCODING: Final = "/base16/"
_SIZE: Final = 32
_SIGMA: Final = struct.unpack("<4I", b"expand 32-byte k")
# The quarter rounds of one double round of Salsa20: columns, then rows.
_QUARTERS: Final = (
    (0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11),
    (0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14),
)  # fmt: skip

Cipher = Callable[[bytes], bytes]
"""Encrypts, or decrypts, what comes next in a stream."""


@dataclass(frozen=True, slots=True)
class SwarmKey:
    """A pre-shared key of 32 bytes."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "SwarmKey":
        """Make a new one."""
        return cls(random(_SIZE))

    @classmethod
    def parse(cls, text: str) -> "SwarmKey":
        """Read a key file; UsageError, which repeats nothing of what came."""
        lines = [line.strip() for line in text[: MAX_KEY_FILE + 1].strip().splitlines()]
        digits = lines[2] if len(lines) == 3 else ""
        if len(text) > MAX_KEY_FILE or lines[:2] != [_FORMAT, _ENCODING] or len(digits) != 64:
            raise UsageError(
                f"A swarm key has three lines: {_FORMAT}, {_ENCODING}, and 64 hex digits; "
                "something else came.",
                next="Take the whole file that `allod network new`, or Kubo, made.",
            )
        try:
            return cls(bytes.fromhex(digits))
        except ValueError:
            raise UsageError(
                "The third line of a swarm key has 64 hex digits; something else came.",
                next="Take the whole file that `allod network new`, or Kubo, made.",
            ) from None

    @property
    def text(self) -> str:
        """The key as a file."""
        return f"{_FORMAT}\n{_ENCODING}\n{self.secret.hex()}\n"

    @property
    def fingerprint(self) -> str:
        """32 hex digits by which people compare keys without showing them; Kubo's are the same.

        The key is encrypted away before it is hashed, as there.
        """
        scrambled = Salsa20.new(key=self.secret, nonce=b"finprint").encrypt(bytes(64))
        return hashlib.shake_128(scrambled).hexdigest(16)

    def cipher(self, nonce: bytes) -> Cipher:
        """Begin the stream of one direction; ``nonce``: NONCE bytes."""
        inner = hsalsa20(self.secret, nonce[:16])
        return Salsa20.new(key=inner, nonce=nonce[16:]).encrypt


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The key of 32 bytes that XSalsa20 makes of a key and the first 16 bytes of a nonce."""
    first, second = struct.unpack("<4I", key[:16]), struct.unpack("<4I", key[16:])
    x = [_SIGMA[0], *first, _SIGMA[1], *struct.unpack("<4I", nonce), _SIGMA[2], *second, _SIGMA[3]]
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            x[b] ^= _turned(x[a] + x[d], 7)
            x[c] ^= _turned(x[b] + x[a], 9)
            x[d] ^= _turned(x[c] + x[b], 13)
            x[a] ^= _turned(x[d] + x[c], 18)
    return struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


def _turned(word: int, by: int) -> int:
    word &= 0xFFFFFFFF
    return (word << by | word >> (32 - by)) & 0xFFFFFFFF
