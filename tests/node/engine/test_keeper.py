"""No engine outlives the node, whoever dies first."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from node.engine.keeper import NOT_CONFINED, NOT_FOUND
from tests.node.engine.kept import HANG, outcome, rules, start

PRINT_AND_WAIT = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
WITH_CHILD = (
    "import os, subprocess, sys, time; "
    "p = subprocess.Popen([sys.executable, '-I', '-c', 'import time; time.sleep(600)']); "
    "print(p.pid, flush=True); time.sleep(600)"
)


RUN_AWAY = (
    "import os, sys, time\n"
    "read, write = os.pipe()\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork(): os._exit(0)\n"
    "    print(os.getpid(), flush=True)\n"
    "    os.write(write, b'.')\n"
    "    for one in (1, 2): os.close(one)\n"
    "    time.sleep(600)\n"
    "os.read(read, 1)\n"
    "time.sleep(0 if {ends} else 600)\n"
)
"""An engine whose grandchild has a session of its own, and no parent.

It ends once the grandchild has said its number: sooner, that would be killed unheard.
"""


def told(process: "subprocess.Popen[str]") -> psutil.Process:
    """The process whose number was printed."""
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


@pytest.mark.parametrize("code", [PRINT_AND_WAIT, DEAF + PRINT_AND_WAIT, WITH_CHILD])
def test_the_engine_ends_when_the_pipe_does(code: str) -> None:
    """The node closes the pipe, or dies: the engine is told, then killed with its children."""
    with start(code, rules(processes=True)) as keeper:
        engine = told(keeper)
        assert keeper.stdin is not None
        keeper.stdin.close()
        assert keeper.wait(HANG) in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
        engine.wait(HANG)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux gives orphans to the keeper")
@pytest.mark.parametrize("ends", [True, False])
def test_what_left_the_engines_group_ends_with_it(ends: bool) -> None:
    """Whether the engine ends by itself or is ended: a daemon that it made does not outlive it."""
    free = rules(network="loopback", processes=True)
    with start(RUN_AWAY.format(ends=ends), free) as keeper:
        runaway = told(keeper)
        assert keeper.stdin is not None
        if not ends:
            keeper.stdin.close()
        keeper.wait(HANG)
        assert not runaway.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux can be asked")
def test_the_engine_dies_with_its_keeper() -> None:
    """Even when the keeper is killed at once."""
    with start(PRINT_AND_WAIT) as keeper:
        engine = told(keeper)
        keeper.kill()
        engine.wait(HANG)


def test_ctrl_c_is_not_for_the_engine() -> None:
    """SIGINT and SIGTERM to the keeper end nothing: the node decides."""
    with start(PRINT_AND_WAIT) as keeper:
        engine = told(keeper)
        keeper.send_signal(signal.SIGINT)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.stdin is not None
        assert engine.is_running()
        keeper.stdin.close()
        keeper.wait(HANG)


def test_exit_codes_are_the_engines() -> None:
    """Its own code, 128 and the signal, and two for what could not be started."""
    assert outcome("raise SystemExit(7)")[0] == 7
    assert outcome("import os; os.abort()")[0] == 128 + signal.SIGABRT
    code, said = outcome("", rules(network="loopback", memory=1))
    assert code in (NOT_CONFINED, NOT_FOUND, 127, 128 + signal.SIGKILL, 128 + signal.SIGSEGV), said
    assert _kept({"cwd": "/"}) == (NOT_FOUND, "/no/such could not be executed")
    assert _kept({"cwd": "/no/such"}) == (NOT_CONFINED, "It could not be confined")


def _kept(changes: dict[str, str]) -> tuple[int, str]:
    """Keep what is not there: the exit code, and the begin of what was said."""
    plan = {"argv": ["/no/such"], "env": {}, "rules": {"memory": None}} | changes
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "node.engine.keeper", json.dumps(plan)],
        stdin=subprocess.PIPE,  # open until the end: it is what keeps an engine alive
        stderr=subprocess.PIPE,
        text=True,
    ) as keeper:
        code = keeper.wait(HANG)
        assert keeper.stderr is not None
        return code, keeper.stderr.read().partition(":")[0]


def test_the_engine_holds_none_of_our_files() -> None:
    """It inherits stdout and stderr, and no other open file."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        code, said = outcome("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    finally:
        os.close(read)
        os.close(write)
    assert code == 0
    assert json.loads(said)[:3] == [0, 1, 2]
    assert len(json.loads(said)) <= 4  # one is the folder that it lists
