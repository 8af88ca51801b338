"""The messages and tools of a chat, checked and brought into the shape that every engine takes.

Text parts become one string, ``developer`` becomes ``system``, the choice of one tool becomes the
need to use the only one that is left. Pictures, sound and files are refused: no engine here takes
them. Pure.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from node.api.openai.errors import declined
from node.api.openai.fields import flag, items, mapping, schema, text, wrong

MAX_MESSAGES: Final = 4096
"""Messages of one chat; a long agent session has hundreds."""

MAX_PARTS: Final = 1024
"""Parts of one message's content."""

MAX_TOOLS: Final = 128
"""Tools of one chat, as with OpenAI."""

MAX_CALLS: Final = 128
"""Tool calls of one message."""

_ROLES: Final = {"system", "developer", "user", "assistant", "tool"}
_EMPTY: Final = {"refusal", "annotations", "audio", "parsed"}  # what SDKs echo of an answer
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools that a chat may use."""

    tools: tuple[dict[str, Any], ...] = ()
    choice: str = ""
    """auto, none or required; empty: nothing was said."""

    def fields(self) -> dict[str, Any]:
        """Return the fields that an engine is to get."""
        if not self.tools or self.choice == "none":
            return {}
        said = {"tool_choice": self.choice} if self.choice else {}
        return {"tools": list(self.tools)} | said


def messages(value: object, param: str = "messages") -> list[dict[str, Any]]:
    """Check a chat's messages."""
    return [
        _message(mapping(one, f"{param}[{at}]"), f"{param}[{at}]")
        for at, one in enumerate(items(value, param, MAX_MESSAGES))
    ]


