"""What a GGUF file is to hold: metadata, and tensors by where they come from.

Pure: a recipe is made from settings and headers, and says nothing of bytes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from p2p.errors import Unsupported, VerificationFailed
from p2p.tensors import Tensor

Kind = Literal["u32", "f32", "bool", "text", "texts", "i32s", "f32s"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a GGUF file's metadata."""

    key: str
    kind: Kind
    value: Any


@dataclass(frozen=True, slots=True)
class Move:
    """One tensor's way into the GGUF file; ``shape`` is what the settings say that it has."""

    source: str
    target: str
    shape: tuple[int, ...]
    heads: int = 0
    """Not 0: so many heads, whose rows are laid out for ggml's own rotation."""
    exact: bool = False
    """Kept in four bytes: norms, biases and what is added, which ggml reads in no other."""


@dataclass(frozen=True, slots=True)
class Made:
    """A small tensor that only the settings say."""

    target: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole file, but for its vocabulary."""

    architecture: str
    entries: tuple[Entry, ...]
    moves: tuple[Move, ...]
    made: tuple[Made, ...] = ()
    left_out: frozenset[str] = field(default_factory=frozenset)
    """Tensors that the model can do without here."""


KNOWN_DTYPES: Final = ("F32", "F16", "BF16")


def check(recipe: Recipe, tensors: Mapping[str, Tensor], unused: Collection[str]) -> None:
    """See that the tensors are exactly those of the recipe, each in its shape.

    ``unused``: ends of names that no recipe needs, such as buffers that are computed.
    ``VerificationFailed`` where one is missing or has another shape, ``Unsupported`` where there is
    one that the recipe does not know: without it the model would be another one.
    """
    for move in recipe.moves:
        tensor = tensors.get(move.source)
        if tensor is None:
            raise VerificationFailed(f"The model has no tensor {move.source}, and it should.")
        if tensor.shape != move.shape:
            raise VerificationFailed(
                f"{move.source} should be {move.shape} by the settings, and is {tensor.shape}."
            )
        if tensor.dtype not in KNOWN_DTYPES:
            raise Unsupported(f"{move.source} is {tensor.dtype}, which is not converted.")
    known = {move.source for move in recipe.moves} | recipe.left_out
    for name in tensors:
        if name not in known and not name.endswith(tuple(unused)):
            raise Unsupported(
                f"The model has a tensor that is not known here: {name[:80]!r}.",
                next="serve.engine = transformers runs it, if that is installed.",
            )
