"""Which of llama.cpp's tokenizers a ``tokenizer.json`` is, told by its settings alone.

llama.cpp has one function for every way in which text is cut before a vocabulary is applied, and
a name for each. A name that is nearly right gives answers that are nearly right, so one is given
only where the settings are exactly those that the function was written for, and none else.

``sketch`` finds the settings in the file without parsing its vocabulary: 30 MB of JSON would be
some hundred MB of objects, in a node that only wants to know whether it can convert.
Format: huggingface.co/docs/tokenizers; llama.cpp: src/llama-vocab.cpp.
Pure: reads nothing itself.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from p2p.errors import VerificationFailed

MAX_TOKENIZER: Final = 64 << 20
"""Bytes of a ``tokenizer.json``: the largest known has 34 MB, for 260,000 tokens."""
MAX_SETTING: Final = 64 << 10
"""Bytes of one setting in it that is parsed here: expressions of some hundred characters."""
MAX_SETTINGS: Final = 64
"""Members of the object, and of its ``model``: both have about ten."""
MAX_PARTS: Final = 4_000_000
"""Texts and brackets that are stepped over in one value: the merges of the largest vocabulary,
written as pairs, have 2,100,000. That takes two seconds."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer as GGUF names it."""

    model: Literal["gpt2", "llama", "bert"]
    """gpt2: bytes, then merges. llama: SentencePiece's. bert: WordPiece."""
    pre: str
    """How text is cut first, in llama.cpp's words; ``default`` where there is nothing to cut."""
    prefix: Literal["never", "first", "always"] = "never"
    """Whether a space is put before text: before all of it, or after each special token, too."""

    @property
    def name(self) -> str:
        """One word for it: smollm, qwen2, spm, wordpiece."""
        return {"llama": "spm", "bert": "wordpiece"}.get(self.model, self.pre)


_GPT4: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The expression that cuts, and whether a word that is a token is taken whole -> llama.cpp's name.
_CUTS: Final = {
    (_GPT4 % r"\p{N}{1,3}", True): "llama-bpe",
    (_GPT4 % r"\p{N}{1,3}", False): "dbrx",
    (_GPT4 % r"\p{N}", False): "qwen2",
}


def recognise(document: Mapping[str, Any]) -> Tokenizer | None:
    """Return what a ``tokenizer.json``, or a sketch of one, is; None if it is not recognised."""
    model = document.get("model")
    if not isinstance(model, Mapping):
        return None
    if model.get("type") == "WordPiece":
        return _wordpiece(document, model)
    if model.get("type") != "BPE" or model.get("dropout") or model.get("end_of_word_suffix"):
        return None
    if model.get("continuing_subword_prefix"):
        return None
    if model.get("byte_fallback") is True:
        return _sentencepiece(document)
    return _bytes(document, whole=model.get("ignore_merges") is True)


def _bytes(document: Mapping[str, Any], *, whole: bool) -> Tokenizer | None:
    """A vocabulary over bytes: GPT-2's and its descendants'."""
    normalizers = _steps(document.get("normalizer"), "normalizers")
    # llama.cpp normalises nothing; NFC changes next to no text, and its Qwen2 leaves it out, too.
    if normalizers is None or any(one.get("type") != "NFC" for one in normalizers):
        return None
    steps = _steps(document.get("pre_tokenizer"), "pretokenizers")
    if not steps or steps[-1].get("type") != "ByteLevel":
        return None
    if steps[-1].get("add_prefix_space", True) is not False:
        return None
    cuts_itself = steps[-1].get("use_regex", True)
    match steps[:-1]:
        case [] if cuts_itself is True and not whole:
            return Tokenizer("gpt2", "gpt-2")
        case [{"type": "Digits", "individual_digits": True}] if cuts_itself is True and not whole:
            return Tokenizer("gpt2", "smollm")
        case [{"type": "Split"} as split] if cuts_itself is False:
            name = _CUTS.get((_expression(split), whole))
            return Tokenizer("gpt2", name) if name else None
        case _:
            return None


def _expression(split: Mapping[str, Any]) -> str:
    """Return what a Split cuts into; its expressions match all text, so that nothing is lost."""
    how = (split.get("behavior"), split.get("invert"))
    pattern = split.get("pattern")
    if how not in (("Isolated", False), ("Removed", True)) or not isinstance(pattern, Mapping):
        return ""
    expression = pattern.get("Regex")
    return expression if isinstance(expression, str) else ""


