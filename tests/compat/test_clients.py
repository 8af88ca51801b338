"""Clients that we did not write, unchanged, against a node that serves real models.

The same release of SmolLM2 as GGUF and as safetensors, and all-MiniLM for embeddings; the SDKs of
OpenAI and Ollama, and LangChain. They are synchronous, and run in a thread beside the node.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
import trio
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.models import minilm, smollm2_safetensors
from tests.network.models import gguf_folder
from tests.network.people import Node, Person

QUESTION = "What is the capital of France?"
SYSTEM = "You are a helpful assistant."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}


FORMATS = {"alice/gguf": "gguf", "alice/safetensors": "safetensors"}
"""The same model under two names."""


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[Node, str]]:
    """A node that serves SmolLM2 in both formats and alice/minilm; the publisher's id."""
    alice = Person(tmp_path / "alice")
    await alice.run("key", "new", "alice")
    folders = {
        "alice/gguf": gguf_folder(tmp_path / "gguf"),
        "alice/safetensors": smollm2_safetensors(),
        "alice/minilm": minilm(),
    }
    for name, folder in folders.items():
        words = ("--as", name, "--kind", "model", "--license", "Apache-2.0", "--no-sha256")
        await alice.run("publish", str(folder), *words)
    async with alice.node("--offline") as node:
        for name, format in FORMATS.items():
            served = await alice.run("serve", name, "--context", "1024", "--slots", "2")
            assert (served["format"], served["engine"]) == (format, "xllamacpp")
        await alice.run("serve", "alice/minilm", "--lazy")
        yield node, served["publisher"]


async def beside(work: Callable[[], None]) -> None:
    """Run a synchronous client."""
    await trio.to_thread.run_sync(work)


@pytest.mark.timeout(300)
async def test_existing_clients(tmp_path: Path) -> None:
    """The SDKs of OpenAI and Ollama, and LangChain, each of them with both formats.

    Models, chat, streaming, usage, JSON schema, responses, embeddings, errors, cancel.
    """
    async with serving(tmp_path) as (node, publisher):

        def with_openai() -> None:
            with openai.OpenAI(base_url=f"{node.status['http']}/v1", api_key="none") as client:
                models = {one.id: one for one in client.models.list()}
                assert set(models) == {*FORMATS, "alice/minilm"}
                assert client.models.retrieve("alice/gguf").owned_by == publisher
                _embeddings(client)
                for model in FORMATS:
                    _chat(client, model)
                    _stream(client, model)
                    _schema(client, model)
                    _responses(client, model)
                    _completion(client, model)
                    _errors(client, model)
                    _cancel(client, model)

        def with_ollama_and_langchain() -> None:
            with ollama.Client(host=node.status["http"]) as client:
                names = {one.model for one in client.list().models}
                assert {*FORMATS} <= {str(name).removesuffix(":latest") for name in names}
                vectors = client.embed("alice/minilm", input=["one", "two"]).embeddings
                assert [len(vector) for vector in vectors] == [384, 384]
                with pytest.raises(ollama.ResponseError) as missing:
                    client.chat("nobody", messages=_messages())
                assert missing.value.status_code == 404
                for model in FORMATS:
                    _ollama(client, model)
                    chat = _langchain(f"{node.status['http']}/v1", model)
                chat.root_client.close()  # one for all that have the same URL

        await beside(with_openai)
        await beside(with_ollama_and_langchain)


def _messages(text: str = QUESTION) -> Any:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def _chat(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=_messages(), max_tokens=12, temperature=0, seed=1
    )
    answer = raw.parse()
    assert "Paris" in str(answer.choices[0].message.content)
    assert answer.model == model
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 12
    assert raw.headers["x-model-digest"]


def _stream(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=_messages(),
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    words = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([word for word in words if word]) >= 4, "it comes in pieces"
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(usages) == 1
    assert usages[0].completion_tokens <= 8
    plain = client.chat.completions.create(
        model=model, messages=_messages(), max_tokens=4, stream=True
    )
    assert not [chunk for chunk in plain if chunk.usage], "nobody asked for it"


def _schema(client: openai.OpenAI, model: str) -> None:
    import json

    answer = client.chat.completions.create(
        model=model,
        messages=_messages("Name the capital of France as JSON."),
        max_tokens=60,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
    )
    assert set(json.loads(str(answer.choices[0].message.content))) == {"city"}


def _responses(client: openai.OpenAI, model: str) -> None:
    answer = client.responses.create(
        model=model, instructions=SYSTEM, input=QUESTION, max_output_tokens=16
    )
    assert answer.output_text
    assert answer.usage is not None
    kinds = [
        event.type
        for event in client.responses.create(
            model=model, input=QUESTION, max_output_tokens=16, stream=True
        )
    ]
    assert kinds[0] == "response.created"
    assert "response.output_text.delta" in kinds
    assert kinds[-1] in ("response.completed", "response.incomplete")


def _completion(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model, prompt="The capital of France is", max_tokens=4, temperature=0
    )
    assert "Paris" in answer.choices[0].text


def _embeddings(client: openai.OpenAI) -> None:
    texts = ["A man eats pasta.", "Someone is having spaghetti.", "The stock market fell."]
    found = client.embeddings.create(model="alice/minilm", input=texts)
    vectors = [one.embedding for one in found.data]
    assert [len(vector) for vector in vectors] == [384] * 3

    def likeness(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True))

    assert likeness(vectors[0], vectors[1]) > likeness(vectors[0], vectors[2]) + 0.2
    assert found.usage.prompt_tokens > 0


def _errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=_messages())
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=model, messages=_messages("long " * 3000))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError) as wrong:
        client.with_options(api_key="allod-" + "x" * 43).models.list()
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=model, input="x")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="alice/minilm", messages=_messages())


def _cancel(client: openai.OpenAI, model: str) -> None:
    for _ in range(4):  # more than there are slots
        stream = client.chat.completions.create(
            model=model, messages=_messages("Tell a long story."), stream=True
        )
        next(iter(stream))
        stream.close()
    _chat(client, model)


def _ollama(client: ollama.Client, model: str) -> None:
    assert "completion" in (client.show(model).capabilities or [])
    options = {"num_predict": 8, "temperature": 0}
    answer = client.chat(model, messages=_messages(), options=options)
    assert answer.message.content
    assert answer.eval_count
    pieces = list(client.chat(model, messages=_messages(), options=options, stream=True))
    assert len(pieces) >= 3
    assert pieces[-1].done
    made = client.generate(f"{model}:latest", prompt=QUESTION, options=options)
    assert made.response
    assert client.ps().models


def _langchain(url: str, model: str) -> ChatOpenAI:
    chat = ChatOpenAI(
        model=model,
        base_url=url,
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=12,
    )
    answer = chat.invoke(_messages())
    assert "Paris" in str(answer.content)
    assert answer.usage_metadata is not None
    assert len(list(chat.stream(_messages()))) >= 3
    return chat
