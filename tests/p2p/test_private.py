"""The key of a private network and the connections under it."""

import os
from collections.abc import Callable

import nacl.bindings
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException

from p2p.errors import UsageError
from p2p.private import HELLO, MAX_HELD, PrivateStream, protect
from p2p.swarmkey import MAX_KEY_FILE, NONCE, SwarmKey, hsalsa20

KEY = SwarmKey(bytes(range(32)))
FILE = "/key/swarm/psk/1.0.0/\n/base16/\n" + bytes(range(32)).hex() + "\n"


def test_hsalsa20_is_that_of_its_paper() -> None:
    """The example of "Extending the Salsa20 nonce", which NaCl's tests have too."""
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    made = "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389"
    assert hsalsa20(shared, bytes(16)).hex() == made


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=24, max_size=24), st.binary())
def test_the_cipher_is_xsalsa20(key: bytes, nonce: bytes, text: bytes) -> None:
    """The stream equals libsodium's, whose secretbox begins with 32 bytes for its own use."""
    cipher = SwarmKey(key).cipher(nonce)
    cipher(bytes(32))
    assert cipher(text) == nacl.bindings.crypto_secretbox(text, nonce, key)[16:]


def test_a_stream_is_the_same_however_it_is_cut() -> None:
    """Where a write ends makes no difference."""
    one, many = KEY.cipher(bytes(24)), KEY.cipher(bytes(24))
    text = os.urandom(1000)
    assert b"".join(many(text[at : at + 37]) for at in range(0, 1000, 37)) == one(text)


def test_the_file_is_read_and_written() -> None:
    """Three lines, as Kubo has them; ends of lines and case of digits do not matter."""
    assert SwarmKey.parse(FILE) == KEY
    assert KEY.text == FILE
    assert SwarmKey.parse(FILE.strip().upper().replace("/KEY/SWARM/PSK", "/key/swarm/psk").replace(
        "/BASE16/", "/base16/").replace("\n", "\r\n")) == KEY  # fmt: skip
    made = SwarmKey.generate()
    assert SwarmKey.parse(made.text) == made
    assert made != SwarmKey.generate()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        FILE.replace("1.0.0", "2.0.0"),
        FILE.replace("base16", "base64"),
        FILE[:-3],
        FILE.strip() + "00\n",
        FILE.replace("1f", "zz"),
        FILE.replace("1f", "1 "),
        FILE + "more\n",
        FILE + "\n" * MAX_KEY_FILE,
        bytes(range(32)).hex(),
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    """The message of a refusal, and the chain behind it, holds nothing of the file."""
    with pytest.raises(UsageError) as caught:
        SwarmKey.parse(text)
    assert "0001020304" not in str(caught.value) + caught.value.next
    assert caught.value.__cause__ is None


def test_the_secret_is_in_no_repr() -> None:
    """A key that gets into a log or a traceback shows nothing."""
    assert repr(KEY) == f"{KEY}" == "SwarmKey()"


def test_the_fingerprint_tells_keys_apart_and_nothing_else() -> None:
    """32 hex digits, the same at each time."""
    assert KEY.fingerprint == SwarmKey.parse(FILE).fingerprint
    assert len(bytes.fromhex(KEY.fingerprint)) == 16
    assert KEY.fingerprint != SwarmKey.generate().fingerprint


# -- streams


class Memory(ReadWriteCloser):
    """A stream of trio's memory pair as libp2p's."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.sent = b""

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        self.sent += data
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int]:
        return "192.0.2.1", 9770


def pair() -> tuple[Memory, Memory]:
    one, two = trio.testing.memory_stream_pair()
    return Memory(one), Memory(two)


async def exactly(stream: ReadWriteCloser, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := await stream.read(min(7, size - len(got)))):
        got += data
    return got


async def test_both_sides_read_what_the_other_wrote() -> None:
    """The dialler writes first; what crosses below is a nonce and what nobody can read."""
    a, b = pair()
    one = PrivateStream(a, KEY, dialled=False)
    two = PrivateStream(b, KEY, dialled=True)
    await two.write(HELLO)
    assert b.sent == b""
    await one.write(HELLO + b"/noise")
    assert await exactly(two, len(HELLO) + 6) == HELLO + b"/noise"
    await two.write(b"yes")
    assert await exactly(one, len(HELLO) + 3) == HELLO + b"yes"
    assert len(a.sent) == NONCE + len(HELLO) + 6
    assert HELLO not in a.sent + b.sent
    assert a.sent[:NONCE] != b.sent[:NONCE]
    assert one.get_remote_address() == ("192.0.2.1", 9770)
    await one.close()
    assert await two.read(1) == b""


async def test_the_nonce_answers_a_nonce() -> None:
    """js-libp2p says nothing before it has the other's nonce: it comes as soon as theirs is there,
    and before it nothing."""
    a, b = pair()
    async with trio.open_nursery() as nursery:
        listening = PrivateStream(b, KEY, dialled=True)
        await listening.write(HELLO)
        nursery.start_soon(listening.read, 10)
        await trio.testing.wait_all_tasks_blocked()
        assert b.sent == b""
        await a.write(bytes(NONCE - 1))
        await trio.testing.wait_all_tasks_blocked()
        assert b.sent == b""
        await a.write(b"\0")
        assert len(await exactly(a, NONCE)) == NONCE
        await trio.testing.wait_all_tasks_blocked()
        assert len(b.sent) == NONCE
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (lambda: HELLO + b"\7/noise\n", "in no private network"),
        (lambda: os.urandom(NONCE) + SwarmKey.generate().cipher(bytes(24))(HELLO), "another"),
        (lambda: os.urandom(2000), "another"),
        (lambda: os.urandom(NONCE), "at once"),
        (lambda: b"", "at once"),
    ],
)
async def test_who_has_not_the_key_is_told_apart(sent: Callable[[], bytes], said: str) -> None:
    """A node of no network, one of another, noise and silence each end with a clear word."""
    a, b = pair()
    stream = PrivateStream(b, KEY, dialled=True)
    await stream.write(HELLO)
    await a.write(sent())
    await a.stream.send_eof()
    with pytest.raises(SwarmException, match=said):
        await exactly(stream, 1000)
    assert len(b.sent) in (0, NONCE)


async def test_what_is_held_back_is_bounded() -> None:
    """A protocol that talks first, and much, is a bug of ours and says so."""
    a, _ = pair()
    with pytest.raises(SwarmException, match="nothing yet"):
        await PrivateStream(a, KEY, dialled=True).write(bytes(MAX_HELD + 1))


def test_without_a_key_nothing_is_wrapped() -> None:
    """A node of the public network pays nothing."""
    a, _ = pair()
    raw = RawConnection(a, True)
    assert protect(raw, None).stream is a
    assert isinstance(protect(raw, KEY).stream, PrivateStream)
