"""Publishers in the store: never backwards, never half, and nothing is believed for lying there."""

from pathlib import Path

import pytest
import trio

from node.store import Store, open_store, publishers
from p2p.cid import CID, Codec
from p2p.errors import VerificationFailed
from p2p.naming import Status, files_of
from tests.publishers import Publisher, key, named

REVOKED = Status("revoked", "the weights are broken", "2026-11-22T00:00:00Z")


def files(store: Store, publisher: str) -> list[Path]:
    """What lies on disk of a publisher."""
    folder = store.folder / "publishers" / publisher
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def test_what_was_put_is_there_again(folder: Path) -> None:
    """A set comes back byte for byte after the store was closed, under TUF's names on disk."""
    alice = Publisher()
    alice.list(named())
    async with open_store(folder, quota=None, reserve=0) as store:
        assert await store.publishers.ids() == ()
        assert await store.publishers.get(alice.id) is None
        assert await store.publishers.put(alice.id, alice.metadata) == alice.metadata
    async with open_store(folder, quota=None, reserve=0) as store:
        assert await store.publishers.ids() == (alice.id,)
        assert await store.publishers.get(alice.id) == alice.metadata
        assert await store.publishers.names(alice.id) == alice.names()
        for name, data in files_of(alice.metadata).items():
            assert await store.publishers.file(alice.id, name) == data
        assert await store.publishers.file(alice.id, "2.root.json") is None
        names = {path.name for path in files(store, alice.id)}
        assert names == {*files_of(alice.metadata), "taken.json"}


async def test_the_newest_stays_whatever_comes(store: Store) -> None:
    """Older sets change nothing, false ones are refused, and one set lies on the disk."""
    alice = Publisher()
    first = alice.list(named())
    second = alice.list(named(version="2", sequence=2))
    put = store.publishers.put
    assert await put(alice.id, second) == second
    assert await put(alice.id, first) == second
    other = Publisher(120)
    with pytest.raises(VerificationFailed, match="Wrong root"):
        await put(alice.id, other.metadata)
    fork = Publisher()
    fork.list(named("other"))
    fork.list(named("other", "2", sequence=2))
    with pytest.raises(VerificationFailed, match="Two files under one version"):
        await put(alice.id, fork.metadata)
    assert await store.publishers.get(alice.id) == second
    third = alice.rotate(targets=[key(50)])
    assert await put(alice.id, third) == third
    assert len({path.parent for path in files(store, alice.id)}) == 1


async def test_many_at_once_end_with_the_newest(store: Store) -> None:
    """However the puts of several tasks fall together, the newest is what is held."""
    alice = Publisher()
    sets = [alice.list(named(version=str(n), sequence=n)) for n in range(1, 7)]
    async with trio.open_nursery() as nursery:
        for one in [sets[3], sets[5], sets[0], sets[4], sets[1], sets[2]]:
            nursery.start_soon(store.publishers.put, alice.id, one)
    assert await store.publishers.get(alice.id) == sets[5]


async def test_a_status_is_for_ever(folder: Path) -> None:
    """What a publisher once took back is so after a restart, and when it says so no longer."""
    alice, entry = Publisher(), named()
    alice.list(entry)
    before = alice.metadata
    alice.mark(entry.manifest, REVOKED)
    async with open_store(folder, quota=None, reserve=0) as store:
        await store.publishers.put(alice.id, before)
        assert await store.publishers.seen(alice.id) == {}
        await store.publishers.put(alice.id, alice.metadata)
        assert await store.publishers.seen(alice.id) == {entry.manifest: REVOKED}
    async with open_store(folder, quota=None, reserve=0) as store:
        assert await store.publishers.seen(alice.id) == {entry.manifest: REVOKED}
        names = await store.publishers.names(alice.id)
        assert names is not None
        assert names.find("tiny") is None


async def test_who_asked_to_hear_of_it_does(store: Store) -> None:
    """Each change is told once, with the publisher's id; what changes nothing is not."""
    heard: list[str] = []
    store.publishers.changed.append(heard.append)
    alice = Publisher()
    first = alice.metadata
    await store.publishers.put(alice.id, first)
    await store.publishers.put(alice.id, first)
    assert heard == [alice.id]
    await store.publishers.put(alice.id, alice.list(named()))
    await store.publishers.put(alice.id, first)
    assert heard == [alice.id, alice.id]


@pytest.mark.parametrize("file", ["1.root.json", "timestamp.json", "taken.json"])
@pytest.mark.parametrize("how", ["flip", "lose"])
async def test_what_rotted_is_set_aside(folder: Path, file: str, how: str) -> None:
    """A damaged set is not believed, not served, found by ``audit``, and can come again."""
    alice = Publisher()
    async with open_store(folder, quota=None, reserve=0) as store:
        await store.publishers.put(alice.id, alice.metadata)
        [path] = [path for path in files(store, alice.id) if path.name == file]
        if how == "lose":
            path.unlink()
        else:
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        lost = how == "flip" or file != "taken.json"
        assert await store.publishers.audit(alice.id) is not lost
        assert (await store.publishers.get(alice.id) is None) is lost
        assert (await store.publishers.file(alice.id, "timestamp.json") is None) is lost
        await store.publishers.put(alice.id, alice.metadata)
        assert await store.publishers.audit(alice.id)


async def test_what_is_half_written_is_not_there(folder: Path) -> None:
    """The highest number that is whole counts; what lies beside it does no harm."""
    alice = Publisher()
    async with open_store(folder, quota=None, reserve=0) as store:
        await store.publishers.put(alice.id, alice.metadata)
        place = files(store, alice.id)[0].parent
        (place.parent / "9").mkdir()
        (place.parent / "nonsense").mkdir()
        (folder / "publishers" / "nobody").mkdir()
    async with open_store(folder, quota=None, reserve=0) as store:
        assert await store.publishers.ids() == (alice.id,)
        assert await store.publishers.get(alice.id) == alice.metadata


async def test_what_is_no_publisher_is_not_held(store: Store) -> None:
    """A text that is no publisher's id names nothing, and no file anywhere."""
    for text in ("", "..", "alice", "../manifests", str(CID.of(b"", Codec.RAW))):
        assert await store.publishers.held(text) is None
        assert await store.publishers.file(text, "timestamp.json") is None
        with pytest.raises(VerificationFailed):
            await store.publishers.put(text, Publisher().metadata)


async def test_memory_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many publishers only the last asked for stay in memory; the others come from disk."""
    monkeypatch.setattr(publishers, "KEPT_BYTES", 10_000)
    crowd = [Publisher(100 + 3 * n) for n in range(6)]
    for one in crowd:
        await store.publishers.put(one.id, one.metadata)
    assert len(store.publishers._kept) < 6
    for one in crowd:
        assert await store.publishers.get(one.id) == one.metadata
