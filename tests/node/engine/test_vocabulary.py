"""Vocabularies in GGUF make the tokens that they made before, or are not made."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.engine.convert.conversion import convert
from node.engine.convert.specials import Specials, read_specials
from node.engine.convert.vocabulary import (
    BYTE,
    CONTROL,
    MAX_MERGES,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_vocabulary,
)
from p2p.errors import AllodError, Unsupported, VerificationFailed
from tests.node.engine.llama import open_llama
from tests.node.engine.tiny import (
    LLAMA3_CUT,
    QWEN2_CUT,
    ROWS,
    byte_letters,
    byte_tokenizer,
    make_tiny,
)

NONE = Specials({}, False, False)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


# -- asked of llama.cpp


def ask(folder: Path, document: dict[str, Any], texts: list[str], **settings: Any) -> list[Any]:
    """Return the tokens that llama.cpp makes with a tokenizer that was converted."""
    make_tiny(folder, "LlamaForCausalLM", num_hidden_layers=1, vocab_size=600)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(folder, folder / "out.gguf", "f16", lambda done, total: None)
    with open_llama(folder / "out.gguf", folder) as llama:
        return [llama.tokenize(text, special="special" in settings) for text in texts]


def telling(**how: Any) -> dict[str, Any]:
    """A vocabulary over bytes whose merges show where text was cut."""
    pairs = ["1 2", "12 3", "123 4", "' s", "' S", "Ġ Ġ", "Ċ Ċ", "Ġ a", ". Ċ", "! a", "x 1", "Ġ !"]
    document = byte_tokenizer(**how)
    vocabulary = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocabulary |= {pair.replace(" ", ""): 270 + number for number, pair in enumerate(pairs)}
    document["model"] |= {"vocab": vocabulary | {"zq": 290}, "merges": pairs}
    return document


CUT_TEXTS = ["12341234", "x's x'S", "a   a", "a\n\n\n\nb .\n\na", "!a !a", "x12", "zq", "<think>"]


@pytest.mark.parametrize(
    ("how", "tokens"),
    [
        (
            {"cut": LLAMA3_CUT, "whole": True},
            [[271, 52, 270, 51, 52], [120, 273, 32, 120, 274], [97, 275, 277],
             [97, 276, 276, 98, 32, 46, 276, 97], [279, 281, 97], [120, 270], [290], [262]],
        ),
        (
            {"cut": LLAMA3_CUT},
            [[271, 52, 270, 51, 52], [120, 273, 32, 120, 274], [97, 275, 277],
             [97, 276, 276, 98, 32, 46, 276, 97], [279, 281, 97], [120, 270], [122, 113], [262]],
        ),
        (
            {"cut": QWEN2_CUT},
            [[49, 50, 51, 52, 49, 50, 51, 52], [120, 273, 32, 120, 274], [97, 275, 277],
             [97, 276, 276, 98, 32, 46, 276, 97], [279, 281, 97], [120, 49, 50], [122, 113],
             [262]],
        ),
        (
            {"steps": [BYTES]},
            [[272, 272], [120, 273, 32, 120, 39, 83], [97, 275, 277],
             [97, 276, 10, 10, 98, 32, 46, 10, 10, 97], [33, 97, 281, 97], [120, 270], [122, 113],
             [262]],
        ),
        (
            {"steps": [DIGITS, BYTES]},
            [[49, 50, 51, 52, 49, 50, 51, 52], [120, 273, 32, 120, 39, 83], [97, 275, 277],
             [97, 276, 10, 10, 98, 32, 46, 10, 10, 97], [33, 97, 281, 97], [120, 49, 50],
             [122, 113], [262]],
        ),
    ],
    ids=["llama-bpe", "dbrx", "qwen2", "gpt-2", "smollm"],
)  # fmt: skip
def test_text_is_cut_as_it_was(
    tmp_path: Path, how: dict[str, Any], tokens: list[list[int]]
) -> None:
    """Each way to cut gives the tokens that Hugging Face's tokenizers 0.23 gave for these texts."""
    assert ask(tmp_path, telling(**how), CUT_TEXTS) == tokens


