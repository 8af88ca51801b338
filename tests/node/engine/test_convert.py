"""Safetensors become GGUF files that say the same: asked of llama.cpp, beside a second opinion.

The second opinion is reference.py beside this: the same models in numpy, from the Hub's files.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.engine.convert import ASKED, CONVERTED, resolve_type, supported
from node.engine.convert.conversion import convert
from node.engine.convert.decoders import FAMILIES
from node.engine.convert.pieces import PIECE
from node.engine.weights import inspect
from node.messages import Failure, Progress, Result, decode
from p2p.cid import Hash
from p2p.errors import AllodError, NoEngine, Unsupported, UsageError, VerificationFailed
from p2p.tensors import read_gguf
from tests import models
from tests.node.engine import reference
from tests.node.engine.llama import Llama, open_llama
from tests.node.engine.tiny import make_tiny, write_safetensors

NEAR = 0.05
"""How far logarithms of probabilities may lie apart: f16 makes 0.02; a wrong model makes 0.2 and
more, which was tried by converting each wrongly."""

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
PROMPT = [int(one) for one in np.random.default_rng(5).integers(0, 128, 70)]


def quiet(done: int, total: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize(
    ("declared", "more"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}),
        ("LlamaForCausalLM", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
        ("LlamaForCausalLM", {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("MistralForCausalLM", {"sliding_window": 128, "head_dim": 24}),
        ("Qwen2ForCausalLM", {"use_sliding_window": False, "sliding_window": 64}),
        (
            "Qwen2ForCausalLM",
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
                "rope_theta": 1e6,
            },
        ),
        ("Qwen3ForCausalLM", {"head_dim": 32, "tie_word_embeddings": True}),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 1, 1, 0]}),
        (
            "GraniteForCausalLM",
            {
                "embedding_multiplier": 3.0,
                "residual_multiplier": 0.5,
                "attention_multiplier": 0.1,
                "logits_scaling": 2.0,
            },
        ),
    ],
)
def test_each_family_says_the_same(tmp_path: Path, declared: str, more: dict[str, Any]) -> None:
    """A model of each family, with each of its settings, gives the next token the same chances."""
    folder = make_tiny(tmp_path / "model", declared, **more)
    assert supported(inspect(folder))
    out = tmp_path / "out.gguf"
    convert(folder, out, "f16", quiet)
    with open_llama(out, tmp_path) as llama:
        found = llama.likely(PROMPT)
    right = reference.log_probabilities(reference.load(folder), PROMPT)
    assert len(found) == 20
    assert max(abs(right[token] - one) for token, one in found.items()) < NEAR
    assert next(iter(found)) == int(right.argmax())


def test_every_family_is_tried() -> None:
    """The table of what is converted has no family that the test above leaves out."""
    [mark] = test_each_family_says_the_same.pytestmark
    assert {case[0] for case in mark.args[1]} == set(FAMILIES)
    assert set(FAMILIES) | {"BertModel", "BertForMaskedLM"} == CONVERTED


# -- SmolLM2 and MiniLM, as people have them


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Llama, dict[str, Any]]]:
    """SmolLM2, converted from safetensors and running."""
    folder = tmp_path_factory.mktemp("smollm2")
    said = convert(models.smollm2_safetensors(), folder / "out.gguf", "f16", quiet)
    with open_llama(folder / "out.gguf", folder) as llama:
        yield llama, said


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """SmolLM2 as others have converted it."""
    with open_llama(models.smollm2_gguf(), tmp_path_factory.mktemp("original")) as llama:
        yield llama


TEXTS = [
    "Hello world", "  two  spaces", "   ", "\n", "1234567890 3.14 1_000", "I'll can't 'S 'LL",
    "naïve café — “quotes” …", "日本語 中文 한국어 العربية", "👍🏽🙂 emoji\u200d", "²³½Ⅷ٣",
    "tabs\tand\nnew\r\nlines\n\n\n   x", "def f(x):\n    return x**2\n", "\u0301 e\u0301",
    "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>x <repo_name>", "x\u00a0y\u3000z",
]  # fmt: skip
"""What tokenizers fall over: spaces, digits, scripts, accents, and tokens that are no text."""


def test_text_is_cut_the_same(smollm2: tuple[Llama, Any], original: Llama) -> None:
    """The rebuilt tokenizer makes the tokens that upstream's conversion makes, of any text."""
    for text in TEXTS:
        for special in (False, True):
            found = smollm2[0].tokenize(text, special=special)
            assert found == original.tokenize(text, special=special), text


