"""Allod, through the doors that a person uses: nodes of their own, the control API, the commands.

A fetch is timed from the request to a node that runs; ``tls-command`` is a whole ``allod fetch``,
from a cold start of the command, against such a node.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.client import ask
from node.config import child_environ, load_config
from node.messages import FetchParams, PublishParams
from node.presence import find_node
from p2p.errors import NoNode
from tests.bench.gauge import memory
from tests.bench.works import Work

KEY = "bench"
SETTINGS = {
    "tls": "",
    "plain": "[lane]\nencryption = 'off'\n",
    "stream": "[lane]\nenabled = false\n",
}


class Node:
    """An ``allod up`` that runs."""

    def __init__(self, home: Path, mode: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            "[p2p]\nport = 0\nmdns = false\nlisten = ['127.0.0.1']\n[http]\nport = 0\n"
            f"[store]\nreserve = '0'\nquota = 'none'\n{SETTINGS[mode]}"
        )
        self.home = home
        self.environ = child_environ(home)
        self._config = load_config(environ=self.environ)
        with (home / "stderr.txt").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node.cli", "up", "--json"],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConnectionError(f"It did not start: {(home / 'stderr.txt').read_text()[-800:]}")
        self.address: str = json.loads(line)["addresses"][0]
        self.pid = self._process.pid
        self.idle = memory(self.pid)

    def ask(self, name: str, params: object) -> dict[str, Any]:
        """Have it do something; OSError when it died."""
        presence = find_node(self._config.folders)
        assert presence is not None
        try:
            return ask(presence, self._config, name, params, lambda event: None)
        except NoNode as exc:
            raise ConnectionError(exc.message) from exc

    def close(self) -> None:
        """End it in order."""
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running(home: Path, mode: str) -> Iterator[Node]:
    """Run a node while the block lasts."""
    node = Node(home, mode)
    try:
        yield node
    finally:
        node.close()


@dataclass
class Fetcher:
    """A node that is about to fetch."""

    node: Node
    manifest: str
    peers: tuple[str, ...]
    command: bool

    def __post_init__(self) -> None:
        self.pid, self.idle = self.node.pid, self.node.idle

    def fetch(self) -> float:
        """See Receiver.fetch."""
        begin = time.perf_counter()
        if self.command:
            peers = [word for peer in self.peers for word in ("--peer", peer)]
            words = [sys.executable, "-m", "node.cli", "fetch", self.manifest, *peers, "--quiet"]
            subprocess.run(words, env=self.node.environ, check=True, stdout=subprocess.DEVNULL)
        else:
            self.node.ask("fetch", FetchParams(self.manifest, self.peers))
        return time.perf_counter() - begin


@dataclass
class Nodes:
    """The nodes that have it."""

    nodes: list[Node]
    manifest: str
    publish: float | None
    mode: str
    command: bool
    part: float = 1.0

    def __post_init__(self) -> None:
        self.pids = [node.pid for node in self.nodes]
        self.idle = self.nodes[0].idle

    @contextmanager
    def receiver(self, home: Path) -> Iterator[Fetcher]:
        """See Sender.receiver."""
        with running(home, self.mode) as node:
            peers = tuple(one.address for one in self.nodes)
            yield Fetcher(node, self.manifest, peers, self.command)


@dataclass(frozen=True, slots=True)
class Allod:
    """One way to use it."""

    name: str
    mode: str
    sources: int = 1
    command: bool = False

    def missing(self) -> str:
        """See Rival.missing."""
        return ""

    @contextmanager
    def share(self, work: Work, home: Path) -> Iterator[Nodes]:
        """Publish in place on one node; the others get its store, linked."""
        homes = [home / str(number) for number in range(self.sources)]
        with ExitStack() as stack:
            with running(homes[0], self.mode) as node:
                seconds, manifest = _publish(node, work)
            for copy in homes[1:]:  # while no node runs
                shutil.copytree(
                    homes[0] / "store", copy / "store", symlinks=True, copy_function=_link
                )
            nodes = [stack.enter_context(running(one, self.mode)) for one in homes]
            yield Nodes(nodes, manifest, seconds, self.mode, self.command)


def _publish(node: Node, work: Work) -> tuple[float, str]:
    """Publish a work on a node that has no key yet; the seconds and the manifest's CID."""
    words = [sys.executable, "-m", "node.cli", "key", "new", KEY, "--quiet"]
    subprocess.run(words, env=node.environ, check=True, stdout=subprocess.DEVNULL)
    begin = time.perf_counter()
    params = PublishParams(str(work.folder), work.name, key=KEY, license="CC0-1.0", kind="model")
    answer = node.ask("publish", params)
    return time.perf_counter() - begin, answer["manifest"]


def _link(source: str, target: str) -> None:
    """Share what never changes in place: the files themselves."""
    if "/blobs/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


RIVALS = [
    *(Allod(name, name) for name in SETTINGS),
    *(Allod(f"{name}-4", name, sources=4) for name in SETTINGS),
    Allod("tls-command", "tls", command=True),
]