def _sentencepiece(document: Mapping[str, Any]) -> Tokenizer | None:
    """SentencePiece's merges over characters, with bytes for those that are no token."""
    normalizers = _steps(document.get("normalizer"), "normalizers")
    steps = _steps(document.get("pre_tokenizer"), "pretokenizers")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    match normalizers, steps:
        case [[{"type": "Prepend", "prepend": "▁"}, one], []] if one == spaces:
            return Tokenizer("llama", "default", "always")
        case [[one], []] if one == spaces:
            return Tokenizer("llama", "default", "never")
        case [[], [{"type": "Metaspace", "replacement": "▁"} as meta]]:
            if meta.get("split", True) is not False:
                return None
            usual = "always" if meta.get("add_prefix_space", True) else "never"
            prefix = meta.get("prepend_scheme", usual)
            if prefix in ("never", "first", "always"):
                return Tokenizer("llama", "default", prefix)
    return None


def _wordpiece(document: Mapping[str, Any], model: Mapping[str, Any]) -> Tokenizer | None:
    """BERT's, in lower case and without accents: older versions of llama.cpp know no other."""
    match document.get("normalizer"), document.get("pre_tokenizer"):
        case {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "lowercase": True,
            "strip_accents": None | True,
        }, {"type": "BertPreTokenizer"}:
            if model.get("continuing_subword_prefix") == "##":
                return Tokenizer("bert", "default")
    return None


def _steps(value: Any, members: str) -> list[Mapping[str, Any]] | None:
    """Return the steps of a Sequence, or the one that there is; None if it is none of these."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return None
    steps = value.get(members) if value.get("type") == "Sequence" else [value]
    if not isinstance(steps, list) or not all(isinstance(one, Mapping) for one in steps):
        return None
    return steps


# -- finding the settings in the file

_TEXT: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_KEY: Final = re.compile(rb"[ \t\r\n]*(" + _TEXT + rb")[ \t\r\n]*:[ \t\r\n]*", re.DOTALL)
_PLAIN: Final = re.compile(_TEXT + rb"|[-+.0-9a-zA-Z]{1,64}", re.DOTALL)
_BRACKET: Final = re.compile(_TEXT + rb"|[\[\]{}]", re.DOTALL)
_NEXT: Final = re.compile(rb"[ \t\r\n]*([,}])")
_EMPTY: Final = re.compile(rb"\{[ \t\r\n]*\}")
_OPEN: Final = re.compile(rb"[ \t\r\n]*(?=\{)")
_WANTED: Final = frozenset({b'"normalizer"', b'"pre_tokenizer"', b'"post_processor"'})


def sketch(data: bytes) -> dict[str, Any]:
    """Return the settings of a ``tokenizer.json`` without its vocabulary and merges.

    ``VerificationFailed`` if it is no JSON object. Its members are walked, not checked: what is
    made of the file in the end parses it as a whole.
    """
    start = _OPEN.match(data)
    if start is None:
        raise _broken(0)
    found: dict[str, Any] = {}
    _walk(data, start.end(), found, inside_model=False)
    return found


def _walk(data: bytes, at: int, found: dict[str, Any], *, inside_model: bool) -> int:
    """Step over an object, keeping the members that are settings; return where it ends."""
    empty = _EMPTY.match(data, at)
    if empty is not None:
        return empty.end()
    at += 1
    for _ in range(MAX_SETTINGS):
        key = _KEY.match(data, at)
        if key is None:
            raise _broken(at)
        start = key.end()
        if key[1] == b'"model"' and data[start : start + 1] == b"{" and not inside_model:
            model: dict[str, Any] = {}
            at = _walk(data, start, model, inside_model=True)
            found["model"] = model
        else:
            at = _skip(data, start)
            if key[1] in _WANTED or (inside_model and data[start : start + 1] not in b"{["):
                found[_parse(key[1], start)] = _parse(data[start:at], start)
        more = _NEXT.match(data, at)
        if more is None:
            raise _broken(at)
        at = more.end()
        if more[1] == b"}":
            return at
    raise VerificationFailed(f"tokenizer.json has more than {MAX_SETTINGS} settings.")


def _skip(data: bytes, at: int) -> int:
    """Step over a value of any size; return where it ends."""
    if data[at : at + 1] not in (b"{", b"["):
        plain = _PLAIN.match(data, at)
        if plain is None:
            raise _broken(at)
        return plain.end()
    depth = 0
    for found in islice(_BRACKET.finditer(data, at), MAX_PARTS):
        sign = found[0]
        if sign in (b"{", b"["):
            depth += 1
        elif sign in (b"}", b"]"):
            depth -= 1
            if not depth:
                return found.end()
    raise VerificationFailed(
        f"tokenizer.json has a value from byte {at:,} that doesn't end, or has over {MAX_PARTS:,} "
        "parts: more than any vocabulary."
    )


def _parse(text: bytes, at: int) -> Any:
    if len(text) > MAX_SETTING:
        raise VerificationFailed(f"A setting in tokenizer.json has more than {MAX_SETTING} bytes.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _broken(at) from exc


def _broken(at: int) -> VerificationFailed:
    return VerificationFailed(f"tokenizer.json is no JSON object: it breaks off at byte {at:,}.")
