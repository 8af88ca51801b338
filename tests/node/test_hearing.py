"""What others say of a release reaches whoever fetches it, and whoever holds it, bounded."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from node.hearing import hear, keep_hearing
from node.keyring import Keyring
from node.store import Store
from p2p.bundles import read_attestations
from p2p.cid import CID
from p2p.envelope import MAX_BUNDLES
from p2p.keys import SecretKey
from tests.fakes import FakeNetwork, FakeSource, Machine
from tests.node.conftest import Heard, Stores
from tests.p2p.statements import BOB, CAROL, said
from tests.publishers import Publisher
from tests.releases import KEY, Published, publish_into, write_folder

Held = Callable[..., Awaitable[tuple[Store, Published]]]


@pytest.fixture
async def held(new_store: Stores, tmp_path: Path) -> Held:
    """Make stores that hold the same release, each with these words of others beside it."""

    async def make(*words: bytes) -> tuple[Store, Published]:
        store = await new_store()
        release = await publish_into(store, write_folder(tmp_path / "in", {"a": b"1", "b": b"2"}))
        assert await store.add_bundles(release.manifest.cid, words, {KEY.public}) == len(words)
        return store, release

    return make


async def heard_in(store: Store, cid: CID) -> set[bytes]:
    """The words of others that a store has."""
    statement = await store.statement(cid)
    assert statement is not None
    return {one.bundle for one in read_attestations(statement.bundles)}


async def about(held: Held) -> CID:
    """The release that all of them hold."""
    return (await held())[1].manifest.cid


def crowd(*stores: Store) -> FakeNetwork:
    """A network where these are found."""
    return FakeNetwork(
        near=[FakeSource(f"source-{number}", store) for number, store in enumerate(stores)]
    )


async def test_a_fetch_takes_the_words_of_several_sources(held: Held, new_store: Stores) -> None:
    """What one source does not know, another does; all of it arrives, is kept, and passed on."""
    cid = await about(held)
    words = [said(about=cid, key=BOB), said("review", about=cid, key=CAROL)]
    first, _ = await held(words[0])
    second, _ = await held(words[1])
    store = await new_store()
    machine = Machine(store, Keyring(store.folder.with_suffix(".keys")), crowd(first, second))
    await machine.fetch(cid)
    assert await heard_in(store, cid) == set(words)

    third, _ = await held(said("evaluation", about=cid, key=BOB))
    later = Machine(store, machine.keyring, crowd(third))
    await later.fetch(cid)
    assert len(await heard_in(store, cid)) == 3


async def test_a_source_that_floods_takes_no_place(held: Held, new_store: Stores) -> None:
    """A source full of strangers' words and garbage leaves the publisher his place."""
    cid = await about(held)
    flood = [
        said(about=cid, key=SecretKey.from_seed(bytes([7, number]) * 16))
        for number in range(100, 100 + MAX_BUNDLES - 1)
    ]
    flooded, release = await held(*flood)
    honest, _ = await held(said(about=cid))
    network = crowd(flooded, honest)
    network.near[0].answers[f"/allod/v1/bundles/{cid}"] = b"\n".join(
        [release.bundle, b"garbage", *flood, b"{}"]
    )
    store = await new_store()
    machine = Machine(store, Keyring(store.folder.with_suffix(".keys")), network)
    await machine.fetch(cid)
    statement = await store.statement(cid)
    assert statement is not None
    assert release.bundle in statement.bundles
    assert len(statement.bundles) <= MAX_BUNDLES


async def test_a_holder_hears_of_it(held: Held) -> None:
    """Whoever holds a release, its publisher too, gets what is said of it elsewhere."""
    cid = await about(held)
    mine, _ = await held()
    word = said(about=cid)
    theirs, _ = await held(word)
    release = await mine.release(cid)
    assert release is not None
    network = FakeNetwork(known=crowd(theirs).near)
    assert await hear(release, mine, network) == 1
    assert await hear(release, mine, network) == 0
    assert await heard_in(mine, cid) == {word}
    assert set(network.looked_up) == {cid}


async def test_who_is_trusted_finds_a_place(held: Held) -> None:
    """Where strangers fill all places, who is trusted is heard, and not who is merely known."""
    cid = await about(held)
    flood = [
        said(about=cid, key=SecretKey.from_seed(bytes([7, number]) * 16))
        for number in range(100, 100 + MAX_BUNDLES - 1)
    ]
    mine, _ = await held(*flood)
    publisher = Publisher(150)
    word = said(about=cid, key=publisher.signer, publisher=publisher.id)
    theirs, _ = await held(word)
    release = await mine.release(cid)
    assert release is not None
    assert await hear(release, mine, crowd(theirs)) == 0
    await mine.publishers.put(publisher.id, publisher.metadata)
    assert await hear(release, mine, crowd(theirs)) == 0
    assert await hear(release, mine, crowd(theirs), [publisher.id]) == 1
    assert word in await heard_in(mine, cid)


async def test_nobody_there_is_no_error(held: Held) -> None:
    """Sources that are gone, lie, or do not have it cost nothing but their answer."""
    mine, release = await held()
    other = FakeSource("other", (await held())[0], unreachable=True)
    target = f"/allod/v1/bundles/{release.manifest.cid}"
    liar = FakeSource("liar", other.store, answers={target: b"x\n{}\n" + said() + b"\n"})
    found = await mine.release(release.manifest.cid)
    assert found is not None
    assert await hear(found, mine, FakeNetwork(near=[other, liar])) == 0
    assert await hear(found, mine, FakeNetwork()) == 0


async def test_all_the_time(held: Held, nursery: trio.Nursery, heard: Heard) -> None:
    """A node that runs asks again and again, and goes on with what it holds then."""
    mine, release = await held()
    cid = release.manifest.cid
    theirs, _ = await held(said(about=cid))
    nursery.start_soon(lambda: keep_hearing(mine, crowd(theirs), every=0.01))
    await heard.wait(1)
    assert await theirs.add_bundles(cid, [said("review", about=cid)], {KEY.public}) == 1
    await heard.wait(2)
    assert len(await heard_in(mine, cid)) == 2
