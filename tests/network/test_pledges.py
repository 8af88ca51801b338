"""Pledges among nodes in processes of their own: copies that are killed come back unattended."""

import json
import random
import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from node.config import Config, load_config
from node.messages import FetchParams, PledgeParams, PublishParams, RefParams
from node.node import Node as LiveNode
from node.node import open_node
from node.operations import OPERATIONS
from node.store.releases import Record
from p2p.cid import CID
from tests.network.people import Json, Node, Person, bootstrap
from tests.releases import MIB, noise, write_folder

FILES = {"model.bin": noise(3 * MIB + 12345, 1), "config.json": b'{"a": 1}'}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a release."""
    return write_folder(tmp_path / "tiny", FILES)


def member(home: Path, *known: str, check: str = "2s") -> Person:
    """Somebody who looks at copies often."""
    person = Person(home, *known)
    person.environ["ALLOD_PLEDGE_CHECK"] = check
    return person


def holds(person: Person, manifest: str) -> bool:
    """Whether all of a release is in somebody's store, as the record on disk has it."""
    record = Record.read(person.home / "store" / "manifests" / manifest)
    return record is not None and record.complete


async def seen(person: Person, ref: str, count: int, gone: str = "") -> Json:
    """Wait until somebody's node sees so many healthy copies, and none of who is ``gone``."""
    while True:
        found = await person.run("status", ref)
        proved = {one["peer"] for one in found["copies"] if one["healthy"]}
        if found["healthy"] >= count and gone not in proved:
            return found


@pytest.mark.timeout(120)
async def test_a_killed_copy_comes_back(tmp_path: Path, folder: Path) -> None:
    """Four nodes, two copies: whoever is killed, another takes its place."""
    names = ("alice", "bob", "carol", "dave")
    with trio.fail_after(110):
        async with AsyncExitStack() as stack:
            alice, *others = people = [member(tmp_path / name) for name in names]
            nodes: dict[str, Node] = {}
            for person in people:
                person.environ["ALLOD_P2P_BOOTSTRAP"] = " ".join(
                    one.address for one in nodes.values()
                )
                nodes[person.name] = await stack.enter_async_context(person.node())
            release = await alice.publish(folder, "tiny")
            ref, cid = release["ref"], release["manifest"]
            for person in people:
                made = await person.run("pledge", ref, "--keep", "2", "--max", "100MB")
                assert (made["kind"], made["id"], made["keep"]) == ("release", cid, 2)
            found = await seen(alice, ref, 2)
            assert (found["keep"], found["here"]["pinned"]) == (2, True)
            await nodes["alice"].running.kill()  # the publisher is gone for good
            left = [person for person in others if holds(person, cid)]
            assert left
            found = await seen(others[0], cid, 2, gone=nodes["alice"].peer)
            kept = [person for person in others if holds(person, cid)]
            assert len(kept) >= 2
            proved = {one["peer"] for one in found["copies"] if one["healthy"]}
            assert proved <= {nodes[person.name].peer for person in others}

            # It is nobody's pin, and gc leaves it all the same, until the pledge is taken back.
            [row] = (await kept[0].run("pledge", "list"))["pledges"][0]["releases"]
            assert (row["held"], row["taken"]) == (True, True)
            assert (await kept[0].run("gc"))["releases"] == 0
            assert (await kept[0].run("pledge", "rm", cid))["releases"] == 1
            assert (await kept[0].run("gc"))["releases"] == 1


# -- churn: real nodes on loopback, in one process, since starting one would take too long


