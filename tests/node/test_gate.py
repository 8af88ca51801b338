"""The gate on a simulated network: what comes in, what is given on, and that edits are noticed."""

import json
import pickle
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from node import trusting
from node.api.peer import PeerApi
from node.communities import keep_communities
from node.gate import CHECK_EVERY, JUDGED_FOR
from node.keyring import Keyring
from node.messages import Note
from node.publisher import Repository
from node.store.index import Index
from node.upkeep import keep_announced
from node.witness import Witness
from p2p.attest import write_attestation
from p2p.cid import CID, Codec
from p2p.envelope import sign_bundle
from p2p.errors import ConfigError, NotFound, Refused, Untrusted, UsageError
from p2p.http import Request, Response, error_response
from p2p.manifest import Kind, Manifest, build_manifest
from p2p.naming import Metadata, State, Status
from tests.fakes import FakeSource, Machine, gate_for
from tests.node.conftest import Stores
from tests.publishers import Publisher, key
from tests.releases import KEY, MIB, PUBLISHER, Published, noise, publish_into, write_folder

FILES = {
    "model.gguf": noise(2 * MIB + 5, 1),
    "config.json": b'{"model_type": "llama"}',
    "README.md": b"# Tiny\n",
}
ALICE = PUBLISHER
BOB = Publisher(150)

Makers = Callable[..., Awaitable[tuple[Published, Machine, FakeSource]]]


@pytest.fixture
async def made(new_store: Stores, tmp_path: Path) -> Makers:
    """Publish files on one machine; return the release, a machine that wants it, the source."""
    count = 0

    async def make(files: Mapping[str, bytes] = FILES, **release: Any) -> Any:
        nonlocal count
        count += 1
        publisher = await new_store()
        folder = write_folder(tmp_path / f"folder-{count}", files)
        published = await publish_into(publisher, folder, **release)
        reader = await new_store()
        machine = Machine(reader, Keyring(reader.folder.with_suffix(".keys")))
        source = FakeSource("alice", publisher)
        machine.wire.known.append(source)
        return published, machine, source

    return make


class Own:
    """One of a machine's own publishers, as ``publish_into`` wants one."""

    def __init__(self, repository: Repository) -> None:
        self.id, self.signer, self.metadata = (
            repository.id,
            repository.signer,
            repository.metadata(),
        )
        self._repository = repository

    def add(self, manifest: Manifest) -> Metadata:
        metadata = self._repository.add(manifest.payload)
        assert isinstance(metadata, Metadata)
        return metadata


def write_policy(machine: Machine, text: str) -> None:
    """Edit a machine's policy.toml, as with an editor."""
    file = machine.gate.rulebook.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def names(got: dict[str, Any]) -> set[str]:
    """What lies in the folder of a fetched release."""
    return {file.name for file in Path(got["path"]).iterdir()}


async def answer(machine: Machine, path: str, **query: str) -> Response:
    """What a machine's node answers to others."""
    api = PeerApi(machine.store, gate=machine.gate)
    try:
        return await api(Request("GET", path, query, {}, "tester"))
    except Refused as exc:
        return error_response(exc)


# --- taking --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("weights.pt", noise(100)),
        ("pytorch_model.bin", noise(100)),
        ("modeling_tiny.py", b"print(1)"),
        ("model.onnx", noise(100)),
        ("model.h5", noise(100)),
    ],
)
async def test_a_name_is_refused_before_anything_moves(
    made: Makers, name: str, data: bytes
) -> None:
    """Exit code 5, the rule and the file named, what to do said; and nothing large moved."""
    release, machine, source = await made({**FILES, name: data})
    with pytest.raises(Refused) as caught:
        await machine.fetch(release.manifest.cid)
    assert caught.value.exit_code == 5
    assert caught.value.message.startswith(f"Refused by default.formats: {name} of tiny 1")
    assert "--exclude" in caught.value.next
    assert not [target for target in source.asked if "/ipfs/" in target or "outline" in target]
    assert await machine.store.release(release.manifest.cid) is None
    got = await machine.fetch(release.manifest.cid, exclude=(name,))
    assert names(got) == FILES.keys()