def pieces(*words: str) -> dict[str, Any]:
    """A SentencePiece vocabulary of these words and all that they are made of, by halves."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    found: list[str] = []
    for word in words:
        found += [word[:size] for size in range(2, len(word) + 1) if word[:size] not in found]
    letters = sorted(set("▁".join(words)) | {"▁"})
    for piece in (*found, *letters):
        vocabulary[piece] = len(vocabulary)
    merges = [
        f"{piece[:cut]} {piece[cut:]}"
        for piece in found
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, spaces]
    return {
        "added_tokens": [
            {"id": id, "content": text, **special}
            for id, text in ((0, "<unk>"), (1, "<s>"), (2, "</s>"))
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
        },
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": merges},
    }


def merged(document: dict[str, Any], text: str) -> list[int]:
    """Apply merges as Hugging Face's tokenizers do: the earliest in the list first."""
    vocabulary = document["model"]["vocab"]
    ranks = {tuple(one.split(" ")): rank for rank, one in enumerate(document["model"]["merges"])}
    parts = list(("▁" + text).replace(" ", "▁"))
    while True:
        pairs = [(ranks.get(pair, 1 << 30), at) for at, pair in enumerate(zip(parts, parts[1:]))]  # noqa: B905, RUF007
        rank, at = min(pairs, default=(1 << 30, 0))
        if rank == 1 << 30:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    found = []
    for part in parts:
        each = [f"<0x{byte:02X}>" for byte in part.encode()]
        found += [vocabulary[one] for one in ([part] if part in vocabulary else each)]
    return found


def test_sentencepiece_merges_as_it_did(tmp_path: Path) -> None:
    """Scores made of merges give the tokens of the merges, of any text."""
    document = pieces("▁the", "▁th", "ther", "here", "▁▁", "▁▁▁▁", "eer", "erer", "hth")
    noise = np.random.default_rng(7)
    texts = ["the here there", "", "  the    x", "é\n日", "ththererhere"]
    texts += ["".join(noise.choice(list("ther  é"), 40)) for _ in range(40)]
    found = ask(tmp_path, document, texts, unk_token="<unk>", bos_token="<s>", special=True)
    for text, tokens in zip(texts, found, strict=True):
        assert tokens == [1, *(merged(document, text) if text else [])], text


def test_a_space_comes_only_where_it_did(tmp_path: Path) -> None:
    """A prefix for a text's beginning alone is left out where a chat template begins texts."""
    document = pieces("▁the")
    document["normalizer"] = None
    document["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    the = document["model"]["vocab"]["▁the"]
    names = {"unk_token": "<unk>", "bos_token": "<s>"}
    bare = ask(tmp_path / "a", document, ["the"], **names)
    chat = ask(tmp_path / "b", document, ["</s> the"], **names, chat_template="x")
    assert (bare, chat) == ([[the]], [[2, the]])


# -- what is made of it


def test_tokens_keep_their_places_and_kinds() -> None:
    """Every row of the embedding is a token: normal, special, shown or of no use."""
    found = read_vocabulary(byte_tokenizer(cut=QWEN2_CUT), ROWS, NONE)
    assert len(found.tokens) == len(set(found.tokens)) == ROWS
    assert (found.tokens[104], found.tokens[259], found.types[259]) == ("h", "hell", NORMAL)
    assert (found.tokens[260], found.types[260]) == ("<s>", CONTROL)
    assert (found.tokens[261], found.types[261]) == ("<|end|>", CONTROL)
    assert (found.tokens[262], found.types[262]) == ("<think>", USER_DEFINED)
    assert (found.tokens[263], found.types[263]) == ("[PAD263]", UNUSED)
    assert found.merges == ("h e", "l l", "Ġ t", "he ll")


def test_newer_files_write_merges_as_pairs() -> None:
    """Merges as pairs and as texts are the same."""
    old = byte_tokenizer(cut=QWEN2_CUT)
    new = copy.deepcopy(old)
    new["model"]["merges"] = [one.split(" ") for one in old["model"]["merges"]]
    assert read_vocabulary(old, ROWS, NONE) == read_vocabulary(new, ROWS, NONE)


def test_sentencepiece_has_scores_and_bytes() -> None:
    """The earlier a merge, the higher its token's score; bytes and the unknown are marked."""
    document = pieces("▁the", "here")
    vocabulary = document["model"]["vocab"]
    found = read_vocabulary(document, 300, Specials({"unknown": 0}, True, False))
    assert found.types[:4] == (UNKNOWN, CONTROL, CONTROL, BYTE)
    scores = [found.scores[vocabulary[one]] for one in ("▁t", "▁th", "▁the", "he", "here", "t")]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert not found.merges


def test_wordpiece_marks_beginnings() -> None:
    """A word's beginning gets the mark that its continuations lose."""
    document = {
        "added_tokens": [{"id": 0, "content": "[PAD]", "special": True}],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "continuing_subword_prefix": "##",
            "vocab": {"[PAD]": 0, "un": 1, "##do": 2, "do": 3},
        },
    }
    found = read_vocabulary(document, 4, NONE)
    assert found.tokens == ("[PAD]", "▁un", "do", "▁do")
    document["model"]["vocab"] = {"[PAD]": 0, "##▁a": 1, "a": 2}  # type: ignore[index]
    with pytest.raises(Unsupported, match="Two tokens"):
        read_vocabulary(document, 4, NONE)


