"""What an answer took and what it said, read off the engine's own JSON. Pure.

Whoever answers may be a stranger, so nothing here trusts the shape of what it reads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from node.moderation import OVERLAP

MAX_COUNT: Final = 1 << 31
"""Tokens that one answer can be said to have; more is a lie."""

BYTES_A_TOKEN: Final = 4
"""Of a prompt, where the engine did not get to say: about right for English."""
UNSEEN: Final = 256
"""Tokens at most that one answer in one piece counts where nobody waited for it: how many were made
nobody knows, and hanging up must not be a way around a token's limit."""


@dataclass(slots=True)
class Usage:
    """Tokens of one request, as far as the engine has told."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Of the prompt's, those that the engine had from before."""
    told: int = 0
    """How often the engine has told: once, or once for each choice."""
    pieces: int = 0
    """Events of a stream that brought text: about as many as tokens."""

    def count(self, value: object) -> bool:
        """Take in a ``usage`` object; False if it is none."""
        if not isinstance(value, dict):
            return False
        self.prompt += _whole(value.get("prompt_tokens"))
        self.completion += _whole(value.get("completion_tokens"))
        details = value.get("prompt_tokens_details")
        self.cached += _whole(details.get("cached_tokens")) if isinstance(details, dict) else 0
        self.told += 1
        return True

    def share(self, n: int) -> None:
        """Count the prompt once where an engine told of each of ``n`` answers to it."""
        if self.told > 1:
            self.prompt, self.cached = self.prompt // n, self.cached // n

    def json(self) -> dict[str, Any]:
        """Return OpenAI's ``usage`` object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


def _whole(value: object) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    return int(value) if 0 <= value <= MAX_COUNT else 0


class Asking(Protocol):
    """What is needed of a request, as ``node.api.openai.requests.Asked``."""

    @property
    def endpoint(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def choices(self) -> int: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


def unseen(asked: Asking) -> int:
    """Return what an answer in one piece counts if nobody waited for it, in tokens.

    0 for one that comes as it is made, and for embeddings, which have none.
    """
    if asked.stream or asked.endpoint == "embeddings":
        return 0
    return asked.choices * min(_whole(asked.fields.get("max_tokens")) or UNSEEN, UNSEEN)


def taken(usage: Usage | None, size: int, left: int) -> tuple[int, int]:
    """Return the tokens of prompt and answer of a request that went to an engine.

    ``usage``: what its answer told, None if it never began; ``size``: of the request, in bytes;
    ``left``: tokens that may have been made and were not seen.
    """
    if usage is not None and usage.told:
        return usage.prompt, usage.completion
    pieces = usage.pieces if usage is not None else 0  # a piece of a stream is about one token
    return max(1, size // BYTES_A_TOKEN), max(pieces, left)


def choices_of(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the choices of an answer, or of a piece of one."""
    found = value.get("choices")
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            yield one


def text_of(value: object, name: str) -> str:
    """Return a field that is text, or nothing."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def message_of(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return a choice's message, or the piece of one that a stream brings."""
    found = one.get("delta") or one.get("message")
    return found if isinstance(found, dict) else {}


def calls_of(message: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield a message's tool calls, or pieces of them: number, then id, name and arguments."""
    found = message.get("tool_calls")
    for at, one in enumerate(found if isinstance(found, list) else ()):
        if isinstance(one, dict):
            number = one.get("index")
            function = one.get("function")
            yield (
                number if isinstance(number, int) and 0 <= number < 1024 else at,
                {
                    "id": text_of(one, "id"),
                    "name": text_of(function, "name"),
                    "arguments": text_of(function, "arguments"),
                },
            )


def said(value: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield all text of an answer or a piece of one, with the number of its choice."""
    for at, one in enumerate(choices_of(value)):
        number = one.get("index")
        message = message_of(one)
        words = [text_of(message, "reasoning_content"), text_of(message, "content")]
        for _, call in calls_of(message):
            words += [call["name"], call["arguments"]]
        words.append(text_of(one, "text"))
        if told := "".join(words):
            yield number if isinstance(number, int) else at, told


@dataclass(slots=True)
class Ear:
    """Keeps what a model says until a moderator has heard it."""

    on: bool
    size: int = 0
    """Characters that nobody has judged yet."""
    _fresh: dict[int, str] = field(default_factory=dict)
    _tails: dict[int, str] = field(default_factory=dict)

    def hear(self, value: Mapping[str, Any]) -> None:
        """Keep the text of an answer, or of a piece of one."""
        if self.on:
            for number, text in said(value):
                self._fresh[number] = self._fresh.get(number, "") + text
                self.size += len(text)

    def take(self) -> list[str]:
        """Return what has come since the last time, each with the end of what came before."""
        found = []
        for number, text in self._fresh.items():
            whole = self._tails.get(number, "") + text
            self._tails[number] = whole[-OVERLAP:]
            found.append(whole)
        self._fresh.clear()
        self.size = 0
        return found
