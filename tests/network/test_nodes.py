"""Whole nodes in processes of their own, over real connections: a release reaches them all."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.network.people import Json, Node, Person, bootstrap, same_files
from tests.releases import MIB, noise, safetensors_bytes, write_folder

FILES = {
    "model.bin": noise(9 * MIB + 12345, 1),
    "data/shard-0.bin": noise(3 * MIB, 2),
    "config.json": b'{"a": 1}',
    "README.md": b"# Tiny\n",
    "empty.txt": b"",
}
BODIES = ("lie", "stall", "die", "long", "short", "fail", "busy")
SIZE = sum(len(data) for data in FILES.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a release."""
    return write_folder(tmp_path / "tiny", FILES)


async def swarm_story(tmp_path: Path, folder: Path, count: int) -> None:
    """Nodes join through one bootstrap, which goes away; one publishes, all others fetch.

    The last of them leaves before, and comes back when its configuration names no bootstrap.
    """
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(bootstrap(tmp_path / "bootstrap"))
        people = [Person(tmp_path / f"p{number}", first.address) for number in range(count)]
        *staying, leaver = people
        nodes = [await stack.enter_async_context(one.node(wait=False)) for one in staying]
        async with leaver.node() as there:
            for node in nodes:
                await node.ready()
            for person in people:  # each knows somebody besides the bootstrap
                while len((await person.run("peers"))["peers"]) < 2:
                    pass
            assert await there.running.stop() == 0
        await first.running.kill()
        release = await people[0].publish(folder, "tiny")
        await stack.enter_async_context(Person(leaver.home).node())
        answers: list[Json] = []

        async def read(person: Person) -> None:
            answers.append(await person.fetch_found(release["manifest"]))

        async with trio.open_nursery() as nursery:
            for person in people[1:]:
                nursery.start_soon(read, person)
        assert len(answers) == count - 1
        for answer in answers:
            assert answer["bytes"]["fetched"] == SIZE
            assert not answer["banned"]
            same_files(Path(answer["path"]), folder)


async def test_four_nodes_find_a_release_by_the_dht_alone(tmp_path: Path, folder: Path) -> None:
    """A bare manifest CID is enough though the bootstrap is gone, also for one that comes back."""
    with trio.fail_after(100):
        await swarm_story(tmp_path, folder, 4)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_ten_nodes_find_a_release_by_the_dht_alone(tmp_path: Path, folder: Path) -> None:
    """The same among ten."""
    with trio.fail_after(390):
        await swarm_story(tmp_path, folder, 10)


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(file.name for file in folder.iterdir())


@dataclass
class Bad:
    """A fetch beside bad sources: what it answered, what it said meanwhile, who they were."""

    answer: Json
    said: str
    peers: dict[str, str]


async def beside(tmp_path: Path, folder: Path, *kinds: str) -> Bad:
    """Fetch from bad sources of these kinds and a good one, who waits until they did their worst.

    Checks what all such fetches promise: the release arrives, and ``verify`` finds it clean.
    """
    async with AsyncExitStack() as stack:
        alice, reader = Person(tmp_path / "alice"), Person(tmp_path / "reader")
        release = await alice.publish(folder, "tiny")
        bad: dict[str, Node] = {}
        for kind in kinds:
            person = Person(tmp_path / kind)
            person.take_store_of(alice)
            words = [kind] if kind in BODIES else ["honest", "--raw", kind]
            running = person.hostile(*words, "--after", str(MIB), wait=False)
            bad[kind] = await stack.enter_async_context(running)
        good = await stack.enter_async_context(alice.hostile("honest", "--gate", "0", wait=False))
        for each in (*bad.values(), good):
            await each.ready()
        words = [word for one in (*bad.values(), good) for word in ("--peer", one.address)]
        fetch = await stack.enter_async_context(reader.start("fetch", release["manifest"], *words))
        for kind, node in bad.items():
            assert await node.running.answer(1) == {"did": kind}
        await good.running.tell("go")
        assert await fetch.ended() == 0, fetch.tail()
        answer = await fetch.answer()
        same_files(Path(answer["path"]), folder)
        checked = await reader.run("verify")
        assert checked["leaves"]["bad"] == 0
        assert checked["leaves"]["checked"] >= SIZE // MIB
        return Bad(answer, fetch.tail(), {kind: node.peer for kind, node in bad.items()})


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_one_lies_one_stalls_one_dies(tmp_path: Path, folder: Path) -> None:
    """The fetch goes through beside them; the liar is banned and named, and nothing wrong stays."""
    with trio.fail_after(280):
        bad = await beside(tmp_path, folder, "lie", "stall", "die")
    [banned] = bad.answer["banned"]
    assert banned["peer"] == bad.peers["lie"]
    # Whichever of the files it was that it was asked for first: one of a leaf, or of many.
    assert "came with wrong bytes" in banned["reason"] or "are not the file" in banned["reason"]
    assert bad.peers["lie"] in bad.said  # whoever watches hears of it while it happens


