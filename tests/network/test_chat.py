"""A chat in a real terminal, with a real model."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.network.models import MODEL, publisher
from tests.network.people import Person

HANG = 60.0  # seconds; only stops a hang
PROMPT = ">>> "


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, fd: int, process: "subprocess.Popen[bytes]") -> None:
        self._fd = fd
        self.process = process
        self.shown = ""

    def until(self, pattern: str) -> str:
        """Read until something is shown that was not there yet; what came with it."""
        begin, end = len(self.shown), time.monotonic() + HANG
        while not re.search(pattern, self.shown[begin:]):
            ready, _, _ = select.select([self._fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.shown[-800:]!r}"
            self.shown += os.read(self._fd, 65536).decode(errors="replace")
        return self.shown[begin:]

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())


@contextmanager
def terminal(person: Person, *words: str) -> Iterator[Terminal]:
    """Run a command in a terminal of its own."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=person.environ | {"TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


async def test_a_chat_in_the_terminal(tmp_path: Path) -> None:
    """It streams, Ctrl-C ends an answer and not the chat, commands work, /exit ends it."""
    alice = await publisher(tmp_path / "alice")
    async with alice.node("--offline"):

        def chat() -> None:
            with terminal(alice, "run", MODEL, "--temperature", "0") as screen:
                screen.until(PROMPT)
                screen.type("/help\n")
                assert "/clear" in screen.until(PROMPT)
                screen.type("Tell a very long story about a whale.\n")
                screen.until(r"whale\.\s+\w+ \w+ \w+ \w+")  # behind what the terminal echoes
                os.kill(screen.process.pid, signal.SIGINT)
                assert "(stopped)" in screen.until(r"\(stopped\)[\s\S]*" + PROMPT)
                screen.type("/clear\n")
                screen.until(r"\(forgotten\)[\s\S]*" + PROMPT)
                screen.type("/nonsense\n")
                screen.until(r"There is no /nonsense[\s\S]*" + PROMPT)
                os.kill(screen.process.pid, signal.SIGINT)
                screen.until(r"once more[\s\S]*" + PROMPT)
                screen.type("/exit\n")
                assert screen.process.wait(HANG) == 0

        await trio.to_thread.run_sync(chat)
        [shown] = (await alice.run("ps"))["models"]
        assert shown["busy"] == 0
        async with alice.start("run", MODEL, "--max-tokens", "4") as piped:
            await piped.tell("What is the capital of France?")
            assert piped.process.stdin is not None
            await piped.process.stdin.aclose()
            assert (await piped.answer())["finish_reason"] == "length"
