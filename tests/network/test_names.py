"""Names between whole nodes: found, updated, and defended against a node that lies about them."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import trio

from node.keyring import Keyring
from node.publisher import Repository
from p2p.cid import CID
from p2p.naming import MAX_TARGETS, Metadata, Status, draft, files_of, targets_file
from tests.network.people import Person, same_files
from tests.publishers import DAY, Publisher, key, named
from tests.releases import MIB, noise, safetensors_bytes, write_folder

KEPT = noise(4 * MIB, 2)


def model(folder: Path, seed: int) -> Path:
    """A model of which a fifth depends on the seed."""
    tensors = {"kept": KEPT, "tuned": noise(MIB, seed)}
    return write_folder(folder, {"model.safetensors": safetensors_bytes(tensors, {})})


async def test_a_name_leads_to_the_newest_release(tmp_path: Path) -> None:
    """The publisher's id and a name are enough, and the same again fetches only what changed."""
    folder = model(tmp_path / "tiny", 1)
    with trio.fail_after(100):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        async with alice.node() as source, bob.node("--bootstrap", source.address):
            first = await alice.publish(folder, "tiny")
            ref = f"{first['publisher']}/tiny"
            got = await bob.fetch_found(ref)
            assert got["manifest"] == first["manifest"]
            model(folder, 3)
            second = await alice.publish(folder, "tiny")
            got = await bob.run("fetch", ref)
            assert got["manifest"] == second["manifest"]
            assert MIB <= got["bytes"]["fetched"] < 2 * MIB
            same_files(Path(got["path"]), folder)
        got = await bob.run("fetch", ref, "--revision", "1", "--offline")
        assert (got["manifest"], got["bytes"]["fetched"]) == (first["manifest"], 0)


def speaking(number: int, **more: int) -> Publisher:
    """A publisher that lists one release today."""
    publisher = Publisher(number, **more)
    publisher.now = datetime.now(UTC).replace(microsecond=0)
    publisher.list(named())
    return publisher


def mixed(one: Publisher) -> dict[str, bytes]:
    """Yesterday's list under today's name."""
    before = one.metadata
    one.list(named("tiny", "2", sequence=2))
    return files_of(one.metadata) | {targets_file(one.metadata.snapshot): before.targets}


def under_threshold(one: Publisher) -> dict[str, bytes]:
    """A second root that only one of the two has signed who must."""
    root = draft.next_root(one.roles(), one.now, one.metadata.roots[-1])
    return files_of(one.metadata) | {"2.root.json": draft.sign(root, one.root_keys[0])}


def endless(one: Publisher) -> dict[str, bytes]:
    """A list of releases that is longer than anybody reads."""
    return files_of(one.metadata) | {targets_file(one.metadata.snapshot): bytes(MAX_TARGETS + 1)}


def replaced(one: Publisher) -> dict[str, bytes]:
    """A list that the key has signed which the second root replaced."""
    stolen = one.targets_keys
    one.rotate(targets=[key(50)])
    targets = draft.next_targets([named("evil")], one.now, one.metadata.targets)
    targets = draft.sign(targets, *stolen)
    spoken = draft.publish(one.metadata.roots, targets, one.online, one.now, one.metadata)
    return files_of(spoken)


def another(one: Publisher) -> dict[str, bytes]:
    """What another publisher says."""
    return files_of(speaking(190).metadata)


LIES: list[tuple[str, Callable[[Publisher], dict[str, bytes]], Publisher]] = [
    ("Mix and match", mixed, speaking(100)),
    ("Under threshold", under_threshold, speaking(110, people=3, threshold=2)),
    ("Endless data", endless, speaking(130)),
    ("Replaced key", replaced, speaking(140)),
    ("Wrong root", another, speaking(150)),
]


def words(folder: Path, publisher: str, files: dict[str, bytes]) -> list[str]:
    """What makes a hostile node say this of a publisher."""
    found = []
    for name, data in files.items():
        file = folder / f"{publisher}-{name}"
        file.write_bytes(data)
        found += ["--serve", f"/allod/v1/publisher/{publisher}/{name}", str(file)]
    return found


