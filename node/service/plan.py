"""Which file makes the node a service of this machine, what is in it, and which commands follow.

Looks at the machine and changes nothing.
"""

import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from node.config import Config, place_variables, user_units
from node.engine.engines import has_gpu
from node.service.unit import LABEL, NAME, STATE, Unit, launchd_list, systemd_unit
from node.settings import show_value
from p2p.errors import UsageError

Commands = tuple[tuple[str, ...], ...]

_HOMES: Final = ("/home", "/root", "/run/user")
_SYSTEM_UNITS: Final = Path("/etc/systemd/system")
_SHOWN: Final = "ActiveState,SubState,UnitFileState,MainPID,NRestarts"
_SYSTEM_DAEMONS: Final = Path("/Library/LaunchDaemons")


@dataclass(frozen=True, slots=True)
class Plan:
    """A service that is to be, or is: its file and content, and what the manager is told."""

    manager: Literal["systemd", "launchd"]
    system: bool
    file: Path
    content: bytes
    folders: tuple[Path, ...]
    """Must be there before it starts."""
    start: Commands
    enable: Commands
    """Without starting it now."""
    stop: Commands
    forget: Commands
    """After the file is gone."""
    state: tuple[str, ...]
    """Prints how it is."""


def make_plan(
    config: Config,
    *,
    system: bool = False,
    run_as: str = "",
    writable: Sequence[Path] = (),
    platform: str = sys.platform,
) -> Plan:
    """Work out the service for this configuration; UsageError where it cannot be one.

    ``system``: for the whole machine, as the user ``run_as``, with its folders in /var/lib/allod.
    ``writable``: more folders that it may write into.
    """
    account = _account(system, run_as)
    command = (sys.executable, "-P", "-m", "node.cli", *_chosen(config), "up")
    if system:
        variables, folders = {"ALLOD_HOME": STATE}, []
        store = config.store.folder
        chosen = config.origins.get("store.folder") == "on the command line"
        may_write = [STATE, *([str(store)] if chosen else [])]
    else:
        variables = place_variables()
        folders = _own_folders(config)
        may_write = [account.pw_dir, *_outside(folders, Path(account.pw_dir))]
    unit = Unit(
        command=command,
        variables=variables,
        user=run_as if system else "",
        home=account.pw_dir,
        writable=(*may_write, *(str(path.absolute()) for path in writable)),
        namespaces=system or _namespaces(),
        gpu=has_gpu(),
        in_home=any(path.startswith(_HOMES) for path in (sys.prefix, sys.base_prefix, __file__)),
    )
    made = _launchd if platform == "darwin" else _systemd
    return made(unit, system, tuple(folders))


def _account(system: bool, run_as: str) -> pwd.struct_passwd:
    if not system:
        if run_as:
            raise UsageError("--run-as goes with --system: a user's own service runs as that user.")
        return pwd.getpwuid(os.getuid())
    if not run_as:
        raise UsageError(
            "A service of the whole machine expects the user that it runs as.",
            next="Make one with `useradd --system allod`, and give `--run-as allod`.",
        )
    try:
        account = pwd.getpwnam(run_as)
    except KeyError as exc:
        raise UsageError(
            f"There is no user {run_as[:80]!r} on this machine.",
            next=f"Make one with `useradd --system {run_as[:32]}`.",
        ) from exc
    if account.pw_uid == 0:
        raise UsageError("A node does not run as root.", next="Give `--run-as` an ordinary user.")
    return account


def _chosen(config: Config) -> list[str]:
    """The configuration keys that the command line set: the service keeps them."""
    given = [key for key, origin in config.origins.items() if origin == "on the command line"]
    return [word for key in given for word in ("-c", f"{key}={show_value(config.value(key))}")]


def _own_folders(config: Config) -> list[Path]:
    folders = config.folders
    found = [folders.data, folders.keys, folders.logs, folders.run, folders.config_file.parent]
    return [*found, config.store.folder]


def _outside(folders: Sequence[Path], home: Path) -> list[str]:
    outer = {path for path in folders if not path.is_relative_to(home)}
    return sorted(str(path) for path in outer if not outer & set(path.parents))


def _namespaces() -> bool:
    """Whether an ordinary user's manager may narrow the file system of what it starts."""
    if sys.platform != "linux":
        return False
    forbid = (
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),  # Debian
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),  # Ubuntu since 23.10
    )
    return not any(_says(path, text) for path, text in forbid)


def _says(path: str, text: str) -> bool:
    try:
        return Path(path).read_text().strip() == text
    except OSError:
        return False


def _systemd(unit: Unit, system: bool, folders: tuple[Path, ...]) -> Plan:
    control = ("systemctl",) if system else ("systemctl", "--user")
    service = f"{NAME}.service"
    reload = (*control, "daemon-reload")
    return Plan(
        manager="systemd",
        system=system,
        file=(_SYSTEM_UNITS if system else user_units()) / service,
        content=systemd_unit(unit).encode(),
        folders=folders,
        start=(reload, (*control, "enable", service), (*control, "restart", service)),
        enable=(reload, (*control, "enable", service)),
        stop=((*control, "disable", "--now", service),),
        forget=(reload,),
        state=(*control, "show", service, f"--property={_SHOWN}"),
    )


def _launchd(unit: Unit, system: bool, folders: tuple[Path, ...]) -> Plan:
    domain = "system" if system else f"gui/{os.getuid()}"
    place = _SYSTEM_DAEMONS if system else Path.home() / "Library" / "LaunchAgents"
    file = place / f"{LABEL}.plist"
    return Plan(
        manager="launchd",
        system=system,
        file=file,
        content=launchd_list(unit),
        folders=folders,
        start=(("launchctl", "bootstrap", domain, str(file)),),
        enable=(("launchctl", "enable", f"{domain}/{LABEL}"),),
        stop=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        forget=(),
        state=("launchctl", "print", f"{domain}/{LABEL}"),
    )


def can_install(plan: Plan) -> None:
    """Raise UsageError where this machine, or this user, cannot have that service."""
    program = plan.start[0][0]
    if shutil.which(program) is None:
        raise UsageError(
            f"This machine has no {program}, so {plan.manager} does not run here.",
            next="`allod service show` prints the unit; or use a container.",
        )
    if plan.system and os.geteuid() != 0:
        raise UsageError(
            "A service of the whole machine is installed by root, and this is not root.",
            next="Run it again with sudo, or leave --system out for a service of your own.",
        )
