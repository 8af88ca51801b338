"""The transport phase of libp2p's noise channel, pure: plaintext to frames and back.

What it knows: the wire format (a length of two bytes, big-endian, then ChaCha20-Poly1305
ciphertext with its tag, at most 65,535 bytes) and the two counters that are the nonces.  What it
must not know: sockets, tasks, and the handshake, whose two keys it is given.

The rules that it keeps: many frames a call, in both directions; every plaintext byte is
encrypted or decrypted straight into the buffer where it is wanted; a frame that does not
authenticate ends the connection, since the counters no longer agree.

Encryption holds the GIL (cryptography 50), so threads for it gain nothing; it runs where it is.
"""

from collections.abc import Sequence
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.errors import PeerFault

Data = bytes | bytearray | memoryview

LENGTH = Struct("!H")
TAG_SIZE = 16
OVERHEAD = LENGTH.size + TAG_SIZE
MAX_FRAME = 65535  # the ciphertext with its tag (Noise specification, section 3)
MAX_PLAIN = MAX_FRAME - TAG_SIZE
MAX_NONCE = (1 << 64) - 1  # reserved by the Noise specification, section 5.1
NONCE = Struct("<4xQ")


def sealed_size(plain: int) -> int:
    """How many bytes ``plain`` bytes take on the wire."""
    return plain + -(-plain // MAX_PLAIN) * OVERHEAD


class Sealer:
    """The sending direction: ``key`` of 32 bytes and the next nonce."""

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = nonce
        self._out = memoryview(bytearray())

    def seal(self, parts: Sequence[Data]) -> memoryview:
        """The frames for all parts, one after the other; valid until the next call.

        Parts are packed: a frame is as full as it can be.  What fills a frame by itself is
        encrypted from where it lies, the rest is put together first.
        """
        size = sealed_size(sum(map(len, parts)))
        if len(self._out) < size:
            self._out = memoryview(bytearray(size))
        stage = memoryview(bytearray(min(size, MAX_PLAIN)))
        at = staged = 0
        for part in parts:
            view = memoryview(part)
            start, stop = 0, len(view)
            while start < stop:
                if not staged and stop - start >= MAX_PLAIN:
                    at = self._frame(view[start : start + MAX_PLAIN], at)
                    start += MAX_PLAIN
                    continue
                take = min(MAX_PLAIN - staged, stop - start)
                stage[staged : staged + take] = view[start : start + take]
                start += take
                staged += take
                if staged == MAX_PLAIN:
                    at = self._frame(stage, at)
                    staged = 0
        if staged:
            at = self._frame(stage[:staged], at)
        return self._out[:at]

    def _frame(self, plain: memoryview, at: int) -> int:
        if self._nonce >= MAX_NONCE:
            raise PeerFault("the noise channel has used up its nonces")
        size = len(plain) + TAG_SIZE
        LENGTH.pack_into(self._out, at, size)
        at += LENGTH.size
        self._cipher.encrypt_into(NONCE.pack(self._nonce), plain, None, self._out[at : at + size])
        self._nonce += 1
        return at + size


class Opener:
    """The receiving direction: ``key`` of 32 bytes and the next nonce."""

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = nonce
        self._carry = bytearray()  # the part of a frame that has come, under 64 KiB

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has come in part: an end here is not a clean one."""
        return bool(self._carry)

    def plain_size(self, size: int) -> int:
        """How much room `open` may need for ``size`` more bytes."""
        return size + len(self._carry)

    def open(self, data: Data, into: memoryview) -> int:
        """Decrypt every whole frame into ``into``; how many bytes of plaintext that made.

        ``into`` has room for `plain_size` bytes.  The rest of ``data`` is kept for the next call.
        `PeerFault` for a frame that cannot be or does not authenticate.
        """
        view = memoryview(data)
        at, made = self._finish_carry(view, into)
        end = len(view)
        while end - at >= LENGTH.size:
            size = self._size(view, at)
            stop = at + LENGTH.size + size
            if stop > end:
                break
            made = self._frame(view[at + LENGTH.size : stop], into, made)
            at = stop
        self._carry += view[at:]
        return made

    def _finish_carry(self, view: memoryview, into: memoryview) -> tuple[int, int]:
        """Complete the frame that had come in part, if ``view`` does: bytes used, bytes made."""
        if not self._carry:
            return 0, 0
        used = min(max(0, LENGTH.size - len(self._carry)), len(view))
        self._carry += view[:used]
        if len(self._carry) < LENGTH.size:
            return used, 0
        stop = used + LENGTH.size + self._size(self._carry, 0) - len(self._carry)
        self._carry += view[used:stop]
        if stop > len(view):
            return len(view), 0
        whole, self._carry = self._carry, bytearray()
        return stop, self._frame(memoryview(whole)[LENGTH.size :], into, 0)

    def _size(self, data: Data, at: int) -> int:
        size: int = LENGTH.unpack_from(data, at)[0]
        if size < TAG_SIZE:
            raise PeerFault(f"a noise frame of {size} bytes came, shorter than its tag")
        return size

    def _frame(self, sealed: memoryview, into: memoryview, at: int) -> int:
        if self._nonce >= MAX_NONCE:
            raise PeerFault("the noise channel has used up its nonces")
        end = at + len(sealed) - TAG_SIZE
        try:
            self._cipher.decrypt_into(NONCE.pack(self._nonce), sealed, None, into[at:end])
        except InvalidTag as exc:
            raise PeerFault("a noise frame came that does not authenticate") from exc
        self._nonce += 1
        return end
