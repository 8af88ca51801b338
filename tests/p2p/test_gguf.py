"""GGUF headers: read with bounds, whatever a stranger put there."""

import struct
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.errors import AllodError, VerificationFailed
from p2p.tensors import (
    MAX_GGUF_HEADER,
    MAX_METADATA,
    MAX_TENSORS,
    ReadAt,
    Tensor,
    TensorFile,
    read_gguf,
    sniff,
)
from p2p.tensors.gguf import MAX_ITEMS, MAX_KEPT

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def reader(data: bytes) -> ReadAt:
    """Read from bytes as from a file."""
    return lambda offset, length: data[offset : offset + length]


def read(data: bytes) -> TensorFile:
    return read_gguf(reader(data), len(data))


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def number(form: str, value: float) -> bytes:
    return struct.pack("<" + form, value)


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + number("I", kind) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return number("I", kind) + number("Q", count) + items


def row(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = b"".join(number("Q", size) for size in shape)
    return text(name) + number("I", len(shape)) + dims + number("I", kind) + number("Q", offset)


def gguf(
    *,
    metadata: tuple[bytes, ...] = (),
    rows: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    head = b"GGUF" + number("I", version) + number("Q", len(rows)) + number("Q", len(metadata))
    head += b"".join(metadata) + b"".join(rows)
    return head + bytes(-len(head) % alignment) + data


MODEL = gguf(
    metadata=(
        pair("general.architecture", STRING, text("llama")),
        pair("llama.block_count", U32, number("I", 22)),
        pair("llama.rope", F32, number("f", 0.5)),
        pair("signed", I64, number("q", -7)),
        pair("yes", BOOL, b"\x01"),
        pair("heads", ARRAY, array(U16, 3, struct.pack("<3H", 4, 5, 6))),
        pair("tokens", ARRAY, array(STRING, 2, text("a") + text("ü"))),
        pair("scores", ARRAY, array(F32, MAX_KEPT + 1, bytes(4 * (MAX_KEPT + 1)))),
    ),
    rows=(
        row("q4", (64, 2), 2, 64),
        row("f32", (3, 4), 0, 0),
        row("scalar", (), 1, 160),
        row("new", (9,), 99, 192),
        row("none", (0,), 0, 224),
    ),
    data=bytes(230),
)


def test_reads() -> None:
    """Tensors lie where the table says, sorted; short metadata is kept, vocabularies are not."""
    file = read(MODEL)
    data = file.header_size
    assert data % 32 == 0
    assert data == len(MODEL) - 230
    assert file.tensors == (
        Tensor("f32", "F32", (3, 4), data, data + 48),
        Tensor("q4", "Q4_0", (64, 2), data + 64, data + 64 + 4 * 18),
        Tensor("scalar", "F16", (), data + 160, data + 162),
        Tensor("new", "ggml-99", (9,), data + 192, data + 224),
        Tensor("none", "F32", (0,), data + 224, data + 224),
    )
    assert file.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 22,
        "llama.rope": 0.5,
        "signed": -7,
        "yes": True,
        "heads": (4, 5, 6),
    }


def test_versions_and_alignment() -> None:
    """Version 2 reads like version 3; general.alignment moves the tensors; a file may be empty."""
    for alignment in (8, 64):
        file = read(
            gguf(
                metadata=(pair("general.alignment", U32, number("I", alignment)),),
                rows=(row("a", (1,), 24, alignment),),
                data=bytes(alignment + 1),
                version=2,
                alignment=alignment,
            )
        )
        start = file.header_size + alignment
        assert file.header_size % alignment == 0
        assert [(tensor.start, tensor.stop) for tensor in file.tensors] == [(start, start + 1)]
    empty = gguf(alignment=1)
    assert read(empty) == TensorFile("gguf", len(empty), (), {})


def test_sniff() -> None:
    """A GGUF file is told by its first bytes, whatever it is called."""
    for name in ("model.gguf", "blob"):
        assert sniff(name, reader(MODEL), len(MODEL)) == read(MODEL)
        assert sniff(name, reader(MODEL[:-20]), len(MODEL) - 20) is None
    assert sniff("model.gguf", reader(b"GG"), 2) is None


@settings(max_examples=300)
@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    """A changed header is refused, or puts every tensor inside the file, none over another."""
    place = data.draw(st.integers(0, 700) | st.integers(len(MODEL) - 600, len(MODEL)))
    stop = data.draw(st.integers(place, min(len(MODEL), place + 9)))
    inserted = data.draw(st.binary(max_size=9) | st.sampled_from([b"\xff" * 8, bytes(8)]))
    check(MODEL[:place] + inserted + MODEL[stop:])


@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 5))
def test_garbage(rest: bytes, tensors: int, pairs: int) -> None:
    """Whatever follows the magic is refused, or is a file whose tensors lie inside it."""
    check(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest)
    check(rest)


def check(data: bytes) -> None:
    try:
        file = read(data)
    except AllodError:
        return
    end = file.header_size
    for tensor in file.tensors:
        assert end <= tensor.start <= tensor.stop
        end = tensor.stop
    assert end <= len(data)


