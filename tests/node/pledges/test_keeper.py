"""The keeper on a simulated network: copies are counted, made, let go; limits are kept.

Every member has a store of its own and sees the others through fake sources.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from node.keyring import Keyring
from node.messages import PledgeParams
from node.pledges import Book, Pledge, Times
from node.pledges.keeper import Keeper
from node.pledges.standing import order
from node.pledges.verbs import copies, list_pledges, pledge, take_back
from p2p.cid import CID
from p2p.errors import NotFound, UsageError
from p2p.naming import Status
from tests.fakes import FakeSource, Machine
from tests.node.conftest import Stores
from tests.publishers import Publisher
from tests.releases import MIB, Published, noise, publish_into, write_folder

FILES = {"model.bin": noise(2 * MIB + 17, 1), "config.json": b'{"a": 1}'}
SIZE = sum(len(data) for data in FILES.values())
QUICK = Times(check=0.3, again=0.05, spread=0.4, settle=0.3, patience=5.0)


@dataclass
class Member(Machine):
    """A machine with pledges."""

    name: str = ""
    book: Book = field(init=False)
    keeper: Keeper = field(init=False)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.book = Book(self.trust)
        self.keeper = Keeper(self, self.name, self.book, QUICK)

    async def holds(self, manifest: CID) -> bool:
        release = await self.store.release(manifest)
        return release is not None and release.complete

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something holds after a look."""
        with trio.fail_after(60):
            while True:
                looked = self.keeper.next_look()
                if await holds():
                    return
                await looked.wait()

    def report(self, event: object) -> None: ...


@dataclass
class Club:
    """Members who see each other; ``sources`` are how the others see one."""

    nursery: trio.Nursery
    new_store: Stores
    members: dict[str, Member] = field(default_factory=dict)
    sources: dict[str, FakeSource] = field(default_factory=dict)

    async def join(self, name: str, quota: int | None = None) -> Member:
        store = await self.new_store(quota)
        member = Member(store, Keyring(store.folder.with_suffix(".keys")), name=name)
        self.add(FakeSource(name, store))
        member.wire.near = [one for one in self.sources.values() if one.peer != name]
        self.members[name] = member
        await member.book.open()
        return member

    def add(self, source: FakeSource) -> None:
        """Have everybody see a source."""
        self.sources[source.peer] = source
        for member in self.members.values():
            member.wire.near = [*member.wire.near, source]

    def start(self, *members: Member) -> None:
        async def run(member: Member) -> None:
            with member.scope:
                await member.keeper.run()

        for member in members or self.members.values():
            self.nursery.start_soon(run, member)

    def kill(self, name: str) -> None:
        """End a member: nobody reaches it any more, and connections to it end."""
        self.sources[name].unreachable = True
        self.members.pop(name).scope.cancel()
        for member in self.members.values():
            member.keeper.lost(name)


