"""What a service manager is told of a node: as a unit of systemd, as a property list of launchd.

The unit takes from the node what it never needs, and leaves what its engines do: they confine
themselves further (node/engine/confine.py), by landlock, seccomp and a network namespace of their
own, so these calls stay open; and what torch or a GPU's driver compiles must be executable, so
``MemoryDenyWriteExecute`` is left out.

Pure.
"""

import plistlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from p2p.errors import UsageError

NAME: Final = "allod"
LABEL: Final = "net.allod.node"
"""What launchd calls it."""
MARK: Final = "Written by `allod service install`"
"""Stands in every file that was, so that no other is overwritten or removed."""
OPEN_FILES: Final = 65_536
"""Files and connections at once: some 1,000 peers, with lanes and files that are sent."""
STOP_WITHIN: Final = 20
"""Seconds until a node that should end is killed; it takes less than five."""
WATCHDOG: Final = 180
"""Seconds without a sign of life after which systemd starts it again."""
WRONG_CONFIG: Final = 2
"""The exit code that another start would not change."""
STATE: Final = "/var/lib/allod"
"""The home of a node that is the whole machine's."""
SECRETS: Final = (".ssh", ".gnupg", ".aws", ".kube", ".password-store")
"""Below the home of the user: no business of a node's."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A service: its command line, whole, and the environment that finds its folders.

    ``user``: for the whole machine, as this user; empty: in the user's own session.
    ``home``: of that user. ``writable``: folders, absolute; elsewhere it writes nothing.
    ``namespaces``: whether the manager may give it file systems of its own.
    ``in_home``: whether its program lies below /home or /root.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    home: str = ""
    writable: tuple[str, ...] = ()
    namespaces: bool = True
    gpu: bool = False
    in_home: bool = False


# -- systemd


def systemd_unit(unit: Unit) -> str:
    """Write the unit; UsageError for a path that no unit can hold."""
    scope = "" if unit.user else "--user "
    lines = [
        f"# {MARK}. Change it by `systemctl {scope}edit {NAME}`.",
        "[Unit]",
        "Description=Allod node: AI models and datasets, from node to node",
        *_when(unit),
        "StartLimitIntervalSec=300",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={' '.join(_word(one, command=True) for one in unit.command)}",
        *(f"Environment={_word(f'{name}={text}')}" for name, text in unit.variables.items()),
        *_who(unit),
        "Restart=on-failure",
        "RestartSec=5",
        "# The configuration is wrong: starting again would not change that.",
        f"RestartPreventExitStatus={WRONG_CONFIG}",
        "# After a power cut it looks through the whole store first.",
        "TimeoutStartSec=infinity",
        f"TimeoutStopSec={STOP_WITHIN}",
        f"WatchdogSec={WATCHDOG}",
        "KillMode=mixed",
        f"LimitNOFILE={OPEN_FILES}",
        "LimitCORE=0",
        "UMask=0077",
        "",
        *_hardening(unit),
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if unit.user else 'default.target'}",
    ]
    return "\n".join(lines) + "\n"


def _when(unit: Unit) -> Iterator[str]:
    if unit.user:  # a user's manager knows nothing of the network
        yield "Wants=network-online.target"
        yield "After=network-online.target"


def _who(unit: Unit) -> Iterator[str]:
    if unit.user:
        yield f"User={unit.user}"
        yield f"StateDirectory={NAME}"
        yield "StateDirectoryMode=0700"


def _hardening(unit: Unit) -> Iterator[str]:
    yield "NoNewPrivileges=yes"
    yield "LockPersonality=yes"
    yield "RestrictRealtime=yes"
    yield "RestrictSUIDSGID=yes"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    yield "# Engines: some get a network of their own, all confine themselves by landlock."
    yield "RestrictNamespaces=user net"
    yield "SystemCallArchitectures=native"
    yield "SystemCallFilter=@system-service"
    yield ("SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule "
           "landlock_restrict_self")  # fmt: skip
    yield "SystemCallErrorNumber=EPERM"
    if unit.user:
        yield "CapabilityBoundingSet="
        yield "AmbientCapabilities="
        yield "RemoveIPC=yes"
    if not unit.namespaces:
        yield "# This machine gives users no namespaces, so the file system is not narrowed."
        return
    if not unit.user:  # what follows takes a user namespace, where the manager is not root
        yield "PrivateUsers=yes"
    yield "ProtectSystem=strict"
    if unit.user:
        yield f"ProtectHome={'read-only' if unit.in_home else 'yes'}"
    else:
        yield "# The home stays one piece, so that publishing can share a file's bytes by a link."
        hidden = " ".join(_word(f"-{unit.home}/{name}") for name in SECRETS)
        yield f"InaccessiblePaths={hidden}"
    if unit.writable:
        yield f"ReadWritePaths={' '.join(map(_word, unit.writable))}"
    yield "PrivateTmp=yes"
    yield "ProtectKernelTunables=yes"
    yield "ProtectKernelModules=yes"
    yield "ProtectKernelLogs=yes"
    if unit.user:  # systemd.exec(5): not for a user's own services
        yield "ProtectControlGroups=yes"
        yield "ProtectProc=invisible"
        yield "ProtectHostname=yes"
    if not unit.gpu:  # engines speak to its devices
        yield "PrivateDevices=yes"
        if unit.user:
            yield "ProtectClock=yes"


_PLAIN: Final = re.compile(r"[\w@+=:,./-]+", re.ASCII)


def _word(text: str, *, command: bool = False) -> str:
    """Write one word of a line: quoted if need be, and nothing in it means anything else."""
    if not text.isprintable():
        raise UsageError(f"A unit of systemd cannot hold {text!r:.200}.", next="Rename it.")
    text = text.replace("%", "%%")
    text = text.replace("$", "$$") if command else text
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- launchd


def launchd_list(unit: Unit) -> bytes:
    """Write the property list."""
    about: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": list(unit.command),
        "EnvironmentVariables": dict(unit.variables),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": STOP_WITHIN,
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES, "Core": 0},
        "Umask": 0o077,
        # The node keeps a log of its own, which is bounded; launchd's would not be.
        "StandardOutPath": "/dev/null",
        "StandardErrorPath": "/dev/null",
    }
    if unit.user:
        about["UserName"] = unit.user
    text = plistlib.dumps(about)
    head, _, rest = text.partition(b"\n")
    return head + b"\n<!-- " + MARK.encode() + b" -->\n" + rest
