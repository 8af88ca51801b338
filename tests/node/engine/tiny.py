"""Small models with random weights, in the Hub's layout: every family, no download.

The weights are large enough that the next token depends on every part of the model: one that is
converted wrongly answers differently.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

LLAMA3_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_CUT = LLAMA3_CUT.replace(r"\p{N}{1,3}", r"\p{N}")
ROWS = 288
"""Rows of the embedding: 256 bytes, some merges, two special tokens, and padding."""


def make_tiny(
    folder: Path, declared: str, *, shards: int = 1, dtype: str = "F32", **more: Any
) -> Path:
    """Write a decoder; ``more`` goes into config.json. Returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": [declared],
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": ROWS,
        "bos_token_id": 260,
        "eos_token_id": 261,
        **more,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer(**_cut(declared))))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "<|end|>", "add_bos_token": False})
    )
    tensors = _tensors(config)
    names = sorted(tensors)
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        name = (
            f"model-{number + 1:05}-of-{shards:05}.safetensors"
            if shards > 1
            else "model.safetensors"
        )
        write_safetensors(folder / name, part, dtype)
    if shards > 1:
        places = {
            name: f"model-{number % shards + 1:05}-of-{shards:05}.safetensors"
            for number, name in enumerate(names)
        }
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _tensors(config: dict[str, Any]) -> dict[str, Any]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or width // heads
    declared = config["architectures"][0]
    biased = config.get("attention_bias", False)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        outputs = {"q": heads * size, "k": kv_heads * size, "v": kv_heads * size, "o": width}
        for name, count in outputs.items():
            shapes[f"{at}self_attn.{name}_proj.weight"] = (
                count,
                heads * size if name == "o" else width,
            )
            if biased or (declared.startswith("Qwen2") and name != "o"):
                shapes[f"{at}self_attn.{name}_proj.bias"] = (count,)
        if declared.startswith("Qwen3"):
            shapes |= {f"{at}self_attn.{name}_norm.weight": (size,) for name in "qk"}
        for name, rows, columns in (
            ("gate", inner, width),
            ("up", inner, width),
            ("down", width, inner),
        ):
            shapes[f"{at}mlp.{name}_proj.weight"] = (rows, columns)
            if config.get("mlp_bias"):
                shapes[f"{at}mlp.{name}_proj.bias"] = (rows,)
        shapes[f"{at}input_layernorm.weight"] = shapes[f"{at}post_attention_layernorm.weight"] = (
            width,
        )
    noise = np.random.default_rng(1124)
    found = {}
    for name, shape in shapes.items():
        numbers = noise.standard_normal(shape)
        if name.endswith("norm.weight"):
            numbers = 1 + numbers / 4
        elif len(shape) == 2 and "embed" not in name:
            numbers *= 1.5 / shape[1] ** 0.5
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            numbers[128:256] = 0  # llama.cpp says nothing of a token that is a part of a letter
        found[name] = numbers.astype("<f2").astype("<f4")  # so that f16 loses nothing
    return found


def write_safetensors(file: Path, tensors: dict[str, Any], dtype: str = "F32") -> None:
    """Write numbers in four bytes, or two."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts = []
    end = 0
    for name, numbers in tensors.items():
        data = numbers.astype("<f2" if dtype == "F16" else "<f4").tobytes()
        if dtype == "BF16":
            data = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        start, end = end, end + len(data)
        header[name] = {"dtype": dtype, "shape": numbers.shape, "data_offsets": [start, end]}
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def _cut(declared: str) -> dict[str, Any]:
    if declared.startswith("Qwen"):
        return {"cut": QWEN2_CUT}
    return {"cut": LLAMA3_CUT, "whole": True}


def byte_letters() -> list[str]:
    """The letter that stands for each byte in vocabularies over bytes, as GPT-2 chose them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    return [chr(byte if byte in shown else 256 + rest.index(byte)) for byte in range(256)]


def byte_tokenizer(
    *, cut: str = "", whole: bool = False, steps: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A ``tokenizer.json`` with one token a byte, four merges and two special tokens."""
    merges = [("h", "e"), ("l", "l"), ("Ġ", "t"), ("he", "ll")]
    vocabulary = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocabulary |= {left + right: 256 + number for number, (left, right) in enumerate(merges)}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if steps is None:
        split = {
            "type": "Split",
            "pattern": {"Regex": cut},
            "behavior": "Isolated",
            "invert": False,
        }
        steps = [split, {**last, "use_regex": False}]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": 260, "content": "<s>", "special": True, **added},
            {"id": 261, "content": "<|end|>", "special": True, **added},
            {"id": 262, "content": "<think>", "special": False, **added},
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": last,
        "decoder": last,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole,
            "vocab": vocabulary,
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }
