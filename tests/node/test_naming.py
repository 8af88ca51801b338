"""What a name means: several are asked, the newest is kept, and each lie is refused by its name.

On the simulated network, with real stores and publishers whose keys are all at hand.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from node.keyring import Keyring
from node.messages import Note
from node.naming import resolve
from p2p import canonical
from p2p.cid import CID, Codec
from p2p.errors import NoSources, NotFound, Refused, VerificationFailed
from p2p.naming import (
    MAX_TIMESTAMP,
    Metadata,
    Status,
    draft,
    files_of,
    read_names,
    targets_file,
)
from p2p.references import parse_reference, share_link
from tests.fakes import FakeSource, Machine
from tests.node.conftest import Stores
from tests.publishers import DAY, Publisher, key, named
from tests.releases import MIB, Published, noise, publish_into, safetensors_bytes, write_folder

KEPT = noise(3 * MIB, 2)
FIRST = {
    "model.safetensors": safetensors_bytes({"kept": KEPT, "tuned": noise(MIB, 3)}, {}),
    "README.md": b"# Tiny\n",
}
SECOND = {
    "model.safetensors": safetensors_bytes({"kept": KEPT, "tuned": noise(MIB, 4)}, {"v": "2"}),
    "README.md": b"# Tiny\n",
}
REVOKED = Status("revoked", "the weights are broken", "2026-11-22T00:00:00Z")


def speaking(number: int = 100, **people: int) -> Publisher:
    """A publisher that speaks today."""
    publisher = Publisher(number, **people)
    publisher.now = datetime.now(UTC).replace(microsecond=0)
    publisher.list()
    return publisher


@dataclass
class World:
    """A publisher, a node that holds what it published, and a reader who knows its id."""

    alice: Publisher
    holder: Machine
    reader: Machine
    folder: Path

    @property
    def ref(self) -> str:
        return f"{self.alice.id}/tiny"

    async def publish(self, version: str, files: dict[str, bytes], **more: Any) -> Published:
        folder = write_folder(self.folder / version, files)
        return await publish_into(self.holder.store, folder, version=version, by=self.alice, **more)

    async def hear(self) -> None:
        """The holder hears what the publisher says now."""
        await self.holder.store.publishers.put(self.alice.id, self.alice.metadata)

    def source(
        self, metadata: Metadata | None = None, files: dict[str, bytes] | None = None
    ) -> FakeSource:
        """A source with the holder's files, that says this of the publisher."""
        says = files if metadata is None else files_of(metadata) | (files or {})
        source = FakeSource(f"peer-{len(self.reader.wire.known)}", self.holder.store, says=says)
        self.reader.wire.known.append(source)
        return source

    def only(self, metadata: Metadata, files: dict[str, bytes] | None = None) -> FakeSource:
        """The same, and nobody else."""
        self.reader.wire.known.clear()
        return self.source(metadata, files)

    async def known(self) -> int:
        """The version of the list that the reader knows."""
        names = await self.reader.store.publishers.names(self.alice.id)
        return names.version if names is not None else 0


@pytest.fixture
async def world(new_store: Stores, tmp_path: Path) -> World:
    async def machine() -> Machine:
        store = await new_store()
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    world = World(speaking(), await machine(), await machine(), tmp_path)
    await world.publish("1", FIRST)
    return world


def notes(machine: Machine) -> str:
    return "\n".join(one.text for one in machine.events if isinstance(one, Note))


# -- names


async def test_a_name_is_the_newest_release_and_an_update_moves_what_changed(world: World) -> None:
    """publisher/name is fetched, and fetched again after an update; a version, or --revision."""
    world.source()
    first = await world.reader.fetch(world.ref)
    assert first["version"] == "1"
    second = await world.publish("2", SECOND)
    got = await world.reader.fetch(world.ref)
    assert got["manifest"] == str(second.manifest.cid)
    assert MIB <= got["bytes"]["fetched"] < 1.5 * MIB
    assert (await world.reader.fetch(world.ref))["bytes"]["fetched"] == 0
    for params in ({"ref": f"{world.ref}@1"}, {"ref": world.ref, "revision": "1"}):
        again = await world.reader.fetch(**params)
        assert (again["version"], again["bytes"]["fetched"]) == ("1", 0)
    with pytest.raises(NotFound) as caught:
        await world.reader.fetch(f"{world.ref}@7")
    assert "newest version of it is 2" in caught.value.next
    with pytest.raises(NotFound, match="lists no release"):
        await world.reader.fetch(f"{world.alice.id}/other")


