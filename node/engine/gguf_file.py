"""A release of GGUF files: which of them is the model, and what its header says of it.

A model may be cut into shards, ``NAME-00001-of-00003.gguf``; an engine opens the first and finds
the others beside it. Projectors for images and importance matrices are GGUF files, too, and no
models.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

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
from p2p.errors import NotFound, Refused, VerificationFailed
from p2p.tensors import Tensor

MAX_SHARDS: Final = 1000
"""Files of one model: the largest have about a hundred."""

_SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_NO_MODEL: Final = re.compile(r"(.*[._-])?(mmproj|imatrix)([._-].*)?\.gguf", re.IGNORECASE)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_OTHERS: Final = frozenset({"clip", "imatrix", "adapter", "wavtokenizer-dec", "controlvector"})
"""What GGUF files hold that is no model which answers."""
_POOLINGS: Final[Mapping[int, Pooling]] = {0: "", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
# The numbers of llama.h's llama_ftype whose names say more than the dtype of most tensors.
_MIXTURES: Final = {
    10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M",
    16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 21: "Q2_K_S", 22: "IQ3_XS", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M",
}  # fmt: skip


def choose_gguf(paths: Sequence[str], choose: str) -> tuple[str, ...]:
    """Return the files of the model that ``choose`` means, or of the only one there is.

    ``choose``: a path, or a part of a file's name that only one model has, such as Q4_K_M.
    ``Refused`` where it is not clear which one; ``NotFound`` where a shard is not here.
    """
    models = _models(paths)
    asked = choose.lower()
    found = [one for one in models if choose in one] or [
        one for one in models if asked in one[0].rpartition("/")[2].lower()
    ]
    if not choose:
        found = [one for one in models if not _NO_MODEL.fullmatch(one[0].rpartition("/")[2])]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(one[0] for one in models[:8]) + (" ..." if len(models) > 8 else "")
    if not found and not choose:
        raise Refused(f"This release has GGUF files, but no model among them: {shown}.")
    if not found:
        raise Refused(f"No model {choose[:80]!r} is in this release, which has {shown}.")
    raise Refused(
        f"This release has {len(models)} GGUF models, and it takes one: {shown}.",
        next="Name one of them with --file, by a part of its name such as Q4_K_M.",
    )


def _models(paths: Sequence[str]) -> list[tuple[str, ...]]:
    """Gather the shards of each model; a file that is whole is a model by itself."""
    models: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for path in paths:
        shard = _SHARD.fullmatch(path)
        name, number = (f"{shard[1]}-of-{shard[3]}", int(shard[2])) if shard else (path, 1)
        counts[name] = int(shard[3]) if shard else 1
        models.setdefault(name, {})[number] = path
    found = []
    for name, shards in models.items():
        count = counts[name]
        missing = [
            number for number in range(1, min(count, MAX_SHARDS) + 1) if number not in shards
        ]
        if missing or len(shards) != count:
            raise NotFound(
                f"{name.rpartition('-of-')[0]} is in {count} shards, and here are {len(shards)}.",
                next="Fetch the whole release: allod fetch REF.",
            )
        found.append(tuple(shards[number] for number in sorted(shards)))
    return found


def read_model(folder: Path, paths: tuple[str, ...]) -> Weights:
    """Say what a model's GGUF files say of it; ``VerificationFailed`` if they are malformed."""
    headers = [read_header(folder / path, "gguf") for path in paths]
    said = headers[0][0].metadata
    if bounded(said.get("split.count", len(paths)), "split.count", 1 << 16, least=0) not in (
        len(paths), 0 if len(paths) == 1 else len(paths),
    ):  # fmt: skip
        raise VerificationFailed(f"{paths[0]} says that it has other shards than are here.")
    tensors = [tensor for header, _ in headers for tensor in header.tensors]
    name = said.get("general.architecture")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise VerificationFailed(f"{paths[0]} names no architecture: general.architecture.")
    if name in _OTHERS:
        raise Refused(f"{paths[0]} holds a {name}, and no model that answers.")
    about = _Numbers(name, said)
    layers = about.one("block_count", "number of layers", MAX_LAYERS)
    heads, kv_heads = about.heads(layers)
    key, value = about.head_dims(heads)
    pooling, purpose = _purpose(name, said)
    return Weights(
        format="gguf",
        paths=paths,
        architecture=name,
        declared="",
        size=sum(size for _, size in headers),
        parameters=sum(map(elements, tensors)),
        quantization=_quantization(said, tensors),
        layers=layers,
        heads=max(heads, default=0),
        kv_heads=max(kv_heads, default=0),
        head_dim=key,
        cache=0 if name in ENCODERS else sum(kv_heads) * (key + value),
        embedding=about.one("embedding_length", "width of an embedding", MAX_WIDTH),
        context=about.one("context_length", "context", MAX_CONTEXT, 0),
        vocabulary=_vocabulary(about, tensors),
        template=checked_template(_text(said.get("tokenizer.chat_template"))),
        purpose=purpose,
        pooling=pooling,
        tokenizer=_tokenizer(said),
    )


