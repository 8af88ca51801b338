"""Following: what a publisher says reaches a node that only goes on running."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from node import following
from node.following import Following
from node.keyring import Keyring
from node.store import Store
from p2p.cid import CID
from p2p.naming import Status, files_of, read_names
from p2p.references import publisher_cid
from tests.fakes import FakeNetwork, FakeSource, Machine
from tests.node.conftest import Stores
from tests.publishers import DAY, Publisher, key
from tests.releases import Published, publish_into, write_folder

SOON = 0.05  # seconds between two questions here
REVOKED = Status("revoked", "the weights are broken", "2026-11-22T00:00:00Z")

Machines = Callable[[], Awaitable[Machine]]


@pytest.fixture
async def machine(new_store: Stores) -> Machines:
    async def make() -> Machine:
        store = await new_store()
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    return make


@asynccontextmanager
async def follows(machine: Machine) -> AsyncIterator[None]:
    """The machine follows for as long as this lasts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Following(machine, machine.wire, every=SOON).run)
        yield
        nursery.cancel_scope.cancel()


async def change(store: Store, publisher: str) -> None:
    """Wait until what is known of a publisher has changed."""
    event = trio.Event()

    def heard(who: str) -> None:
        if who == publisher:
            event.set()

    store.publishers.changed.append(heard)
    with trio.fail_after(60):
        await event.wait()
    store.publishers.changed.remove(heard)


@dataclass(eq=False)
class Wire(FakeNetwork):
    """A network that tells when somebody is banned, or looked for."""

    banning: trio.Event = field(default_factory=trio.Event)
    looking: trio.Event = field(default_factory=trio.Event)

    def ban(self, peer: str, reason: str) -> None:
        super().ban(peer, reason)
        self.banning.set()

    async def providers(self, cid: CID) -> Sequence[FakeSource]:
        self.looking.set()
        return await super().providers(cid)


async def released(store: Store, folder: Path) -> Published:
    return await publish_into(store, write_folder(folder, {"a.txt": b"a"}))


async def test_the_publisher_of_a_held_release_is_heard(machine: Machines, tmp_path: Path) -> None:
    """A revocation reaches a node that holds the release: it gives it to nobody, and says why."""
    holder, seeder = await machine(), await machine()
    release = await released(holder.store, tmp_path / "a")
    cid, [entry] = release.manifest.cid, release.manifest.files
    seeder.wire.known = [FakeSource("holder", holder.store)]
    await seeder.fetch(cid)
    assert await seeder.gate.refuses(entry.cid) is None
    seeder.wire.announced.clear()
    alice = Publisher()
    alice.metadata = await holder.store.publishers.get(alice.id) or alice.metadata
    async with follows(seeder), trio.open_nursery() as nursery:
        nursery.start_soon(change, seeder.store, alice.id)
        await trio.testing.wait_all_tasks_blocked()
        await holder.store.publishers.put(alice.id, alice.mark(cid, REVOKED))
    assert await seeder.store.publishers.seen(alice.id) == {cid: REVOKED}
    for content in (cid, entry.cid):
        verdict = await seeder.gate.refuses(content)
        assert verdict is not None
        assert "the weights are broken" in verdict.reason
    assert publisher_cid(alice.id) in seeder.wire.announced


async def test_a_replaced_key_takes_along_what_it_alone_has_signed(
    machine: Machines, tmp_path: Path
) -> None:
    """A release by a stolen key that was taken in is given to nobody once the key is replaced."""
    thief, seeder = await machine(), await machine()
    forged = await released(thief.store, tmp_path / "a")
    seeder.wire.known = [FakeSource("thief", thief.store)]
    await seeder.fetch(forged.manifest.cid)
    honest = Publisher()
    honest.list()
    honest.rotate(targets=[key(50)], online=key(51))
    await seeder.store.publishers.put(honest.id, honest.metadata)
    verdict = await seeder.gate.refuses(forged.manifest.cid)
    assert verdict is not None
    assert "Replaced key" in verdict.reason


