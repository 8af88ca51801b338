"""What is looked at before an engine sees a byte: real models, and files made to do harm."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.engine import dangers
from node.engine.facts import MAX_TEMPLATE
from node.engine.weights import Weights, inspect
from p2p.errors import AllodError, NotFound, Refused, StoreError, VerificationFailed
from tests import models
from tests.node.engine.ggufs import LLAMA, gguf
from tests.node.engine.tiny import make_tiny


def folder_of(folder: Path, **files: bytes) -> Path:
    """A folder with one file for each word, ``__`` standing for a dot."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def test_a_real_gguf_is_read(tmp_path: Path) -> None:
    """SmolLM2's header says what SmolLM2 is."""
    os.link(models.smollm2_gguf(), tmp_path / "model.gguf")
    found = inspect(tmp_path)
    assert found.template.startswith("{% for message in messages %}")
    assert found == Weights(
        format="gguf",
        paths=("model.gguf",),
        architecture="llama",
        declared="",
        size=98_362_432,
        parameters=134_515_008,
        quantization="Q4_1",
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        cache=2 * 30 * 3 * 64,
        embedding=576,
        context=8192,
        vocabulary=49152,
        template=found.template,
        purpose="generate",
        pooling="",
        tokenizer="smollm",
    )


def test_real_safetensors_are_read() -> None:
    """The same model as safetensors says the same, in the Hub's words."""
    found = inspect(models.smollm2_safetensors())
    assert found.template.startswith("{% for message in messages %}")
    assert (found.format, found.paths) == ("safetensors", ("model.safetensors",))
    assert (found.architecture, found.declared) == ("llama", "LlamaForCausalLM")
    assert (found.parameters, found.quantization) == (134_515_008, "BF16")
    assert (found.layers, found.heads, found.kv_heads, found.head_dim) == (30, 9, 3, 64)
    assert (found.cache, found.embedding, found.context) == (2 * 30 * 3 * 64, 576, 8192)
    assert (found.vocabulary, found.tokenizer) == (49152, "smollm")
    assert (found.purpose, found.pooling) == ("generate", "")


def test_a_real_encoder_is_read() -> None:
    """all-MiniLM-L6-v2 makes embeddings, the mean of its tokens', and keeps nothing of them."""
    found = inspect(models.minilm())
    assert (found.architecture, found.purpose, found.pooling) == ("bert", "embed", "mean")
    assert (found.layers, found.heads, found.embedding, found.context) == (6, 12, 384, 512)
    assert (found.cache, found.template, found.tokenizer) == (0, "", "wordpiece")
    assert found.quantization == "F32"


# -- which of the files


def test_shards_are_one_model(tmp_path: Path) -> None:
    """The shards of a GGUF model are taken together, the first of them first."""
    shards = {f"m-{n:05}-of-00003.gguf": gguf(tensors={f"t{n}": (32, n)}) for n in (1, 2, 3)}
    for name, data in shards.items():
        (tmp_path / name).write_bytes(data)
    found = inspect(tmp_path)
    assert found.paths == tuple(sorted(shards))
    assert found.parameters == 32 * 6
    assert found.size == sum(map(len, shards.values()))
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(NotFound, match="in 3 shards, and here are 2"):
        inspect(tmp_path)


def test_one_of_several_is_named(tmp_path: Path) -> None:
    """Of several GGUF models one is taken when it is named, by its path or a part of its name."""
    (tmp_path / "sub").mkdir()
    for name, layers in (("a.Q4_K_M.gguf", 2), ("a.Q8_0.gguf", 3), ("sub/b.gguf", 4)):
        (tmp_path / name).write_bytes(gguf(block_count=layers))
    (tmp_path / "mmproj-a.gguf").write_bytes(b"not looked at")
    with pytest.raises(Refused, match="has 4 GGUF models"):
        inspect(tmp_path)
    assert inspect(tmp_path, "q8_0").layers == 3
    assert inspect(tmp_path, "sub/b.gguf").layers == 4
    with pytest.raises(Refused, match="No model 'Q5'"):
        inspect(tmp_path, "Q5")
    with pytest.raises(Refused, match="takes one"):
        inspect(tmp_path, "a.")


def test_projectors_are_no_models(tmp_path: Path) -> None:
    """What reads images for a model is not taken for another model."""
    folder_of(tmp_path, model__gguf=gguf(), mmproj_f16__gguf=b"not looked at")
    os.rename(tmp_path / "mmproj_f16.gguf", tmp_path / "mmproj-f16.gguf")
    assert inspect(tmp_path).paths == ("model.gguf",)
    (tmp_path / "model.gguf").unlink()
    with pytest.raises(Refused, match="no model among"):
        inspect(tmp_path)


