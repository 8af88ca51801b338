"""A release goes into one file with its whole lineage, and out of it on a machine without network.

Real stores and real files; what is carried is a chain: a dataset, a base model, a fine-tune of it.
"""

import errno
import os
import pickle
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from node.ancestry import ancestry
from node.keyring import Keyring
from node.messages import BundleExportParams, BundleImportParams, Event, Progress
from node.model_sig import sign_model
from node.parcels import writing
from node.parcels.receiving import _known, import_bundle
from node.parcels.sending import export_bundle
from node.store import Store
from p2p.attest import write_attestation
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.envelope import sign_bundle
from p2p.errors import (
    DiskFull,
    NotFound,
    QuotaExceeded,
    Refused,
    StoreError,
    Untrusted,
    UsageError,
    VerificationFailed,
)
from p2p.naming import Status, files_of
from tests.fakes import gate_for
from tests.node.conftest import Stores
from tests.p2p.statements import said
from tests.publishers import Publisher
from tests.releases import MIB, Published, noise, publish_into, safetensors_bytes, write_folder

WORDS, ALICE, BOB = Publisher(110), Publisher(120), Publisher(130)

DATA = {"train/0.bin": noise(2 * MIB + 5, 1), "README.md": b"# Words\n", "empty": b""}
KEPT = noise(3 * MIB, 2)
BASE = {
    "model.safetensors": safetensors_bytes({"kept": KEPT, "tuned": noise(MIB, 3)}, {}),
    "LICENSE": b"as you like\n",
}
TUNED = {
    "model.safetensors": safetensors_bytes({"kept": KEPT, "tuned": noise(MIB, 4)}, {"by": "bob"}),
    "LICENSE": b"as you like\n",
    "kept.bin": KEPT[:MIB],  # a file of one leaf that is a leaf of another
}


@dataclass
class Machine:
    """As much of a node as carries bundles."""

    store: Store
    keyring: Keyring
    told: list[CID] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = gate_for(self.store, self.keyring, self.store.folder.with_suffix(".trust"))

    def rule(self, text: str, denied: object = "") -> None:
        """Write the owner's policy, and a deny list that it may name."""
        file = self.gate.rulebook.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        (file.parent / "bad.deny").write_text(f"{denied} stolen\n" if denied else "")

    def spread(self, cids: list[CID]) -> list[str]:
        self.told += cids
        return []

    async def put(self, ref: object, file: Path, **params: Any) -> dict[str, Any]:
        given = BundleExportParams(str(ref), str(file), **params)
        return await export_bundle(given, self.store, self.keyring, self.events.append)

    async def take(self, file: Path, **params: Any) -> dict[str, Any]:
        given = BundleImportParams(str(file), **params)
        return await import_bundle(given, self, self.events.append)


@pytest.fixture
async def machine(new_store: Stores) -> Callable[..., Awaitable[Machine]]:
    async def make(quota: int | None = None) -> Machine:
        store = await new_store(quota)
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    return make


Machines = Callable[..., Awaitable[Machine]]


@dataclass
class World:
    """Somebody who holds a chain of three releases, and where their file is to be."""

    sender: Machine
    data: Published
    base: Published
    tuned: Published
    file: Path

    @property
    def cid(self) -> CID:
        return self.tuned.manifest.cid


