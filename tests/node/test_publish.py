"""Publish keeps its promises: one pass, in place, signed, and the same again changes nothing."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from node.keyring import Keyring
from node.messages import Event, Note, Progress, PublishParams
from node.publish import publish
from node.publisher import Repository, read_proposal, write_proposal
from node.store import Store
from p2p.bridge import read_model_signature
from p2p.bundles import is_model_signature
from p2p.cid import CID
from p2p.errors import NotFound, SourceChanged, StoreError, UsageError
from p2p.keys import SecretKey
from p2p.manifest import Manifest, parse_manifest
from p2p.naming import Metadata, Status, authenticate, read_names
from p2p.references import parse_reference
from tests.node.conftest import Stores
from tests.releases import MIB, noise, safetensors_bytes, write_folder

PEER = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
CARD = b"""---
license: mit
base_model: org/base
datasets: [org/data]
---
# Tiny
"""


@dataclass
class Machine:
    """A node that is on no network, or says that it is."""

    store: Store
    keyring: Keyring
    default_key: str = "default"
    addresses: list[str] = field(default_factory=list)
    spreads: list[CID] = field(default_factory=list)
    background: bool = False
    later: list[CID] = field(default_factory=list)
    pets: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def petnames(self) -> dict[str, str]:
        return self.pets

    def sign_later(self, cid: CID) -> bool:
        self.later.append(cid)
        return self.background

    def spread(self, cids: list[CID]) -> list[str]:
        self.spreads += cids
        return self.addresses

    async def publish(
        self, folder: Path, name: str = "alice/tiny", **params: Any
    ) -> dict[str, Any]:
        wanted = PublishParams(folder=str(folder), name=name, **params)
        return await publish(wanted, self, self.events.append)

    async def manifest(self, result: dict[str, Any]) -> Manifest:
        known = await self.store.manifest(CID.parse(result["manifest"]))
        assert known is not None
        payload, bundles, listing = known
        manifest = parse_manifest(payload, listing)
        metadata = await self.store.publishers.get(manifest.publisher)
        assert metadata is not None
        assert authenticate(payload, bundles, metadata)
        return manifest


@pytest.fixture
async def machine(new_store: Stores, tmp_path: Path) -> Machine:
    keyring = Keyring(tmp_path / "keys")
    keyring.new("alice")
    return Machine(await new_store(), keyring)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "model.safetensors": safetensors_bytes({"a": noise(MIB), "b": noise(100, 2)}, {}),
        "README.md": CARD,
        "LICENSE": b"MIT",
        "sub/config.json": b"{}",
        ".git/config": b"left out",
    }
    return write_folder(tmp_path / "tiny", files)


async def test_a_folder_becomes_a_signed_release(machine: Machine, folder: Path) -> None:
    """Files, licence, lineage and kind are in a manifest that the publisher's key signed."""
    result = await machine.publish(folder)
    manifest = await machine.manifest(result)
    paths = ["LICENSE", "README.md", "model.safetensors", "sub/config.json"]
    assert [entry.path for entry in manifest.files] == paths
    assert [file["path"] for file in result["files"]] == paths
    assert manifest.kind == result["kind"] == "model"
    assert manifest.version == result["version"] == "1"
    assert manifest.publisher == machine.keyring.repository("alice").id
    assert manifest.license == {"spdx": "MIT", "file": "LICENSE"}
    assert {parent["role"] for parent in manifest.lineage} == {"base_model", "dataset"}
    assert result["bytes"] == {"total": manifest.size, "new": manifest.size, "shared": 0}
    assert (await machine.store.verify()).bad == []


async def test_a_release_is_listed_by_its_publisher(machine: Machine, folder: Path) -> None:
    """Its name means it from then on, for whoever has the publisher's metadata of this store."""
    first = await machine.publish(folder)
    (folder / "sub/config.json").write_bytes(b'{"changed": true}')
    second = await machine.publish(folder)
    assert second["waiting"] is None
    metadata = await machine.store.publishers.get(first["publisher"])
    assert metadata is not None
    names = read_names(first["publisher"], metadata, now=datetime.now(UTC))
    newest, exact = names.find("tiny"), names.find("tiny", "1")
    assert newest is not None
    assert exact is not None
    assert (str(newest.manifest), str(exact.manifest)) == (second["manifest"], first["manifest"])
    assert newest.license == "MIT"