def test_gguf_goes_before_safetensors(tmp_path: Path) -> None:
    """Of both formats the one that loads directly is taken, unless the other is named."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    (tmp_path / "model.gguf").write_bytes(gguf())
    assert inspect(tmp_path).format == "gguf"
    assert inspect(tmp_path, "model.safetensors").format == "safetensors"


def test_sharded_safetensors_are_one_model(tmp_path: Path) -> None:
    """Files that the index names are taken together; one that is not here is missed."""
    make_tiny(tmp_path, "LlamaForCausalLM", shards=3)
    whole = make_tiny(tmp_path / "whole", "LlamaForCausalLM")
    assert inspect(whole).parameters == inspect(_without(tmp_path, "whole")).parameters
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(NotFound, match=r"'model-00002-of-00003\.safetensors' is not here"):
        inspect(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(NotFound, match="in 3 shards, and here are 2"):
        inspect(tmp_path)


def _without(folder: Path, name: str) -> Path:
    for file in sorted((folder / name).iterdir()):
        file.unlink()
    (folder / name).rmdir()
    return folder


def test_no_weights(tmp_path: Path) -> None:
    """A release without weights is refused, one without settings too."""
    with pytest.raises(Refused, match="this release has none"):
        inspect(folder_of(tmp_path / "a", README__md=b"hello"))
    make_tiny(tmp_path / "b", "LlamaForCausalLM")
    (tmp_path / "b" / "config.json").unlink()
    with pytest.raises(Refused, match="here is none"):
        inspect(tmp_path / "b")


# -- what a header says


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"block_count": 1 << 40}, "number of layers"),
        ({"block_count": 0}, "number of layers"),
        ({"block_count": -1}, "number of layers"),
        ({"block_count": 2.0}, "number of layers"),
        ({"block_count": "2"}, "number of layers"),
        ({"attention.head_count": 1 << 20}, "number of heads"),
        ({"attention.head_count_kv": (2,)}, "said of 1 layers, there are 2"),
        ({"attention.key_length": 1 << 30}, "size of a head"),
        ({"embedding_length": 1 << 62}, "width of an embedding"),
        ({"context_length": 1 << 62}, "context"),
        ({"vocab_size": 1 << 40}, "number of tokens"),
    ],
)
def test_absurd_numbers_are_not_believed(tmp_path: Path, more: dict[str, Any], wrong: str) -> None:
    """Numbers that no model has end in an error before memory is set aside for them."""
    with pytest.raises(VerificationFailed, match=wrong):
        inspect(folder_of(tmp_path, model__gguf=gguf(**more)))


def test_heads_may_differ_by_layer(tmp_path: Path) -> None:
    """What is kept of a token is added up over layers, also of those that keep nothing."""
    more: dict[str, Any] = {"attention.head_count_kv": (4, 0), "attention.key_length": 16}
    data = gguf(**more)
    found = inspect(folder_of(tmp_path, model__gguf=data))
    assert (found.kv_heads, found.head_dim, found.cache) == (4, 16, 4 * (16 + 8))


def test_a_model_that_embeds_says_how(tmp_path: Path) -> None:
    """A decoder with a pooling makes embeddings; a number that means nothing is no pooling."""
    assert inspect(folder_of(tmp_path, model__gguf=gguf(pooling_type=3))).pooling == "last"
    assert inspect(tmp_path).purpose == "embed"
    assert inspect(folder_of(tmp_path, model__gguf=gguf(pooling_type=99))).purpose == "generate"


@pytest.mark.parametrize(
    ("number", "dtype", "named"), [(15, "Q4_K_M", "F16"), (1, "F16", "F16"), (1 << 70, "", "F16")]
)
def test_quantization_is_that_of_the_tensors(
    tmp_path: Path, number: int, dtype: str, named: str
) -> None:
    """What a header calls its mixture counts only where the tensors agree."""
    number = min(number, (1 << 63) - 1)
    data = gguf({**LLAMA, "general.file_type": number})
    assert inspect(folder_of(tmp_path, model__gguf=data)).quantization == named


def test_what_is_no_model(tmp_path: Path) -> None:
    """GGUF files that hold something else, or do not say what, are not served."""
    with pytest.raises(Refused, match="holds a clip"):
        inspect(folder_of(tmp_path, x__gguf=gguf({**LLAMA, "general.architecture": "clip"})))
    with pytest.raises(VerificationFailed, match="names no architecture"):
        inspect(folder_of(tmp_path, x__gguf=gguf({**LLAMA, "general.architecture": "../x"})))
    with pytest.raises(VerificationFailed, match="other shards"):
        inspect(folder_of(tmp_path, x__gguf=gguf({**LLAMA, "split.count": 3})))


def test_templates_are_bounded(tmp_path: Path) -> None:
    """A template that is longer than any, or no text, is not given to an engine."""
    long = {**LLAMA, "tokenizer.chat_template": "x" * (MAX_TEMPLATE + 1)}
    with pytest.raises(VerificationFailed, match="chat template has at most"):
        inspect(folder_of(tmp_path, model__gguf=gguf(long)))
    make_tiny(tmp_path / "b", "LlamaForCausalLM")
    (tmp_path / "b" / "tokenizer_config.json").write_text('{"chat_template": "\\ud800"}')
    with pytest.raises(VerificationFailed, match="this one is none"):
        inspect(tmp_path / "b")


def test_the_template_comes_from_where_transformers_takes_it(tmp_path: Path) -> None:
    """A file of its own goes before settings; of several in settings the one called default."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    several = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert inspect(tmp_path).template == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert inspect(tmp_path).template == "J"