def old_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Files that nobody has written to for long, so that the store knows them by their dates."""
    write_folder(folder, files)
    for file in folder.rglob("*"):
        os.utime(file, (1.7e9, 1.7e9 + 0.25))
    return folder


@pytest.fixture
async def world(machine: Machines, tmp_path: Path) -> World:
    sender = await machine()
    store = sender.store
    data = await publish_into(
        store, old_folder(tmp_path / "data", DATA), name="words", by=WORDS, kind="dataset"
    )
    made = [{"role": "dataset", "manifest": str(data.manifest.cid)}]
    base = await publish_into(
        store, old_folder(tmp_path / "base", BASE), name="base", by=ALICE, lineage=made
    )
    made = [
        {"role": "base_model", "relation": "finetune", "manifest": str(base.manifest.cid)},
        {"role": "dataset", "uri": "hf://datasets/org/chat"},
    ]
    tuned = await publish_into(
        store, old_folder(tmp_path / "tuned", TUNED), name="tuned", by=BOB, lineage=made
    )
    return World(sender, data, base, tuned, tmp_path / "tuned.car")


def same(path: str | Path, files: dict[str, bytes]) -> bool:
    folder = Path(path)
    found = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found} == files


async def is_empty(store: Store) -> bool:
    """Nothing was recorded, and what lies there is garbage."""
    assert await store.releases() == []
    for file in (store.folder / "blobs").rglob("*"):
        if file.is_file():  # only whole, good files; a wrong byte is nowhere
            cid = CID.parse(file.name)
            assert await store.has(cid)
    return (await store.verify()).bad == []


async def test_a_release_arrives_with_its_whole_lineage(world: World, machine: Machines) -> None:
    """All three releases are held and served like fetched ones, their folders hold the files."""
    put = await world.sender.put(world.cid, world.file)
    assert put["size"] == world.file.stat().st_size
    other = await machine()
    got = await other.take(world.file)
    assert got["bundle"] == put["bundle"]
    assert same(got["path"], TUNED)
    for release, files in ((world.data, DATA), (world.base, BASE), (world.tuned, TUNED)):
        recorded = await other.store.release(release.manifest.cid)
        assert recorded is not None
        assert (recorded.complete, recorded.pinned) == (True, True)
        assert same(await other.store.view(release.manifest), files)
        assert release.manifest.cid in other.told
        assert (await other.store.statement(release.manifest.cid)) == (
            await world.sender.store.statement(release.manifest.cid)
        )
    assert (await other.store.verify()).bad == []
    last = [one for one in other.events if isinstance(one, Progress)][-1]
    assert last.done == last.total


async def test_what_others_say_comes_along(world: World, machine: Machines) -> None:
    """Endorsements and the model.sig are in the file; what does not verify is left out of it."""
    store, reader = world.sender.store, await machine()
    word = said(about=world.cid)
    assert await store.add_bundles(world.cid, [word], {BOB.signer.public}) == 1
    assert await sign_model(world.cid, BOB.signer, store, world.sender.events.append)
    await world.sender.put(world.cid, world.file)
    await reader.take(world.file)
    sent, taken = await store.statement(world.cid), await reader.store.statement(world.cid)
    assert sent is not None
    assert taken is not None
    assert set(sent.bundles) == set(taken.bundles)
    assert len(taken.bundles) == 3
    assert word in taken.bundles


async def test_the_same_release_gives_the_same_file(world: World, machine: Machines) -> None:
    """Who was handed a bundle and hands it on hands on the same bytes."""
    await world.sender.put(world.cid, world.file)
    other = await machine()
    await other.take(world.file)
    again = world.file.with_name("again.car")
    await other.put(world.cid, again)
    assert again.read_bytes() == world.file.read_bytes()


async def test_what_releases_share_is_carried_once(world: World) -> None:
    """A fine-tune beside its base costs only what it changed."""
    put = await world.sender.put(world.cid, world.file)
    different = sum(map(len, DATA.values())) + len(KEPT) + 2 * MIB
    assert put["size"] < different + 30_000  # statements, and what three publishers say


async def test_a_wrong_bit_anywhere_is_refused(world: World, machine: Machines) -> None:
    """Nothing is recorded and no wrong byte kept, wherever the bit is."""
    await world.sender.put(world.cid, world.file)
    data = world.file.read_bytes()
    other = await machine()
    bent = world.file.with_name("bent.car")
    dice = random.Random(7)
    places = [*range(0, 60, 7), *(dice.randrange(len(data)) for _ in range(40)), len(data) - 1]
    for at in places:
        bent.write_bytes(data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :])
        with pytest.raises(VerificationFailed):
            await other.take(bent)
        assert await other.store.releases() == []
    assert await is_empty(other.store)
    assert other.told == []


async def test_the_file_and_the_leaf_are_named(world: World, machine: Machines) -> None:
    """The sentence says which leaf of which file of which release is damaged."""
    await world.sender.put(world.cid, world.file)
    data = bytearray(world.file.read_bytes())
    data[data.index(DATA["train/0.bin"][MIB : MIB + 64]) + 9] ^= 0x20
    world.file.write_bytes(data)
    with pytest.raises(VerificationFailed, match=r"leaf 1 of train/0\.bin of words 1"):
        await (await machine()).take(world.file)


async def test_a_file_that_is_cut_short_or_too_long_is_refused(
    world: World, machine: Machines
) -> None:
    """The end is checked too, before anything is recorded."""
    await world.sender.put(world.cid, world.file)
    data = world.file.read_bytes()
    other = await machine()
    for wrong in (data[:-1], data[: len(data) // 2], b"", data + b"\0"):
        world.file.write_bytes(wrong)
        with pytest.raises(VerificationFailed, match=r"ends in the middle|goes on after"):
            await other.take(world.file)
        assert await other.store.releases() == []


async def test_a_stranger_cannot_sign_for_the_publisher(
    world: World, machine: Machines, tmp_path: Path
) -> None:
    """A bundle whose release its publisher didn't sign is refused though every hash is right."""
    forger = await machine()
    forged = await publish_into(
        forger.store,
        write_folder(tmp_path / "forged", TUNED),
        name="tuned",
        by=BOB,
        signer=ALICE.signer,
    )
    await forger.put(forged.manifest.cid, world.file)
    other = await machine()
    with pytest.raises(VerificationFailed, match="signed"):
        await other.take(world.file)
    assert await is_empty(other.store)


