"""Inference for tests: a scripted one that speaks like llama-server, and one over a real engine.

Both satisfy ``node.inference.Inference``. A ``Script`` answers a call with steps: bytes to give,
an Event to wait for, or an error to raise.
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio

from node.inference import Answer, Call, Capability, Served
from p2p.cid import CID, Codec
from p2p.errors import Busy, NotFound

PEER = "12D3KooWQEGjyq2CFtLcyaxjPWuTCPLU8DDmqT2xMbDSe4u6Bavt"
PUBLISHER = "bafkreiabltrd5zm73pvi7plq25pef3hm7jxhbi3kv4hapegrkfpkqtkbme"
ALL: frozenset[Capability] = frozenset(
    {"chat", "completions", "responses", "tools", "json_schema", "logprobs", "choices"}
)

Step = bytes | trio.Event | Exception


def served(name: str = "alice/tiny", **changes: Any) -> Served:
    """Return a served model; ``changes`` replace what it is."""
    about: dict[str, Any] = {
        "name": name,
        "aliases": (f"{name}@1.0.0",),
        "manifest": CID.of(name.encode(), Codec.JSON),
        "publisher": PUBLISHER,
        "created": 1_700_000_000,
        "size": 98_000_000,
        "capabilities": ALL,
        "context": 2048,
        "architecture": "llama",
        "format": "gguf",
        "quantization": "Q4_1",
        "parameters": 134_515_008,
        "license": "Apache-2.0",
        "state": "ready",
        "engine": "xllamacpp",
    }
    return Served(**(about | changes))


# -- how llama-server writes


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "completion_tokens": completion,
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def piece(*choices: dict[str, Any], **more: Any) -> bytes:
    """Write a piece of a chat's stream."""
    return event(
        {
            "choices": list(choices),
            "created": 1795672041,
            "id": "chatcmpl-Wfd4Hdu9bybKaRCshtbclhDjxaAIBHbO",
            "model": "alice/tiny",
            "system_fingerprint": "b0-unknown",
            "object": "chat.completion.chunk",
            **more,
        }
    )


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"finish_reason": finish, "index": index, "delta": fields}


DONE = b"data: [DONE]\n\n"
TIMINGS = {"prompt_ms": 416.478, "predicted_ms": 38.228, "predicted_n": 3}


def chat_stream(*words: str, prompt: int = 32, finish: str = "stop") -> list[Step]:
    """Write a chat's stream as llama-server does, its usage in an event of its own."""
    return [
        piece(delta(role="assistant", content=None)),
        *(piece(delta(content=word)) for word in words),
        piece(delta(finish=finish)),
        piece(usage=usage(prompt, len(words)), timings=TIMINGS),
        DONE,
    ]


def chat_whole(text: str, prompt: int = 32, n: int = 1, **message: Any) -> bytes:
    said = {"role": "assistant", "content": text} | message
    finish = "tool_calls" if "tool_calls" in message else "stop"
    value = {
        "choices": [{"finish_reason": finish, "index": at, "message": said} for at in range(n)],
        "created": 1795672041,
        "model": "alice/tiny",
        "object": "chat.completion",
        "usage": usage(prompt, 3),
        "id": "chatcmpl-71n5xIxgbiNzLvVanN5y0fBfgllZmNIH",
        "timings": TIMINGS,
    }
    return json.dumps(value).encode()


def text_piece(text: str, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    one = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
    about = {"created": 1, "model": "alice/tiny", "object": "text_completion", "id": "chatcmpl-f"}
    return event({"choices": [one], **about, **more})


def text_stream(*words: str) -> list[Step]:
    """Write the stream of a completion: the usage is in the last piece, beside its choice."""
    last = text_piece("", "length", usage=usage(5, len(words)), timings=TIMINGS)
    return [*(text_piece(word) for word in words), last, DONE]


def engine_error(code: int, kind: str, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "type": kind}}).encode()


TOO_LONG = engine_error(
    400,
    "exceed_context_size_error",
    "request (3030 tokens) exceeds the available context size (1024 tokens), try increasing it",
)


