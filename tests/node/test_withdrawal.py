"""What a publisher takes back is signed, stays, and is said with its reason and its limits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from node.keyring import Keyring
from node.messages import Note, WithdrawParams
from node.publisher import Waiting, read_proposal, write_proposal
from node.upkeep import keep_announced
from node.withdrawal import NO_RECALL, show_consent, withdraw
from p2p.cid import CID
from p2p.errors import NotFound, UsageError
from p2p.keys import SecretKey
from tests.fakes import gate_for
from tests.node.conftest import Stores
from tests.node.test_publish import Machine
from tests.releases import write_folder


@pytest.fixture
async def machine(new_store: Stores, tmp_path: Path) -> Machine:
    keyring = Keyring(tmp_path / "keys")
    keyring.new("alice")
    return Machine(await new_store(), keyring)


async def publish(machine: Machine, tmp_path: Path, *versions: str) -> list[dict[str, Any]]:
    """Publish versions of one dataset, each with other content."""
    found = []
    for version in versions:
        folder = write_folder(tmp_path / f"data-{version}", {"a.csv": version.encode()})
        found.append(
            await machine.publish(
                folder,
                f"alice/voices@{version}",
                license="CC-BY-4.0",
                consent_basis="written consent",
                allowed_uses=("research",),
                redistribution=True,
                consent_expires="9000-12-31",
            )
        )
    return found


async def take_back(machine: Machine, ref: str, state: Any = "withdrawn", **more: Any) -> Any:
    """Take back what a reference names, with a reason."""
    params = WithdrawParams(ref, more.pop("reason", "A speaker asked for it."), **more)
    return await withdraw(machine.store, machine.keyring, params, state, machine.events.append)


async def test_consent_is_shown_as_it_was_stated(machine: Machine, tmp_path: Path) -> None:
    """What was said while publishing is what anybody reads, and nothing was taken back."""
    await publish(machine, tmp_path, "1")
    shown = await show_consent(machine.store, machine.keyring, "alice/voices")
    assert shown["consent"] == {
        "basis": "written consent",
        "allowedUses": ["research"],
        "redistribution": True,
        "expires": "9000-12-31",
    }
    assert (shown["name"], shown["version"], shown["license"]) == ("voices", "1", "CC-BY-4.0")
    assert (shown["expired"], shown["status"]) == (False, None)
    with pytest.raises(NotFound):
        await show_consent(machine.store, machine.keyring, "alice/nothing")


@pytest.mark.parametrize("state", ["withdrawn", "revoked"])
async def test_a_release_is_taken_back(machine: Machine, tmp_path: Path, state: str) -> None:
    """The status is in the publisher's signed list and in the store, with the reason."""
    [first] = await publish(machine, tmp_path, "1")
    result = await take_back(machine, "alice/voices", state)
    cid = CID.parse(first["manifest"])
    [one] = result["releases"]
    assert one["manifest"] == first["manifest"]
    assert one["status"]["state"] == state
    assert one["status"]["reason"] == "A speaker asked for it."
    assert result["waiting"] == []
    assert result["limits"] == NO_RECALL
    assert "cannot be recalled" in NO_RECALL

    seen = await machine.store.publishers.seen(first["publisher"])
    assert (seen[cid].state, seen[cid].reason) == (state, "A speaker asked for it.")
    listed = machine.keyring.repository("alice").names().of(cid)
    assert listed is not None
    assert listed.status == seen[cid]
    shown = await show_consent(machine.store, machine.keyring, first["manifest"])
    assert shown["status"] == one["status"]


async def test_it_is_taken_back_once(machine: Machine, tmp_path: Path) -> None:
    """What was said first stays: a second word changes nothing, and tells what stands."""
    await publish(machine, tmp_path, "1")
    first = await take_back(machine, "alice/voices@1")
    again = await take_back(machine, "alice/voices@1", "revoked", reason="Another.")
    assert again["releases"] == first["releases"]
    [note] = [one for one in machine.events if isinstance(one, Note)]
    assert "was withdrawn on" in note.text
    assert "A speaker asked for it." in note.text


async def test_one_version_or_all(machine: Machine, tmp_path: Path) -> None:
    """Of several versions one has to be named, or all be meant; the others stay good."""
    releases = await publish(machine, tmp_path, "1", "2", "3")
    with pytest.raises(UsageError, match="several versions: 1, 2, 3") as caught:
        await take_back(machine, "alice/voices")
    assert "voices@3" in caught.value.next
    result = await take_back(machine, "alice/voices@2")
    assert [one["version"] for one in result["releases"]] == ["2"]
    result = await take_back(machine, releases[0]["ref"])
    assert [one["version"] for one in result["releases"]] == ["1"]
    result = await take_back(machine, "alice/voices", all_versions=True)
    assert [one["version"] for one in result["releases"]] == ["3"]
    taken = await machine.store.publishers.seen(releases[0]["publisher"])
    assert {str(cid) for cid in taken} == {one["manifest"] for one in releases}


