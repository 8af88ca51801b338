"""A fetch by lane: simulated streams, real stores, and real lanes that misbehave."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from node.api.peer import PeerApi
from node.fetch import fetch
from node.haul import open_ways
from node.keyring import Keyring
from node.messages import Event, FetchParams, Note, Progress
from node.store import Store
from p2p.address import Address
from p2p.chunking import Profile
from p2p.errors import DiskFull, NoSources
from p2p.http import FileBody, HttpLimits, Request, Response
from p2p.lane import Door, Lane, LaneLimits, LaneServer, LaneSettings, open_lane, open_lane_server
from p2p.rates import Rates
from tests.fakes import FakeSource, Machine, bytes_of
from tests.node.conftest import Stores
from tests.releases import MIB, noise, publish_into, write_folder

FILES = {
    "model.bin": noise(17 * MIB + 12345, 1),
    "data/shard-0.bin": noise(3 * MIB, 2),
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
}
SIZE = sum(len(data) for data in FILES.values())


@dataclass(eq=False)
class LaneSource(FakeSource):
    """A FakeSource with lanes; what is wrong with those is ``trouble``."""

    trouble: str = ""
    rates: Rates = field(default_factory=Rates)
    faults: list[BaseException] = field(default_factory=list)
    server: LaneServer = field(init=False)
    opened: int = 0
    used: trio.Event = field(default_factory=trio.Event)

    async def open_lane(self) -> Lane | None:  # type: ignore[override]
        self.opened += 1
        if self.trouble == "once" and self.opened > 2:
            return None
        offer = self.server.offer(self.peer, "tls")
        return await open_lane(
            self.peer, offer, offer.tickets[0], self.rates.of(self.peer),
            HttpLimits(stall=1 if self.trouble == "stalls" else 60), lambda address: True,
        )  # fmt: skip

    async def answer(self, request: Request) -> Response:
        response = await PeerApi(self.store)(request)
        self.used.set()
        body = response.body
        if not isinstance(body, FileBody) or body.length < MIB:
            return response
        if self.trouble == "lies":
            data = bytearray(await trio.to_thread.run_sync(bytes_of, body))
            data[len(data) // 2] ^= 1
            return Response(206, response.headers, bytes(data))
        if self.trouble in ("dies", "once"):  # the head promises more than comes
            trio.lowlevel.spawn_system_task(self._drop)
            self.rates_of_sender.change(up=20 * MIB)
        if self.trouble == "stalls":
            await trio.sleep_forever()
        return response

    rates_of_sender: Rates = field(default_factory=Rates)

    async def _drop(self) -> None:
        await trio.sleep(0.1)
        self.server.drop(self.peer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def fault(peer: str, error: BaseException) -> None:
            self.faults.append(error)

        here = [Address.parse("/ip4/127.0.0.1/tcp/1")]
        door = Door(self.answer, fault, lambda peer: False, lambda: here)
        settings = LaneSettings(
            hosts=("127.0.0.1",), limits=LaneLimits(http=HttpLimits(stall=1, send=2))
        )
        async with open_lane_server(door, settings, self.rates_of_sender) as self.server:
            yield


@dataclass
class World:
    """A publisher's release, a reader, and lanes between them."""

    giver: Store
    reader: Machine
    ref: object
    stack: AsyncExitStack

    async def source(self, peer: str = "peer-0", **behaviour: Any) -> LaneSource:
        source = LaneSource(peer, self.giver, **behaviour)
        await self.stack.enter_async_context(source.running())
        self.reader.wire.known.append(source)
        return source


@pytest.fixture
def make_world(new_store: Stores, tmp_path: Path) -> Callable[[], Any]:
    """Make the world: a context, so that lanes end with the test's body."""

    @asynccontextmanager
    async def make() -> AsyncIterator[World]:
        giver, taker = await new_store(), await new_store()
        release = await publish_into(giver, write_folder(tmp_path / "tiny", FILES))
        reader = Machine(taker, Keyring(tmp_path / "keys"))
        with trio.fail_after(60):
            async with AsyncExitStack() as stack:
                yield World(giver, reader, release.manifest.cid, stack)

    return make


