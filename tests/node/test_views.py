"""Where a release comes from, what descends from it, what can be found: from one store, offline.

The chain: a dataset by one publisher, a base model by a second, a fine-tune and its quantised form
by a third, all in one store.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from node.cli.lineage import draw
from node.impact import impact
from node.keyring import Keyring
from node.messages import ProvenanceParams, RefParams, SearchParams
from node.model_sig import sign_model
from node.page import provenance_page
from node.search import search
from node.store import Store
from node.verdicts import judged_provenance
from p2p.attest import write_attestation
from p2p.cid import CID, Codec
from p2p.envelope import sign_bundle
from p2p.errors import NotFound, UsageError
from p2p.keys import SecretKey
from p2p.naming import Status
from tests.fakes import gate_for
from tests.node.conftest import Stores
from tests.publishers import Publisher
from tests.releases import Published, noise, publish_into, write_folder

WHEN = "2026-11-22T00:00:00Z"
Json = dict[str, Any]


@dataclass
class Machine:
    """As much of a node as looks at releases."""

    store: Store
    keyring: Keyring
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate = gate_for(self.store, self.keyring, self.store.folder.with_suffix(".trust"))

    def petnames(self) -> Mapping[str, str]:
        return self.names

    def stale_names(self) -> Literal["refuse", "warn"]:
        return "warn"

    async def look(self, ref: object, save: str = "") -> Json:
        return await judged_provenance(ProvenanceParams(str(ref), save), self)

    async def impact(self, ref: object) -> Json:
        return await impact(RefParams(str(ref)), self)

    async def search(self, *words: str, **params: Any) -> list[str]:
        found = await search(SearchParams(words, **params), self)
        return [f"{one['petname']}/{one['name']} {one['version']}" for one in found["results"]]


@dataclass
class World:
    """The four releases, their publishers, and the machine that holds them."""

    machine: Machine
    words: Publisher
    alice: Publisher
    bob: Publisher
    releases: dict[str, Published]

    def cid(self, name: str) -> CID:
        return self.releases[name].manifest.cid


@pytest.fixture
async def machine(new_store: Stores) -> Callable[[], Awaitable[Machine]]:
    async def make() -> Machine:
        store = await new_store()
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    return make


Machines = Callable[[], Awaitable[Machine]]


@pytest.fixture
async def world(machine: Machines, tmp_path: Path) -> World:
    here = await machine()
    words, alice, bob = Publisher(110), Publisher(120), Publisher(130)
    releases: dict[str, Published] = {}

    async def publish(name: str, by: Publisher, *made: tuple[str, str, str], **more: Any) -> None:
        files = {"model.bin": noise(5000, len(releases)), "README.md": more.pop("card", b"# X\n")}
        lineage = [
            {"role": role, "manifest": str(releases[parent].manifest.cid)}
            | ({"relation": relation} if relation else {})
            for role, relation, parent in made
        ]
        folder = write_folder(tmp_path / name, files)
        releases[name] = await publish_into(
            here.store, folder, name=name, by=by, lineage=lineage, **more
        )

    await publish("words", words, kind="dataset", license="CC-BY-4.0")
    await publish("base", alice, ("dataset", "", "words"), license="CC-BY-NC-4.0")
    await publish(
        "chat", bob, ("base_model", "finetune", "base"), ("dataset", "", "words"),
        card=b"A friendly chatting Llama\n",
    )  # fmt: skip
    await publish("chat-gguf", bob, ("base_model", "quantized", "chat"))
    here.names |= {"alice": alice.id, "bob": bob.id}
    return World(here, words, alice, bob, releases)


async def test_the_whole_lineage_is_shown(world: World) -> None:
    """Each release once, nearest first, with who signed it and what it was made from."""
    found = await world.machine.look(world.cid("chat-gguf"))
    chain = found["chain"]
    assert [(one["depth"], one["petname"], one["name"]) for one in chain] == [
        (0, "bob", "chat-gguf"),
        (1, "bob", "chat"),
        (2, "alice", "base"),
        (2, None, "words"),
    ]
    for one, by in zip(chain, (world.bob, world.bob, world.alice, world.words), strict=True):
        assert one["signatures"] == {"ok": True, "keys": [by.signer.public.did], "reason": ""}
        assert one["here"]
        assert one["complete"]
        assert one["publisher"] == by.id
    assert chain[1]["parents"][0] == {
        "role": "base_model",
        "relation": "finetune",
        "manifest": str(world.cid("base")),
        "uri": "",
        "name": "",
    }
    text = "\n".join(draw(found))
    assert "└─ base model (quantized): bob/chat 1" in text
    assert "bob/chat-gguf 1" in provenance_page(found, WHEN)


async def test_a_licence_that_does_not_fit_is_a_finding(world: World) -> None:
    """A non-commercial base under an Apache child stands where it happens, in the chain."""
    chain = (await world.machine.look(world.cid("chat-gguf")))["chain"]
    [finding] = [each for each in chain[1]["findings"] if each["level"] == "problem"]
    assert finding["parent"] == "base 1"
    assert not [each for each in chain[0]["findings"] if each["level"] == "problem"]
    assert "PROBLEM" in "\n".join(draw({"cut": False, "rule": "", "verdict": "", "evidence": [],
                                        "chain": chain}))  # fmt: skip


async def test_what_was_taken_back_is_shown(world: World) -> None:
    """A publisher's revocation of an ancestor stands in the chain of its descendants."""
    status = Status("revoked", "wrong weights", WHEN)
    marked = world.alice.mark(world.cid("base"), status)
    await world.machine.store.publishers.put(world.alice.id, marked)
    chain = (await world.machine.look(world.cid("chat")))["chain"]
    assert chain[1]["status"] == {"state": "revoked", "reason": "wrong weights", "at": WHEN}
    assert chain[0]["status"] is None