class Wire:
    """A network that keeps what it is told to announce, and no longer to."""

    def __init__(self, wanted: set[CID]) -> None:
        self.wanted, self.rounds = wanted, 0
        self.announced, self.again, self.withdrawn = trio.Event(), trio.Event(), trio.Event()
        self.meanwhile: Callable[[], None] = lambda: None

    def announce(self, cids: Sequence[CID]) -> None:
        assert self.wanted <= set(cids)
        self.rounds += 1
        if self.rounds == 1:
            self.announced.set()
            self.meanwhile()
        else:
            self.again.set()

    def withdraw(self, cids: Sequence[CID]) -> None:
        if self.wanted <= set(cids):
            self.withdrawn.set()


async def test_it_is_announced_no_more(machine: Machine, tmp_path: Path) -> None:
    """The publisher's own running node takes its announcements back."""
    [first] = await publish(machine, tmp_path, "1")
    gate = gate_for(machine.store, machine.keyring, tmp_path / "trust")
    machine.store.publishers.changed.append(lambda publisher: gate.changed())
    manifest = await machine.manifest(first)
    wire: Any = Wire({manifest.cid, manifest.root, manifest.files[0].cid})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_announced, machine.store, gate, wire)
            await wire.announced.wait()
            assert not wire.withdrawn.is_set()
            await take_back(machine, "alice/voices")
            await wire.withdrawn.wait()
            nursery.cancel_scope.cancel()


async def test_no_change_is_missed_while_announcing(machine: Machine, tmp_path: Path) -> None:
    """What changes while the releases are gone through is looked at again at once."""
    [first] = await publish(machine, tmp_path, "1")
    gate = gate_for(machine.store, machine.keyring, tmp_path / "trust")
    wire: Any = Wire({CID.parse(first["manifest"])})
    wire.meanwhile = gate.changed
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_announced, machine.store, gate, wire)
            await wire.again.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["name", "id", "cid"])
async def test_each_way_to_name_it(machine: Machine, tmp_path: Path, kind: str) -> None:
    """The publisher's name here, its id, and a manifest CID alone name the same release."""
    [first] = await publish(machine, tmp_path, "1")
    names = {"name": "alice/voices", "id": f"{first['publisher']}/voices", "cid": first["manifest"]}
    result = await take_back(machine, names[kind])
    assert result["releases"][0]["manifest"] == first["manifest"]


@pytest.mark.parametrize(
    ("ref", "error"),
    [("alice/other", NotFound), ("alice/voices@9", NotFound), ("bob/voices", NotFound),
     (str(CID.parse("bagaaihrabyolgnej3uxawtk4wgmk7bw5m22ria3hsvffvtj5gdeuymvi2nha")), NotFound)],
)  # fmt: skip
async def test_what_is_not_mine_stays(
    machine: Machine, tmp_path: Path, ref: str, error: type[Exception]
) -> None:
    """Only its publisher takes a release back; an error says so and changes nothing."""
    [first] = await publish(machine, tmp_path, "1")
    with pytest.raises(error):
        await take_back(machine, ref)
    assert not await machine.store.publishers.seen(first["publisher"])


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1001])
async def test_a_reason_is_needed(machine: Machine, tmp_path: Path, reason: str) -> None:
    """Others see nothing but the reason, so there has to be one, and a short one."""
    await publish(machine, tmp_path, "1")
    with pytest.raises(UsageError, match="reason"):
        await take_back(machine, "alice/voices", reason=reason)


async def test_an_organisation_signs_together(machine: Machine, tmp_path: Path) -> None:
    """Where others' signatures are needed, a file goes round, and nothing is in force yet."""
    await publish(machine, tmp_path, "1")
    other = SecretKey.generate()
    repository = machine.keyring.repository("alice")
    change = repository.change_members(add=[other.public], threshold=2)
    assert isinstance(change, Waiting)
    signed = read_proposal(change.path.read_bytes()).sign([other])
    repository.apply(write_proposal(signed))
    result = await take_back(machine, "alice/voices")
    assert result["releases"][0]["status"] is None
    [waiting] = result["waiting"]
    assert (waiting["missing"], waiting["asks"]) == (1, [other.public.did])
    assert waiting["file"].endswith(".proposal.json")
