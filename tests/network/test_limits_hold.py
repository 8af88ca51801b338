"""What the owner gave is never passed: the rate of uploads, and the room on the disk."""

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from node.keyring import Keyring
from node.reading import open_reader
from node.store import Store, durable, open_store
from p2p.address import Address
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.errors import NotFound, QuotaExceeded
from p2p.http import FileBody, HttpLimits, Request, Response, content_range, parse_range
from p2p.lane import Door, LaneServer, LaneSettings, open_lane, open_lane_server
from p2p.rates import BURST, Rates
from p2p.sources import PeerSource
from tests.fakes import FakeSource, Machine
from tests.network.hosts import Crew, crew
from tests.network.people import Json, Person
from tests.releases import MIB, Published, noise, publish_into, write_folder

# -- bytes a second

RATE = 5_000_000
TOKEN = "receiver-" + "0" * 16
PART = 5 * MIB // 2  # bytes that each receiver of the short test gets


async def take_by_stream(hosts: Crew, server: Any, file: CID) -> None:
    """Receive a part over a libp2p stream."""
    taker = await hosts.host()
    source = PeerSource(taker.host, server.host.peer_id, server.host.addresses)
    async with source.open() as session:
        got = 0
        async for piece in session.read(file, 0, PART):
            got += len(piece)
    assert got == PART


async def take_by_lane(server: LaneServer, peer: str, file: CID) -> None:
    """Receive a part over a lane."""
    offer = server.offer(peer, "tls")
    lane = await open_lane(
        peer, offer, offer.tickets[0], Rates().of(peer), HttpLimits(), lambda address: True
    )

    def work() -> None:
        lane.ask((file, 0, PART))
        assert lane.answer() == PART
        lane.fill(memoryview(bytearray(PART)))

    try:
        await lane.in_thread(work)
    finally:
        lane.close()


async def test_streams_and_lanes_share_one_rate(tmp_path: Path) -> None:
    """Two receivers by stream and two by lane get no more a second than the owner gave, in all.

    That all of it comes says that none is starved; how soon at the earliest is counted in bytes.
    """
    data = noise(PART)
    file, place = CID.of(data, Codec.RAW), tmp_path / "file"
    await trio.Path(place).write_bytes(data)

    async def handler(request: Request) -> Response:
        span = parse_range(request.headers.get("range"), PART)
        if request.path != f"/ipfs/{file}" or span is None:
            raise NotFound("Not here.")
        start, stop = span
        headers = {"content-range": content_range(start, stop, PART)}
        return Response(206, headers, FileBody(place, start, stop - start))

    async with crew() as hosts:
        sender = await hosts.host()
        host = sender.host
        host.rates.change(up=RATE)
        host.set_handler(handler)
        door = Door(
            host.charged(handler),
            host.fault,
            host.banned,
            lambda: [Address.parse("/ip4/127.0.0.1/tcp/1")],
        )
        settings = LaneSettings(hosts=("127.0.0.1",))
        async with open_lane_server(door, settings, host.rates) as lanes:
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(2):
                    nursery.start_soon(take_by_stream, hosts, sender, file)
                    nursery.start_soon(take_by_lane, lanes, f"lane-{number}", file)
            spent = trio.current_time() - begun
        pieces = 4 * host.rates.of("lane-0").up.piece  # each may send one more than is paid for
        sent = Counter(host.rates.sent)
    assert sent["lane"] >= 2 * PART
    assert sent["stream"] >= 2 * PART
    assert sent.total() - pieces <= RATE * (spent + BURST), f"{sent} in {spent:.2f} s"


async def test_what_a_lane_says_in_short_counts_too(tmp_path: Path) -> None:
    """Answers from memory, an Outline's many megabytes among them, go at the rate as well."""
    body = noise(MIB)
    rates = Rates()
    rates.change(up=RATE)

    async def handler(request: Request) -> Response:
        return Response(206, {"content-range": content_range(0, MIB, MIB)}, body)

    async def fault(peer: str, error: BaseException) -> None:
        raise AssertionError from error

    told = [Address.parse("/ip4/127.0.0.1/tcp/1")]
    door = Door(handler, fault, lambda peer: False, lambda: told)
    with trio.fail_after(60):
        settings = LaneSettings(hosts=("127.0.0.1",))
        async with open_lane_server(door, settings, rates) as lanes:
            offer = lanes.offer("peer", "tls")
            lane = await open_lane(
                "peer", offer, offer.tickets[0], Rates().of("peer"), HttpLimits(), lambda one: True
            )

            def work() -> None:
                for _ in range(4):
                    lane.ask((CID.of(body, Codec.RAW), 0, MIB))
                    lane.answer()
                    lane.fill(memoryview(bytearray(MIB)))

            try:
                begun = trio.current_time()
                await lane.in_thread(work)
                spent = trio.current_time() - begun
            finally:
                lane.close()
    assert rates.sent["lane"] >= 4 * MIB
    assert 4 * MIB - rates.of("peer").up.piece <= RATE * (spent + BURST)


