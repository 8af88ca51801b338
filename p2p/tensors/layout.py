"""The words of a tensor file's layout, which both formats share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

ReadAt = Callable[[int, int], bytes]
"""(offset, length) -> exactly that many bytes, or fewer at the end of the file."""

MAX_TENSORS: Final = 100_000
"""Tensors in a file; the largest models have a few thousand in a file."""

MAX_METADATA: Final = 65_536
"""Entries of metadata in a file; files have some dozens."""

MAX_OFFSET: Final = 2**63 - 1
"""What a file offset, and so a size, can be."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: ``start`` and ``stop`` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a header says: tensors by where they start, and the bytes before the first of them."""

    format: Literal["safetensors", "gguf"]
    header_size: int
    tensors: tuple[Tensor, ...]
    metadata: dict[str, Any]


def shown(name: str) -> str:
    """Quote a stranger's name for an error message: at most 80 characters of it."""
    return repr(name if len(name) <= 80 else name[:79] + "…")
