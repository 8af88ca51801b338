"""A release in the Hub's layout: ``config.json`` beside safetensors, and what they say together."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.engine.documents import read_bytes, read_json, read_object, read_text
from node.engine.facts import (
    ENCODERS,
    MAX_CONTEXT,
    MAX_HEAD,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Pooling,
    Purpose,
    Weights,
    bounded,
    checked_template,
    dominant_dtype,
    elements,
)
from node.engine.headers import read_header
from node.engine.tokenizer import MAX_TOKENIZER, recognise, sketch
from p2p.errors import NotFound, Refused, VerificationFailed
from p2p.tensors import Tensor

MAX_INDEX: Final = 16 << 20
"""Bytes of ``model.safetensors.index.json``: a line a tensor, a hundred thousand at most."""
MAX_SHARDS: Final = 1000
"""Files of one model."""

INDEX: Final = "model.safetensors.index.json"
_WHOLE: Final = "model.safetensors"
_SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

ARCHITECTURES: Final = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "MixtralForCausalLM": "llama",
    "SmolLM3ForCausalLM": "smollm3", "GraniteForCausalLM": "granite",
    "Qwen2ForCausalLM": "qwen2", "Qwen2MoeForCausalLM": "qwen2moe", "Qwen2Model": "qwen2",
    "Qwen3ForCausalLM": "qwen3", "Qwen3MoeForCausalLM": "qwen3moe", "Qwen3Model": "qwen3",
    "GemmaForCausalLM": "gemma", "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3", "Phi3ForCausalLM": "phi3", "PhiForCausalLM": "phi2",
    "GPT2LMHeadModel": "gpt2", "GPTNeoXForCausalLM": "gptneox", "FalconForCausalLM": "falcon",
    "OlmoForCausalLM": "olmo", "Olmo2ForCausalLM": "olmo2", "StableLmForCausalLM": "stablelm",
    "CohereForCausalLM": "command-r", "Starcoder2ForCausalLM": "starcoder2",
    "DeepseekV2ForCausalLM": "deepseek2", "DeepseekV3ForCausalLM": "deepseek2",
    "BertModel": "bert", "BertForMaskedLM": "bert", "RobertaModel": "bert",
    "XLMRobertaModel": "bert", "NomicBertModel": "nomic-bert", "ModernBertModel": "modern-bert",
}  # fmt: skip
"""``architectures`` in ``config.json`` -> what GGUF calls it, where both are well known."""

_MAKES_TEXT: Final = re.compile(r".*(ForCausalLM|LMHeadModel|ForConditionalGeneration)")
# What a number is called in config.json, by the families of models: the first one counts.
_LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS: Final = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_WIDTH: Final = ("hidden_size", "n_embd", "d_model", "dim")
_CONTEXT: Final = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of weights: its tensors, and the bytes of the whole file."""

    path: str
    tensors: tuple[Tensor, ...]
    size: int


def choose_safetensors(folder: Path, paths: Collection[str]) -> tuple[str, ...]:
    """Return the files that make up the model, as transformers would find them; none if none do.

    ``NotFound`` where a shard is not here; ``Refused`` where it is not clear which files they are.
    """
    if _WHOLE in paths:
        return (_WHOLE,)
    if INDEX in paths:
        return _indexed(folder, paths)
    there = [path for path in paths if path.endswith(".safetensors") and "/" not in path]
    there = [path for path in there if not path.startswith(("adapter", "consolidated"))]
    shards = [_SHARD.fullmatch(path) for path in there]
    if len(there) > 1 and all(shards):
        names = {(shard[1], shard[3]) for shard in shards if shard}
        count = int(min(names)[1])
        if len(names) == 1 and len(there) != count:
            raise NotFound(
                f"The model is in {count} shards, and here are {len(there)}.",
                next="Fetch the whole release: allod fetch REF.",
            )
        if len(names) == 1:
            return tuple(sorted(there))
    if len(there) > 1:
        raise Refused(
            f"This release has {len(there)} safetensors files and no {INDEX}: it is not clear "
            "which of them are the model."
        )
    return tuple(there)


def _indexed(folder: Path, paths: Collection[str]) -> tuple[str, ...]:
    index = read_object(folder / INDEX, MAX_INDEX) or {}
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise VerificationFailed(f"{INDEX} says in weight_map which file each tensor is in.")
    files: set[str] = set()
    for path in places.values():
        if not isinstance(path, str) or "/" in path or not path.endswith(".safetensors"):
            raise VerificationFailed(f"{INDEX} names files beside it, not {path!s:.80}.")
        files.add(path)
        if len(files) > MAX_SHARDS:
            raise VerificationFailed(f"{INDEX} names more than {MAX_SHARDS} files.")
    missing = sorted(files.difference(paths))
    if missing:
        raise NotFound(
            f"The model is in {len(files)} files, and {missing[0][:80]!r} is not here.",
            next="Fetch the whole release: allod fetch REF.",
        )
    return tuple(sorted(files))


def read_shards(folder: Path, paths: Collection[str]) -> list[Shard]:
    """Read the headers of all files; ``VerificationFailed`` if two have a tensor of one name."""
    shards = []
    seen: set[str] = set()
    for path in paths:
        header, size = read_header(folder / path, "safetensors")
        names = {tensor.name for tensor in header.tensors}
        if seen & names:
            raise VerificationFailed(f"Two files have the tensor {min(seen & names)[:80]!r}.")
        seen |= names
        shards.append(Shard(path, header.tensors, size))
    return shards