@pytest.mark.long
async def test_wrong_answers_hold_nothing_up(tmp_path: Path, folder: Path) -> None:
    """Sources that answer too much, too little, 500 or 429 are done without, and not banned."""
    with trio.fail_after(280):
        bad = await beside(tmp_path, folder, "long", "short", "fail", "busy")
    assert bad.answer["banned"] == []


@pytest.mark.long
async def test_what_is_no_http_holds_nothing_up(tmp_path: Path, folder: Path) -> None:
    """Sources that speak no HTTP are done without, whatever they send instead."""
    with trio.fail_after(280):
        kinds = ("endless-headers", "unsolicited", "silence", "garbage")
        bad = await beside(tmp_path, folder, *kinds)
    # An answer that nobody asked for is taken for the answer to what is asked next: a lie.
    assert {one["peer"] for one in bad.answer["banned"]} <= {bad.peers["unsolicited"]}


@pytest.mark.long
async def test_only_bad_sources_is_one_clear_error(tmp_path: Path, folder: Path) -> None:
    """When the only source lies the fetch ends, names it, and keeps nothing of it."""
    with trio.fail_after(100):
        alice = Person(tmp_path / "alice")
        release = await alice.publish(folder, "tiny")
        async with alice.hostile("lie") as liar:
            reader = Person(tmp_path / "reader", liar.address)
            error = await reader.refused(
                "fetch", release["manifest"], "--peer", liar.address, code=6
            )
            assert liar.peer in error["message"]
        assert (await reader.run("verify"))["leaves"]["bad"] == 0
        async with alice.node() as good:
            answer = await reader.run("fetch", release["manifest"], "--peer", good.address)
        same_files(Path(answer["path"]), folder)


async def test_a_share_link_alone_is_enough(tmp_path: Path, folder: Path) -> None:
    """The link names a peer, so neither a bootstrap nor anything else need be known."""
    with trio.fail_after(60):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        async with alice.node():
            release = await alice.publish(folder, "tiny")
            assert "peer=" in release["ref"]
            answer = await bob.run("fetch", release["ref"])
        same_files(Path(answer["path"]), folder)
        # From now on its name is enough, and nobody need be there.
        again = await bob.run("fetch", f"{release['publisher']}/tiny@1", "--offline")
        assert again["bytes"]["fetched"] == 0
        assert again["manifest"] == release["manifest"]


@pytest.mark.long
async def test_a_partial_holder_serves_what_it_has(tmp_path: Path, folder: Path) -> None:
    """Whoever is still fetching is a source already."""
    with trio.fail_after(100):
        alice, bob, carol = (Person(tmp_path / name) for name in ("alice", "bob", "carol"))
        release = await alice.publish(folder, "tiny")
        cid = release["manifest"]
        async with (
            alice.hostile("honest", "--gate", str(6 * MIB)) as source,
            bob.node() as partial,
            bob.start("fetch", cid, "--peer", source.address) as first,
        ):
            assert await source.running.answer(1) == {"did": "honest"}  # half is sent, no more
            async with carol.start("fetch", cid, "--peer", partial.address) as second:
                await second.fetched(0.1)
                assert first.process.poll() is None  # bob has not all of it himself
                await source.running.tell("go")
                assert await first.ended() == 0, first.tail()
                assert await second.ended() == 0, second.tail()
                answer = await second.answer()
        assert [one["peer"] for one in answer["sources"]] == [partial.peer]
        same_files(Path(answer["path"]), folder)


async def test_parts_tensors_and_fine_tunes(tmp_path: Path) -> None:
    """--include takes a part, --tensor single tensors, and a fine-tune moves only what is new."""
    layers = {f"layer.{number}": noise(MIB, number) for number in range(10)}
    tuned = layers | {f"layer.{number}": noise(MIB, number + 50) for number in (3, 7)}
    base = write_folder(
        tmp_path / "base",
        {"model.safetensors": safetensors_bytes(layers, {}), "notes.txt": b"base"},
    )
    tune = write_folder(
        tmp_path / "tune",
        {"model.safetensors": safetensors_bytes(tuned, {"a longer header": "x" * 5000})},
    )
    with trio.fail_after(100):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        async with alice.node(), bob.node():
            first = (await alice.publish(base, "base"))["ref"]
            second = (await alice.publish(tune, "tune"))["ref"]

            part = await bob.run("fetch", first, "--include", "*.txt")
            assert part["bytes"]["fetched"] == 4
            assert names(Path(part["path"])) == ["notes.txt"]

            target = tmp_path / "one"
            await bob.run("fetch", second, "--tensor", "layer.3", "--local-dir", str(target))
            small = target / "model.safetensors"
            assert small.stat().st_size < 2 * MIB
            assert tuned["layer.3"] in small.read_bytes()

            whole = await bob.run("fetch", first)
            same_files(Path(whole["path"]), base)
            size = (tune / "model.safetensors").stat().st_size
            plan = await bob.run("fetch", second, "--dry-run")
            assert plan["bytes"]["fetched"] < size / 4
            found = await bob.run("fetch", second)
        assert found["bytes"]["fetched"] == plan["bytes"]["fetched"]
        same_files(Path(found["path"]), tune)