def test_a_real_model_says_the_same(smollm2: tuple[Llama, Any], original: Llama) -> None:
    """SmolLM2 gives the next token the chances that numpy gives it, and goes on as the original."""
    prompt = smollm2[0].tokenize("The opposite of hot is cold. The opposite of up is")
    found = smollm2[0].likely(prompt)
    right = reference.log_probabilities(reference.load(models.smollm2_safetensors()), prompt)
    assert max(abs(right[token] - one) for token, one in found.items()) < NEAR
    [first, second] = sorted(found.values())[-1:-3:-1]
    assert first - second > 1  # a clear margin, so that quantisation changes nothing
    assert smollm2[0].greedy(prompt, 2) == original.greedy(prompt, 2)


def test_embeddings_are_the_models_own(tmp_path: Path) -> None:
    """MiniLM's embeddings of texts are those that numpy computes from its safetensors."""
    convert(models.minilm(), tmp_path / "out.gguf", "auto", quiet)
    # The tokens are those of Hugging Face's tokenizers 0.23.
    known = {
        "Hello world": [101, 7592, 2088, 102],
        "naïve CAFÉ, isn't it?": [101, 15743, 7668, 1010, 3475, 1005, 1056, 2009, 1029, 102],
        "unbelievably tokenizable": [101, 4895, 8671, 2666, 3567, 6321, 19204, 21335, 3468, 102],
        "日本 2024": [101, 1864, 1876, 16798, 2549, 102],
    }
    model = reference.load(models.minilm())
    with open_llama(tmp_path / "out.gguf", tmp_path, embed=True) as llama:
        for text, tokens in known.items():
            assert llama.tokenize(text, special=True) == tokens, text
            right = reference.embed(model, tokens)
            assert float(right @ np.array(llama.embed(text))) > 0.999


# -- the file


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("asked", ASKED)
def test_types(tmp_path: Path, dtype: str, asked: str) -> None:
    """Weights become what was asked for, norms keep four bytes, and the file says so."""
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM", dtype=dtype)
    said = convert(folder, tmp_path / "out.gguf", asked, quiet)
    wanted = {"auto": "BF16" if dtype == "BF16" else "F16"}.get(asked, asked.upper())
    assert said["type"] == wanted.lower()
    data = (tmp_path / "out.gguf").read_bytes()
    assert said["size"] == len(data)
    assert said["blake3"] == Hash.BLAKE3.digest(data).hex()
    header = read_gguf(lambda start, size: data[start : start + size], len(data))
    dtypes = {one.name: one.dtype for one in header.tensors}
    assert dtypes["blk.0.attn_q.weight"] == dtypes["token_embd.weight"] == wanted
    assert dtypes["blk.0.attn_norm.weight"] == dtypes["output_norm.weight"] == "F32"
    (tmp_path / "made").mkdir()
    os.link(tmp_path / "out.gguf", tmp_path / "made" / "model.gguf")
    made, source = inspect(tmp_path / "made"), inspect(folder)
    assert made.quantization == wanted
    for name in ("layers", "heads", "kv_heads", "head_dim", "cache", "embedding", "context"):
        assert getattr(made, name) == getattr(source, name), name
    assert (made.vocabulary, made.architecture) == (source.vocabulary, source.architecture)
    assert (made.tokenizer, made.parameters) == (source.tokenizer, source.parameters)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """However the tensors are spread over files, and whenever: one file comes out."""
    sums = set()
    for shards in (1, 3, 1):
        folder = make_tiny(tmp_path / f"model-{shards}", "Qwen3ForCausalLM", shards=shards)
        sums.add(convert(folder, tmp_path / "out.gguf", "q8_0", quiet)["blake3"])
    assert len(sums) == 1


