"""What goes wrong while files are read is one reader's error: no other's, and never the node's."""

from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from node.naming import resolve as resolve_name
from node.reading import open_reader, pull, reader
from node.reading.pull import LINGER
from node.reading.scouts import IDLE
from node.transfer import Transfer
from p2p.errors import (
    ConfigError,
    DiskFull,
    NoSources,
    NotFound,
    Refused,
    UsageError,
    VerificationFailed,
)
from tests.fakes import FakeNetwork, FakeSource
from tests.node.test_reading import BIG, FILES, JUMP, Machines, World, machine, read, world
from tests.publishers import Publisher
from tests.releases import MIB, noise, publish_into, write_folder

__all__ = ["machine", "world"]  # the fixtures


def say(world: World, policy: str) -> None:
    """Write the reading machine's policy."""
    world.machine.trust.mkdir(exist_ok=True)
    (world.machine.trust / "policy.toml").write_text(policy)


async def test_a_policy_that_breaks_meanwhile_is_the_readers_error(world: World) -> None:
    """It is raised by the read, and reading goes on once it is mended."""
    world.source()
    opened = await world.open()
    await opened.check(opened.entry("model.bin"))
    say(world, "this is no TOML")
    with pytest.raises(ConfigError):
        await read(opened, "model.bin", 0, 10)
    say(world, "")
    assert await read(opened, "model.bin", 0, 10) == BIG[:10]


async def test_a_disk_that_is_full_at_the_end_is_nobodys_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has read everything has it, though that could not be written down."""
    world.source()
    opened = await world.open()
    tried = trio.Event()

    async def record(*args: Any, **options: Any) -> None:
        tried.set()
        raise DiskFull("The disk is full.")

    monkeypatch.setattr(world.machine.store, "record", record)
    for path, data in FILES.items():
        assert await read(opened, path) == data
    await tried.wait()
    assert await read(await world.open(), "model.bin") == BIG


async def test_how_a_release_was_found_is_judged_each_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that has expired is refused; who gives the CID is not, before it or after it."""
    world.source()
    real, stale = resolve_name, True

    async def resolve(*args: Any, **options: Any) -> Any:
        return replace(await real(*args, **options), stale=stale)

    monkeypatch.setattr(reader, "resolve", resolve)
    name = f"{world.release.manifest.publisher}/tiny"
    opened = await world.open()
    with pytest.raises(Refused, match="expired"):
        await world.reader.open(name)
    assert await world.open() is opened
    assert not any("expired" in text for text in opened.warnings)
    assert await read(opened, "config.json") == FILES["config.json"]

    async with open_reader(world.machine) as fresh:
        with pytest.raises(Refused, match="expired"):
            await fresh.open(name)
        await fresh.open(str(world.release.manifest.cid))
        stale = False
        fresh._answers.clear()
        await fresh.open(name)


async def test_an_open_release_is_its_publishers_and_nobody_elses(world: World) -> None:
    """Who asks for it under another publisher does not get it, though it is open."""
    world.source()
    manifest = (await world.open()).manifest
    other = Publisher(130).id
    with pytest.raises(NotFound, match="not by"):
        await world.reader.open(f"{other}/tiny@{manifest.cid}")


