"""The header of a GGUF file, read with bounds that its own reader lacks.

Metadata keeps numbers, strings and short arrays of numbers; vocabularies are stepped over.
Specification: github.com/ggml-org/ggml, docs/gguf.md; versions 2 and 3, little-endian.
"""

import math
import struct
from collections.abc import Iterable
from typing import Any, Final

from p2p.errors import VerificationFailed
from p2p.tensors.layout import (
    MAX_METADATA,
    MAX_OFFSET,
    MAX_TENSORS,
    ReadAt,
    Tensor,
    TensorFile,
    shown,
)

MAX_GGUF_HEADER: Final = 64 << 20
"""Bytes before a GGUF file's tensors: vocabularies of 250,000 tokens need about 10 MB."""

MAX_ITEMS: Final = 2_000_000
"""Strings inside arrays, together: several times the largest vocabulary and its merges."""

MAX_KEPT: Final = 4096
"""Numbers in arrays that are kept as metadata, together: some for every layer, no vocabulary's."""

MAX_GGUF_DIMS: Final = 4
"""Dimensions of a tensor: all that ggml can hold."""

# Number -> name, elements in a block, bytes of a block.
_TYPES: Final = """
    0 F32 1 4; 1 F16 1 2; 2 Q4_0 32 18; 3 Q4_1 32 20; 6 Q5_0 32 22; 7 Q5_1 32 24; 8 Q8_0 32 34
    9 Q8_1 32 36; 10 Q2_K 256 84; 11 Q3_K 256 110; 12 Q4_K 256 144; 13 Q5_K 256 176
    14 Q6_K 256 210; 15 Q8_K 256 292; 16 IQ2_XXS 256 66; 17 IQ2_XS 256 74; 18 IQ3_XXS 256 98
    19 IQ1_S 256 50; 20 IQ4_NL 32 18; 21 IQ3_S 256 110; 22 IQ2_S 256 82; 23 IQ4_XS 256 136
    24 I8 1 1; 25 I16 1 2; 26 I32 1 4; 27 I64 1 8; 28 F64 1 8; 29 IQ1_M 256 56; 30 BF16 1 2
    34 TQ1_0 256 54; 35 TQ2_0 256 66; 39 MXFP4 32 17; 40 NVFP4 64 36; 41 Q1_0 128 18
"""
_GGML: Final = {
    int(number): (name, int(elements), int(size))
    for number, name, elements, size in (
        row.split() for row in _TYPES.strip().replace("\n", ";").split(";")
    )
}
# Type numbers of metadata: those of fixed size, then the two others.
_SCALARS: Final = {
    **dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"))),
    **dict(enumerate(("<Q", "<q", "<d"), start=10)),
}
_STRING: Final = 8
_ARRAY: Final = 9


class _Short(Exception):
    """The bytes at hand end before the header does."""


class _Reader:
    """Walks the first bytes of a GGUF file; ``_Short`` where they end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.items = 0  # strings met inside arrays
        self.kept = 0  # numbers in arrays that were kept

    def take(self, size: int) -> int:
        """Step over ``size`` bytes: where they begin."""
        start = self.at
        if size > len(self.data) - start:
            raise _Short
        self.at = start + size
        return start

    def number(self, form: str) -> Any:
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        size = self.number("<Q")
        start = self.take(size)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError as exc:
            raise VerificationFailed(f"A GGUF name or text at byte {start} is not UTF-8.") from exc

    def value(self, kind: int) -> Any:
        """Read a metadata value; ``None`` for an array that is not worth keeping."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise VerificationFailed(f"A GGUF value has a type from 0 to 12, not {kind}.")
        kind, count = self.number("<I"), self.number("<Q")
        if kind in _SCALARS:
            start = self.take(count * struct.calcsize(_SCALARS[kind]))
            if self.kept + count > MAX_KEPT:
                return None
            self.kept += count
            return struct.unpack_from(f"<{count}{_SCALARS[kind][1]}", self.data, start)
        if kind != _STRING:  # arrays in arrays are allowed on paper; no loader reads them
            raise VerificationFailed(f"A GGUF array holds numbers or strings, not type {kind}.")
        self.items += count
        if self.items > MAX_ITEMS:
            raise VerificationFailed(f"A GGUF header has over {MAX_ITEMS} strings in arrays.")
        self.skip_strings(count)
        return None

    def skip_strings(self, count: int) -> None:
        data, at, end = self.data, self.at, len(self.data)
        for _ in range(count):
            at += 8 + int.from_bytes(data[at : at + 8], "little")
            if at > end:
                raise _Short
        self.at = at


