"""The SDKs of OpenAI, LangChain and Ollama against the doors, with an engine that is scripted.

What a real engine says is in test_clients.py; here are the answers that one cannot be made to give
at will: tool calls, thoughts, errors of each kind, and an end in the middle.
"""

import json
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
import trio
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from node.accounts import Account
from node.inference import Call, Served
from p2p.errors import Busy, EngineError, NoMemory, OverLimit, Refused
from tests.desk import KeptAccounts, ModelDoors, PlainDesk, in_thread, serving_models
from tests.inference import (
    DONE,
    TOO_LONG,
    Script,
    ScriptedInference,
    Step,
    chat_stream,
    chat_whole,
    delta,
    piece,
    served,
    speak,
    usage,
    whole,
)

EVERYTHING = frozenset({"chat", "completions", "embeddings", "tools", "json_schema"})
TALK: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class City(BaseModel):
    city: str


def desk(script: Any = speak) -> PlainDesk:
    models = [served(capabilities=EVERYTHING)]
    return PlainDesk(inference=ScriptedInference(models=models, script=script))


_OPEN: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    """Close the clients of a test: the garbage collector might take their sockets first."""
    yield
    while _OPEN:
        _OPEN.pop().close()


def sdk(doors: ModelDoors, key: str = "sk-none") -> openai.OpenAI:
    _OPEN.append(openai.OpenAI(base_url=f"{doors.url}/v1", api_key=key, max_retries=0))
    return _OPEN[-1]


def calls(model: Served, call: Call) -> Script:
    """Ask for the weather, unless it has been told."""
    if any(one["role"] == "tool" for one in json.loads(call.body)["messages"]):
        return speak(model, call)
    function = {"name": "weather", "arguments": '{"city":"Paris"}'}
    if not call.stream:
        made = [{"id": "c1", "type": "function", "function": function}]
        return whole(chat_whole("", content=None, tool_calls=made))
    first = {"index": 0, "id": "c1", "type": "function", "function": function | {"arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": one}} for one in ('{"city":', '"Paris"}')]
    return Script(
        [
            piece(delta(role="assistant", content=None)),
            piece(delta(tool_calls=[first])),
            *(piece(delta(tool_calls=[one])) for one in pieces),
            piece(delta(finish="tool_calls")),
            piece(usage=usage(9, 8)),
            DONE,
        ]
    )


async def test_the_openai_sdk() -> None:
    """Models, chat, streaming, usage, completions, embeddings and responses, as it asks them."""
    async with serving_models(desk()) as doors:

        def work() -> None:
            client = sdk(doors)
            assert [one.id for one in client.models.list()] == ["alice/tiny"]
            assert client.models.retrieve("alice/tiny").object == "model"
            said = client.chat.completions.create(model="alice/tiny", messages=TALK, n=1)
            assert said.choices[0].message.content == "Hello!"
            assert said.usage is not None
            assert said.usage.total_tokens == 35
            raw = client.chat.completions.with_raw_response.create(
                model="alice/tiny", messages=TALK
            )
            assert raw.headers["x-model-digest"] == str(served().manifest)
            stream = client.chat.completions.create(
                model="alice/tiny",
                messages=TALK,
                stream=True,
                stream_options={"include_usage": True},
            )
            pieces = list(stream)
            words = [one.choices[0].delta.content or "" for one in pieces if one.choices]
            assert "".join(words) == "Hello!"
            assert [one.usage.completion_tokens for one in pieces if one.usage] == [3]
            silent = client.chat.completions.create(model="alice/tiny", messages=TALK, stream=True)
            assert all(one.choices and not one.usage for one in silent)
            text = client.completions.create(model="alice/tiny", prompt="x", max_tokens=3)
            assert text.choices[0].text == " Paris. The"
            vectors = client.embeddings.create(model="alice/tiny", input=["a", "b"])
            assert [one.embedding for one in vectors.data] == [[0.5, -0.25, 1.0]] * 2
            answer = client.responses.create(model="alice/tiny", input="hi", instructions="x")
            assert answer.output_text == "Hello!"
            assert answer.usage is not None
            assert answer.usage.output_tokens == 3

        await in_thread(work)