def same(path: str) -> bool:
    return all((Path(path) / name).read_bytes() == data for name, data in FILES.items())


def by_kind(got: dict[str, Any]) -> dict[str, int]:
    return {one["kind"]: one["bytes"] for one in got["sources"]}


async def test_a_fetch_goes_by_lane(make_world: Callable[[], Any]) -> None:
    """All bytes go by lane where there is one, and no thread is left afterwards."""
    async with make_world() as world:
        source = await world.source()
        got = await world.reader.fetch(world.ref)
        assert by_kind(got) == {"lane": SIZE}
        assert same(got["path"])
        assert source.sent == 0
        assert (await world.reader.store.verify()).bad == []
        while len(source.server):  # noqa: ASYNC110 - a real thread's end rings no bell
            await trio.sleep(0.005)
        assert source.faults == []


async def test_a_lane_that_dies_in_a_range_is_carried_on_by_stream(
    make_world: Callable[[], Any],
) -> None:
    """Both kinds have their bytes, none is asked for twice, and nobody hears of an error."""
    async with make_world() as world:
        source = await world.source(trouble="once")
        got = await world.reader.fetch(world.ref)
        assert same(got["path"])
        kinds = by_kind(got)
        assert kinds["lane"] > 0
        assert kinds["stream"] > 0
        assert sum(kinds.values()) == SIZE
        assert source.sent < SIZE
        notes = [event for event in world.reader.events if isinstance(event, Note)]
        assert [note for note in notes if note.level != "info"] == []


