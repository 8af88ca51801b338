"""The answer of the Responses API: a chat's answer as items, and as the events that build them.

    response.created, response.in_progress
      for each item    response.output_item.added, its parts and deltas, response.output_item.done
    response.completed | response.incomplete | response.failed

A text, a thought and each call of a tool is an item. Events are numbered; an item ends when the
next begins. Pure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from node.api.openai.errors import Problem
from node.api.openai.events import PieceReader
from node.api.openai.forms import EVENTS, Opening
from node.api.openai.tally import Ear, Usage, calls_of, choices_of, message_of, text_of
from p2p.errors import EngineError

Kind = Literal["message", "reasoning", "function_call"]

_PREFIX: Final[Mapping[str, str]] = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_CUT: Final[Mapping[str, str]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


@dataclass(frozen=True, slots=True)
class Echo:
    """What a response repeats of its request."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_p: float | None


@dataclass(slots=True)
class _Item:
    kind: Kind
    id: str
    at: int
    """Its place in the output."""
    words: list[str] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        return "".join(self.words)

    def json(self, status: str) -> dict[str, Any]:
        if self.kind == "function_call":
            about: dict[str, Any] = {
                "call_id": self.call_id,
                "name": self.name,
                "arguments": self.text,
            }
        elif self.kind == "message":
            parts = [self.part()] if status != "in_progress" else []
            about = {"role": "assistant", "content": parts}
        else:
            about = {"summary": [], "content": [self.part()] if status != "in_progress" else []}
        return {"id": self.id, "type": self.kind, "status": status, **about}

    def part(self, text: str | None = None) -> dict[str, Any]:
        said = self.text if text is None else text
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": said}
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": said}


def response_json(
    opening: Opening,
    echo: Echo,
    status: str,
    *,
    output: list[dict[str, Any]] | None = None,
    usage: Usage | None = None,
    cut: str = "",
    error: Problem | None = None,
) -> dict[str, Any]:
    """Return the response object."""
    return {
        "id": f"resp_{opening.id}",
        "object": "response",
        "created_at": int(opening.now),
        "status": status,
        "background": False,
        "error": None if error is None else {"code": error.code, "message": error.message},
        "incomplete_details": {"reason": cut} if cut else None,
        "instructions": echo.instructions,
        "max_output_tokens": echo.max_output_tokens,
        "metadata": echo.metadata,
        "model": opening.model,
        "output": output or [],
        "parallel_tool_calls": echo.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": echo.temperature,
        "text": echo.text,
        "tool_choice": echo.tool_choice,
        "tools": echo.tools,
        "top_p": echo.top_p,
        "truncation": "disabled",
        "usage": None if usage is None else _usage_json(usage),
    }


def _usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    }


def whole_response(value: dict[str, Any], opening: Opening, echo: Echo) -> dict[str, Any]:
    """Make a response of a chat's answer in one piece."""
    one = next(choices_of(value), None)
    if one is None:
        raise EngineError("Expected an answer of the engine, came none.")
    usage = Usage()
    usage.count(value.get("usage"))
    message, cut = message_of(one), _CUT.get(str(one.get("finish_reason")), "")
    status = "incomplete" if cut else "completed"
    output: list[dict[str, Any]] = []
    kinds: tuple[tuple[Kind, str], ...] = (
        ("reasoning", text_of(message, "reasoning_content")),
        ("message", text_of(message, "content")),
    )
    for kind, text in kinds:
        if text:
            output.append(_new(kind, opening, len(output), [text]).json(status))
    for _, call in calls_of(message):
        item = _new("function_call", opening, len(output), [call["arguments"]])
        item.call_id, item.name = call["id"], call["name"]
        output.append(item.json(status))
    return response_json(opening, echo, status, output=output, usage=usage, cut=cut)


def _new(kind: Kind, opening: Opening, at: int, words: list[str]) -> _Item:
    return _Item(kind, f"{_PREFIX[kind]}_{opening.id}{at:02}", at, words)