async def test_a_broken_import_goes_on(world: World, machine: Machines) -> None:
    """What came before the damage is not written again from the good file."""
    await world.sender.put(world.cid, world.file)
    data = world.file.read_bytes()
    broken = world.file.with_name("broken.car")
    broken.write_bytes(data[:-100_000])
    other = await machine()
    with pytest.raises(VerificationFailed):
        await other.take(broken)
    got = await other.take(world.file)
    assert same(got["path"], TUNED)
    assert got["bytes"]["new"] <= MIB + 5 + len(DATA["README.md"])


async def test_importing_twice_changes_nothing(world: World, machine: Machines) -> None:
    """What is here is verified in the file all the same, and stays as it is."""
    await world.sender.put(world.cid, world.file)
    other = await machine()
    await other.take(world.file)
    await other.store.unpin(world.cid)
    got = await other.take(world.file, pin=False)
    assert got["bytes"]["new"] == 0
    release = await other.store.release(world.cid)
    assert release is not None
    assert not release.pinned
    data = bytearray(world.file.read_bytes())
    data[-5] ^= 1
    world.file.write_bytes(data)
    with pytest.raises(VerificationFailed):
        await other.take(world.file)


async def test_a_dry_run_checks_and_keeps_nothing(world: World, machine: Machines) -> None:
    """It says what is in the file, and whether every byte of it is good."""
    await world.sender.put(world.cid, world.file)
    other = await machine()
    got = await other.take(world.file, dry_run=True)
    assert [one["name"] for one in got["releases"]] == ["tuned", "base", "words"]
    assert (await other.store.usage()).files == 0
    data = bytearray(world.file.read_bytes())
    data[-5] ^= 1
    world.file.write_bytes(data)
    with pytest.raises(VerificationFailed):
        await other.take(world.file, dry_run=True)


async def test_ancestors_can_come_as_statements_alone(world: World, machine: Machines) -> None:
    """Lean: the chain can be checked, the ancestors' files are to be fetched if anybody wants."""
    put = await world.sender.put(world.cid, world.file, lean=True)
    assert put["size"] < sum(map(len, TUNED.values())) + 20_000
    other = await machine()
    got = await other.take(world.file)
    assert same(got["path"], TUNED)
    chain = await ancestry(other.store, world.cid)
    assert [one.complete for one in chain] == [True, False, False]
    assert chain.missing == []
    with pytest.raises(NotFound, match="only a part"):
        await other.put(world.cid, world.file.with_name("more.car"))
    whole = world.file.with_name("whole.car")
    await world.sender.put(world.cid, whole)
    await other.take(whole)
    await other.take(world.file)  # the lean one again takes nothing away
    assert [one.complete for one in await ancestry(other.store, world.cid)] == [True, True, True]


