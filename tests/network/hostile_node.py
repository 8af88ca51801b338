"""A real node on the real network that misbehaves as it is told: run as a program by the tests.

Store, host, DHT and answers are the real ones; only the bodies of ``/ipfs`` ranges are bent, and
with ``--raw`` every stream.
It prints its status when it serves, then ``{"did": MODE}`` when it first misbehaves.
Lines on stdin: ``gate N`` lets it send N bytes more, then it says ``{"did": ...}`` and waits;
``go`` opens the gate for good; ``count`` has it print how many bytes of bodies it has sent so far,
those counted too that were on their way to somebody who has gone.
"""

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio
from libp2p.abc import INetStream

from node.api.peer import PeerApi
from node.config import load_config
from node.messages import NoParams
from node.node import Node, open_node
from node.operations import OPERATIONS
from p2p.errors import PeerRefused
from p2p.host import HTTP
from p2p.http import FileBody, Request, Response

PIECE = 64 << 10  # bytes: small, so that a body has many places to go wrong
MODES = ("honest", "lie", "stall", "die", "long", "short", "fail", "busy")
RAW = ("endless-headers", "unsolicited", "silence", "garbage")


class Bent:
    """Answers as a node does, and then not quite."""

    def __init__(self, api: PeerApi, options: argparse.Namespace) -> None:
        self._api = api
        self._options = options
        self._told = False
        self._gate = options.gate
        self._opened = trio.Event()
        self.sent = 0

    async def __call__(self, request: Request) -> Response:
        altered = self._options.serve.get(request.path)
        if altered is not None:
            return Response(200, {}, altered)
        response = await self._api(request)
        if not request.path.startswith("/ipfs/"):
            return response
        mode = self._options.mode
        if mode == "fail":
            self.tell()
            raise RuntimeError("told to fail")
        if mode == "busy":
            self.tell()
            raise PeerRefused("Told to be busy.", status=429, retry_after=1.0)
        if not isinstance(response.body, FileBody):
            return response
        headers = dict(response.headers)
        if mode not in ("long", "short"):
            headers["content-length"] = str(response.body.length)
        return Response(response.status, headers, self._pieces(response.body))

    async def _pieces(self, body: FileBody) -> AsyncIterator[bytes]:
        """The body, bent; without a length in the head its size is free."""
        mode, options = self._options.mode, self._options
        if mode == "stall":
            self.tell()
            await trio.sleep_forever()
        length = body.length
        if mode == "short":
            self.tell()
            length //= 2
        with open(body.path, "rb") as file:  # noqa: ASYNC230  a test's node serves a test
            file.seek(body.offset)
            while length:
                while self._gate is not None and self.sent >= self._gate:
                    self.tell()
                    await self._opened.wait()
                data = file.read(min(length, PIECE))
                length -= len(data)
                self.sent += len(data)
                if mode == "die" and self.sent > options.after:
                    self.tell()
                    os._exit(1)
                if mode == "lie" and self.sent > options.after:
                    self.tell()
                    data = bytes([data[0] ^ 1]) + data[1:]
                yield data
        if mode == "long":
            self.tell()
            yield bytes(PIECE)

    def move_gate(self, more: int | None) -> None:
        """Let so many more bytes through, or all that come."""
        self._gate = None if more is None else self.sent + more
        self._told = False
        self._opened.set()
        self._opened = trio.Event()

    def tell(self) -> None:
        """Say once that it has begun."""
        if not self._told:
            self._told = True
            print(json.dumps({"did": self._options.raw or self._options.mode}), flush=True)


async def raw_stream(stream: INetStream, kind: str) -> None:
    """What this node does with a stream instead of speaking HTTP."""
    try:
        if kind == "unsolicited":
            await stream.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello" * 1000)
        if kind == "garbage":
            await stream.write(os.urandom(100_000))
        if kind == "endless-headers":
            await stream.read(1024)
            await stream.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                await stream.write(b"x-more: and more\r\n" * 1000)
        while await stream.read(65536):
            pass
        await trio.sleep_forever()
    except Exception:  # the other side has every right to reset such a stream
        await stream.reset()


async def listen(bent: Bent) -> None:
    """Obey the lines on stdin until there are no more."""
    rest = b""
    async for data in trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            match line.split():
                case [b"go"]:
                    bent.move_gate(None)
                case [b"gate", more]:
                    bent.move_gate(int(more))
                case [b"count"]:
                    print(json.dumps({"sent": bent.sent}), flush=True)


async def main(options: argparse.Namespace) -> None:
    """Serve until killed."""
    async with open_node(load_config(), network=True) as node:
        await serve(node, options)


async def serve(node: Node, options: argparse.Namespace) -> None:
    """Bend the node's answers, and tell that it is ready."""
    assert node.host is not None
    bent = Bent(PeerApi(node.store), options)
    node.host.set_handler(bent)
    if options.raw:

        async def handler(stream: INetStream) -> None:
            bent.tell()
            await raw_stream(stream, options.raw)

        node.host.set_stream_handler(HTTP, handler)
    status: dict[str, Any] = await OPERATIONS["status"].run(node, NoParams(), lambda event: None)
    print(json.dumps(status), flush=True)
    await listen(bent)
    await trio.sleep_forever()


def read_options() -> argparse.Namespace:
    """The command line: what this node does wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--after", type=int, default=0, help="bytes that it sends before")
    parser.add_argument("--gate", type=int, help="bytes that it sends before it waits for 'go'")
    parser.add_argument("--raw", choices=RAW, help="what it does with every stream")
    parser.add_argument(
        "--serve", nargs=2, action="append", default=[], metavar=("TARGET", "FILE"),
        help="answer a request for TARGET with the bytes of FILE",
    )  # fmt: skip
    options = parser.parse_args()
    options.serve = {target: Path(file).read_bytes() for target, file in options.serve}
    return options


if __name__ == "__main__":
    trio.run(main, read_options())
