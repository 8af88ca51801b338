"""How an answer goes back: the engine's bytes in, the client's bytes out.

A form is a small machine without I/O: ``feed`` takes the engine's bytes as they come, ``end`` says
that there are no more, ``fail`` words an error in the middle; each returns what is to be sent.
``Relayed`` passes an engine's own stream on, nearly untouched: nothing is parsed but the event
that has the usage. ``Whole`` is an answer in one piece. Other doors have forms of their own.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from node.api.openai.errors import Problem
from node.api.openai.events import (
    DONE,
    cut_off,
    parse_piece,
    payload_of,
    raise_error,
)
from node.api.openai.tally import Ear, Usage, choices_of
from node.sse import EventCutter
from p2p.errors import EngineError

MAX_WHOLE: Final = 64 << 20
"""Bytes of an answer in one piece: 2,048 embeddings of 4,096 numbers in base64 fit."""

EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a form knows before the first byte."""

    model: str
    """The name that a client sees."""
    id: str
    """Hex digits that no other answer has."""
    now: float
    """When the request came, Unix seconds."""
    n: int = 1
    """Answers to each prompt."""
    choices: int = 1
    """Answers in all."""
    first_only: bool = False
    """In an answer of one piece the engine tells the usage of the first choice alone."""
    listening: bool = False
    """Somebody has to hear what the model says before it goes out."""


class Form(Protocol):
    """Turns an engine's answer into the client's."""

    usage: Usage
    ear: Ear

    @property
    def content_type(self) -> str:
        """Of what the client gets."""

    @property
    def done(self) -> bool:
        """The engine's stream has said that it is at its end."""

    def feed(self, data: bytes, now: float) -> bytes:
        """Take bytes of the engine; ``now`` is in Unix seconds."""

    def end(self, now: float) -> bytes:
        """The engine has said all; EngineError if it has not."""

    def fail(self, problem: Problem, now: float) -> bytes:
        """Say that it broke, after something has gone out."""


Reshape = Callable[[dict[str, Any]], dict[str, Any]]
"""Changes an engine's object, or makes another of it."""

_SPECIAL: Final = re.compile(rb'"usage"|"error"|\[DONE\]')
# A quote within a text is written \", so that no text of the model matches the first two.
_NO_USAGE: Final = re.compile(rb'"usage": ?null')


class Relayed:
    """An engine's stream of events, passed on as it comes."""

    content_type = EVENTS

    def __init__(
        self, opening: Opening, *, wants_usage: bool, reshape: Reshape | None = None
    ) -> None:
        self.usage = Usage()
        self.ear = Ear(opening.listening)
        self.done = False
        self._opening = opening
        self._wants_usage = wants_usage
        self._reshape = reshape
        self._reads = reshape is not None or opening.listening or opening.choices > 1
        self._reader = EventCutter(EngineError)
        self._last: dict[str, Any] = {}

    def feed(self, data: bytes, now: float) -> bytes:
        """Pass whole events on; hold a part of one back, and the usage that nobody asked for."""
        plain = not self._reads and not self._reader.pending and data.endswith(b"\n\n")
        if plain and not _SPECIAL.search(data):
            self.usage.pieces += data.count(b"data: ")
            return data
        return b"".join([self._event(event) for event in self._reader.feed(data)])

    def _event(self, event: bytes) -> bytes:
        payload = payload_of(event)
        if self.done:
            return b""  # whatever comes after the last event
        if payload is None:
            return event
        if payload == DONE:
            self.done = True
            return b""
        odd = b'"error"' in payload or (b'"usage"' in payload and not _NO_USAGE.search(payload))
        if not odd and not self._reads:
            self.usage.pieces += 1
            return event
        value = parse_piece(payload)
        return self._piece(value, event) if value else b""

    def _piece(self, value: dict[str, Any], event: bytes) -> bytes:
        self.ear.hear(value)
        counted = self.usage.count(value.get("usage"))
        if self._reshape is not None:
            value = self._reshape(value)
        if not counted:
            self.usage.pieces += 1
            return event if self._reshape is None else _data(value)
        if self._wants_usage and self._opening.choices == 1:
            return event if self._reshape is None else _data(value)
        del value["usage"]
        value.pop("timings", None)
        self._last = value
        return _data(value) if value.get("choices") else b""

    def end(self, now: float) -> bytes:
        """Close the stream as OpenAI does, the usage of several choices told once before."""
        if not self.done:
            raise cut_off()
        self.usage.share(self._opening.n)
        out = b""
        if self._wants_usage and self._opening.choices > 1:
            out = _data({**self._last, "choices": [], "usage": self.usage.json()})
        return out + b"data: " + DONE + b"\n\n"

    def fail(self, problem: Problem, now: float) -> bytes:
        """Say what happened in an event; the stream ends without its last one."""
        return _data({"error": problem.fields()})


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


class Whole:
    """An answer in one piece."""

    content_type = JSON
    done = False

    def __init__(self, opening: Opening, reshape: Reshape | None = None) -> None:
        self.usage = Usage()
        self.ear = Ear(opening.listening)
        self._opening = opening
        self._reshape = reshape
        self._body = bytearray()

    def feed(self, data: bytes, now: float) -> bytes:
        """Keep it for the end."""
        self._body += data
        if len(self._body) > MAX_WHOLE:
            raise EngineError(f"The engine's answer has more than {MAX_WHOLE} bytes.")
        return b""

    def end(self, now: float) -> bytes:
        """Return the answer."""
        body = bytes(self._body)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise EngineError("Expected JSON of the engine, came something else.") from exc
        if not isinstance(value, dict):
            raise EngineError("Expected a JSON object of the engine.")
        raise_error(value, body)
        self._count(value)
        self.ear.hear(value)
        if self._reshape is None:
            return body
        return json.dumps(self._reshape(value), separators=(",", ":")).encode()

    def _count(self, value: dict[str, Any]) -> None:
        self.usage.count(value.get("usage"))
        came = len(list(choices_of(value)))
        if self._opening.first_only and came > 1:
            self.usage.completion *= came
            self.usage.prompt *= max(1, came // self._opening.n)

    def fail(self, problem: Problem, now: float) -> bytes:
        """Nothing has gone out before the end, so there is nothing to mend."""
        return b""
