"""People on this machine: each with a home of their own, who type commands and run nodes.

Everything is a real process that speaks through its own command line, and nothing else is known of
it: the JSON on stdout, the events on stderr, the exit code.
A process ends with the block that started it, whatever happens, and nothing here waits by the
clock: a node has said that it is ready, an event has come, a process has ended.
"""

import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import trio

from node.config import child_environ

Json = dict[str, Any]

MIB = 1 << 20
LOG_TAIL = 3000  # characters of a process's stderr that a failed test shows


class Program:
    """A running process; what it prints is read all the time and kept."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.printed: list[str] = []
        self.logged: list[str] = []
        self._news = trio.Event()
        self._reading = 2

    def __repr__(self) -> str:
        return f"<{' '.join(map(str, self.process.args[1:]))}>"

    async def answer(self, number: int = 0) -> Json:
        """Wait for the JSON object on a line of stdout, the first one if no number is given."""
        await self._until(lambda: len(self.printed) > number)
        assert len(self.printed) > number, f"{self!r} said too little:\n{self.tail()}"
        found: Json = json.loads(self.printed[number])
        return found

    async def event(self, wanted: Callable[[Json], bool]) -> Json:
        """Wait for the first event of which ``wanted`` is true; the process must send one."""
        found: list[Json] = []

        def look() -> bool:
            found[:] = [event for event in self.events() if wanted(event)][:1]
            return bool(found)

        await self._until(look)
        assert found, f"{self!r} ended without the event:\n{self.tail()}"
        return found[0]

    async def says(self, words: str) -> str:
        """Wait for a line of its log with these words; the line."""
        await self._until(lambda: any(words in line for line in self.logged))
        found = [line for line in self.logged if words in line]
        assert found, f"{self!r} never said {words!r}:\n{self.tail()}"
        return found[0]

    async def fetched(self, share: float) -> Json:
        """Wait until a fetch says that it has this share of its bytes; its progress then."""

        def enough(event: Json) -> bool:
            seen = event.get("progress")
            return bool(
                seen and seen["phase"] == "fetch" and seen["done"] >= share * (seen["total"] or 1)
            )

        found: Json = (await self.event(enough))["progress"]
        return found

    def events(self) -> list[Json]:
        """The events so far; lines of stderr that are none are left out."""
        found = []
        for line in self.logged:
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    found.append(event)
        return found

    async def ended(self) -> int:
        """Wait for the end of the process and of what it prints; its exit code."""
        code = await self.process.wait()
        await self._until(lambda: False)
        return code

    async def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line.encode() + b"\n")

    async def stop(self) -> int:
        """End it in order, as Ctrl-C or a service manager would."""
        self.process.terminate()
        return await self.ended()

    async def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        await self.ended()

    def tail(self) -> str:
        """The end of what it logged, for the message of a failed test."""
        return "\n".join([*self.printed[-3:], *self.logged])[-LOG_TAIL:]

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds or there is nothing more to come."""
        while not holds() and self._reading:
            await self._news.wait()

    async def _read(self, stream: trio.abc.ReceiveStream, lines: list[str]) -> None:
        rest = b""
        async with stream:
            async for data in stream:
                *whole, rest = (rest + data).split(b"\n")
                lines += [line.decode(errors="replace") for line in whole]
                self._ring()
        if rest:
            lines.append(rest.decode(errors="replace"))
        self._reading -= 1
        self._ring()

    def _ring(self) -> None:
        self._news.set()
        self._news = trio.Event()


@asynccontextmanager
async def program(
    words: Sequence[str], environ: dict[str, str], within: Sequence[str] = ()
) -> AsyncIterator[Program]:
    """Run Python with these words for as long as the block lasts.

    ``within``: the words of a program that becomes it, such as one that enters a namespace.
    """
    process = await trio.lowlevel.open_process(
        [*within, sys.executable, *words], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environ
    )
    assert process.stdout is not None
    assert process.stderr is not None
    running = Program(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running._read, process.stdout, running.printed)
            nursery.start_soon(running._read, process.stderr, running.logged)
            try:
                yield running
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await process.wait()
        if process.stdin is not None:
            await process.stdin.aclose()


