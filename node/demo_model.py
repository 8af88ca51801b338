"""A small model repository, made on the spot: real formats, random weights.

A decoder of the Llama architecture with 24 million parameters in safetensors, its configuration, a
character tokenizer and a model card; every run makes the same bytes.
"""

import json
import math
import random
from pathlib import Path
from typing import Any, Final

from safetensors import deserialize

SEED: Final = 1124
LAYERS: Final = 6
HIDDEN: Final = 512
INNER: Final = 1408
VOCABULARY: Final = 8192
BYTES: Final = 2  # of a float16
PIECE: Final = 4 << 20

_CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [demo]
---

# Tiny

Random weights in the shape of a small language model, to show how models travel.
"""


def make_model(folder: Path) -> int:
    """Write the repository into a new folder; returns the bytes of its files."""
    folder.mkdir()
    _write_weights(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_config(), indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "README.md").write_text(_CARD)
    return sum(file.stat().st_size for file in folder.iterdir())


def _write_weights(file: Path) -> None:
    """Write a safetensors file, and have the library that engines use read its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in _shapes().items():
        size = BYTES * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    noise = random.Random(SEED)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for place in range(0, end, PIECE):
            stream.write(noise.randbytes(min(PIECE, end - place)))
    deserialize(file.read_bytes())  # type: ignore[no-untyped-call]


def _shapes() -> dict[str, list[int]]:
    shapes = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN], "model.norm.weight": [HIDDEN]}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in "qkvo":
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = [HIDDEN, HIDDEN]
        shapes[f"{prefix}mlp.gate_proj.weight"] = [INNER, HIDDEN]
        shapes[f"{prefix}mlp.up_proj.weight"] = [INNER, HIDDEN]
        shapes[f"{prefix}mlp.down_proj.weight"] = [HIDDEN, INNER]
        shapes[f"{prefix}input_layernorm.weight"] = [HIDDEN]
        shapes[f"{prefix}post_attention_layernorm.weight"] = [HIDDEN]
    return shapes


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }


def _tokenizer() -> dict[str, Any]:
    vocabulary = {chr(32 + code): code for code in range(95)} | {"<unk>": 95}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    return {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Split"}}
