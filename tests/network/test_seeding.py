"""Real nodes with rules on what they give: over streams and lanes, to whom and how much."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node import crew, peers
from node.config import load_config
from node.fetch import fetch
from node.keyring import Keyring
from node.messages import FetchParams, NoParams
from node.node import Node, open_node
from node.operations import OPERATIONS
from node.seeding.tally import local_now
from node.serving.desk import open_serving
from p2p.errors import NetworkError
from tests.releases import MIB, Published, noise, publish_into, write_folder

FILES = {"big.bin": noise(4 * MIB + 5, 1), "small.txt": b"small"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can be found here, so nobody need be looked for in earnest."""
    monkeypatch.setattr(crew, "LOOKUP_AGAIN", 0.1)
    monkeypatch.setattr(crew, "LOOKUP_PAUSE", 0.1)
    monkeypatch.setattr(peers, "JOIN_WITHIN", 0.1)


@asynccontextmanager
async def running(home: Path, token: str = "", **seeding: str) -> AsyncIterator[Node]:
    """A node on loopback, in this process, that gives by these rules."""
    flags = {"p2p.port": "0", "p2p.listen": "127.0.0.1", "p2p.mdns": "false", "store.reserve": "0"}
    flags |= {name.replace("__", "."): text for name, text in seeding.items()}
    config = load_config(flags, environ={"ALLOD_HOME": str(home)}, read_file=False)
    async with open_node(config, network=True, control_token=token) as node:
        yield node


def peer_id(home: Path) -> str:
    """The id of the node that lives, or will live, in a home."""
    folders = load_config(environ={"ALLOD_HOME": str(home)}, read_file=False).folders
    return Keyring(folders.keys).node().public.peer_id


async def ask(reader: Node, giver: Node, release: Published) -> dict[str, object]:
    """Fetch a release from one node."""
    assert giver.host is not None
    params = FetchParams(ref=str(release.manifest.cid), peers=(giver.host.addresses[0],))
    return await fetch(params, reader, lambda event: None)


async def test_the_rules_hold_where_models_are_served(tmp_path: Path) -> None:
    """What answers peers for models, as every daemon does, gives no more of the rest."""
    rules = {"seeding__audience": "group", "lane__enabled": "false"}
    with trio.fail_after(60):
        async with running(tmp_path / "alice", "token", **rules) as alice, open_serving(alice):
            release = await publish_into(alice.store, write_folder(tmp_path / "files", FILES))
            async with running(tmp_path / "bob") as bob:
                with pytest.raises(NetworkError, match="only to those in its group"):
                    await ask(bob, alice, release)
                assert alice.seeding is not None
                assert alice.seeding.tally.counts().month < MIB


@pytest.mark.parametrize("lane", ["true", "false"])
async def test_a_group_is_given_to_and_others_hear_why(tmp_path: Path, lane: str) -> None:
    """One of the group has it all; another has the statement, and the reason, without waiting."""
    friend, other = tmp_path / "friend", tmp_path / "other"
    rules = {"seeding__audience": "group", "seeding__group": peer_id(friend), "lane__enabled": lane}
    with trio.fail_after(60):
        async with running(tmp_path / "alice", **rules) as alice:
            release = await publish_into(alice.store, write_folder(tmp_path / "files", FILES))
            async with running(friend, lane__enabled=lane) as node:
                await ask(node, alice, release)
                assert alice.seeding is not None
                assert alice.seeding.tally.counts().month > 4 * MIB
            async with running(other, lane__enabled=lane) as node:
                with pytest.raises(NetworkError, match="only to those in its group"):
                    await ask(node, alice, release)
                assert alice.seeding.refused["audience"]
                statement = await node.store.statement(release.manifest.cid)
                assert statement is None or statement.payload == release.manifest.payload


async def test_a_month_ends_a_fetch_and_survives_a_restart(tmp_path: Path) -> None:
    """What fits is given; then who asks hears of the first of next month, after a restart too."""
    rules = {"seeding__month": f"{3 * MIB}"}
    with trio.fail_after(60):
        async with running(tmp_path / "bob") as bob:
            async with running(tmp_path / "alice", **rules) as alice:
                release = await publish_into(alice.store, write_folder(tmp_path / "files", FILES))
                with pytest.raises(NetworkError, match="what it gives in a month"):
                    await ask(bob, alice, release)
                assert alice.seeding is not None
                sent = alice.seeding.tally.counts().month
                assert sent <= 3 * MIB + 65536  # refusals and statements are given all the same
            async with running(tmp_path / "alice", **rules) as alice:
                told = await OPERATIONS["status"].run(alice, NoParams(), lambda event: None)
                assert told["seeding"]["month"] == {"sent": sent, "allowed": 3 * MIB}
                assert alice.seeding is not None
            async with running(tmp_path / "alice") as alice:
                await ask(bob, alice, release)  # the rest comes, once the rule is gone
                assert alice.seeding is not None
                assert sent < alice.seeding.tally.counts().month


async def test_hours_that_are_closed_are_no_fault(tmp_path: Path) -> None:
    """Whoever asks outside of the hours hears of them, is not banned, and bans nobody."""
    hour = local_now().hour
    hours = f"{(hour + 3) % 24:02}:00-{(hour + 4) % 24:02}:00"
    alices = running(tmp_path / "alice", seeding__hours=hours)
    async with alices as alice, running(tmp_path / "bob") as bob:
        release = await publish_into(alice.store, write_folder(tmp_path / "files", FILES))
        with trio.fail_after(60), pytest.raises(NetworkError, match="of its day"):
            await ask(bob, alice, release)
        assert alice.host is not None
        assert bob.host is not None
        assert not bob.host.banned(alice.host.peer_id)
        assert not alice.host.banned(bob.host.peer_id)
        assert alice.seeding is not None
        assert alice.seeding.refused["hours"]
