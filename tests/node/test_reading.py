"""Reading without fetching: only what is asked for moves, in order, shared, and verified."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.keyring import Keyring
from node.reading import OpenRelease, Reader, open_reader
from node.reading.pull import LINGER
from p2p.errors import NetworkError, NoSources, NotFound, QuotaExceeded, Refused
from tests.fakes import FakeSource, Machine
from tests.node.conftest import Stores
from tests.releases import MIB, Published, noise, publish_into, write_folder

BIG = noise(24 * MIB + 12345, 1)
JUMP = 0.2  # seconds without anything to do until the clock jumps: threads get to write
FILES = {"model.bin": BIG, "data/shard-0.bin": noise(3 * MIB, 2), "config.json": b'{"a": 1}'}


@dataclass
class World:
    """A publisher with a release, and a reader that has nothing."""

    publisher: Machine
    machine: Machine
    release: Published
    reader: Reader

    def source(self, **behaviour: Any) -> FakeSource:
        number = len(self.machine.wire.known)
        source = FakeSource(f"peer-{number}", self.publisher.store, **behaviour)
        self.machine.wire.known.append(source)
        return source

    async def open(self) -> OpenRelease:
        return await self.reader.open(str(self.release.manifest.cid))


Machines = Callable[..., Awaitable[Machine]]


@pytest.fixture
async def machine(new_store: Stores) -> Machines:
    async def make(quota: int | None = None) -> Machine:
        store = await new_store(quota)
        return Machine(store, Keyring(store.folder.with_suffix(".keys")))

    return make


@pytest.fixture
async def world(machine: Machines, tmp_path: Path) -> AsyncIterator[World]:
    publisher, mine = await machine(), await machine()
    release = await publish_into(publisher.store, write_folder(tmp_path / "tiny", FILES))
    async with open_reader(mine) as reader:
        yield World(publisher, mine, release, reader)


async def read(opened: OpenRelease, path: str, start: int = 0, stop: int | None = None) -> bytes:
    entry, got = opened.entry(path), io.BytesIO()
    async with aclosing(opened.read(entry, start, entry.size if stop is None else stop)) as pieces:
        async for piece in pieces:
            got.write(piece)
    return got.getvalue()


async def test_a_range_moves_its_leaves_and_no_others(world: World) -> None:
    """What a range needs is fetched, once; the rest of the file is not."""
    source = world.source()
    opened = await world.open()
    start, stop = 5 * MIB + 7, 7 * MIB - 9
    assert await read(opened, "model.bin", start, stop) == BIG[start:stop]
    assert source.sent == 2 * MIB
    assert await read(opened, "model.bin", start + 1, stop - 1) == BIG[start + 1 : stop - 1]
    assert source.sent == 2 * MIB
    assert await read(opened, "model.bin", len(BIG) - 8) == BIG[-8:]
    assert source.sent < 3 * MIB + 12345


async def test_what_was_read_stays_after_a_restart(world: World, machine: Machines) -> None:
    """A new reader takes what is here from the disk."""
    source = world.source()
    await read(await world.open(), "model.bin", 0, 3 * MIB)
    sent = source.sent
    async with open_reader(world.machine) as reader:
        with trio.fail_after(60):
            opened = await reader.open(str(world.release.manifest.cid))
            # The first reader's pull still has the file; its readers see what it has.
            assert await read(opened, "model.bin", 0, 3 * MIB) == BIG[: 3 * MIB]
    assert source.sent == sent


async def test_a_whole_file_comes_in_order_and_is_kept(world: World) -> None:
    """All bytes arrive, the file is the store's, and once all files are here the release is."""
    world.source()
    world.source()
    opened = await world.open()
    store = world.machine.store
    for path, data in FILES.items():
        assert await read(opened, path) == data
        assert await store.has(opened.entry(path).cid)
    release = await store.release(world.release.manifest.cid)
    while release is None or not release.complete:
        await trio.lowlevel.checkpoint()
        release = await store.release(world.release.manifest.cid)
    assert not release.pinned
    assert opened.entry("model.bin").cid in world.machine.wire.announced


async def test_bytes_come_before_the_file_is_whole(world: World) -> None:
    """A reader has the beginning while a source has not sent the end."""
    source = world.source(dies_after=20 * MIB)
    opened = await world.open()
    entry, got = opened.entry("model.bin"), 0
    async with aclosing(opened.read(entry, 0, entry.size)) as pieces:
        async for piece in pieces:
            assert piece == BIG[got : got + len(piece)]
            got += len(piece)
            if got >= 4 * MIB:
                break
    source.dies_after = None
    assert await read(opened, "model.bin") == BIG


