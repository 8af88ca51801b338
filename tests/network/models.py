"""Real models served by real nodes, for the tests: published in place, asked over HTTP."""

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import trio

from tests.models import smollm2_gguf
from tests.network.people import Node, Person

Json = dict[str, Any]

MODEL = "alice/smol"
PATIENCE = httpx.Timeout(90)  # seconds; only stops a hang
QUESTION = "What is the capital of France?"


def gguf_folder(folder: Path, *, copy: bool = False) -> Path:
    """A release's folder with SmolLM2 in it: as a link, or as a copy that may be damaged."""
    folder.mkdir(parents=True)
    place = shutil.copy if copy else os.link
    try:
        place(smollm2_gguf(), folder / "smol.gguf")
    except OSError:  # the cache lies on another file system
        shutil.copy(smollm2_gguf(), folder / "smol.gguf")
    return folder


async def publisher(home: Path, *, folder: Path | None = None, **config: str) -> Person:
    """Somebody who has published SmolLM2 as alice/smol; ``config``: keys of [serve]."""
    alice = Person(home)
    for key, value in config.items():
        await alice.run("config", "set", f"serve.{key}", value)
    await alice.run("key", "new", "alice")
    source = folder or gguf_folder(home.parent / f"{home.name}-source")
    await alice.run("publish", str(source), "--as", MODEL, "--license", "Apache-2.0")
    return alice


@asynccontextmanager
async def door(node: Node, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client of a node's HTTP door."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    url = node.status["http"]
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, headers=headers) as client:
        yield client


def question(text: str = QUESTION, *, tokens: int = 8, **more: Any) -> Json:
    """A request for a short answer that is always the same."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens, "temperature": 0, **more}


async def ask(client: httpx.AsyncClient, body: Json | None = None) -> httpx.Response:
    """Ask once, not streamed."""
    return await client.post("/v1/chat/completions", json=body or question())


async def events(response: httpx.Response) -> AsyncIterator[Json]:
    """The server-sent events of a streamed answer; ``{"done": true}`` for its end."""
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            yield {"done": True}
        elif line.startswith("data: "):
            yield json.loads(line[6:])


async def hang_up(node: Node, body: Json) -> None:
    """Ask for a stream, and close the connection when it begins."""
    where = urlsplit(node.status["http"])
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", where.port or 80) as stream:
        await stream.send_all(head.encode() + content)
        seen = b""
        while b"data: {" not in seen:
            data = await stream.receive_some()
            assert data, seen
            seen += data


def engines(node: Node) -> list[psutil.Process]:
    """The engines that run for a node, each under its keeper."""
    keepers = psutil.Process(node.running.process.pid).children()
    return [one for keeper in keepers for one in keeper.children()]