async def test_what_others_say_is_shown_with_its_proof(world: World) -> None:
    """An endorsement by a key of the one it names is known; one by any other key is not."""
    machine, cid = world.machine, world.cid("base")
    manifest = world.releases["base"].manifest

    def endorse(publisher: str, key: SecretKey, *, passed: bool) -> bytes:
        payload = write_attestation(
            "endorsement",
            manifest=cid,
            release="base@1",
            publisher=publisher,
            at=WHEN,
            passed=passed,
            text="tried it",
        )
        return sign_bundle(payload, key)

    stranger = SecretKey.from_seed(b"s" * 32)
    said = [
        endorse(world.bob.id, world.bob.signer, passed=True),
        endorse(world.words.id, stranger, passed=False),
    ]
    await machine.store.record(manifest, said, pin=True, complete=True)
    [base] = [one for one in (await machine.look(cid))["chain"] if one["name"] == "base"]
    shown = {
        (one["publisher"], one["petname"], one["passed"], one["known"])
        for one in base["statements"]
    }
    assert shown == {
        (world.bob.id, "bob", True, True),
        (world.words.id, None, False, False),
    }
    assert base["signatures"]["ok"]


async def test_the_rule_behind_a_no_is_named(world: World) -> None:
    """What the owner's policy makes of each release, with the rule as it stands in the file."""
    machine, file = world.machine, world.machine.gate.rulebook.file
    found = await machine.look(world.cid("chat"))
    assert (found["verdict"], found["rule"]) == ("admitted", "default")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("[[rules]]\nkind = 'model'\nlicenses = {deny = ['CC-BY-NC-4.0']}\n")
    assert (await machine.look(world.cid("chat")))["verdict"] == "admitted"
    found = await machine.look("alice/base")
    assert found["verdict"] == "refused"
    assert found["rule"].startswith("rules[0].licenses")
    assert "CC-BY-NC-4.0" in found["reason"]
    base = (await machine.look(world.cid("chat")))["chain"][1]
    assert not base["verdict"]["admitted"]
    with pytest.raises(NotFound):
        await machine.look("alice/nothing")


async def test_an_ancestor_that_is_not_here_is_said(world: World) -> None:
    """What this machine doesn't hold it doesn't vouch for."""
    await world.machine.store.remove(world.cid("base"))
    found = await world.machine.look(world.cid("chat"))
    [gone] = [one for one in found["chain"] if not one["here"]]
    assert gone["manifest"] == str(world.cid("base"))
    assert "of which this machine knows nothing" in "\n".join(draw(found))


