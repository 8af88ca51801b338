"""A rival in a process of its own, told what to do by lines of JSON.

The process is ``python -m MODULE serve FOLDER HOME OPTION`` or ``... receive CARD HOME OPTION``.
It prints one line when it is ready, does a fetch for each line that it reads, and ends when there
are no more. The sender's line is the card that its receivers get, as a file: it may be long.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.gauge import kill_tree, memory
from tests.bench.works import Work

Json = dict[str, Any]
Fetch = Callable[[], float]
Serve = Callable[[Path, Path, str], AbstractContextManager[Json]]
Receive = Callable[[Json, Path, str], AbstractContextManager[Fetch]]

END_WITHIN = 10.0  # seconds for a process to end by itself


def run_agent(serve: Serve, receive: Receive) -> None:
    """Be the process."""
    role, what, home, option = sys.argv[1:]
    if role == "serve":
        with serve(Path(what), Path(home), option) as card:
            print(json.dumps(card), flush=True)
            sys.stdin.read()
    else:
        with receive(json.loads(Path(what).read_text()), Path(home), option) as fetch:
            print("{}", flush=True)
            for _ in sys.stdin:
                print(json.dumps({"seconds": fetch()}), flush=True)


class Agent:
    """The process as its parent sees it."""

    def __init__(self, module: str, role: str, what: str, home: Path, option: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", module, role, what, str(home), option]
        with (home / "stderr.txt").open("w") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._log = home / "stderr.txt"
        self.pid = self._process.pid
        self.card = self._hear()
        self.card_file = home / "card.json"
        self.card_file.write_text(json.dumps(self.card))
        self.idle = memory(self.pid)

    def fetch(self) -> float:
        """See Receiver.fetch."""
        assert self._process.stdin is not None
        self._process.stdin.write("fetch\n")
        self._process.stdin.flush()
        seconds: float = self._hear()["seconds"]
        return seconds

    def _hear(self) -> Json:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConnectionError(f"The process died: {self._log.read_text()[-800:]}")
        said: Json = json.loads(line)
        return said

    def close(self) -> None:
        """End it, gently if it lets itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            kill_tree(self.pid)
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def _running(module: str, role: str, what: str, home: Path, option: str) -> Iterator[Agent]:
    agent = Agent(module, role, what, home, option)
    try:
        yield agent
    finally:
        agent.close()


@dataclass
class AgentSender:
    """A sender that is one agent."""

    agent: Agent
    module: str
    option: str

    def __post_init__(self) -> None:
        self.pids = [self.agent.pid]
        self.idle = self.agent.idle
        self.publish: float | None = self.agent.card.get("publish")
        self.part: float = self.agent.card.get("part", 1.0)

    def receiver(self, home: Path) -> AbstractContextManager[Agent]:
        """See Sender.receiver."""
        return _running(self.module, "receive", str(self.agent.card_file), home, self.option)


@dataclass(frozen=True, slots=True)
class AgentRival:
    """A rival whose two ends are agents of the same module."""

    name: str
    module: str
    option: str = ""
    needs: tuple[str, ...] = ()
    """Python modules, all of which it needs."""
    programs: Callable[[], str] = str
    """Why it cannot run here, programs of other makes considered."""

    def missing(self) -> str:
        """See Rival.missing."""
        for name in self.needs:
            if importlib.util.find_spec(name) is None:
                return f"the Python module {name} is not installed"
        return self.programs()

    @contextmanager
    def share(self, work: Work, home: Path) -> Iterator[AgentSender]:
        """See Rival.share."""
        with _running(self.module, "serve", str(work.folder), home, self.option) as agent:
            yield AgentSender(agent, self.module, self.option)
