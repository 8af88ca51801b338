"""``tokenizer.json`` as GGUF has it: tokens in their order, their types, merges or scores.

llama.cpp's three kinds of vocabulary each differ from the original in one point:

- over bytes: nothing; the merges are kept as they are;
- SentencePiece's: it has no merges, but a score for each token, and joins whatever makes the token
  of the highest. That is the same as the merges exactly if they stand in the order of the tokens
  that they make, and if whatever could make a token may; which is checked, for every token;
- WordPiece's: a word begins with a mark, instead of its continuations.

Pure. Format: huggingface.co/docs/tokenizers; gguf: docs/gguf.md, "Tokenizer".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.engine.convert.recipe import Entry
from node.engine.convert.specials import Specials, added_tokens
from node.engine.tokenizer import Tokenizer, recognise
from p2p.errors import Unsupported, VerificationFailed

MAX_TOKENS: Final = 1 << 19
"""Tokens of a vocabulary: the largest known has 262,208."""
MAX_MERGES: Final = 1 << 20
"""Merges: the largest known vocabulary has 514,906."""

NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5
BYTE: Final = 6
"""llama.h's llama_token_type. Control tokens are not shown in answers, those that users define
are; both are found in text before anything else."""

_WORD_START: Final = "▁"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What stands under ``tokenizer.ggml``, but for the special tokens."""

    kind: Tokenizer
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()

    def entries(self) -> list[Entry]:
        """Return the metadata."""
        found = [
            Entry("tokenizer.ggml.model", "text", self.kind.model),
            Entry("tokenizer.ggml.pre", "text", self.kind.pre),
            Entry("tokenizer.ggml.tokens", "texts", self.tokens),
            Entry("tokenizer.ggml.token_type", "i32s", self.types),
        ]
        if self.merges:
            found.append(Entry("tokenizer.ggml.merges", "texts", self.merges))
        if self.scores:
            found.append(Entry("tokenizer.ggml.scores", "f32s", self.scores))
        return found


def read_vocabulary(document: Mapping[str, Any], rows: int, specials: Specials) -> Vocabulary:
    """Make a vocabulary of ``rows`` tokens, as many as the embedding has rows.

    ``Unsupported`` for a tokenizer that llama.cpp has no function for, ``VerificationFailed`` for
    one that contradicts itself.
    """
    kind = recognise(document)
    model = document.get("model")
    if kind is None or not isinstance(model, Mapping):
        raise Unsupported(
            "This model's tokenizer is not one that is converted.",
            next="serve.engine = transformers runs it, if that is installed.",
        )
    vocabulary = _ids(model.get("vocab"), rows)
    tokens: list[str] = [f"[PAD{number}]" for number in range(rows)]
    types = [UNUSED] * rows
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, NORMAL
    for one in added_tokens(document, rows):
        tokens[one.id] = one.text.replace(_WORD_START, " ") if kind.model == "llama" else one.text
        types[one.id] = CONTROL if one.special else USER_DEFINED
    merges: list[tuple[str, str]] = []
    scores: list[float] = []
    if kind.model == "bert":
        _mark_words(tokens, types)
    else:
        merges = _merges(model.get("merges"), vocabulary)
    unknown = specials.ids.get("unknown")
    if kind.model == "llama":
        _name_bytes(tokens, types)
        if unknown is not None:
            types[unknown] = UNKNOWN
        scores = _scores(tokens, types, merges)
        merges = []
    if len(set(tokens)) != rows:
        raise Unsupported("Two tokens of this model are the same in GGUF, which allows no such.")
    joined = tuple(f"{left} {right}" for left, right in merges)
    return Vocabulary(kind, tuple(tokens), tuple(types), joined, tuple(scores))


def _ids(value: Any, rows: int) -> dict[str, int]:
    """Return the vocabulary, token -> number, each number once and within the embedding."""
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_TOKENS or rows > MAX_TOKENS:
        raise VerificationFailed(
            f"A tokenizer.json has from 1 to {MAX_TOKENS:,} tokens in model.vocab."
        )
    seen = bytearray(rows)
    for token, number in value.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or not 0 <= number < rows or seen[number] or not token:
            raise VerificationFailed(
                f"A token has a number of its own below {rows}, not so {token!r:.60}."
            )
        seen[number] = 1
    return value


def _merges(value: Any, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the pairs that are joined, in their order: written "a b", or newer, [a, b]."""
    if not isinstance(value, list) or len(value) > MAX_MERGES:
        raise VerificationFailed(f"A tokenizer.json has a list of up to {MAX_MERGES:,} merges.")
    found = []
    for one in value:
        pair = tuple(one.split(" ")) if isinstance(one, str) else one
        match pair:
            case [str(left), str(right)] if left in vocabulary and right in vocabulary:
                if left + right in vocabulary and " " not in left + right:
                    found.append((left, right))
                    continue
        raise VerificationFailed(f"A merge joins two tokens to a third, not so {one!r:.80}.")
    return found


def _mark_words(tokens: list[str], types: list[int]) -> None:
    """Give WordPiece's tokens the marks that llama.cpp looks for."""
    for number, token in enumerate(tokens):
        if types[number] == NORMAL:
            tokens[number] = token[2:] if token.startswith("##") else _WORD_START + token


def _name_bytes(tokens: list[str], types: list[int]) -> None:
    """Mark the tokens that stand for one byte: all must be there, or text could be lost."""
    numbers = {token: number for number, token in enumerate(tokens)}
    for byte in range(256):
        number = numbers.get(f"<0x{byte:02X}>")
        if number is None or types[number] not in (NORMAL, USER_DEFINED):
            raise Unsupported("This model's tokenizer lacks tokens for some bytes.")
        types[number] = BYTE


def _scores(tokens: list[str], types: list[int], merges: list[tuple[str, str]]) -> list[float]:
    """Return a score for each token from which llama.cpp makes the same merges."""
    order: dict[str, int] = {}
    pairs = set(merges)
    last = ""
    for left, right in merges:
        joined = left + right
        if joined != last and joined in order:
            raise Unsupported("This model's merges are not those of SentencePiece.")
        order.setdefault(joined, len(order))
        last = joined
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    for token in normal:
        for cut in range(1, len(token)):
            halves = (token[:cut], token[cut:])
            if halves[0] in normal and halves[1] in normal and halves not in pairs:
                raise Unsupported("This model's merges are not those of SentencePiece.")
    lowest = len(order)
    return [
        float(-order.get(token, lowest + number)) if kind == NORMAL else 0.0
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
    ]