async def test_a_file_may_claim_any_length(made: Makers) -> None:
    """Bytes that look like the beginning of an endless pickle are looked into without a crash."""
    endless = b"\x80\x04\x8e" + b"\xff" * 8 + noise(100)
    release, machine, _ = await made({**FILES, "data.bin": endless})
    with suppress(Refused):
        await machine.fetch(release.manifest.cid)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", pickle.dumps({"w": 1})),
        ("model.bin", b"cos\nsystem\n(S'echo x'\ntR."),
        ("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": "org/repo--tok.T"}}'),
    ],
)
async def test_bytes_are_refused_whatever_their_name(made: Makers, name: str, data: bytes) -> None:
    """What runs code is refused when it has come: no release is kept, and nobody is given it."""
    release, machine, _ = await made({**FILES, name: data})
    for _ in range(2):  # the second time it is known before anything moves
        with pytest.raises(Refused, match=f"Refused by default.formats: {name} of tiny 1"):
            await machine.fetch(release.manifest.cid)
        assert await machine.store.release(release.manifest.cid) is None
    entry = next(one for one in release.manifest.files if one.path == name)
    assert await machine.store.has(entry.cid)  # until gc
    assert (await answer(machine, f"/ipfs/{entry.cid}")).status == 410
    again = gate_for(machine.store, machine.keyring, machine.gate.rulebook.file.parent)
    assert await again.refuses(entry.cid) is not None  # what was found is remembered
    got = await machine.fetch(release.manifest.cid, exclude=(name,))
    assert names(got) == FILES.keys()


async def test_code_that_was_left_out_is_not_held_against_its_settings(made: Makers) -> None:
    """Without the module that an auto_map names there is nothing to import."""
    files = {
        "config.json": b'{"auto_map": {"AutoModel": "modeling_x.X"}}',
        "modeling_x.py": b"print(1)",
        "model.gguf": noise(100),
    }
    release, machine, _ = await made(files)
    got = await machine.fetch(release.manifest.cid, exclude=("*.py",))
    assert names(got) == {"config.json", "model.gguf"}


async def test_a_rule_may_let_a_format_in(made: Makers) -> None:
    """The owner of a machine decides, for the releases that the rule matches."""
    release, machine, _ = await made({"weights.pt": pickle.dumps({})})
    write_policy(machine, "[[rules]]\nname = 'tiny'\nformats = ['pickle']\n")
    got = await machine.fetch(release.manifest.cid)
    assert names(got) == {"weights.pt"}
    assert Note("The policy lets it in, by rules[0].") in machine.events


async def test_own_releases_are_not_held_up_by_formats(made: Makers, tmp_path: Path) -> None:
    """Who publishes a pickle has decided so; others decide for themselves."""
    keyring = Keyring(tmp_path / "keys")
    own = Own(keyring.new("alice"))
    release, machine, source = await made({"weights.pt": pickle.dumps({})}, by=own)
    folder, file = machine.gate.rulebook.file.parent, release.manifest.files[0].cid
    assert await gate_for(source.store, machine.keyring, folder).refuses(file) is not None
    assert await gate_for(source.store, keyring, folder).refuses(file) is None


async def test_trust_on_first_use(made: Makers) -> None:
    """Where somebody can be asked, a new publisher waits for a yes, which is remembered."""
    release, machine, _ = await made()
    with pytest.raises(Untrusted) as caught:
        await machine.fetch(release.manifest.cid, ask=True)
    assert (caught.value.code, caught.value.exit_code) == ("UNTRUSTED", 5)
    assert caught.value.message.startswith(f"Refused by tofu: The publisher {ALICE} is new here")
    assert await machine.store.releases() == []
    await machine.fetch(release.manifest.cid, ask=True, yes=True)
    assert list(await machine.gate.seen()) == [ALICE]
    [note] = [one for one in machine.events if isinstance(one, Note) and "trust add" in one.text]
    assert ALICE in note.text
    await machine.fetch(release.manifest.cid, ask=True)
    again = gate_for(machine.store, machine.keyring, machine.gate.rulebook.file.parent)
    assert list(await again.seen()) == [ALICE]
    assert len([one for one in machine.events if one == note]) == 1


async def test_trust_where_nobody_can_be_asked(made: Makers) -> None:
    """A reference that names the publisher exactly is the answer; tofu never refuses even so."""
    release, machine, _ = await made()
    write_policy(machine, "tofu = 'never'")
    with pytest.raises(Refused, match=r"Refused by tofu: .* is none that you trust"):
        await machine.fetch(release.manifest.cid, yes=True)
    write_policy(machine, f"tofu = 'never'\n[publishers]\nalice = '{ALICE}'")
    await machine.fetch(release.manifest.cid)
    assert list(await machine.gate.seen()) == []  # whom the policy names needs no memory


