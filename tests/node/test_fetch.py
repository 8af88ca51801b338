"""Fetch keeps its promises on a simulated network: real stores, real answers, a wire that lies."""

import pickle
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

import node.witness
from node.assembly import Assembly, Wanted
from node.crew import Crew
from node.keyring import Keyring
from node.messages import Note
from node.witness import Witness
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.errors import (
    NoSources,
    NotFound,
    QuotaExceeded,
    UsageError,
    VerificationFailed,
)
from p2p.keys import SecretKey
from p2p.policy.evidence import File, Finding
from p2p.references import share_link
from p2p.tensors import read_safetensors
from tests.fakes import FakeSource, Machine
from tests.node.conftest import Stores
from tests.releases import (
    MIB,
    Published,
    noise,
    publish_into,
    safetensors_bytes,
    state,
    write_folder,
)

Machines = Callable[..., Awaitable[Machine]]


@pytest.fixture
async def machine(tmp_path: Path, new_store: Stores) -> Machines:
    """Make machines with a store each; they close with the test."""

    async def make(quota: int | None = None) -> Machine:
        store = await new_store(quota)
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    return make


FILES = {
    "model.bin": noise(9 * MIB + 12345, 1),
    "data/shard-0.bin": noise(3 * MIB, 2),
    "config.json": b'{"a": 1}',
    "README.md": b"# Tiny\n",
    "empty.txt": b"",
}
SIZE = sum(len(data) for data in FILES.values())


@dataclass
class World:
    """A publisher with a release, and a machine that wants it."""

    publisher: Machine
    reader: Machine
    release: Published
    sources: list[FakeSource]

    def source(self, **behaviour: Any) -> FakeSource:
        source = FakeSource(f"peer-{len(self.sources)}", self.publisher.store, **behaviour)
        self.sources.append(source)
        self.reader.wire.known.append(source)
        return source


@pytest.fixture
async def world(machine: Machines, tmp_path: Path) -> World:
    publisher = await machine()
    release = await publish_into(publisher.store, write_folder(tmp_path / "tiny", FILES))
    return World(publisher, await machine(), release, [])


def same(path: str | Path, files: dict[str, bytes] = FILES) -> bool:
    folder = Path(path)
    found = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    return found == files


async def test_a_release_is_found_by_its_cid_and_arrives_as_it_was(world: World) -> None:
    """A manifest CID and the DHT are enough; every file arrives, and is announced."""
    source = world.source()
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert got["bytes"] == {"total": SIZE, "fetched": SIZE, "local": 0}
    assert got["sources"] == [{"peer": source.peer, "kind": "stream", "bytes": SIZE}]
    assert got["banned"] == []
    assert world.release.manifest.cid in world.reader.wire.announced
    assert (await world.reader.store.verify()).bad == []


async def test_fetching_again_moves_nothing(world: World) -> None:
    """What is here is not asked for."""
    source = world.source()
    await world.reader.fetch(world.release.manifest.cid)
    sent = source.sent
    got = await world.reader.fetch(world.release.manifest.cid)
    assert got["bytes"]["fetched"] == 0
    assert source.sent == sent
    assert same(got["path"])


async def test_a_link_with_a_peer_needs_no_dht(world: World) -> None:
    """The peer of a share link is asked though nobody else is known."""
    manifest = world.release.manifest
    address = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    world.reader.wire.by_address[address] = FakeSource("hinted", world.publisher.store)
    link = share_link(manifest.publisher, manifest.name, manifest.cid, [address])
    got = await world.reader.fetch(link)
    assert same(got["path"])
    assert [one["peer"] for one in got["sources"]] == ["hinted"]


async def test_several_sources_share_the_work(world: World) -> None:
    """Three equal sources all deliver."""
    for _ in range(3):
        world.source(delay=0.002)
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert len(got["sources"]) == 3


async def test_a_liar_is_banned_and_named_and_its_bytes_never_stay(world: World) -> None:
    """One wrong leaf and a source is out; the fetch ends from the others."""
    liar = world.source(lies=True, lies_about="/ipfs/")
    world.source(delay=0.01)
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert [one["peer"] for one in got["banned"]] == [liar.peer]
    assert (
        "wrong bytes" in got["banned"][0]["reason"] or "not the file" in got["banned"][0]["reason"]
    )
    assert liar.peer in world.reader.wire.banned
    assert (await world.reader.store.verify()).bad == []


