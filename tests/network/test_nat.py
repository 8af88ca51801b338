"""Nodes at home, behind real routers (natlab.py), give and take; and say how they reached others.

Everything is a real process in a network namespace: a relay on the open internet, two people at
home, who know of nothing but the relay.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from tests.natlab import Home, Kind, Lab, Machine
from tests.network.people import MIB, Json, Node, Person, same_files
from tests.releases import noise, write_folder

NATS: tuple[Kind, ...] = ("full-cone", "port-restricted", "symmetric")
SIZE = 8 * MIB
LOOK_AGAIN = 0.1
"""Seconds between two questions to a node whose answer is to change."""
PORT = 9770
PATIENCE = 240.0
"""Seconds for one story, on a busy machine; alone it takes fifteen."""


class Resident(Person):
    """Somebody with a machine of the lab."""

    def __init__(self, home: Path, machine: Machine, more: str = "") -> None:
        super().__init__(home)
        self.outside = machine.outside if isinstance(machine, Home) else machine.address
        self.machine = machine
        self.within = machine.within
        config = (home / "config.toml").read_text()
        config = config.replace("port = 0", f"port = {PORT}", 1).replace("127.0.0.1", "0.0.0.0")
        (home / "config.toml").write_text(f"{config}{more}\n")

    def knows(self, address: str) -> None:
        """Begin at this node."""
        config = self.home / "config.toml"
        text = config.read_text().replace("bootstrap = []", f"bootstrap = ['{address}']")
        config.write_text(text)

    async def ask(self, node: Node, operation: str) -> Json:
        """What the node answers at its HTTP door: a command without a process for it."""
        assert "http" in node.status, f"{self.name}: {node.running.tail()}"
        token = (self.home / "run" / "control.token").read_text()
        where = urlsplit(node.status["http"])

        def call() -> bytes:
            with self.machine.entered():
                door = HTTPConnection(where.hostname or "", where.port, timeout=30)
                with closing(door):
                    head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                    door.request("POST", f"/control/v1/{operation}", "{}", head)
                    return door.getresponse().read()

        try:
            last: Json = json.loads((await trio.to_thread.run_sync(call)).splitlines()[-1])
        except HTTPException as exc:
            raise AssertionError(f"{self.name}: {operation}: {node.running.tail()}") from exc
        found: Json = last["result"]
        return found

    async def path_to(self, node: Node, peer: str) -> str | None:
        """How the node reaches a peer now; None: not at all."""
        for info in (await self.ask(node, "peers"))["peers"]:
            if info["peer"] == peer:
                path: str = info["path"]
                return path
        return None

    async def has_path(self, node: Node, peer: str, path: str) -> None:
        """Wait until the node reaches a peer by this path.

        A hole to a peer that can be dialled is as good: which of the two stands first is chance.
        """
        good = ("direct", "punched") if path == "direct" else (path,)
        while True:
            if await self.path_to(node, peer) in good:
                return
            await trio.sleep(LOOK_AGAIN)

    async def finding(self, node: Node) -> str:
        """What the doctor says of the node's reach."""
        checks = (await self.ask(node, "doctor"))["checks"]
        (found,) = (check["found"] for check in checks if check["name"] == "reach")
        return str(found)

    async def public_address(self, node: Node) -> str:
        """Where strangers reach the node, once it knows: by itself or through a relay."""
        while True:
            for address in (await self.ask(node, "status"))["addresses"]:
                if address.startswith("/ip4/11.") and node.peer in address:
                    found: str = address
                    return found
            await trio.sleep(LOOK_AGAIN)


@dataclass
class Homes:
    """Two homes and what is between them."""

    server: Machine
    """The relay's."""
    alice: Resident
    giving: Node
    bob: Resident
    taking: Node
    ref: str
    folder: Path


