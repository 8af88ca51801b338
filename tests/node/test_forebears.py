"""With a release come the statements of its ancestors, from the sources that are there anyway."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from node.ancestry import ancestry
from node.keyring import Keyring
from node.upkeep import keep_announced
from p2p.cid import CID
from tests.fakes import FakeNetwork, FakeSource, Machine
from tests.node.conftest import Stores
from tests.publishers import Publisher
from tests.releases import MIB, Published, noise, publish_into, write_folder

Machines = Callable[[], Awaitable[Machine]]
WORDS, ALICE, BOB = Publisher(110), Publisher(120), Publisher(130)


@pytest.fixture
async def machine(new_store: Stores) -> Machines:
    async def make() -> Machine:
        store = await new_store()
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    return make


@pytest.fixture
async def chain(machine: Machines, tmp_path: Path) -> tuple[Machine, list[Published]]:
    """Somebody who holds a dataset, a base made with it, and a fine-tune of that."""
    holder, releases = await machine(), list[Published]()
    for number, (name, by) in enumerate((("words", WORDS), ("base", ALICE), ("tuned", BOB))):
        folder = write_folder(tmp_path / name, {"x.bin": noise(2 * MIB, number)})
        lineage = [
            {"role": "base_model", "manifest": str(one.manifest.cid)} for one in releases[-1:]
        ]
        releases.append(await publish_into(holder.store, folder, name=name, by=by, lineage=lineage))
    return holder, releases


async def test_a_fetched_release_has_its_lineage(
    chain: tuple[Machine, list[Published]], machine: Machines
) -> None:
    """Every ancestor's statement, signatures and publisher are here afterwards, and no file."""
    holder, releases = chain
    reader = await machine()
    reader.wire.known.append(FakeSource("holder", holder.store))
    cid = releases[2].manifest.cid
    got = await reader.fetch(cid)
    assert got["bytes"]["fetched"] == 2 * MIB
    found = await ancestry(reader.store, cid)
    assert [one.manifest and one.manifest.name for one in found] == ["tuned", "base", "words"]
    assert [one.complete for one in found] == [True, False, False]
    for publisher, release in zip((WORDS, ALICE), releases, strict=False):
        assert await reader.store.publishers.get(publisher.id) is not None
        statement = await reader.store.statement(release.manifest.cid)
        assert statement is not None
        assert statement.bundles == (release.bundle,)
    await reader.store.gc()
    assert (await ancestry(reader.store, cid)).missing == []


async def test_who_has_no_ancestors_is_still_a_source(
    chain: tuple[Machine, list[Published]], machine: Machines
) -> None:
    """What nobody has stays a gap; the fetch is none the worse."""
    holder, releases = chain
    for release in releases[:2]:
        await holder.store.remove(release.manifest.cid)
    reader = await machine()
    reader.wire.known.append(FakeSource("holder", holder.store))
    got = await reader.fetch(releases[2].manifest.cid)
    assert got["bytes"]["fetched"] == 2 * MIB
    assert got["banned"] == []
    found = await ancestry(reader.store, releases[2].manifest.cid)
    assert found.missing == [releases[1].manifest.cid]


class Listener(FakeNetwork):
    """A network that says when as many announcements have come as were expected."""

    expected = 3

    def __init__(self) -> None:
        super().__init__()
        self.done = trio.Event()

    def announce(self, cids: Sequence[CID]) -> None:
        super().announce(cids)
        self.expected -= 1
        if not self.expected:
            self.done.set()


async def test_a_statement_alone_is_not_announced(
    chain: tuple[Machine, list[Published]], machine: Machines, nursery: trio.Nursery
) -> None:
    """Who looks for an ancestor's files is not sent to a node that has none of them."""
    holder, releases = chain
    reader = await machine()
    reader.wire.known.append(FakeSource("holder", holder.store))
    await reader.fetch(releases[2].manifest.cid)
    wire = Listener()
    nursery.start_soon(keep_announced, reader.store, reader.gate, wire)
    await wire.done.wait()
    assert releases[2].manifest.cid in wire.announced
    assert not {one.manifest.cid for one in releases[:2]} & set(wire.announced)