def one(*rows: bytes, data: int = 64) -> bytes:
    return gguf(rows=rows, data=bytes(data))


def meta(*pairs: bytes) -> bytes:
    return gguf(metadata=pairs)


HUGE = number("Q", 2**64 - 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends within the file"),
        (b"GGUF", "ends within the file"),
        (gguf()[:20], "ends within the file"),
        (b"GGML" + gguf()[4:], "begins with GGUF"),
        (gguf(version=1), "version 2 or 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "version 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, MAX_TENSORS + 1, 0), "at most 100000 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, MAX_METADATA + 1), "65536 entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "ends within the file"),
        (meta(HUGE), "ends within the file"),
        (meta(pair("a", 13, b"")), "0 to 12, not 13"),
        (meta(pair("a", U8, b"\x01"), pair("a", U8, b"\x01")), "key 'a' twice"),
        (meta(pair(b"\xff", U8, b"\x01")), "not UTF-8"),
        (meta(pair("a", STRING, text(b"\xff"))), "not UTF-8"),
        (meta(pair("a", STRING, HUGE)), "ends within the file"),
        (meta(pair("a", ARRAY, number("I", U8) + HUGE)), "ends within the file"),
        (meta(pair("a", ARRAY, number("I", STRING) + HUGE)), "over 2000000 strings"),
        (meta(pair("a", ARRAY, array(STRING, 2, text("a") + HUGE))), "ends within the file"),
        (meta(pair("a", ARRAY, array(13, 1, bytes(20)))), "not type 13"),
        (meta(pair("a", ARRAY, array(ARRAY, 1, array(U8, 0, b"")))), "not type 9"),
        (meta(pair("general.alignment", U32, number("I", 0))), "power of two"),
        (meta(pair("general.alignment", U32, number("I", 12))), "power of two"),
        (meta(pair("general.alignment", STRING, text("8"))), "power of two"),
        (one(row("a", (1, 1, 1, 1, 1), 0, 0)), "5 dimensions"),
        (one(row("a", (1,), 0, 0), row("a", (1,), 0, 32)), "same name"),
        (one(row("a", (2**32, 2**32), 0, 0)), "can't be F32"),
        (one(row("a", (31,), 2, 0)), "can't be Q4_0"),
        (one(row("a", (), 2, 0)), "can't be Q4_0"),
        (one(row("a", (1,), 0, 1)), "not aligned"),
        (one(row("a", (17,), 0, 0)), "past the file's"),
        (one(row("a", (1,), 0, 2**64 - 32)), "past the file's"),
        (one(row("a", (9,), 0, 0), row("b", (1,), 0, 32)), "reaches into the next"),
        (one(row("a", (1,), 0, 0), row("b", (1,), 0, 0)), "reaches into the next"),
        (one(row("a", (1,), 99, 96)), "past the file's"),
        (one(row("a", (0,), 0, 0), data=0)[:-5], "past the file's"),
    ],
)
def test_refusals(data: bytes, reason: str) -> None:
    """Every way to be malformed is refused, and the reason named."""
    with pytest.raises(VerificationFailed, match=reason):
        read(data)


def test_header_is_read_as_far_as_needed() -> None:
    """A small header costs one read of 1 MiB at most; one that never ends is given up at 64 MiB."""
    reads: list[int] = []

    def read_at(offset: int, length: int) -> bytes:
        reads.append(length)
        return MODEL[offset : offset + length] + bytes(max(0, length - len(MODEL)))

    read_gguf(read_at, len(MODEL) + (1 << 40))
    assert reads == [1 << 20]
    endless = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 40)

    def endless_at(offset: int, length: int) -> bytes:
        reads.append(length)
        return endless[offset : offset + length] + bytes(length - len(endless))

    reads.clear()
    with pytest.raises(VerificationFailed, match="ends within the file"):
        read_gguf(endless_at, 1 << 40)
    assert reads == [1 << 20, 8 << 20, MAX_GGUF_HEADER]


FULL = MAX_GGUF_HEADER
HOSTILE: dict[str, Any] = {
    "kept arrays": lambda: meta(
        *(pair(f"{i:05}", ARRAY, array(U8, 4000, bytes(4000))) for i in range(16_000))
    ),
    "one string": lambda: meta(pair("a", STRING, text(b"a" * (FULL - 100)))),
    "tensors": lambda: one(
        *(row(f"{i:02000}", (), 24, 32 * i) for i in range(30_000)), data=32 * 30_000
    ),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_sizes(make: Any) -> None:
    """A header of 64 MiB of anything costs a few times its own bytes of memory."""
    data = make()
    tracemalloc.start()
    try:
        with suppress(VerificationFailed):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * FULL


def test_hostile_time() -> None:
    """As many strings as are allowed, and more than any vocabulary has, take seconds."""
    data = meta(pair("a", ARRAY, array(STRING, MAX_ITEMS, bytes(8 * MAX_ITEMS))))
    started = time.process_time()
    assert read(data).tensors == ()
    assert time.process_time() - started < 10
