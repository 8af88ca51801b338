"""An engine's answer as Ollama's lines of JSON: one a piece, and a last one with counts. Pure."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from node.api.openai.errors import Problem
from node.api.openai.events import PieceReader
from node.api.openai.forms import JSON, Opening
from node.api.openai.reshape import vector
from node.api.openai.tally import (
    Ear,
    Usage,
    calls_of,
    choices_of,
    message_of,
    text_of,
)
from p2p.errors import EngineError

NDJSON: Final = "application/x-ndjson"

_REASONS: Final = {"length": "length"}  # whatever else ends an answer is "stop" with Ollama


def written(value: object) -> str:
    """Write JSON as an engine gets it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def moment(now: float) -> str:
    """Write a time, Unix seconds, as Ollama does."""
    return datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")


def error_line(problem: Problem) -> bytes:
    """Write an error: the body of a refusal, or the last line of a stream."""
    return json.dumps({"error": problem.message}).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Voice:
    """Where the text of an answer stands: in a message, or in the response."""

    place: Literal["message", "response"]

    def json(self, text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the part of a line that has the text."""
        thinking = {"thinking": thought} if thought else {}
        if self.place == "response":
            return {"response": text, **thinking}
        tools = {"tool_calls": calls} if calls else {}
        return {"message": {"role": "assistant", "content": text, **thinking, **tools}}


class Lines:
    """An engine's stream as lines; with ``stream`` off as one line at the end."""

    def __init__(self, opening: Opening, voice: Voice, name: str, *, stream: bool) -> None:
        self.usage = Usage()
        self.ear = Ear(opening.listening)
        self.content_type = NDJSON if stream else JSON
        self._reader = PieceReader(self.usage, self.ear)
        self._opening = opening
        self._voice = voice
        self._name = name
        self._stream = stream
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._reason = "stop"
        self._timings: dict[str, Any] = {}
        self._first = 0.0  # when the first piece came

    @property
    def done(self) -> bool:
        """Whether the engine's stream is at its end."""
        return self._reader.done

    def feed(self, data: bytes, now: float) -> bytes:
        """Turn pieces of the answer into lines."""
        out = []
        for value in self._reader.feed(data):
            self._first = self._first or now
            timings = value.get("timings")
            self._timings = timings if isinstance(timings, dict) else self._timings
            for one in choices_of(value):
                text, thought = self._take(one)
                if self._stream and (text or thought):
                    out.append(self._line(now, self._voice.json(text, thought, [])))
        return b"".join(out)

    def _take(self, one: dict[str, Any]) -> tuple[str, str]:
        message = message_of(one)
        text = text_of(message, "content") + text_of(one, "text")
        thought = text_of(message, "reasoning_content")
        if not self._stream:
            self._texts.append(text)
            self._thoughts.append(thought)
        for number, call in calls_of(message):
            known = self._calls.setdefault(number, {"name": "", "arguments": ""})
            known["name"] += call["name"]
            known["arguments"] += call["arguments"]
        reason = one.get("finish_reason")
        if isinstance(reason, str):
            self._reason = _REASONS.get(reason, "stop")
        return text, thought

    def end(self, now: float) -> bytes:
        """Return the last line, and before it the calls of tools."""
        self._reader.end()
        out, calls = b"", [_call_json(one) for one in self._calls.values()]
        if self._stream and calls:
            out, calls = self._line(now, self._voice.json("", "", calls)), []
        said = self._voice.json("".join(self._texts), "".join(self._thoughts), calls)
        return out + self._line(now, said, done_reason=self._reason, **self._counts(now))

    def _counts(self, now: float) -> dict[str, int]:
        first = self._first or now
        read, made = first - self._opening.now, now - first
        return {
            "total_duration": _nanoseconds(now - self._opening.now),
            "load_duration": 0,
            "prompt_eval_count": self.usage.prompt,
            "prompt_eval_duration": _told(self._timings.get("prompt_ms"), read),
            "eval_count": self.usage.completion,
            "eval_duration": _told(self._timings.get("predicted_ms"), made),
        }

    def _line(self, now: float, said: dict[str, Any], **last: Any) -> bytes:
        value = {"model": self._name, "created_at": moment(now), **said, "done": bool(last)}
        return json.dumps(value | last, separators=(",", ":")).encode() + b"\n"

    def fail(self, problem: Problem, now: float) -> bytes:
        """Say what happened in a last line."""
        return error_line(problem)


class Loaded(Lines):
    """The answer to a request that only wants a model to be there."""

    def __init__(self, opening: Opening, voice: Voice, name: str) -> None:
        super().__init__(opening, voice, name, stream=False)

    def end(self, now: float) -> bytes:
        """Say that it is loaded; what the engine said to find that out is nobody's business."""
        self._reader.end()
        return self._line(now, self._voice.json("", "", []), done_reason="load")


def _call_json(call: dict[str, str]) -> dict[str, Any]:
    try:
        arguments = json.loads(call["arguments"] or "{}")
    except (ValueError, RecursionError) as exc:
        raise EngineError("The model called a tool with arguments that are no JSON.") from exc
    if not isinstance(arguments, dict):
        raise EngineError("The model called a tool with arguments that are no JSON object.")
    return {"function": {"name": call["name"], "arguments": arguments}}


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e9))


def _told(milliseconds: object, measured: float) -> int:
    """Return what the engine measured, or else what was seen from here, in nanoseconds."""
    if isinstance(milliseconds, int | float) and 0 <= milliseconds < 1e9:
        return _nanoseconds(milliseconds / 1000)
    return _nanoseconds(measured)


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings as Ollama writes them: all of them, or the one that older clients ask."""

    name: str
    one: bool

    def __call__(self, value: dict[str, Any]) -> dict[str, Any]:
        """Turn an engine's answer into Ollama's."""
        data = value.get("data")
        if not isinstance(data, list) or not data:
            raise EngineError("Expected a list of embeddings of the engine, came something else.")
        found = [vector(one.get("embedding") if isinstance(one, dict) else None) for one in data]
        if self.one:
            return {"embedding": found[0]}
        usage = Usage()
        usage.count(value.get("usage"))
        return {
            "model": self.name,
            "embeddings": found,
            "prompt_eval_count": usage.prompt,
        }
