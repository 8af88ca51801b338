"""Web seeds are the last resort of a fetch: when they join, what they may lack, who is blamed."""

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from node.api.peer import PeerApi
from node.crew import Crew
from node.keyring import Keyring
from node.messages import Note
from node.reading import open_reader
from node.webseeds import AGAIN, AGAIN_AFTER, SEEDS_AFTER, STALLED, LastResort, web_sources
from p2p.errors import NoSources, NotFound
from p2p.http import serve_http
from p2p.policy import Policy, Web
from p2p.web import WebSource, read_base
from tests.fakes import FakeNetwork, FakeSource, Machine
from tests.node.conftest import Stores
from tests.releases import MIB, Published, noise, publish_into, write_folder
from tests.webserver import Authority

FILES = {
    "model.bin": noise(9 * MIB + 12345, 1),
    "data/shard-0.bin": noise(3 * MIB, 2),
    "config.json": b'{"a": 1}',
    "README.md": b"# Tiny\n",
}
SIZE = sum(len(data) for data in FILES.values())
SEEDS = ("https://one.hf.co/tiny/", "https://two.hf.co/tiny/", "https://two.hf.co/more")
NOTHING = {"/allod/v1/have/": b'{"complete":false,"files":{}}'}
MORE = ("http://three.hf.co/", "https://four.example.org/tiny/", "https://five.hf.co/?a=b")


def test_when_it_is_time() -> None:
    """Alone after a look round, nobody reading for a while, or nothing coming for longer."""
    resort = LastResort(100.0, 1000)

    def due(now: float, remaining: int, *, reading: bool = True, alone: bool = False) -> bool:
        return resort.due(now, reading=reading, remaining=remaining, alone=alone)

    assert due(100, 1000, reading=False, alone=True)
    assert not due(100 + SEEDS_AFTER, 1000, reading=False)
    assert due(100.1 + SEEDS_AFTER, 1000, reading=False)
    assert not due(105, 1000)
    assert not due(105 + SEEDS_AFTER, 1000, reading=False)
    assert not due(100 + STALLED, 1000)
    assert due(100.1 + STALLED, 1000)
    assert not due(121, 900)
    assert not due(121 + STALLED, 900)
    assert due(121.1 + STALLED, 900)


def test_the_next_time_comes_sooner() -> None:
    """Whoever reads a release in pieces does not wait so long before each of them."""
    resort = LastResort(100.0, 1000, resorted=90.0)
    assert not resort.due(100 + AGAIN_AFTER, reading=False, remaining=1000, alone=False)
    assert resort.due(100.1 + AGAIN_AFTER, reading=False, remaining=1000, alone=False)
    assert LastResort(100.0, 1000, resorted=100.0 - AGAIN).patience == SEEDS_AFTER


Machines = Callable[..., Awaitable[Machine]]


@pytest.fixture
async def machine(new_store: Stores) -> Machines:
    """Make machines with a store each; they close with the test."""

    async def make() -> Machine:
        store = await new_store(None)
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    return make


@dataclass
class World:
    """A release that names web seeds, a machine that wants it, and who has it."""

    publisher: Machine
    reader: Machine
    release: Published
    sources: list[FakeSource] = field(default_factory=list)

    def node(self, **behaviour: Any) -> FakeSource:
        source = FakeSource(f"peer-{len(self.sources)}", self.publisher.store, **behaviour)
        self.sources.append(source)
        self.reader.wire.known.append(source)
        return source

    def seed(self, url: str = SEEDS[0], **behaviour: Any) -> FakeSource:
        peer = "/".join(url.split("/")[:3])
        source = FakeSource(peer, self.publisher.store, "web", **behaviour)
        self.reader.wire.seeds[url] = source
        return source

    async def fetch(self, **params: Any) -> dict[str, Any]:
        with trio.fail_after(60):
            got = await self.reader.fetch(self.release.manifest.cid, **params)
        for path, data in FILES.items():
            assert (Path(got["path"]) / path).read_bytes() == data
        return got

    def notes(self) -> list[str]:
        return [event.text for event in self.reader.events if isinstance(event, Note)]