@dataclass(slots=True)
class Script:
    """What the engine does with one call."""

    steps: Sequence[Step]
    status: int = 200
    content_type: str = "text/event-stream"
    served_by: str = PEER


def whole(body: bytes, status: int = 200) -> Script:
    return Script([body], status, "application/json")


def speak(model: Served, call: Call) -> Script:
    """Answer as a well engine does, three words to whatever is asked."""
    body = json.loads(call.body)
    if call.endpoint == "embeddings":
        given = body["input"]
        count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
        data = [{"embedding": [0.5, -0.25, 1.0], "index": at} for at in range(count)]
        told = {"prompt_tokens": 7, "total_tokens": 7}
        return whole(json.dumps({"object": "list", "data": data, "usage": told}).encode())
    if call.endpoint == "completions":
        if call.stream:
            return Script(text_stream(" Paris", ".", " The"))
        one = {"text": " Paris. The", "index": 0, "logprobs": None, "finish_reason": "length"}
        return whole(json.dumps({"choices": [one], "usage": usage(5, 3), "id": "x"}).encode())
    if call.stream:
        return Script(chat_stream("Hel", "lo", "!"))
    return whole(chat_whole("Hello!", n=body.get("n", 1)))


# -- the two of them


@dataclass
class ScriptedInference:
    """An Inference whose engine does what ``script`` says; it keeps what it was asked."""

    models: list[Served] = field(default_factory=lambda: [served()])
    script: Callable[[Served, Call], Script] = speak
    slots: int = 8
    queue: int = 8
    fails: Exception | None = None
    """Raised by ``ask`` instead of an answer."""
    asked: list[tuple[Served, Call]] = field(default_factory=list)
    busy: int = 0
    waiting: int = 0
    begun: trio.Event = field(default_factory=trio.Event)
    freed: trio.Event = field(default_factory=trio.Event)
    _places: trio.Semaphore | None = None
    peer_id: str = PEER

    def served(self) -> Sequence[Served]:
        return self.models

    def find(self, name: str) -> Served:
        for model in self.models:
            if name in (model.name, *model.aliases, str(model.manifest)):
                return model
        raise NotFound(f"No model {name} is served.", next="There is alice/tiny.")

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of all calls."""
        return [json.loads(call.body) for _, call in self.asked]

    @asynccontextmanager
    async def ask(self, model: Served, call: Call) -> AsyncIterator[Answer]:
        self._places = self._places or trio.Semaphore(self.slots)
        if self.fails is not None:
            raise self.fails
        if self.busy >= self.slots and self.waiting >= self.queue:
            raise Busy("All places are taken.", retry_after=2.0)
        self.waiting += 1
        self.asked.append((model, call))
        try:
            async with self._places:
                self.busy += 1
                call.handed()
                self.begun.set()
                try:
                    script = self.script(model, call)
                    body = _play(script.steps)
                    yield Answer(script.status, script.content_type, body, script.served_by)
                finally:
                    self.busy -= 1
        finally:
            self.waiting -= 1
            self.freed.set()


async def _play(steps: Sequence[Step]) -> AsyncIterator[bytes]:
    for step in steps:
        if isinstance(step, trio.Event):
            await step.wait()
        elif isinstance(step, Exception):
            raise step
        else:
            yield step
            await trio.lowlevel.checkpoint()


class EngineInference:
    """An Inference over an engine that listens on a Unix socket, with nothing in between."""

    peer_id = PEER

    def __init__(self, socket: Path, models: list[Served]) -> None:
        self.models = models
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)),
            base_url="http://engine/v1/",
            timeout=60,
        )

    async def __aenter__(self) -> "EngineInference":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    def served(self) -> Sequence[Served]:
        return self.models

    def find(self, name: str) -> Served:
        for model in self.models:
            if name == model.name:
                return model
        raise NotFound(f"No model {name} is served.")

    @asynccontextmanager
    async def ask(self, model: Served, call: Call) -> AsyncIterator[Answer]:
        headers = {"content-type": "application/json"}
        async with self._client.stream(
            "POST", call.endpoint, content=call.body, headers=headers
        ) as answer:
            kind = answer.headers.get("content-type", "")
            yield Answer(answer.status_code, kind, answer.aiter_raw(), PEER)