async def test_a_petname_is_the_owners_and_nobody_elses(world: World) -> None:
    """A petname leads to the id; one that the owner did not give leads nowhere."""
    world.source()
    with pytest.raises(NotFound, match="Nobody is called 'alice'") as caught:
        await world.reader.fetch("alice/tiny")
    assert "trust add" in caught.value.next
    world.reader.called["alice"] = world.alice.id
    assert (await world.reader.fetch("alice/tiny@1"))["publisher"] == world.alice.id


async def test_this_machines_own_publisher_is_asked_nobody(world: World, tmp_path: Path) -> None:
    """What an own publisher lists is known without anybody else, and its name wins."""
    source = world.source()
    own = world.reader.keyring.new("alice")
    world.reader.called["alice"] = world.alice.id
    release = await publish_into(world.reader.store, write_folder(tmp_path / "own", FIRST))
    with pytest.raises(NotFound, match="alice lists no release"):
        await world.reader.fetch("alice/tiny")
    assert await world.reader.store.publishers.ids() == tuple(
        sorted([own.id, release.manifest.publisher])
    )
    assert source.asked == []


async def test_three_are_asked_and_the_newest_is_kept(world: World) -> None:
    """Two who are behind do not hide what the third knows, and are not banned for it."""
    old = world.alice.metadata
    second = await world.publish("2", SECOND)
    sources = [world.source(old), world.source(old), world.source()]
    got = await world.reader.fetch(world.ref)
    assert got["manifest"] == str(second.manifest.cid)
    assert world.reader.wire.banned == {}
    for source in sources:
        assert any("timestamp.json" in target for target in source.asked)


async def test_nobody_is_waited_for_who_is_not_there(world: World) -> None:
    """One source is enough where there is one; a second that says nothing costs a pause only."""
    world.source()
    silent = world.source()
    silent.delay = 0.0
    silent.answers = {}
    silent.unreachable = True
    with trio.fail_after(60):
        assert (await world.reader.fetch(world.ref))["version"] == "1"


async def test_what_was_seen_is_not_gone_behind(world: World) -> None:
    """Whoever has seen version 2 gets version 2, though all who are left know version 1 only."""
    old = world.alice.metadata
    await world.publish("2", SECOND)
    world.source()
    await world.reader.fetch(world.ref)
    seen = await world.known()
    world.only(old)
    got = await world.reader.fetch(world.ref)
    assert got["version"] == "2"
    assert await world.known() == seen
    assert world.reader.wire.banned == {}


@pytest.mark.parametrize("role", ["root", "targets", "online"])
async def test_keys_are_replaced_and_nobody_is_lost(world: World, role: str) -> None:
    """After a rotation the name leads on, and who has not heard of it yet is no liar."""
    old = world.alice.metadata
    world.source()
    await world.reader.fetch(world.ref)
    new: Any = key(50) if role == "online" else [key(50)]
    world.alice.rotate(**{role: new})
    await world.hear()
    second = await world.publish("2", SECOND)
    assert (await world.reader.fetch(world.ref))["manifest"] == str(second.manifest.cid)
    world.only(old)
    assert (await world.reader.fetch(world.ref))["version"] == "2"
    assert world.reader.wire.banned == {}


async def test_nobody_there_leaves_what_is_known(world: World) -> None:
    """With nobody to ask what is known counts; with nothing known that is one clear error."""
    with pytest.raises(NoSources):
        await world.reader.fetch(world.ref)
    world.source()
    await world.reader.fetch(world.ref)
    world.reader.wire.known.clear()
    assert (await world.reader.fetch(world.ref))["version"] == "1"
    assert "Nobody could be asked" in notes(world.reader)
    asked = len(world.reader.wire.looked_up)
    assert (await world.reader.fetch(world.ref, offline=True))["version"] == "1"
    assert len(world.reader.wire.looked_up) == asked
    with pytest.raises(NotFound, match="Nothing is known here"):
        await world.reader.fetch(f"{CID.of(b'nobody', Codec.JSON)}/tiny", offline=True)


# -- lies


def mixed(world: World) -> dict[str, bytes]:
    """Yesterday's list under today's name."""
    before = world.alice.metadata
    world.alice.list(named("other", "9", sequence=9))
    now = world.alice.metadata
    return files_of(now) | {targets_file(now.snapshot): before.targets}


def unsigned(world: World) -> dict[str, bytes]:
    """A second root, signed by one of the two who must."""
    files = files_of(world.alice.metadata)
    root = draft.next_root(world.alice.roles(), world.alice.now, world.alice.metadata.roots[-1])
    return files | {"2.root.json": draft.sign(root, world.alice.root_keys[0])}