async def test_endorsements_are_counted_out_of_the_store(made: Makers) -> None:
    """A rule that wants one is satisfied by a bundle that verifies, about this release, in time."""
    release, machine, _ = await made()
    bob = BOB.id
    write_policy(
        machine,
        f"[publishers]\nbob = '{bob}'\n[[rules]]\nrequire.endorsements = {{ by = ['bob'] }}\n",
    )
    await machine.store.publishers.put(bob, BOB.metadata)  # whom the policy names is followed
    with pytest.raises(Refused, match=r"Refused by rules\[0\].require.endorsements"):
        await machine.fetch(release.manifest.cid)

    def endorsement(manifest: CID) -> bytes:
        said = write_attestation(
            "endorsement", manifest=manifest, release="tiny@1", publisher=bob,
            at="2020-01-01T00:00:00Z", passed=True,
        )  # fmt: skip
        return sign_bundle(said, BOB.signer)

    other = CID.of(b"another", Codec.JSON)
    bundles = [release.bundle, endorsement(other), b"rubbish"]
    assert not (await machine.gate.judge(release.manifest, bundles)).admitted
    bundles.append(endorsement(release.manifest.cid))
    verdict = await machine.gate.judge(release.manifest, bundles)
    assert verdict.admitted
    assert (
        f"endorsement passed by {BOB.signer.public.did} at 2020-01-01T00:00:00Z" in verdict.evidence
    )


async def test_lineage_is_looked_up_in_the_store(made: Makers, tmp_path: Path) -> None:
    """A rule about ancestors sees those whose statements are here."""
    release, machine, _ = await made()
    write_policy(machine, "[[rules]]\nlineage.unknown = 'refuse'\n")
    child = build_manifest(
        kind="model", publisher=ALICE, name="child", version="1", created="2026-11-22T00:00:00Z",
        files=release.manifest.files, profile=release.manifest.profile,
        license={"spdx": "MIT"},
        lineage=[{"role": "base_model", "manifest": str(release.manifest.cid)}],
    ).manifest  # fmt: skip
    verdict = await machine.gate.judge(child, [])
    assert verdict.rule == "rules[0].lineage.unknown"
    await machine.fetch(release.manifest.cid, include=("README.md",))
    assert (await machine.gate.judge(child, [])).admitted


# --- giving --------------------------------------------------------------------------------------


async def test_a_denied_file_is_not_given_while_the_others_are(made: Makers) -> None:
    """410 with the reason for the file, its blocks and its Outline; 200 for everything else."""
    release, machine, _ = await made()
    await machine.fetch(release.manifest.cid)
    entries = {entry.path: entry.cid for entry in release.manifest.files}
    bad, good = entries["model.gguf"], entries["README.md"]
    outline = await machine.store.outline(bad)
    assert outline is not None
    leaf = CID(Codec.RAW, bad.hash, outline.digest(0))
    await trusting.deny(machine, str(bad), "it is harmful")
    for path in (f"/ipfs/{bad}", f"/allod/v1/outline/{bad}", f"/allod/v1/have/{bad}",
                 f"/ipfs/{release.manifest.root}/model.gguf"):  # fmt: skip
        refused = await answer(machine, path)
        assert refused.status == 410, path
        assert isinstance(refused.body, bytes)
        assert "it is harmful" in json.loads(refused.body)["error"]["message"]
    for cid in (bad, leaf):
        assert (await answer(machine, f"/ipfs/{cid}", format="raw")).status == 410
    for path in (f"/ipfs/{good}", f"/ipfs/{release.manifest.root}/README.md",
                 f"/allod/v1/manifest/{release.manifest.cid}"):  # fmt: skip
        assert (await answer(machine, path)).status == 200, path
    have = await answer(machine, f"/allod/v1/have/{release.manifest.cid}")
    assert isinstance(have.body, bytes)
    said = json.loads(have.body)
    assert said["complete"] is False
    assert set(said["files"]) == {str(cid) for cid in entries.values() if cid != bad}
    car = await answer(machine, f"/ipfs/{release.manifest.root}", format="car")
    assert not isinstance(car.body, bytes)
    blocks = b"".join([piece async for piece in car.body])  # type: ignore[union-attr]
    assert FILES["README.md"] in blocks
    assert FILES["model.gguf"][:1000] not in blocks


