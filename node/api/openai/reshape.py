"""Where engines and OpenAI write the same thing differently. Pure.

Each function takes an engine's object and returns what OpenAI's clients expect in its place.
"""

import base64
import binascii
import sys
from array import array
from typing import Any

from node.api.openai.tally import choices_of, text_of
from p2p.errors import EngineError


def legacy_logprobs(value: dict[str, Any]) -> dict[str, Any]:
    """Give completions the four lists of OpenAI's; llama.cpp writes odds as it does for chats."""
    for one in choices_of(value):
        odds = one.get("logprobs")
        tokens = odds.get("content") if isinstance(odds, dict) else None
        if isinstance(tokens, list):
            one["logprobs"] = _lists([token for token in tokens if isinstance(token, dict)])
    return value


def _lists(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    words = [text_of(token, "token") for token in tokens]
    offsets = [0]
    for word in words:
        offsets.append(offsets[-1] + len(word))
    tops = [token.get("top_logprobs") for token in tokens]
    return {
        "tokens": words,
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [
            {text_of(top, "token"): top.get("logprob") for top in found if isinstance(top, dict)}
            for found in (found if isinstance(found, list) else [] for found in tops)
        ],
        "text_offset": offsets[:-1],
    }


def packed(value: dict[str, Any]) -> dict[str, Any]:
    """Give embeddings in base64, as 32-bit floats; some engines know lists of numbers only."""
    for one in _vectors(value):
        if isinstance(one["embedding"], list):
            floats = _floats(one["embedding"])
            if sys.byteorder == "big":
                floats.byteswap()
            one["embedding"] = base64.b64encode(floats.tobytes()).decode()
    return value


def unpacked(value: dict[str, Any]) -> dict[str, Any]:
    """Give embeddings as lists of numbers."""
    for one in _vectors(value):
        one["embedding"] = vector(one["embedding"])
    return value


def vector(written: object) -> list[float]:
    """Read an embedding, whichever way an engine wrote it."""
    if isinstance(written, list):
        _floats(written)  # numbers, all of them
        return written
    try:
        floats: array[float] = array("f", base64.b64decode(written, validate=True))  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error) as exc:
        raise EngineError("Expected embeddings of the engine, came something else.") from exc
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()


def _floats(numbers: list[Any]) -> "array[float]":
    try:
        return array("f", numbers)
    except (TypeError, OverflowError) as exc:
        raise EngineError("Expected embeddings of the engine, came something else.") from exc


def _vectors(value: dict[str, Any]) -> list[dict[str, Any]]:
    found = value.get("data")
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and "embedding" in one for one in found
    ):
        raise EngineError("Expected a list of embeddings of the engine, came something else.")
    return found