@pytest.fixture
async def club(nursery: trio.Nursery, new_store: Stores) -> Club:
    return Club(nursery, new_store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tiny", FILES)


def to(release: Published, keep: int = 2, limit: int | None = None) -> Pledge:
    return Pledge(str(release.manifest.cid), False, "tiny", keep, limit, (), 0.0)


async def holders(club: Club, manifest: CID) -> list[str]:
    return [name for name, member in club.members.items() if await member.holds(manifest)]


async def test_copies_are_made_until_there_are_enough(club: Club, folder: Path) -> None:
    """One publishes, all pledge three: they get there by themselves, and say so."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    cid = release.manifest.cid
    members = [alice, *[await club.join(name) for name in ("bob", "carol", "dave")]]
    for member in members:
        await member.book.put(to(release, 3))
    club.start()
    await alice.until(lambda: enough(alice, cid, 3))
    found = await copies(str(cid), alice, alice.report)
    assert (found["keep"], found["here"]["whole"]) == (3, True)
    assert found["healthy"] >= 3
    assert {one["peer"] for one in found["copies"] if one["healthy"]} <= {"bob", "carol", "dave"}


async def enough(member: Member, cid: CID, count: int) -> bool:
    watch = member.keeper.watches.get(cid)
    if watch is None:
        return False
    return len(watch.standing.healthy(trio.current_time())) + watch.mine.whole >= count


async def test_a_copy_that_goes_comes_back(club: Club, folder: Path) -> None:
    """Unattended, also when it was the publisher who went."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    cid = release.manifest.cid
    for name in ("bob", "carol", "dave"):
        await club.join(name)
    for member in club.members.values():
        await member.book.put(to(release))
    club.start()
    await alice.until(lambda: enough(alice, cid, 2))
    club.kill("alice")
    for _ in range(2):
        left = next(iter(club.members.values()))

        async def back() -> bool:
            return len(await holders(club, cid)) >= 2

        await left.until(back)
        if len(club.members) > 2:
            gone = (await holders(club, cid))[0]
            club.kill(gone)
    assert len(await holders(club, cid)) == 2


async def test_too_many_copies_are_let_go(club: Club, folder: Path) -> None:
    """Down to one more than was pledged; pinned ones stay, and what goes frees its room."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    cid = release.manifest.cid
    names = sorted((f"peer-{number}" for number in range(4)), key=lambda one: order(one, cid))
    for name in names:
        member = await club.join(name)
        await member.book.put(to(release, 1))
        await member.fetch(str(cid), pin=False)
    last = club.members[names[-1]]
    keepers = [club.members[name] for name in names[:2]]
    club.start()

    async def gone() -> bool:
        return not await last.holds(cid)

    await last.until(gone)
    assert last.book.taken() == []
    assert (await last.store.usage()).bytes == 0
    for member in keepers:
        assert await member.holds(cid)


async def test_what_the_owner_pinned_meanwhile_stays(club: Club, folder: Path) -> None:
    """A pin makes it the owner's, whatever a fetch under the pledge does at that moment."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    cid = release.manifest.cid
    bob = await club.join("bob")
    await bob.book.put(to(release, 2))
    club.start(bob)
    await bob.until(lambda: bob.holds(cid))
    held = await bob.store.release(cid)
    assert held is not None
    assert not held.pinned
    await bob.store.pin(cid)
    await bob.fetch(str(cid), pin=None)
    held = await bob.store.release(cid)
    assert held is not None
    assert held.pinned
    assert not await bob.store.discard(cid)


async def test_gc_leaves_what_was_taken_until_the_pledge_goes(club: Club, folder: Path) -> None:
    """It is no pin of the owner's, and still it stays; after `pledge rm` it may go."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    cid = release.manifest.cid
    bob = await club.join("bob")
    await pledge(PledgeParams(str(cid), keep=2), bob, bob.report)
    club.start(bob)
    await bob.until(lambda: bob.holds(cid))
    with bob.book.keeping(bob.store):
        assert (await bob.store.gc()).releases == 0
    shown = await list_pledges(bob)
    [row] = shown["pledges"][0]["releases"]
    assert (row["held"], row["taken"], row["trouble"]) == (True, True, "")
    gone = await take_back(str(cid), bob)
    assert (gone["releases"], gone["bytes"]) == (1, SIZE)
    with bob.book.keeping(bob.store):
        assert (await bob.store.gc()).releases == 1
    with pytest.raises(NotFound):
        await take_back(str(cid), bob)


async def test_the_budget_holds_for_all_of_a_publisher_s(club: Club, tmp_path: Path) -> None:
    """Three releases, room for two: two are taken, and the third says why not."""
    alice, publisher = await club.join("alice"), Publisher()
    releases = []
    for number in range(3):
        folder = write_folder(tmp_path / f"n{number}", {"model.bin": noise(MIB, number)})
        releases.append(await publish_into(alice.store, folder, name=f"n{number}", by=publisher))
    bob = await club.join("bob")
    held = await alice.store.publishers.get(publisher.id)
    assert held is not None
    await bob.store.publishers.put(publisher.id, held)
    bob.called["alice"] = publisher.id
    bob.keeper.times = QUICK
    made = await pledge(PledgeParams("alice", keep=2, max=str(2 * MIB)), bob, bob.report)
    assert (made["kind"], made["id"], made["max"]) == ("publisher", publisher.id, 2 * MIB)
    club.start(bob)

    async def full() -> bool:
        seen = [one for one in bob.keeper.watches.values() if one.looked is not None]
        count = sum([await bob.holds(one.manifest.cid) for one in releases])
        return len(seen) == 3 and count == 2 and any(one.trouble for one in seen)

    await bob.until(full)
    assert sum(one.size for one in bob.book.taken()) == 2 * MIB
    troubles = [one["trouble"] for one in (await list_pledges(bob))["pledges"][0]["releases"]]
    assert sum("budget has no room" in one for one in troubles) == 1

    # What the publisher takes back is kept no longer.
    first = bob.book.taken()[0].manifest
    status = Status("revoked", "the weights are broken", "2026-11-22T00:00:00Z")
    publisher.metadata = held
    await bob.store.publishers.put(publisher.id, publisher.mark(first, status))

    async def dropped() -> bool:
        return first not in bob.keeper.watches and not bob.book.is_taken(first)

    await bob.until(dropped)


async def test_the_quota_is_the_last_word(club: Club, folder: Path) -> None:
    """A fetch that the store has no room for is given up, and said; nothing is left of it."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    bob = await club.join("bob", quota=MIB)
    await bob.book.put(to(release, 2))
    club.start(bob)
    cid = release.manifest.cid

    async def told() -> bool:
        watch = bob.keeper.watches.get(cid)
        return watch is not None and watch.standing._tries > 0 and watch.fetching is None

    await bob.until(told)
    assert (await bob.store.usage()).bytes <= MIB
    assert not await bob.holds(cid)


async def test_who_only_says_so_is_no_copy(club: Club, folder: Path) -> None:
    """One has the statement alone, one sends wrong bytes: neither counts, one is banned."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    cid = release.manifest.cid
    have = {f"/allod/v1/have/{cid}": b'{"complete": true, "files": {}}'}
    empty = await club.new_store()
    await empty.record(release.manifest, [release.bundle], pin=False, complete=False)
    bob = await club.join("bob")
    club.add(FakeSource("claims", empty, answers=have))
    club.add(FakeSource("lies", alice.store, lies=True, lies_about="/ipfs/"))
    await bob.book.put(to(release, 2))
    club.start(bob)
    await bob.until(lambda: bob.holds(cid))
    await bob.until(lambda: enough(bob, cid, 2))
    found = await copies(str(cid), bob, bob.report)
    assert found["healthy"] == 2
    why = {one["peer"]: one["why"] for one in found["copies"] if not one["healthy"]}
    assert set(why) == {"claims", "lies"}
    assert "wrong bytes" in why["lies"]
    assert set(bob.wire.banned) == {"lies"}


async def test_a_damaged_disk_is_noticed_and_mended(club: Club, folder: Path) -> None:
    """This node's own copy is no copy once its bytes are wrong; the others have them."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    cid = release.manifest.cid
    bob = await club.join("bob")
    await bob.fetch(str(cid))
    big = max(release.manifest.files, key=lambda entry: entry.size)
    held = await bob.store.held(big.cid)
    assert held is not None
    inside = held.path.stat()
    held.path.chmod(0o644)
    with held.path.open("r+b") as file:
        file.write(bytes(big.size))
    assert inside.st_size == big.size
    await bob.book.put(to(release, 2))
    club.start(bob)

    async def mended() -> bool:
        good = await bob.store.held(big.cid)
        if good is None or not good.have.covers(0, big.size):
            return False
        data = await trio.to_thread.run_sync(good.path.read_bytes)
        return data == FILES["model.bin"]

    await bob.until(mended)


async def test_what_nobody_pledged_is_looked_at_once(club: Club, folder: Path) -> None:
    """`allod status REF` says who has it, without keeping anything."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    bob = await club.join("bob")
    found = await copies(str(release.manifest.cid), bob, bob.report)
    assert (found["keep"], found["healthy"], found["here"]["whole"]) == (None, 1, False)
    [row] = found["copies"]
    assert (row["peer"], row["healthy"]) == ("alice", True)
    assert not await bob.holds(release.manifest.cid)


@pytest.mark.parametrize(
    "params",
    [
        PledgeParams("nobody"),
        PledgeParams("a b"),
        PledgeParams("alice/tiny", keep=0),
        PledgeParams("alice/tiny", keep=17),
        PledgeParams("alice/tiny", max="much"),
        PledgeParams("alice/tiny", peers=("/ip4/192.0.2.1/tcp/1",)),
    ],
)
async def test_a_pledge_that_makes_no_sense(club: Club, params: PledgeParams) -> None:
    """Is refused in one sentence, and nothing is promised."""
    bob = await club.join("bob")
    with pytest.raises(UsageError):
        await pledge(params, bob, bob.report)
    assert bob.book.pledges() == []


async def test_an_id_that_is_not_known_is_found_out(club: Club, folder: Path) -> None:
    """A publisher's id and a manifest's CID look alike: whoever has it tells which it is."""
    alice = await club.join("alice")
    release = await publish_into(alice.store, folder)
    bob = await club.join("bob")
    for text, kind in (
        (release.manifest.publisher, "publisher"),
        (str(release.manifest.cid), "release"),
    ):
        made = await pledge(PledgeParams(text), bob, bob.report)
        assert (made["kind"], made["id"]) == (kind, text)