async def test_only_liars_is_an_error_and_nothing_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nobody tells the truth the fetch fails and nothing wrong was stored."""
    monkeypatch.setattr("node.crew.LOOKUP_AGAIN", 0.05)
    world.source(lies=True, lies_about="/ipfs/")
    with pytest.raises(NoSources, match="peer-0"):
        await world.reader.fetch(world.release.manifest.cid)
    release = await world.reader.store.release(world.release.manifest.cid)
    assert release is not None
    assert not release.complete
    assert (await world.reader.store.verify()).bad == []


async def test_a_fetch_that_fails_is_explained_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked why gets the sentences before the error: that is when they are needed most."""
    monkeypatch.setattr("node.crew.LOOKUP_AGAIN", 0.05)
    world.source(lies=True, lies_about="/ipfs/")
    for asked in (False, True):
        world.reader.events.clear()
        with pytest.raises(NoSources):
            await world.reader.fetch(world.release.manifest.cid, explain=asked)
        notes = [event for event in world.reader.events if isinstance(event, Note)]
        told = [note.text for note in notes if "was left alone" in note.text]
        assert bool(told) is asked
    assert told[0].startswith("peer-0 ")


async def test_a_stalled_source_holds_nothing_up(world: World) -> None:
    """A source that never sends loses its ranges to one that does."""
    world.source(stalls=True)
    world.source()
    with trio.fail_after(60):
        got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert [one["peer"] for one in got["sources"]] == ["peer-1"]


async def test_a_source_that_dies_half_way_is_replaced(world: World) -> None:
    """What a dying source sent is kept, the rest comes from another."""
    world.source(dies_after=4 * MIB)
    world.source(delay=0.005)
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])


async def test_a_source_that_always_breaks_rests_longer_each_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is found again and again, and never gives anything, holds no fetch up for ever."""
    monkeypatch.setattr("node.transfer.RETRY_AFTER", 0.001)
    monkeypatch.setattr("node.transfer.REST_AFTER", 0.02)
    monkeypatch.setattr("node.transfer.PATIENCE", 0.5)
    monkeypatch.setattr("node.crew.LOOKUP_AGAIN", 0.01)
    monkeypatch.setattr("node.crew.LOOKUP_PAUSE", 0.001)
    breaking = world.source(dies_after=0)
    with trio.fail_after(60), pytest.raises(NoSources, match="broke off"):
        await world.reader.fetch(world.release.manifest.cid)
    tried = sum(target.startswith("/allod/v1/have/") for target in breaking.asked)
    assert 4 < tried < 16  # four faults, then a chance after each of 20, 40, ... 640 ms


async def test_one_lies_one_stalls_one_dies(world: World) -> None:
    """With a liar, a sleeper and a dying source beside one good one the fetch goes through."""
    world.source(lies=True, lies_about="/ipfs/")
    world.source(stalls=True)
    world.source(dies_after=2 * MIB)
    world.source(delay=0.005)
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert [one["peer"] for one in got["banned"]] == ["peer-0"]


async def test_a_busy_source_is_asked_again_later(world: World) -> None:
    """429 with Retry-After is waited out, not counted as a failure of the fetch."""
    world.source(refuses=2)
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])


async def test_a_cancelled_fetch_goes_on_where_it_was(world: World) -> None:
    """What came before a cancel is not asked for again."""
    source = world.source(cancels_after=5 * MIB)
    with source.scope:
        await world.reader.fetch(world.release.manifest.cid)
    assert source.scope.cancelled_caught
    source.cancels_after = None
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert got["bytes"]["local"] >= 1 * MIB
    assert got["bytes"]["local"] + got["bytes"]["fetched"] == SIZE


async def test_questions_share_a_session_and_all_are_closed_in_the_end(world: World) -> None:
    """A session costs a round trip; one that was left open would stay with the source."""
    source = world.source()
    await world.reader.fetch(world.release.manifest.cid)
    small = [target for target in source.asked if not target.startswith("/ipfs/")]
    assert len(small) >= 7
    assert source.opened <= 5  # of two questions at once, and of the three that read
    assert source.closed == source.opened


async def test_a_session_may_be_used_very_often(world: World) -> None:
    """However many questions there were: closing it in the end takes no more."""
    source, key = world.source(), world.release.manifest.cid
    crew = Crew(world.reader.wire, world.reader.events.append, keys=[key], reuse=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crew.recruit)
        for _ in range(1500):
            await crew.ask("it", f"/allod/v1/manifest/{key}", MIB, bytes)
        nursery.cancel_scope.cancel()
    assert (source.opened, source.closed) == (1, 1)


async def test_each_file_is_looked_into_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others come, or at the end, but not twice; another fetch knows it still."""
    looked: list[str] = []
    look = node.witness._look

    def count(held: list[tuple[File, Path, int]]) -> dict[File, Finding | None]:
        looked.extend(file.path for file, _, _ in held)
        return look(held)

    monkeypatch.setattr("node.witness._look", count)
    world.source()
    for _ in range(2):
        await world.reader.fetch(world.release.manifest.cid)
    assert sorted(looked) == sorted(FILES)