@dataclass
class Community:
    """Nodes that all pledged the same, of which one after the other is killed and replaced."""

    folder: Path
    nursery: trio.Nursery
    known: str = ""  # the bootstrap's address
    manifest: CID | None = None
    alive: dict[str, tuple[LiveNode, trio.CancelScope]] = field(default_factory=dict)
    joined: int = 0
    readers: int = 0

    def config(self, name: str) -> Config:
        """What somebody chose."""
        chosen = {
            "ALLOD_HOME": str(self.folder / name),
            "ALLOD_P2P_PORT": "0",
            "ALLOD_P2P_LISTEN": "127.0.0.1",
            "ALLOD_P2P_MDNS": "false",
            "ALLOD_P2P_BOOTSTRAP": self.known,
            "ALLOD_STORE_RESERVE": "0",
            "ALLOD_PLEDGE_CHECK": "3s",
        }
        return load_config(environ=chosen)

    async def join(self, pledges: Path | None = None) -> LiveNode:
        """Start a node that holds nothing, and has pledged what stands in ``pledges``."""
        self.joined += 1
        name = f"m{self.joined}"
        if pledges is not None:
            (self.folder / name).mkdir()
            shutil.copy(pledges, self.folder / name)
        node: LiveNode
        node, scope = await self.nursery.start(self._live, name)
        self.alive[name] = node, scope
        return node

    async def _live(self, name: str, task_status: Any) -> None:
        with trio.CancelScope() as scope:
            async with open_node(self.config(name), network=True) as node:
                task_status.started((node, scope))
                await trio.sleep_forever()

    async def holders(self) -> list[str]:
        """Those alive who have all of it."""
        assert self.manifest is not None
        found = []
        for name, (node, _) in list(self.alive.items()):
            release = await node.store.release(self.manifest)
            if release is not None and release.complete:
                found.append(name)
        return found

    async def kill_one(self) -> None:
        """Kill anybody, but not the last who has it."""
        holders = await self.holders()
        assert holders
        names = [name for name in self.alive if [name] != holders]
        _, scope = self.alive.pop(random.choice(names))
        scope.cancel()

    async def keep_reading(self, scope: trio.CancelScope) -> None:
        """Have somebody new fetch it, again and again; none of these fetches may fail."""
        while not scope.cancel_called:
            self.readers += 1
            home = f"r{self.readers}"
            async with open_node(self.config(home), network=True) as node:
                found = await run(node, "fetch", FetchParams(str(self.manifest)))
                assert found["bytes"]["fetched"] > 0
            shutil.rmtree(self.folder / home)

    async def seen(self, count: int) -> Json:
        """Wait until the one who has been here for longest sees so many healthy copies."""
        node = next(iter(self.alive.values()))[0]
        assert node.keeper is not None
        while True:
            looked = node.keeper.next_look()
            found = await run(node, "copies", RefParams(str(self.manifest)))
            if found["healthy"] >= count and len(await self.holders()) >= count:
                return found
            await looked.wait()


async def run(node: LiveNode, name: str, params: object) -> Json:
    """Have a node do something."""
    found: Json = await OPERATIONS[name].run(node, params, lambda event: None)
    return found


async def churn(tmp_path: Path, folder: Path, *, count: int, keep: int, kills: int) -> None:
    """Kill one of ``count`` every five seconds, ``kills`` times; readers come all the time."""
    async with bootstrap(tmp_path / "bootstrap") as first, trio.open_nursery() as nodes:
        community = Community(tmp_path, nodes, first.address)
        alice = await community.join()
        alice.keyring.new("alice")
        release = await run(
            alice, "publish", PublishParams(str(folder), "alice/tiny", sha256=False)
        )
        community.manifest = CID.parse(release["manifest"])
        await run(alice, "pledge.add", PledgeParams(release["manifest"], keep, "100MB"))
        pledges = tmp_path / "m1" / "pledges.json"
        assert json.loads(pledges.read_text())["taken"] == []  # alice's own is hers
        for _ in range(count - 1):
            await community.join(pledges)
        assert (await community.seen(keep))["keep"] == keep

        reading = trio.CancelScope()  # a fetch that runs is not cut off
        async with trio.open_nursery() as readers:
            readers.start_soon(community.keep_reading, reading)
            for _ in range(kills):
                await community.kill_one()
                await community.join(pledges)
                await trio.sleep(5)  # the pace of the story; nothing waits for it
            with trio.fail_after(60):
                await community.seen(keep)
            reading.cancel()
        assert community.readers >= 2
        nodes.cancel_scope.cancel()


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_copies_stand_a_little_churn(tmp_path: Path, folder: Path) -> None:
    """Five nodes, one killed and replaced every five seconds for a while; no fetch fails."""
    with trio.fail_after(110):
        await churn(tmp_path, folder, count=5, keep=2, kills=3)


@pytest.mark.long
@pytest.mark.timeout(500)
async def test_copies_stand_three_minutes_of_churn(tmp_path: Path, folder: Path) -> None:
    """Twelve nodes, one killed every five seconds for three minutes and replaced.

    No fetch fails, and three copies are back within a minute of the last kill.
    """
    with trio.fail_after(480):
        await churn(tmp_path, folder, count=12, keep=3, kills=36)