async def test_a_gap_in_the_lineage_is_said_first(world: World, machine: Machines) -> None:
    """Nothing is written unless the person asks for what there is; then the file says it lacks."""
    await world.sender.store.remove(world.data.manifest.cid)
    with pytest.raises(NotFound, match=str(world.data.manifest.cid)):
        await world.sender.put(world.cid, world.file)
    assert not world.file.exists()
    put = await world.sender.put(world.cid, world.file, partial=True)
    assert put["missing"] == [str(world.data.manifest.cid)]
    other = await machine()
    got = await other.take(world.file)
    assert got["missing"] == put["missing"]


async def test_a_file_is_never_replaced_nor_left_half(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is taken is refused; a disk that fills up leaves nothing behind."""
    world.file.write_bytes(b"mine")
    with pytest.raises(UsageError, match="there already"):
        await world.sender.put(world.cid, world.file)
    assert world.file.read_bytes() == b"mine"
    world.file.unlink()

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.Writer, "_copy", full)
    with pytest.raises(DiskFull):
        await world.sender.put(world.cid, world.file)
    assert [file for file in world.file.parent.iterdir() if "tuned.car" in file.name] == []


async def test_a_cancel_leaves_no_file(world: World) -> None:
    """Ctrl-C while it is written: no file, no half of one, and the store is free."""
    with trio.CancelScope() as scope:

        def stop(event: Event) -> None:
            scope.cancel()

        world.sender.events = type("Stop", (list,), {"append": staticmethod(stop)})()
        await world.sender.put(world.cid, world.file)
    assert scope.cancelled_caught
    assert [file for file in world.file.parent.iterdir() if "tuned.car" in file.name] == []


async def test_a_damaged_store_writes_no_bundle(world: World) -> None:
    """A leaf that rotted on the disk is found on its way into the file."""
    held = await world.sender.store.held(world.tuned.manifest.files[2].cid)
    assert held is not None
    facts = held.path.stat()
    held.path.chmod(0o644)
    with held.path.open("r+b") as blob:
        blob.seek(2 * MIB)
        blob.write(b"rot")
    os.utime(held.path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # nothing shows but the bytes
    with pytest.raises(VerificationFailed, match=r"Leaf \d+ of model\.safetensors is damaged"):
        await world.sender.put(world.cid, world.file)
    assert not world.file.exists()


async def test_room_is_looked_at_first(world: World, machine: Machines) -> None:
    """A store whose quota is too small says so before it takes anything."""
    await world.sender.put(world.cid, world.file)
    other = await machine(quota=MIB)
    with pytest.raises(QuotaExceeded):
        await other.take(world.file)
    assert (await other.store.usage()).files == 0


POLICIES = [
    ("deny = ['bad.deny']", "deny"),
    ("[[rules]]\npublisher = '{bob}'\nrefuse = 'we left'", "rules"),
    ("[[rules]]\nlicenses = {{allow = ['MIT']}}", "licenses"),
]


@pytest.mark.parametrize(("policy", "rule"), POLICIES)
async def test_the_policy_decides_before_anything_is_kept(
    world: World, machine: Machines, policy: str, rule: str
) -> None:
    """What the owner doesn't want in doesn't come in by disk either; the rule is named."""
    await world.sender.put(world.cid, world.file)
    other = await machine()
    other.rule(policy.format(bob=BOB.id), world.cid)
    with pytest.raises(Refused, match=f"Refused by .*{rule}"):
        await other.take(world.file)
    assert (await other.store.usage()).files == 0
    assert await other.store.releases() == []


async def test_an_ancestor_that_is_refused_can_stay_a_statement(
    world: World, machine: Machines
) -> None:
    """The owner refuses the base's files: with lean the rest comes in, and the chain is checked."""
    await world.sender.put(world.cid, world.file)
    other = await machine()
    other.rule("deny = ['bad.deny']", world.base.manifest.cid)
    with pytest.raises(Refused):
        await other.take(world.file)
    got = await other.take(world.file, lean=True)
    assert same(got["path"], TUNED)
    assert [one.complete for one in await ancestry(other.store, world.cid)] == [True, False, False]
    for entry in world.data.manifest.files:
        assert not await other.store.has(entry.cid)


async def test_what_a_file_is_counts_whatever_its_name(machine: Machines, tmp_path: Path) -> None:
    """A pickle under a harmless name is found when it has come, and the release is refused."""
    sender, other = await machine(), await machine()
    files = {"model.safetensors": pickle.dumps({"w": 1}), "README.md": b"# X\n"}
    release = await publish_into(sender.store, write_folder(tmp_path / "x", files))
    await sender.put(release.manifest.cid, tmp_path / "x.car")
    with pytest.raises(Refused, match="pickle"):
        await other.take(tmp_path / "x.car")
    assert await other.store.releases() == []


async def test_a_rule_about_ancestors_sees_those_in_the_file(
    world: World, machine: Machines
) -> None:
    """A lineage that must be known is known when the bundle brings it, and not when it doesn't."""
    rule = "[[rules]]\nname = 'base'\nlineage = {unknown = 'refuse'}"
    await world.sender.put(world.cid, world.file)
    other = await machine()
    other.rule(rule)
    await other.take(world.file)
    await world.sender.store.remove(world.data.manifest.cid)
    gap = world.file.with_name("gap.car")
    await world.sender.put(world.cid, gap, partial=True)
    third = await machine()
    third.rule(rule)
    with pytest.raises(Refused, match="lineage"):
        await third.take(gap)


async def test_a_new_publisher_is_asked_about(world: World, machine: Machines) -> None:
    """Where there is a person; a yes is remembered, and covers the ancestors."""
    await world.sender.put(world.cid, world.file)
    other = await machine()
    with pytest.raises(Untrusted):
        await other.take(world.file, ask=True)
    await other.take(world.file, ask=True, yes=True)
    assert BOB.id in await other.gate.seen()
    await other.take(world.file, ask=True)
    never = await machine()
    never.rule("tofu = 'never'")
    with pytest.raises(Refused):
        await never.take(world.file)


async def test_what_was_revoked_is_refused_by_the_bundle_itself(
    world: World, machine: Machines
) -> None:
    """The publisher's own word in the file is heard before its files are taken."""
    store, publisher = world.sender.store, Publisher(130)
    publisher.metadata = await store.publishers.get(publisher.id) or publisher.metadata
    status = Status("revoked", "wrong weights", "2026-11-22T00:00:00Z")
    await store.publishers.put(publisher.id, publisher.mark(world.cid, status))
    await world.sender.put(world.cid, world.file)
    other = await machine()
    for dry_run in (True, False):
        with pytest.raises(Refused, match="wrong weights"):
            await other.take(world.file, dry_run=dry_run)
    assert await other.store.releases() == []


async def test_what_others_say_is_carried_along(world: World, machine: Machines) -> None:
    """An endorsement travels with the release, and so does what proves whose it is."""
    dave = Publisher(140)
    payload = write_attestation(
        "endorsement",
        manifest=world.cid,
        release="tuned@1",
        publisher=dave.id,
        at="2026-11-22T00:00:00Z",
        passed=True,
    )
    said = sign_bundle(payload, dave.signer)
    store = world.sender.store
    await store.add_bundles(world.cid, [said], [BOB.signer.public])
    await store.publishers.put(dave.id, dave.metadata)
    put = await world.sender.put(world.cid, world.file)
    assert dave.id in put["publishers"]
    other = await machine()
    await other.take(world.file)
    statement = await other.store.statement(world.cid)
    assert statement is not None
    assert said in statement.bundles
    assert await other.store.publishers.get(dave.id) == dave.metadata


async def test_metadata_is_whole_and_no_more(world: World, machine: Machines) -> None:
    """Files of a publisher's metadata that belong to no state of it are refused."""
    metadata = await world.sender.store.publishers.get(BOB.id)
    assert metadata is not None
    files = files_of(metadata)
    assert _known(BOB.id, None, files) == metadata
    assert _known(BOB.id, metadata, None) == metadata
    with pytest.raises(VerificationFailed, match="no state"):
        _known(BOB.id, None, {**files, "9.root.json": b"{}"})
    with pytest.raises(VerificationFailed, match="whose keys"):
        _known(BOB.id, None, None)


async def test_what_is_no_file_is_said(machine: Machines, tmp_path: Path) -> None:
    """No such file, a folder, a file of something else."""
    one = await machine()
    with pytest.raises(NotFound):
        await one.take(tmp_path / "nowhere.car")
    with pytest.raises(UsageError):
        await one.take(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + bytes(500))
    with pytest.raises(VerificationFailed, match="does not begin like a bundle"):
        await one.take(tmp_path / "x.zip")
    with pytest.raises(UsageError):
        await one.take(Path("relative.car"))


async def test_a_release_of_many_files_brings_its_list(
    machine: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the manifest only names the list of files, that goes along and is checked."""
    monkeypatch.setattr("p2p.manifest.MAX_MANIFEST", 4096)
    files = {f"shard-{number:04}.bin": noise(50, number) for number in range(200)}
    sender, other = await machine(), await machine()
    release = await publish_into(sender.store, write_folder(tmp_path / "many", files))
    assert release.manifest.listing is not None
    await sender.put(release.manifest.cid, tmp_path / "many.car")
    got = await other.take(tmp_path / "many.car")
    assert same(got["path"], files)
    data = bytearray((tmp_path / "many.car").read_bytes())
    data[data.index(b"shard-0100")] ^= 1
    (tmp_path / "many.car").write_bytes(data)
    with pytest.raises(VerificationFailed, match="the list of tiny"):
        await (await machine()).take(tmp_path / "many.car")


async def test_a_release_under_sha256_is_carried_too(machine: Machines, tmp_path: Path) -> None:
    """The profile that IPFS readers ask for."""
    sender, other = await machine(), await machine()
    release = await publish_into(
        sender.store, write_folder(tmp_path / "x", BASE), profile=Profile.UNIXFS_V1_2025
    )
    await sender.put(release.manifest.cid, tmp_path / "x.car")
    assert same((await other.take(tmp_path / "x.car"))["path"], BASE)


async def test_ancestry_is_met_once_and_nearest_first(world: World) -> None:
    """The chain is read from the statements; what lies elsewhere is named, and is no release."""
    chain = await ancestry(world.sender.store, world.cid)
    assert [(one.depth, one.manifest and one.manifest.name) for one in chain] == [
        (0, "tuned"),
        (1, "base"),
        (2, "words"),
    ]
    assert [parent.uri for parent in chain.first.parents] == ["", "hf://datasets/org/chat"]
    machine = world.sender
    await machine.store.remove(world.cid)
    known = {world.cid: (world.tuned.manifest, [world.tuned.bundle])}
    chain = await ancestry(machine.store, world.cid, known)
    assert [one.complete for one in chain] == [False, True, True]
    gone = CID.of(b"{}", Codec.JSON)
    assert (await ancestry(world.sender.store, gone)).missing == [gone]


async def test_ancestry_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lineage without an end is cut, and says so."""
    monkeypatch.setattr("node.ancestry.MAX_DEPTH", 1)
    chain = await ancestry(world.sender.store, world.cid)
    assert (len(chain.releases), chain.cut) == (2, True)
    with pytest.raises(UsageError, match="longer"):
        await world.sender.put(world.cid, world.file)
    monkeypatch.setattr("node.ancestry.MAX_DEPTH", 64)
    monkeypatch.setattr("node.ancestry.MAX_NODES", 1)
    assert (await ancestry(world.sender.store, world.cid)).cut


async def test_a_file_that_vanishes_under_the_export_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob that somebody deleted by hand: an error, no file."""
    held = await world.sender.store.held(world.data.manifest.files[2].cid)
    assert held is not None
    held.path.unlink()
    with pytest.raises(StoreError):
        await world.sender.put(world.cid, world.file)
    assert not world.file.exists()
