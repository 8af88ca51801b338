"""The models that are converted, once more: numpy, straight from the Hub's files.

Written from what transformers computes, sharing no code and no layout with GGUF, so that where the
two agree a conversion is right, and not only consistent with itself.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from p2p.tensors import read_safetensors

Array = np.ndarray[Any, Any]
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


Model = tuple[dict[str, Any], dict[str, Array]]
"""config.json, and all tensors in four bytes."""


def load(folder: Path) -> Model:
    """Read a model."""
    tensors: dict[str, Array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        data = file.read_bytes()
        header = read_safetensors(lambda start, size, d=data: d[start : start + size], len(data))  # type: ignore[misc]
        for one in header.tensors:
            raw = np.frombuffer(data[one.start : one.stop], _DTYPES[one.dtype])
            if one.dtype == "BF16":
                raw = (raw.astype("<u4") << 16).view("<f4")
            tensors[one.name] = raw.astype("<f4").reshape(one.shape)
    return json.loads((folder / "config.json").read_text()), tensors


def log_probabilities(model: Model, ids: list[int]) -> Array:
    """Return the logarithms of the probabilities of the token that follows ``ids``."""
    logits = decode(*model, ids)
    shifted = logits - logits.max()
    found: Array = shifted - math.log(np.exp(shifted).sum())
    return found


def decode(config: dict[str, Any], tensors: dict[str, Array], ids: list[int]) -> Array:
    """Return the logits after the last token: Llama and its relatives."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads", heads)
    size = config.get("head_dim") or width // heads
    eps = config["rms_norm_eps"]
    cos, sin = _rotation(config, size, len(ids))
    x = tensors["model.embed_tokens.weight"][ids] * config.get("embedding_multiplier", 1.0)
    residual = config.get("residual_multiplier", 1.0)
    scale = config.get("attention_multiplier", size**-0.5)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."

        def linear(x: Array, name: str, at: str = at) -> Array:
            return _linear(tensors, at + name, x)

        h = _rms(x, tensors[at + "input_layernorm.weight"], eps)
        q = linear(h, "self_attn.q_proj").reshape(len(ids), heads, size)
        k = linear(h, "self_attn.k_proj").reshape(len(ids), kv_heads, size)
        v = linear(h, "self_attn.v_proj").reshape(len(ids), kv_heads, size)
        if at + "self_attn.q_norm.weight" in tensors:
            q = _rms(q, tensors[at + "self_attn.q_norm.weight"], eps)
            k = _rms(k, tensors[at + "self_attn.k_norm.weight"], eps)
        if config.get("no_rope_layers", [1] * (layer + 1))[layer]:
            q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        k, v = (np.repeat(one, heads // kv_heads, axis=1) for one in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * scale
        scores += np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        mixed = np.einsum("hqk,khd->qhd", _softmax(scores), v).reshape(len(ids), heads * size)
        x = x + linear(mixed, "self_attn.o_proj") * residual
        h = _rms(x, tensors[at + "post_attention_layernorm.weight"], eps)
        gate = linear(h, "mlp.gate_proj")
        up = gate / (1 + np.exp(-gate)) * linear(h, "mlp.up_proj")
        x = x + linear(up, "mlp.down_proj") * residual
    h = _rms(x[-1:], tensors["model.norm.weight"], eps)
    output = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    found: Array = (h @ output.T)[0] / config.get("logits_scaling", 1.0)
    return found


def embed(model: Model, ids: list[int]) -> Array:
    """Return BERT's embedding of a text: the mean of its tokens', of length 1."""
    config, tensors = model
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    at = "embeddings."
    x = tensors[at + "word_embeddings.weight"][ids]
    x = x + tensors[at + "position_embeddings.weight"][: len(ids)]
    x = x + tensors[at + "token_type_embeddings.weight"][0]
    x = _layer_norm(tensors, at + "LayerNorm", x, eps)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            _linear(tensors, f"{at}attention.self.{name}", x).reshape(len(ids), heads, -1)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        mixed = np.einsum("hqk,khd->qhd", _softmax(scores), v).reshape(len(ids), -1)
        mixed = _linear(tensors, f"{at}attention.output.dense", mixed)
        x = _layer_norm(tensors, f"{at}attention.output.LayerNorm", x + mixed, eps)
        inner = _linear(tensors, f"{at}intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        inner = _linear(tensors, f"{at}output.dense", inner)
        x = _layer_norm(tensors, f"{at}output.LayerNorm", x + inner, eps)
    mean = x.mean(axis=0)
    found: Array = mean / np.linalg.norm(mean)
    return found


def _linear(tensors: dict[str, Array], name: str, x: Array) -> Array:
    found: Array = x @ tensors[name + ".weight"].T
    return found + tensors[name + ".bias"] if name + ".bias" in tensors else found


def _rms(x: Array, weight: Array, eps: float) -> Array:
    found: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight
    return found


def _layer_norm(tensors: dict[str, Array], name: str, x: Array, eps: float) -> Array:
    middle = x - x.mean(-1, keepdims=True)
    found: Array = middle / np.sqrt((middle * middle).mean(-1, keepdims=True) + eps)
    return found * tensors[name + ".weight"] + tensors[name + ".bias"]


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    found: Array = powers / powers.sum(-1, keepdims=True)
    return found


def _turn(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each head by its position: its first half with its second."""
    first, second = np.split(x, 2, axis=-1)
    found: Array = x * cos + np.concatenate([-second, first], axis=-1) * sin
    return found


def _rotation(config: dict[str, Any], size: int, length: int) -> tuple[Array, Array]:
    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = said.get("rope_theta", config.get("rope_theta", 10000.0))
    speeds = base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    kind, factor, grows = (
        said.get("rope_type", said.get("type", "default")),
        said.get("factor", 1.0),
        1.0,
    )
    original = said.get("original_max_position_embeddings", config["max_position_embeddings"])
    if kind == "linear":
        speeds = speeds / factor
    elif kind == "llama3":
        speeds = np.array([_llama3(one, said, original) for one in speeds])
    elif kind == "yarn":

        def where(turns: float) -> float:
            return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(math.floor(where(32)), 0), min(math.ceil(where(1)), size - 1)
        ramp = np.clip((np.arange(size // 2) - low) / max(high - low, 0.001), 0, 1)
        speeds = speeds / factor * ramp + speeds * (1 - ramp)
        grows = 0.1 * math.log(factor) + 1.0
    angles = np.outer(np.arange(length), speeds)
    angles = np.concatenate([angles, angles], axis=-1)[:, None, :]
    return (np.cos(angles) * grows).astype("<f4"), (np.sin(angles) * grows).astype("<f4")


def _llama3(speed: float, said: dict[str, Any], original: int) -> float:
    """Slow one pair down, as transformers' _compute_llama3_parameters does."""
    wavelength = 2 * math.pi / speed
    low, high = said["low_freq_factor"], said["high_freq_factor"]
    if wavelength < original / high:
        return speed
    if wavelength > original / low:
        return float(speed / said["factor"])
    smooth = (original / wavelength - low) / (high - low)
    return float((1 - smooth) * speed / said["factor"] + smooth * speed)
