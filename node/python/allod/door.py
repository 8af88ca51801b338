"""Where the node of this machine answers; where none runs, one is started beside this process.

The node is a process of its own, so that this one may fork, and use threads, as it likes. It ends
with the process that started it. Another process that comes meanwhile uses the same node: who
looks for one holds a lock on a file in the ``run`` folder until it answers, or is gone.
"""

import atexit
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from allod.errors import Error, NodeUnavailable, StorageFailed, make_error, of_node
from node.config import Config, load_config
from node.presence import Presence, find_node
from p2p.errors import AllodError

START_WITHIN: Final = 60.0
"""Seconds for a node to start, or to end; it takes two on a small machine."""
MAX_LINE: Final = 1 << 20
"""Bytes of the line with which a node says that it serves."""

_log = logging.getLogger("allod")
_lock = threading.Lock()
_started: dict[Path, subprocess.Popen[bytes]] = {}  # by the node's run folder
_owner = os.getpid()  # whose the started ones are; a forked child only uses them


@dataclass(frozen=True, slots=True)
class Door:
    """Where the node answers, and what it wants to hear."""

    config: Config = field(repr=False)
    presence: Presence

    @property
    def url(self) -> str:
        """Return the node's URL, without a final slash."""
        return self.presence.http

    @property
    def headers(self) -> dict[str, str]:
        """Return the header that the door wants."""
        return {"Authorization": f"Bearer {self.config.token or self.presence.token()}"}


def find_door(refused: Door | None = None) -> Door:
    """Return the door of the running node; one is started if none runs.

    ``refused``: where nothing listened a moment ago. Blocks while a node starts, some seconds.
    ``InvalidRequest`` for a wrong configuration, else what kept the node from starting.
    """
    try:
        config = load_config()
    except AllodError as exc:
        raise of_node(exc) from exc
    dead = refused.presence if refused else None
    found = find_node(config.folders)
    if found is None or found == dead:
        found = _start(config, dead)
    return Door(config, found)


def find_again(lost: Door, *, refused: bool) -> Door:
    """Return the door to ask after one was lost: the same one, if its node runs on.

    ``refused``: nothing listens there any more. Waits for a program that is just ending its node.
    """
    with _lock, _alone(lost.config.folders.run):
        found = find_node(lost.config.folders)
    return lost if found == lost.presence and not refused else find_door(lost)


def _start(config: Config, dead: Presence | None) -> Presence:
    run = config.folders.run
    with _lock, _alone(run):
        found = find_node(config.folders)
        if found is not None and found != dead:
            return found  # another process, or thread, was faster
        _log.info("No node runs here, so one runs for as long as this program does.")
        _started[run] = _run_node()
        found = find_node(config.folders)
    if found is None:
        raise NodeUnavailable("The node that was started went away at once.", code="NO_NODE")
    return found


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Hold the lock of those who start and end nodes."""
    try:
        run.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (run / "python.lock").open("wb")
    except OSError as exc:
        raise StorageFailed(f"{run} cannot be written: {exc.strerror}.", code="STORE") from exc
    with lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # goes with the file, and with the process
        yield


def _run_node() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        # -P: a module of the working directory must not stand in for one of ours.
        [sys.executable, "-P", "-m", "allod.runner", "-c", "http.port=0"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this program, not for the node
    )  # fmt: skip
    assert process.stdout is not None
    late = threading.Timer(START_WITHIN, process.kill)
    late.daemon = True
    late.start()
    line = process.stdout.readline(MAX_LINE)
    late.cancel()
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return process
        error = answer["error"]
        problem = make_error(error["code"], error["message"], error["next"])
    except (ValueError, KeyError, TypeError):
        problem = NodeUnavailable(
            "No node could be started.", code="NO_NODE", next="`allod up` says why."
        )
    _end(process)
    raise problem


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(START_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


@atexit.register
def _end_all() -> None:
    """End the nodes that this process started."""
    if os.getpid() != _owner:
        return
    while _started:
        run, process = _started.popitem()
        try:
            with _alone(run):  # who looks for a node waits until this one has let go of the store
                _end(process)
        except Error:
            _end(process)


def _after_fork() -> None:
    """In a forked child: what the parent started is the parent's, and its locks mean nothing."""
    global _lock, _owner
    _lock = threading.Lock()
    _owner = os.getpid()
    _inherited.extend(_started.values())
    _started.clear()


_inherited: list[subprocess.Popen[bytes]] = []  # kept, or Python would warn that they still run
os.register_at_fork(after_in_child=_after_fork)
