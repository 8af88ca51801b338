"""Programs under a keeper, for the tests of confinement and of the keeper itself."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from node.engine.confine import QUIET_DEVICES, Confinement, usual_places

HANG = 60  # seconds; only stops a hang


def rules(**changes: Any) -> Confinement:
    """The confinement of an engine that is given nothing."""
    usual: dict[str, Any] = {"memory": None, "readable": usual_places(), "devices": QUIET_DEVICES}
    return Confinement(**(usual | changes))


def start(code: str, confinement: Confinement | None = None) -> subprocess.Popen[str]:
    """Start Python code under a keeper; its stdin is the pipe that keeps it alive."""
    plan = {
        "argv": [sys.executable, "-I", "-c", code],
        "env": {"PATH": "/usr/bin"},
        "cwd": "/",
        "rules": asdict(confinement or rules()),
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "node.engine.keeper", json.dumps(plan)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(code: str, confinement: Confinement | None = None) -> tuple[int, str]:
    """Run Python code to its end: exit code, and all that it printed."""
    with start(code, confinement) as process:
        out, err = process.stdout, process.stderr
        assert out is not None
        assert err is not None
        code_ = process.wait(HANG)
        return code_, out.read() + err.read()