async def test_the_openai_sdk_streams_responses() -> None:
    """Its own helper puts a streamed response together: text, and calls of tools."""
    async with serving_models(desk(calls)) as doors:

        def work() -> None:
            client = sdk(doors)
            function: Any = {"type": "function", **TOOL["function"]}
            with client.responses.stream(
                model="alice/tiny", input="weather?", tools=[function]
            ) as stream:
                kinds = {event.type for event in stream}
                final = stream.get_final_response()
            assert "response.function_call_arguments.delta" in kinds
            [item] = final.output
            assert item.type == "function_call"
            assert json.loads(item.arguments) == {"city": "Paris"}
            talk: Any = [
                {"role": "user", "content": "weather?"},
                item.model_dump(exclude_none=True, exclude={"parsed_arguments"}),
                {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"},
            ]
            with client.responses.stream(
                model="alice/tiny", input=talk, tools=[function]
            ) as stream:
                texts = [one.delta for one in stream if one.type == "response.output_text.delta"]
                assert stream.get_final_response().output_text == "".join(texts) == "Hello!"

        await in_thread(work)


async def test_the_openai_sdk_uses_tools_and_schemas() -> None:
    """A call of a tool, its result sent back as the SDK writes it, and a parsed answer."""

    def script(model: Served, call: Call) -> Script:
        if "response_format" in json.loads(call.body):
            return whole(chat_whole('{"city": "Paris"}'))
        return calls(model, call)

    async with serving_models(desk(script)) as doors:

        def work() -> None:
            client = sdk(doors)
            talk = list(TALK)
            message = (
                client.chat.completions.create(model="alice/tiny", messages=talk, tools=[TOOL])
                .choices[0]
                .message
            )
            assert message.tool_calls
            talk.append(message)
            talk.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "22"})
            said = client.chat.completions.create(model="alice/tiny", messages=talk, tools=[TOOL])
            assert said.choices[0].message.content == "Hello!"
            with client.chat.completions.stream(
                model="alice/tiny", messages=TALK, tools=[TOOL]
            ) as stream:
                final = stream.get_final_completion()
            assert final.choices[0].message.tool_calls
            parsed = client.chat.completions.parse(
                model="alice/tiny", messages=TALK, response_format=City
            )
            assert parsed.choices[0].message.parsed == City(city="Paris")

        await in_thread(work)


def fails_with(exc: Exception) -> PlainDesk:
    found = desk()
    found.inference.fails = exc
    return found