async def test_two_readers_share_what_comes(world: World) -> None:
    """A second reader of a file joins the first one's pull."""
    source = world.source()
    opened = await world.open()
    got: list[bytes] = []

    async def take() -> None:
        got.append(await read(opened, "model.bin"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(take)
    assert got == [BIG] * 3
    assert source.sent == len(BIG)


async def test_a_short_range_does_not_wait_for_a_long_one(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    """While all of a slow file comes, its end can be read at once."""
    world.source(delay=0.5)
    mock_clock.autojump_threshold = JUMP
    opened = await world.open()
    entry = opened.entry("model.bin")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, opened, "model.bin")
        await trio.sleep(3)
        begun = trio.current_time()
        assert await read(opened, "model.bin", entry.size - 100, entry.size - 50) == BIG[-100:-50]
        assert trio.current_time() - begun < 10  # all of it takes 40
        nursery.cancel_scope.cancel()


async def test_a_fetch_and_a_reader_do_not_wait_for_each_other(world: World) -> None:
    """A reader sees what a fetch brings, and a fetch takes what a reader brought."""
    source = world.source()
    opened = await world.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.machine.fetch, world.release.manifest.cid)
        assert await read(opened, "model.bin") == BIG
    assert source.sent <= sum(map(len, FILES.values())) + 8 * MIB


async def test_a_pull_that_nobody_reads_ends(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    """After a while the rest is not fetched any more, and the file is free for others."""
    world.source(delay=5.0)
    mock_clock.autojump_threshold = JUMP
    opened = await world.open()
    entry = opened.entry("model.bin")
    async with aclosing(opened.read(entry, 0, entry.size)) as pieces:
        async for _ in pieces:
            break
    assert opened.busy
    await trio.sleep(LINGER + 1)
    while opened.busy:
        await trio.lowlevel.checkpoint()
    assert not await world.machine.store.has(entry.cid)


async def test_a_liar_is_banned_and_others_asked(world: World) -> None:
    """No wrong byte reaches a reader."""
    world.source(lies=True, lies_about="/ipfs/")
    world.source()
    assert await read(await world.open(), "model.bin") == BIG
    assert list(world.machine.wire.banned) == ["peer-0"]


async def test_what_nobody_has_is_an_error(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    """A reader is told, and a later one tries anew."""
    source = world.source()
    mock_clock.autojump_threshold = JUMP
    opened = await world.open()
    source.unreachable = True
    with pytest.raises(NoSources):
        await read(opened, "model.bin")
    source.unreachable = False
    await trio.sleep(60)  # until it is found anew
    assert await read(opened, "model.bin", 0, 10) == BIG[:10]


async def test_what_is_not_there_is_not_found(world: World) -> None:
    """A path that the release does not have, and a name that nobody knows."""
    world.source()
    opened = await world.open()
    with pytest.raises(NotFound, match="no file 'nothing'"):
        opened.entry("nothing")
    with pytest.raises(NotFound, match="Nobody is called 'nobody'"):
        await world.reader.open("nobody/tiny")


async def test_a_file_that_does_not_fit_is_refused(
    world: World, machine: Machines, tmp_path: Path
) -> None:
    """The quota is kept by readers too, and the rest is readable."""
    small = await machine(8 * MIB)
    small.wire.known = world.machine.wire.known
    world.source()
    async with open_reader(small) as reader:
        opened = await reader.open(str(world.release.manifest.cid))
        with pytest.raises(QuotaExceeded):
            await read(opened, "model.bin", 0, 10)
        assert await read(opened, "config.json") == FILES["config.json"]


async def test_a_pickle_in_disguise_never_ends(
    machine: Machines, tmp_path: Path, world: World
) -> None:
    """Its last byte is held back until it was looked into, and then refused."""
    bad = b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.".ljust(
        MIB + 3, b"\0"
    )
    release = await publish_into(
        world.publisher.store, write_folder(tmp_path / "bad", {"model.safetensors": bad})
    )
    world.source()
    opened = await world.reader.open(str(release.manifest.cid))
    entry, got = opened.entry("model.safetensors"), b""
    async with aclosing(opened.read(entry, 0, entry.size)) as pieces:
        with pytest.raises(Refused):  # noqa: PT012 - it raises in the loop
            async for piece in pieces:
                got += piece
    assert len(got) < len(bad)
    with pytest.raises(Refused):
        await read(opened, "model.safetensors", 0, 10)


async def test_a_policy_that_changes_counts_at_once(world: World) -> None:
    """What is denied later is not read any more."""
    world.source()
    opened = await world.open()
    assert await read(opened, "config.json") == FILES["config.json"]
    folder = world.machine.trust
    folder.mkdir(exist_ok=True)
    deny = 'deny = ["deny.txt"]\n'
    (folder / "deny.txt").write_text(f"/ipfs/{opened.entry('config.json').cid}\n")
    (folder / "policy.toml").write_text(deny)
    await world.machine.gate.policy()
    with pytest.raises(Refused):
        await read(opened, "config.json")
    assert await read(opened, "data/shard-0.bin") == FILES["data/shard-0.bin"]


async def test_a_name_is_asked_for_once(world: World) -> None:
    """Ten files of a name are one question, and a name that is not listed is remembered too."""
    source = world.source()
    world.machine.called["alice"] = world.release.manifest.publisher
    store = world.machine.store
    opened = await world.reader.open("alice/tiny")
    assert opened.manifest.cid == world.release.manifest.cid
    asked = len(source.asked)
    assert await store.publishers.names(opened.manifest.publisher) is not None
    for _ in range(3):
        assert await world.reader.open("alice/tiny") is opened
    assert len(source.asked) == asked
    for _ in range(2):
        with pytest.raises(NotFound, match="lists no release nothing"):
            await world.reader.open("alice/nothing")


async def test_a_name_without_a_network_is_what_was_heard_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A held release of a publisher whom nobody follows is read by its name offline."""
    world.source()
    await world.machine.fetch(world.release.manifest.cid)
    publisher = world.release.manifest.publisher

    def no_network() -> None:
        raise NetworkError("This node runs without the network.")

    monkeypatch.setattr(world.machine, "network", no_network)
    opened = await world.reader.open(f"{publisher}/tiny")
    assert await read(opened, "config.json") == FILES["config.json"]
    with pytest.raises(NotFound):
        await world.reader.open(f"{publisher}/nothing")


async def test_who_holds_nothing_more_is_not_waited_for_long(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    """A source that has the statement alone is no source of files: a reader is told soon."""
    source = world.source()
    opened = await world.open()
    source.answers["/allod/v1/have/"] = b'{"complete": false, "files": {}}'
    mock_clock.autojump_threshold = JUMP
    begun = trio.current_time()
    with pytest.raises(NoSources):
        await read(opened, "data/shard-0.bin")
    assert trio.current_time() - begun < 90