async def test_a_publish_that_was_cut_off_is_listed_by_the_next(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that was recorded, and not yet listed, is listed when it is published again."""

    def cut(self: Repository, payload: bytes) -> None:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "add", cut)
        with pytest.raises(StoreError):
            await machine.publish(folder)
    [release] = await machine.store.releases()
    assert machine.keyring.repository("alice").names().entries == ()
    again = await machine.publish(folder)
    assert again["manifest"] == str(release.manifest_cid)
    [entry] = machine.keyring.repository("alice").names().entries
    assert entry.manifest == release.manifest_cid


async def test_what_was_taken_back_is_published_anew(machine: Machine, folder: Path) -> None:
    """A revoked release does not come back by publishing the same: that is another version."""
    first = await machine.publish(folder)
    revoked = Status("revoked", "wrong licence", "2026-11-22T00:00:00Z")
    machine.keyring.repository("alice").mark(CID.parse(first["manifest"]), revoked)
    second = await machine.publish(folder)
    assert (second["version"], second["manifest"] != first["manifest"]) == ("2", True)
    with pytest.raises(UsageError, match="with other content"):
        await machine.publish(folder, version="1")


async def test_a_release_of_several_people_waits_for_them(
    machine: Machine, folder: Path, tmp_path: Path
) -> None:
    """Under its threshold a release is held, and neither listed nor announced."""
    other = SecretKey.from_seed(bytes(32))
    team = machine.keyring.new("team", members=[other.public], threshold=2)
    [proposal] = await trio.to_thread.run_sync(lambda: list(tmp_path.rglob("*.proposal.json")))
    team.apply(write_proposal(read_proposal(proposal.read_bytes()).sign([other])))
    machine.addresses = [PEER]
    result = await machine.publish(folder, "team/tiny")
    assert result["waiting"]["missing"] == 1
    assert other.public.did in result["waiting"]["asks"]
    assert result["waiting"]["file"].endswith(".proposal.json")
    assert not result["announced"]
    assert machine.spreads == []
    assert machine.keyring.repository("team").names().entries == ()
    assert (await machine.store.verify()).bad == []


async def test_the_link_is_all_that_a_stranger_needs(machine: Machine, folder: Path) -> None:
    """The link names publisher, release, content, and this node's addresses."""
    machine.addresses = [PEER]
    result = await machine.publish(folder)
    link = parse_reference(result["ref"])
    assert str(link.manifest) == result["manifest"]
    assert (link.publisher, link.name, link.peers) == (result["publisher"], "tiny", (PEER,))
    assert result["announced"]
    manifest = await machine.manifest(result)
    assert {manifest.cid, manifest.root} < set(machine.spreads)
    assert {entry.cid for entry in manifest.files} < set(machine.spreads)


@pytest.mark.parametrize("name", ["alice/Bad Name!", "alice/", "alice/tiny@one two"])
async def test_a_wrong_name_is_refused_before_anything_is_read(
    machine: Machine, folder: Path, name: str
) -> None:
    """A name that no release can have costs no hashing, and is told in plain words."""
    with pytest.raises(UsageError, match=r"letters, digits") as refused:
        await machine.publish(folder, name)
    assert refused.value.next
    assert not machine.events
    assert (await machine.store.usage()).files == 0


async def test_another_description_is_another_release(machine: Machine, folder: Path) -> None:
    """What a person says of a release is not dropped because its files are the same."""
    first = await machine.publish(folder)
    told = await machine.publish(folder, description="Small, and good.")
    assert (first["version"], told["version"]) == ("1", "2")
    again = await machine.publish(folder, description="Small, and good.")
    assert again["ref"] == told["ref"]


async def test_an_edit_in_place_is_told(machine: Machine, folder: Path) -> None:
    """Where a file was changed rather than replaced, the earlier version is known to be lost."""
    first = await machine.publish(folder)
    card = folder / "README.md"
    linked = card.stat().st_nlink > 1  # a reflink or a copy would keep what was published
    with card.open("ab") as stream:
        stream.write(b"more")
    await machine.publish(folder)
    notes = [one for one in machine.events if isinstance(one, Note)]
    warnings = [one.text for one in notes if one.level == "warning"]
    assert [text.startswith("README.md was edited") for text in warnings] == [True] * linked
    release = await machine.store.release(CID.parse(first["manifest"]))
    assert release is not None
    assert release.complete is not linked
    new = folder / "new"
    new.write_bytes(CARD)
    new.replace(card)
    machine.events.clear()
    await machine.publish(folder)
    assert not [one for one in machine.events if isinstance(one, Note)]


async def test_the_same_again_changes_nothing(machine: Machine, folder: Path) -> None:
    """Publishing an unchanged folder gives the same link and no new version."""
    first = await machine.publish(folder)
    again = await machine.publish(folder)
    assert again["ref"] == first["ref"]
    assert again["bytes"] == {
        "total": first["bytes"]["total"],
        "new": 0,
        "shared": first["bytes"]["total"],
    }
    assert len(await machine.store.releases()) == 1


async def test_a_change_is_a_new_version_that_supersedes(machine: Machine, folder: Path) -> None:
    """A changed file makes version 2, which names what it supersedes and shares the rest."""
    first = await machine.publish(folder)
    (folder / "sub/config.json").write_bytes(b'{"changed": true}')
    second = await machine.publish(folder)
    manifest = await machine.manifest(second)
    assert manifest.version == "2"
    assert str(manifest.supersedes) == first["manifest"]
    assert second["bytes"]["new"] < 1000


@pytest.mark.parametrize(
    ("name", "params", "version"),
    [
        ("alice/tiny@1.2.0", {}, "1.2.0"),
        ("tiny", {"version": "0.9", "key": "alice"}, "0.9"),
        ("tiny", {}, "1"),
    ],
)
async def test_names_say_whose_and_which(
    machine: Machine, folder: Path, name: str, params: dict[str, str], version: str
) -> None:
    """[PUBLISHER/]NAME[@VERSION]; with a single key nobody has to be named."""
    result = await machine.publish(folder, name, **params)
    assert (result["name"], result["version"]) == ("tiny", version)


async def test_a_version_says_one_thing_only(machine: Machine, folder: Path) -> None:
    """A version that was published cannot be published with other content."""
    await machine.publish(folder, "alice/tiny@1.0")
    (folder / "sub/config.json").write_bytes(b"{ }")
    await machine.publish(folder, "alice/tiny@1.1")
    with pytest.raises(UsageError, match=r"1\.0"):
        await machine.publish(folder, "alice/tiny@1.0")


@pytest.mark.parametrize(
    ("name", "params", "error", "message"),
    [
        ("bob/tiny", {}, NotFound, "bob"),
        ("alice/tiny@1", {"version": "2"}, UsageError, "version"),
        ("alice/tiny", {"key": "carol"}, UsageError, "publisher"),
        ("alice/tiny", {"profile": "fixed-2m"}, UsageError, "profile"),
        ("alice/ti ny", {}, UsageError, "name"),
        ("alice/tiny", {"kind": "poem"}, UsageError, "kind"),
    ],
)
async def test_what_cannot_be_published_is_said(
    machine: Machine, folder: Path, name: str, params: dict[str, Any], error: type, message: str
) -> None:
    """Each mistake is one sentence that names it, and the store stays as it was."""
    with pytest.raises(error, match=message):
        await machine.publish(folder, name, **params)
    assert await machine.store.releases() == []


async def test_with_several_keys_somebody_must_be_named(machine: Machine, folder: Path) -> None:
    """Two keys and no default: the error says how to go on; the configured default is used."""
    machine.keyring.new("bob")
    with pytest.raises(NotFound) as caught:
        await machine.publish(folder, "tiny")
    assert "allod key new" in caught.value.next
    machine.default_key = "bob"
    result = await machine.publish(folder, "tiny")
    assert result["publisher"] == machine.keyring.repository("bob").id


async def test_a_folder_that_is_not_there_or_empty_is_said(
    machine: Machine, tmp_path: Path
) -> None:
    """A missing folder and one without files are errors of the caller."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(UsageError):
            await machine.publish(folder)


async def test_a_file_that_changes_while_it_is_read_is_refused(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growing a file under the reader ends the publish with SOURCE_CHANGED and records nothing."""
    big = folder / "big.bin"
    big.write_bytes(noise(9 * MIB))

    def report(event: Event) -> None:
        if getattr(event, "phase", "") == "hash":
            with big.open("ab") as file:
                file.write(b"more")

    with pytest.raises(SourceChanged, match=r"big\.bin"):
        await publish(PublishParams(folder=str(folder), name="alice/tiny"), machine, report)
    assert await machine.store.releases() == []


async def test_a_dataset_is_told_from_its_content(machine: Machine, tmp_path: Path) -> None:
    """Shards of data make a dataset, consent is recorded, a single file is a folder of one."""
    shard = write_folder(tmp_path / "d", {"train.parquet": noise(5000)}) / "train.parquet"
    result = await machine.publish(
        shard,
        "alice/data",
        consent_basis="survey, informed consent",
        personal_data="none",
        allowed_uses=("research",),
        redistribution=True,
    )
    manifest = await machine.manifest(result)
    assert manifest.kind == "dataset"
    assert [entry.path for entry in manifest.files] == ["croissant.json", "train.parquet"]
    assert manifest.consent == {
        "basis": "survey, informed consent",
        "personalData": "none",
        "allowedUses": ["research"],
        "redistribution": True,
    }


async def test_consent_is_in_the_statement(machine: Machine, tmp_path: Path) -> None:
    """All that a consent can say arrives, word for word, in the signed manifest."""
    folder = write_folder(tmp_path / "d", {"a.csv": b"x\n1\n"})
    result = await machine.publish(
        folder,
        "alice/data",
        consent_basis="contract",
        personal_data="voices",
        allowed_uses=("research", "teaching"),
        redistribution=False,
        contact="data@example.org",
        consent_expires="9000-12-31",
    )
    assert (await machine.manifest(result)).consent == {
        "basis": "contract",
        "personalData": "voices",
        "allowedUses": ["research", "teaching"],
        "redistribution": False,
        "contact": "data@example.org",
        "expires": "9000-12-31",
    }


@pytest.mark.parametrize(
    "params", [{"license": "Apache2"}, {"consent_expires": "2020-01-01"}, {"base": ("x y",)}]
)
async def test_wrong_terms_cost_no_hashing(
    machine: Machine, folder: Path, params: dict[str, Any]
) -> None:
    """A licence that nobody knows, or a malformed parent, is told before any byte is read."""
    with pytest.raises(UsageError):
        await machine.publish(folder, **params)
    assert not machine.events
    assert (await machine.store.usage()).files == 0


async def test_a_dataset_is_described_beside_its_folder(machine: Machine, tmp_path: Path) -> None:
    """Its Croissant metadata is a file of the release; the folder stays as it was."""
    folder = write_folder(tmp_path / "d", {"train.csv": b"id,text\n1,a\n"})
    first = await machine.publish(folder, "alice/data", license="cc-by-4.0")
    manifest = await machine.manifest(first)
    assert manifest.docs == {"croissant": "croissant.json"}
    assert [one.name for one in folder.iterdir()] == ["train.csv"]
    view = await machine.store.view(manifest)
    document = json.loads((view / "croissant.json").read_bytes())
    assert (document["version"], document["license"]) == (
        "1",
        "https://spdx.org/licenses/CC-BY-4.0",
    )
    assert document["datePublished"] == manifest.created[:10]
    assert first["bytes"]["total"] == manifest.size
    assert (await machine.store.verify()).bad == []

    again = await machine.publish(folder, "alice/data", license="cc-by-4.0")
    assert again["manifest"] == first["manifest"]
    assert again["bytes"]["new"] == 0
    (folder / "more.csv").write_bytes(b"id\n2\n")
    second = await machine.manifest(await machine.publish(folder, "alice/data"))
    assert json.loads(await _content(machine, second, "croissant.json"))["version"] == "2"
    bare = await machine.manifest(await machine.publish(folder, "alice/bare", croissant=False))
    assert "croissant.json" not in [one.path for one in bare.files]


async def _content(machine: Machine, manifest: Manifest, path: str) -> bytes:
    return (await machine.store.view(manifest) / path).read_bytes()


async def test_a_dataset_that_was_fetched_is_the_same_published_again(
    machine: Machine, tmp_path: Path
) -> None:
    """A folder with its own croissant.json is published as it is, so its address stays."""
    folder = write_folder(tmp_path / "d", {"train.csv": b"id,text\n1,a\n"})
    first = await machine.manifest(await machine.publish(folder, "alice/data"))
    (folder / "croissant.json").write_bytes(await _content(machine, first, "croissant.json"))
    machine.keyring.new("bob")
    copy = await machine.manifest(await machine.publish(folder, "bob/data"))
    assert copy.root == first.root


@pytest.mark.parametrize(
    ("files", "described"),
    [
        ({"notes.txt": b"x"}, False),
        ({"tokenizer.json": b"{}"}, False),
        ({"model.gguf": b"x", "eval.csv": b"x"}, False),
        ({"notes.txt": b"x", "README.md": b"---\ntask_categories: [x]\n---\n"}, True),
        ({"a/b/pic.jpg": b"x"}, True),
        ({"croissant.json": b"{}", "a.csv": b"x"}, False),
    ],
)
async def test_only_data_is_described(
    machine: Machine, tmp_path: Path, files: dict[str, bytes], described: bool
) -> None:
    """Metadata is made for what is told, or looks, to be data, and replaces nobody's own."""
    result = await machine.publish(write_folder(tmp_path / "d", files), "alice/x")
    paths = [one["path"] for one in result["files"]]
    assert sorted([*files, *["croissant.json"] * described]) == paths


async def test_parents_become_the_releases_that_they_name(machine: Machine, folder: Path) -> None:
    """A name that means a release here becomes its manifest, the newest or the version named."""
    first = await machine.publish(folder, "alice/base@1.0")
    (folder / "more").write_bytes(b"x")
    second = await machine.publish(folder, "alice/base@1.1")
    child = await machine.publish(
        folder, "alice/child", base=("alice/base@1.0", "alice/base"), data=("hf:datasets/org/x",)
    )
    lineage = (await machine.manifest(child)).lineage
    assert lineage == (
        {"role": "base_model", "manifest": first["manifest"]},
        {"role": "base_model", "manifest": second["manifest"]},
        {"role": "dataset", "uri": "hf://datasets/org/x"},
    )
    assert not [one for one in machine.events if isinstance(one, Note)]


async def test_a_parent_that_is_not_here_stays_a_name(machine: Machine, folder: Path) -> None:
    """What a name means to others is not known, and the publisher hears what to do."""
    child = await machine.publish(folder, base=("carol/base@3",))
    assert (await machine.manifest(child)).lineage[0] == {
        "role": "base_model", "name": "carol/base@3",
    }  # fmt: skip
    [note] = [one for one in machine.events if isinstance(one, Note)]
    assert note.level == "warning"
    assert "carol/base@3 is not known here" in note.text


async def test_a_parent_may_be_known_by_its_publisher_s_list_alone(
    machine: Machine, folder: Path, new_store: Stores, tmp_path: Path
) -> None:
    """Where only the publisher's list is known, it tells which release, and what was taken back."""
    carol = Machine(await new_store(), Keyring(tmp_path / "carol"))
    publisher = carol.keyring.new("carol").id
    base = await carol.publish(folder, "carol/base@1")
    metadata = await carol.store.publishers.get(publisher)
    assert metadata is not None
    await machine.store.publishers.put(publisher, metadata)
    machine.pets["cee"] = publisher
    child = await machine.publish(folder, base=("cee/base",))
    wanted = {"role": "base_model", "manifest": base["manifest"]}
    assert (await machine.manifest(child)).lineage[0] == wanted
    assert not [one for one in machine.events if isinstance(one, Note)]

    status = Status("revoked", "Broken.", "2026-11-22T00:00:00Z")
    marked = carol.keyring.repository("carol").mark(CID.parse(base["manifest"]), status)
    assert isinstance(marked, Metadata)
    await machine.store.publishers.put(publisher, marked)
    again = await machine.publish(folder, "alice/other", base=("cee/base@1",))
    assert (await machine.manifest(again)).lineage[0] == wanted
    [note] = [one for one in machine.events if isinstance(one, Note)]
    assert (note.level, note.text.partition(" ")[2]) == ("warning", "was revoked: Broken.")


async def test_a_licence_that_the_base_forbids_is_told(machine: Machine, folder: Path) -> None:
    """A non-commercial base under a permissive child is published, with a warning that says so."""
    await machine.publish(folder, "alice/base", license="CC-BY-NC-4.0")
    kept = await machine.publish(folder, "alice/kept", license="CC-BY-NC-4.0", base=("alice/base",))
    assert kept["license"] == "CC-BY-NC-4.0"
    assert not [one for one in machine.events if isinstance(one, Note)]
    await machine.publish(folder, "alice/child", license="apache-2.0", base=("alice/base",))
    [note] = [one for one in machine.events if isinstance(one, Note)]
    assert note.level == "warning"
    assert note.text == (
        "base 1 (CC-BY-NC-4.0) allows no commercial use, and Apache-2.0 does not keep to that."
    )


async def test_a_model_sig_comes_last(machine: Machine, folder: Path) -> None:
    """Every file's SHA-256 is signed when the release is announced already; --no-sha256 doesn't."""
    result = await machine.publish(folder)
    assert result["modelSig"] == "made"
    cid = CID.parse(result["manifest"])
    statement = await machine.store.statement(cid)
    assert statement is not None
    signature = next(filter(is_model_signature, statement.bundles))
    assert read_model_signature(signature).sums == {
        file["path"]: hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest()
        for file in result["files"]
    }
    assert await machine.store.model_signatures_wanted() == []
    phases = [event.phase for event in machine.events if isinstance(event, Progress)]
    assert phases.index("sha256") > max(n for n, phase in enumerate(phases) if phase == "hash")
    assert (await machine.publish(folder, "alice/plain", sha256=False))["modelSig"] == "none"


async def test_a_running_node_makes_the_model_sig_later(machine: Machine, folder: Path) -> None:
    """With a background to do it in, publish returns at once, and what is left is remembered."""
    machine.background = True
    result = await machine.publish(folder)
    assert result["modelSig"] == "later"
    cid = CID.parse(result["manifest"])
    assert machine.later == await machine.store.model_signatures_wanted() == [cid]
    machine.background = False
    again = await machine.publish(folder)
    assert (again["modelSig"], again["manifest"]) == ("made", result["manifest"])
    assert await machine.store.model_signatures_wanted() == []
    assert (await machine.publish(folder))["modelSig"] == "made"


async def test_the_readers_profile_gives_kubo_s_cids(machine: Machine, tmp_path: Path) -> None:
    """unixfs-v1-2025 makes SHA-256 CIDs throughout."""
    file = write_folder(tmp_path / "k", {"a.txt": b"hello"})
    result = await machine.publish(file, profile="unixfs-v1-2025")
    assert result["files"][0]["cid"] == str(
        CID.parse("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq")
    )
    assert result["root"].startswith("bafybei")
