"""The command line: exit codes, JSON shapes, words for people, and never a traceback."""

import fcntl
import json
import os
import pty
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from node.cli import _tell
from node.cli.progress import Bars, Lines, describe, open_view
from node.cli.run import Run
from node.cli.text import duration_text, exact_size_text, plain, size_text, table
from node.cli.tree import ALIASES, BRANCHES, root
from node.config import load_config
from node.keyring import Keyring
from node.messages import (
    Failure,
    FetchParams,
    NoParams,
    Note,
    Progress,
    PublishParams,
    RefParams,
    Report,
)
from node.operations import Node, Operation
from p2p.errors import (
    AllodError,
    BadBytes,
    NoSources,
    NotFound,
    QuotaExceeded,
    Refused,
    UsageError,
    VerificationFailed,
)
from tests.node.conftest import Said
from tests.node.door import Door, serving

ALLOD = str(Path(sys.executable).with_name("allod"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node of its own for every test."""
    for name in [name for name in os.environ if name.startswith("ALLOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TERM", "dumb")
    return tmp_path / "home"


def everything() -> Iterator[tuple[str, click.Command]]:
    """Yield every command's full name and the command."""
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner, leaf in command.commands.items():
                yield f"{name} {inner}", leaf


# -- help, usage


def test_every_command_shows_an_example_and_takes_json(allod: Said) -> None:
    """--help of every command has a sentence and an example of that command; all take --json."""
    for name, command in everything():
        code, out, _ = allod(*name.split(), "--help")
        assert code == 0, name
        example = out.partition("Example:")[2]
        assert f"allod {name}" in example, name
        assert command.help, name
        if not isinstance(command, click.Group):
            assert "--json" in out, name
            assert "--quiet" in out, name


def test_the_tree_lists_every_command(allod: Said) -> None:
    """`allod --help` shows each command once, in four groups, with a whole sentence."""
    code, out, _ = allod("--help")
    assert code == 0
    for branch, names in BRANCHES.items():
        assert f"{branch.capitalize()}:" in out
        for name in names:
            [line] = [one for one in out.splitlines() if one.strip().startswith(f"{name} ")]
            assert line.endswith(".")
            assert not line.endswith("..."), line


def test_aliases_are_the_command_itself(allod: Said) -> None:
    """`pull` is `fetch`."""
    context = click.Context(root)
    for alias, name in ALIASES.items():
        assert root.get_command(context, alias) is root.get_command(context, name)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["lss"], "'ls'"),
        (["zzzz"], "no command"),
        (["ls", "--nope"], "--nope"),
        (["fetch"], "REF"),
        (["publish", "."], "--as"),
        (["publish", ".", "--as", "x", "--kind", "poem"], "poem"),
        (["config", "set", "p2p.port"], "VALUES"),
        (["config", "get", "p2p.prot"], "p2p.port"),
        (["config", "set", "p2p.port", "x"], "whole number"),
        (["-c", "p2p.port", "ls"], "KEY=VALUE"),
        (["-c", "p2p.port=x", "config", "list"], "whole number"),
        (["completion", "tcsh"], "tcsh"),
        (["key", "nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_exit_code_2(allod: Said, words: list[str], hint: str) -> None:
    """A wrong command line is one sentence with what to do next, for people and as JSON."""
    code, out, err = allod(*words)
    assert (code, out) == (2, "")
    assert hint in err
    assert err.startswith("allod: ")
    assert len(err.splitlines()) <= 3
    code, out, _ = allod(*words, "--json")
    assert code == 2
    assert json.loads(out)["ok"] is False


def test_no_command_at_all_shows_the_help(allod: Said) -> None:
    """`allod` alone is a usage error that shows all commands."""
    for words in ((), ("key",), ("config",)):
        code, out, err = allod(*words)
        assert (code, out) == (2, "")
        assert "Usage: allod" in err


# -- a running node, with operations that answer what the contract says

MANIFEST = "bagu" + "a" * 50
FETCHED = {
    "ok": True, "ref": "allod:z6Mk/x@" + MANIFEST, "manifest": MANIFEST, "root": "bafy",
    "path": "/store/view/x", "bytes": {"total": 3 << 20, "fetched": 2 << 20, "local": 1 << 20},
    "sources": [{"peer": "12D3A", "kind": "stream", "bytes": 2 << 20}],
    "banned": [{"peer": "12D3B", "reason": "sent a wrong leaf"}],
    "checks": [],
}  # fmt: skip
PUBLISHED = {
    "ok": True, "ref": "allod:z6Mk/x@" + MANIFEST, "manifest": MANIFEST, "root": "bafy",
    "version": "1", "files": [{"path": "a", "size": 5, "cid": "bafk"}],
    "bytes": {"total": 5, "new": 5, "shared": 0},
}  # fmt: skip
STATUS = {
    "reach": {"verdict": "private", "confirmed": [], "mapped": None, "relays": ["12D3R"]},
    "seeding": None,
    "ok": True, "running": True, "peer": "12D3", "addresses": ["/ip4/127.0.0.1/tcp/1"],
    "http": "http://127.0.0.1:5", "gateway": ["http://192.0.2.1:8080"], "peers": 2,
    "store": {"bytes": 5, "quota": None, "partial_bytes": 0, "files": 1}, "serving": ["allod:x"],
}  # fmt: skip
RELEASE = {
    "ref": "allod:z6Mk/x@" + MANIFEST, "name": "x", "version": "1.2", "kind": "model",
    "size": 3 << 30, "license": "MIT", "verdict": "admitted", "publisher": "z6Mk",
    "petname": "alice", "manifest": MANIFEST, "pinned": True, "complete": False, "added": 1.0,
}  # fmt: skip
DAMAGED = {
    "ok": False, "ref": None, "leaves": {"checked": 9, "bad": 1},
    "damaged": [{"path": "a.bin", "offset": 7, "size": 1}],
    "error": {"code": "VERIFICATION_FAILED", "message": "1 leaf is bad.", "next": "Fetch it."},
}  # fmt: skip
ERRORS: dict[str, AllodError] = {
    "other": AllodError("o", next="n"),
    "usage": UsageError("o", next="n"),
    "missing": NotFound("o", next="n"),
    "wrong": VerificationFailed("o", next="n"),
    "refused": Refused("o", next="n"),
    "alone": NoSources("o", next="n"),
    "liar": BadBytes("o", peer="12D3", next="n"),
    "full": QuotaExceeded("o", next="n"),
}
GOT: list[Any] = []


def answers() -> dict[str, Operation[Any]]:
    def always(name: str, params: type, value: dict[str, Any]) -> Operation[Any]:
        async def run(node: Node, given: object, report: Report) -> dict[str, Any]:
            GOT.append(given)
            report(Progress(name, 0, 10))
            report(Progress(name, 10, 10, sources=3))
            return value

        return Operation(name, params, run, "store")

    async def pin(node: Node, params: RefParams, report: Report) -> dict[str, Any]:
        raise ERRORS[params.ref]

    made = [
        always("fetch", FetchParams, FETCHED),
        always("publish", PublishParams, PUBLISHED),
        always("status", NoParams, STATUS),
        always("ls", NoParams, {"ok": True, "releases": [RELEASE]}),
        always("verify", NoParams, DAMAGED),
        always("rm", RefParams, {"ok": True, "ref": "allod:x", "size": 5}),
        always(
            "peers",
            NoParams,
            {"ok": True, "peers": [{"peer": "12D3", "path": "relay", "addresses": ["/x"]}]},
        ),
        Operation("pin", RefParams, pin, "store"),
    ]
    return {one.name: one for one in made}


@pytest.fixture
async def door(home: Path) -> AsyncIterator[Door]:
    GOT.clear()
    async with serving(home, answers()) as found:
        yield found


async def ask(*words: str, **environ: str) -> tuple[int, str, str]:
    """Run the installed command against the node that this test serves."""
    done = await trio.run_process(
        [ALLOD, *words],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=os.environ | environ,
    )
    assert b"Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_json_is_one_object_and_progress_goes_to_stderr(door: Door) -> None:
    """With --json stdout is the operation's object, stderr is NDJSON events."""
    for words, expected in [
        (["fetch", "x"], FETCHED),
        (["pull", "x"], FETCHED),
        (["publish", ".", "--as", "x"], PUBLISHED),
        (["status"], STATUS),
        (["ls"], {"ok": True, "releases": [RELEASE]}),
    ]:
        code, out, err = await ask(*words, "--json")
        assert code == 0, (words, err)
        assert json.loads(out) == expected
        events = [json.loads(line)["progress"] for line in err.splitlines()]
        assert 0 < len(events) <= 2  # what nobody could have read in between is left out
        assert events[-1]["done"] == events[-1]["total"] == 10


async def test_people_get_words(door: Door) -> None:
    """Without --json there are lines for people, the link or the folder last on stdout."""
    code, out, err = await ask("fetch", "x")
    assert code == 0
    assert "2.0 MiB from 1 source;" in out
    assert "12D3B: sent a wrong leaf" in out
    assert out.splitlines()[-1] == "/store/view/x"
    assert err == ""  # it was done in a moment
    _, out, _ = await ask("publish", ".", "--as", "x")
    assert out.splitlines()[-1] == PUBLISHED["ref"]
    _, out, _ = await ask("ls")
    assert (
        out.split()
        == (
            "NAME VERSION KIND SIZE LICENCE VERDICT STATE MANIFEST "
            f"alice/x 1.2 model 3.0 GiB MIT admitted partial pinned {MANIFEST}"
        ).split()
    )
    _, out, _ = await ask("status")
    assert "http://127.0.0.1:5" in out
    assert "no quota" in out
    assert "not from outside, as others have tried; by 1 relay" in out
    _, out, _ = await ask("peers")
    assert out.split() == ["PEER", "PATH", "ADDRESSES", "12D3", "relay", "/x"]
    _, out, _ = await ask("rm", "x")
    assert "removed allod:x" in out
    _, out, _ = await ask("fetch", "x", "--dry-run")
    assert "would fetch 2.0 MiB; 1.0 MiB are here already" in out


async def test_quiet_prints_the_result_alone(door: Door) -> None:
    """`$(allod publish ... --quiet)` is the link, `$(allod fetch ... -q)` the folder."""
    assert await ask("publish", ".", "--as", "x", "--quiet") == (0, f"{PUBLISHED['ref']}\n", "")
    assert await ask("fetch", "x", "-q") == (0, "/store/view/x\n", "")


async def test_flags_reach_the_operation(door: Door, tmp_path: Path) -> None:
    """Every flag of fetch and publish arrives, folders made absolute."""
    await ask(
        "fetch", "x", "--peer", "/a", "--peer", "/b", "--include", "*.md", "--exclude", "x*",
        "--tensor", "lm*", "--local-dir", "out", "--revision", "2", "--dry-run", "--no-pin",
        "--yes", "--offline",
    )  # fmt: skip
    assert GOT[-1] == FetchParams(
        "x", ("/a", "/b"), ("*.md",), ("x*",), ("lm*",), str(Path.cwd() / "out"), True, True, True,
        "2", False,
    )  # fmt: skip
    await ask(
        "publish", str(tmp_path), "--as", "n", "--kind", "dataset", "--version", "3", "--license",
        "MIT", "--base", "b", "--data", "d", "--consent-basis", "asked", "--personal-data", "none",
        "--allowed-use", "research", "--no-redistribution", "--contact", "me",
        "--profile", "fixed-1m", "--description", "words", "--key", "k", "--web-seed", "https://w",
        "--no-sha256", "--offline", "--consent-expires", "2030-12-31",
    )  # fmt: skip
    assert GOT[-1] == PublishParams(
        str(tmp_path), "n", "dataset", "3", "MIT", ("b",), ("d",), "asked", "none", ("research",),
        False, "me", "fixed-1m", "words", "k", ("https://w",), False, True,
        True, "2030-12-31",
    )  # fmt: skip


async def test_offline_in_the_environment_counts_for_a_running_node(door: Door) -> None:
    """ALLOD_OFFLINE keeps one command off the network, though the node is on it."""
    await ask("fetch", "x", ALLOD_OFFLINE="1")
    assert GOT[-1].offline
    await ask("fetch", "x")
    assert not GOT[-1].offline


@pytest.mark.parametrize("name", list(ERRORS))
async def test_exit_codes_are_those_of_the_error_tree(door: Door, name: str) -> None:
    """Each kind of error has its exit code and its word; people get the sentence and the advice."""
    code, out, err = await ask("pin", name)
    assert code == ERRORS[name].exit_code
    assert (out, err) == ("", "allod: o\n       n\n")
    code, out, _ = await ask("pin", name, "--json")
    assert code == ERRORS[name].exit_code
    error = json.loads(out)["error"]
    assert (error["code"], error["message"], error["next"]) == (ERRORS[name].code, "o", "n")
    assert error.get("peer", "") == getattr(ERRORS[name], "peer", "")


async def test_damage_is_exit_code_4_with_the_whole_list(door: Door) -> None:
    """verify prints what is damaged, and fails."""
    code, out, err = await ask("verify")
    assert code == 4
    assert "damaged a.bin at byte 7" in out
    assert "1 leaf is bad." in err
    code, out, _ = await ask("verify", "--json")
    assert (code, json.loads(out)) == (4, DAMAGED)


async def test_env_is_for_eval(door: Door) -> None:
    """`allod env` prints what a shell can evaluate."""
    code, out, _ = await ask("env")
    assert code == 0
    shown = 'echo "$IPFS_GATEWAY $HF_ENDPOINT"'
    done = await trio.run_process(["sh", "-c", f"{out}\n{shown}"], capture_stdout=True)
    assert done.stdout == b"http://127.0.0.1:5 http://127.0.0.1:5\n"


async def test_env_keeps_tokens_of_the_hub_at_home(door: Door) -> None:
    """With HF_ENDPOINT go variables that keep the user's token for the Hub away from the node."""
    _, out, _ = await ask("env", "--json")
    found = json.loads(out)["env"]
    assert found["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    assert found["HF_HUB_DISABLE_TELEMETRY"] == "1"


async def test_a_running_node_is_named_where_it_lags_behind(door: Door) -> None:
    """config set and unset say that the node must be started again."""
    for words in (["set", "p2p.port", "5"], ["unset", "p2p.port"]):
        code, _, err = await ask("config", *words)
        assert code == 0
        assert "started again" in err
        assert (await ask("config", *words, "--quiet"))[2] == ""


async def test_ctrl_c_is_exit_code_130(door: Door) -> None:
    """Ctrl-C ends a command at once and without noise, and cancels its work in the node."""
    async with trio.open_nursery() as nursery:
        child = await nursery.start(
            partial(
                trio.run_process, [ALLOD, "unpin", "x"], check=False,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
        with trio.fail_after(60):
            await door.story.started.wait()
            child.send_signal(2)
            await door.story.cancelled.wait()
            assert await child.wait() == 130
            assert b"Traceback" not in await child.stderr.receive_some()


async def test_a_closed_pipe_is_no_noise(door: Door) -> None:
    """`allod ls | head -0` ends quietly."""
    done = await trio.run_process(
        ["sh", "-c", f"{ALLOD} ls --json | true"], capture_stderr=True, check=False
    )
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


async def test_asking_a_running_node_is_cheap(door: Door) -> None:
    """`allod ls` costs less than importing click three times, `--version` less than once.

    A share and not seconds: machines are slow at times, and then all of it is.
    """

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    costs: dict[str, list[float]] = {"click": [], "ls": [], "--version": []}
    for _ in range(5):
        for name, found in costs.items():
            before = spent()
            if name == "click":
                await trio.run_process([sys.executable, "-c", "import click, http.client, json"])
            else:
                assert (await ask(name))[0] == 0
            found.append(spent() - before)
    unit = min(costs["click"])
    assert min(costs["ls"]) < 3 * unit, costs
    assert min(costs["--version"]) < unit, costs


async def test_a_key_is_exported_beside_a_running_node(door: Door) -> None:
    """A secret never crosses the node's socket, and its owner gets it all the same."""
    Keyring(load_config().folders.keys).new("alice")
    code, out, err = await ask("key", "export", "alice")
    assert (code, err) == (0, "")
    assert "PRIVATE KEY" in out


# -- no node


def test_a_malformed_reference_starts_no_node(allod: Said, home: Path) -> None:
    """fetch refuses what names nothing at once, without a word about a node."""
    for ref in ("hello", "", "https://example.org/model"):
        code, _, err = allod("fetch", ref)
        assert code == 2
        assert err.startswith("allod: ")
    assert not (home / "store").exists()


def test_what_needs_a_running_node_says_so(allod: Said) -> None:
    """env and peers without a node are exit code 7 and how to start one."""
    for name in ("env", "peers"):
        code, _, err = allod(name)
        assert code == 7
        assert "allod up" in err
        code, out, _ = allod(name, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (7, "NO_NODE")


def test_config_round_trip(allod: Said, home: Path) -> None:
    """set, get, list and unset agree; -c wins for one command."""
    assert allod("config", "set", "p2p.port", "5")[0] == 0
    assert allod("config", "get", "p2p.port") == (0, "5\n", "")
    assert allod("-c", "p2p.port=6", "config", "get", "p2p.port") == (0, "6\n", "")
    found = json.loads(allod("config", "list", "--json")[1])["settings"]
    [row] = [one for one in found if one["key"] == "p2p.port"]
    assert (row["value"], row["from"]) == (5, f"in {home / 'config.toml'}")
    assert allod("config", "unset", "p2p.port") == (0, "", "")
    assert json.loads(allod("config", "get", "p2p.port", "--json")[1])["value"] == 9770
    assert "p2p.port" in allod("config", "list")[1]
    assert allod("config", "get", "store.quota") == (0, "200GiB\n", "")
    assert allod("config", "set", "store.quota", "500GB") == (0, "store.quota = 500GB\n", "")
    assert json.loads(allod("config", "get", "store.quota", "--json")[1])["value"] == 500 * 10**9


def test_config_can_be_mended_while_it_is_broken(allod: Said, home: Path) -> None:
    """A wrong value in the file doesn't keep `config set` from putting it right."""
    home.mkdir()
    (home / "config.toml").write_text("[p2p]\nport = 'x'\n")
    code, _, err = allod("config", "list")
    assert code == 2
    assert "p2p.port" in err
    assert allod("config", "set", "p2p.port", "5")[0] == 0
    assert allod("config", "get", "p2p.port") == (0, "5\n", "")


def test_keys(allod: Said) -> None:
    """new, list and export work without a node; a second key of the same name is refused."""
    code, out, _ = allod("key", "new", "alice")
    assert code == 0
    publisher = out.strip()
    assert publisher in allod("key", "list")[1]
    assert json.loads(allod("key", "list", "--json")[1])["keys"][0]["publisher"] == publisher
    code, out, _ = allod("key", "export", "alice")
    assert code == 0
    assert "PRIVATE KEY" in out
    assert allod("key", "export", "alice", "--role", "root")[1] != out
    assert allod("key", "export", "bob")[0] == 3
    assert allod("key", "new", "alice")[0] == 2
    assert publisher in allod("key", "show", "alice")[1]


def test_an_offline_root(allod: Said, home: Path, tmp_path: Path) -> None:
    """With the root key locked away a rotation waits for it, and is applied once it has signed."""
    publisher = allod("key", "new", "alice")[1].strip()
    stick = tmp_path / "root.key"
    assert allod("key", "lock", "alice", str(stick))[0] == 0
    assert allod("key", "lock", "alice", str(tmp_path / "again.key"))[0] == 3
    code, out, _ = allod("key", "rotate", "alice", "--role", "online", "--json")
    found = json.loads(out)
    assert (code, found["missing"]) == (0, 1)
    assert (
        f"allod key sign {found['proposal']}"
        in allod("key", "rotate", "alice", "--role", "online")[1]
    )
    file = found["proposal"]
    assert allod("key", "sign", file)[0] == 2
    assert allod("key", "apply", file)[0] == 2
    code, out, err = allod("key", "sign", file, "--secret", str(stick))
    assert code == 0
    assert "snapshot and timestamp are signed by did:key:" in out
    assert "allod key apply" in err
    code, out, _ = allod("key", "sign", file, "--show")
    assert (code, out.splitlines()[0]) == (0, f"for {found['publisher']}")
    code, out, _ = allod("key", "apply", file, "--json")
    assert (code, json.loads(out)["publisher"]) == (0, publisher)
    shown = json.loads(allod("key", "show", "alice", "--json")[1])
    assert shown["roles"]["root"]["version"] == 2
    assert shown["roles"]["root"]["here"] == ""
    assert shown["roles"]["timestamp"]["here"] == shown["roles"]["timestamp"]["keys"][0]
    assert allod("key", "apply", str(tmp_path / "none"))[0] == 3


def test_an_organisation(allod: Said, home: Path) -> None:
    """Several people found a publisher with a file that goes round, and change who they are."""
    allod("key", "new", "bob")
    did = json.loads(allod("key", "show", "bob", "--json")[1])["did"]
    code, out, err = allod("key", "new", "acme", "--member", did, "--threshold", "2")
    assert code == 0
    assert "allod key sign" in err
    file = out.strip()
    assert "waits for signatures" in allod("key", "list")[1]
    assert "allod key sign" in allod("key", "show", "acme")[1]
    assert allod("key", "rotate", "acme")[0] == 3
    assert allod("key", "sign", file, "--key", "bob", "--json")[0] == 0
    assert allod("key", "apply", file)[0] == 0
    assert json.loads(allod("key", "show", "acme", "--json")[1])["roles"]["root"]["threshold"] == 2
    waiting = json.loads(allod("key", "members", "acme", "--remove", did, "--json")[1])
    assert waiting["asks"] == [did]
    assert allod("key", "members", "acme")[0] == 2
    assert allod("key", "sign", waiting["proposal"])[0] == 0
    assert allod("key", "apply", waiting["proposal"], "--as", "acme")[0] == 0
    renewed = json.loads(allod("key", "renew", "acme", "--json")[1])
    assert renewed["missing"] == 0
    assert json.loads(allod("key", "show", "acme", "--json")[1])["roles"]["root"]["version"] == 3


def test_the_store_without_a_node(allod: Said, home: Path) -> None:
    """What needs the store alone opens it here, without a word about it."""
    code, out, err = allod("ls", "--json")
    assert (code, json.loads(out), err) == (0, {"ok": True, "releases": []}, "")
    assert allod("ls", "--quiet") == (0, "", "")
    for words, advice in ((["ls"], "allod fetch"), (["key", "list"], "allod key new")):
        code, out, err = allod(*words)
        assert (code, out) == (0, "")
        assert advice in err
    found = json.loads(allod("status", "--json")[1])
    assert found["running"] is False
    assert found["http"] is None
    assert found["peer"].startswith("12D3Koo")
    assert found["store"]["quota"] == 200 << 30
    assert json.loads(allod("gc", "--dry-run", "--json")[1])["bytes"] == 0
    assert json.loads(allod("verify", "--json")[1])["leaves"] == {"checked": 0, "bad": 0}
    for name in ("rm", "pin", "unpin", "verify"):
        assert allod(name, "z6Mkh6fJH2a5zZ8VoyZu5YBKiBEheztZee9hqH9XKXrxsQAK/x")[0] == 3
        assert allod(name, "not a reference")[0] == 2


def test_publish_and_look_after_a_release(allod: Said, tmp_path: Path) -> None:
    """publish, ls, pin, verify, damage, rm and gc, all in this process on a real store."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"w" * 3_000_000)
    allod("key", "new", "alice")
    code, out, err = allod("publish", str(folder), "--as", "alice/tiny", "--license", "MIT", "-q")
    assert code == 0, err
    link = out.strip()
    assert link.startswith("allod:")
    [release] = json.loads(allod("ls", "--json")[1])["releases"]
    assert (release["name"], release["license"], release["complete"]) == ("tiny", "MIT", True)
    assert json.loads(allod("status", "--json")[1])["serving"] == [release["ref"]]
    for ref in (link, release["ref"], release["manifest"], "alice/tiny"):
        assert allod("unpin", ref)[0] == 0, ref
        assert allod("pin", ref)[0] == 0, ref
    assert allod("verify", "alice/tiny")[0] == 0
    _, _, err = allod("verify", "--json")  # the folder's own file counts, though it takes no room
    totals = {json.loads(line)["progress"]["total"] for line in err.splitlines()}
    assert totals == {3_000_000}
    assert allod("rm", "alice/tiny")[0] == 0
    assert json.loads(allod("gc", "--json")[1])["files"] >= 1
    assert allod("verify", link)[0] == 3


def test_consent_from_publish_to_withdrawal(allod: Said, tmp_path: Path) -> None:
    """What was said is shown; what is taken back says why, and what that cannot do."""
    folder = tmp_path / "voices"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"a\n1\n")
    allod("key", "new", "alice")
    words = ["--license", "cc-by-4.0", "--consent-basis", "asked", "--allowed-use", "research"]
    words += ["--no-redistribution", "--consent-expires", "9000-12-31"]
    assert allod("publish", str(folder), "--as", "alice/voices", *words)[0] == 0
    _, out, _ = allod("consent", "show", "alice/voices")
    assert [line.split(maxsplit=1)[1] for line in out.splitlines()] == [
        "asked", "uses   research", "not allowed", "9000-12-31", "CC-BY-4.0",
    ]  # fmt: skip
    why = "A speaker asked for it."
    assert allod("consent", "withdraw", "alice/voices")[0] == 2
    code, out, _ = allod("consent", "withdraw", "alice/voices", "--reason", why)
    assert code == 0
    told, limits = out.splitlines()
    assert told == f"voices@1 withdrawn: {why}"
    assert "cannot be recalled" in limits
    assert why in allod("consent", "show", "alice/voices")[1]
    _, out, err = allod("revoke", "alice/voices", "--reason", "Other.", "--json")
    [release] = json.loads(out)["releases"]
    assert release["status"]["state"] == "withdrawn"
    assert "already" in err
    assert allod("revoke", "bob/voices", "--reason", "x")[0] == 3


def test_an_unforeseen_error_is_one_line(
    allod: Said, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """A bug is exit code 1, one sentence and how to see more; ALLOD_LOG=debug shows the trace."""

    def broken(*words: object, **named: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("node.client.call", broken)
    code, out, err = allod("ls")
    assert (code, out) == (1, "")
    assert "ZeroDivisionError" in err
    assert "ALLOD_LOG=debug" in err
    assert len(err.splitlines()) == 2
    monkeypatch.setenv("ALLOD_LOG", "debug")
    with pytest.raises(AssertionError, match="Traceback"):
        allod("ls")


# -- the node itself


def start(*words: str) -> tuple[subprocess.Popen[str], str]:
    """Start `allod up` on free ports; return the process and its first line."""
    settings = ("-c", "p2p.port=0", "-c", "http.port=0", "-c", "p2p.mdns=false")
    process = subprocess.Popen(
        [ALLOD, *settings, "up", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def test_up_serves_until_sigterm(allod: Said, home: Path) -> None:
    """`allod up` says when it is ready; commands find it; SIGTERM ends it with 0, files gone."""
    process, line = start()
    with process:
        assert line.startswith("ready peer=12D3Koo"), line
        words = dict(word.split("=", 1) for word in line.split()[1:])
        found = json.loads(allod("status", "--json")[1])
        assert (found["peer"], found["http"]) == (words["peer"], words["http"])
        assert ",".join(found["addresses"]) == words["addresses"]
        assert allod("peers", "--json")[:2] == (0, '{"ok": true, "peers": []}\n')
        assert words["http"] in allod("env")[1]
        code, _, err = allod("up")
        assert code == 8
        assert str(process.pid) in err
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert list((home / "run").iterdir()) == []


def test_up_without_a_network_ends_with_ctrl_c(home: Path) -> None:
    """`allod up --offline --json` prints the status object; Ctrl-C is 130."""
    process, line = start("--offline", "--json")
    with process:
        found = json.loads(line)
        assert (found["ok"], found["running"], found["addresses"]) == (True, True, [])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert list((home / "run").iterdir()) == []


def test_up_on_a_port_in_use(allod: Said) -> None:
    """A port that another program has is one sentence with the key to change, exit code 6."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = allod("up", "--offline", "--http-port", str(port))
    assert code == 6
    assert str(port) in err
    assert "http.port" in err


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(allod: Said, shell: str) -> None:
    """There is a script for each shell; bash accepts its own."""
    code, out, _ = allod("completion", shell)
    assert code == 0
    assert "_ALLOD_COMPLETE" in out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out.encode(), check=True)


def test_words_are_completed() -> None:
    """Commands, options and configuration keys complete."""
    for words, expected in [
        ("allod pub", "publish"),
        ("allod fetch --inc", "--include"),
        ("allod config get p2p.po", "p2p.port"),
    ]:
        environ = {"_ALLOD_COMPLETE": "bash_complete", "COMP_WORDS": words}
        environ["COMP_CWORD"] = str(len(words.split()) - 1)
        done = subprocess.run([ALLOD], env=os.environ | environ, capture_output=True, check=True)
        assert f"plain,{expected}" in done.stdout.decode()


# -- how things are shown


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Progress("hash", 0), "hash: 0 B"),
        (Progress("hash", 5 << 20, rate=1 << 20), "hash: 5.0 MiB, 1.0 MiB/s"),
        (
            Progress("fetch", 1 << 30, 4 << 30, rate=float(64 << 20), sources=1),
            "fetch: 25% (1.0 GiB of 4.0 GiB), 64.0 MiB/s, 48 s left, 1 source",
        ),
        (Progress("read", 3, 7, unit="files"), "read: 42% (3 of 7 files)"),
        (Progress("fetch", 3, 7, rate=0.2, sources=2), "fetch: 42% (3 B of 7 B), 2 sources"),
    ],
)
def test_progress_as_a_line(event: Progress, line: str) -> None:
    """A line says how far, how fast, how long still, and from how many."""
    assert describe(event) == line


def test_on_a_pipe_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phase has a line every five seconds and one at its end; a short one has none."""
    view = open_view(as_json=False, quiet=False)
    assert type(view) is Lines
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with view:
        view.show(Progress("plan", 0, 1))
        view.show(Progress("plan", 1, 1))
        for done in range(1001):
            now = done / 100
            view.show(Progress("fetch", done, 1000))
        view.show(Progress("fetch", 1000, 1000))
        view.show(Note("hello"))
        view.show(Note("careful", "warning"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fetch: 50% (500 B of 1000 B)",
        "fetch: 100% (1000 B of 1000 B)",
        "hello",
        "warning: careful",
    ]


def test_quiet_shows_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """--quiet keeps what a person must know."""
    with open_view(as_json=False, quiet=True) as view:
        view.show(Progress("fetch", 1, 2))
        view.show(Note("hello"))
        view.show(Note("careful", "warning"))
    assert capsys.readouterr().err == "warning: careful\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal there is a bar with bytes, rate and sources, and it goes away at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert type(open_view(as_json=False, quiet=False)) is Lines
        monkeypatch.setenv("TERM", "xterm")
        view = open_view(as_json=False, quiet=False)
        assert type(view) is Bars
        with view:
            view.show(Progress("fetch", 1 << 20, 8 << 20, sources=3))
            view.show(Note("in between"))
            view.show(Progress("fetch", 8 << 20, 8 << 20, sources=3))
            view.show(Progress("fetch", 0, 8 << 20))
            view.show(Progress("check", 1, 2, unit="files"))
        terminal.flush()
        shown = screen.read(65536).decode()
    assert "fetch" in shown
    assert "/8.00M" in shown
    assert "3 sources" in shown
    assert "in between" in shown


def test_numbers_for_people() -> None:
    """Sizes, times and tables read well."""
    assert [size_text(n) for n in (0, 1023, 1024, 5 << 30, 3 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip
    assert [exact_size_text(n) for n in (0, 1 << 40, 1000 << 30, 5 * 10**8, 1025)] == [
        "0", "1TiB", "1000GiB", "500MB", "1025",
    ]  # fmt: skip
    assert [duration_text(n) for n in (5, 600, 9000)] == ["5 s", "10 min", "2.5 h"]
    assert table(("A", "B"), []) == []
    assert table(("A", "B"), [("xx", "y")]) == ["A   B", "xx  y"]


def test_the_version(allod: Said) -> None:
    """--version is one line, before and after click has a say."""
    code, out, _ = allod("--version")
    assert (code, out) == (0, f"allod {version('allod')}\n")
    assert allod("-c", "p2p.port=0", "--version")[1] == out
    again = [sys.executable, "-m", "node.cli", "--version"]
    assert subprocess.run(again, capture_output=True, text=True, check=True).stdout == out


HOSTILE = "model\x1b]0;pwned\x07\x1b[2J\r\x9b1A\u202egnp.exe\u2028"


def test_what_strangers_chose_is_no_command_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Escapes and turned text in a result, a note, a warning or an error are written out."""
    for event in (Note(HOSTILE), Note(HOSTILE, "warning")):
        Lines().show(event)
    Run(as_json=False, quiet=False, overrides={}).show({"ok": True}, [HOSTILE])
    _tell(Failure("NOT_FOUND", HOSTILE, HOSTILE, 3), False)
    out, err = capsys.readouterr()
    assert out.rstrip("\n").isprintable()
    assert len(err.splitlines()) == 4
    assert all(line.isprintable() for line in err.splitlines())
    assert "\\x1b[2J" in out
    assert "\\u202egnp" in err
    assert plain("päth/with tabs\tand ZWJ \u200d\n") == "päth/with tabs\tand ZWJ \u200d\n"
