"""One conversion from its beginning to its end: look, decide, write."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from node.engine.convert import CONVERTED, VERSION, resolve_type
from node.engine.convert.decoders import FAMILIES, UNUSED, decoder_recipe
from node.engine.convert.encoders import POOLINGS, bert_recipe
from node.engine.convert.encoders import UNUSED as UNUSED_BY_BERT
from node.engine.convert.recipe import Entry, Recipe, check
from node.engine.convert.settings import Settings
from node.engine.convert.specials import read_specials
from node.engine.convert.vocabulary import read_vocabulary
from node.engine.dangers import list_files
from node.engine.documents import read_object
from node.engine.facts import MAX_VOCABULARY, dominant_dtype
from node.engine.repository import (
    choose_safetensors,
    declared_architecture,
    read_config,
    read_pooling,
    read_shards,
    read_template,
)
from node.engine.tokenizer import MAX_TOKENIZER
from p2p.errors import NoEngine, Unsupported


def convert(
    folder: Path, out: Path, asked: str, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Convert the model in ``folder`` to the file ``out``; return what was made.

    ``Unsupported`` for what is not known here, ``VerificationFailed`` for what contradicts itself,
    ``NoEngine`` where the packages for it are missing.
    """
    try:
        from node.engine.convert.output import write_model
    except ImportError as exc:
        raise NoEngine(
            f"To convert a model takes the package {exc.name}, and it is not installed.",
            next="pip install 'allod[serve]'",
        ) from exc
    paths = choose_safetensors(folder, list_files(folder))
    shards = read_shards(folder, paths)
    tensors = {tensor.name: tensor for shard in shards for tensor in shard.tensors}
    wanted = resolve_type(asked, dominant_dtype(tensors.values()))
    recipe = read_recipe(folder, set(tensors))
    check(recipe, tensors, UNUSED_BY_BERT if recipe.architecture == "bert" else UNUSED)
    written = write_model(out, recipe, shards, folder, wanted, progress)
    return {
        "file": out.name,
        "size": written.size,
        "blake3": written.blake3,
        "type": wanted,
        "converter": VERSION,
        "gguf": version("gguf"),
        "sources": list(paths),
    }


def read_recipe(folder: Path, names: set[str]) -> Recipe:
    """Say how the model in ``folder``, with tensors of these names, becomes GGUF."""
    said = read_config(folder)
    declared = declared_architecture(said)
    if declared not in CONVERTED:
        raise Unsupported(
            f"A model of the architecture {declared or '(none)'} is not converted.",
            next="serve.engine = transformers runs it, if that is installed.",
        )
    config = Settings(said)
    pooling = read_pooling(folder)
    if declared in FAMILIES:
        recipe = decoder_recipe(declared, config, names)
    else:
        recipe = bert_recipe(config, names)
        pooling = pooling or "mean"
    entries = [*recipe.entries, *_tokenizer(folder, said)]
    if pooling:
        entries.append(Entry("pooling_type", "u32", POOLINGS[pooling]))
    elif template := read_template(folder):
        entries.append(Entry("tokenizer.chat_template", "text", template))
    return Recipe(recipe.architecture, tuple(entries), recipe.moves, recipe.made, recipe.left_out)


def _tokenizer(folder: Path, config: dict[str, Any]) -> list[Entry]:
    document = read_object(folder / "tokenizer.json", MAX_TOKENIZER)
    if document is None:
        raise Unsupported("A model is converted with its tokenizer.json, and here is none.")
    settings = read_object(folder / "tokenizer_config.json") or {}
    generation = read_object(folder / "generation_config.json") or {}
    rows = Settings(config).number("vocab_size", MAX_VOCABULARY)
    specials = read_specials(document, settings, config, generation, rows)
    vocabulary = read_vocabulary(document, rows, specials)
    entries = [*vocabulary.entries(), *specials.entries()]
    if vocabulary.kind.model == "llama":
        # llama.cpp puts the space after every special token, too. ``first`` is for all of the text
        # alone: chat templates begin with a special token, so there it never comes.
        bare = vocabulary.kind.prefix == "first" and not read_template(folder)
        put = vocabulary.kind.prefix == "always" or bare
        entries.append(Entry("tokenizer.ggml.add_space_prefix", "bool", put))
    return entries