# -- the special ones


def template(*names: str) -> dict[str, Any]:
    parts = [
        {"Sequence": {"id": "A"}} if name == "A" else {"SpecialToken": {"id": name}}
        for name in names
    ]
    return {"type": "TemplateProcessing", "single": parts}


def specials(
    post: Any = None, generation: Any = None, config: Any = None, **settings: Any
) -> Specials:
    document = byte_tokenizer(cut=QWEN2_CUT) | {"post_processor": post}
    return read_specials(document, settings, config or {}, generation or {}, ROWS)


def test_what_each_token_is_for() -> None:
    """Roles come from the tokenizer's settings, as text or object, else from the model's."""
    found = specials(bos_token="<s>", eos_token={"content": "<|end|>"}, pad_token="nowhere")
    assert found.ids == {"bos": 260, "eos": 261}
    assert specials(config={"bos_token_id": 260, "eos_token_id": [261, 262]}).ids == {
        "bos": 260,
        "eos": 261,
        "eot": 262,
    }
    assert specials(eos_token="<s>", generation={"eos_token_id": [260, 262, 261]}).ids == {
        "eos": 260,
        "eot": 262,
    }
    assert specials(config={"eos_token_id": ROWS, "bos_token_id": True}).ids == {}


def test_what_is_put_around_a_text() -> None:
    """A flag says it, else the template; and never without a token for it."""
    both = {"bos_token": "<s>", "eos_token": "<|end|>"}
    for post, flags, begins, ends in [
        (None, {}, False, False),
        (template("<s>", "A"), {}, True, False),
        (template("A", "<|end|>"), {}, False, True),
        ({"type": "Sequence", "processors": [BYTES, template("<s>", "A")]}, {}, True, False),
        (template("<s>", "A"), {"add_bos_token": False}, False, False),
        (None, {"add_bos_token": True, "add_eos_token": True}, True, True),
    ]:
        found = specials(post, **both, **flags)
        assert (found.begins, found.ends) == (begins, ends), post
    assert not specials(add_bos_token=True).begins
    entries = {one.key: one.value for one in specials(**both).entries()}
    assert entries["tokenizer.ggml.add_bos_token"] is False
    assert entries["tokenizer.ggml.bos_token_id"] == 260


def test_a_text_may_end_with_another_token() -> None:
    """What the template puts behind texts is what ends them, whatever ends an answer."""
    found = specials(template("A", "<|end|>"), eos_token="<s>")
    assert (found.ids["eos"], found.ends) == (261, True)