def edited(file: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A file that says something else, without signatures."""
    value = json.loads(file)
    change(value["signed"])
    return canonical.encode(value | {"signatures": []})


def two_ids(world: World) -> dict[str, bytes]:
    """A second root in which one key stands under two ids, and both sign."""

    def twice(signed: dict[str, Any]) -> None:
        for id, one in list(signed["keys"].items()):
            signed["keys"][id[::-1]] = one

    root = draft.next_root(world.alice.roles(), world.alice.now, world.alice.metadata.roots[-1])
    root = draft.sign(edited(root, twice), *world.alice.root_keys)
    return files_of(world.alice.metadata) | {"2.root.json": root}


LIES: dict[str, tuple[str, Callable[[World], dict[str, bytes]]]] = {
    "mixed": ("Mix and match", mixed),
    "under threshold": ("Under threshold", unsigned),
    "one key under two ids": ("One key under two ids", two_ids),
    "another's root": (
        "Wrong root",
        lambda world: files_of(speaking(130).metadata),
    ),
    "oversized": (
        "Endless data: timestamp.json",
        lambda world: files_of(world.alice.metadata)
        | {"timestamp.json": b" " * (MAX_TIMESTAMP + 1)},
    ),
    "endless roots": (
        "A publisher has 1 to 1024 roots|Rollback",
        lambda world: files_of(world.alice.metadata)
        | {f"{n}.root.json": world.alice.metadata.roots[0] for n in range(2, 1100)},
    ),
    "nonsense": (
        "timestamp",
        lambda world: files_of(world.alice.metadata) | {"timestamp.json": b"{}"},
    ),
    "flipped": (
        "signature",
        lambda world: files_of(world.alice.metadata)
        | {"timestamp.json": world.alice.metadata.timestamp.replace(b'"sig":"', b'"sig":"0', 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_a_liar_is_refused_and_banned(world: World, lie: str) -> None:
    """Alone it ends the fetch with exit code 4 and the attack's name, and nothing of it is kept."""
    if lie == "under threshold":
        world.alice = speaking(150, people=3, threshold=2)
        await world.hear()
    match, files = LIES[lie]
    world.reader.wire.known.clear()
    liar = world.source(files=files(world))
    with pytest.raises(VerificationFailed, match=match) as caught:
        await world.reader.fetch(world.ref)
    assert caught.value.exit_code == 4
    assert liar.peer in world.reader.wire.banned
    assert await world.reader.store.publishers.ids() == ()
    assert liar.sent == 0


async def test_a_liar_beside_others_only_loses_its_place(world: World) -> None:
    """With an honest source there the fetch goes through, and the liar is banned and named."""
    liar = world.source(files=mixed(world))
    await world.hear()
    world.source()
    got = await world.reader.fetch(world.ref)
    assert got["version"] == "1"
    assert [one["peer"] for one in got["banned"]] == [liar.peer]


async def test_what_has_expired_is_refused_for_a_name_and_not_for_a_cid(
    new_store: Stores, world: World, tmp_path: Path
) -> None:
    """Frozen metadata ends a fetch by name with exit code 5; by CID it counts; nobody is banned."""
    world.alice.now -= 30 * DAY
    world.alice.renew()
    await world.hear()
    source = world.only(world.alice.metadata)
    with pytest.raises(Refused, match="the publisher's metadata has expired") as caught:
        await world.reader.fetch(world.ref)
    assert "Freeze: what" in notes(world.reader)
    assert source.sent == 0
    assert world.reader.wire.banned == {}
    names = read_names(world.alice.id, world.alice.metadata, now=None)
    cid = names.entries[0].manifest
    assert "manifest CID" in caught.value.next
    assert (await world.reader.fetch(cid))["version"] == "1"
    world.reader.gate.rulebook.file.parent.mkdir(exist_ok=True)
    world.reader.gate.rulebook.file.write_text("stale = 'warn'\n")
    assert (await world.reader.fetch(world.ref))["version"] == "1"


async def test_a_stolen_online_key_turns_nothing_back(world: World) -> None:
    """An old list under a new timestamp is a rollback for whoever has seen the new list."""
    old = world.alice.metadata
    world.source()
    await world.publish("2", SECOND)
    await world.reader.fetch(world.ref)
    now = world.alice.metadata
    back = draft.next_snapshot(old.targets, world.alice.now, now.snapshot)
    back = draft.sign(back, world.alice.online)
    stamp = draft.sign(
        draft.next_timestamp(back, world.alice.now, now.timestamp), world.alice.online
    )
    thief = world.only(Metadata(now.roots, stamp, back, old.targets))
    with pytest.raises(VerificationFailed, match="Rollback") as caught:
        await world.reader.fetch(world.ref)
    assert caught.value.exit_code == 4
    assert thief.peer not in world.reader.wire.banned  # it may have been the first to be deceived
    assert "was not believed" in notes(world.reader)


async def test_a_stolen_key_that_was_replaced_signs_nothing_more(world: World) -> None:
    """A release by the old key is refused for whoever knows the new one, by CID too."""
    stolen = world.alice.signer
    world.source()
    await world.reader.fetch(world.ref)
    world.alice.rotate(targets=[key(50)])
    await world.hear()
    await world.reader.fetch(world.ref)
    spoken = world.alice.metadata
    forged = await world.publish("3", SECOND, signer=stolen)
    world.only(spoken)
    with pytest.raises(VerificationFailed, match="Replaced key") as caught:
        await world.reader.fetch(forged.manifest.cid)
    assert caught.value.exit_code == 4
    assert (await world.reader.fetch(f"{world.ref}@1"))["version"] == "1"


async def test_a_swapped_target_is_refused(world: World) -> None:
    """A list that leads from a name to another release's manifest is refused by that name."""
    other = await world.publish("2", SECOND)
    listed = world.alice.names().of(other.manifest.cid)
    assert listed is not None
    world.alice.list(replace(listed, name="tiny", version="5", sequence=9))
    two = replace(listed, manifest=CID.of(b"nothing", Codec.JSON))
    world.alice.list(two)
    await world.hear()
    world.only(world.alice.metadata)
    with pytest.raises(VerificationFailed, match="Swapped target") as caught:
        await world.reader.fetch(f"{world.ref}@5")
    assert caught.value.exit_code == 4
    assert await world.reader.store.releases() == []


async def test_another_manifest_for_the_cid_is_a_lie(world: World) -> None:
    """Who sends other bytes for the manifest that a name led to is banned."""
    source = world.source()
    source.answers = {"/allod/v1/manifest/": b"{}"}
    with pytest.raises(VerificationFailed, match="not the manifest"):
        await world.reader.fetch(world.ref)
    assert source.peer in world.reader.wire.banned


# -- what was taken back


async def test_what_was_taken_back_is_refused_and_says_why(world: World) -> None:
    """A revoked release is refused by version, CID and link, with exit code 5; a name skips it."""
    second = await world.publish("2", SECOND)
    world.source()
    await world.reader.fetch(world.ref)
    world.alice.mark(second.manifest.cid, REVOKED)
    await world.hear()
    assert (await world.reader.fetch(world.ref))["version"] == "1"
    link = share_link(world.alice.id, "tiny", second.manifest.cid, [])
    for ref in (f"{world.ref}@2", str(second.manifest.cid), link):
        with pytest.raises(Refused, match=r"revoked .*the weights are broken") as caught:
            await world.reader.fetch(ref)
        assert caught.value.exit_code == 5
    first = world.alice.names().find("tiny", "1")
    assert first is not None
    world.alice.mark(first.manifest, replace(REVOKED, state="withdrawn"))
    await world.hear()
    with pytest.raises(Refused, match="revoked tiny@2"):  # none is left: the newest says why
        await world.reader.fetch(world.ref)
    with pytest.raises(Refused, match="withdrew its consent to tiny@1"):
        await world.reader.fetch(f"{world.ref}@1")


async def test_what_was_taken_back_stays_so(world: World) -> None:
    """A list that no longer says so, or no longer names the release, brings nothing back."""
    first = world.alice.names().find("tiny")
    assert first is not None
    world.alice.mark(first.manifest, REVOKED)
    store = world.reader.store.publishers
    await store.put(world.alice.id, world.alice.metadata)
    kept = world.alice.metadata

    def forget(signed: dict[str, Any]) -> None:
        del signed["targets"]["tiny@1"]["custom"]["allod"]["status"]

    targets = edited(draft.next_targets([], world.alice.now, kept.targets), forget)
    targets = draft.sign(targets, world.alice.signer)
    now = draft.publish(kept.roots, targets, world.alice.online, world.alice.now, kept)
    assert read_names(world.alice.id, now, now=None).find("tiny") == first
    await store.put(world.alice.id, now)
    assert (await store.seen(world.alice.id))[first.manifest] == REVOKED
    names = await store.names(world.alice.id)
    assert names is not None
    assert names.find("tiny") is None
    with pytest.raises(Refused):
        await world.reader.fetch(world.ref, offline=True)


async def test_resolving_says_which_release_it_is(world: World) -> None:
    """The publisher's id and the entry; without a crew nobody is asked."""
    await world.reader.store.publishers.put(world.alice.id, world.alice.metadata)
    reference = parse_reference(world.ref)
    found = await resolve(reference, world.reader, None, now=world.alice.now)
    assert (found.publisher, found.named.path, found.stale) == (world.alice.id, "tiny@1", False)
    assert (await resolve(reference, world.reader, None, now=world.alice.now + 10 * DAY)).stale