async def test_what_was_found_is_written_down_even_if_it_was_known_already(
    machine: Machines, tmp_path: Path
) -> None:
    """A look that leaves the writing to the next one loses nothing."""
    here, notes = await machine(), tmp_path / "notes" / "findings.json"
    files = {"model.txt": pickle.dumps(print), "readme.txt": b"# Read me"}
    release = await publish_into(here.store, write_folder(tmp_path / "in", files))
    entries = [File(one.path, one.cid) for one in release.manifest.files]
    witness = Witness(here.store, here.keyring, notes)
    await witness.look_into(entries, note=False)
    assert not notes.exists()
    await witness.look_into(entries)
    again = Witness(here.store, here.keyring, notes)
    assert [one.format for one in (await again.findings()).values()] == ["pickle"]


async def test_small_files_that_came_stay_when_the_fetch_ends_early(
    machine: Machines, tmp_path: Path
) -> None:
    """They may wait in memory, but not be lost: they count as fetched."""
    giver, reader = await machine(), await machine()
    release = await publish_into(giver.store, write_folder(tmp_path / "in", {"a": b"1", "b": b"2"}))
    entries = release.manifest.files
    wanted = [Wanted(one.path, Outline.single(one.cid, one.size)) for one in entries]
    async with Assembly(reader.store, wanted) as assembly:
        await assembly.keep_small([(0, b"1"), (1, b"2")])
    assert await reader.store.has_many({one.cid for one in entries}) == {one.cid for one in entries}


async def test_two_fetches_of_one_release_at_once_move_it_once(world: World) -> None:
    """The second waits for the first and finds everything there."""
    world.source()
    results: list[dict[str, Any]] = []

    async def run() -> None:
        results.append(await world.reader.fetch(world.release.manifest.cid))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(run)
    assert sorted(got["bytes"]["fetched"] for got in results) == [0, SIZE]


async def test_files_with_the_same_bytes_are_fetched_once(
    machine: Machines, tmp_path: Path
) -> None:
    """A release that holds a file twice moves it once, and lays it down twice."""
    publisher, reader = await machine(), await machine()
    files = {"a.bin": noise(9 * MIB, 1), "b/again.bin": noise(9 * MIB, 1), "c.txt": b"c"}
    release = await publish_into(publisher.store, write_folder(tmp_path / "twice", files))
    reader.wire.known = [FakeSource("peer", publisher.store)]
    with trio.fail_after(60):
        got = await reader.fetch(release.manifest.cid)
    assert same(got["path"], files)
    assert got["files"] == 3
    assert got["bytes"] == {"total": 18 * MIB + 1, "fetched": 9 * MIB + 1, "local": 9 * MIB}


async def test_include_and_exclude_fetch_a_part_and_the_rest_later(world: World) -> None:
    """A part is held as a part; a later fetch moves only what is missing."""
    world.source()
    got = await world.reader.fetch(
        world.release.manifest.cid, include=("*.json", "data/"), exclude=("*-1.bin",)
    )
    chosen = {path: FILES[path] for path in ("config.json", "data/shard-0.bin")}
    assert same(got["path"], chosen)
    release = await world.reader.store.release(world.release.manifest.cid)
    assert release is not None
    assert not release.complete
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert got["bytes"]["local"] == sum(map(len, chosen.values()))


async def test_patterns_that_match_nothing_say_what_there_is(world: World) -> None:
    """A pattern without a match is an error that lists files."""
    world.source()
    with pytest.raises(NotFound) as caught:
        await world.reader.fetch(world.release.manifest.cid, include=("*.gguf",))
    assert "model.bin" in caught.value.next


async def test_a_dry_run_moves_and_keeps_nothing(world: World) -> None:
    """--dry-run says how much is new and leaves the store as it was."""
    source = world.source()
    got = await world.reader.fetch(world.release.manifest.cid, dry_run=True)
    assert got["bytes"] == {"total": SIZE, "fetched": SIZE, "local": 0}
    assert source.sent == 0
    assert await world.reader.store.releases() == []