def test_bert_puts_its_own_two_around() -> None:
    """cls begins a text, by the name that llama.cpp looks for; sep comes by itself."""
    post = {"type": "BertProcessing", "sep": ["<|end|>", 261], "cls": ["<s>", 260]}
    found = specials(post, cls_token="<s>", sep_token="<|end|>")
    assert found == Specials({"cls": 260, "seperator": 261, "bos": 260}, True, False)


@pytest.mark.parametrize(
    ("post", "kind"),
    [
        (template("<s>", "<s>", "A"), Unsupported),
        (template("<|end|>", "A"), Unsupported),
        (template("<s>"), VerificationFailed),
        (template("nowhere", "A"), VerificationFailed),
        (template("A", "A"), Unsupported),
        ({"type": "RobertaProcessing"}, Unsupported),
        ("x", Unsupported),
    ],
)
def test_what_is_put_around_is_not_guessed(post: Any, kind: type[AllodError]) -> None:
    """A template that GGUF has no place for is not left out."""
    with pytest.raises(kind):
        specials(post, bos_token="<s>")


# -- what is refused


def change(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["model"].update(more)


def add(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["added_tokens"].append(more)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (change(type="Unigram"), Unsupported),
        (change(vocab=[]), VerificationFailed),
        (change(vocab={}), VerificationFailed),
        (change(vocab={"a": 0, "b": 0}), VerificationFailed),
        (change(vocab={"a": ROWS}), VerificationFailed),
        (change(vocab={"a": -1}), VerificationFailed),
        (change(vocab={"a": True}), VerificationFailed),
        (change(vocab={"": 1}), VerificationFailed),
        (change(merges=None), VerificationFailed),
        (change(merges=["a b c"]), VerificationFailed),
        (change(merges=["h x"]), VerificationFailed),
        (change(merges=[["h"]]), VerificationFailed),
        (change(merges=[7]), VerificationFailed),
        (change(merges=["h e"] * (MAX_MERGES + 1)), VerificationFailed),
        (add(id=ROWS, content="x"), VerificationFailed),
        (add(id=1, content=""), VerificationFailed),
        (add(id="1", content="x"), VerificationFailed),
        (add(id=270, content="<x>", rstrip=True), Unsupported),
        (add(id=270, content="<x>", single_word=True), Unsupported),
        (add(id=270, content="h"), Unsupported),
        (lambda document: document.update(added_tokens=7), VerificationFailed),
    ],
)
def test_what_contradicts_itself_is_refused(
    harm: Callable[[dict[str, Any]], None], kind: type[AllodError]
) -> None:
    """Numbers twice or beyond the embedding, merges of nothing, lists without end: one error."""
    document = byte_tokenizer(cut=QWEN2_CUT)
    harm(document)
    with pytest.raises(kind):
        read_vocabulary(document, ROWS, NONE)


@pytest.mark.parametrize(
    "harm",
    [
        lambda model: model["merges"].reverse(),  # one token's merges are no longer together
        lambda model: model["merges"].pop(0),  # llama.cpp would make a token that it never made
        lambda model: model["vocab"].pop("<0x00>"),
    ],
)
def test_merges_that_scores_cannot_say(harm: Callable[[dict[str, Any]], None]) -> None:
    """A vocabulary that SentencePiece would not have made is not made into one of its kind."""
    document = pieces("▁the", "abab")
    document["model"]["merges"] += ["a bab", "▁ the"]
    document["model"]["vocab"] |= {"bab": 290, "the": 291}
    harm(document["model"])
    with pytest.raises(Unsupported):
        read_vocabulary(document, 300, Specials({"unknown": 0}, True, False))


def test_tokens_that_are_no_text(tmp_path: Path) -> None:
    """Half of a surrogate pair is JSON, but nothing that a file can hold."""
    document = byte_tokenizer(cut=LLAMA3_CUT)
    document["model"]["vocab"]["\ud800"] = 270
    with pytest.raises(VerificationFailed, match="is no text"):
        ask(tmp_path, document, [])