async def received(client: httpx.AsyncClient) -> tuple[int, float]:
    """How many bytes a node says that it has had from peers, and when it said so."""
    said = (await client.get("/metrics")).text.splitlines()
    count = sum(
        int(float(line.split()[-1]))
        for line in said
        if line.startswith("allod_traffic_bytes_total{") and "received" in line
    )
    return count, trio.current_time()


class Receiver:
    """A node that fetches when its door is asked to, and how far it is."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.done = 0
        self._more = trio.Event()

    async def fetch(self, ref: str, source: str) -> None:
        """Fetch, and hear of it all the while."""
        params = {"ref": ref, "peers": [source], "yes": True}
        async with self.client.stream("POST", "/control/v1/fetch", json=params) as answer:
            last: Json = {}
            async for line in answer.aiter_lines():
                last = json.loads(line) if line.strip() else last
                if last.get("progress", {}).get("phase") == "fetch":
                    self.done = last["progress"]["done"]
                    self._ring()
        assert "result" in last, last

    async def wait(self, size: int) -> None:
        """Return when so many bytes are here."""
        while self.done < size:
            await self._more.wait()

    def _ring(self) -> None:
        self._more.set()
        self._more = trio.Event()


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize("lane", ["true", "false"])
async def test_a_rate_is_kept_for_twenty_seconds(tmp_path: Path, lane: str) -> None:
    """``allod up --up 5MB/s`` gives eight receivers that much together, within a tenth."""
    size, receivers = 24 * MIB, 8
    folder = write_folder(tmp_path / "files", {"weights.bin": noise(size)})
    with trio.fail_after(490):
        async with AsyncExitStack() as stack:
            sender = Person(tmp_path / "sender")
            sender.environ["ALLOD_LANE_ENABLED"] = lane
            ref = (await sender.publish(folder, "tiny"))["manifest"]
            source = await stack.enter_async_context(sender.node("--up", "5MB/s"))
            people = [Person(tmp_path / f"r{number}") for number in range(receivers)]
            takers = []
            for person in people:
                person.environ["ALLOD_TOKEN"] = TOKEN
                node = await stack.enter_async_context(person.node())
                headers = {"authorization": f"Bearer {TOKEN}"}
                client = httpx.AsyncClient(
                    base_url=node.status["http"], headers=headers, timeout=None
                )
                takers.append(Receiver(await stack.enter_async_context(client)))
            async with trio.open_nursery() as nursery:
                for taker in takers:
                    nursery.start_soon(taker.fetch, ref, source.address)
                for taker in takers:
                    await taker.wait(size // 16)
                begun = trio.current_time()
                before = [await received(taker.client) for taker in takers]
                await takers[0].wait(size - size // 16)
                seconds = trio.current_time() - begun
                after = [await received(taker.client) for taker in takers]
    rate = sum((b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(before, after, strict=True))
    print(f"lane={lane}: {rate / 1e6:.3f} MB/s over {seconds:.1f} s")
    assert seconds > 20
    assert 0.9 * RATE < rate < 1.1 * RATE, f"{rate / 1e6:.2f} MB/s over {seconds:.1f} s"


# -- room on the disk

FILE = 4 * MIB
QUOTA = 2 * FILE + FILE // 2  # for two of three


class Watch:
    """What a store's files take, looked at behind every step that may make it more."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 0
        self.looks = 0
        self._folders = [store.folder / name for name in ("blobs", "partial", "temp", "quarantine")]
        self._lock = threading.Lock()
        for name in ("write_at", "truncate", "rename", "link", "create"):
            monkeypatch.setattr(durable, name, self._watched(getattr(durable, name)))

    def _watched(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(step)
        def after(*arguments: Any) -> Any:
            try:
                return step(*arguments)
            finally:
                self.look()

        return after

    def look(self) -> int:
        """Bytes that the files take now; one with names outside the store takes nothing."""
        found: dict[int, int] = {}
        with self._lock:
            for folder in self._folders:
                for file in folder.rglob("*"):
                    try:
                        stat = file.lstat()
                    except FileNotFoundError:  # moved meanwhile
                        continue
                    if file.is_file():
                        found[stat.st_ino] = stat.st_blocks * 512
            self.looks += 1
            self.most = max(self.most, sum(found.values()))
        return sum(found.values())


class House:
    """A machine with little room, and a publisher with more than fits."""

    def __init__(self, machine: Machine, publisher: Machine, watch: Watch) -> None:
        self.machine = machine
        self.publisher = publisher
        self.watch = watch
        self.refused: list[QuotaExceeded] = []
        self.done: list[str] = []

    async def trying(self, name: str, work: Callable[[], Any]) -> None:
        """Do something that may not fit."""
        try:
            await work()
            self.done.append(name)
        except QuotaExceeded as exc:
            self.refused.append(exc)

    async def check(self, releases: list[Published]) -> None:
        """See that the quota was held all the time, and that what fitted is whole."""
        store = self.machine.store
        assert self.watch.looks
        assert self.watch.most <= QUOTA, f"{self.watch.most:,} of {QUOTA:,}"
        for error in self.refused:
            assert error.code == "QUOTA"
            assert "quota" in error.message
            assert "gc" in error.next
        assert (await store.verify()).bad == []
        usage = await store.usage()
        assert usage.bytes <= QUOTA
        assert usage.bytes >= self.watch.look()
        for number, release in enumerate(releases):
            held = await store.has_many({file.cid for file in release.manifest.files})
            assert bool(held) == (f"fetch {number}" in self.done), self.done


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A store of a quota that is watched, on a network of one publisher."""

    @asynccontextmanager
    async def machine(name: str, quota: int | None) -> AsyncIterator[Machine]:
        async with open_store(tmp_path / name, quota=quota, reserve=0) as store:
            yield Machine(store, Keyring(tmp_path / f"{name}.keys"))

    async with machine("publisher", None) as publisher, machine("small", QUOTA) as small:
        small.wire.known.append(FakeSource("peer", publisher.store, delay=0.001))
        yield House(small, publisher, Watch(small.store, monkeypatch))


async def published(house: House, folder: Path, count: int) -> list[Published]:
    """Releases of one file each, all at the publisher's."""
    found = []
    for number in range(count):
        files = write_folder(folder / str(number), {"model.bin": noise(FILE, number)})
        found.append(await publish_into(house.publisher.store, files, name=f"r{number}"))
    return found


async def test_three_fetches_at_once_and_room_for_two(house: House, tmp_path: Path) -> None:
    """Two end well, one is told that it does not fit; at no moment is more on the disk."""
    releases = await published(house, tmp_path / "files", 3)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number, release in enumerate(releases):
                cid = release.manifest.cid

                async def fetch(cid: CID = cid) -> None:
                    await house.machine.fetch(cid)

                nursery.start_soon(house.trying, f"fetch {number}", fetch)
    assert len(house.done) == 2
    assert len(house.refused) == 1
    await house.check(releases)
    # With room made the third one fits.
    gone = next(n for n in range(3) if f"fetch {n}" in house.done)
    await house.machine.store.remove(releases[gone].manifest.cid)
    await house.machine.store.gc()
    left = next(n for n in range(3) if f"fetch {n}" not in house.done)
    await house.machine.fetch(releases[left].manifest.cid)
    assert house.watch.most <= QUOTA


async def test_reads_imports_and_fetches_at_once(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes in, and however, it is in one account: read, copied in, kept, fetched."""
    monkeypatch.setattr(durable, "clone", lambda source, target: False)
    monkeypatch.setattr(durable, "link", lambda source, target: False)  # as on another disk
    releases = await published(house, tmp_path / "files", 4)
    store = house.machine.store
    copied = write_folder(tmp_path / "mine", {"a.bin": noise(FILE, 7), "b.bin": noise(FILE, 8)})

    async def fetch() -> None:
        await house.machine.fetch(releases[0].manifest.cid)

    async with open_reader(house.machine) as reader:

        async def read(number: int) -> None:
            opened = await reader.open(str(releases[number].manifest.cid))
            entry = opened.entry("model.bin")
            async for _ in opened.read(entry, MIB, 2 * MIB):
                pass

        async def bring_in() -> None:
            files = [(copied / name, name) for name in ("a.bin", "b.bin")]
            await store.add_many(files, Profile.FIXED_1M)

        async def keep() -> None:
            await store.add_bytes(noise(FILE, 9), Profile.FIXED_1M)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.trying, "fetch 0", fetch)
                nursery.start_soon(house.trying, "import", bring_in)
                nursery.start_soon(house.trying, "keep", keep)
                for number in (1, 2):
                    nursery.start_soon(house.trying, f"read {number}", lambda n=number: read(n))
    assert house.refused
    assert house.done
    await house.check(releases[:1])


@pytest.mark.long
async def test_a_real_node_holds_its_quota(tmp_path: Path) -> None:
    """Three commands fetch at once into a node with room for two: exit code 8, and what to do."""
    with trio.fail_after(100):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        bob.environ["ALLOD_STORE_QUOTA"] = str(QUOTA)
        refs = []
        for number in range(3):
            files = write_folder(tmp_path / f"f{number}", {"model.bin": noise(FILE, number)})
            refs.append((await alice.publish(files, f"r{number}"))["manifest"])
        codes: list[int] = []
        async with alice.node("--up", "8MB/s") as source, bob.node():

            async def fetch(ref: str) -> None:
                async with bob.start("fetch", ref, "--peer", source.address) as command:
                    codes.append(await command.ended())
                    if codes[-1]:
                        error = (await command.answer())["error"]
                        assert error["code"] == "QUOTA"
                        assert "allod gc" in error["next"]

            async with trio.open_nursery() as nursery:
                for ref in refs:
                    nursery.start_soon(fetch, ref)
            assert sorted(codes) == [0, 0, 8]
            assert (await bob.run("status"))["store"]["bytes"] <= QUOTA
            assert (await bob.run("verify"))["leaves"]["bad"] == 0
