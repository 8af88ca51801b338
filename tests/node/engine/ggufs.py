"""GGUF files by hand, so that they can be wrong in one place."""

import struct
from collections.abc import Mapping
from typing import Any

LLAMA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 1,
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.chat_template": "{{ messages }}",
}
"""The metadata of a small model."""


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(
    metadata: Mapping[str, Any] = LLAMA,
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    **more: Any,
) -> bytes:
    """Make a file of tensors in F16; ``more`` is metadata under ``llama.``."""
    if tensors is None:
        tensors = {"token_embd.weight": (32, 64)}
    said = {**metadata, **{f"llama.{key}": value for key, value in more.items()}}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(said))
    for key, value in said.items():
        head += text(key) + _value(value)
    offset = 0
    for name, shape in tensors.items():
        head += text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 1, offset)
        size = 2
        for each in shape:
            size *= each
        offset += size + -size % 32
    return head + bytes(-len(head) % 32 + offset)


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    return struct.pack("<IIQ", 9, 11, len(value)) + struct.pack(f"<{len(value)}q", *value)
