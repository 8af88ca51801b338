"""Messages and tools of a chat: what an engine gets of them."""

from typing import Any

import pytest

from node.api.openai.errors import Declined
from node.api.openai.messages import (
    MAX_MESSAGES,
    Toolbox,
    messages,
    prompts,
    response_format,
    toolbox,
    uses_tools,
)

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
USER = {"role": "user", "content": "hi"}
PART = {"type": "text"}


@pytest.mark.parametrize(
    ("raw", "made"),
    [
        (USER, USER),
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        (
            {"role": "user", "content": [PART | {"text": "a"}, PART | {"text": "b"}]},
            {"role": "user", "content": "a\nb"},
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "content": "no"},
        ),
        (USER | {"name": "bob"}, USER | {"name": "bob"}),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ),
        (
            {"role": "tool", "content": "22", "tool_call_id": "c1"},
            {"role": "tool", "content": "22", "tool_call_id": "c1"},
        ),
        (
            # what the SDK echoes of its own answer
            {
                "role": "assistant",
                "content": "x",
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": [],
                "parsed": None,
            },
            {"role": "assistant", "content": "x"},
        ),
        (
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        ),
    ],
)  # fmt: skip
def test_a_message_is_brought_into_one_shape(raw: object, made: object) -> None:
    """Whatever OpenAI's clients write, an engine gets text, system roles and clean calls."""
    assert messages([raw]) == [made]


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ([], "messages"),
        ("hi", "messages"),
        ([1], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([USER, {"role": "user"}], "messages[1].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 1}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "x", "chat_template": "y"}], "messages[0].chat_template"),
        ([{"role": "assistant", "content": "x", "audio": {"id": 1}}], "messages[0].audio"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
        ([USER] * (MAX_MESSAGES + 1), "messages"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused_by_its_place(raw: object, param: str) -> None:
    """A refusal says which message, and which field of it."""
    with pytest.raises(Declined) as caught:
        messages(raw)
    assert caught.value.problem.param == param
    assert caught.value.problem.status == 400


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "input_image", "video"])
def test_pictures_sound_and_files_are_refused(kind: str) -> None:
    """A part that is no text is a refusal that says so, wherever its data would come from."""
    raw = {"type": kind, kind: {"url": "http://169.254.169.254/"}}
    with pytest.raises(Declined) as caught:
        messages([{"role": "user", "content": [{"type": "text", "text": "x"}, raw]}])
    assert caught.value.problem.code == "unsupported_content"
    assert caught.value.problem.param == "messages[0].content[1]"


def test_a_moderator_hears_all_that_a_model_reads() -> None:
    """The texts for a moderator have every message, thoughts and tool calls included."""
    chat = messages(
        [
            {"role": "system", "content": "be good"},
            {"role": "assistant", "content": "x", "reasoning_content": "hm", "tool_calls": [CALL]},
        ]
    )
    assert prompts(chat) == ("be good", 'x\nhm\nf\n{"a":1}')


def test_a_chat_that_used_tools_is_known() -> None:
    """Calls and results of tools need a model that knows tools."""
    assert not uses_tools(messages([USER]))
    assert uses_tools(messages([{"role": "tool", "content": "x", "tool_call_id": "a"}]))
    assert uses_tools(messages([{"role": "assistant", "tool_calls": [CALL]}]))


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


F = tool(parameters={"type": "object", "properties": {}})
G = tool("g", parameters={"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("tools", "choice", "fields"),
    [
        (None, None, {}),
        ([], None, {}),
        (None, "auto", {}),
        ([], "none", {}),
        ([tool()], None, {"tools": [F]}),
        ([tool()], "auto", {"tools": [F], "tool_choice": "auto"}),
        ([tool()], "none", {}),
        ([tool(), tool("g")], "required", {"tools": [F, G], "tool_choice": "required"}),
        (
            [tool(), tool("g")],
            {"type": "function", "function": {"name": "g"}},
            {"tools": [G], "tool_choice": "required"},
        ),
        ([{"type": "function", "name": "f"}], {"type": "function", "name": "f"},
         {"tools": [F], "tool_choice": "required"}),
        ([tool(strict=True, description="d")], None,
         {"tools": [tool(description="d", strict=True,
                         parameters={"type": "object", "properties": {}})]}),
    ],
)  # fmt: skip
def test_tools_and_their_choice(tools: object, choice: object, fields: object) -> None:
    """The choice of one tool becomes the need to use the only one that is left."""
    assert toolbox(tools, choice).fields() == fields


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ("f", None),
        ([1], None),
        ([tool()] * 129, None),
        ([{"type": "web_search"}], None),
        ([tool("no spaces")], None),
        ([tool("")], None),
        ([tool(parameters=[])], None),
        ([tool(parameters={"$ref": "http://x/"})], None),
        ([tool()], "sometimes"),
        ([tool()], {"type": "function", "function": {"name": "g"}}),
        ([tool()], {"type": "allowed_tools"}),
        (None, "required"),
        ([], {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools_that_make_no_sense_are_refused(tools: object, choice: object) -> None:
    """A tool that is no function of the client's, or a choice of none of them, is a 400."""
    with pytest.raises(Declined) as caught:
        toolbox(tools, choice)
    assert caught.value.problem.status == 400


def test_an_empty_toolbox_says_nothing() -> None:
    """Without tools an engine hears nothing of tools."""
    assert Toolbox().fields() == {}


SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("raw", "made"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
            {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
        ),
        (  # the Responses API has it flat
            {"type": "json_schema", "name": "a", "schema": SCHEMA, "description": "d"},
            {"type": "json_schema",
             "json_schema": {"name": "a", "schema": SCHEMA, "description": "d"}},
        ),
    ],
)  # fmt: skip
def test_the_shape_of_an_answer(raw: object, made: object) -> None:
    """Formats come out as every engine takes them; plain text is no format at all."""
    assert response_format(raw, "response_format") == made


@pytest.mark.parametrize(
    "raw",
    [
        {},
        "json",
        {"type": "grammar"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": 1}},
    ],
)  # fmt: skip
def test_a_shape_that_nobody_knows_is_refused(raw: object) -> None:
    """A format of another kind, or a schema that is none, is a 400."""
    with pytest.raises(Declined):
        response_format(raw, "response_format")