@pytest.mark.parametrize(
    ("found", "kind", "code"),
    [
        (fails_with(Busy("Full.", retry_after=1)), openai.RateLimitError, "server_busy"),
        (fails_with(NoMemory("Too big.")), openai.InternalServerError, "insufficient_memory"),
        (fails_with(EngineError("Died.")), openai.InternalServerError, "engine_error"),
        (fails_with(Refused("No.")), openai.PermissionDeniedError, "model_refused"),
        (
            desk(lambda model, call: whole(TOO_LONG, 400)),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (
            PlainDesk(accounts=KeptAccounts(over=OverLimit("Used up.", retry_after=5))),
            openai.RateLimitError,
            "rate_limit_exceeded",
        ),
        (
            PlainDesk(accounts=KeptAccounts(needed=True)),
            openai.AuthenticationError,
            "invalid_api_key",
        ),
        (
            PlainDesk(inference=ScriptedInference(models=[served("alice/other")])),
            openai.NotFoundError,
            "model_not_found",
        ),
        (
            PlainDesk(
                accounts=KeptAccounts(
                    tokens={"sk-none": Account("1", "bob", ("x/*",), None, None, False)}
                )
            ),
            openai.PermissionDeniedError,
            "model_not_allowed",
        ),
    ],
)  # fmt: skip
async def test_the_openai_sdk_knows_our_errors(
    found: PlainDesk, kind: type[openai.APIStatusError], code: str
) -> None:
    """Each error arrives as the SDK's own class, with its code, streaming or not."""
    async with serving_models(found) as doors:

        def work(stream: bool) -> None:
            with pytest.raises(kind) as caught:
                sdk(doors).chat.completions.create(model="alice/tiny", messages=TALK, stream=stream)
            assert caught.value.code == code
            assert caught.value.request_id

        await in_thread(lambda: work(False))
        await in_thread(lambda: work(True))


async def test_the_openai_sdk_is_told_which_parameter_is_wrong() -> None:
    """A 400 names the parameter, a knob of an engine's included."""
    async with serving_models(desk()) as doors:

        def work() -> None:
            create = sdk(doors).chat.completions.create
            with pytest.raises(openai.BadRequestError) as caught:
                create(model="alice/tiny", messages=TALK, extra_body={"grammar": "root ::= x"})
            assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "grammar")
            with pytest.raises(openai.BadRequestError) as caught:
                create(model="alice/tiny", messages=TALK, temperature=3)
            assert (caught.value.code, caught.value.param) == ("invalid_value", "temperature")

        await in_thread(work)


async def test_the_openai_sdk_sees_a_stream_break() -> None:
    """An engine that dies in the middle is an APIError with its code, on both APIs."""
    steps: list[Step] = [piece(delta(content="Hel")), EngineError("The engine died.")]
    async with serving_models(desk(lambda model, call: Script(steps))) as doors:

        def work() -> None:
            client = sdk(doors)
            got = []
            with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - it raises in the loop
                for one in client.chat.completions.create(
                    model="alice/tiny", messages=TALK, stream=True
                ):
                    got.append(one.choices[0].delta.content)  # noqa: PERF401 - it raises
            assert got == ["Hel"]
            assert caught.value.code == "engine_error"
            kinds = []
            with pytest.raises(openai.APIError):  # noqa: PT012 - as above
                for event in client.responses.create(model="alice/tiny", input="x", stream=True):
                    kinds.append(event.type)  # noqa: PERF401 - it raises
            assert kinds[-1] == "response.failed"

        await in_thread(work)


async def test_the_openai_sdk_hangs_up() -> None:
    """Closing its stream frees the slot at once."""
    steps: list[Step] = [piece(delta(content="Hel")), trio.Event()]
    async with serving_models(desk(lambda model, call: Script(steps))) as doors:

        def work() -> None:
            stream = sdk(doors).chat.completions.create(
                model="alice/tiny", messages=TALK, stream=True
            )
            assert next(iter(stream)).choices[0].delta.content == "Hel"
            stream.close()

        await in_thread(work)
        with trio.fail_after(60):
            await doors.engine.freed.wait()
        assert doors.engine.busy == 0


