"""Which tokenizer a tokenizer.json is: exactly those that llama.cpp has, and none that is near."""

import json
from typing import Any

import pytest

from node.engine.tokenizer import MAX_PARTS, MAX_SETTING, MAX_SETTINGS, Tokenizer, recognise, sketch
from p2p.errors import VerificationFailed
from tests import models
from tests.node.engine.tiny import LLAMA3_CUT, QWEN2_CUT, byte_tokenizer

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
DIGITS = {"type": "Digits", "individual_digits": True}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


def over_bytes(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    document = byte_tokenizer(steps=list(steps))
    document["model"] |= more
    return document


def sentencepiece(normalizer: Any, pre_tokenizer: Any = None) -> dict[str, Any]:
    model = {"type": "BPE", "byte_fallback": True, "vocab": {}, "merges": []}
    return {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model}


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def meta(scheme: str, **more: Any) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, **more}


def wordpiece(**more: Any) -> dict[str, Any]:
    model = {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": {}}
    pre = {"type": "BertPreTokenizer"}
    return {"normalizer": {**BERT, **more}, "pre_tokenizer": pre, "model": model}


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (byte_tokenizer(cut=LLAMA3_CUT, whole=True), Tokenizer("gpt2", "llama-bpe")),
        (byte_tokenizer(cut=LLAMA3_CUT), Tokenizer("gpt2", "dbrx")),
        (byte_tokenizer(cut=QWEN2_CUT), Tokenizer("gpt2", "qwen2")),
        (
            byte_tokenizer(cut=QWEN2_CUT) | {"normalizer": {"type": "NFC"}},
            Tokenizer("gpt2", "qwen2"),
        ),
        (over_bytes(BYTES), Tokenizer("gpt2", "gpt-2")),
        (over_bytes(BYTES) | {"pre_tokenizer": BYTES}, Tokenizer("gpt2", "gpt-2")),
        (over_bytes(DIGITS, {**BYTES, "use_regex": True}), Tokenizer("gpt2", "smollm")),
        (sentencepiece(sequence(PREPEND, SPACES)), Tokenizer("llama", "default", "always")),
        (sentencepiece(SPACES), Tokenizer("llama", "default", "never")),
        (sentencepiece(None, meta("first", split=False)), Tokenizer("llama", "default", "first")),
        (wordpiece(), Tokenizer("bert", "default")),
    ],
)
def test_known_tokenizers_are_recognised(document: dict[str, Any], found: Tokenizer) -> None:
    """Settings that llama.cpp has a function for get its name, in the file and in its sketch."""
    assert recognise(document) == found
    assert recognise(sketch(json.dumps(document, indent=2).encode())) == found


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"model": []},
        {"model": {"type": "Unigram"}},
        byte_tokenizer(cut=LLAMA3_CUT + "|x"),
        byte_tokenizer(cut=QWEN2_CUT, whole=True),
        byte_tokenizer(cut=QWEN2_CUT) | {"normalizer": {"type": "NFKC"}},
        byte_tokenizer(cut=QWEN2_CUT) | {"normalizer": "NFC"},
        over_bytes(BYTES, dropout=0.1),
        over_bytes(BYTES, end_of_word_suffix="</w>"),
        over_bytes(BYTES, continuing_subword_prefix="##"),
        over_bytes(BYTES, ignore_merges=True),
        over_bytes({**BYTES, "add_prefix_space": True}),
        over_bytes({**BYTES, "use_regex": False}),
        over_bytes({**DIGITS, "individual_digits": False}, BYTES),
        over_bytes({"type": "Whitespace"}, BYTES),
        over_bytes(
            {"type": "Split", "pattern": {"Regex": QWEN2_CUT}}, {**BYTES, "use_regex": False}
        ),
        sentencepiece(None),
        sentencepiece(sequence(SPACES, PREPEND)),
        sentencepiece(SPACES, meta("first", split=False)),
        sentencepiece(None, meta("first", split=True)),
        sentencepiece(None, meta("often", split=False)),
        wordpiece(lowercase=False),
        wordpiece(strip_accents=False),
        wordpiece(clean_text=False),
    ],
)
def test_others_are_not_guessed(document: dict[str, Any]) -> None:
    """What differs in one setting is not taken for what it resembles."""
    assert recognise(document) is None


@pytest.mark.parametrize(
    ("folder", "name"), [(models.smollm2_safetensors, "smollm"), (models.minilm, "wordpiece")]
)
def test_real_tokenizers_are_recognised(folder: Any, name: str) -> None:
    """Files that are in use are told by their sketch, vocabulary unread."""
    data = (folder() / "tokenizer.json").read_bytes()
    found = sketch(data)
    assert "vocab" not in found["model"]
    known = recognise(found)
    assert known is not None
    assert known.name == name
    assert known == recognise(json.loads(data))


def test_a_sketch_keeps_settings_alone() -> None:
    """Whatever has a size of its own is stepped over, brackets in texts too."""
    text = r""" {"a": [1, "]", {"b": "\\"}], "model" : {"vocab": {"}": 1, "\"": 2},
        "merges": [["a","b"]], "type":"BPE","byte_fallback":true, "x": null, "n": -1.5e3},
        "normalizer": {"type": "NFC"} , "e": {}}"""
    assert sketch(text.encode()) == {
        "model": {"type": "BPE", "byte_fallback": True, "x": None, "n": -1500.0},
        "normalizer": {"type": "NFC"},
    }
    assert sketch(b"{}") == {}
    assert sketch(b'{"model": {}}') == {"model": {}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"a"}',
        b'{"a": }',
        b'{"a": 1',
        b'{"a": [1}',
        b'{"a": "x',
        b'{"a": 1 "b": 2}',
        b'{"normalizer": tru}',
        b'{"normalizer": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"normalizer": "' + b"x" * MAX_SETTING + b'"}',
        b'{"normalizer": [' + b"1," * 10 + b"]}",
        b"{" + b",".join(b'"%d": 1' % n for n in range(MAX_SETTINGS + 1)) + b"}",
        b'{"x": [' + b'"",' * (MAX_PARTS + 1) + b'""]}',
        b'{"model": ' * 3 + b"1" + b"}" * 2,
    ],
)
def test_what_is_no_json_ends_in_an_error(data: bytes) -> None:
    """A file that breaks off, or is made to be large where settings are small, is refused."""
    with pytest.raises(VerificationFailed, match=r"tokenizer\.json"):
        sketch(data)
