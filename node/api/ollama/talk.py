"""The messages of an Ollama chat, made into OpenAI's, which an engine takes.

Ollama's calls of tools have no ids, and their results name the tool at most: ids are given here,
in the order of the talk, so that each result belongs to a call. Pure.
"""

from dataclasses import dataclass
from typing import Any, Final

from node.api.ollama.lines import written
from node.api.openai import messages as chat
from node.api.openai.errors import declined
from node.api.openai.fields import items, mapping, text

PICTURES: Final = "Models here take text only."


@dataclass(slots=True)
class _Calls:
    """Gives ids to tool calls and their results, which have none with Ollama."""

    made: int = 0
    waiting: tuple[tuple[str, str], ...] = ()  # (id, name) without a result yet

    def call(self, name: str) -> str:
        id = f"call_{self.made}"
        self.made += 1
        self.waiting += ((id, name),)
        return id

    def result(self, name: str) -> str:
        fits = [one for one in self.waiting if not name or one[1] == name] or [*self.waiting]
        if not fits:
            return "call_0"
        self.waiting = tuple(one for one in self.waiting if one != fits[0])
        return fits[0][0]


def read_talk(value: object) -> list[dict[str, Any]]:
    """Make messages of Ollama's into OpenAI's, checked as those are."""
    calls, talk = _Calls(), []
    for at, one in enumerate(items(value, "messages", chat.MAX_MESSAGES)):
        talk.append(_message(mapping(one, f"messages[{at}]"), f"messages[{at}]", calls))
    return chat.messages(talk)


def _message(raw: dict[str, Any], param: str, calls: _Calls) -> dict[str, Any]:
    if raw.get("images"):
        raise declined("unsupported_content", PICTURES, f"{param}.images")
    message = {"role": raw.get("role"), "content": raw.get("content") or ""}
    if raw.get("role") == "tool":
        name = text(128)(raw.get("tool_name") or "", f"{param}.tool_name")
        given = raw.get("tool_call_id")
        message["tool_call_id"] = given if isinstance(given, str) else calls.result(name)
    if raw.get("tool_calls"):
        message["tool_calls"] = [
            _call(mapping(one, f"{param}.tool_calls"), f"{param}.tool_calls", calls)
            for one in items(raw["tool_calls"], f"{param}.tool_calls", chat.MAX_CALLS)
        ]
    return message


def _call(raw: dict[str, Any], param: str, calls: _Calls) -> dict[str, Any]:
    function = mapping(raw.get("function"), f"{param}.function")
    name = chat.function_name(function.get("name"), f"{param}.function.name")
    arguments = mapping(function.get("arguments", {}), f"{param}.function.arguments")
    given = raw.get("id")
    id = given if isinstance(given, str) and given else calls.call(name)
    return chat.tool_call(id, name, written(arguments))
