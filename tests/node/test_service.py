"""The node as a service: the units are valid and narrow, and installing does what it says.

No service manager runs where tests do, so a program of the test's stands in for ``systemctl`` and
writes down what it is told; systemd's own ``systemd-analyze`` judges the units where it is there.
"""

import json
import os
import plistlib
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
import trio
import yaml

from node.cli.tree import root
from node.config import Config, load_config, service_manager
from node.service import Manager, install, make_plan
from node.service.unit import MARK, Unit, launchd_list, systemd_unit
from p2p.errors import UsageError
from tests.network.people import Person

FOLDER = Path(__file__).parent.parent.parent / "node" / "service"
NOBODY = "nobody"  # an account that is on every machine, and is not root


def settings_of(text: str) -> dict[str, list[str]]:
    """Read a unit: each key with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration with a home of its own, in which a key is set on the command line."""
    for name in [name for name in os.environ if name.startswith(("ALLOD_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "a home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return load_config({"p2p.port": "7000", "p2p.bootstrap": []})


# -- units


def test_a_user_s_unit(config: Config, tmp_path: Path) -> None:
    """It runs this very Allod with the same home and keys, and writes into the home alone."""
    plan = make_plan(config, platform="linux")
    assert plan.file == tmp_path / "config" / "systemd" / "user" / "allod.service"
    found = settings_of(plan.content.decode())
    [line] = found["ExecStart"]
    assert line.endswith("-P -m node.cli -c p2p.port=7000 -c p2p.bootstrap= up")
    assert f'"ALLOD_HOME={tmp_path}/a home"' in found["Environment"]
    assert found["Type"] == ["notify"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert "User" not in found
    # systemd.exec(5): not supported for services of a user's own manager, or only by root.
    for key in ("ProtectProc", "ProtectControlGroups", "RemoveIPC", "CapabilityBoundingSet"):
        assert key not in found
    assert "ALLOD_TOKEN" not in plan.content.decode()


def test_the_whole_machine_s_unit(config: Config) -> None:
    """An ordinary user, a folder of the state, no capability, no home."""
    plan = make_plan(config, system=True, run_as=NOBODY, platform="linux")
    assert plan.file == Path("/etc/systemd/system/allod.service")
    found = settings_of(plan.content.decode())
    assert found["User"] == [NOBODY]
    assert found["StateDirectory"] == ["allod"]
    assert "ALLOD_HOME=/var/lib/allod" in found["Environment"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["ProtectSystem"] == ["strict"]
    assert found["ReadWritePaths"] == ["/var/lib/allod"]
    assert found["WantedBy"] == ["multi-user.target"]
    assert plan.start[0] == ("systemctl", "daemon-reload")


def test_what_a_service_cannot_be(config: Config) -> None:
    """Root's node, nobody's, or one of a user who is not there."""
    for run_as, words in (("root", "as root"), ("", "expects the user"), ("no-such-1", "no user")):
        with pytest.raises(UsageError, match=words) as caught:
            make_plan(config, system=True, run_as=run_as)
        assert caught.value.next
    with pytest.raises(UsageError, match="--system"):
        make_plan(config, run_as=NOBODY)


def test_words_of_a_unit_mean_themselves() -> None:
    """Spaces, quotes, % and $ in paths are no syntax; what no line can hold is refused."""
    unit = Unit(
        command=("/a b/py", "-c", 'x=$HOME%n"\\'),
        variables={"ALLOD_HOME": "/50% off"},
        home="/home/x y",
        writable=("/home/x y",),
    )
    found = settings_of(systemd_unit(unit))
    assert found["ExecStart"] == ['"/a b/py" -c "x=$$HOME%%n\\"\\\\"']
    assert found["Environment"] == ['"ALLOD_HOME=/50%% off"']
    assert found["ReadWritePaths"] == ['"/home/x y"']
    assert '"-/home/x y/.ssh"' in found["InaccessiblePaths"][0]
    with pytest.raises(UsageError, match="cannot hold"):
        systemd_unit(Unit(command=("/a\nExecStartPre=/b",)))


def test_engines_keep_what_they_need() -> None:
    """Their own confinement, compilers of code and GPUs still work below the unit's."""
    for user in ("", NOBODY):
        unit = systemd_unit(Unit(("/usr/bin/python3",), user=user, home="/home/x", gpu=True))
        found = settings_of(unit)
        assert "PrivateDevices" not in found
        assert "ProtectClock" not in found  # it narrows the devices too
        assert "MemoryDenyWriteExecute" not in found
        assert found["RestrictNamespaces"] == ["user net"]
        calls = " ".join(found["SystemCallFilter"])
        for name in ("@system-service", "seccomp", "landlock_create_ruleset"):
            assert name in calls


def test_without_namespaces_nothing_needs_them() -> None:
    """Where a user's manager could not start it, the unit narrows no file system."""
    found = settings_of(systemd_unit(Unit(("/usr/bin/python3",), home="/h", namespaces=False)))
    for key in ("PrivateUsers", "ProtectSystem", "PrivateTmp", "ReadWritePaths"):
        assert key not in found
    assert found["SystemCallErrorNumber"] == ["EPERM"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(config: Config, tmp_path: Path) -> None:
    """systemd-analyze finds nothing to complain of, and an exposure that it calls OK."""
    plan = make_plan(config, system=True, run_as=NOBODY, platform="linux")
    file = tmp_path / "allod.service"
    file.write_bytes(plan.content)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if str(file) in line]
    assert [line for line in said if "Special user nobody" not in line] == []
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--json=short",
         str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze judges no file")
    assert done.returncode == 0, done.stdout + done.stderr


def test_launchd_s_list() -> None:
    """It is a property list with the command, and says who wrote it."""
    data = launchd_list(Unit(("/usr/bin/python3", "-m", "x"), {"ALLOD_HOME": "/a & b"}, NOBODY))
    found = plistlib.loads(data)
    assert found["ProgramArguments"] == ["/usr/bin/python3", "-m", "x"]
    assert found["EnvironmentVariables"] == {"ALLOD_HOME": "/a & b"}
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["UserName"] == NOBODY
    assert MARK.encode() in data


def test_launchd_s_plan(config: Config) -> None:
    """On macOS the file and the commands are launchd's."""
    plan = make_plan(config, platform="darwin")
    assert plan.file.name == "net.allod.node.plist"
    assert plan.start[0][:2] == ("launchctl", "bootstrap")
    assert plistlib.loads(plan.content)["Label"] == "net.allod.node"


# -- the commands


class Machine:
    """Somebody whose ``systemctl`` writes down what it is told, and fails when it is to."""

    def __init__(self, folder: Path) -> None:
        self.person = Person(folder / "alice")
        self.told = folder / "told"
        self.fails = folder / "fails"
        self.unit = folder / "config" / "systemd" / "user" / "allod.service"
        programs = folder / "bin"
        programs.mkdir()
        (programs / "systemctl").write_text(
            f'#!/bin/sh\necho "$*" >> {shlex.quote(str(self.told))}\n'
            f"if [ -e {shlex.quote(str(self.fails))} ]; then\n"
            '  echo "Failed to connect to bus" >&2; exit 1\nfi\n'
            'case "$*" in *show*) printf "ActiveState=active\\nMainPID=7\\nNRestarts=2\\n";; esac\n'
        )
        (programs / "systemctl").chmod(0o755)
        self.person.environ |= {
            "PATH": f"{programs}:{self.person.environ['PATH']}",
            "XDG_CONFIG_HOME": str(folder / "config"),
        }

    def heard(self) -> list[str]:
        """What systemctl was told since the last time."""
        text = self.told.read_text() if self.told.exists() else ""
        self.told.unlink(missing_ok=True)
        return text.splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_install_and_uninstall(machine: Machine) -> None:
    """One command writes the unit and starts it, one asks, one takes it away; each may be again."""
    alice = machine.person
    shown = (await alice.run("service", "show"))["unit"]
    assert machine.heard() == []
    assert not machine.unit.exists()
    found = await alice.run("service", "install")
    assert found == {
        "ok": True, "manager": "systemd", "file": str(machine.unit), "started": True,
    }  # fmt: skip
    assert machine.unit.read_text() == shown
    assert machine.heard()[-3:] == [
        "--user daemon-reload", "--user enable allod.service", "--user restart allod.service",
    ]  # fmt: skip
    await alice.run("service", "install")
    state = await alice.run("service", "status")
    assert (state["installed"], state["current"], state["state"]) == (True, True, "active")
    assert (state["pid"], state["restarts"]) == (7, 2)
    machine.heard()
    assert (await alice.run("service", "uninstall"))["removed"] is True
    assert machine.heard() == ["--user disable --now allod.service", "--user daemon-reload"]
    assert not machine.unit.exists()
    assert (await alice.run("service", "uninstall"))["removed"] is False
    assert (await alice.run("service", "status"))["installed"] is False
    assert (alice.home / "config.toml").exists()


async def test_up_installs_with_its_options(machine: Machine) -> None:
    """`allod up OPTIONS --install-service` keeps the options, and runs no node itself."""
    found = await machine.person.run("up", "--port", "7001", "--install-service")
    assert found["started"] is True
    assert "-c p2p.port=7001 up" in machine.unit.read_text()


async def test_a_node_that_runs_is_not_disturbed(machine: Machine) -> None:
    """The service starts after it, and not beside it."""
    alice = machine.person
    async with alice.node():
        found = await alice.run("service", "install")
        assert found["started"] is False
        assert not any("restart" in line for line in machine.heard())


async def test_another_s_unit_stays(machine: Machine) -> None:
    """A file that this command did not write is neither overwritten nor removed."""
    machine.unit.parent.mkdir(parents=True)
    machine.unit.write_text("[Service]\nExecStart=/bin/true\n")
    for verb in ("install", "uninstall"):
        error = await machine.person.refused("service", verb, code=2)
        assert "did not write it" in error["message"]
    assert machine.unit.read_text().startswith("[Service]")


async def test_a_manager_that_refuses(machine: Machine) -> None:
    """What it said is shown, and what is left to do."""
    machine.fails.touch()
    error = await machine.person.refused("service", "install", code=1)
    assert "Failed to connect to bus" in error["message"]
    assert "systemctl --user enable allod.service" in error["next"]


def test_the_whole_machine_takes_root(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody becomes root by this command, and nothing is written before that is told."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    plan = make_plan(config, system=True, run_as=NOBODY, platform="linux")
    with pytest.raises(UsageError, match="is installed by root"):
        install(plan, start=False)


def test_a_machine_without_a_manager(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told so before anything is written."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    plan = make_plan(config, platform="linux")
    with pytest.raises(UsageError, match="has no systemctl"):
        install(plan, start=True)
    assert not plan.file.exists()


# -- what the node tells the manager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """A socket such as systemd has for its services."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind("\0" + address[1:] if address[0] == "@" else address)
        one.settimeout(60)
        yield one


async def test_the_node_says_that_it_serves_and_ends(tmp_path: Path) -> None:
    """READY when it answers, signs of life, STOPPING when it was told to end."""
    alice = Person(tmp_path / "alice")
    address = str(tmp_path / "notify")
    alice.environ |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
    with listening(address) as manager:
        async with alice.node() as node:
            heard: list[str] = []
            while not {"READY=1", "WATCHDOG=1"} <= set(heard):
                data = await trio.to_thread.run_sync(manager.recv, 4096)
                heard += data.decode().splitlines()
            assert f"STATUS=Answers at {node.status['http']}" in heard
            assert await node.running.stop() == 0
            manager.setblocking(False)
            rest: list[str] = []
            try:
                while True:
                    rest += manager.recv(4096).decode().splitlines()
            except BlockingIOError:
                pass
            assert "STOPPING=1" in rest


def test_which_manager_is_meant(tmp_path: Path) -> None:
    """The socket and the watchdog of another process, or nonsense, are not obeyed."""
    good = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000"}
    assert service_manager(good) == ("/run/x", 3.0)
    assert service_manager(good | {"WATCHDOG_PID": "1"}) == ("/run/x", 0.0)
    assert service_manager(good | {"WATCHDOG_USEC": "-1"}) == ("/run/x", 0.0)
    assert service_manager({"NOTIFY_SOCKET": "relative"}) == ("", 0.0)
    assert service_manager({}) == ("", 0.0)


def test_telling_never_fails(tmp_path: Path) -> None:
    """Nobody, a socket that is gone, an abstract one."""
    Manager("", 0).tell("READY=1")
    Manager(str(tmp_path / "gone"), 0).tell("READY=1")
    address = f"@allod-test-{os.getpid()}"
    with listening(address) as manager:
        Manager(address, 0).tell("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"


# -- the container


def test_the_container_is_narrow() -> None:
    """Not root, a health check that asks the running node, a volume, commands that there are."""
    lines = (FOLDER / "Containerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and line[0] not in "# "]
    assert [one[1] for one in words if one[0] == "USER"] == ["9770"]
    assert ["VOLUME", "/data"] in words
    [health] = [line for line in lines if line.startswith("HEALTHCHECK")]
    commands = [json.loads(health.partition(" CMD ")[2])]
    commands += [json.loads(line[4:]) for line in lines if line.startswith("CMD ")]
    for _, name, *rest in commands:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        known = {word for one in command.params for word in one.opts}
        assert set(rest) <= known
    places = [word for one in words if one[0] == "COPY" for word in one[1:-1]]
    top = FOLDER.parent.parent
    assert all((top / place).exists() for place in places)


def test_the_compose_file_is_narrow() -> None:
    """No capability, a file system that is read, an end with time enough."""
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    node = compose["services"]["node"]
    assert node["cap_drop"] == ["ALL"]
    assert node["read_only"] is True
    assert node["network_mode"] == "host"  # the HTTP door is loopback's
    assert (FOLDER / node["build"]["context"] / node["build"]["dockerfile"]).is_file()
    assert {one.partition(":")[0] for one in node["volumes"]} <= compose["volumes"].keys()
