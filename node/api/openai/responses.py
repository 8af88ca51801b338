"""The Responses API, read as a chat: what every engine that can chat can answer.

Engines that have the API themselves leave half of its events out, so the door makes a chat of the
request, and makes items and events of the chat's answer (items.py). It keeps nothing: what refers
to an earlier response, or wants one kept, is refused or passed over as the API allows. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

from node.api.openai import messages as chat
from node.api.openai.errors import declined
from node.api.openai.fields import (
    MAX_NAME,
    Check,
    flag,
    items,
    mapping,
    must,
    number,
    only,
    take,
    text,
    whole,
    wrong,
)
from node.api.openai.forms import Form, Opening, Whole
from node.api.openai.items import Echo, ResponseStream, whole_response
from node.api.openai.requests import IGNORED, MAX_TOKENS, Asked, asks_beside
from node.inference import Capability

MAX_PAIRS: Final = 16
"""Pairs of metadata, as with OpenAI."""


def _metadata(value: object, param: str) -> dict[str, str]:
    found = mapping(value, param)
    good = all(isinstance(v, str) and len(k) <= 64 and len(v) <= 512 for k, v in found.items())
    if len(found) > MAX_PAIRS or not good:
        raise wrong(param, f"at most {MAX_PAIRS} pairs of short texts")
    return found


def _include(value: object, param: str) -> object:
    if value == ["message.output_text.logprobs"] or (
        isinstance(value, list) and "message.output_text.logprobs" in value
    ):
        raise declined(
            "unsupported_parameter", "Odds of tokens are in /v1/chat/completions only.", param
        )
    return value  # the rest is about tools and stores that are not here: there is none to include


def _text(value: object, param: str) -> dict[str, Any] | None:
    found = mapping(value, param)
    if found.get("format") is None:
        return None
    return chat.response_format(found["format"], f"{param}.format")


RESPONSES: Final[Mapping[str, Check]] = {
    "include": _include,
    "input": lambda value, param: value,
    "instructions": text(),
    "max_output_tokens": whole(1, MAX_TOKENS),
    "metadata": _metadata,
    "model": text(MAX_NAME),
    "parallel_tool_calls": flag,
    "stream": flag,
    "stream_options": mapping,
    "temperature": number(0, 2),
    "text": _text,
    "tool_choice": lambda value, param: value,
    "tools": lambda value, param: value,
    "top_logprobs": only(0, "Odds of tokens are in /v1/chat/completions only."),
    "top_p": number(0, 1),
    "truncation": only("disabled", "A prompt that is too long is refused here, never cut."),
}
"""The fields of ``/v1/responses``."""

RESPONSES_IGNORED: Final = (IGNORED - {"metadata"}) | {"max_tool_calls", "reasoning"}
"""Hints that are passed over; ``store`` among them, since nothing is stored."""

RESPONSES_REFUSED: Final[Mapping[str, str]] = {
    "background": "This node answers while the client waits, and keeps nothing for later.",
    "conversation": "This node keeps no conversations: send all of it as `input`.",
    "context_management": "A prompt that is too long is refused here, never made shorter.",
    "moderation": "The owner of this node decides who moderates.",
    "previous_response_id": "This node keeps no responses: send all of the talk as `input`.",
    "prompt": "This node keeps no prompts: send it as `instructions` and `input`.",
}
"""Known fields that cannot be honoured, and why."""


def read_response(raw: Mapping[str, Any]) -> Asked:
    """Check a request for a response."""
    found = take(raw, RESPONSES, ignored=RESPONSES_IGNORED, refused=RESPONSES_REFUSED)
    talk = _talk(found)
    tools = chat.toolbox(found.get("tools"), found.get("tool_choice"))
    fields: dict[str, Any] = {"messages": talk} | tools.fields()
    for name, theirs in (
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("max_output_tokens", "max_tokens"),
    ):
        if name in found:
            fields[theirs] = found[name]
    needs: set[Capability] = {"chat"}
    if "tools" in fields or chat.uses_tools(talk):
        needs.add("tools")
    if "tools" in fields and "parallel_tool_calls" in found:
        fields["parallel_tool_calls"] = found["parallel_tool_calls"]
    if found.get("text") is not None:
        fields["response_format"] = found["text"]
        needs.add("json_schema")
    return Asked(
        model=must(found, "model"),
        endpoint="chat/completions",
        fields=fields,
        form=_form(found.get("stream", False), _echo(raw, found)),
        needs=frozenset(needs),
        stream=found.get("stream", False),
        prompts=(*chat.prompts(talk), *asks_beside(fields)),
    )


def _form(stream: bool, echo: Echo) -> Any:
    def make(opening: Opening) -> Form:
        if stream:
            return ResponseStream(opening, echo)
        return Whole(opening, lambda value: whole_response(value, opening, echo))

    return make


def _echo(raw: Mapping[str, Any], found: Mapping[str, Any]) -> Echo:
    """Keep what a response repeats of its request."""
    form = raw["text"]["format"] if found.get("text") is not None else {"type": "text"}
    return Echo(
        instructions=found.get("instructions"),
        max_output_tokens=found.get("max_output_tokens"),
        metadata=found.get("metadata", {}),
        parallel_tool_calls=found.get("parallel_tool_calls", True),
        temperature=found.get("temperature"),
        text={"format": form},
        tool_choice=found.get("tool_choice", "auto"),
        tools=found.get("tools", []),
        top_p=found.get("top_p"),
    )


def _talk(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make a chat's messages of instructions and input."""
    given = must(found, "input")
    talk: list[dict[str, Any]] = []
    if "instructions" in found:
        talk.append({"role": "system", "content": found["instructions"]})
    if isinstance(given, str):
        return [*talk, {"role": "user", "content": given}]
    for at, one in enumerate(items(given, "input", chat.MAX_MESSAGES)):
        _add_item(talk, mapping(one, f"input[{at}]"), f"input[{at}]")
    if not any(one["role"] != "system" for one in talk):
        raise wrong("input", "something to answer")
    return talk


def _add_item(talk: list[dict[str, Any]], raw: dict[str, Any], param: str) -> None:
    kind = raw.get("type", "message")
    if kind == "message":
        role = raw.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            raise wrong(f"{param}.role", "'system', 'developer', 'user' or 'assistant'")
        said = chat.content(raw.get("content"), f"{param}.content")
        talk.append({"role": "system" if role == "developer" else role, "content": said})
    elif kind == "function_call":
        call = chat.tool_call(
            text(256)(raw.get("call_id"), f"{param}.call_id"),
            chat.function_name(raw.get("name"), f"{param}.name"),
            text()(raw.get("arguments"), f"{param}.arguments"),
        )
        if not talk or talk[-1]["role"] != "assistant":
            talk.append({"role": "assistant", "content": ""})
        talk[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        talk.append(
            {
                "role": "tool",
                "tool_call_id": text(256)(raw.get("call_id"), f"{param}.call_id"),
                "content": chat.content(raw.get("output"), f"{param}.output"),
            }
        )
    elif kind != "reasoning":  # what a model thought before, it is not told again
        short = str(kind)[:40]
        raise declined(
            "unsupported_content", f"Items of the type {short!r} are not taken here.", param
        )