async def test_the_proofs_are_saved_for_other_tools(world: World, tmp_path: Path) -> None:
    """The statement as it was signed, the bundle over it; with a model.sig also the command."""
    cid, folder = world.cid("base"), tmp_path / "proofs"
    saved = (await world.machine.look(cid, str(folder)))["saved"]
    assert saved["files"] == ["statement.json", "publisher.sigstore.json"]
    assert "model.sig" in saved["missing"]
    assert (folder / "statement.json").read_bytes() == world.releases["base"].manifest.payload
    assert (folder / "publisher.sigstore.json").read_bytes() == world.releases["base"].bundle
    assert await sign_model(cid, world.alice.signer, world.machine.store, lambda event: None)
    saved = (await world.machine.look(cid, str(folder)))["saved"]
    assert saved["files"][2:] == ["model.sig", "publisher.pem"]
    assert all((folder / name).is_file() for name in saved["files"])
    assert saved["command"].startswith("model_signing verify certificate ")
    with pytest.raises(UsageError):
        await world.machine.look(cid, "proofs")


async def test_impact_reaches_every_descendant(world: World, machine: Machines) -> None:
    """From a dataset to all that was made from it, also by way of others, with how far it is."""
    found = await world.machine.impact(world.cid("words"))
    assert [(one["depth"], one["name"], one["held"]) for one in found["releases"]] == [
        (1, "base", True),
        (1, "chat", True),
        (2, "chat-gguf", True),
    ]
    other = await machine()
    await other.store.publishers.put(world.bob.id, world.bob.metadata)
    listed = await other.impact(world.cid("words"))
    assert [(one["name"], one["held"]) for one in listed["releases"]] == [
        ("chat", False),
        ("chat-gguf", False),
    ]
    assert (await world.machine.impact(world.cid("chat-gguf")))["releases"] == []


async def test_impact_of_a_withdrawn_release_by_its_name(world: World) -> None:
    """A release that is no longer good is found by name; a name that nobody has is not."""
    status = Status("withdrawn", "consent ended", WHEN)
    marked = world.alice.mark(world.cid("base"), status)
    await world.machine.store.publishers.put(world.alice.id, marked)
    found = await world.machine.impact("alice/base")
    assert [one["name"] for one in found["releases"]] == ["chat", "chat-gguf"]
    found = await world.machine.impact(world.cid("words"))
    [base] = [one for one in found["releases"] if one["name"] == "base"]
    assert base["status"]["state"] == "withdrawn"
    with pytest.raises(NotFound):
        await world.machine.impact("alice/nothing")
    gone = CID.of(b"gone", Codec.JSON)
    assert (await world.machine.impact(gone))["releases"] == []


async def test_search_finds_names_descriptions_and_cards(world: World) -> None:
    """Every word must be somewhere; names come before cards; case doesn't matter."""
    look = world.machine.search
    assert await look("chat") == ["bob/chat 1", "bob/chat-gguf 1"]
    assert await look("LLAMA") == ["bob/chat 1"]
    assert await look("bob", "gguf") == ["bob/chat-gguf 1"]
    assert await look("cc-by") == ["alice/base 1", "None/words 1"]
    assert await look("dataset", kind="dataset") == ["None/words 1"]
    assert await look("chat", kind="dataset") == []
    assert await look("chat", "nowhere") == []
    with pytest.raises(UsageError):
        await look(" ")


async def test_search_shows_what_is_good_unless_asked_for_all(world: World, tmp_path: Path) -> None:
    """Only the newest version of a name, and nothing that was taken back."""
    store = world.machine.store
    folder = write_folder(tmp_path / "again", {"model.bin": b"2"})
    again = await publish_into(store, folder, name="chat", version="2", by=world.bob)
    assert await world.machine.search("chat") == ["bob/chat 2", "bob/chat-gguf 1"]
    status = Status("revoked", "broken", WHEN)
    await store.publishers.put(world.bob.id, world.bob.mark(again.manifest.cid, status))
    assert await world.machine.search("chat") == ["bob/chat 1", "bob/chat-gguf 1"]
    assert set(await world.machine.search("chat", all=True)) == {
        "bob/chat 2", "bob/chat 1", "bob/chat-gguf 1",
    }  # fmt: skip