async def test_a_reader_that_sleeps_keeps_nobody_waiting(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    """What it asked for has come; a fetch of the same file begins at once."""
    world.source()
    mock_clock.autojump_threshold = JUMP
    begun = trio.current_time()
    opened = await world.open()
    entry, got = opened.entry("model.bin"), 0
    async with aclosing(opened.read(entry, 0, 2 * MIB)) as pieces:
        got += len(await anext(pieces))
        with trio.fail_after(LINGER + 20):
            await world.machine.fetch(world.release.manifest.cid)
        assert trio.current_time() - begun < LINGER
        async for piece in pieces:
            assert piece == BIG[got : got + len(piece)]
            got += len(piece)
    assert got == 2 * MIB


async def test_a_small_file_does_not_wait_for_a_fetch(world: World) -> None:
    """A fetch has the file for itself and may not come to it for hours."""
    world.source()
    opened = await world.open()
    with trio.fail_after(60):
        async with world.machine.claims.hold({opened.entry(path).cid for path in FILES}):
            assert await read(opened, "config.json") == FILES["config.json"]


async def test_what_another_reader_asked_for_in_vain_is_its_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull ends for all of its readers; whom it brought something tries anew."""
    world.source(delay=0.02)
    opened = await world.open()
    entry = opened.entry("model.bin")

    class Poor(Transfer):
        async def run(self) -> None:
            if self.swarm.remaining < 2 * MIB:
                raise NoSources("Nobody has the end.")
            await super().run()

    monkeypatch.setattr(pull, "Transfer", Poor)
    got = 0
    async with aclosing(opened.read(entry, 0, 12 * MIB)) as pieces:
        async for piece in pieces:
            assert piece == BIG[got : got + len(piece)]
            if not got:
                with pytest.raises(NoSources):
                    await read(opened, "model.bin", entry.size - 10, entry.size)
            got += len(piece)
    assert got == 12 * MIB


async def test_a_release_with_an_empty_file_is_whole_in_the_end(
    world: World, tmp_path: Path
) -> None:
    """Nobody reads bytes of a file that has none."""
    files = {"model.bin": noise(2 * MIB, 7), "empty.txt": b"", "again.txt": b""}
    release = await publish_into(world.publisher.store, write_folder(tmp_path / "empty", files))
    world.source()
    opened = await world.reader.open(str(release.manifest.cid))
    for path, data in files.items():
        assert await read(opened, path) == data
    found = None
    with trio.fail_after(60):
        while found is None or not found.complete:
            await trio.lowlevel.checkpoint()
            found = await world.machine.store.release(release.manifest.cid)


@pytest.mark.parametrize("more", [-10, 10])
async def test_a_manifest_that_lies_of_a_size_is_found_out(world: World, more: int) -> None:
    """Neither is its reader given a part for the whole, nor does it wait for bytes that are none.

    Also where the file, or its Outline, is here already.
    """
    world.source()
    opened = await world.open()
    entry = opened.entry("data/shard-0.bin")
    await read(opened, entry.path)
    for path in ("data/shard-0.bin", "model.bin"):
        entry = replace(opened.entry(path), size=opened.entry(path).size + more)
        with trio.fail_after(60), pytest.raises(VerificationFailed, match="The manifest says"):
            async for _ in opened.read(entry, 0, entry.size):
                pass


async def test_hints_count_where_a_release_is_open(world: World, machine: Machines) -> None:
    """A wrong one is an error once, and a right one is asked."""
    source = world.source()
    await world.open()
    world.machine.wire.known.clear()
    cid = str(world.release.manifest.cid)
    async with open_reader(world.machine) as fresh:
        opened = await fresh.open(cid, peers=["/nonsense"])
        with pytest.raises(UsageError):
            await read(opened, "model.bin", 0, 10)
        world.machine.wire.by_address["/there"] = source
        assert await fresh.open(cid, peers=["/there"]) is opened
        assert await read(opened, "model.bin", 0, 10) == BIG[:10]
        with pytest.raises(UsageError):
            await fresh.open(cid, peers=["/nonsense"])
        world.machine.wire.by_address["/here"] = other = FakeSource("late", world.publisher.store)
        source.unreachable = True
        opened = await fresh.open(cid, peers=["/here"])
        assert await read(opened, "model.bin", 9 * MIB, 10 * MIB) == BIG[9 * MIB : 10 * MIB]
        assert other.sent


async def test_who_is_found_late_is_found(
    world: World, machine: Machines, mock_clock: trio.testing.MockClock
) -> None:
    """A look round that takes long is waited for."""
    mock_clock.autojump_threshold = JUMP
    source = world.source()

    class Slow(FakeNetwork):
        async def providers(self, cid: Any) -> Any:
            await trio.sleep(IDLE + 1)
            return [source]

    world.machine.wire = Slow()
    with trio.fail_after(10 * IDLE):
        assert (await world.open()).manifest.cid == world.release.manifest.cid


async def test_what_is_denied_meanwhile_comes_to_an_end(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    """A reader in the middle of a file gets no more of it."""
    world.source(delay=0.1)
    mock_clock.autojump_threshold = JUMP
    opened = await world.open()
    entry, got = opened.entry("model.bin"), 0
    say(world, 'deny = ["deny.txt"]\n')
    (world.machine.trust / "deny.txt").write_text("")
    async with aclosing(opened.read(entry, 0, entry.size)) as pieces:
        with pytest.raises(Refused):  # noqa: PT012 - it raises in the loop
            async for piece in pieces:
                if not got:
                    (world.machine.trust / "deny.txt").write_text(f"/ipfs/{entry.cid}\n")
                    await world.machine.gate.policy()
                got += len(piece)
    assert got < entry.size


async def test_a_file_that_somebody_spoils_is_an_error(world: World) -> None:
    """Its reader does not look again and again for what was cut off."""
    world.source()
    opened = await world.open()
    entry = opened.entry("model.bin")
    async with aclosing(opened.read(entry, 0, 2 * MIB)) as pieces:
        await anext(pieces)
        held = await world.machine.store.held(entry.cid)
        assert held is not None
        held.path.unlink()
        with trio.fail_after(60), pytest.raises(Exception, match="is not what the store made"):
            await read(opened, "model.bin", 0, 10)
