"""What is known of a model's weights before an engine sees them: plain numbers, all bounded.

The numbers are strangers' words, out of headers and ``config.json``. They decide what memory is
set aside, so each lies within what any real model has, or the model is not believed.
Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from p2p.errors import VerificationFailed
from p2p.tensors import Tensor

Purpose = Literal["generate", "embed"]
Pooling = Literal["", "mean", "cls", "last", "rank"]

MAX_LAYERS: Final = 1024
"""Layers: llama.cpp takes 512; the deepest models have about 130."""
MAX_HEADS: Final = 1024
"""Heads of attention in a layer: the largest models have 128."""
MAX_HEAD: Final = 8192
"""Numbers of one head: 64 to 576 in real models."""
MAX_WIDTH: Final = 1 << 20
"""Numbers of one embedding: the widest models have 16,384."""
MAX_CONTEXT: Final = 1 << 30
"""Tokens that a model was trained for: ten million is the most that any says."""
MAX_VOCABULARY: Final = 1 << 22
"""Tokens of a vocabulary: 256,000 in the largest."""
MAX_TEMPLATE: Final = 512 << 10
"""Characters of a chat template: the longest have 20,000."""

ENCODERS: Final = frozenset(
    {
        "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert",
        "neo-bert", "eurobert", "t5encoder", "gemma-embedding", "llama-embed",
    }
)  # fmt: skip
"""Architectures, in GGUF's words, that read a text as a whole: they make embeddings, and keep
nothing of one text for the next."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's files and what their headers and settings say of it."""

    format: Literal["gguf", "safetensors"]
    paths: tuple[str, ...]
    """Relative to the release's folder, shards in their order; an engine opens the first."""
    architecture: str
    """As GGUF names it: llama, qwen2, bert; empty where GGUF has no name that is known here."""
    declared: str
    """The first of ``architectures`` in ``config.json``; empty for GGUF."""
    size: int
    """Bytes of the files."""
    parameters: int
    quantization: str
    """Q4_K_M, Q8_0, BF16: how most of the numbers are stored."""
    layers: int
    heads: int
    kv_heads: int
    """Heads that keep keys and values, of the layer that has most; 0 where none does."""
    head_dim: int
    cache: int
    """Numbers that all layers keep for one token of context, keys and values; 0 for encoders."""
    embedding: int
    context: int
    """Tokens that it was trained for; 0 where nobody says."""
    vocabulary: int
    """0 where nobody says."""
    template: str
    """Its chat template; empty for a base model, or one that makes embeddings."""
    purpose: Purpose
    pooling: Pooling
    tokenizer: str
    """As llama.cpp names it: smollm, qwen2, spm, wordpiece; empty where it is not recognised."""


def bounded(value: Any, what: str, most: int, *, least: int = 1) -> int:
    """Return a whole number within its bounds; ``VerificationFailed`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        shown = value if isinstance(value, int | float) and abs(value) < 1 << 64 else "something"
        raise VerificationFailed(
            f"A model's {what} is a whole number from {least} to {most:,}, this one says {shown}."
        )
    return value


def checked_template(text: str) -> str:
    """Return a chat template that is text, of a length that one can have."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:  # half of a surrogate pair is JSON, but no text
        raise VerificationFailed("A chat template is text, and this one is none.") from exc
    if len(text) > MAX_TEMPLATE:
        raise VerificationFailed(
            f"A chat template has at most {MAX_TEMPLATE:,} characters, this one has {len(text):,}."
        )
    return text


def elements(tensor: Tensor) -> int:
    """Return how many numbers a tensor holds."""
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def dominant_dtype(tensors: Iterable[Tensor]) -> str:
    """Return the dtype that most of the numbers have; empty where there are none."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + elements(tensor)
    return max(sorted(counts), key=lambda dtype: counts[dtype]) if counts else ""