@pytest.fixture
async def world(machine: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A release with web seeds; whoever waits, waits a tenth of the time."""
    monkeypatch.setattr("node.crew.LOOKUP_AGAIN", 0.05)
    monkeypatch.setattr("node.webseeds.SEEDS_AFTER", 0.3)
    monkeypatch.setattr("node.transfer.RENEW_HAVE", 0.1)
    monkeypatch.setattr("node.transfer.PATIENCE", 2.0)
    publisher, reader = await machine(), await machine()
    folder = write_folder(tmp_path / "tiny", FILES)
    release = await publish_into(publisher.store, folder, web_seeds=SEEDS)
    made = World(publisher, reader, release)
    for url in SEEDS[:2]:
        made.seed(url)
    return made


def by_peer(got: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {one["peer"]: (one["kind"], one["bytes"]) for one in got["sources"]}


async def test_nodes_that_have_it_are_enough(world: World) -> None:
    """No web seed is asked where a node gives everything."""
    world.node()
    got = await world.fetch()
    assert by_peer(got) == {"peer-0": ("stream", SIZE)}
    assert all(seed.asked == [] for seed in world.reader.wire.seeds.values())


async def test_what_no_node_has_comes_from_the_web(world: World) -> None:
    """The nodes hold the statement and one file; the rest is read at the web seeds, as files."""
    small = world.release.manifest.files[0]
    have = {"complete": False, "files": {str(small.cid): [[0, small.size]]}}
    node = world.node(answers={"/allod/v1/have/": json.dumps(have).encode()})
    got = await world.fetch()
    found = by_peer(got)
    assert found.pop(node.peer) == ("stream", small.size)
    assert {kind for kind, _ in found.values()} == {"web"}
    # Of a range that two were asked for on a busy machine, one may have had a leaf already.
    assert sum(size for _, size in found.values()) >= SIZE - small.size
    for seed in world.reader.wire.seeds.values():
        assert all(target.startswith("/ipfs/") for target in seed.asked)
    assert any("it is asked of https://one.hf.co" in note for note in world.notes())


async def test_a_node_that_dies_is_replaced_by_the_web(world: World) -> None:
    """What it gave is kept."""
    world.node(dies_after=2 * MIB)
    got = await world.fetch()
    kinds = {one["kind"] for one in got["sources"]}
    assert "web" in kinds


async def test_a_node_that_stalls_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who read and bring nothing do not keep the web seeds out."""
    monkeypatch.setattr("node.webseeds.STALLED", 0.5)
    world.node(stalls=True)
    got = await world.fetch()
    assert {one["kind"] for one in got["sources"]} == {"web"}


async def test_a_web_seed_that_lies_is_caught_at_the_first_leaf(world: World) -> None:
    """It is banned and named, nothing wrong is kept, and another gives the rest."""
    world.node(answers=NOTHING)
    liar = world.seed(SEEDS[0], lies=True)
    got = await world.fetch()
    [banned] = got["banned"]
    assert banned["peer"] == liar.peer
    assert "bytes" in banned["reason"]
    found = by_peer(got)
    assert found["https://two.hf.co"][0] == "web"
    assert sum(size for _, size in found.values()) == SIZE
    assert world.reader.wire.banned == {liar.peer: banned["reason"]}
    assert (await world.reader.store.verify()).bad == []


async def test_a_file_that_is_not_there_is_no_fault(world: World) -> None:
    """A web seed that lacks a file gives the others, and another seed gives that one."""
    world.node(answers=NOTHING)
    cids = {entry.path: entry.cid for entry in world.release.manifest.files}
    one = world.seed(SEEDS[0], lacks=frozenset({cids["model.bin"]}))
    two = world.seed(SEEDS[1], lacks=frozenset(cids.values()) - {cids["model.bin"]})
    got = await world.fetch()
    big = len(FILES["model.bin"])
    assert by_peer(got) == {one.peer: ("web", SIZE - big), two.peer: ("web", big)}
    assert got["banned"] == []


async def test_what_nobody_has_names_who_was_asked(world: World) -> None:
    """The error says what each web seed answered."""
    world.node(answers=NOTHING)
    every = frozenset(entry.cid for entry in world.release.manifest.files)
    for url in SEEDS[:2]:
        world.seed(url, lacks=every)
    with trio.fail_after(60), pytest.raises(NoSources) as caught:
        await world.reader.fetch(world.release.manifest.cid)
    assert "https://one.hf.co: It answered 404." in caught.value.message


async def test_an_outline_comes_from_a_node_or_not_at_all(world: World, machine: Machines) -> None:
    """Without one the error says that the web seeds have the files alone."""
    holder = await machine()  # of the statement
    holder.wire.known = [world.node()]
    await holder.fetch(world.release.manifest.cid, statement_only=True)
    world.reader.wire.known = [FakeSource("holder", holder.store)]
    with trio.fail_after(60), pytest.raises((NoSources, NotFound)) as caught:
        await world.reader.fetch(world.release.manifest.cid)
    said = caught.value.message
    assert "the outline of" in said
    assert "The web seeds (https://one.hf.co, https://two.hf.co) have the files" in said


async def test_the_policy_says_never(world: World) -> None:
    """Then they are not asked, and it is said why."""
    folder = world.reader.store.folder.with_suffix(".trust")
    folder.mkdir(exist_ok=True)
    (folder / "policy.toml").write_text('[web]\nseeds = "never"\n')
    world.node(answers=NOTHING)
    with trio.fail_after(60), pytest.raises(NoSources):
        await world.reader.fetch(world.release.manifest.cid)
    assert any("The policy has no web server asked" in note for note in world.notes())
    assert all(seed.asked == [] for seed in world.reader.wire.seeds.values())


async def test_what_a_seed_lacks_of_one_file_is_no_loss_to_another(world: World) -> None:
    """Two files are read at once: the server that has one of them goes on giving it."""
    manifest = world.release.manifest
    files = {entry.path: entry for entry in manifest.files}
    model, shard = files["model.bin"], files["data/shard-0.bin"]
    world.node(answers=NOTHING)
    seed = world.seed(SEEDS[0], lacks=frozenset({shard.cid}), delay=0.02)
    world.seed(SEEDS[1], unreachable=True)
    got = b""
    async with open_reader(world.reader) as reader:
        opened = await reader.open(str(manifest.cid))
        async with aclosing(opened.read(model, 0, model.size)) as pieces:
            async for piece in pieces:
                if not got:
                    with pytest.raises(NoSources):
                        await anext(opened.read(shard, 0, shard.size))
                got += piece
    assert got == FILES["model.bin"]
    assert seed.sent >= len(got)  # a last leaf that is late may have been read twice


async def test_a_few_are_asked_at_once_and_each_once(machine: Machines) -> None:
    """Where one leaves the next joins; another transfer may ask those anew that did not lie."""
    store = (await machine()).store
    seeds = [FakeSource(f"https://{number}.hf.co", store, "web") for number in range(5)]
    said: list[Any] = []
    crew = Crew(FakeNetwork(), said.append, seeds=lambda: seeds)
    called: set[str] = set()

    def there() -> list[str]:
        return [member.peer[8] for member in crew.active]

    for _ in range(2):
        crew.call_seeds(called)
        assert there() == ["0", "1", "2"]
    assert not list(crew.nodes)
    crew.leave(crew.members[seeds[0].peer], "it fell silent")
    crew.ban(crew.members[seeds[1].peer], "it lied")
    crew.call_seeds(called)
    assert there() == ["2", "3", "4"]
    for seed in seeds[2:]:
        crew.leave(crew.members[seed.peer], "it fell silent")
    crew.call_seeds(called)
    assert there() == []
    crew.call_seeds(set())
    assert there() == ["0", "2", "3"]
    crew.call_seeds({seed.peer for seed in seeds[2:]}, spent=[seeds[2].peer])
    assert there() == ["0", "2", "3"]  # what is spent takes no room, and is not asked again
    assert len([note for note in said if "is asked of" in note.text]) == 2


async def test_an_ipfs_gateway_is_a_web_server(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """The folder of a release at a gateway is its root's CID; ours answers as one must."""
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    api = PeerApi(world.publisher.store)

    async def answer(stream: trio.SSLStream) -> None:
        await serve_http(stream, api, peer="loopback")

    [listener] = await nursery.start(
        partial(
            trio.serve_ssl_over_tcp, answer, 0, authority.context("127.0.0.1"), host="127.0.0.1",
            https_compatible=True,
        )
    )  # fmt: skip
    port = listener.transport_listener.socket.getsockname()[1]
    manifest = world.release.manifest
    base = read_base(f"https://127.0.0.1:{port}/ipfs/{manifest.root}/")
    files = {entry.cid: [(entry.path, entry.size)] for entry in manifest.files}
    source = WebSource([base], files, Web(local_hosts=(f"127.0.0.1:{port}",)))
    async with source.open() as session:
        for entry in manifest.files:
            span = entry.size // 3, entry.size
            came = b"".join([piece async for piece in session.read(entry.cid, *span)])
            assert came == FILES[entry.path][slice(*span)]


async def test_seeds_are_sources_by_server(world: World) -> None:
    """Folders of one server are one source; what is not let in is told, with the reason."""
    asked: list[Any] = []

    class Wire(FakeNetwork):
        def web(self, bases: Any, files: Any, web: Any) -> Any:
            asked.append(([str(base) for base in bases], files, web))
            return FakeSource("x", world.publisher.store)

    class Named:
        web_seeds = SEEDS + MORE
        files = world.release.manifest.files

    said: list[Any] = []
    assert len(web_sources(Named(), Policy(), Wire(), said.append)) == 2  # type: ignore[arg-type]
    assert [bases for bases, _, _ in asked] == [
        ["https://one.hf.co/tiny/"],
        ["https://two.hf.co/tiny/", "https://two.hf.co/more/"],
    ]
    files = asked[0][1]
    assert {path for entries in files.values() for path, _ in entries} == set(FILES)
    assert asked[0][2] == Web()
    assert [note.text.partition("not asked: ")[2] for note in said] == [
        "Expected an https address, came one of http.",
        "four.example.org is not one of the web.hosts of the policy.",
        "Expected the address of a folder, came 'https://five.hf.co/?a=b'.",
    ]