def prompts(chat: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return what a moderator is asked about: the text of each message, tool calls included."""
    found = []
    for message in chat:
        said = [message.get("content") or "", message.get("reasoning_content") or ""]
        for call in message.get("tool_calls", ()):
            said += [call["function"]["name"], call["function"]["arguments"]]
        found.append("\n".join(one for one in said if one))
    return tuple(found)


def uses_tools(chat: list[dict[str, Any]]) -> bool:
    """Say whether a chat has tool calls or their results in it."""
    return any(one["role"] == "tool" or "tool_calls" in one for one in chat)


def _message(raw: dict[str, Any], param: str) -> dict[str, Any]:
    role = raw.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{param}.role", f"one of {', '.join(sorted(_ROLES))}")
    found: dict[str, Any] = {"role": "system" if role == "developer" else role}
    for name, value in raw.items():
        if name == "role" or value is None or (name in _EMPTY and not value):
            continue
        place = f"{param}.{name[:60]}"
        if name == "content":
            found[name] = content(value, place)
        elif name == "name":
            found[name] = text(128)(value, place)
        elif name == "reasoning_content" and role == "assistant":
            found[name] = text()(value, place)
        elif name == "tool_calls" and role == "assistant":
            if value != []:
                found[name] = _calls(value, place)
        elif name == "tool_call_id" and role == "tool":
            found[name] = text(256)(value, place)
        elif name not in _EMPTY or name == "audio":
            raise declined("unsupported_parameter", f"A message here has no {name[:60]!r}.", place)
    if "content" not in found:
        if "tool_calls" not in found:
            raise declined(
                "missing_required_parameter", "Expected a message with content.", f"{param}.content"
            )
        found["content"] = ""
    return found


def content(value: object, param: str) -> str:
    """Return the text of a message: a string, or text parts joined."""
    if isinstance(value, str):
        return value
    return "\n".join(
        part(mapping(one, f"{param}[{at}]"), f"{param}[{at}]")
        for at, one in enumerate(items(value, param, MAX_PARTS))
    )


def part(raw: dict[str, Any], param: str) -> str:
    """Return the text of one part; a picture, a sound or a file is refused."""
    kind = raw.get("type")
    if kind == "refusal":
        found: str = text()(raw.get("refusal"), f"{param}.refusal")
        return found
    if kind in ("text", "input_text", "output_text"):
        found = text()(raw.get("text"), f"{param}.text")
        return found
    if not isinstance(kind, str):
        raise wrong(f"{param}.type", "'text'")
    raise declined(
        "unsupported_content",
        f"Models here take text only, and not a part of the type {kind[:40]!r}.",
        param,
    )


def _calls(value: object, param: str) -> list[dict[str, Any]]:
    found = []
    for at, one in enumerate(items(value, param, MAX_CALLS)):
        raw, place = mapping(one, f"{param}[{at}]"), f"{param}[{at}]"
        function = mapping(raw.get("function"), f"{place}.function")
        found.append(
            tool_call(
                text(256)(raw.get("id"), f"{place}.id"),
                function_name(function.get("name"), f"{place}.function.name"),
                text()(function.get("arguments"), f"{place}.function.arguments"),
            )
        )
    return found


def tool_call(id: str, name: str, arguments: str) -> dict[str, Any]:
    """Make a tool call, as it stands in an assistant's message."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def function_name(value: object, param: str) -> str:
    """Check the name of a function."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise wrong(param, "a name of at most 128 letters, digits, `_`, `-`, `.`, `:` or `/`")
    return value


def toolbox(tools: object, tool_choice: object) -> Toolbox:
    """Check tools and which of them is to be used."""
    if tools is None or tools == []:
        if tool_choice not in (None, "none", "auto"):
            raise wrong("tool_choice", "left out where there are no tools")
        return Toolbox()
    found = [
        _tool(mapping(one, f"tools[{at}]"), f"tools[{at}]")
        for at, one in enumerate(items(tools, "tools", MAX_TOOLS))
    ]
    if tool_choice is None:
        return Toolbox(tuple(found))
    if isinstance(tool_choice, str) and tool_choice in ("auto", "none", "required"):
        return Toolbox(tuple(found), tool_choice)
    if not isinstance(tool_choice, dict) or tool_choice.get("type") != "function":
        raise wrong("tool_choice", "'auto', 'none', 'required' or one function")
    inner = tool_choice.get("function", tool_choice)  # the Responses API has the name outside
    name = function_name(mapping(inner, "tool_choice").get("name"), "tool_choice")
    chosen = [one for one in found if one["function"]["name"] == name]
    if not chosen:
        raise wrong("tool_choice", "one of the tools")
    return Toolbox(tuple(chosen[:1]), "required")


def _tool(raw: dict[str, Any], param: str) -> dict[str, Any]:
    if raw.get("type", "function") != "function":
        raise declined(
            "unsupported_parameter", "The only tools here are functions of the client's.", param
        )
    inner = mapping(raw.get("function", raw), f"{param}.function")
    function: dict[str, Any] = {"name": function_name(inner.get("name"), f"{param}.function.name")}
    if inner.get("description") is not None:
        function["description"] = text()(inner["description"], f"{param}.function.description")
    function["parameters"] = {"type": "object", "properties": {}}
    if inner.get("parameters") is not None:
        function["parameters"] = schema(inner["parameters"], f"{param}.function.parameters")
    if inner.get("strict") is not None:
        function["strict"] = flag(inner["strict"], f"{param}.function.strict")
    return {"type": "function", "function": function}


def response_format(value: object, param: str) -> dict[str, Any] | None:
    """Check which shape an answer is to have; None where any text will do."""
    raw = mapping(value, param)
    kind = raw.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        raise wrong(f"{param}.type", "'text', 'json_object' or 'json_schema'")
    inner = mapping(raw.get("json_schema", raw), f"{param}.json_schema")
    found: dict[str, Any] = {
        "name": text(128)(inner.get("name", "answer"), f"{param}.json_schema.name"),
        "schema": schema(inner.get("schema"), f"{param}.json_schema.schema"),
    }
    if inner.get("description") is not None:
        found["description"] = text()(inner["description"], f"{param}.json_schema.description")
    if inner.get("strict") is not None:
        found["strict"] = flag(inner["strict"], f"{param}.json_schema.strict")
    return {"type": "json_schema", "json_schema": found}
