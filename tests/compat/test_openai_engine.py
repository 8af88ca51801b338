"""The doors over llama.cpp itself: what its server says passes our checks and our relay.

One process of xllamacpp on a Unix socket, and nothing between it and the doors: what is tested is
that our words and the engine's are the same.
"""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Literal

import ollama
import openai
import pytest
import trio
from pydantic import BaseModel

from tests.desk import ModelDoors, PlainDesk, in_thread, serving_models
from tests.inference import ALL, EngineInference, served
from tests.models import smollm2_gguf

ENGINE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames = sys.argv[1], [sys.argv[2]]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 1024, 2, 1
params.model_alias = {"alice/tiny"}
if sys.argv[3] == "embeddings":
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
print("ready", flush=True)
sys.stdin.read()
"""
TALK: Any = [{"role": "user", "content": "What is the capital of France?"}]


class City(BaseModel):
    # Whatever a small model writes, it comes to an end: llama.cpp's grammar lets some twenty blanks
    # stand at each of four places, so it may take over a hundred tokens.
    city: Literal["Paris", "Rome"]


@asynccontextmanager
async def engine(tmp_path: Path, kind: str) -> AsyncIterator[ModelDoors]:
    """Serve the doors over a real engine."""
    socket = tmp_path / "engine.sock"
    command = [sys.executable, "-c", ENGINE, str(smollm2_gguf()), str(socket), kind]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    assert process.stdout is not None
    try:
        with trio.fail_after(60):
            said = b""
            while b"ready" not in said:
                piece = await process.stdout.receive_some()
                assert piece, "the engine did not start"
                said += piece
        capabilities = frozenset({"embeddings"}) if kind == "embeddings" else ALL - {"tools"}
        models = [served(capabilities=capabilities)]
        inference = EngineInference(socket, models)
        async with inference, serving_models(PlainDesk(inference=inference)) as doors:
            yield doors
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


@pytest.mark.timeout(300)
async def test_what_llama_cpp_says_reaches_the_sdk(tmp_path: Path) -> None:
    """Chat, choices, odds, completions, responses, schema and errors of a real engine."""
    async with engine(tmp_path, "chat") as doors:

        def work(client: openai.OpenAI) -> None:
            create = client.chat.completions.create
            several = create(
                model="alice/tiny",
                messages=TALK,
                max_completion_tokens=3,
                n=2,
                logprobs=True,
                top_logprobs=2,
                seed=-7,
                stop=["\n\n"],
                logit_bias={"5": -10},
                user="somebody",
            )
            assert [one.index for one in several.choices] == [0, 1]
            assert several.model == "alice/tiny"
            odds = several.choices[0].logprobs
            assert odds is not None
            assert odds.content
            assert len(odds.content[0].top_logprobs) == 2
            pieces = list(
                create(
                    model="alice/tiny",
                    messages=TALK,
                    max_tokens=3,
                    n=2,
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
            [told] = [one.usage for one in pieces if one.usage]
            assert 0 < told.completion_tokens <= 6
            assert {one.choices[0].index for one in pieces if one.choices} == {0, 1}
            parsed = client.chat.completions.parse(
                model="alice/tiny", messages=TALK, max_tokens=200, response_format=City
            )
            assert parsed.choices[0].message.parsed
            text = client.completions.create(
                model="alice/tiny", prompt="The capital of France is", max_tokens=2, logprobs=1
            )
            lists = text.choices[0].logprobs
            assert lists is not None
            assert lists.tokens is not None
            assert "".join(lists.tokens) == text.choices[0].text
            batch = client.completions.create(
                model="alice/tiny", prompt=["One", "Two"], max_tokens=2, stream=True
            )
            assert {one.choices[0].index for one in batch} == {0, 1}
            with client.responses.stream(
                model="alice/tiny", input="Say hi", max_output_tokens=3
            ) as stream:
                kinds = [event.type for event in stream]
            assert kinds[0] == "response.created"
            assert kinds[-1] in ("response.completed", "response.incomplete")
            with pytest.raises(openai.BadRequestError) as caught:
                create(model="alice/tiny", messages=[{"role": "user", "content": "hi " * 3000}])
            assert caught.value.code == "context_length_exceeded"
            with pytest.raises(openai.BadRequestError) as caught:
                create(model="alice/tiny", messages=TALK, n=5)
            assert caught.value.code == "invalid_request"

        def lines() -> None:
            with ollama.Client(doors.url) as client:
                said = client.chat("alice/tiny", messages=TALK, options={"num_predict": 3})
                assert said.eval_count == 3
                assert said.done_reason == "length"
                assert client.generate("alice/tiny", prompt="").done_reason == "load"

        with openai.OpenAI(base_url=f"{doors.url}/v1", api_key="none", max_retries=0) as client:
            await in_thread(partial(work, client))
        await in_thread(lines)
        uses = await doors.desk.accounts.wait_recorded(9)
        assert uses[0].completion == 6  # llama.cpp tells of the first choice, each is counted
        assert all(use.prompt > 0 for use in uses if use.status == 200)


@pytest.mark.timeout(300)
async def test_what_llama_cpp_embeds_reaches_the_sdk(tmp_path: Path) -> None:
    """Vectors in base64, as the SDK asks for, and in numbers; of texts and of tokens."""
    async with engine(tmp_path, "embeddings") as doors:

        def work(client: openai.OpenAI) -> None:
            create = client.embeddings.create
            packed = create(model="alice/tiny", input=["a cat", "a dog"])
            assert len(packed.data) == 2
            assert packed.usage.prompt_tokens > 0
            plain = create(model="alice/tiny", input=["a cat"], encoding_format="float")
            assert plain.data[0].embedding == pytest.approx(packed.data[0].embedding, abs=1e-4)
            assert len(create(model="alice/tiny", input=[[1, 2], [3]]).data) == 2

        with openai.OpenAI(base_url=f"{doors.url}/v1", api_key="none", max_retries=0) as client:
            await in_thread(partial(work, client))
        answer = await doors.post("/api/embed", {"model": "alice/tiny", "input": "a cat"})
        assert len(json.loads(answer.content)["embeddings"][0]) == 576