async def test_who_fetches_beside_a_denied_file_gets_the_others(
    made: Makers, new_store: Stores
) -> None:
    """A source that keeps one file back serves the rest, and is not left for it."""
    release, machine, source = await made()
    await machine.fetch(release.manifest.cid)
    bad = next(one.cid for one in release.manifest.files if one.path == "model.gguf")
    await trusting.deny(machine, str(bad), "")
    have = await answer(machine, f"/allod/v1/have/{release.manifest.cid}")
    reader = await new_store()
    other = Machine(reader, Keyring(reader.folder.with_suffix(".keys")))
    keeps_back = FakeSource("keeps-back", machine.store)
    assert isinstance(have.body, bytes)
    keeps_back.answers[f"/allod/v1/have/{release.manifest.cid}"] = have.body
    other.wire.known += [keeps_back, source]
    got = await other.fetch(release.manifest.cid)
    assert got["ok"]
    assert got["banned"] == []


async def test_a_denied_release_is_kept_back_with_its_statement(made: Makers) -> None:
    """A deny list that names a release, its publisher or its key keeps everything of it back."""
    release, machine, _ = await made()
    await machine.fetch(release.manifest.cid)
    await trusting.deny(machine, KEY.public.did, "a stolen key")
    for path in (f"/allod/v1/manifest/{release.manifest.cid}",
                 f"/allod/v1/bundles/{release.manifest.cid}",
                 f"/allod/v1/have/{release.manifest.cid}",
                 f"/ipfs/{release.manifest.root}",
                 f"/ipfs/{release.manifest.files[0].cid}"):  # fmt: skip
        query = {"format": "raw"} if path.endswith(str(release.manifest.root)) else {}
        assert (await answer(machine, path, **query)).status == 410, path
    with pytest.raises(Refused, match=r"Refused by deny\[0\]: did:key:"):
        await machine.fetch(release.manifest.cid)


async def test_a_file_of_two_releases_is_given_as_long_as_one_is_let_in(
    made: Makers, tmp_path: Path
) -> None:
    """A refused release doesn't take along what another one has too."""
    release, machine, source = await made()
    shared = {"README.md": FILES["README.md"], "other.txt": b"other"}
    second = await publish_into(
        source.store, write_folder(tmp_path / "second", shared), name="second"
    )
    for one in (release, second):
        await machine.fetch(one.manifest.cid)
    write_policy(machine, "[[rules]]\nname = 'tiny'\nrefuse = 'not any more'\n")
    await machine.gate.policy()
    entries = {entry.path: entry.cid for entry in release.manifest.files}
    assert await machine.gate.refuses(entries["README.md"]) is None
    verdict = await machine.gate.refuses(entries["model.gguf"])
    assert verdict is not None
    assert (verdict.rule, verdict.reason) == (
        "rules[0].refuse", "tiny 1 is refused: not any more."
    )  # fmt: skip
    await machine.store.remove(second.manifest.cid)
    machine.gate.changed()
    assert await machine.gate.refuses(entries["README.md"]) is not None


async def test_what_a_publisher_lets_nobody_pass_on_is_not(made: Makers) -> None:
    """Without leave to redistribute, a node takes a release and gives nothing of it."""
    release, machine, _ = await made(kind="dataset", consent={"redistribution": False})
    await machine.fetch(release.manifest.cid)
    verdict = await machine.gate.refuses(release.manifest.cid)
    assert verdict is not None
    assert verdict.rule == "consent.redistribution"
    assert (await answer(machine, f"/ipfs/{release.manifest.files[0].cid}")).status == 410
    assert (await answer(machine, f"/allod/v1/manifest/{release.manifest.cid}")).status == 200


async def test_what_is_refused_is_announced_no_more(made: Makers) -> None:
    """A running node takes back what it announced when the policy changes, and the reverse."""
    release, machine, _ = await made()
    await machine.fetch(release.manifest.cid)
    bad = next(one.cid for one in release.manifest.files if one.path == "model.gguf")

    class Wire:
        """Keeps what it is told, in order."""

        def __init__(self) -> None:
            self.told, self.news = list[tuple[str, frozenset[CID]]](), trio.Event()

        def announce(self, cids: list[CID]) -> None:
            self.told.append(("announce", frozenset(cids)))
            self.news.set()

        def withdraw(self, cids: list[CID]) -> None:
            self.told.append(("withdraw", frozenset(cids)))

    wire: Any = Wire()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_announced, machine.store, machine.gate, wire)
            await wire.news.wait()
            wire.news = trio.Event()
            await trusting.deny(machine, str(bad), "")
            await machine.gate.policy()
            await wire.news.wait()
            nursery.cancel_scope.cancel()
    withdrawn = [cids for what, cids in wire.told if what == "withdraw"]
    assert withdrawn == [frozenset(), frozenset({bad})]