async def test_whom_the_owner_has_a_name_for_is_followed(machine: Machines) -> None:
    """A petname is enough; a publisher that nobody trusts or holds is not asked for."""
    holder, reader = await machine(), await machine()
    alice, bob = Publisher(), Publisher(130)
    for one in (alice, bob):
        await holder.store.publishers.put(one.id, one.metadata)
    reader.wire.known = [FakeSource("holder", holder.store)]
    reader.called = {"alice": alice.id, "broken": "no id"}
    async with follows(reader):
        await change(reader.store, alice.id)
    assert await reader.store.publishers.ids() == (alice.id,)


async def test_who_lies_or_is_gone_ends_nothing(machine: Machines) -> None:
    """A liar is banned, a source that is gone is done without, and the news come all the same."""
    holder, reader = await machine(), await machine()
    alice = Publisher()
    reader.called = {"alice": alice.id}
    false = files_of(alice.metadata) | {"1.targets.json": b"{}"}
    liar = FakeSource("liar", holder.store, says=false)
    gone = FakeSource("gone", holder.store, unreachable=True)
    empty = FakeSource("empty", holder.store, says={})
    reader.wire = Wire(known=[liar, gone, empty])
    async with follows(reader):
        with trio.fail_after(60):
            await reader.wire.banning.wait()
        reader.wire.known.append(FakeSource("holder", holder.store))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, reader.store, alice.id)
            await trio.testing.wait_all_tasks_blocked()
            await holder.store.publishers.put(alice.id, alice.metadata)
    assert set(reader.wire.banned) == {"liar"}


async def test_own_publishers_speak_and_are_renewed(
    machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an own publisher's keys signed is served, signed anew in time, and announced."""
    here = await machine()
    alice = here.keyring.new("alice")
    async with follows(here):
        await change(here.store, alice.id)
        assert await here.store.publishers.get(alice.id) == alice.metadata()
        before = read_names(alice.id, alice.metadata(), now=None).expires
        later = datetime.now(UTC) + 5 * DAY

        class Later:
            @staticmethod
            def now(tz: object) -> datetime:
                return later

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, here.store, alice.id)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(following, "datetime", Later)
        names = await here.store.publishers.names(alice.id)
        assert names is not None
        assert names.expires > before + 4 * DAY
    assert publisher_cid(alice.id) in here.wire.announced
    assert here.wire.looked_up == []  # nobody else is asked what it says


async def test_an_unfinished_publisher_holds_nobody_up(machine: Machines) -> None:
    """A publisher that others have still to sign for is left alone until they have."""
    here = await machine()
    other = Publisher(130).signer.public
    here.keyring.new("team", members=[other], threshold=2)
    alice = here.keyring.new("alice")
    async with follows(here):
        await change(here.store, alice.id)
    assert await here.store.publishers.ids() == (alice.id,)


async def test_a_removed_release_is_followed_no_more(machine: Machines, tmp_path: Path) -> None:
    """When the last release of a publisher is gone, nobody is asked for it any longer."""
    seeder = await machine()
    release = await released(seeder.store, tmp_path / "a")
    wire = seeder.wire = Wire()
    async with follows(seeder):
        with trio.fail_after(60):
            await wire.looking.wait()
        await seeder.store.remove(release.manifest.cid)
        news = Publisher(130)
        seeder.called = {"bob": news.id}
        await seeder.store.publishers.put(news.id, news.metadata)  # it looks whom to follow
        wire.looked_up.clear()
        wire.looking = trio.Event()
        with trio.fail_after(60):
            while publisher_cid(news.id) not in wire.looked_up:
                await wire.looking.wait()
                wire.looking = trio.Event()
        wire.looked_up.clear()
        with trio.fail_after(60):
            for _ in range(3):
                wire.looking = trio.Event()
                await wire.looking.wait()
    assert set(wire.looked_up) == {publisher_cid(news.id)}