class Person:
    """Somebody with a home of their own, on loopback only, who types commands."""

    def __init__(self, home: Path, *bootstrap: str, reserve: str = "0") -> None:
        self.name = home.name
        self.home = home
        self.environ = child_environ(home)
        self.within: Sequence[str] = ()  # see program()
        home.mkdir(parents=True, exist_ok=True)
        known = ", ".join(f'"{address}"' for address in bootstrap)
        (home / "config.toml").write_text(
            '[p2p]\nport = 0\nmdns = false\nlisten = ["127.0.0.1"]\n'
            f"bootstrap = [{known}]\n[http]\nport = 0\n[store]\nreserve = '{reserve}'\n"
        )

    def start(self, *words: str) -> AbstractAsyncContextManager[Program]:
        """Start a command; it lives until it ends or the block does."""
        return program(["-m", "node.cli", *words, "--json"], self.environ, self.within)

    async def run(self, *words: str) -> Json:
        """Run a command that must succeed; what it answers."""
        async with self.start(*words) as command:
            code = await command.ended()
            assert code == 0, f"{self.name}: {command!r} ended with {code}:\n{command.tail()}"
            return await command.answer()

    async def refused(self, *words: str, code: int) -> Json:
        """Run a command that must fail with this exit code; the error, which is well made."""
        async with self.start(*words) as command:
            ended = await command.ended()
            assert ended == code, f"{self.name}: {command!r} ended with {ended}:\n{command.tail()}"
            return well_made(await command.answer(), command)

    @asynccontextmanager
    async def node(self, *words: str, wait: bool = True) -> AsyncIterator["Node"]:
        """Run ``allod up`` for as long as the block lasts.

        It serves when the block begins; without ``wait`` once its ``ready()`` has returned.
        """
        async with self.start("up", *words) as running:
            node = Node(running)
            if wait:
                await node.ready()
            yield node

    async def fetch_found(self, ref: str, *words: str) -> Json:
        """Fetch what was announced just now: again while the news of it is still on its way."""
        while True:
            async with self.start("fetch", ref, *words) as command:
                code = await command.ended()
                if code == 0:
                    return await command.answer()
                assert code in (3, 6), f"{self.name}: fetch ended with {code}:\n{command.tail()}"

    @asynccontextmanager
    async def hostile(self, *words: str, wait: bool = True) -> AsyncIterator["Node"]:
        """Run a node that misbehaves as it is told (hostile_node.py)."""
        async with program(["-m", "tests.network.hostile_node", *words], self.environ) as running:
            node = Node(running)
            if wait:
                await node.ready()
            yield node

    def take_store_of(self, other: "Person") -> None:
        """Hold what another person holds, as if fetched; neither may run a node meanwhile."""
        shutil.copytree(other.home / "store", self.home / "store", symlinks=True)

    async def publish(self, folder: Path, name: str, *words: str) -> Json:
        """Publish a folder under this person's key, made if it is not there."""
        if not (self.home / "keys" / "publishers" / self.name).exists():
            await self.run("key", "new", self.name)
        return await self.run("publish", str(folder), "--as", f"{self.name}/{name}", *words)


class Node:
    """A running node, and the status that it began with."""

    def __init__(self, running: Program) -> None:
        self.running = running
        self.status: Json = {}

    async def ready(self) -> None:
        """Wait until it says that it serves."""
        self.status = await self.running.answer()

    async def sent(self) -> int:
        """How many bytes of bodies a hostile node, which may be an honest one, has sent."""
        number = len(self.running.printed)
        await self.running.tell("count")
        count: int = (await self.running.answer(number))["sent"]
        return count

    @property
    def peer(self) -> str:
        """Its peer id."""
        peer: str = self.status["peer"]
        return peer

    @property
    def address(self) -> str:
        """Where others reach it."""
        address: str = self.status["addresses"][0]
        return address


def well_made(answer: Json, command: Program) -> Json:
    """The error of an answer: one clear sentence, no traceback anywhere."""
    error: Json = answer["error"]
    assert answer["ok"] is False
    assert "Traceback" not in command.tail()
    assert "should not" not in error["message"]  # what an unforeseen error says
    assert len(error["message"].splitlines()) == 1
    assert error["message"].endswith((".", "?", ")"))
    return error


def same_files(left: Path, right: Path) -> None:
    """Every file of ``right`` lies in ``left`` with the same bytes."""
    files = [file for file in right.rglob("*") if file.is_file()]
    assert files
    for file in files:
        other = left / file.relative_to(right)
        assert other.stat().st_size == file.stat().st_size, other
        with file.open("rb") as one, other.open("rb") as two:
            while data := one.read(MIB):
                assert two.read(MIB) == data, other


@asynccontextmanager
async def bootstrap(home: Path) -> AsyncIterator[Node]:
    """A bootstrap server."""
    person = Person(home)
    words = ["-m", "bootstrap", "--json", "--port", "0", "--http-port", "0"]
    words += ["--home", str(home), "--listen", "127.0.0.1"]
    async with program(words, person.environ) as running:
        node = Node(running)
        await node.ready()
        yield node