def test_rows_that_fill_no_block_stay_f16(tmp_path: Path) -> None:
    """Q8_0 holds rows of whole blocks; a model whose rows are none gets two bytes for them."""
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM", intermediate_size=72)
    convert(folder, tmp_path / "out.gguf", "q8_0", quiet)
    data = (tmp_path / "out.gguf").read_bytes()
    header = read_gguf(lambda start, size: data[start : start + size], len(data))
    dtypes = {one.name: one.dtype for one in header.tensors}
    assert (dtypes["blk.0.ffn_down.weight"], dtypes["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_numbers_too_large_for_f16(tmp_path: Path) -> None:
    """Weights that f16 cannot hold are not made infinite: another type is asked for."""
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM")
    tensors = reference.load(folder)[1]
    tensors["lm_head.weight"][0, 0] = 1e6
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(Unsupported, match=r"lm_head\.weight has numbers that are too large"):
        convert(folder, tmp_path / "out.gguf", "auto", quiet)
    assert not list(tmp_path.glob("out*"))
    convert(folder, tmp_path / "out.gguf", "bf16", quiet)


def test_progress_ends_where_it_should(tmp_path: Path) -> None:
    """Who watches is told of every piece, and at the end of all."""
    told: list[tuple[int, int]] = []
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM")
    convert(folder, tmp_path / "out.gguf", "f16", lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


def test_a_window_is_where_the_context_ends(tmp_path: Path) -> None:
    """llama.cpp has no window for these models; as far as it reaches there is no difference."""
    for more, context in (({"sliding_window": 64}, 64), ({"sliding_window": None}, 256)):
        folder = make_tiny(tmp_path / "model", "MistralForCausalLM", **more)
        (tmp_path / f"made-{context}").mkdir()
        convert(folder, tmp_path / f"made-{context}" / "model.gguf", "f16", quiet)
        assert inspect(tmp_path / f"made-{context}").context == context


# -- what is refused


def spoil(**change: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))

    return act


def tensor(name: str, shape: tuple[int, ...] | None) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        tensors = reference.load(folder)[1]
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.zeros(shape, "<f4")
        write_safetensors(folder / "model.safetensors", tensors)

    return act


NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (spoil(architectures=["GemmaForCausalLM"]), Unsupported),
        (spoil(architectures=[]), Unsupported),
        (spoil(hidden_act="gelu"), Unsupported),
        (spoil(hidden_act=["silu"]), Unsupported),
        (spoil(partial_rotary_factor=0.5), Unsupported),
        (spoil(is_causal=False), Unsupported),
        (spoil(quantization_config={"quant_method": "gptq"}), Unsupported),
        (spoil(rope_scaling={"rope_type": "longrope", "factor": 4.0}), Unsupported),
        (spoil(rope_scaling={"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}), Unsupported),
        (spoil(rope_scaling={"rope_type": ["x"]}), Unsupported),
        (spoil(rope_scaling="llama3"), VerificationFailed),
        (spoil(rope_scaling={"rope_type": "linear"}), VerificationFailed),
        (spoil(rope_scaling={**LLAMA3, "low_freq_factor": 9.0}), VerificationFailed),
        (spoil(rms_norm_eps=0), VerificationFailed),
        (spoil(rms_norm_eps="1e-5"), VerificationFailed),
        (spoil(rope_theta=float("inf")), VerificationFailed),
        (spoil(num_hidden_layers=5), VerificationFailed),
        (spoil(num_hidden_layers=3), Unsupported),  # the tensors of the fourth would be lost
        (spoil(num_hidden_layers=1 << 40), VerificationFailed),
        (spoil(num_attention_heads=3), VerificationFailed),
        (spoil(head_dim=15), VerificationFailed),
        (spoil(vocab_size=100), VerificationFailed),
        (spoil(vocab_size=1 << 21), VerificationFailed),
        (spoil(attention_bias=True), VerificationFailed),
        (spoil(attention_bias="yes"), VerificationFailed),
        (tensor("lm_head.weight", None), VerificationFailed),
        (tensor(NORM, None), VerificationFailed),
        (tensor(NORM, (63,)), VerificationFailed),
        (tensor("model.layers.0.self_attn.q_norm.weight", (16,)), Unsupported),
    ],
)
def test_what_is_not_known_is_not_converted(
    tmp_path: Path, harm: Callable[[Path], None], kind: type[AllodError]
) -> None:
    """Settings or tensors that are not exactly known end it with an error, and leave no file."""
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM")
    harm(folder)
    with pytest.raises(kind):
        convert(folder, tmp_path / "out.gguf", "auto", quiet)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("declared", "more", "said"),
    [
        ("Qwen2ForCausalLM", {"head_dim": 32}, "no head_dim of its own"),
        ("Qwen3ForCausalLM", {"attention_bias": True}, "attention_bias"),
        ("Qwen3ForCausalLM", {"rope_scaling": LLAMA3}, "positions scaled"),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1, 0]}, "every fourth layer"),
        ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 2}, "every fourth layer"),
    ],
)
def test_what_gguf_has_no_place_for(
    tmp_path: Path, declared: str, more: dict[str, Any], said: str
) -> None:
    """What a family may have, but llama.cpp's does not, is said and not left out."""
    folder = make_tiny(tmp_path / "model", declared, **more)
    with pytest.raises(Unsupported, match=said):
        convert(folder, tmp_path / "out.gguf", "auto", quiet)