@asynccontextmanager
async def relay(home: Path, machine: Machine) -> AsyncIterator[Node]:
    """A node on the open internet that is a relay for others."""
    async with Resident(home, machine, more="[relay]\nserve = 'always'").node() as node:
        yield node


async def published(person: Person, seed: int) -> tuple[str, Path]:
    """Publish one file of SIZE; the release, and the folder that it is from."""
    folder = write_folder(person.home.with_suffix(".files"), {"model.bin": noise(SIZE, seed)})
    return (await person.publish(folder, "tiny"))["manifest"], folder


@pytest.mark.long
async def test_a_home_takes_from_the_open_internet(lab: Lab, tmp_path: Path) -> None:
    """Behind any router a node fetches from one that everybody reaches."""
    giver = Resident(tmp_path / "giver", lab.host())
    home = Resident(tmp_path / "home", lab.home("symmetric"))
    ref, folder = await published(giver, 1)
    async with giver.node() as node, home.node() as own:
        fetched = await home.run("fetch", ref, "--peer", node.address)
        same_files(Path(fetched["path"]), folder)
        assert await home.path_to(own, node.peer) == "direct"


@asynccontextmanager
async def two_homes(lab: Lab, tmp_path: Path, one: Kind, two: Kind) -> AsyncIterator[Homes]:
    """Alice, who has something to give, and Bob, who may want it; both know a relay."""
    server = lab.host()
    alice = Resident(tmp_path / "alice", lab.home(one))
    bob = Resident(tmp_path / "bob", lab.home(two))
    ref, folder = await published(alice, 1)
    async with relay(tmp_path / "relay", server) as middle:
        alice.knows(middle.address)
        bob.knows(middle.address)
        async with alice.node(wait=False) as giving, bob.node(wait=False) as taking:
            await giving.ready()
            await taking.ready()
            yield Homes(server, alice, giving, bob, taking, ref, folder)


async def fetched(homes: Homes) -> int:
    """Bob fetches what Alice has; how many bytes the relay got meanwhile."""
    address = await homes.alice.public_address(homes.giving)
    before = homes.server.received()
    fetched = await homes.bob.run("fetch", homes.ref, "--peer", address)
    same_files(Path(fetched["path"]), homes.folder)
    return homes.server.received() - before


async def settled(homes: Homes, path: str) -> None:
    """Wait until Bob reaches Alice by this path, and Alice says the same."""
    await homes.bob.has_path(homes.taking, homes.giving.peer, path)
    await homes.alice.has_path(homes.giving, homes.taking.peer, path)


def expected(one: Kind, two: Kind) -> str:
    """Which path two homes find to each other."""
    if "full-cone" in (one, two):
        return "direct"
    return "relay" if "symmetric" in (one, two) else "punched"


async def test_two_homes_meet(lab: Lab, tmp_path: Path) -> None:
    """Two people behind ordinary routers: a fetch works, through a hole that a relay helped punch.

    One of the pairs below; this one is tried each time.
    """
    with trio.fail_after(PATIENCE):
        async with two_homes(lab, tmp_path, "port-restricted", "port-restricted") as homes:
            await fetched(homes)
            await settled(homes, "punched")
            assert "reached through 1 relay" in await homes.alice.finding(homes.giving)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("one", "two"), list(product(NATS, NATS)))
async def test_every_pair_of_homes(lab: Lab, tmp_path: Path, one: Kind, two: Kind) -> None:
    """A fetch works behind any two routers: directly where a hole can be punched, else by relay."""
    with trio.fail_after(PATIENCE):
        async with two_homes(lab, tmp_path, one, two) as homes:
            carried = await fetched(homes)
            path = expected(one, two)
            await settled(homes, path)
            assert (carried > SIZE) or path != "relay"
            finding = await homes.alice.finding(homes.giving)
            print(one, two, path, carried, finding)
            if one == "full-cone":
                assert f"/ip4/{homes.alice.outside}/tcp/{PORT}" in finding
            else:
                assert "reached through" in finding
