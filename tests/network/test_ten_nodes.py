"""A community of ten nodes goes the way that docs/how-to/ten-nodes.md describes, by its own lines.

Each command that is run here stands in the page word for word but for what a page cannot know: ids,
addresses, links and the folders of a test. So neither can change without the other.
"""

import re
import shlex
import shutil
from pathlib import Path

import httpx
import pytest
import trio

from tests.network.people import Json, Node, Person, bootstrap
from tests.releases import noise, write_folder

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "ten-nodes.md"
SAID = set(re.findall(r"^(allod .*?)$|`(allod [^`]+)`", PAGE.read_text(), re.MULTILINE))
LINES = {line for pair in SAID for line in pair if line}

NAMES = ("anna", "ben", "cleo", "dan", "edda", "finn", "gro", "hal", "ida", "jon")
LOOK = "4s"  # between two looks at the copies: the page's five minutes are for real lines
COPIES = 3
TYPISTS = 3  # who type the three lines; the others have what these wrote, to save minutes


class Member(Person):
    """One of the ten, who types what the page says."""

    async def types(self, line: str, **known: str) -> Json:
        """Run a line of the page; ``known`` takes the place of what it cannot know."""
        assert line in LINES, f"the page has no line {line!r}"
        for word, value in known.items():
            place = PLACES[word]
            assert place in line, (word, line)
            line = line.replace(place, shlex.quote(value))
        return await self.run(*shlex.split(line)[1:])


PLACES = {
    "id": "bagaaiera...",
    "boot": "/dns4/boot.example.org/tcp/9770/p2p/12D3KooW...",
    "tiny": "./tiny",
    "policy": "./policy",
    "policy2": "./policy-2",
    "stick": "/media/stick/",
}


async def metrics(node: Node) -> str:
    """What Prometheus reads of a node."""
    url = node.status["http"]
    return (await trio.to_thread.run_sync(lambda: httpx.get(f"{url}/metrics"))).text


@pytest.mark.long
@pytest.mark.timeout(500)
async def test_a_community_of_ten_from_nothing(tmp_path: Path) -> None:
    """Ten join; copies come, come back, and a decision of the club holds."""
    with trio.fail_after(480):
        async with bootstrap(tmp_path / "boot") as boot, trio.open_nursery() as running:
            people = [Member(tmp_path / name, boot.address) for name in NAMES]
            await people[0].types(
                "allod config set p2p.bootstrap /dns4/boot.example.org/tcp/9770/p2p/12D3KooW...",
                boot=boot.address,
            )
            club = Club(people, running)
            await walk(tmp_path, club, boot)
            running.cancel_scope.cancel()


class Club:
    """The ten, and their nodes while they run."""

    def __init__(self, people: list[Member], running: trio.Nursery) -> None:
        self.people = people
        self._running = running
        self.nodes: dict[str, Node] = {}
        self.up = {person.name: trio.Event() for person in people}
        self.gone: list[str] = []

    async def start(self, *people: Member) -> None:
        """Start some nodes, at the same time."""
        for person in people:
            self._running.start_soon(self.live, person)
        for person in people:
            await self.up[person.name].wait()

    async def live(self, person: Member) -> None:
        """Run somebody's node until it is killed, or all is over."""
        person.environ["ALLOD_PLEDGE_CHECK"] = LOOK
        async with person.node() as node:
            self.nodes[person.name] = node
            self.up[person.name].set()
            await node.running.ended()

    async def lose(self, person: Member) -> None:
        """Have a node go at once."""
        node = self.nodes.pop(person.name)
        self.people.remove(person)
        self.gone.append(node.peer)
        await node.running.kill()

    async def seen(self, person: Member, ref: str) -> Json:
        """Wait until somebody's node sees three healthy copies, and none of those who are gone."""
        while True:
            found = await person.run("status", ref)
            if found["healthy"] >= COPIES and not proved(found) & set(self.gone):
                return found


