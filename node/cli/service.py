"""The node as a service of this machine: service."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.run import Run, verb

if TYPE_CHECKING:
    from node.config import Config


@click.group(epilog="\b\nExample:\n  allod service install")
def service() -> None:
    """Have this machine run the node: systemd on Linux, launchd on macOS."""


Command = Callable[..., int]


def _where(command: Command) -> Command:
    """Add the option that says whose service is meant."""
    return click.option(
        "--user/--system", "user", default=True,
        help="This user's own service, or the whole machine's.",
    )(command)  # fmt: skip


def _what(command: Command) -> Command:
    """Add the options that say what is in the unit."""
    command = click.option(
        "--writable", multiple=True, metavar="FOLDER", type=click.Path(path_type=Path),
        help="A folder that it may write into, too; may be given several times.",
    )(command)  # fmt: skip
    return click.option(
        "--run-as", metavar="USER", default="",
        help="With --system: the user that it runs as, never root.",
    )(command)  # fmt: skip


@verb(example="allod service show", group=service)
@_where
@_what
def show(run: Run, user: bool, run_as: str, writable: tuple[Path, ...]) -> int:
    """Print the unit that would be installed, and change nothing."""
    from node.service import make_plan

    plan = make_plan(run.config(), system=not user, run_as=run_as, writable=writable)
    text = plan.content.decode()
    found = {"ok": True, "manager": plan.manager, "file": str(plan.file), "unit": text}
    run.note(f"It would be {plan.file}.")
    return run.show(found, text.splitlines())


@verb(example="allod service install", group=service)
@_where
@_what
@click.option("--start/--no-start", default=True,
              help="Whether it starts now, or with the next session or start.")  # fmt: skip
def install(
    run: Run, user: bool, run_as: str, writable: tuple[Path, ...], start: bool
) -> int:  # fmt: skip
    """Have this machine run the node from now on, started anew when it dies.

    What `allod -c KEY=VALUE service install` sets, the service keeps. The same again brings an
    installed service up to date.
    """
    return install_for(run, run.config(), not user, run_as, writable, start=start)


def install_for(
    run: Run,
    config: "Config",
    system: bool = False,
    run_as: str = "",
    writable: tuple[Path, ...] = (),
    *,
    start: bool = True,
) -> int:
    """Install the service that runs the node with this configuration."""
    from node.presence import find_node
    from node.service import install, make_plan

    plan = make_plan(config, system=system, run_as=run_as, writable=writable)
    running = None if system else find_node(config.folders)
    ours = running is not None and running.pid == _pid(plan)
    if running is not None and not ours and start:
        run.note(f"A node runs here already, as process {running.pid}: the service starts after it"
                 " with the next session, or by hand.")  # fmt: skip
        start = False
    found = install(plan, start=start)
    if plan.manager == "systemd" and not system:
        run.note("It ends with your last session, unless: loginctl enable-linger")
    lines = [f"wrote {found['file']}", "the node runs" if start else "it starts later"]
    return run.show(found, lines)


def _pid(plan: Any) -> int | None:
    from node.service import service_state

    pid: int | None = service_state(plan)["pid"]
    return pid


@verb(example="allod service uninstall", group=service)
@_where
def uninstall(run: Run, user: bool) -> int:
    """Stop the service and forget it; what the node holds stays."""
    from node.service import uninstall

    found = uninstall(_plan(run, user))
    text = f"removed {found['file']}" if found["removed"] else "no service is installed"
    return run.show(found, [text])


@verb(example="allod service status", group=service)
@_where
def status(run: Run, user: bool) -> int:
    """Say whether the service is installed, and how it is."""
    from node.service import service_state

    found = service_state(_plan(run, user))
    if not found["installed"]:
        return run.show(found, ["not installed; `allod service install` does it"])
    lines = [
        f"file      {found['file']}",
        f"state     {found['state']}",
        f"process   {found['pid'] or '-'}",
        f"restarts  {found['restarts']}",
    ]
    return run.show(found, lines)


def _plan(run: Run, user: bool) -> Any:
    """The plan as far as its file's place and the manager's commands go."""
    from node.service import make_plan

    # Which user a system's service runs as stands in its file; nobody is the one who has no say.
    return make_plan(run.config(), system=not user, run_as="" if user else "nobody")