async def test_a_partial_holder_serves_what_it_has(world: World, machine: Machines) -> None:
    """A node that holds a part is a source for that part."""
    world.source()
    await world.reader.fetch(world.release.manifest.cid, include=("data/",))
    third = await machine()
    part = FakeSource("part", world.reader.store)
    rest = FakeSource("rest", world.publisher.store, delay=0.01)
    third.wire.known = [part, rest]
    got = await third.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert {one["peer"] for one in got["sources"]} == {"part", "rest"}


async def test_what_nobody_has_is_waited_for_and_then_said(
    world: World, machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all who are found lack a file, the person hears of it soon, and why it failed."""
    monkeypatch.setattr("node.transfer.WORD_AFTER", 0.2)
    monkeypatch.setattr("node.transfer.PATIENCE", 1.0)
    world.source()
    await world.reader.fetch(world.release.manifest.cid, exclude=("README.md",))
    third = await machine()
    third.wire.known = [FakeSource("part", world.reader.store)]
    with pytest.raises(NoSources, match="does not have it"):
        await third.fetch(world.release.manifest.cid)
    notes = [one.text for one in third.events if isinstance(one, Note)]
    assert sum("waiting" in text for text in notes) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{",
        b'{"complete": 1}',
        b'{"complete": false, "files": []}',
        b'{"complete": false, "files": {"nonsense": [[0, 1]]}}',
        b'{"complete": false, "files": {"CID": [[5, 1]]}}',
        b'{"complete": false, "files": {"CID": [[0, 99999999999]]}}',
        b'{"complete": false, "files": {"CID": [[7, 8], [0, 1]]}}',
        b'{"complete": false, "files": {"CID": [[0]]}}',
        b'{"complete": false, "files": {"CID": [["a", "b"]]}}',
        b'{"complete": false, "files": {"CID": 5}}',
        b'{"complete": false, "files": {"CID": [' + b"[0,1]," * 1000 + b"[0,1]]}}",
        b'{"complete": false, "files": {"CID": [[0, Infinity]]}}',
        b'{"complete": false, "files": {"CID": [[0, 1e999]]}}',
        b'{"complete": false, "files": {"CID": [[0, 1.5]]}}',
        b'{"complete": false, "files": {}, "more": [' + b"[]," * 1_000_000 + b"[]]}",
        b"[" * 100_000,
    ],
)
async def test_nonsense_about_what_is_held_costs_only_its_sender(
    world: World, answer: bytes
) -> None:
    """A source that answers nonsense to ``have`` is left alone, and the fetch goes through."""
    cid = str(world.release.manifest.files[2].cid)
    world.source(answers={"/allod/v1/have/": answer.replace(b"CID", cid.encode())})
    world.source(delay=0.001)
    got = await world.reader.fetch(world.release.manifest.cid)
    assert same(got["path"])
    assert [one["peer"] for one in got["sources"]] == ["peer-1"]


async def test_a_publishers_wrong_size_is_nobody_elses_fault(
    world: World, machine: Machines
) -> None:
    """Who has a file is not banned because another's manifest states another size for it."""
    entry = world.release.manifest.files[2]
    assert entry.path == "data/shard-0.bin"
    manifest, bundle = state([replace(entry, size=entry.size - 1)])
    liar = await machine()
    await liar.store.record(manifest, [bundle], pin=False, complete=False)
    honest = world.source()
    world.reader.wire.known.append(FakeSource("liar", liar.store))
    with pytest.raises(VerificationFailed, match="The manifest says"):
        await world.reader.fetch(manifest.cid)
    assert honest.asked
    assert world.reader.wire.banned == {}


async def test_a_crowd_of_neighbours_is_met_a_few_at_a_time(
    world: World, machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is connected is asked in turn, never all at once, and the holder's turn comes."""
    monkeypatch.setattr("node.crew.MAX_NEAR", 2)
    empty = await machine()
    crowd = [FakeSource(f"near-{number}", empty.store) for number in range(12)]
    world.reader.wire.near = [*crowd, world.source()]
    world.reader.wire.known = []
    crew = Crew(world.reader.wire, world.reader.events.append)
    most, met = 0, set()
    for _ in range(7):
        crew._meet_near()
        most = max(most, len(list(crew.active)))
        for member in list(crew.active):
            met.add(member.peer)
            crew.leave(member, "it holds nothing of the release")
    assert most == 2
    assert len(met) == 13


async def test_local_dir_gets_the_files(world: World, tmp_path: Path) -> None:
    """--local-dir holds the files under their paths, whatever lay there before."""
    world.source()
    target = write_folder(tmp_path / "out", {"config.json": b"old", "mine.txt": b"mine"})
    got = await world.reader.fetch(world.release.manifest.cid, local_dir=str(target))
    assert got["path"] == str(target)
    assert same(target, FILES | {"mine.txt": b"mine"})


@pytest.mark.parametrize("lies_there", ["link", "broken link", "file"])
async def test_local_dir_is_never_left(world: World, tmp_path: Path, lies_there: str) -> None:
    """A symbolic link in the user's folder carries no file of a release out of it."""
    world.source()
    target, elsewhere = write_folder(tmp_path / "out", {"mine.txt": b"mine"}), tmp_path / "else"
    if lies_there == "link":
        elsewhere.mkdir()
    if lies_there == "file":
        (target / "data").write_bytes(b"mine")
    else:
        (target / "data").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="data is a link or a file"):
        await world.reader.fetch(world.release.manifest.cid, local_dir=str(target))
    assert not elsewhere.exists() or not list(elsewhere.iterdir())
    assert not list(target.glob(".allod*"))


async def test_local_dir_takes_the_longest_names(machine: Machines, tmp_path: Path) -> None:
    """A name as long as a file system takes is no obstacle."""
    publisher, reader = await machine(), await machine()
    files = {"x" * 255: b"long"}
    release = await publish_into(publisher.store, write_folder(tmp_path / "long", files))
    reader.wire.known = [FakeSource("peer", publisher.store)]
    await reader.fetch(release.manifest.cid, local_dir=str(tmp_path / "out"))
    assert same(tmp_path / "out", files)


async def test_nobody_known_is_one_clear_error(world: World) -> None:
    """No source at all says so, and how to name one."""
    with pytest.raises(NoSources) as caught:
        await world.reader.fetch(world.release.manifest.cid)
    assert "--peer" in caught.value.next


async def test_nobody_has_it_is_not_found(world: World, machine: Machines) -> None:
    """Nodes that answer and do not hold the release make it not found."""
    empty = await machine()
    world.reader.wire.known = [FakeSource("empty", empty.store)]
    with pytest.raises(NotFound):
        await world.reader.fetch(world.release.manifest.cid)


async def test_a_manifest_of_another_hash_bans_its_sender(world: World) -> None:
    """Wrong bytes for a manifest are the sender's fault, and end with exit code 4 alone."""
    world.source(lies=True, lies_about="/manifest/")
    with pytest.raises(VerificationFailed) as caught:
        await world.reader.fetch(world.release.manifest.cid)
    assert caught.value.exit_code == 4
    assert "peer-0" in world.reader.wire.banned
    assert await world.reader.store.releases() == []


async def test_a_release_not_signed_by_its_publisher_is_never_stored(
    machine: Machines, tmp_path: Path
) -> None:
    """A signature by another key than the publisher's is refused before anything moves."""
    forger, reader = await machine(), await machine()
    folder = write_folder(tmp_path / "forged", FILES)
    forged = await publish_into(
        forger.store, folder, signer=SecretKey.from_seed(bytes(reversed(range(32))))
    )
    source = FakeSource("forger", forger.store)
    reader.wire.known = [source]
    with pytest.raises(VerificationFailed, match="signed by 0 of the 1 keys of its publisher"):
        await reader.fetch(forged.manifest.cid)
    assert source.sent == 0
    assert await reader.store.releases() == []


async def test_another_publisher_than_the_link_says_is_refused(world: World) -> None:
    """The publisher of a link must be the manifest's."""
    world.source()
    other = str(CID.of(b"another root", Codec.JSON))
    link = share_link(other, "tiny", world.release.manifest.cid, [])
    with pytest.raises(VerificationFailed, match="was to be by"):
        await world.reader.fetch(link)


async def test_the_quota_refuses_before_anything_moves(world: World, machine: Machines) -> None:
    """A release larger than the quota leaves room for is refused at once, with exit code 8."""
    small = await machine(quota=5 * MIB)
    source = FakeSource("peer", world.publisher.store)
    small.wire.known = [source]
    with pytest.raises(QuotaExceeded) as caught:
        await small.fetch(world.release.manifest.cid)
    assert caught.value.exit_code == 8
    assert source.sent == 0


async def test_offline_uses_what_is_here(world: World) -> None:
    """--offline succeeds for a release that is held, and asks nobody."""
    source = world.source()
    await world.reader.fetch(world.release.manifest.cid)
    asked = len(source.asked)
    got = await world.reader.fetch(world.release.manifest.cid, offline=True)
    assert same(got["path"])
    assert len(source.asked) == asked


async def test_a_large_release_comes_with_its_listing(machine: Machines, tmp_path: Path) -> None:
    """A release whose entries do not fit the manifest fetches its listing first."""
    publisher, reader = await machine(), await machine()
    files = {f"d{n % 97}/file-with-a-rather-long-name-{n:06}.txt": b"%d" % n for n in range(12_000)}
    folder = write_folder(tmp_path / "many", files)
    release = await publish_into(publisher.store, folder)
    assert release.listing is not None
    reader.wire.known = [FakeSource("peer", publisher.store)]
    got = await reader.fetch(release.manifest.cid, include=("d13/",))
    chosen = {path: data for path, data in files.items() if path.startswith("d13/")}
    assert same(got["path"], chosen)


TENSORS = {f"layer.{n}.weight": noise(MIB + 17 * n, n) for n in range(10)}


async def test_a_fine_tune_reuses_the_base_s_tensors(machine: Machines, tmp_path: Path) -> None:
    """With 80 % of the tensors unchanged and a longer header under 25 % of the bytes move."""
    publisher, reader = await machine(), await machine()
    base = safetensors_bytes(TENSORS, {"format": "pt"})
    changed = TENSORS | {"layer.3.weight": noise(MIB, 99), "layer.7.weight": noise(MIB, 98)}
    tuned = safetensors_bytes(changed, {"format": "pt", "note": "x" * 1000})
    first = await publish_into(
        publisher.store, write_folder(tmp_path / "a", {"model.safetensors": base}), name="base"
    )
    second = await publish_into(
        publisher.store, write_folder(tmp_path / "b", {"model.safetensors": tuned}), name="tuned"
    )
    source = FakeSource("peer", publisher.store)
    reader.wire.known = [source]
    await reader.fetch(first.manifest.cid)
    dry = await reader.fetch(second.manifest.cid, dry_run=True)
    got = await reader.fetch(second.manifest.cid)
    assert same(got["path"], {"model.safetensors": tuned})
    assert dry["bytes"] == got["bytes"]
    assert got["bytes"]["fetched"] < 0.25 * len(tuned)


async def test_single_tensors_make_a_valid_smaller_file(machine: Machines, tmp_path: Path) -> None:
    """--tensor fetches only the leaves of the chosen tensors and writes a file that others read."""
    publisher, reader = await machine(), await machine()
    whole = safetensors_bytes(TENSORS, {"format": "pt"})
    folder = write_folder(tmp_path / "t", {"model.safetensors": whole, "README.md": b"x"})
    release = await publish_into(publisher.store, folder)
    source = FakeSource("peer", publisher.store)
    reader.wire.known = [source]
    target = tmp_path / "out"
    got = await reader.fetch(release.manifest.cid, tensors=("layer.[24].*",), local_dir=str(target))
    data = (target / "model.safetensors").read_bytes()
    made = read_safetensors(lambda at, size: data[at : at + size], len(data))
    names = {tensor.name: data[tensor.start : tensor.stop] for tensor in made.tensors}
    assert names == {name: TENSORS[name] for name in ("layer.2.weight", "layer.4.weight")}
    assert made.metadata == {"format": "pt"}
    assert source.sent < 0.3 * len(whole)
    assert got["path"] == str(target)
    with pytest.raises(NotFound, match="None of the 10 tensors"):
        await reader.fetch(release.manifest.cid, tensors=("nope",), local_dir=str(target))
    with pytest.raises(UsageError, match="where to put"):
        await reader.fetch(release.manifest.cid, tensors=("*",))


async def test_a_ban_is_told_while_it_happens(world: World) -> None:
    """Whoever watches hears of a ban, with the peer and the reason."""
    world.source(lies=True, lies_about="/ipfs/")
    world.source(delay=0.01)
    await world.reader.fetch(world.release.manifest.cid)
    notes = [event for event in world.reader.events if getattr(event, "level", "") == "warning"]
    assert any("peer-0 is banned" in getattr(note, "text", "") for note in notes)


def test_a_source_can_be_made_for_each_misbehaviour() -> None:
    """The simulated sources really differ from an honest one (else the tests above say nothing)."""
    honest = FakeSource("a", store=None)  # type: ignore[arg-type]
    assert replace(honest, lies=True).lies
    assert not honest.lies