async def walk(tmp_path: Path, club: Club, boot: Node) -> None:
    """Go through the page from the club's first release on."""
    anna, *others = club.people
    typists, rest = others[:TYPISTS], others[TYPISTS:]
    await club.start(anna, *typists)
    assert (await anna.types("allod peers"))["peers"]
    folder = write_folder(
        tmp_path / "tiny", {"model.bin": noise(90_000, 1), "README.md": b"# Tiny\n"}
    )
    policy = {"policy.toml": b'deny = ["taken-down.deny"]\n', "taken-down.deny": b""}
    publisher = (await anna.types("allod key new club"))["publisher"]
    line = "allod publish ./tiny --as club/tiny@1 --license Apache-2.0"
    tiny = await anna.types(line, tiny=str(folder))
    line = "allod publish ./policy --as club/policy@1 --kind dataset --license CC0-1.0"
    await anna.types(line, policy=str(write_folder(tmp_path / "policy", policy)))
    await anna.types("allod key lock club /media/stick/club-root.key", stick=f"{tmp_path}/")
    for person in typists:
        await person.types("allod trust add bagaaiera... --as club", id=publisher)
        await subscribed(person)
        await person.types("allod pledge club --keep 3 --max 200GB")
    await anna.types("allod pledge club --keep 3 --max 200GB")
    for person in rest:
        shutil.copytree(typists[0].home / "trust", person.home / "trust")
        for name in ("policy.toml", "pledges.json"):
            shutil.copy(typists[0].home / name, person.home / name)
    await club.start(*rest)
    found = await club.seen(others[0], "club/tiny")
    assert found["keep"] == COPIES
    assert 'allod_peers{direction="' in await metrics(club.nodes["ben"])

    # Somebody who has a copy goes: three are back.
    holder = next(one for one in others if club.nodes[one.name].peer in proved(found))
    await club.lose(holder)
    others.remove(holder)
    await club.seen(others[0], "club/tiny")

    # A file on a stick, before the club takes that file down: others hear of it by its word alone.
    line = "allod bundle export club/tiny /media/stick/tiny.car"
    await anna.types(line, stick=f"{tmp_path}/")
    cid = next(one["cid"] for one in tiny["files"] if one["path"] == "model.bin")
    policy["taken-down.deny"] = f"{cid} case 2026-001\n".encode()
    line = "allod publish ./policy-2 --as club/policy@2 --kind dataset --license CC0-1.0"
    await anna.types(line, policy2=str(write_folder(tmp_path / "policy-2", policy)))
    listener = others[0]
    while (why := await listener.types("allod why club/tiny"))["verdict"] != "refused":
        await listener.types("allod trust subscribe club/policy")  # at once, not in half an hour
    assert why["rule"] == "subscribe[0].deny[0]"
    assert "case 2026-001" in why["reason"]

    # The publisher and the way in go: a stick, or any member, has what a newcomer needs.
    await club.lose(anna)
    await boot.running.kill()
    line = "allod bundle import /media/stick/tiny.car"
    assert line in LINES
    late = Member(tmp_path / "late")
    got = await late.run("bundle", "import", f"{tmp_path}/tiny.car", "--yes")
    assert got["manifest"] == tiny["manifest"]
    newcomer = Member(tmp_path / "newcomer")
    async with newcomer.node("--bootstrap", club.nodes[others[-1].name].address):
        await newcomer.fetch_found(tiny["manifest"])


async def subscribed(person: Member) -> None:
    """Subscribe as the page says, again while the news of the policy is still on its way."""
    while True:
        async with person.start("trust", "subscribe", "club/policy") as command:
            code = await command.ended()
            if code == 0:
                return
            assert code in (3, 6), f"{person.name}: subscribe ended with {code}:\n{command.tail()}"


def proved(found: Json) -> set[str]:
    """Who was seen to have a healthy copy."""
    return {one["peer"] for one in found["copies"] if one["healthy"]}
