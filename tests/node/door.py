"""A control API on a real port with operations that tests can steer, for several test files."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import trio

from node.api.control import control_routes
from node.api.loopback import STALL, loopback_app, serve_loopback
from node.client import BareNode
from node.config import load_config
from node.messages import NoParams, Note, Progress, RefParams, Report
from node.operations import OPERATIONS, Node, Operation
from node.presence import announce_node
from p2p.errors import NotFound

TOKEN = "the-token-of-this-test"


@dataclass
class Story:
    """What the operations of this test did."""

    started: trio.Event = field(default_factory=trio.Event)
    cancelled: trio.Event = field(default_factory=trio.Event)
    go_on: trio.Event = field(default_factory=trio.Event)


@dataclass
class Door:
    """A served control API."""

    port: int
    story: Story

    async def talk(self, raw: bytes) -> bytes:
        """Send bytes as they are; return all that comes back until the server closes."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            with trio.fail_after(60):
                answer = b""
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_send_all, stream, raw)
                    try:
                        async for piece in stream:
                            answer += piece
                    except trio.BrokenResourceError:  # a reset after the answer
                        pass
                    nursery.cancel_scope.cancel()
                return answer

    async def post(
        self, name: str, body: bytes = b"{}", **headers: str | None
    ) -> tuple[int, bytes]:
        """POST with good headers, some of them replaced or left out; return status and body."""
        answer = await self.talk(request(f"/control/v1/{name}", body, self.port, **headers))
        return split(answer)


async def _send_all(stream: trio.SocketStream, raw: bytes) -> None:
    with suppress(trio.BrokenResourceError):  # it answered without having read all
        await stream.send_all(raw)


def request(path: str, body: bytes, port: int, **headers: str | None) -> bytes:
    """Write a request whose headers are good but for the ones given."""
    all_headers: dict[str, str | None] = {
        "host": f"127.0.0.1:{port}",
        "authorization": f"Bearer {TOKEN}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
    method = all_headers.pop("method", "POST")
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in all_headers.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode() + body


def split(answer: bytes) -> tuple[int, bytes]:
    """Return an answer's status and its body, chunks joined."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        joined = b""
        while body:
            size, _, rest = body.partition(b"\r\n")
            joined, body = joined + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        body = joined
    return int(head.split()[1]), body


def lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines() if line]


def table(story: Story) -> dict[str, Operation[Any]]:
    async def echo(node: Node, params: RefParams, report: Report) -> dict[str, Any]:
        report(Note("hello"))
        report(Progress("count", 1, 2))
        await trio.to_thread.run_sync(report, Note("from a thread"))
        return {"ok": True, "ref": params.ref}

    async def wait(node: Node, params: NoParams, report: Report) -> dict[str, Any]:
        report(Note("waiting"))
        story.started.set()
        try:
            await story.go_on.wait()
        except trio.Cancelled:
            story.cancelled.set()
            raise
        return {"ok": True}

    async def missing(node: Node, params: NoParams, report: Report) -> dict[str, Any]:
        raise NotFound("It is not here.", next="Look there.")

    async def broken(node: Node, params: NoParams, report: Report) -> dict[str, Any]:
        async with trio.open_nursery():
            raise KeyError("a bug")

    async def flood(node: Node, params: NoParams, report: Report) -> dict[str, Any]:
        for i in range(100_000):
            report(Note(f"{i} " + "x" * 100))
        return {"ok": True}

    return {
        "echo": Operation("echo", RefParams, echo, "nothing"),
        "wait": Operation("wait", NoParams, wait, "nothing"),
        "unpin": Operation("unpin", NoParams, wait, "nothing"),  # so that a command can wait
        "missing": Operation("missing", NoParams, missing, "nothing"),
        "broken": Operation("broken", NoParams, broken, "nothing"),
        "flood": Operation("flood", NoParams, flood, "nothing"),
        "config.get": OPERATIONS["config.get"],
        "config.set": OPERATIONS["config.set"],
        "config.unset": OPERATIONS["config.unset"],
        "key.export": OPERATIONS["key.export"],
    }


@asynccontextmanager
async def serving(
    home: Path, more: Mapping[str, Operation[Any]] | None = None, *, stall: float = STALL
) -> AsyncIterator[Door]:
    """Serve the steerable operations, and ``more``, as the running node of ``home``."""
    story = Story()
    config = load_config(environ={"ALLOD_HOME": str(home)})
    operations = table(story) | dict(more or {})
    routes = control_routes(cast(Node, BareNode(config)), TOKEN, operations=operations)
    async with trio.open_nursery() as nursery:
        serve = partial(serve_loopback, loopback_app(routes), 0, stall=stall)
        url = await nursery.start(serve)
        with announce_node(config, http=url, token=TOKEN):
            yield Door(urlsplit(url).port or 0, story)
        nursery.cancel_scope.cancel()
