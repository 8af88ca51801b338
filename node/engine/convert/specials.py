"""The tokens that are more than text: which begins, which ends, which is never shown.

They stand in up to five files, and transformers reads them in this order: ``tokenizer.json`` for
what is found in text and what is put around it, ``tokenizer_config.json`` for what each is for,
``generation_config.json`` and ``config.json`` for what ends an answer.
Pure: the files are read by the caller.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.engine.convert.recipe import Entry
from p2p.errors import Unsupported, VerificationFailed

MAX_ADDED: Final = 1 << 16
"""Tokens that are added to a vocabulary: some have 6,000 that are kept for later."""

_ROLES: Final = {
    "bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token",
    "seperator": "sep_token", "cls": "cls_token", "mask": "mask_token",
}  # fmt: skip
"""What GGUF calls a role (its spelling of separator is official) -> what transformers does."""
# Not said to be special, but never meant to be shown: what llama.cpp, too, takes for control.
_LOOKS_SPECIAL: Final = re.compile(
    r"<\|.*\|>|<｜.*｜>|<(pad|mask|bos|eos|s|/s|unk|2mass|\[@BOS@\])>|\[(PAD|CLS|SEP|MASK|UNK)\]",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Added:
    """A token that is found in text before the vocabulary is applied."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True, slots=True)
class Specials:
    """The numbers of the special tokens, and what is put around a text."""

    ids: Mapping[str, int]
    """Role, in GGUF's words -> the token's number."""
    begins: bool
    """Each text begins with ``bos`` (``cls`` for BERT)."""
    ends: bool
    """Each text ends with ``eos``."""

    def entries(self) -> list[Entry]:
        """Return the metadata; both flags are always said, since llama.cpp's own guess differs."""
        found = [
            Entry(f"tokenizer.ggml.{role}_token_id", "u32", id) for role, id in self.ids.items()
        ]
        return [
            *found,
            Entry("tokenizer.ggml.add_bos_token", "bool", self.begins),
            Entry("tokenizer.ggml.add_eos_token", "bool", self.ends),
        ]


def added_tokens(document: Mapping[str, Any], rows: int) -> Iterator[Added]:
    """Yield the tokens that are added to the vocabulary."""
    value = document.get("added_tokens") or []
    if not isinstance(value, list) or len(value) > MAX_ADDED:
        raise VerificationFailed(f"A tokenizer.json has a list of up to {MAX_ADDED} added tokens.")
    for one in value:
        match one:
            case {"id": int(number), "content": str(text)} if 0 <= number < rows and text:
                special = one.get("special") is True
                trims = one.get("lstrip") is True or one.get("rstrip") is True
                if one.get("single_word") is True or (trims and "mask" not in text.lower()):
                    raise Unsupported(
                        f"The token {text!r:.40} takes spaces with it: GGUF has no such."
                    )
                yield Added(number, text, special or _LOOKS_SPECIAL.fullmatch(text) is not None)
            case _:
                raise VerificationFailed(
                    f"An added token has a number below {rows} and a text, not so {one!r:.80}."
                )


def read_specials(
    document: Mapping[str, Any],
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    rows: int,
) -> Specials:
    """Put together which tokens are special. ``settings`` is ``tokenizer_config.json``."""
    numbers = _numbers(document, rows)
    ids: dict[str, int] = {}
    for role, name in _ROLES.items():
        text = _content(settings.get(name))
        number = numbers.get(text) if text else None
        if number is None and role in ("bos", "eos"):
            number = _one_of(config.get(f"{role}_token_id"), rows)
        if number is not None:
            ids[role] = number
    for number in (*_all_of(generation.get("eos_token_id"), rows), *_ends(config, rows)):
        ids.setdefault("eos", number)
        if number != ids["eos"]:
            ids.setdefault("eot", number)  # another one that ends an answer
    if "cls" in ids:
        ids.setdefault("bos", ids["cls"])  # by that name llama.cpp looks for it
    before, after = _around(document, numbers)
    begins = _is_put("add_bos_token", settings, before, ids.get("bos"))
    if after == [ids.get("seperator")]:
        after = []  # llama.cpp's BERT puts it by itself
    elif after:
        ids["eos"] = after[0]  # Qwen3's embeddings end with another token than its answers
    ends = _is_put("add_eos_token", settings, after, ids.get("eos"))
    return Specials(ids, begins and "bos" in ids, ends and "eos" in ids)


def _ends(config: Mapping[str, Any], rows: int) -> list[int]:
    return _all_of(config.get("eos_token_id"), rows)


def _is_put(flag: str, settings: Mapping[str, Any], around: list[int], usual: int | None) -> bool:
    said = settings.get(flag)
    if said is False:
        return False
    if around and around[0] != usual:
        raise Unsupported("This model puts a token around texts that is not said to be for that.")
    return said is True or bool(around)


def _numbers(document: Mapping[str, Any], rows: int) -> dict[str, int]:
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    found = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    found |= {one.text: one.id for one in added_tokens(document, rows)}
    return {text: id for text, id in found.items() if type(id) is int and 0 <= id < rows}


def _content(value: Any) -> str:
    """Return a token's text: written as such, or as an object with its ``content``."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _one_of(value: Any, rows: int) -> int | None:
    return next(iter(_all_of(value, rows)), None)


def _all_of(value: Any, rows: int) -> list[int]:
    values = value[:64] if isinstance(value, list) else [value]
    return [one for one in values if type(one) is int and 0 <= one < rows]


def _around(document: Mapping[str, Any], numbers: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Return the tokens that are put before a text and after it: at most one each."""
    steps = document.get("post_processor")
    if isinstance(steps, Mapping) and steps.get("type") == "Sequence":
        steps = steps.get("processors")
    before: list[int] = []
    after: list[int] = []
    for step in steps if isinstance(steps, list) else [steps]:
        if step is None or (isinstance(step, Mapping) and step.get("type") == "ByteLevel"):
            continue
        if not isinstance(step, Mapping) or step.get("type") != "TemplateProcessing":
            found = _bert(step)
        else:
            found = _template(step)
        names_before, names_after = found
        before += [numbers[name] for name in names_before if name in numbers]
        after += [numbers[name] for name in names_after if name in numbers]
        if len(before) != len(names_before) or len(after) != len(names_after):
            raise VerificationFailed(
                "tokenizer.json puts a token around texts that it doesn't have."
            )
    if len(before) > 1 or len(after) > 1:
        raise Unsupported("This model puts several tokens around a text: GGUF has a place for one.")
    return before, after


def _template(step: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Read ``<s> A </s>``."""
    before: list[str] = []
    after: list[str] = []
    seen = False
    single = step.get("single")
    for one in single if isinstance(single, list) else []:
        match one:
            case {"SpecialToken": {"id": str(name)}}:
                (after if seen else before).append(name)
            case {"Sequence": {"id": "A"}} if not seen:
                seen = True
            case _:
                raise Unsupported("tokenizer.json puts around texts what is not known here.")
    if not seen:
        raise VerificationFailed("tokenizer.json says what is put around a text, and has no text.")
    return before, after


def _bert(step: Any) -> tuple[list[str], list[str]]:
    """Read BERT's own way to say ``[CLS] A [SEP]``."""
    match step:
        case {"type": "BertProcessing", "sep": [str(sep), int()], "cls": [str(cls), int()]}:
            return [cls], [sep]
    raise Unsupported("tokenizer.json puts around texts what is not known here.")