# -- what is made to do harm


def test_hostile_gguf_headers(tmp_path: Path) -> None:
    """2^63 tensors, lengths past the end and cut files end in one error that names the file."""
    good = gguf()
    many = b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 1)
    long = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62) + b"general"
    for data in (many, long, good[:40], good[:-1], b"GGUF", b"", b"GGML" + good[4:]):
        with pytest.raises(VerificationFailed, match=r"^model\.gguf: "):
            inspect(folder_of(tmp_path, model__gguf=data))


def spoil(change: dict[str, Any], name: str = "config.json") -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        file = folder / name
        value = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**value, **change} if isinstance(value, dict) else value))

    return act


def put(name: str, data: bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return act


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def archive() -> bytes:
    import io

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as zipped:
        zipped.writestr("model/data.pkl", pickle.dumps(Bomb()))
    return held.getvalue()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (spoil({"auto_map": {"AutoModel": "modeling_x.X"}}), "auto_map"),
        (
            spoil({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "tokenizer_config.json"),
            "auto_map",
        ),
        (spoil({"auto_map": {"AutoModel": "m.X"}}, "config.4.50.0.json"), "auto_map"),
        (spoil({"auto_map": {"AutoProcessor": "p.P"}}, "preprocessor_config.json"), "auto_map"),
        (spoil({"text_config": {"auto_map": {"AutoConfig": "o/r--c.C"}}}), "auto_map"),
        (spoil({"custom_pipelines": {"x": {"impl": "x.X"}}}), "custom_pipelines"),
        (spoil({"attn_implementation": "someone/kernels"}), "attn_implementation"),
        (put("modules.json", b'[{"type": "custom.Module", "path": ""}]'), "custom.Module"),
        (put("modeling_x.py", b"pass"), "modeling_x.py is code"),
        (put("custom_generate/generate.py", b""), "generate.py is code"),
        (put("lib.so", b"\x7fELF"), "lib.so is code"),
        (put("model.safetensors", pickle.dumps(Bomb())), "model.safetensors is not served"),
        (put("model.safetensors", archive()), "model.safetensors is not served"),
        (put("pytorch_model.bin", archive()), "pytorch_model.bin is not served"),
        (put("notes.txt", pickle.dumps(Bomb(), 0)), "notes.txt is not served"),
        (put("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64)), "tf_model.h5 is not served"),
        (put("config.json", b"[" * 100_000 + b"]" * 100_000), "nested too deep"),
        (put("config.json", b"{" + b" " * (4 << 20) + b"}"), "config.json is not served"),
    ],
)
def test_what_runs_code_is_refused(tmp_path: Path, harm: Callable[[Path], None], said: str) -> None:
    """Code, pickles under any name and settings that import code: refused, and the file named."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    assert inspect(tmp_path).format == "safetensors"
    harm(tmp_path)
    with pytest.raises(Refused, match=said):
        inspect(tmp_path)


@pytest.mark.parametrize(
    "harm",
    [
        put("config.json", b"no JSON"),
        put("config.json", b"[]"),
        put("config.json", b'{"num_hidden_layers": ' + b"9" * 5000 + b"}"),
        spoil({"num_hidden_layers": 1 << 60}),
        spoil({"num_hidden_layers": True}),
        spoil({"hidden_size": "64"}),
        spoil({"num_key_value_heads": 1e300}),
        spoil({"architectures": ["x\ny"]}),
        put("model.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
        put("model.safetensors", b"\x02\0\0\0\0\0\0\0{}trailing"),
        put("tokenizer.json", b"[1, 2]"),
        put("tokenizer.json", b'{"model": {"vocab": {"a": 1}'),
        put("tokenizer_config.json", b"\xff\xfe"),
        put("chat_template.jinja", b"\xff"),
        put("modules.json", b'{"a": 1}'),
        put("modules.json", b'[{"type": "x.Pooling", "path": "../.."}]'),
    ],
)
def test_what_is_malformed_is_one_error(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Settings and headers that contradict themselves end in an error of ours, and nothing else."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    harm(tmp_path)
    with pytest.raises(AllodError) as caught:
        inspect(tmp_path)
    assert isinstance(caught.value, VerificationFailed | Refused)


def test_large_settings_are_not_parsed(tmp_path: Path) -> None:
    """A config.json of 100 MB is refused by its size, without being read."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(100 << 20)
    with pytest.raises(Refused, match="more than the 4,194,304 bytes"):
        inspect(tmp_path)


def test_an_index_names_files_beside_it(tmp_path: Path) -> None:
    """An index that leads out of the folder, or names nothing, is not followed."""
    make_tiny(tmp_path, "LlamaForCausalLM", shards=2)
    index = tmp_path / "model.safetensors.index.json"
    wrong: list[Any] = [{"x": "../model.safetensors"}, {"x": 1}, {}, [], None]
    for places in wrong:
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(VerificationFailed, match=r"model\.safetensors\.index\.json"):
            inspect(tmp_path)


def test_a_tensor_is_in_one_file(tmp_path: Path) -> None:
    """Two files that both have a tensor are not one model."""
    make_tiny(tmp_path, "LlamaForCausalLM", shards=2)
    first, second = (tmp_path / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(VerificationFailed, match="Two files have the tensor"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    "module",
    [b'[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]',
     b'[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]'],
)  # fmt: skip
def test_poolings_that_no_engine_has(tmp_path: Path, module: bytes) -> None:
    """Embeddings that would come out wrong are refused: layers after pooling, two poolings."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    put("modules.json", module)(tmp_path)
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    put("1_Pooling/config.json", json.dumps(both).encode())(tmp_path)
    with pytest.raises(Refused, match="no engine has"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_poolings_are_read(tmp_path: Path, said: dict[str, Any], pooling: str) -> None:
    """How a text's embedding is made is read as older and newer files say it."""
    make_tiny(tmp_path, "Qwen3ForCausalLM")
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{one}", "path": f"1_{one}"} for one in kinds]
    put("modules.json", json.dumps(modules).encode())(tmp_path)
    put("1_Pooling/config.json", json.dumps(said).encode())(tmp_path)
    found = inspect(tmp_path)
    assert (found.purpose, found.pooling, found.template) == ("embed", pooling, "")
    put("1_Pooling/config.json", b'{"pooling_mode": "other"}')(tmp_path)
    with pytest.raises(Refused, match="no engine has"):
        inspect(tmp_path)


def test_without_a_pooling_it_is_the_mean(tmp_path: Path) -> None:
    """An encoder that says no pooling gets sentence-transformers' own: the mean."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    put("modules.json", b'[{"type": "sentence_transformers.models.Transformer"}]')(tmp_path)
    assert (inspect(tmp_path).purpose, inspect(tmp_path).pooling) == ("generate", "")
    spoil({"architectures": ["BertModel"]})(tmp_path)
    assert (inspect(tmp_path).purpose, inspect(tmp_path).pooling) == ("embed", "mean")


def test_which_safetensors_are_the_model(tmp_path: Path) -> None:
    """One file of any name is the model, adapters beside it are not; of several it is not clear."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    os.rename(tmp_path / "model.safetensors", tmp_path / "tiny.safetensors")
    put("adapter_model.safetensors", b"not looked at")(tmp_path)
    assert inspect(tmp_path).paths == ("tiny.safetensors",)
    put("other.safetensors", b"not looked at")(tmp_path)
    with pytest.raises(Refused, match="it is not clear"):
        inspect(tmp_path)


def test_shards_without_an_index(tmp_path: Path) -> None:
    """Shards whose names are complete are one model."""
    make_tiny(tmp_path, "LlamaForCausalLM", shards=2)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert len(inspect(tmp_path).paths) == 2


@pytest.mark.parametrize("packed", [{"quant_method": "gptq"}, {"quant_method": 7}])
def test_packed_weights_are_named(tmp_path: Path, packed: dict[str, Any]) -> None:
    """Weights that are packed in a way of their own are called by it, not by their dtype."""
    make_tiny(tmp_path, "LlamaForCausalLM", quantization_config=packed)
    assert inspect(tmp_path).quantization in ("GPTQ", "?")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    """A name without its file, as after a part of the store was lost, is said to be missing."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    (tmp_path / "lost.bin").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotFound, match=r"lost\.bin"):
        inspect(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """What the disk says is said on; a folder in a file's place is no file."""
    make_tiny(tmp_path, "LlamaForCausalLM")
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(VerificationFailed, match=r"config\.json should be a file"):
        inspect(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError, match="could not be read"):
        inspect(tmp_path)


def test_many_files_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of more files than are looked into is refused with a way to serve it."""
    monkeypatch.setattr(dangers, "MAX_FILES", 3)
    make_tiny(tmp_path, "LlamaForCausalLM")
    with pytest.raises(Refused, match="at most 3 files"):
        inspect(tmp_path)
