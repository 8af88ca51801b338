"""Models that write: Llama and those that were made after it.

All have the same tensors, and differ in which numbers and biases there are, and in how a head is
turned by its position. Hugging Face's files pair number i of a head with number i + d/2; ggml's
llama pairs neighbours, so the rows of q and k are laid out anew for it (``Move.heads``), and
ggml's Qwen pairs as Hugging Face does.
Pure. Names: ggml-org/llama.cpp, gguf-py/gguf/constants.py; meanings: transformers' models.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from node.engine.convert.recipe import Entry, Made, Move, Recipe
from node.engine.convert.settings import Settings
from node.engine.facts import (
    MAX_CONTEXT,
    MAX_HEAD,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCABULARY,
    MAX_WIDTH,
)
from p2p.errors import Unsupported, VerificationFailed

UNUSED: Final = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")
"""Ends of names of tensors that are computed anew by every loader."""


@dataclass(frozen=True, slots=True)
class Family:
    """What is peculiar about an architecture; ``name`` is llama.cpp's."""

    name: str
    turned: bool = True
    """The rows of q and k are laid out anew."""
    qkv_biases: bool | None = False
    """True: always; None: where the settings say so, with one for the output; False: never."""
    head_norms: bool = False
    """q and k are normed, each head by itself."""
    window: str = ""
    """Beyond so many tokens attention is cut off. A flag that must be set, too; empty: none."""
    heads_fill_width: bool = False
    """llama.cpp takes the heads to be as wide together as an embedding."""


FAMILIES: Final = {
    "LlamaForCausalLM": Family("llama", qkv_biases=None),
    "MistralForCausalLM": Family("llama", window="sliding_window"),
    "Qwen2ForCausalLM": Family(
        "qwen2", turned=False, qkv_biases=True, window="use_sliding_window", heads_fill_width=True
    ),
    "Qwen3ForCausalLM": Family("qwen3", turned=False, head_norms=True, window="use_sliding_window"),
    "SmolLM3ForCausalLM": Family("smollm3", window="use_sliding_window"),
    "GraniteForCausalLM": Family("granite", qkv_biases=None),
}

_SCALES: Final = (  # Granite's, by transformers' name and GGUF's
    ("embedding_multiplier", "embedding_scale"),
    ("residual_multiplier", "residual_scale"),
    ("attention_multiplier", "attention.scale"),
    ("logits_scaling", "logit_scale"),
)
_NO_ROPE_STEP: Final = 4  # llama.cpp's SmolLM3 leaves every fourth layer unturned


@dataclass(frozen=True, slots=True)
class _Sizes:
    layers: int
    heads: int
    kv_heads: int
    head: int
    width: int
    inner: int
    tokens: int


def decoder_recipe(declared: str, config: Settings, names: Collection[str]) -> Recipe:
    """Say how a decoder becomes GGUF; ``names`` are those of its tensors.

    ``Unsupported`` for settings that llama.cpp's architecture has no place for.
    """
    family = FAMILIES[declared]
    sizes = _sizes(config, family)
    _refuse_unknown(family, config)
    base, scaling, factors = _rope(family, config, sizes.head)
    prefix = "model." if "model.embed_tokens.weight" in names else ""
    tied = _is_tied(config, names)
    moves = [
        Move(f"{prefix}embed_tokens.weight", "token_embd.weight", (sizes.tokens, sizes.width)),
        Move(f"{prefix}norm.weight", "output_norm.weight", (sizes.width,), exact=True),
    ]
    if not tied:
        moves.append(Move("lm_head.weight", "output.weight", (sizes.tokens, sizes.width)))
    for layer in range(sizes.layers):
        moves += _layer(f"{prefix}layers.{layer}.", f"blk.{layer}.", family, config, sizes)
    entries = [*_numbers(family, config, sizes), Entry("rope.freq_base", "f32", base), *scaling]
    return Recipe(
        family.name,
        tuple(entries),
        tuple(moves),
        (Made("rope_freqs.weight", factors),) if factors else (),
        frozenset({"lm_head.weight"} if tied else ()),
    )