@pytest.mark.parametrize("state", ["revoked", "withdrawn"])
async def test_what_its_publisher_took_back_is_given_no_more(made: Makers, state: State) -> None:
    """As soon as the publisher's word is here: 410 and the reason; the statement is still given."""
    release, machine, source = await made()
    await machine.fetch(release.manifest.cid)
    file = release.manifest.files[0].cid
    assert (await answer(machine, f"/ipfs/{file}")).status == 200
    publisher = Publisher()
    publisher.metadata = await source.store.publishers.get(ALICE) or publisher.metadata
    publisher.mark(release.manifest.cid, Status(state, "it leaks", "2026-11-22T00:00:00Z"))
    await machine.store.publishers.put(ALICE, publisher.metadata)
    refused = await answer(machine, f"/ipfs/{file}")
    assert refused.status == 410
    assert isinstance(refused.body, bytes)
    assert "(it leaks)" in json.loads(refused.body)["error"]["message"]
    assert (await answer(machine, f"/allod/v1/have/{release.manifest.cid}")).status == 410
    assert (await answer(machine, f"/allod/v1/manifest/{release.manifest.cid}")).status == 200
    verdict = await machine.gate.opinion(release.manifest.cid)
    assert verdict is not None
    assert verdict.rule == f"status.{state}"


async def test_only_keys_of_today_endorse(made: Makers) -> None:
    """An endorsement by a key that its publisher has replaced counts for nothing."""
    release, machine, _ = await made()
    bob = Publisher(170)
    old = bob.signer
    write_policy(machine, f"[publishers]\nbob = '{bob.id}'\n[[rules]]\nrequire.endorsements = {{}}")
    said = write_attestation(
        "endorsement", manifest=release.manifest.cid, release="tiny@1", publisher=bob.id,
        at="2026-01-01T00:00:00Z", passed=True,
    )  # fmt: skip
    await machine.store.publishers.put(bob.id, bob.metadata)
    bundles = [release.bundle, sign_bundle(said, old)]
    assert (await machine.gate.judge(release.manifest, bundles)).admitted
    await machine.store.publishers.put(bob.id, bob.rotate(targets=[key(77)]))
    assert not (await machine.gate.judge(release.manifest, bundles)).admitted


# --- the files of the policy ---------------------------------------------------------------------


async def test_an_edit_is_noticed_while_the_node_runs(
    made: Makers, autojump_clock: trio.testing.MockClock
) -> None:
    """A changed policy.toml, and a changed deny list, hold within a second."""
    release, machine, source = await made()
    gate = gate_for(source.store, machine.keyring, machine.gate.rulebook.file.parent)
    cid = release.manifest.files[0].cid
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.watch)
        assert await gate.refuses(cid) is None
        write_policy(machine, "deny = ['mine.deny']\n")
        (gate.rulebook.file.parent / "mine.deny").write_text("# nothing yet\n")
        await trio.sleep(2 * CHECK_EVERY)
        assert await gate.refuses(cid) is None
        changed = trio.Event()

        async def wait() -> None:
            await gate.wait_changed()
            changed.set()

        nursery.start_soon(wait)
        (gate.rulebook.file.parent / "mine.deny").write_text(f"/ipfs/{cid}\n")
        await changed.wait()  # noticed by the watch, though nobody asked
        assert await gate.refuses(cid) is not None
        write_policy(machine, "")
        await trio.sleep(2 * CHECK_EVERY)
        assert await gate.refuses(cid) is None
        nursery.cancel_scope.cancel()


