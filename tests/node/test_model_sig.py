"""model.sig: made beside everything else, gone on with after a restart, written out by anybody."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from node.keyring import Keyring
from node.messages import Event, Note, PublishParams
from node.model_sig import ModelSigner, save_signature, sign_model
from node.publish import publish
from node.store import Store
from p2p.bridge import read_model_signature
from p2p.bundles import find_model_signature, is_model_signature
from p2p.cid import CID
from p2p.errors import NotFound
from p2p.keys import SecretKey
from tests.node.conftest import Heard, Stores
from tests.p2p.statements import MODEL_SIG
from tests.publishers import Publisher, key
from tests.releases import KEY, publish_into, write_folder

FILES = {"a.bin": b"1" * 3_000_000, "b/c.txt": b""}


@dataclass
class Machine:
    """A node that makes what it is asked for in the background, where ``signer`` runs."""

    store: Store
    keyring: Keyring
    signer: ModelSigner
    default_key: str = "alice"

    def spread(self, cids: list[CID]) -> list[str]:
        return []

    def petnames(self) -> dict[str, str]:
        return {}

    def sign_later(self, cid: CID) -> bool:
        return self.signer.ask(cid)

    async def publish(self, folder: Path, name: str = "tiny") -> tuple[CID, str]:
        params = PublishParams(folder=str(folder), name=name)
        result = await publish(params, self, lambda event: None)
        return CID.parse(result["manifest"]), result["modelSig"]

    async def signed(self, cid: CID) -> bool:
        statement = await self.store.statement(cid)
        assert statement is not None
        return any(map(is_model_signature, statement.bundles))


@pytest.fixture
async def machine(new_store: Stores, tmp_path: Path) -> Machine:
    keyring = Keyring(tmp_path / "keys")
    keyring.new("alice")
    store = await new_store()
    return Machine(store, keyring, ModelSigner(store, keyring))


async def test_in_the_background(
    machine: Machine, tmp_path: Path, heard: Heard, nursery: trio.Nursery
) -> None:
    """A node that runs answers a publish at once, and makes one model.sig after the other."""
    nursery.start_soon(machine.signer.run)
    await trio.testing.wait_all_tasks_blocked()
    folder = write_folder(tmp_path / "in", FILES)
    made = [await machine.publish(folder, name) for name in ("one", "two")]
    assert [how for _, how in made] == ["later", "later"]
    await heard.wait(2)
    assert [await machine.signed(cid) for cid, _ in made] == [True, True]
    assert await machine.store.model_signatures_wanted() == []


async def test_what_was_cut_short_is_gone_on_with(
    machine: Machine,
    tmp_path: Path,
    heard: Heard,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A release that was marked when the node ended is signed after its next start."""
    cid, how = await machine.publish(write_folder(tmp_path / "in", FILES))
    assert how == "made"
    other = await publish_into(machine.store, write_folder(tmp_path / "other", FILES))
    for each in (cid, other.manifest.cid):
        await machine.store.want_model_signature(each, True)
    monkeypatch.setattr("node.model_sig.FIRST", 0.0)
    nursery.start_soon(machine.signer.run)
    await heard.wait(1)
    assert await machine.store.model_signatures_wanted() == [other.manifest.cid]  # no key for it


async def test_without_all_files_there_is_none(new_store: Stores, tmp_path: Path) -> None:
    """A file that is gone from the disk by then is said, and nothing is signed."""
    store = await new_store()
    folder = write_folder(tmp_path / "in", FILES)
    release = await publish_into(store, folder)
    held = await store.held(release.manifest.files[0].cid)
    assert held is not None
    held.path.unlink()
    events: list[Event] = []
    assert not await sign_model(release.manifest.cid, KEY, store, events.append)
    [note] = [event for event in events if isinstance(event, Note)]
    assert "not all of its files" in note.text
    assert not await sign_model(CID.parse(str(release.manifest.cid)[:-1] + "a"), KEY, store, print)


async def test_saved_for_other_tools(new_store: Stores, tmp_path: Path) -> None:
    """Two files and the command that checks a folder by them, quoted for a shell."""
    store, into = await new_store(), tmp_path / "what was saved"
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cid = release.manifest.cid
    with pytest.raises(NotFound, match=r"No model\.sig of tiny 1"):
        await save_signature(cid, store, into, tmp_path)
    assert await sign_model(cid, KEY, store, lambda event: None)
    saved = await save_signature(cid, store, into, tmp_path / "it's here")
    assert saved.command.startswith("model_signing verify certificate '")
    assert f"--certificate_chain '{into}/publisher.pem'" in saved.command
    statement = await store.statement(cid)
    assert statement is not None
    signature = find_model_signature(cid, statement.bundles, {KEY.public})
    assert signature is not None
    assert saved.signature.read_bytes() == signature.bundle
    assert saved.authority.read_text() == signature.authority
    await store.remove(cid)
    with pytest.raises(NotFound, match="list of files"):
        await save_signature(cid, store, into, tmp_path)


async def test_only_the_publishers_counts(new_store: Stores, tmp_path: Path) -> None:
    """A model.sig by a stranger, and one of another release, are not kept."""
    store = await new_store()
    release = await publish_into(store, write_folder(tmp_path / "in", FILES))
    cid = release.manifest.cid
    await sign_model(cid, SecretKey.from_seed(b"s" * 32), store, lambda event: None)
    assert await store.add_bundles(cid, [MODEL_SIG], {KEY.public}) == 0
    with pytest.raises(NotFound):
        await save_signature(cid, store, tmp_path / "saved", tmp_path)


async def test_a_key_that_holds_is_preferred(new_store: Stores, tmp_path: Path) -> None:
    """After a key was replaced the new key's model.sig is the one that is written out."""
    store, publisher = await new_store(), Publisher(140)
    release = await publish_into(store, write_folder(tmp_path / "in", FILES), by=publisher)
    cid = release.manifest.cid
    old = publisher.signer
    publisher.rotate(targets=[key(250)])
    await store.publishers.put(publisher.id, publisher.metadata)
    for signer in (old, publisher.signer):
        assert await sign_model(cid, signer, store, lambda event: None)
        saved = await save_signature(cid, store, tmp_path / "saved", tmp_path)
        signature = read_model_signature(saved.signature.read_bytes())
        assert signature.key == signer.public
