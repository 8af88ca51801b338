"""The events of an engine's stream, read as pieces of an answer. Pure."""

import json
from typing import Any, Final

from node.api.openai.errors import Declined, engine_problem
from node.api.openai.tally import Ear, Usage
from node.sse import EventCutter
from p2p.errors import EngineError

DONE: Final = b"[DONE]"
"""What the last event of a stream says."""


def payload_of(event: bytes) -> bytes | None:
    """Return the data of an event; None for a comment, which is a sign of life."""
    if event.startswith(b"data: ") and event.find(b"\n") >= len(event) - 4:
        return event[6:].strip()  # one line, as nearly always
    lines = event.splitlines()
    found = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    if not found:
        found = [line[6:].strip() for line in lines if line.startswith(b"error:")]
        found = [b'{"error":' + line + b"}" for line in found]
    return b"\n".join(found) if found else None


def parse_piece(payload: bytes) -> dict[str, Any]:
    """Read the data of an event: a piece of an answer; empty for ``null``.

    ``Declined`` if the engine says that it failed, EngineError if it makes no sense.
    """
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise EngineError("Expected JSON in the engine's stream, came something else.") from exc
    if value is None:
        return {}  # llama.cpp begins so when it answers several prompts
    if not isinstance(value, dict):
        raise EngineError("Expected JSON objects in the engine's stream.")
    raise_error(value, payload)
    return value


def raise_error(value: dict[str, Any], body: bytes) -> None:
    """Raise what an engine's error object says, if ``value`` is one."""
    error = value.get("error")
    if error:
        status = error.get("code") if isinstance(error, dict) else None
        raise Declined(engine_problem(status if isinstance(status, int) else 500, body))


class PieceReader:
    """Reads a stream as the pieces of an answer, counts tokens and lets the ear hear."""

    def __init__(self, usage: Usage, ear: Ear) -> None:
        self._events = EventCutter(EngineError)
        self._usage = usage
        self._ear = ear
        self.done = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the pieces whose events end in ``data``."""
        found = []
        for event in self._events.feed(data):
            payload = payload_of(event)
            if payload == DONE:
                self.done = True
            elif not self.done and payload is not None and (value := parse_piece(payload)):
                if not self._usage.count(value.get("usage")):
                    self._usage.pieces += 1
                self._ear.hear(value)
                found.append(value)
        return found

    def end(self) -> None:
        """Raise EngineError unless the stream ended as it should."""
        if not self.done:
            raise cut_off()


def cut_off() -> EngineError:
    """Make the error for a stream that ends without its last event."""
    return EngineError("The engine's answer broke off in the middle.", next="Ask again.")
