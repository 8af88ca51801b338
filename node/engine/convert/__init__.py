"""Safetensors made into GGUF once, so that llama.cpp runs them: ``python -m node.engine.convert``.

Only what can be done rightly: architectures whose every tensor and number is known here, and
tokenizers that llama.cpp has a function for. Everything else is ``Unsupported``, and runs in an
engine that reads safetensors. What is written is checked against the engine's answers in
tests/node/engine/test_convert.py, by a second implementation of the same models.

    settings      config.json, read with suspicion
    recipe        what a GGUF file is to hold: metadata, and tensors by where they come from
    decoders      Llama, Mistral, Qwen 2 and 3, SmolLM3, Granite
    encoders      BERT
    vocabulary    tokenizer.json as GGUF has it; specials: the tokens that are more than text
    pieces        tensors read, turned and packed, some megabytes at a time
    output        the file: written beside its place, synced, moved there
    conversion    all of it in order
    __main__      a process of its own, without network, that prints how far it is

The same input gives the same bytes. Only pieces and output import numpy and ``gguf``.
"""

from collections.abc import Mapping
from typing import Final

from node.engine.facts import Weights
from p2p.errors import UsageError

VERSION: Final = "1"
"""Raised whenever the same input gives other bytes: what was made before is then made again."""

TYPES: Final[Mapping[str, int]] = {"f16": 1, "bf16": 32, "q8_0": 7}
"""What tensors may become -> llama.h's number for a file of mostly that."""

ASKED: Final = ("auto", *TYPES)
"""What can be asked for; auto keeps numbers of two bytes as they are."""

CONVERTED: Final = frozenset(
    {
        "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM", "GraniteForCausalLM", "BertModel", "BertForMaskedLM",
    }
)  # fmt: skip
"""``architectures`` in ``config.json`` that are known here."""

_PLAIN: Final = ("F32", "F16", "BF16")


def supported(weights: Weights) -> bool:
    """Say whether a model is of the kinds that are converted, as far as its settings tell.

    The conversion itself may still find what it does not know, and end with ``Unsupported``.
    """
    return (
        weights.format == "safetensors"
        and weights.declared in CONVERTED
        and weights.quantization in _PLAIN
        and bool(weights.tokenizer)
    )


def resolve_type(asked: str, dtype: str) -> str:
    """Return what tensors of ``dtype`` become; ``UsageError`` for a type that there is not."""
    if asked not in ASKED:
        raise UsageError(f"A model is converted to {', '.join(ASKED)}, not {asked[:40]!r}.")
    if asked == "auto":
        return "bf16" if dtype == "BF16" else "f16"
    return asked
