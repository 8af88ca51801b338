"""``allod doctor``: what is wrong is found, with what mends it, and mended where that is safe.

Each test breaks one thing in a real home and asks; what no test can break (the kernel's clock, a
network file system) is only looked at.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from node.client import BareNode
from node.config import Config, load_config
from node.doctor import Finding, examine
from node.doctor.disk import look_at_disk
from node.doctor.engines import look_at_engines
from node.doctor.examination import report
from node.doctor.machine import look_at_clock, look_at_libraries, look_at_open_files
from node.doctor.network import Listening, listening, look_at_dht, look_at_ports, look_at_reach
from node.doctor.publishers import look_at_keys
from node.keyring import Keyring
from node.ledger import open_ledger
from node.messages import DoctorParams
from node.store import open_store
from p2p.address import Address
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.discovery import Discovery
from p2p.host import HostSettings, PeerInfo, open_host
from p2p.keys import SecretKey
from p2p.reachability import Reachability, Vote
from tests.network.people import Person

Json = dict[str, Any]
Check = Callable[..., Json]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, which the configuration names."""
    for name in [name for name in os.environ if name.startswith("ALLOD_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("ALLOD_HOME", str(home))
    home.mkdir()
    return home


def config_of(home: Path, **flags: str) -> Config:
    return load_config({key.replace("__", "."): value for key, value in flags.items()})


async def asked(home: Path, *, fix: bool = False) -> dict[str, list[Json]]:
    """Examine a home in which no node runs; what each check found."""
    result = await examine(DoctorParams(fix), BareNode(load_config(read_file=False)))
    assert result["running"] is False
    found: dict[str, list[Json]] = {}
    for one in result["checks"]:
        found.setdefault(one["name"], []).append(one)
        assert one["found"].endswith((".", ")")), one
        assert "could not be looked at" not in one["found"], one
    return found


def worst(found: list[Json] | list[Finding]) -> tuple[str, str, str]:
    """Return level, sentence and fix of the worst of several findings."""
    order = ("ok", "note", "warning", "problem")
    parts = [
        (one["level"], one["found"], one["fix"])
        if isinstance(one, dict)
        else (one.level, one.found, one.fix)
        for one in found
    ]
    return max(parts, key=lambda one: order.index(one[0]))


# -- as a whole


async def test_an_empty_home_has_no_problem(home: Path) -> None:
    """What is only not there yet is no problem, and looking makes nothing."""
    found = await asked(home)
    assert "problem" not in {one["level"] for some in found.values() for one in some}
    assert found["folders"][0]["fix"].startswith("allod doctor --fix")
    assert os.listdir(home) == []


async def test_fix_makes_the_folders(home: Path) -> None:
    """With --fix, what is missing is made, for this user alone."""
    await asked(home, fix=True)
    assert "folders" not in await asked(home)
    assert (home / "keys").stat().st_mode & 0o777 == 0o700


def test_a_report_counts_and_names_the_first_problem() -> None:
    """No problem is ok; one or more are an error with what mends the first."""
    good = report([Finding("a", "ok", "Good."), Finding("b", "warning", "Hm.")], running=True)
    assert good["ok"] is True
    assert good["counts"] == {"ok": 1, "note": 0, "warning": 1, "problem": 0}
    bad = report([Finding("a", "problem", "Bad.", "mend it")] * 2, running=False)
    assert bad["ok"] is False
    assert bad["error"]["message"] == "2 problems were found."
    assert bad["error"]["next"] == "mend it"


async def test_a_check_that_breaks_is_a_finding(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, and what went wrong is told."""

    def broken(*_: object, **__: object) -> Iterator[Finding]:
        yield Finding("memory", "ok", "There is some.")
        raise RuntimeError("no /proc here")

    monkeypatch.setattr("node.doctor.examination.look_at_memory", broken)
    result = await examine(DoctorParams(), BareNode(load_config()))
    [first, second] = [one for one in result["checks"] if one["name"] == "memory"]
    assert first["level"] == "ok"
    assert (second["level"], "no /proc here" in second["found"]) == ("warning", True)
    assert result["checks"][-1]["name"] == "node"


# -- files


async def test_open_secrets_are_found_and_closed(home: Path) -> None:
    """A key, a folder of keys and the ledger that others may read: told, and mended with --fix."""
    Keyring(home / "keys").new("alice")
    async with open_ledger(home):
        pass
    key = home / "keys" / "publishers" / "alice" / "root.key"
    key.chmod(0o640)
    (home / "keys").chmod(0o755)
    (home / "ledger.db").chmod(0o644)
    found = [one for one in (await asked(home))["permissions"] if one["level"] == "problem"]
    assert len(found) == 3
    assert f"chmod 0600 {key}" in {one["fix"] for one in found}
    assert key.stat().st_mode & 0o777 == 0o640
    mended = (await asked(home, fix=True))["permissions"]
    assert [one["level"] for one in mended] == ["note"] * 3
    assert key.stat().st_mode & 0o777 == 0o600
    assert (home / "keys").stat().st_mode & 0o777 == 0o700
    assert worst((await asked(home))["permissions"])[0] == "ok"


async def test_what_anybody_can_change_is_found(home: Path) -> None:
    """A policy or a configuration that every user may write is as good as none."""
    (home / "policy.toml").touch()
    (home / "policy.toml").chmod(0o666)
    level, text, fix = worst((await asked(home))["permissions"])
    assert level == "problem"
    assert "anybody can write" in text
    assert fix == f"chmod 0664 {home / 'policy.toml'}"


async def test_a_link_is_never_mended(home: Path, tmp_path: Path) -> None:
    """--fix changes no mode behind a symbolic link: it may lead anywhere."""
    target = tmp_path / "elsewhere"
    target.touch()
    target.chmod(0o666)
    (home / "policy.toml").symlink_to(target)
    assert worst((await asked(home, fix=True))["permissions"])[0] == "problem"
    assert target.stat().st_mode & 0o777 == 0o666


# -- configuration and policy


@pytest.mark.parametrize(
    ("file", "text", "check", "words"),
    [
        ("config.toml", "[p2p]\nprot = 1\n", "config", "There is no configuration key"),
        ("config.toml", "[p2p\n", "config", "is not valid TOML"),
        ("policy.toml", "formats = 7\n", "policy", "formats"),
        ("policy.toml", 'deny = ["gone.deny"]\n', "policy", "there is no file"),
    ],
)
async def test_what_the_owner_wrote_wrong(
    home: Path, file: str, text: str, check: str, words: str
) -> None:
    """The sentence that the node would end with, and what to do."""
    (home / file).write_text(text)
    level, found, fix = worst((await asked(home))[check])
    assert level == "problem"
    assert words in found
    assert fix


async def test_a_policy_is_counted(home: Path) -> None:
    """Publishers, lines of deny lists; a line that cannot be read is told."""
    (home / "policy.toml").write_text('deny = ["my.deny"]\n')
    cid = CID.of(b"bad", Codec.RAW)
    (home / "my.deny").write_text(f"version: 1\nname: mine\n---\n/ipfs/{cid}\n")
    level, text, _ = worst((await asked(home))["policy"])
    assert (level, "1 line in 1 deny list" in text) == ("ok", True)


# -- the disk and the store


def test_a_full_disk(home: Path) -> None:
    """Less room than is to stay free: nothing can be fetched, and that is a problem."""
    full = config_of(home, store__reserve="900TB", store__quota="1TB")
    level, text, fix = worst([one for one in look_at_disk(full) if one.name == "disk"])
    assert level == "problem"
    assert "Nothing can be fetched" in text
    assert "allod gc" in fix
    large = config_of(home, store__reserve="0", store__quota="900000TB")
    level, text, _ = worst([one for one in look_at_disk(large) if one.name == "disk"])
    assert (level, "more than the disk has" in text) == ("note", True)


async def test_the_file_system_is_tried(home: Path) -> None:
    """Whether it shares bytes is found out by doing it, and nothing of that stays."""
    async with open_store(home / "store", quota=None):
        pass
    found = {one.name: one for one in look_at_disk(config_of(home))}
    assert "publish" in found["disk.links"].found
    assert list((home / "store" / "temp").iterdir()) == []
    assert found["disk.kind"].level in ("ok", "warning")


@pytest.fixture
async def stored(home: Path) -> tuple[Path, CID]:
    """A home whose store holds a file; nobody has it open."""
    async with open_store(home / "store", quota=None) as store:
        added = await store.add_bytes(b"weights" * 1000, Profile.FIXED_1M)
    return home / "store", added.outline.root


async def test_a_good_store(home: Path, stored: tuple[Path, CID]) -> None:
    """Version, quota, nothing unfinished, nothing damaged."""
    found = await asked(home)
    assert {name for name in found if name.startswith("store")} == {
        "store", "store.unfinished", "store.damage", "store.quota",
    }  # fmt: skip
    assert all(worst(found[name])[0] == "ok" for name in found if name.startswith("store"))


async def test_a_store_that_was_not_closed(home: Path, stored: tuple[Path, CID]) -> None:
    """After a crash the next start takes longer, which is told before it does."""
    with closing(sqlite3.connect(stored[0] / "index.sqlite")) as database:
        database.execute("UPDATE marks SET value = 0 WHERE name = 'clean'")
        database.commit()
    level, text, _ = worst((await asked(home))["store"])
    assert (level, "not closed in order" in text) == ("note", True)


@pytest.mark.parametrize("damage", ["garbage", "newer"])
async def test_databases_that_are_of_no_use(
    home: Path, stored: tuple[Path, CID], damage: str
) -> None:
    """The index can be made anew, so that is a warning; the ledger cannot, a problem."""
    async with open_ledger(home):
        pass
    for file in (stored[0] / "index.sqlite", home / "ledger.db"):
        if damage == "garbage":
            file.write_bytes(b"no database " * 1000)
        else:
            with closing(sqlite3.connect(file)) as database:
                database.execute("PRAGMA user_version = 99")
    found = await asked(home)
    assert worst(found["store"])[0] == "warning"
    level, _, fix = worst(found["ledger"])
    assert level == "problem"
    assert fix


async def test_what_lies_about_in_a_store(home: Path, stored: tuple[Path, CID]) -> None:
    """Old unfinished files, damaged ones, more than the quota: each is told with its command."""
    folder, _ = stored
    partial = folder / "partial" / str(CID.of(b"unfinished", Codec.RAW))
    partial.write_bytes(b"x" * 10_000)
    long_ago = time.time() - 40 * 86_400
    os.utime(partial, (long_ago, long_ago))
    (folder / "quarantine" / "something").touch()
    (home / "config.toml").write_text("[store]\nquota = 100\n")
    checks = (await examine(DoctorParams(), BareNode(load_config())))["checks"]
    found = {one["name"]: one for one in checks}
    assert "1 unfinished file" in found["store.unfinished"]["found"]
    assert "allod gc" in found["store.unfinished"]["fix"]
    assert found["store.damage"]["level"] == "warning"
    assert "allod verify" in found["store.damage"]["fix"]
    assert found["store.quota"]["level"] == "warning"


# -- clock and keys


def test_a_clock_that_went_back(home: Path) -> None:
    """What a publisher of this machine signed later than now is a wrong clock."""
    keyring = Keyring(home / "keys")
    keyring.new("alice")
    config, now = config_of(home), datetime.now(UTC)
    good = worst(list(look_at_clock(config, keyring, now)))
    assert good[0] in ("ok", "note")  # a note where nothing sets the kernel's clock
    level, text, fix = worst(list(look_at_clock(config, keyring, now - timedelta(days=2))))
    assert level == "problem"
    assert "a publisher of this machine signed" in text
    assert fix


async def test_a_clock_before_the_store(home: Path, stored: tuple[Path, CID]) -> None:
    """So is a release that the store took in later than now."""
    with closing(sqlite3.connect(stored[0] / "index.sqlite")) as database:
        database.execute(
            "INSERT INTO releases VALUES (1, x'00', 'p', 'n', '1', 'model', 1, '', x'00', NULL, 1,"
            " 1, 1, ?, NULL)",
            (time.time() + 86_400,),
        )
        database.commit()
    found = look_at_clock(config_of(home), Keyring(home / "keys"), datetime.now(UTC))
    level, text, _ = worst(list(found))
    assert (level, "the store has a release" in text) == ("problem", True)


def test_keys_and_what_expires(home: Path) -> None:
    """A root key that lies here is noted; what expires soon is told in days, then as a problem."""
    keyring, config, now = Keyring(home / "keys"), config_of(home), datetime.now(UTC)
    keyring.new("alice")

    def look(days: float, *, running: bool = True) -> tuple[str, str, str]:
        found = look_at_keys(config, keyring, now + timedelta(days=days), running=running)
        return worst([one for one in found if one.name == "publisher"])

    level, text, fix = look(0)
    assert (level, "root key lies on this machine" in text) == ("note", True)
    assert fix.startswith("allod key lock alice")
    level, text, fix = look(6)
    assert (level, "the timestamp expires" in text) == ("warning", True)
    assert fix == "allod key renew alice"
    assert "allod up" in look(6, running=False)[2]
    level, text, _ = look(400)
    assert (level, "expired" in text) == ("problem", True)


async def test_a_publisher_that_cannot_be_read(home: Path) -> None:
    """Damaged metadata is a problem of that publisher, and no end of the examination."""
    Keyring(home / "keys").new("alice")
    (home / "keys" / "publishers" / "alice" / "metadata" / "timestamp.json").write_text("{")
    found = await asked(home)
    assert worst(found["publisher"])[0] == "problem"
    assert "policy" in found


# -- the machine


def test_libraries_are_compared() -> None:
    """One that is too old, and one that is missing, are named; extras are nobody's need."""
    good = worst(list(look_at_libraries(["trio>=0.30", 'torch>=2 ; extra == "transformers"'])))
    assert good[0] == "ok"
    wanted = ["trio>=99", "no-such-library-of-anybody", "click"]
    level, text, fix = worst(list(look_at_libraries(wanted)))
    assert level == "problem"
    assert "wanted >=99" in text
    assert "no-such-library-of-anybody is missing" in text
    assert fix.startswith("pip install")
    assert worst(list(look_at_libraries()))[0] == "ok"


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few are told before they are used up, and when they are."""
    monkeypatch.setattr("resource.getrlimit", lambda kind: (256, 65_536))
    level, _, fix = worst(list(look_at_open_files(running=False)))
    assert (level, "ulimit -n 65536" in fix) == ("note", True)
    monkeypatch.setattr("resource.getrlimit", lambda kind: (2, 65_536))
    assert worst(list(look_at_open_files(running=True)))[0] == "problem"


def test_engines(home: Path) -> None:
    """Which are there; the one that was asked for and is not is a problem."""

    def engine(name: str, missing: str) -> Any:
        return SimpleNamespace(name=name, missing=lambda: missing)

    some = [engine("llama-server", ""), engine("vllm", "pip install vllm")]
    assert worst(list(look_at_engines(config_of(home), some)))[0] in ("ok", "warning")
    assert worst(list(look_at_engines(config_of(home), some[1:])))[0] == "note"
    wanted = config_of(home, serve__engine="vllm")
    level, text, _ = worst(list(look_at_engines(wanted, some)))
    assert (level, "needs pip install vllm" in text) == ("problem", True)


# -- the network


@contextmanager
def taken_port() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]


def test_a_port_that_another_program_has(home: Path) -> None:
    """It is named with its process; for a running node the port must be its own."""
    with taken_port() as port:
        config = config_of(home, p2p__port=str(port), http__port="0")
        taken = listening()
        assert taken is not None
        found = {one.name: one for one in look_at_ports(config, taken, running=False)}
        assert found["port.peers"].level == "problem"
        assert f"process {os.getpid()}" in found["port.peers"].found
        assert "allod config set p2p.port 0" in found["port.peers"].fix
        assert found["port.http"].level == "ok"
        own = {one.name: one for one in look_at_ports(config, taken, running=True)}
        assert own["port.peers"].level == "ok"
    gone = {one.name: one for one in look_at_ports(config, [], running=True)}
    assert gone["port.peers"].level == "problem"
    unknown = {one.name: one for one in look_at_ports(config, None, running=False)}
    assert unknown["port.peers"].level == "note"


def test_a_port_of_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 1024 the node could not listen."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    config = config_of(home, p2p__port="80")
    assert worst(list(look_at_ports(config, [], running=False)))[0] == "warning"


def test_another_users_program_has_no_name(home: Path) -> None:
    """What the kernel does not tell is not made up."""
    config = config_of(home, http__port="9771")
    taken = [Listening(9771, None, "a program of another user")]
    found = {one.name: one for one in look_at_ports(config, taken, running=False)}
    assert found["port.http"].found.endswith("is taken by a program of another user.")


@pytest.mark.parametrize(
    ("addresses", "came", "level", "words"),
    [
        ((), (), "note", "only dials"),
        (("/ip4/127.0.0.1/tcp/1",), (), "warning", "loopback only"),
        (("/ip4/192.168.1.2/tcp/1",), (), "note", "this network alone"),
        (("/ip4/192.168.1.2/tcp/1",), ("/ip4/8.8.8.8/tcp/1",), "ok", "1 peer from outside"),
        (("/ip4/8.8.4.4/tcp/1",), (), "note", "nobody from outside connected"),
        (("/ip4/8.8.4.4/tcp/1",), ("/ip4/10.0.0.1/tcp/1",), "note", "nobody from outside"),
    ],
)
def test_reach(addresses: tuple[str, ...], came: tuple[str, ...], level: str, words: str) -> None:
    """What the addresses and those who came in say, and no more."""
    [found] = look_at_reach(reached(addresses, came))
    assert (found.level, words in found.found) == (level, True)


def reached(
    addresses: tuple[str, ...], came: tuple[str, ...] = (), tried: str = "", mapped: str = ""
) -> Any:
    """A host at these addresses; ``tried``: how three peers fared, where some have."""
    reach = Reachability()
    if mapped:
        reach.map(Address.parse(mapped), {})
    for number in range(3 if tried else 0):
        worked = Address.parse(tried) if tried != "no" else None
        reach.vote(Vote(str(number), str(number), "ip4", worked, 0.0))
    own = [Address.parse(one) for one in addresses]
    direct = [one for one in own if one.relay is None]
    return SimpleNamespace(
        own_addresses=lambda: own,
        interfaces=lambda: direct,
        peers=lambda: [PeerInfo("peer", (one,), 0.0, inbound=True) for one in came],
        reachability=reach,
        settings=HostSettings(),
    )


RELAYED = "/ip4/8.8.8.8/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit"


@pytest.mark.parametrize(
    ("addresses", "tried", "mapped", "level", "words"),
    [
        (("/ip4/192.168.1.2/tcp/1",), "/ip4/8.8.4.4/tcp/1", "", "ok", "at /ip4/8.8.4.4/tcp/1"),
        (("/ip4/192.168.1.2/tcp/1",), "", "/ip4/8.8.4.4/tcp/1", "ok", "The router passes"),
        (("/ip4/192.168.1.2/tcp/1", RELAYED), "", "", "ok", "through 1 relay"),
        (("/ip4/192.168.1.2/tcp/1", RELAYED), "no", "", "ok", "reached through 1 relay"),
        (("/ip4/192.168.1.2/tcp/1",), "no", "", "warning", "get through the router, and no relay"),
        (("/ip4/8.8.4.4/tcp/1",), "no", "", "warning", "get through a firewall"),
        (("/ip4/192.168.1.2/tcp/1",), "no", "/ip4/8.8.4.4/tcp/1", "warning", "although"),
    ],
)
def test_reach_as_others_tried_it(
    addresses: tuple[str, ...], tried: str, mapped: str, level: str, words: str
) -> None:
    """What others found counts for more than what the addresses look like."""
    [found] = look_at_reach(reached(addresses, tried=tried, mapped=mapped))
    assert (found.level, words in found.found) == (level, True), found


async def test_a_dht_with_nobody_in_it(home: Path) -> None:
    """Nobody named and nobody near is told apart from somebody named who does not answer."""
    settings = HostSettings(listen_hosts=("127.0.0.1",), mdns=False)
    async with open_host(SecretKey.generate(), settings) as host:
        discovery = Discovery(host)
        config = config_of(home, p2p__mdns="false")
        now = trio.current_time()
        assert worst(list(look_at_dht(config, discovery, now)))[0] == "warning"
        near = config_of(home)
        assert worst(list(look_at_dht(near, discovery, now)))[0] == "note"


# -- the command


async def test_a_running_node_is_asked(tmp_path: Path) -> None:
    """What only the node knows is in it: its ports, reach, DHT and peers; and its peer is there."""
    bob, alice = Person(tmp_path / "bob"), Person(tmp_path / "alice")
    async with bob.node() as friend, alice.node("--bootstrap", friend.address) as node:
        await alice.run("peers")
        found = await alice.run("doctor")
        assert found["running"] is True
        named = {one["name"]: one for one in found["checks"]}
        assert named["port.peers"]["level"] == "ok"
        assert named["reach"]["level"] == "warning"  # it listens on loopback alone
        assert named["node-key"]["found"] == f"This node is {node.peer}."
        assert {"dht", "peers", "store.quota", "engines", "memory"} <= named.keys()
        (alice.home / "config.toml").write_text("[limits]\nup = '1MB'\n")
        again = {one["name"]: one for one in (await alice.run("doctor"))["checks"]}
        assert "limits.up" in again["config"]["found"]
        assert await node.running.stop() == 0


async def test_a_wrong_file_is_a_finding_and_an_exit_code(tmp_path: Path) -> None:
    """With a config.toml that stops every other command, doctor says so and ends with 1."""
    alice = Person(tmp_path / "alice")
    (alice.home / "config.toml").write_text("[p2p]\nprot = 1\n")
    error = await alice.refused("doctor", code=1)
    assert error["message"] == "1 problem was found."
    assert error["next"]


async def test_a_node_that_does_not_answer(tmp_path: Path) -> None:
    """A node that hangs or is somebody else's is a problem; the rest is looked at from here."""
    alice = Person(tmp_path / "alice")
    async with alice.node():
        (alice.home / "run" / "control.token").write_text("a-wrong-token-of-enough-characters")
        async with alice.start("doctor") as command:
            assert await command.ended() == 1
            found = await command.answer()
    [first, *rest] = found["checks"]
    assert (first["name"], first["level"]) == ("node", "problem")
    assert len(rest) > 10