def read_gguf(read_at: ReadAt, size: int) -> TensorFile:
    """Read the header of a GGUF file of ``size`` bytes; ``VerificationFailed`` if it is malformed.

    Versions 2 and 3, little-endian. Metadata keeps numbers, strings and short arrays of numbers.
    Nobody says how long a header is: the first 1, 8, then 64 MiB are tried.
    """
    for limit in (MAX_GGUF_HEADER >> 6, MAX_GGUF_HEADER >> 3, MAX_GGUF_HEADER):
        data = read_at(0, min(limit, size))
        try:
            return _gguf(_Reader(data), size)
        except _Short:
            if len(data) < limit:
                break
    raise VerificationFailed(
        f"A GGUF header ends within the file, of {size} bytes here, and within {MAX_GGUF_HEADER}."
    )


def _gguf(reader: _Reader, size: int) -> TensorFile:
    magic, version = reader.data[reader.take(4) : 4], reader.number("<I")
    if magic != b"GGUF" or version not in (2, 3):
        raise VerificationFailed(
            f"A GGUF file begins with GGUF and version 2 or 3, not {magic!r} and {version}."
        )
    tensor_count, metadata_count = reader.number("<Q"), reader.number("<Q")
    if tensor_count > MAX_TENSORS or metadata_count > MAX_METADATA:
        raise VerificationFailed(
            f"A GGUF file has at most {MAX_TENSORS} tensors and {MAX_METADATA} entries of "
            f"metadata, this one says {tensor_count} and {metadata_count}."
        )
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = reader.string()
        if key in metadata:
            raise VerificationFailed(f"A GGUF header has the key {shown(key)} twice.")
        metadata[key] = reader.value(reader.number("<I"))
    rows = [_gguf_row(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment not in (1 << n for n in range(3, 17)):
        raise VerificationFailed(f"A GGUF alignment is a power of two from 8 on, not {alignment}.")
    data = reader.at + -reader.at % alignment
    return TensorFile(
        "gguf",
        data if rows else min(data, size),
        _gguf_tensors(rows, data, alignment, size),
        {key: value for key, value in metadata.items() if value is not None},
    )


_Row = tuple[str, int, tuple[int, ...], int]  # name, ggml type, dimensions, offset


def _gguf_row(reader: _Reader) -> _Row:
    name, dims = reader.string(), reader.number("<I")
    if dims > MAX_GGUF_DIMS:
        raise VerificationFailed(f"The tensor {shown(name)} has {dims} dimensions; GGUF allows 4.")
    start = reader.take(8 * dims)
    shape = struct.unpack_from(f"<{dims}Q", reader.data, start)
    return name, reader.number("<I"), shape, reader.number("<Q")


def _gguf_tensors(rows: Iterable[_Row], data: int, alignment: int, size: int) -> tuple[Tensor, ...]:
    """Place the tensors in the file: aligned, inside it, none over another, no name twice."""
    ordered = sorted(rows, key=lambda row: row[3])
    if len({row[0] for row in ordered}) != len(ordered):
        raise VerificationFailed("Two tensors of a GGUF file have the same name.")
    tensors: list[Tensor] = []
    limits = [*(data + row[3] for row in ordered), size][1:]  # where the next begins, or the end
    for (name, kind, shape, offset), limit in zip(ordered, limits, strict=True):
        start = data + offset
        dtype, elements, block = _GGML.get(kind, (f"ggml-{kind}", 0, 0))
        stop = limit
        if elements:
            count = math.prod(shape)
            if count > MAX_OFFSET or (shape[0] if shape else 1) % elements:
                raise VerificationFailed(f"The tensor {shown(name)} can't be {dtype} {shape}.")
            stop = start + count // elements * block
        if offset % alignment or not start <= stop <= limit:
            raise VerificationFailed(
                f"The tensor {shown(name)} at bytes {start} to {stop} is not aligned to "
                f"{alignment}, reaches into the next or past the file's {size} bytes."
            )
        tensors.append(Tensor(name, dtype, shape, start, stop))
    return tuple(tensors)
