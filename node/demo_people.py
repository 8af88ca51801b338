"""The people of the demo: each with a home of their own, who type commands and run nodes.

Everything goes through the same commands that a person types; their ``--json`` answers are what is
checked.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from node.asking import Door
from node.config import child_environ, load_config
from p2p.errors import AllodError

START_WITHIN = 60.0  # seconds for a node to say that it serves; usually three
FIND_WITHIN = 60.0  # seconds for the DHT to tell of a release
KILL_AT = 0.4  # of the bytes: where the fetch is killed

Json = dict[str, Any]


class DemoFailed(AllodError):
    """A step of the demo did not do what it promises."""


class Person:
    """Somebody with a node's home of their own, who types commands."""

    def __init__(self, home: Path, bootstrap: str, *, line: str = "none") -> None:
        self.name = home.name
        self._environ = child_environ(home)
        self._home = home
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            "[p2p]\nport = 0\nmdns = false\nlisten = ['127.0.0.1']\n"
            f"bootstrap = ['{bootstrap}']\n[http]\nport = 0\n[limits]\ndown = '{line}'\n"
        )

    @contextmanager
    def node(self) -> Iterator[Json]:
        """Run ``allod up``; yields its status."""
        with running_process(
            ["-m", "node.cli", "up", "--json"], self._home, self._environ
        ) as running:
            yield _ready_line(running, f"{self.name}'s node", self._home)

    def run(self, *words: str, fails: int = 0) -> Json:
        """Run one command to its end and return what ``--json`` printed."""
        done = subprocess.run(
            [sys.executable, "-m", "node.cli", *words, "--json"],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != fails:
            raise DemoFailed(
                f"allod {words[0]} of {self.name} ended with {done.returncode}: "
                f"{(done.stdout + done.stderr).strip()[-600:]}"
            )
        answer: Json = json.loads(done.stdout)
        return answer

    def door(self) -> Door:
        """Where this person's node answers programs."""
        return Door.of(load_config(environ=self._environ))

    def fetch(self, manifest: str) -> Json:
        """Fetch, trying again while the news of the release is still on its way."""
        begin = time.monotonic()
        while True:
            start = time.monotonic()
            try:
                got = self.run("fetch", manifest)
            except DemoFailed:
                if time.monotonic() > begin + FIND_WITHIN:
                    raise
                continue
            return got | {"seconds": time.monotonic() - start}

    def fetch_and_die(self, manifest: str) -> int:
        """Start a fetch, kill it with SIGKILL in the middle; how many bytes it said it had."""
        command = [sys.executable, "-m", "node.cli", "fetch", manifest, "--json"]
        process = subprocess.Popen(
            command, env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                progress = _progress(line)
                if progress and KILL_AT < progress["done"] / progress["total"] < 1:
                    return int(progress["done"])
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
        raise DemoFailed("The fetch ended before it could be killed.")


def _progress(line: str) -> Json | None:
    try:
        event = json.loads(line).get("progress")
    except ValueError:
        return None
    return event if event and event["phase"] == "fetch" and event["total"] else None


@contextmanager
def bootstrap_server(home: Path) -> Iterator[str]:
    """Run a bootstrap server; yields the address at which it is reached."""
    home.mkdir()
    words = ["-m", "bootstrap", "--json", "--port", "0", "--http-port", "0", "--home", str(home)]
    words += ["--listen", "127.0.0.1"]
    with running_process(words, home, child_environ(home)) as running:
        yield _ready_line(running, "the bootstrap server", home)["addresses"][0]


@contextmanager
def running_process(words: list[str], home: Path, environ: dict[str, str]) -> Iterator[Any]:
    """Run Python with these words for the block."""
    with (home / "stderr.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *words], env=environ, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def _ready_line(process: Any, who: str, home: Path) -> Json:
    """Return the JSON object that a server prints when it serves."""
    stream: IO[str] = process.stdout
    line = stream.readline()
    if not line:
        log = (home / "stderr.txt").read_text().strip()[-600:]
        raise DemoFailed(f"{who.capitalize()} did not start: {log}")
    answer: Json = json.loads(line)
    return answer


def check(holds: bool, promise: str) -> None:
    """Raise DemoFailed unless a step did what it promises."""
    if not holds:
        raise DemoFailed(f"The demo expected that {promise}, and that is not so.")