async def test_a_liar_on_a_lane_is_banned_and_nothing_of_it_stays(
    make_world: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong leaf by lane bans its sender like one by stream."""
    monkeypatch.setattr("node.crew.LOOKUP_AGAIN", 0.05)
    async with make_world() as world:
        await world.source(trouble="lies")
        with pytest.raises(NoSources, match="wrong bytes"):
            await world.reader.fetch(world.ref)
        assert "peer-0" in world.reader.wire.banned
        assert (await world.reader.store.verify()).bad == []


@pytest.mark.parametrize("trouble", ["", "lies"])
async def test_many_small_files_come_in_one_breath(
    make_world: Callable[[], Any], tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files are asked for together, each is checked, and a wrong one names its file."""
    monkeypatch.setattr("node.crew.LOOKUP_AGAIN", 0.05)
    files = {f"part-{number}.bin": noise(1000 + number, number) for number in range(300)}
    files["part-77.bin"] = noise(MIB, 9)  # a source that lies does so about files of 1 MiB
    async with make_world() as world:
        release = await publish_into(world.giver, write_folder(tmp_path / "many", files))
        ref = release.manifest.cid
        await world.source(trouble=trouble)
        if not trouble:
            got = await world.reader.fetch(ref)
            assert by_kind(got) == {"lane": sum(map(len, files.values()))}
        else:
            with pytest.raises(NoSources, match=r"wrong bytes\. \(in part-77\.bin\)"):
                await world.reader.fetch(ref)
        assert (await world.reader.store.verify()).bad == []


async def test_a_lane_that_stalls_holds_nothing_up(make_world: Callable[[], Any]) -> None:
    """Another source reads what a stalled lane was to read."""
    async with make_world() as world:
        await world.source("slow", trouble="stalls")
        await world.source("quick")
        got = await world.reader.fetch(world.ref)
        assert same(got["path"])


async def test_a_cancelled_fetch_leaves_no_thread_and_goes_on(
    make_world: Callable[[], Any],
) -> None:
    """A cancel in the middle of a range ends both threads of each lane; what came is kept."""
    async with make_world() as world:
        source = await world.source()
        source.rates_of_sender.change(up=4 * MIB)
        before = threading.active_count()
        with trio.CancelScope() as scope:

            def report(event: Event) -> None:
                if isinstance(event, Progress) and event.phase == "fetch" and event.done >= 2 * MIB:
                    scope.cancel()

            await fetch(FetchParams(ref=str(world.ref)), world.reader, report)
        assert scope.cancelled_caught
        while len(source.server):  # noqa: ASYNC110 - a real thread's end rings no bell
            await trio.sleep(0.005)
        assert threading.active_count() <= before + 8  # trio keeps idle ones for a while
        source.rates_of_sender.change(up=None)
        got = await world.reader.fetch(world.ref)
        assert same(got["path"])
        assert got["bytes"]["local"] >= MIB


async def test_a_download_limit_holds_on_a_lane(make_world: Callable[[], Any]) -> None:
    """The receiver's limit slows the lane down to it."""
    async with make_world() as world:
        source = await world.source()
        source.rates.change(down=10 * MIB)
        start = trio.current_time()
        await world.reader.fetch(world.ref)
        assert trio.current_time() - start > 0.8 * SIZE / (10 * MIB) - 0.5


async def test_threads_write_until_the_file_is_whole(new_store: Stores, tmp_path: Path) -> None:
    """What a thread verifies is written at once, a wrong leaf never, and nothing after commit."""
    data = noise(3 * MIB + 5, 3)
    file = tmp_path / "f"
    await trio.Path(file).write_bytes(data)
    giver, taker = await new_store(), await new_store()
    outline = (await giver.add(file, "f", Profile.FIXED_1M)).outline
    view = memoryview(data)
    async with taker.open_partial(outline) as partial:
        assert partial.write_leaves(0, view[: 2 * MIB]) == (2, None)
        assert not partial.have
        assert partial.note_leaves(0, 2) == 2 * MIB
        assert partial.note_leaves(0, 2) == 0
        wrong = bytes(MIB)
        assert partial.write_leaves(2, memoryview(wrong)) == (2, 2)
        assert partial.write_leaves(2, view[2 * MIB :]) == (4, None)
        partial.note_leaves(2, 4)
        await partial.commit()
        assert partial.write_leaves(0, view[:MIB]) == (1, None)
    held = await taker.held(outline.root)
    assert held is not None
    assert await trio.Path(held.path).read_bytes() == data


async def test_a_full_disk_is_said_so(
    new_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that cannot write says why in the store's words."""
    file = tmp_path / "f"
    await trio.Path(file).write_bytes(noise(2 * MIB, 3))
    giver, taker = await new_store(), await new_store()
    outline = (await giver.add(file, "f", Profile.FIXED_1M)).outline

    def full(fd: int, data: object, offset: int) -> None:
        raise OSError(28, "No space left on device")

    async with taker.open_partial(outline) as partial:
        with monkeypatch.context() as patch:
            patch.setattr("node.store.durable.write_at", full)
            with pytest.raises(DiskFull):
                partial.write_leaves(0, memoryview(noise(2 * MIB, 3)))
        assert not partial.have


class SlowDoor(FakeSource):
    """A source whose lane never opens."""

    def __init__(self) -> None:
        super().__init__("slow", store=None)  # type: ignore[arg-type]
        self.knocked = trio.Event()

    async def open_lane(self) -> Lane | None:  # type: ignore[override]
        self.knocked.set()
        await trio.sleep_forever()
        return None


async def test_a_cancel_while_the_first_lane_opens_is_clean() -> None:
    """Whoever is cancelled while it waits for its first lane leaves no task behind."""
    source = SlowDoor()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                async with open_ways(source):
                    pytest.fail("there is no lane to be had in this moment")

            nursery.start_soon(work)
            await source.knocked.wait()
            nursery.cancel_scope.cancel()
    assert nursery.child_tasks == frozenset()