def frozen(repository: Repository) -> dict[str, bytes]:
    """What was true a month ago, and is no longer said."""
    known, online = repository.metadata(), repository.key("online")
    assert online is not None
    then = datetime.now(UTC) - 30 * DAY
    return files_of(draft.publish(known.roots, known.targets, online, then))


async def test_every_lie_about_a_name_is_refused_by_its_name(tmp_path: Path) -> None:
    """A node that answers false or old metadata ends the fetch with exit code 4 or 5."""
    folder = write_folder(tmp_path / "tiny", {"README.md": b"tiny"})
    with trio.fail_after(110):
        mallory = Person(tmp_path / "mallory")
        release = await mallory.publish(folder, "tiny")
        repository = Keyring(mallory.home / "keys").repository("mallory")
        told = words(tmp_path, repository.id, frozen(repository))
        for _, lie, publisher in LIES:
            told += words(tmp_path, publisher.id, lie(publisher))
        async with mallory.hostile("honest", *told) as liar:
            bob = Person(tmp_path / "bob", liar.address)
            for attack, _, publisher in LIES:
                wanted = ("fetch", f"{publisher.id}/tiny", "--peer", liar.address)
                error = await bob.refused(*wanted, code=4)
                assert attack in error["message"]
                assert error["next"]
            ref = f"{release['publisher']}/tiny"
            error = await bob.refused("fetch", ref, "--peer", liar.address, code=5)
            assert "metadata has expired" in error["message"]
        assert (await bob.run("ls"))["releases"] == []


@pytest.mark.long
async def test_what_was_seen_is_defended(tmp_path: Path) -> None:
    """Old metadata leaves a node with what it knew; an old list under a new date is a rollback."""
    folder = model(tmp_path / "tiny", 1)
    with trio.fail_after(110):
        alice = Person(tmp_path / "alice")
        first = await alice.publish(folder, "tiny")
        ref, publisher = f"{first['publisher']}/tiny", first["publisher"]
        repository = Keyring(alice.home / "keys").repository("alice")
        old = repository.metadata()
        model(folder, 3)
        second = await alice.publish(folder, "tiny")
        now = repository.metadata()
        async with alice.hostile("honest") as source:
            bob = Person(tmp_path / "bob", source.address)
            assert (await bob.run("fetch", ref, "--peer", source.address))["version"] == "2"
        async with alice.hostile("honest", *words(tmp_path, publisher, files_of(old))) as behind:
            bob = Person(bob.home, behind.address)
            got = await bob.run("fetch", ref, "--peer", behind.address)
            assert (got["manifest"], got["banned"]) == (second["manifest"], [])
        online = repository.key("online")
        assert online is not None
        at = datetime.now(UTC)
        back = draft.sign(draft.next_snapshot(old.targets, at, now.snapshot), online)
        stamp = draft.sign(draft.next_timestamp(back, at, now.timestamp), online)
        thief = Metadata(now.roots, stamp, back, old.targets)
        async with alice.hostile("honest", *words(tmp_path, publisher, files_of(thief))) as liar:
            bob = Person(bob.home, liar.address)
            error = await bob.refused("fetch", ref, "--peer", liar.address, code=4)
            assert "Rollback" in error["message"]


@pytest.mark.long
async def test_a_revocation_reaches_who_only_runs(tmp_path: Path) -> None:
    """Within a minute a node that holds a release knows that its publisher took it back."""
    folder = model(tmp_path / "tiny", 1)
    with trio.fail_after(110):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        async with alice.node() as source, bob.node("--bootstrap", source.address) as seeder:
            release = await alice.publish(folder, "tiny")
            await bob.fetch_found(release["manifest"])
            status = Status("revoked", "the weights are broken", "2026-11-22T00:00:00Z")
            repository = Keyring(alice.home / "keys").repository("alice")
            repository.mark(CID.parse(release["manifest"]), status)
            with trio.fail_after(60):
                while True:
                    async with bob.start("fetch", release["manifest"], "--offline") as fetch:
                        if await fetch.ended() == 5:
                            break
            assert "the weights are broken" in (await fetch.answer())["error"]["message"]
            url = f"{seeder.status['http']}/ipfs/{release['files'][0]['cid']}"
            with pytest.raises(HTTPError, match="410") as refused:
                await trio.to_thread.run_sync(urlopen, url)
            assert b"the weights are broken" in refused.value.read()
