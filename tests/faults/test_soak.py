"""Nodes that work for long take no more for it: memory, descriptors and disk stay as they were.

Three nodes do what nodes do all day, again and again: publish, read a range, fetch by lane and by
stream, answer for a model, remove, collect garbage. After each round, when all of it is gone, they
are measured from outside, as a service manager would.
"""

import json
import os
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median

import httpx
import psutil
import pytest
import trio

from tests.network.models import MODEL, ask, engines, events, gguf_folder, hang_up, question
from tests.network.people import MIB, Json, Node, Person
from tests.releases import noise, write_folder

PATIENCE = httpx.Timeout(120)  # seconds; only stops a hang
TOKEN = "soak-" + "0" * 32
FILES = {"model.bin": 9 * MIB + 12345, "data/shard.bin": 5 * MIB, "config.json": 400}
RANGE = (2 * MIB + 5, 4 * MIB - 9)  # what is read of model.bin without a fetch
AGAIN = 8  # rounds after which the model is stopped and served again, and a client hangs up
FEWEST = 9  # rounds that there must be: in thirds, that two can be compared

WARM = 0.3
"""The share of the rounds in which modules are imported and caches filled: it is not looked at."""
MEMORY = 12 * MIB
"""Bytes that the median of the last third may lie over that of the first one after the warm-up:
what an allocator keeps of one round more or less."""
SLOPE = 64_000
"""Bytes a round that the fitted line may rise, over runs long enough that it says something: a
round that left one of its leaves in memory would rise by 1 MiB.

It is not zero for good reason. The publisher's list has one name more after each round: each node
holds 1.6 kB more of it, and takes 7 kB more for the moment in which it verifies the next version.
What is remembered by number fills up: 64 open releases with, for a minute, their sources (some
30 kB each), 50 jobs, the facts of 1024 releases. And the allocator's share grows: where these are
full, from round 60 on, what is in use was seen to fall while the resident bytes rose by 20 to 70 kB
a round, in steps, all of it free memory between what is in use. Over 247 rounds 28 to 47 kB were
measured. Small things that are left behind are found by counting them: see ANNOUNCED."""
SLOPE_ROUNDS = 150
FILES_OPEN = 3
"""Descriptors that a node may have open over the most it had in the first third."""
LISTED = 4096
"""Bytes of disk a round that stay for good reason: the publisher still says what it published."""
ROOM = 6 * MIB
"""Bytes of disk that databases may take more at the end: a journal of theirs grows to 4 MiB before
it is written back."""
ANNOUNCED = 4
"""Keys more that a node may announce than before: fewer than the five of one round's release."""
KEPT = ("blobs", "partial", "outlines", "manifests", "view", "temp", "quarantine")
"""The folders of a store in which a round must leave no file."""


@dataclass
class Watched:
    """A node, and what it took after each round."""

    person: Person
    node: Node
    client: httpx.AsyncClient
    memory: list[int] = field(default_factory=list)  # resident bytes
    open: list[int] = field(default_factory=list)  # descriptors
    threads: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)  # processes that it has started
    disk: list[int] = field(default_factory=list)  # bytes of its home, by blocks
    announced: list[int] = field(default_factory=list)  # keys that it keeps announced
    kept: set[Path] = field(default_factory=set)  # files of its store before the first round

    async def do(self, operation: str, **params: object) -> Json:
        """Have the running node do something, as the command line would."""
        answer = await self.client.post(f"/control/v1/{operation}", json=params)
        assert answer.status_code == 200, answer.text
        last: Json = {}
        for line in answer.iter_lines():
            last = json.loads(line) if line.strip() else last
        assert "result" in last, (self.person.name, operation, last)
        found: Json = last["result"]
        return found

    def files(self) -> set[Path]:
        """The files of its store, but for databases and what publishers say."""
        store = self.person.home / "store"
        return {file for name in KEPT for file in (store / name).rglob("*") if not file.is_dir()}

    async def measure(self) -> None:
        """Write down what the node takes now."""
        answer = await self.client.get("/metrics")
        assert answer.status_code == 200, answer.text
        keys = re.findall(r"^allod_announced_keys\{[^}]*\} (\d+)", answer.text, re.MULTILINE)
        assert len(keys) == 2, answer.text
        self.announced.append(sum(map(int, keys)))
        process = psutil.Process(self.node.running.process.pid)
        self.memory.append(process.memory_info().rss)
        self.open.append(process.num_fds())
        self.threads.append(process.num_threads())
        self.below.append(len(process.children(recursive=True)))
        self.disk.append(on_disk(self.person.home))

    def figures(self) -> str:
        """What was measured, in a line."""
        slope = linear_regression(range(len(self.memory)), self.memory).slope
        warm, early, late = thirds(self.memory)
        return (
            f"{self.person.name}: {len(self.memory)} rounds; "
            f"RSS {self.memory[0] / MIB:.1f}, {median(warm) / MIB:.1f} -> {median(early) / MIB:.1f}"
            f" -> {median(late) / MIB:.1f} MiB (all: {slope / 1000:+.1f} kB a round, after warm-up "
            f"{rise(self.memory) / 1000:+.1f}); descriptors {ends(self.open)}; "
            f"threads {ends(self.threads)}; processes {ends(self.below)}; "
            f"announced {ends(self.announced)}; "
            f"disk {self.disk[0] / MIB:.2f} -> {self.disk[-1] / MIB:.2f} MiB"
        )

    def check(self) -> None:
        """See that it stayed flat."""
        said = self.figures()
        _, early, late = thirds(self.memory)
        assert median(late) - median(early) < MEMORY, said
        if len(self.memory) >= SLOPE_ROUNDS:
            assert rise(self.memory) < SLOPE, said
        _, early, late = thirds(self.open)
        assert max(late) <= max(early) + FILES_OPEN, said
        assert self.below[-1] == self.below[0], said
        _, early, late = thirds(self.announced)
        assert max(late) <= max(early) + ANNOUNCED, said
        assert self.files() == self.kept, said
        rounds = len(self.disk) - 1
        assert self.disk[-1] - self.disk[0] < ROOM + LISTED * rounds, said


