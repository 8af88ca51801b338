"""What own publishers say is read from the disk once in a while, and never missed."""

from collections import Counter

import pytest

from node.keyring import Keyring
from node.publisher import Repository
from node.voices import Voices
from tests.fakes import Machine
from tests.node.conftest import Stores


@pytest.fixture
async def machine(new_store: Stores) -> Machine:
    """A machine with no publisher yet."""
    store = await new_store(None)
    return Machine(store, Keyring(store.folder.with_suffix(".keys")))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often publishers were read from the disk."""
    counted: Counter[str] = Counter()
    ids, metadata = Keyring.ids, Repository.metadata

    def counted_ids(self: Keyring) -> dict[str, str]:
        counted["ids"] += 1
        return ids(self)

    def counted_metadata(self: Repository) -> object:
        counted["metadata"] += 1
        return metadata(self)

    monkeypatch.setattr(Keyring, "ids", counted_ids)
    monkeypatch.setattr(Repository, "metadata", counted_metadata)
    return counted


async def test_many_questions_read_the_disk_once(machine: Machine, reads: Counter[str]) -> None:
    """A door that is asked for a thousand files reads keys and lists once."""
    alice = machine.keyring.new("alice").id
    voices = Voices(machine)
    await machine.store.publishers.put(alice, machine.keyring.repository("alice").metadata())
    reads.clear()
    for _ in range(100):
        names = await voices.names(alice)
        assert names is not None
        assert names.publisher == alice
        assert await voices.names("bagaaiera" + "a" * 50) is None
        assert await voices.ids() == {"alice": alice}
    assert reads == {"ids": 1, "metadata": 1}


async def test_what_this_node_takes_in_is_known_at_once(machine: Machine) -> None:
    """A publisher that was made and published a moment ago is not denied."""
    voices = Voices(machine)
    assert await voices.ids() == {}
    repository = machine.keyring.new("alice")
    await machine.store.publishers.put(repository.id, repository.metadata())
    assert await voices.ids() == {"alice": repository.id}
    assert await voices.names(repository.id) is not None


async def test_a_new_publisher_is_known_at_once(machine: Machine) -> None:
    """A command that runs beside the node makes a publisher: the next question hears of it."""
    voices = Voices(machine)
    assert await voices.ids() == {}
    alice = machine.keyring.new("alice").id
    assert await voices.ids() == {"alice": alice}
    assert set(await voices.ids()) == {"alice"}
    machine.keyring.new("bob")
    assert set(await voices.ids()) == {"alice", "bob"}


async def test_what_another_process_changed_is_known_soon(
    machine: Machine, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was remembered is read anew when its time is over."""
    monkeypatch.setattr("node.voices.REMEMBERED", 0.0)  # it stands for no time at all
    alice = machine.keyring.new("alice").id
    voices = Voices(machine)
    for _ in range(3):
        assert await voices.names(alice) is not None
    assert reads == {"ids": 3, "metadata": 3}