def test_what_is_supported() -> None:
    """Only models whose every part is recognised are said to be convertible."""
    weights = inspect(models.minilm())
    assert supported(weights)
    from dataclasses import replace

    for more in (
        {"format": "gguf"},
        {"declared": "RobertaModel"},
        {"tokenizer": ""},
        {"quantization": "GPTQ"},
    ):
        assert not supported(replace(weights, **more))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="auto, f16, bf16, q8_0"):
        resolve_type("q4_0", "F32")


# -- as a process


def run(*words: str) -> tuple[int, list[Any], str]:
    """Run a conversion as a node does: no environment, from anywhere."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "node.engine.convert", *words],
        capture_output=True,
        env={},
        cwd="/",
        check=False,
        timeout=60,
    )
    return (
        done.returncode,
        [decode(line) for line in done.stdout.splitlines()],
        done.stderr.decode(),
    )


def test_the_process_says_how_far_it_is(tmp_path: Path) -> None:
    """It prints progress, then one result that names what was made of what."""
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM")
    code, said, words = run(str(folder), str(tmp_path / "out.gguf"), "--type", "q8_0")
    assert (code, words) == (0, "")
    *progress, result = said
    assert progress
    assert all(isinstance(one, Progress) and one.phase == "convert" for one in progress)
    assert isinstance(result, Result)
    assert result.value["size"] == (tmp_path / "out.gguf").stat().st_size
    assert (result.value["type"], result.value["sources"]) == ("q8_0", ["model.safetensors"])
    assert not (tmp_path / "out.gguf.part").exists()


def test_the_process_says_what_is_wrong(tmp_path: Path) -> None:
    """An error of ours is one line, with the exit code that the command line knows."""
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM", hidden_act="gelu")
    code, [failure], words = run(str(folder), str(tmp_path / "out.gguf"))
    assert isinstance(failure, Failure)
    assert (failure.code, code, words) == ("UNSUPPORTED", 2, "")
    code, [failure], _ = run(str(tmp_path / "none"), str(tmp_path / "out.gguf"))
    assert isinstance(failure, Failure)
    assert code != 0
    nowhere = tmp_path / "no" / "out.gguf"
    code, [failure], _ = run(str(make_tiny(tmp_path / "b", "LlamaForCausalLM")), str(nowhere))
    assert isinstance(failure, Failure)
    assert (failure.code, code) == ("STORE", 8)


def test_it_needs_little_memory(tmp_path: Path) -> None:
    """A model many times larger than what is held at once passes through piece by piece."""
    width = 4096
    tensors = {"big": np.zeros((16 * PIECE // width // 4, width), "<f4")}
    write_safetensors(tmp_path / "big.safetensors", tensors)
    script = f"""
import os, resource
from node.engine.convert.pieces import read_packed, type_of
from node.engine.convert.recipe import Move
from node.engine.headers import read_header
from pathlib import Path
file = Path({str(tmp_path / "big.safetensors")!r})
[tensor] = read_header(file, "safetensors")[0].tensors
move = Move("big", "big", tensor.shape)
fd = os.open(file, os.O_RDONLY)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(len(part) for part in read_packed(fd, tensor, move, type_of(move, "q8_0")))
print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    size, grown = map(int, done.stdout.split())
    assert size == 16 * PIECE // 4 // 32 * 34
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 10 * PIECE


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gguf is not installed, the error says what to install."""
    folder = make_tiny(tmp_path / "model", "LlamaForCausalLM")
    monkeypatch.delitem(sys.modules, "node.engine.convert.output", raising=False)
    monkeypatch.setitem(sys.modules, "node.engine.convert.pieces", None)
    with pytest.raises(NoEngine, match="is not installed") as caught:
        convert(folder, tmp_path / "out.gguf", "auto", quiet)
    assert "allod[serve]" in caught.value.next


def test_asking_imports_nothing_heavy() -> None:
    """Whether a model can be converted is known without numpy and gguf."""
    script = "import sys, node.engine.convert; print('numpy' in sys.modules, 'gguf' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False"]
