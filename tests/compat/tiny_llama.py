"""A language model of six MB with random weights, and a small dataset, as folders for the Hub.

Nothing sensible comes out of it; it is enough for everything that loads a model.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

WORDS: Final = ("<unk>", "<s>", "</s>", "hello", "world", *(f"word{n}" for n in range(507)))
_WIDTH: Final = 256
_INNER: Final = 512
_LAYERS: Final = 2
_CARD: Final = """---
license: apache-2.0
---

# {name}
"""
_CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": _WIDTH,
    "intermediate_size": _INNER,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": _LAYERS,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": len(WORDS),
}


def make_model(folder: Path) -> Path:
    """Write config, tokenizer, weights and card into a new folder."""
    folder.mkdir(parents=True)
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "unk_token": "<unk>",
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 128,
    }
    texts: dict[str, Any] = {
        "config.json": _CONFIG,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
    }
    for name, value in texts.items():
        (folder / name).write_text(json.dumps(value, indent=1))
    (folder / "README.md").write_text(_CARD.format(name="Tiny Llama"))
    save_file(_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tensors() -> dict[str, Any]:
    dice = np.random.default_rng(1)

    def some(*shape: int) -> Any:
        return (dice.standard_normal(shape) * 0.05).astype(np.float32)

    def ones() -> Any:
        return np.ones(_WIDTH, np.float32)

    tensors = {"model.embed_tokens.weight": some(len(WORDS), _WIDTH), "model.norm.weight": ones()}
    for number in range(_LAYERS):
        layer = f"model.layers.{number}"
        for name in "qkvo":
            tensors[f"{layer}.self_attn.{name}_proj.weight"] = some(_WIDTH, _WIDTH)
        tensors[f"{layer}.mlp.gate_proj.weight"] = some(_INNER, _WIDTH)
        tensors[f"{layer}.mlp.up_proj.weight"] = some(_INNER, _WIDTH)
        tensors[f"{layer}.mlp.down_proj.weight"] = some(_WIDTH, _INNER)
        tensors[f"{layer}.input_layernorm.weight"] = ones()
        tensors[f"{layer}.post_attention_layernorm.weight"] = ones()
    return tensors


ROWS: Final = {
    "train": [{"id": n, "text": f"row {n}", "score": n / 4} for n in range(3000)],
    "test": [{"id": n, "text": f"test {n}", "score": n / 2} for n in range(50)],
}
"""The rows of the dataset, by split."""


def make_dataset(folder: Path) -> Path:
    """Write the dataset as Parquet with a card into a new folder."""
    (folder / "data").mkdir(parents=True)
    for split, rows in ROWS.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000.parquet")
    (folder / "README.md").write_text(_CARD.format(name="Small words"))
    return folder