async def test_langchain() -> None:
    """ChatOpenAI asks, streams, calls tools and keeps to a schema; on both of OpenAI's APIs."""

    def script(model: Served, call: Call) -> Script:
        asked = json.loads(call.body)
        if "response_format" in asked:
            text = '{"city": "Paris"}'
            return Script(chat_stream(text)) if call.stream else whole(chat_whole(text))
        return calls(model, call) if "tools" in asked else speak(model, call)

    async with serving_models(desk(script)) as doors:

        def work(responses: bool) -> None:
            chat = ChatOpenAI(
                model="alice/tiny",
                base_url=f"{doors.url}/v1",
                api_key=lambda: "none",
                max_retries=0,
                temperature=0.2,
                use_responses_api=responses,
            )
            said = chat.invoke("hi")
            assert said.text == "Hello!"
            assert said.usage_metadata is not None
            assert said.usage_metadata["total_tokens"] == 35
            assert "".join(one.text for one in chat.stream("hi")) == "Hello!"
            called = chat.bind_tools([TOOL]).invoke("weather?")
            assert called.tool_calls[0]["args"] == {"city": "Paris"}
            assert chat.with_structured_output(City, method="json_schema").invoke("x") == City(
                city="Paris"
            )
            if responses:
                chat.root_client.close()  # one for all that have the same URL

        await in_thread(lambda: work(False))
        await in_thread(lambda: work(True))

        def embed() -> None:
            vectors = OpenAIEmbeddings(
                model="alice/tiny",
                base_url=f"{doors.url}/v1",
                api_key=lambda: "none",
                check_embedding_ctx_length=False,  # else it sends the tokens of another model
            )
            assert vectors.embed_documents(["a", "b"]) == [[0.5, -0.25, 1.0]] * 2
            vectors.client._client.close()

        await in_thread(embed)


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: where

    Returns:
        str: the weather
    """
    return city


async def test_the_ollama_client() -> None:
    """Lists, chats, streams, generates, embeds, calls tools, keeps to a schema."""

    def script(model: Served, call: Call) -> Script:
        if call.endpoint == "chat/completions" and "tools" in json.loads(call.body):
            return calls(model, call)
        return speak(model, call)

    async with serving_models(desk(script)) as doors:

        def ask(client: ollama.Client) -> None:
            assert [one.model for one in client.list().models] == ["alice/tiny:latest"]
            assert client.ps().models[0].context_length == 2048
            assert client.show("alice/tiny").capabilities == ["completion", "tools", "embedding"]
            said = client.chat("alice/tiny:latest", messages=TALK, options={"num_predict": 5})
            assert said.message.content == "Hello!"
            assert (said.eval_count, said.done_reason) == (3, "stop")
            lines = list(client.chat("alice/tiny", messages=TALK, stream=True))
            assert "".join(one.message.content or "" for one in lines) == "Hello!"
            assert [one.done for one in lines] == [False, False, False, True]
            assert client.generate("alice/tiny", prompt="x").response == "Hello!"
            assert client.generate("alice/tiny", prompt="x", raw=True).response == " Paris. The"
            assert client.embed("alice/tiny", input=["a", "b"]).embeddings[1] == [0.5, -0.25, 1.0]
            assert client.embeddings("alice/tiny", prompt="a").embedding == [0.5, -0.25, 1.0]
            talk: list[Any] = list(TALK)
            called = client.chat("alice/tiny", messages=talk, tools=[weather])
            assert called.message.tool_calls
            assert called.message.tool_calls[0].function.arguments == {"city": "Paris"}
            talk += [called.message, {"role": "tool", "tool_name": "weather", "content": "sunny"}]
            told = client.chat("alice/tiny", messages=talk, tools=[weather], stream=True)
            assert "".join(one.message.content or "" for one in told) == "Hello!"
            client.chat("alice/tiny", messages=TALK, format=City.model_json_schema())
            assert doors.engine.bodies[-1]["response_format"]["type"] == "json_schema"

        def work() -> None:
            with ollama.Client(doors.url) as client:
                ask(client)

        await in_thread(work)


async def test_the_ollama_client_knows_our_errors() -> None:
    """Errors arrive as its own, with their status; a stream that breaks, too."""
    steps: list[Step] = [piece(delta(content="Hel")), EngineError("The engine died.")]
    async with serving_models(desk(lambda model, call: Script(steps))) as doors:

        def work() -> None:
            with ollama.Client(doors.url) as client:
                with pytest.raises(ollama.ResponseError) as caught:
                    client.chat("nobody", messages=TALK)
                assert caught.value.status_code == 404
                assert "nobody" in caught.value.error
                with pytest.raises(ollama.ResponseError) as caught:
                    client.pull("alice/tiny")
                assert caught.value.status_code == 501
                with pytest.raises(ollama.ResponseError, match="died"):
                    list(client.chat("alice/tiny", messages=TALK, stream=True))

        await in_thread(work)
