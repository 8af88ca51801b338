"""Making the node a service, and undoing it: a file, and what the service manager is told.

All functions block.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

from node.service.plan import Plan, can_install
from node.service.unit import MARK
from p2p.errors import AllodError, ReadOnly, UsageError

Json = dict[str, Any]

TELL_WITHIN: Final = 120.0
"""Seconds that a service manager may take; a node that starts after a power cut takes longer, and
then goes on starting."""
MAX_SAID: Final = 300
"""Characters of what a service manager answers that are shown."""


def install(plan: Plan, *, start: bool) -> Json:
    """Write the file and have it take effect; ``start``: now, and not only with the next session.

    The same again brings an installed service up to date. UsageError, ReadOnly, AllodError.
    """
    can_install(plan)
    _check_ours(plan.file)
    for folder in plan.folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = plan.file.exists()
    _write(plan.file, plan.content)
    if before and start and plan.manager == "launchd":
        _tell(*plan.stop, may_fail=True)  # it reads the file when it is loaded
    _tell(*(plan.start if start else plan.enable), wrote=plan.file)
    return {"ok": True, "manager": plan.manager, "file": str(plan.file), "started": start}


def uninstall(plan: Plan) -> Json:
    """Stop the service and remove its file; the node's own folders stay as they are."""
    can_install(plan)
    if not plan.file.exists():
        return {"ok": True, "manager": plan.manager, "file": str(plan.file), "removed": False}
    _check_ours(plan.file)
    _tell(*plan.stop, may_fail=True)  # it may be stopped already
    try:
        plan.file.unlink(missing_ok=True)
    except OSError as exc:
        raise ReadOnly(f"{plan.file} cannot be removed: {exc.strerror}.") from exc
    _tell(*plan.forget, may_fail=True)
    return {"ok": True, "manager": plan.manager, "file": str(plan.file), "removed": True}


def service_state(plan: Plan) -> Json:
    """Say whether it is installed, whether its file is as this Allod would write it, and runs."""
    try:
        content = plan.file.read_bytes()
    except OSError:
        content = b""
    state = ""
    if content:
        try:
            state = _run(plan.state)
        except AllodError as exc:
            state = exc.message
    found = dict(re.findall(r"^\s*(ActiveState|SubState|MainPID|NRestarts|state|pid) ?= ?(\S+)",
                            state, re.MULTILINE))  # fmt: skip
    return {
        "ok": True,
        "manager": plan.manager,
        "file": str(plan.file),
        "installed": bool(content),
        "current": content == plan.content,
        "state": found.get("ActiveState") or found.get("state") or "unknown",
        "pid": int(found.get("MainPID") or found.get("pid") or 0) or None,
        "restarts": int(found.get("NRestarts", 0)),
    }


def _check_ours(file: Path) -> None:
    """Refuse to touch a file that somebody else wrote."""
    try:
        text = file.read_bytes()[:4096]
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ReadOnly(f"{file} cannot be read: {exc.strerror}.") from exc
    if MARK.encode() not in text:
        raise UsageError(
            f"{file} is there already, and `allod service install` did not write it.",
            next="Move it away first.",
        )


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.chmod(0o644)
        temporary.replace(file)
    except OSError as exc:
        raise ReadOnly(f"{file} cannot be written: {exc.strerror}.") from exc


def _tell(*commands: tuple[str, ...], may_fail: bool = False, wrote: Path | None = None) -> None:
    for number, command in enumerate(commands):
        try:
            _run(command)
        except AllodError as exc:
            if may_fail:
                continue
            rest = " && ".join(" ".join(one) for one in commands[number:])
            said = f"{wrote} was written, but then: {exc.message}" if wrote else exc.message
            raise AllodError(said, next=f"Look why, then: {rest}") from exc


def _run(command: tuple[str, ...]) -> str:
    """Run one command of the service manager and return what it prints; AllodError if it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TELL_WITHIN, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise AllodError(f"`{' '.join(command)}` takes longer than {TELL_WITHIN:g} s.") from exc
    except OSError as exc:
        raise AllodError(f"`{command[0]}` cannot be run: {exc.strerror}.") from exc
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", " ")
        text = f"`{' '.join(command)}` failed"
        raise AllodError(f"{text}: {said[:MAX_SAID].rstrip('.')}." if said else f"{text}.")
    return done.stdout.decode(errors="replace")