def _sizes(config: Settings, family: Family) -> _Sizes:
    heads = config.number("num_attention_heads", MAX_HEADS)
    width = config.number("hidden_size", MAX_WIDTH)
    sizes = _Sizes(
        layers=config.number("num_hidden_layers", MAX_LAYERS),
        heads=heads,
        kv_heads=config.number("num_key_value_heads", MAX_HEADS, heads),
        head=config.number("head_dim", MAX_HEAD, width // heads),
        width=width,
        inner=config.number("intermediate_size", 16 * MAX_WIDTH),
        tokens=config.number("vocab_size", MAX_VOCABULARY),
    )
    if sizes.head < 2 or sizes.head % 2 or heads % sizes.kv_heads:
        raise VerificationFailed(
            f"A head has an even size, and heads share keys evenly: not {heads} heads of "
            f"{sizes.head} with {sizes.kv_heads} for keys."
        )
    if family.heads_fill_width and heads * sizes.head != width:
        raise Unsupported(f"{family.name} in GGUF has no head_dim of its own, this model has one.")
    return sizes


def _refuse_unknown(family: Family, config: Settings) -> None:
    config.expect("hidden_act", ("silu", "swish", None))
    config.expect("partial_rotary_factor", (1, 1.0, None))
    config.expect("is_causal", (True, None))
    config.expect("quantization_config", (None,))
    if family.qkv_biases is not None:
        config.expect("attention_bias", (False, None))
    if family.name != "llama":
        config.expect("mlp_bias", (False, None))
    if family.name == "smollm3":
        layers = config.number("num_hidden_layers", MAX_LAYERS)
        turned = [int((layer + 1) % _NO_ROPE_STEP != 0) for layer in range(layers)]
        said = config.values.get("no_rope_layers", turned)
        if said != turned or config.values.get("no_rope_layer_interval", 4) != _NO_ROPE_STEP:
            raise Unsupported("SmolLM3 in GGUF turns all but every fourth layer, this one others.")


def _is_tied(config: Settings, names: Collection[str]) -> bool:
    """Say whether the output is the embedding; then a tensor of its own means nothing."""
    if "lm_head.weight" in names:
        return config.flag("tie_word_embeddings")
    if config.values.get("tie_word_embeddings") is False:
        raise VerificationFailed("The model has no lm_head.weight, and its settings say it has.")
    return True


def _numbers(family: Family, config: Settings, sizes: _Sizes) -> Iterator[Entry]:
    yield Entry("vocab_size", "u32", sizes.tokens)
    yield Entry("context_length", "u32", _context(family, config))
    yield Entry("embedding_length", "u32", sizes.width)
    yield Entry("block_count", "u32", sizes.layers)
    yield Entry("feed_forward_length", "u32", sizes.inner)
    yield Entry("attention.head_count", "u32", sizes.heads)
    yield Entry("attention.head_count_kv", "u32", sizes.kv_heads)
    yield Entry("attention.key_length", "u32", sizes.head)
    yield Entry("attention.value_length", "u32", sizes.head)
    yield Entry("rope.dimension_count", "u32", sizes.head)
    yield Entry("attention.layer_norm_rms_epsilon", "f32", config.real("rms_norm_eps"))
    if family.name == "granite":
        for theirs, ours in _SCALES:
            yield Entry(ours, "f32", config.real(theirs))


def _context(family: Family, config: Settings) -> int:
    """Return for how many tokens the model is what it was trained to be in llama.cpp.

    A window of attention has no place in these architectures of GGUF; within the window there is
    no difference, so that is how far they go.
    """
    context = config.number("max_position_embeddings", MAX_CONTEXT)
    if not family.window or not config.has("sliding_window"):
        return context
    if family.window == "use_sliding_window" and not config.flag(family.window):
        return context
    return min(context, config.number("sliding_window", MAX_CONTEXT))


def _layer(
    theirs: str, ours: str, family: Family, config: Settings, sizes: _Sizes
) -> Iterator[Move]:
    width, inner = sizes.width, sizes.inner
    q, kv = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    biased = family.qkv_biases
    if biased is None:
        biased = config.flag("attention_bias")
    turns = (sizes.heads, sizes.kv_heads) if family.turned else (0, 0)
    yield Move(f"{theirs}input_layernorm.weight", f"{ours}attn_norm.weight", (width,), exact=True)
    for name, rows, heads in (("q", q, turns[0]), ("k", kv, turns[1]), ("v", kv, 0)):
        source, target = f"{theirs}self_attn.{name}_proj.", f"{ours}attn_{name}."
        yield Move(f"{source}weight", f"{target}weight", (rows, width), heads)
        if biased:
            yield Move(f"{source}bias", f"{target}bias", (rows,), heads, exact=True)
    source = f"{theirs}self_attn.o_proj."
    yield Move(f"{source}weight", f"{ours}attn_output.weight", (width, q))
    if biased and family.qkv_biases is None:
        yield Move(f"{source}bias", f"{ours}attn_output.bias", (width,), exact=True)
    if family.head_norms:
        for name in "qk":
            source = f"{theirs}self_attn.{name}_norm.weight"
            yield Move(source, f"{ours}attn_{name}_norm.weight", (sizes.head,), exact=True)
    source = f"{theirs}post_attention_layernorm.weight"
    yield Move(source, f"{ours}ffn_norm.weight", (width,), exact=True)
    for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
        source, target = f"{theirs}mlp.{name}_proj.", f"{ours}ffn_{name}."
        yield Move(f"{source}weight", f"{target}weight", shape)
        if config.flag("mlp_bias"):
            yield Move(f"{source}bias", f"{target}bias", shape[:1], exact=True)


# -- how a head is turned by its position


def _rope(
    family: Family, config: Settings, head: int
) -> tuple[float, list[Entry], tuple[float, ...]]:
    """Return the base, what scales it, and a factor for every pair of numbers (or none)."""
    said = config.inner("rope_parameters")  # transformers 5; before, two keys
    if not said.values:
        said = config.inner("rope_scaling")
    base = said.real("rope_theta", config.real("rope_theta", 10_000.0))
    kind = said.values.get("rope_type", said.values.get("type", "default"))
    if kind in ("default", "dynamic"):  # dynamic: nothing within the context, and that is all
        return base, [], ()
    if kind == "linear":
        return base, _scaled("linear", said.real("factor")), ()
    if kind == "yarn":
        return base, _yarn(said, config), ()
    if kind == "llama3" and family.name == "llama":
        return base, [], _llama3(said, base, head)
    raise Unsupported(
        f"A model with positions scaled as {kind!s:.40} is not converted.",
        next="serve.engine = transformers runs it, if that is installed.",
    )


def _scaled(kind: str, factor: float) -> list[Entry]:
    return [Entry("rope.scaling.type", "text", kind), Entry("rope.scaling.factor", "f32", factor)]


def _yarn(said: Settings, config: Settings) -> list[Entry]:
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        said.expect(key, (None,))  # llama.cpp computes what they would be, and means another thing
    said.expect("beta_fast", (32, None))
    said.expect("beta_slow", (1, None))
    said.expect("truncate", (True, None))
    trained = config.number("max_position_embeddings", MAX_CONTEXT)
    original = said.number("original_max_position_embeddings", MAX_CONTEXT, trained)
    return [
        *_scaled("yarn", said.real("factor")),
        Entry("rope.scaling.original_context_length", "u32", original),
    ]


def _llama3(said: Settings, base: float, head: int) -> tuple[float, ...]:
    """Return by what each frequency is divided: the low ones by ``factor``, the high ones by 1,
    those between by something between."""
    factor = said.real("factor")
    low, high = said.real("low_freq_factor"), said.real("high_freq_factor")
    original = said.number("original_max_position_embeddings", MAX_CONTEXT)
    if low >= high:
        raise VerificationFailed("rope_scaling should have a low_freq_factor below the high one.")
    factors = []
    for pair in range(head // 2):
        turns = original * base ** (-2 * pair / head) / (2 * math.pi)  # within the old context
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / (smooth + (1 - smooth) / factor))
    return tuple(factors)