def thirds(values: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The warm-up, and of what comes after it the first and the last third."""
    warm = max(1, int(len(values) * WARM))
    rest = values[warm:]
    size = max(1, len(rest) // 3)
    return values[:warm], rest[:size], rest[-size:]


def rise(values: Sequence[int]) -> float:
    """How much a value rises a round after the warm-up, by the line that fits best."""
    rest = values[int(len(values) * WARM) :]
    return linear_regression(range(len(rest)), rest).slope


def ends(values: Sequence[int]) -> str:
    """The most in the first and in the last third after the warm-up."""
    _, early, late = thirds(values)
    return f"{max(early)} -> {max(late)}"


def on_disk(folder: Path) -> int:
    """Bytes of disk that a folder takes; a file of several names counts once."""
    found: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # a journal that went away meanwhile
                continue
            found[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


async def talk(client: httpx.AsyncClient) -> None:
    """One answer at once, and one as a stream."""
    answer = await ask(client)
    assert answer.status_code == 200, answer.text
    body = question(tokens=6, stream=True)
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert [event async for event in events(response)][-1] == {"done": True}


async def one_round(number: int, alice: Watched, readers: Sequence[Watched], folder: Path) -> None:
    """Everything once, and all of it gone again."""
    files = {path: noise(size, number * 10 + at) for at, (path, size) in enumerate(FILES.items())}
    await trio.to_thread.run_sync(write_folder, folder, files)
    said = await alice.do(
        "publish", folder=str(folder), name=f"round-{number}", license="MIT", key="alice"
    )
    ref, source = said["manifest"], alice.node.address
    start, stop = RANGE

    async def read(reader: Watched) -> None:
        query = {"ref": ref, "path": "model.bin", "peer": source}
        span = {"range": f"bytes={start}-{stop - 1}"}
        got = await reader.client.get("/control/v1/read", params=query, headers=span)
        assert got.status_code == 206, got.text
        assert got.content == files["model.bin"][start:stop]
        fetched = await reader.do("fetch", ref=ref, peers=[source], yes=True)
        assert fetched["bytes"]["total"] == sum(FILES.values())
        assert (await reader.do("verify", ref=ref))["ok"]
        assert (await reader.client.get("/metrics")).status_code == 200
        await reader.do("status")

    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(read, reader)
        nursery.start_soon(talk, alice.client)
    if number % AGAIN == AGAIN - 1:
        await hang_up(alice.node, question("Tell a long story.", tokens=500, stream=True))
        await alice.do("stop", model=MODEL)
        await alice.do("serve", ref=MODEL, context=512)
    for each in (alice, *readers):
        await each.do("rm", ref=ref)
        await each.do("gc", dry_run=False)
    for path in files:
        (folder / path).unlink()


async def soak(place: Path, seconds: float) -> list[str]:
    """Go round for so long; the figures of each node, all of which are as they should be."""
    async with AsyncExitStack() as stack:
        people = [Person(place / name) for name in ("alice", "bob", "carol")]
        with (people[2].home / "config.toml").open("a") as config:
            config.write("[lane]\nenabled = false\n")  # so bytes come by stream, too
        await people[0].publish(gguf_folder(place / "source"), "smol", "--license", "Apache-2.0")
        watched = []
        for person in people:
            person.environ["ALLOD_TOKEN"] = TOKEN
            node = await stack.enter_async_context(person.node())
            client = httpx.AsyncClient(
                base_url=node.status["http"],
                timeout=PATIENCE,
                headers={"authorization": f"Bearer {TOKEN}"},
            )
            watched.append(Watched(person, node, await stack.enter_async_context(client)))
        alice, *readers = watched
        await alice.do("serve", ref=MODEL, context=512)
        assert len(engines(alice.node)) == 1
        for each in watched:
            each.kept = each.files()
        number, end = 0, trio.current_time() + seconds
        while trio.current_time() < end:
            await one_round(number, alice, readers, place / "files")
            for each in watched:
                await each.measure()
            number += 1
        assert number >= FEWEST, f"only {number} rounds in {seconds} s"
        figures = [each.figures() for each in watched]
        print(*figures, sep="\n")
        for each in watched:
            each.check()
            assert await each.node.running.stop() == 0
        return figures


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_minute_of_work_leaves_nothing_behind(tmp_path: Path) -> None:
    """After a minute of all that nodes do, they take what they took at its beginning."""
    with trio.fail_after(390):
        await soak(tmp_path, 60)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_twenty_minutes_of_work_leave_nothing_behind(tmp_path: Path) -> None:
    """The same after twenty."""
    with trio.fail_after(1790):
        await soak(tmp_path, 1200)