async def test_a_broken_policy_loosens_nothing(
    made: Makers, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good policy goes on for serving; who fetches is told which key is wrong."""
    release, machine, source = await made()
    machine = Machine(source.store, machine.keyring)
    write_policy(machine, f"tofu = 'always'\n[publishers]\nalice = '{ALICE}'\n")
    bad = release.manifest.files[0].cid
    await trusting.deny(machine, str(bad), "")
    write_policy(machine, "tofu = 'perhaps'\n")
    for _ in range(3):
        await trio.sleep(JUDGED_FOR)
        assert await machine.gate.refuses(bad) is not None
    assert caplog.text.count("stays in force") == 1
    assert machine.gate.petnames() == {"alice": ALICE}
    with pytest.raises(ConfigError, match="tofu expects ask, never or always"):
        await machine.fetch(release.manifest.cid)
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        await gate_for(machine.store, machine.keyring, machine.gate.rulebook.file.parent).policy()


@pytest.mark.parametrize("text", ["deny = ['missing.deny']", "deny = ['binary.deny']"])
async def test_a_deny_list_that_cannot_be_read_is_an_error(made: Makers, text: str) -> None:
    """A list that is missing, or no text, is named; nothing is let in meanwhile."""
    release, machine, _ = await made()
    write_policy(machine, text)
    (machine.gate.rulebook.file.parent / "binary.deny").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"(missing|binary)\.deny"):
        await machine.fetch(release.manifest.cid)


async def test_damaged_memory_is_forgotten(made: Makers) -> None:
    """What the node remembers of publishers and files may be lost: it asks and looks again."""
    release, machine, _ = await made()
    folder = machine.gate.rulebook.file.parent
    folder.mkdir()
    (folder / "seen.json").write_text("[1]")
    (folder / "findings.json").write_text('{"x": 1}')
    await machine.fetch(release.manifest.cid)
    assert list(await machine.gate.seen()) == [ALICE]


# --- allod trust ---------------------------------------------------------------------------------


async def test_trust_is_written_and_comments_stay(made: Makers) -> None:
    """Petnames come and go by id, link or held release; the rest of the file stays as it was."""
    release, machine, _ = await made()
    bob = BOB.id
    write_policy(machine, "# mine\ntofu = 'never' # really\n\n[[rules]]\n# which\nname = 'x'\n")
    link = f"allod:{ALICE}/tiny@{release.manifest.cid}"
    assert (await trusting.add(machine, link, "alice"))["publisher"] == ALICE
    assert (await trusting.add(machine, ALICE, "alice"))["changed"] is False
    await trusting.add(machine, bob, "bob")
    with pytest.raises(ConfigError, match="alice is the name of"):
        await trusting.add(machine, bob, "alice")
    with pytest.raises(NotFound):
        await trusting.add(machine, f"carol/tiny@{release.manifest.cid}", "carol")
    await machine.fetch(release.manifest.cid)
    assert (await trusting.add(machine, str(release.manifest.cid), "same"))["publisher"] == ALICE
    text = machine.gate.rulebook.file.read_text()
    for kept in ("# mine\n", "tofu = 'never' # really\n", "# which\n", f'bob = "{bob}"'):
        assert kept in text
    shown = await trusting.show(machine)
    assert [one["petname"] for one in shown["publishers"]] == ["alice", "bob", "same"]
    assert (shown["tofu"], shown["rules"], shown["seen"]) == ("never", 1, [])
    assert (await trusting.remove(machine, "same"))["publisher"] == ALICE
    assert (await trusting.remove(machine, bob))["petname"] == "bob"
    with pytest.raises(NotFound):
        await trusting.remove(machine, "bob")
    assert list(machine.gate.petnames()) == ["alice"]


async def test_deny_names_what_it_denies(made: Makers) -> None:
    """A held release, a CID, an id and a key can be denied; the list says why."""
    release, machine, _ = await made()
    write_policy(machine, "[publishers]\n# nobody\n")
    await machine.fetch(release.manifest.cid)
    link = f"allod:{ALICE}/tiny@{release.manifest.cid}"
    for what in (link, f"{ALICE}/tiny", str(release.manifest.root), ALICE, BOB.signer.public.did):
        await trusting.deny(machine, what, "because of this")
    with pytest.raises(NotFound):
        await trusting.deny(machine, f"{ALICE}/unknown", "")
    await trusting.add(machine, ALICE, "alice")
    assert (await trusting.deny(machine, "alice/tiny", "because of this"))["denied"] == str(
        release.manifest.cid
    )
    with pytest.raises(UsageError):
        await trusting.deny(machine, "rubbish", "")
    shown = await trusting.show(machine)
    assert [(one["file"], one["wrong"]) for one in shown["deny"]] == [("denied.deny", 0)]
    lines = (machine.gate.rulebook.file.parent / "denied.deny").read_text().splitlines()
    assert lines[0] == f"{release.manifest.cid} because of this"
    assert "# nobody" in machine.gate.rulebook.file.read_text()
    verdict = await machine.gate.refuses(release.manifest.cid)
    assert verdict is not None
    assert "because of this" in verdict.reason


COMMUNITY = """
deny = ["lists/bad.deny"]
[publishers]
lab = "{bob}"
[[rules]]
name = "tin*"
licenses.deny = ["Apache-*"]
"""


async def test_the_policy_of_a_community(made: Makers, tmp_path: Path) -> None:
    """It is fetched, verified and followed; it forbids more, adds endorsers, and trusts nobody."""
    release, machine, source = await made()
    bad = CID.of(b"bad", Codec.RAW)
    text = COMMUNITY.format(bob=BOB.id)
    files = {"policy.toml": text.encode(), "lists/bad.deny": f"{bad} known\n".encode(),
             "data.bin": noise(MIB)}  # fmt: skip
    policy = await publish_into(
        source.store, write_folder(tmp_path / "rules", files), name="rules", kind="dataset"
    )
    link = f"allod:{ALICE}/rules@{policy.manifest.cid}"
    found = await trusting.subscribe(machine, link, (), machine.events.append)
    assert (found["name"], found["rules"], found["changed"]) == ("rules", 1, True)
    with pytest.raises(Refused, match=r"Refused by subscribe\[0\].rules\[0\].licenses"):
        await machine.fetch(release.manifest.cid)
    verdict = await machine.gate.refuses(bad)
    assert verdict is not None
    assert verdict.rule == "subscribe[0].deny[0]"
    assert machine.gate.petnames() == {}
    endorsers = (await machine.gate.policy()).trusted()
    assert [one.name for one in endorsers] == ["subscribe[0]:lab"]
    shown = await trusting.show(machine)
    assert shown["subscriptions"][0]["manifest"] == str(policy.manifest.cid)
    assert not (await trusting.subscribe(machine, link, (), machine.events.append))["changed"]
    # The power goes while a newer one takes its place.
    folder = machine.gate.rulebook.community(link)
    folder.rename(folder.with_name(f".{folder.name}.old"))
    assert (await machine.gate.policy()).communities[0].policy.rules
    await trusting.remove(machine, link)
    await machine.fetch(release.manifest.cid)


async def test_subscriptions_are_kept_up_to_date(made: Makers, tmp_path: Path) -> None:
    """A node that runs fetches what its policy.toml subscribes to; a bad one stops no other."""
    release, machine, source = await made()
    policy = await publish_into(
        source.store,
        write_folder(tmp_path / "rules", {"policy.toml": b"[[rules]]\nrefuse = 'all of it'\n"}),
        name="rules",
        kind="dataset",
    )
    write_policy(machine, "".join(
        f"[[subscribe]]\nref = '{cid}'\n" for cid in (release.manifest.cid, policy.manifest.cid)
    ))  # fmt: skip
    assert (await machine.gate.judge(release.manifest, [])).admitted
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_communities, machine)
            while (await machine.gate.judge(release.manifest, [])).admitted:
                with trio.move_on_after(1):  # a change may have come while it was looked at
                    await machine.gate.wait_changed()
            nursery.cancel_scope.cancel()
    verdict = await machine.gate.judge(release.manifest, [])
    assert (verdict.admitted, verdict.rule) == (False, "subscribe[1].rules[0].refuse")


async def test_what_is_no_community_policy_changes_nothing(made: Makers, tmp_path: Path) -> None:
    """A model, a dataset without the file, and a policy that would let something in are refused."""
    _, machine, source = await made()
    loose = {"policy.toml": b"tofu = 'always'"}
    cases: list[tuple[dict[str, bytes], Kind, type[Exception]]] = [
        (loose, "dataset", ConfigError),
        ({"other.txt": b""}, "dataset", NotFound),
        ({"policy.toml": b""}, "model", UsageError),
        ({"policy.toml": b"\xff"}, "dataset", ConfigError),
        ({"policy.toml": b"deny = ['none.deny']"}, "dataset", NotFound),
    ]
    for number, (files, kind, error) in enumerate(cases):
        release = await publish_into(
            source.store, write_folder(tmp_path / str(number), files), name=f"r{number}", kind=kind
        )
        with pytest.raises(error):
            await trusting.subscribe(machine, str(release.manifest.cid), (), machine.events.append)
    assert (await machine.gate.policy()).subscriptions == ()


async def test_an_opinion_is_about_what_is_here(made: Makers) -> None:
    """A held release is judged by today's policy, with those of its files that are held."""
    release, machine, _ = await made({**FILES, "weights.pt": pickle.dumps({})})
    assert await machine.gate.opinion(release.manifest.cid) is None
    await machine.fetch(release.manifest.cid, exclude=("*.pt",))
    verdict = await machine.gate.opinion(release.manifest.cid)
    assert verdict is not None
    assert (verdict.admitted, verdict.rule) == (True, "default")
    write_policy(machine, "[[rules]]\nrefuse = 'no models'\nkind = 'model'\n")
    verdict = await machine.gate.opinion(release.manifest.cid)
    assert verdict is not None
    assert (verdict.admitted, verdict.rule) == (False, "rules[0].refuse")


async def test_what_is_not_held_is_not_refused(made: Makers) -> None:
    """The gate says nothing of what it doesn't know; the store says that it isn't here."""
    _, machine, _ = await made()
    for codec in Codec:
        assert await machine.gate.refuses(CID.of(b"unknown", codec)) is None
    assert await machine.gate.withheld(CID.of(b"unknown", Codec.JSON)) == frozenset()


async def test_a_release_is_judged_once_for_all_of_its_files(
    made: Makers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its signatures are not checked anew for each of thousands of files, nor its names asked."""
    release, machine, _ = await made({f"{number}.json": b"[%d]" % number for number in range(20)})
    await machine.fetch(release.manifest.cid)
    machine.gate.changed()
    gathered, asked = Counter[str](), Counter[str]()
    witness, index = Witness.evidence, Index.ask

    async def gather(self: Witness, *args: Any, **more: Any) -> Any:
        gathered["evidence"] += 1
        return await witness(self, *args, **more)

    async def ask(self: Index, sql: str, *parameters: object) -> Any:
        asked["index"] += 1
        return await index(self, sql, *parameters)

    monkeypatch.setattr(Witness, "evidence", gather)
    monkeypatch.setattr(Index, "ask", ask)
    for _ in range(2):
        for entry in release.manifest.files:
            assert (await answer(machine, f"/ipfs/{entry.cid}")).status == 200
            assert await machine.gate.about(release.manifest.cid)
            assert await machine.store.named(entry.cid) == [(release.manifest.cid, entry.path)]
    assert gathered["evidence"] == 1
    assert asked["index"] <= len(release.manifest.files) + 4
    machine.gate.changed()  # whatever a verdict rests on
    assert (await answer(machine, f"/ipfs/{release.manifest.files[0].cid}")).status == 200
    assert gathered["evidence"] == 2


async def test_who_names_a_file_is_never_out_of_date(made: Makers, tmp_path: Path) -> None:
    """A second release that names it, and one that goes, are seen at once."""
    first, machine, source = await made()
    shared = {"README.md": FILES["README.md"]}
    folder = write_folder(tmp_path / "second", shared)
    second = await publish_into(source.store, folder, name="second")
    [cid] = [entry.cid for entry in second.manifest.files]
    assert await machine.store.named(cid) == []
    for release in (first, second):
        await machine.fetch(release.manifest.cid)
    both = {first.manifest.cid, second.manifest.cid}
    assert {manifest for manifest, _ in await machine.store.named(cid)} == both
    await machine.store.remove(first.manifest.cid)
    assert await machine.store.named(cid) == [(second.manifest.cid, "README.md")]


async def test_what_is_kept_back_is_not_forgotten_with_a_release(made: Makers) -> None:
    """One that goes and comes again within the time for which a verdict stands."""
    release, machine, _ = await made()
    cid = release.manifest.cid
    denied = next(one.cid for one in release.manifest.files if one.path == "config.json")
    await machine.fetch(cid)
    await trusting.deny(machine, str(denied), "it is harmful")
    assert await machine.gate.withheld(cid) == {denied}
    machine.gate.changed()
    assert await machine.gate.refuses(cid) is None
    await machine.store.remove(cid)
    assert await machine.gate.withheld(cid) == frozenset()
    await machine.fetch(cid, exclude=("config.json",))
    assert await machine.gate.withheld(cid) == {denied}
