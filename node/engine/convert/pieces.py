"""Tensors read from safetensors, turned and packed, some megabytes at a time.

Whatever the size of a tensor, what is in memory is a few times ``PIECE``.
"""

import os
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

from node.engine.convert.recipe import Move
from p2p.errors import Unsupported, VerificationFailed
from p2p.tensors import Tensor

PIECE: Final = 8 << 20
"""Bytes read at once: large enough that numpy's own time is all there is."""

Array = np.ndarray[Any, Any]

_STORED: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_KEPT: Final = {"F32": Type.F32, "F16": Type.F16, "BF16": Type.BF16}
TYPES: Final = {"f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}
_BLOCK: Final = 32  # numbers that share a scale in Q8_0


def type_of(move: Move, wanted: str) -> Type:
    """Return as what a tensor is stored: rows that don't fill blocks of Q8_0 are F16."""
    if move.exact:
        return Type.F32
    if wanted == "q8_0" and move.shape[-1] % _BLOCK:
        return Type.F16
    return TYPES[wanted]


def stored_size(shape: tuple[int, ...], kind: Type) -> int:
    """Return the bytes of a tensor in the GGUF file."""
    count = 1
    for size in shape:
        count *= size
    per_block = {Type.F32: (1, 4), Type.F16: (1, 2), Type.BF16: (1, 2), Type.Q8_0: (_BLOCK, 34)}
    numbers, size = per_block[kind]
    return count // numbers * size


def read_packed(fd: int, tensor: Tensor, move: Move, kind: Type) -> Iterator[bytes]:
    """Yield a tensor's bytes as they are to stand in the GGUF file."""
    row = (tensor.stop - tensor.start) // max(1, tensor.shape[0])
    together = tensor.shape[0] // move.heads if move.heads else 1  # rows of a head stay together
    rows = max(1, PIECE // max(1, row * together)) * together
    for first in range(0, tensor.shape[0], rows):
        count = min(rows, tensor.shape[0] - first)
        data = _read(fd, tensor.start + first * row, count * row)
        array = np.frombuffer(data, _STORED[tensor.dtype]).reshape(count, *tensor.shape[1:])
        if move.heads:
            array = turned(array, count // together)
        yield _pack(array, tensor.dtype, kind, move.source)


def turned(array: Array, heads: int) -> Array:
    """Lay out each head's rows so that those which are turned together are neighbours."""
    pairs = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _read(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(fd, size, offset)
        if not part:
            raise VerificationFailed("A file of the model ended before its last tensor.")
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _pack(array: Array, dtype: str, kind: Type, name: str) -> bytes:
    if _KEPT[dtype] == kind:
        return np.ascontiguousarray(array).tobytes()
    if dtype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    numbers = np.ascontiguousarray(array, "<f4")
    if kind == Type.F32:
        return numbers.tobytes()
    if kind == Type.F16:
        try:
            with np.errstate(over="raise"):
                return numbers.astype("<f2").tobytes()
        except FloatingPointError as exc:
            raise Unsupported(
                f"{name} has numbers that are too large for f16.", next="serve.convert = bf16"
            ) from exc
    packed: Array = quantize(numbers, kind)
    return packed.tobytes()
