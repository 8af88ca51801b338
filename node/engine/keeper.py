"""The keeper of an engine: starts it confined, and sees that it never outlives the node.

``python -I -m node.engine.keeper PLAN`` with the plan as JSON: ``argv``, ``env``, ``cwd``, and the
fields of a ``Confinement``. The keeper's stdin is a pipe that the node holds open and never writes
to: when it ends, the node has stopped the engine or is dead, and the engine is told to stop, then
killed. What it started is killed after it, also what left its group: orphans become the keeper's
children. Where it is the keeper that is killed, the kernel kills the engine.
(The kernel can't be asked to watch the node itself: it would watch the thread that started us.)

The engine's output goes where the keeper's goes, its exit code is the keeper's: 128 + n for a
signal n, 126 where it could not be confined, 127 where it could not be executed.
"""

import json
import os
import select
import signal
import sys
from contextlib import suppress
from typing import Any, Final

from node.engine.confine import Confinement, adopt_orphans, confine, die_with

PATIENCE: Final = 2.0
"""Seconds between asking an engine to stop and killing it: it has nothing to save."""
LOOK_AGAIN: Final = 0.05
"""Seconds until what was killed is looked for again: it may have started another meanwhile."""
NOT_CONFINED: Final = 126
NOT_FOUND: Final = 127


def main(plan: dict[str, Any]) -> int:
    """Run the engine to its end, or to the end of stdin; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the node's business
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wake, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    adopt_orphans()
    keeper = os.getpid()
    engine = os.fork()
    if engine == 0:
        _become(plan, keeper)
    status = _wait(engine, wake)
    with suppress(ProcessLookupError, PermissionError):  # whatever it started
        os.killpg(engine, signal.SIGKILL)
    _end_descendants(wake)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _wait(engine: int, wake: int) -> int:
    """Wait for the engine to end; stop it once stdin has ended."""
    asked = False
    while True:
        watched = [wake] if asked else [wake, sys.stdin.fileno()]
        ready, _, _ = select.select(watched, [], [], PATIENCE if asked else None)
        if wake in ready:
            os.read(wake, 512)
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:  # the engine, or an orphan of its
            if ended[0] == engine:
                return ended[1]
        if asked and not ready:
            with suppress(ProcessLookupError):
                os.killpg(engine, signal.SIGKILL)
        elif not asked and sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 512):
            asked = True
            with suppress(ProcessLookupError):
                os.killpg(engine, signal.SIGTERM)


def _end_descendants(wake: int) -> None:
    """Kill whatever is left below this process, until nothing is."""
    while True:
        for pid in _descendants():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            select.select([wake], [], [], LOOK_AGAIN)
            with suppress(BlockingIOError):
                os.read(wake, 512)
            continue
        return


def _descendants() -> list[int]:
    """The processes below this one; none where there is no /proc to tell."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:
                # Before the last ")" is the name, which may be anything; then state, and parent.
                parents[int(name)] = int(stream.read(4096).rpartition(b")")[2].split()[1])
    below = [os.getpid()]
    for pid in below:
        below += [child for child, parent in parents.items() if parent == pid]
    return below[1:]


def _become(plan: dict[str, Any], keeper: int) -> None:
    """Turn this process, a child just made, into the engine; never returns."""
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.closerange(3, 256)
        os.chdir(plan["cwd"])
        rules: Any = plan["rules"]
        confine(Confinement(**{name: _frozen(value) for name, value in rules.items()}))
        die_with(keeper)
    # Whatever it is that failed: an engine that is not confined does not run.
    except BaseException as exc:
        os.write(2, f"It could not be confined: {exc}\n".encode())
        os._exit(NOT_CONFINED)
    try:
        os.execve(plan["argv"][0], plan["argv"], plan["env"])
    except OSError as exc:
        os.write(2, f"{plan['argv'][0]} could not be executed: {exc.strerror}\n".encode())
    os._exit(NOT_FOUND)


def _frozen(value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