class ResponseStream:
    """A chat's stream as the events of a response."""

    content_type = EVENTS

    def __init__(self, opening: Opening, echo: Echo) -> None:
        self.usage = Usage()
        self.ear = Ear(opening.listening)
        self._reader = PieceReader(self.usage, self.ear)
        self._opening = opening
        self._echo = echo
        self._number = 0
        self._done: list[dict[str, Any]] = []
        self._open: _Item | None = None
        self._call = -1  # the number of the tool call that is open
        self._cut = ""

    @property
    def done(self) -> bool:
        """Whether the engine's stream is at its end."""
        return self._reader.done

    def feed(self, data: bytes, now: float) -> bytes:
        """Turn pieces of the answer into events."""
        out: list[bytes] = []
        for value in self._reader.feed(data):
            if self._number == 0:
                out += self._begin()
            for one in choices_of(value):
                out += self._piece(one)
        return b"".join(out)

    def end(self, now: float) -> bytes:
        """Close what is open, and the response."""
        self._reader.end()
        out = [*(self._begin() if self._number == 0 else ()), *self._close()]
        status = "incomplete" if self._cut else "completed"
        whole = response_json(
            self._opening,
            self._echo,
            status,
            output=self._done,
            usage=self.usage,
            cut=self._cut,
        )
        return b"".join([*out, self._event(f"response.{status}", response=whole)])

    def fail(self, problem: Problem, now: float) -> bytes:
        """Say that the response failed, and why."""
        whole = response_json(self._opening, self._echo, "failed", output=self._done, error=problem)
        failed = self._event("response.failed", response=whole)
        told = {"code": problem.code, "message": problem.message, "param": problem.param}
        return failed + self._event("error", error=problem.fields(), **told)

    def _begin(self) -> Iterator[bytes]:
        whole = response_json(self._opening, self._echo, "in_progress")
        yield self._event("response.created", response=whole)
        yield self._event("response.in_progress", response=whole)

    def _piece(self, one: dict[str, Any]) -> Iterator[bytes]:
        message = message_of(one)
        if thought := text_of(message, "reasoning_content"):
            item = yield from self._at("reasoning")
            yield from self._add(item, "response.reasoning_text.delta", thought)
        if text := text_of(message, "content"):
            item = yield from self._at("message")
            yield from self._add(item, "response.output_text.delta", text, logprobs=[])
        for number, call in calls_of(message):
            item = yield from self._at_call(number, call)
            if call["arguments"]:
                kind = "response.function_call_arguments.delta"
                yield from self._add(item, kind, call["arguments"])
        if isinstance(one.get("finish_reason"), str):
            self._cut = _CUT.get(one["finish_reason"], "")

    def _at(self, kind: Kind) -> Any:
        """Return the open item of a kind; events close another one and open it."""
        if self._open is None or self._open.kind != kind:
            yield from self._close()
            yield from self._begin_item(_new(kind, self._opening, len(self._done), []))
        return self._open

    def _at_call(self, number: int, call: Mapping[str, str]) -> Any:
        is_open = self._open is not None and self._open.kind == "function_call"
        if not is_open or number != self._call:
            if number <= self._call:
                raise EngineError("The engine mixes the calls of several tools.")
            yield from self._close()
            self._call = number
            item = _new("function_call", self._opening, len(self._done), [])
            item.call_id = call["id"] or f"call_{self._opening.id}{number:02}"
            item.name = call["name"]
            yield from self._begin_item(item)
        return self._open

    def _begin_item(self, item: _Item) -> Iterator[bytes]:
        self._open = item
        added = item.json("in_progress")
        yield self._event("response.output_item.added", output_index=item.at, item=added)
        if item.kind != "function_call":
            yield self._part("response.content_part.added", item, part=item.part(""))

    def _add(self, item: _Item, kind: str, delta: str, **more: Any) -> Iterator[bytes]:
        item.words.append(delta)
        if item.kind == "function_call":
            yield self._event(kind, item_id=item.id, output_index=item.at, delta=delta)
        else:
            yield self._part(kind, item, delta=delta, **more)

    def _close(self) -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "function_call":
            yield self._event(
                "response.function_call_arguments.done",
                item_id=item.id,
                output_index=item.at,
                name=item.name,
                arguments=item.text,
            )
        elif item.kind == "message":
            yield self._part("response.output_text.done", item, text=item.text, logprobs=[])
        else:
            yield self._part("response.reasoning_text.done", item, text=item.text)
        if item.kind != "function_call":
            yield self._part("response.content_part.done", item, part=item.part())
        whole = item.json("incomplete" if self._cut else "completed")
        self._done.append(whole)
        yield self._event("response.output_item.done", output_index=item.at, item=whole)

    def _part(self, kind: str, item: _Item, **fields: Any) -> bytes:
        return self._event(kind, item_id=item.id, output_index=item.at, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        data = json.dumps(value, separators=(",", ":"))
        return f"event: {kind}\ndata: {data}\n\n".encode()