def read_model(folder: Path, paths: tuple[str, ...]) -> Weights:
    """Say what a folder of safetensors and settings says of its model.

    ``VerificationFailed`` if they are malformed, ``Refused`` if there is no ``config.json``.
    """
    shards = read_shards(folder, paths)
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    config = read_config(folder)
    text = text_config(config)
    declared = declared_architecture(config)
    architecture = ARCHITECTURES.get(declared, "")
    layers = bounded(_first(text, _LAYERS), "number of layers", MAX_LAYERS)
    heads = bounded(_first(text, _HEADS), "number of heads", MAX_HEADS)
    kv_heads = bounded(text.get("num_key_value_heads") or heads, "number of heads", MAX_HEADS)
    width = bounded(_first(text, _WIDTH), "width of an embedding", MAX_WIDTH)
    head = bounded(text.get("head_dim") or max(1, width // heads), "size of a head", MAX_HEAD)
    pooling = read_pooling(folder)
    purpose: Purpose = "generate" if _MAKES_TEXT.fullmatch(declared) and not pooling else "embed"
    return Weights(
        format="safetensors",
        paths=paths,
        architecture=architecture,
        declared=declared,
        size=sum(shard.size for shard in shards),
        parameters=sum(elements(tensor) for tensor in tensors if tensor.dtype not in _INTEGERS),
        quantization=_quantization(config, tensors),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head,
        cache=0 if architecture in ENCODERS else 2 * layers * kv_heads * head,
        embedding=width,
        context=bounded(_first(text, _CONTEXT) or 0, "context", MAX_CONTEXT, least=0),
        vocabulary=bounded(
            text.get("vocab_size") or 0, "number of tokens", MAX_VOCABULARY, least=0
        ),
        template=read_template(folder) if purpose == "generate" else "",
        purpose=purpose,
        pooling=pooling or ("mean" if purpose == "embed" else ""),
        tokenizer=_tokenizer(folder),
    )


_POOLINGS: Final[Mapping[str, Pooling]] = {
    "mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls", "lasttoken": "last",
}  # fmt: skip
_INTEGERS: Final = ("I64", "I32", "I16", "U64", "U32", "U16", "BOOL")


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json``; ``Refused`` where there is none."""
    config = read_object(folder / "config.json")
    if config is None:
        raise Refused(
            "Safetensors are served with the config.json beside them, and here is none.",
            next="Publish the model's whole folder: config.json, the tokenizer and the weights.",
        )
    return config


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the settings that is about text; most models have only that."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def declared_architecture(config: Mapping[str, Any]) -> str:
    """Return the first of ``architectures``; ``VerificationFailed`` if it is no word."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        return ""
    if not isinstance(names[0], str) or not _WORD.fullmatch(names[0]):
        raise VerificationFailed(
            "config.json names the architecture in one word, and here is none."
        )
    return names[0]


def read_template(folder: Path) -> str:
    """Return the chat template, from where transformers takes it first; empty if there is none."""
    text = read_text(folder / "chat_template.jinja")
    if text is None:
        said: Any = (read_object(folder / "tokenizer_config.json") or {}).get("chat_template")
        if isinstance(said, list):  # several by name
            named = {one.get("name"): one.get("template") for one in said if isinstance(one, dict)}
            said = named.get("default")
        text = said if isinstance(said, str) else ""
    return checked_template(text)


def read_pooling(folder: Path) -> Pooling:
    """Return how embeddings of tokens become that of a text, where sentence-transformers says it.

    ``Refused`` for a way that llama.cpp does not have, and for layers after the pooling.
    """
    modules = read_json(folder / "modules.json")
    if modules is None:
        return ""
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise VerificationFailed("modules.json should be a list of objects, and is none.")
    path = ""
    for one in modules:
        kind = str(one.get("type")).rpartition(".")[2]
        if kind == "Pooling":
            path = str(one.get("path"))
        elif kind not in ("Transformer", "Normalize"):
            raise Refused(
                f"This model makes embeddings with a module {kind!s:.40}: no engine has it."
            )
    if not path:
        return ""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", path):
        raise VerificationFailed(f"modules.json names a folder beside it, not {path!s:.80}.")
    said = read_object(folder / path / "config.json") or {}
    on = [
        key.removeprefix("pooling_mode_")
        for key, value in said.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    found = [_POOLINGS.get(one) for one in on or [str(said.get("pooling_mode"))]]
    if len(found) != 1 or found[0] is None:
        raise Refused("This model pools its embeddings in a way that no engine has.")
    return found[0]


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _quantization(config: Mapping[str, Any], tensors: list[Tensor]) -> str:
    packed = config.get("quantization_config")
    if isinstance(packed, Mapping):
        method = packed.get("quant_method")
        return method.upper() if isinstance(method, str) and _WORD.fullmatch(method) else "?"
    return dominant_dtype(tensors)


def _tokenizer(folder: Path) -> str:
    data = read_bytes(folder / "tokenizer.json", MAX_TOKENIZER)
    found = recognise(sketch(data)) if data is not None else None
    return found.name if found else ""