class _Numbers:
    """The numbers that a header says under the name of its architecture."""

    def __init__(self, name: str, said: Mapping[str, Any]) -> None:
        self._name = name
        self._said = said

    def one(self, key: str, what: str, most: int, default: int | None = None) -> int:
        """Return one number; ``default`` where there is none, if there may be none."""
        value = self._said.get(f"{self._name}.{key}")
        if value is None and default is not None:
            return default
        return bounded(value, what, most)

    def heads(self, layers: int) -> tuple[list[int], list[int]]:
        """Return the heads of each layer, and those that keep keys and values: one number, or
        one a layer; none at all where a model has no attention."""
        heads = self._each("attention.head_count", layers, [0] * layers)
        return heads, self._each("attention.head_count_kv", layers, heads)

    def _each(self, key: str, layers: int, default: list[int]) -> list[int]:
        value = self._said.get(f"{self._name}.{key}")
        if value is None:
            return default
        if not isinstance(value, tuple):
            return [bounded(value, "number of heads", MAX_HEADS, least=0)] * layers
        if len(value) < layers:
            raise VerificationFailed(f"{key} is said of {len(value)} layers, there are {layers}.")
        return [bounded(one, "number of heads", MAX_HEADS, least=0) for one in value[:layers]]

    def head_dims(self, heads: list[int]) -> tuple[int, int]:
        """Return the numbers of a key, and of a value, of one head."""
        most = max(heads, default=0)
        width = self.one("embedding_length", "width of an embedding", MAX_WIDTH)
        usual = width // most if most else 0
        key = self.one("attention.key_length", "size of a head", MAX_HEAD, usual)
        return key, self.one("attention.value_length", "size of a head", MAX_HEAD, usual)


def _purpose(name: str, said: Mapping[str, Any]) -> tuple[Pooling, Purpose]:
    number = said.get(f"{name}.pooling_type")
    pooling = _POOLINGS.get(number, "") if isinstance(number, int) else ""
    if name in ENCODERS:
        return pooling or "mean", "embed"
    return pooling, "embed" if pooling else "generate"


def _quantization(said: Mapping[str, Any], tensors: Sequence[Tensor]) -> str:
    """Name the mixture where the header does and most tensors fit it, else the dtype of most."""
    dtype = dominant_dtype(tensors)
    number = said.get("general.file_type")
    mixture = _MIXTURES.get(number, "") if isinstance(number, int) else ""
    return mixture if dtype and mixture.startswith(dtype[:4]) else dtype


def _vocabulary(about: _Numbers, tensors: Sequence[Tensor]) -> int:
    size = about.one("vocab_size", "number of tokens", MAX_VOCABULARY, 0)
    rows = next((one.shape[-1] for one in tensors if one.name == "token_embd.weight"), 0)
    return size or bounded(rows, "number of tokens", MAX_VOCABULARY, least=0)


def _tokenizer(said: Mapping[str, Any]) -> str:
    model, pre = (_text(said.get(f"tokenizer.ggml.{key}")) for key in ("model", "pre"))
    names = {"llama": "spm", "bert": "wordpiece"}
    return (pre or "default") if model == "gpt2" else names.get(model, model)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
