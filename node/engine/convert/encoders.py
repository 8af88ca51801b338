"""Models that make embeddings of texts: BERT.

Pure. Names: ggml-org/llama.cpp, gguf-py/gguf/constants.py; meanings: transformers' BertModel.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from node.engine.convert.recipe import Entry, Move, Recipe
from node.engine.convert.settings import Settings
from node.engine.facts import (
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Pooling,
)
from p2p.errors import VerificationFailed

UNUSED: Final = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Ends of names of tensors that make no difference to an embedding."""
POOLINGS: Final[Mapping[Pooling, int]] = {"mean": 1, "cls": 2, "last": 3}
"""llama.h's llama_pooling_type."""
_GELU: Final = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_python")
"""ggml approximates the first by the others, to a thousandth."""
_HEAD: Final = "cls."  # what BertForMaskedLM has on top


def bert_recipe(config: Settings, names: Collection[str]) -> Recipe:
    """Say how a BERT becomes GGUF; ``Unsupported`` for settings that llama.cpp has no place for."""
    config.expect("hidden_act", _GELU)
    config.expect("position_embedding_type", ("absolute", None))
    config.expect("is_decoder", (False, None))
    config.expect("quantization_config", (None,))
    layers = config.number("num_hidden_layers", MAX_LAYERS)
    heads = config.number("num_attention_heads", MAX_HEADS)
    width = config.number("hidden_size", MAX_WIDTH)
    inner = config.number("intermediate_size", 16 * MAX_WIDTH)
    tokens = config.number("vocab_size", MAX_VOCABULARY)
    context = config.number("max_position_embeddings", MAX_CONTEXT)
    kinds = config.number("type_vocab_size", 64, 2)
    if width % heads:
        raise VerificationFailed(f"{heads} heads don't share an embedding of {width} evenly.")
    entries = (
        Entry("vocab_size", "u32", tokens),
        Entry("context_length", "u32", context),
        Entry("embedding_length", "u32", width),
        Entry("block_count", "u32", layers),
        Entry("feed_forward_length", "u32", inner),
        Entry("attention.head_count", "u32", heads),
        Entry("attention.layer_norm_epsilon", "f32", config.real("layer_norm_eps", 1e-12)),
        Entry("attention.causal", "bool", False),
        Entry("tokenizer.ggml.token_type_count", "u32", kinds),
    )
    start = "bert." if any(name.startswith("bert.") for name in names) else ""
    at = f"{start}embeddings."
    moves = [
        Move(f"{at}word_embeddings.weight", "token_embd.weight", (tokens, width)),
        Move(f"{at}position_embeddings.weight", "position_embd.weight", (context, width), 0, True),
        Move(f"{at}token_type_embeddings.weight", "token_types.weight", (kinds, width), 0, True),
        *_both(f"{at}LayerNorm", "token_embd_norm", (width,)),
    ]
    for layer in range(layers):
        moves += _layer(f"{start}encoder.layer.{layer}.", f"blk.{layer}.", width, inner)
    unused = frozenset(name for name in names if name.startswith(_HEAD))
    return Recipe("bert", entries, tuple(moves), left_out=unused)


def _layer(theirs: str, ours: str, width: int, inner: int) -> Iterator[Move]:
    for name in ("query", "key", "value"):
        source = f"{theirs}attention.self.{name}"
        yield from _both(source, f"{ours}attn_{name[0]}", (width, width))
    yield from _both(f"{theirs}attention.output.dense", f"{ours}attn_output", (width, width))
    yield from _both(f"{theirs}attention.output.LayerNorm", f"{ours}attn_output_norm", (width,))
    yield from _both(f"{theirs}intermediate.dense", f"{ours}ffn_up", (inner, width))
    yield from _both(f"{theirs}output.dense", f"{ours}ffn_down", (width, inner))
    yield from _both(f"{theirs}output.LayerNorm", f"{ours}layer_output_norm", (width,))


def _both(theirs: str, ours: str, shape: tuple[int, ...]) -> tuple[Move, Move]:
    return (
        Move(f"{theirs}.weight", f"{ours}.weight", shape, exact=len(shape) == 1),
        Move(f"{theirs}.bias", f"{ours}.bias", shape[:1], exact=True),
    )
