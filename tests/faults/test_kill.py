"""A fetch is killed, and killed again: the same command goes on where it was."""

import os
from pathlib import Path

import pytest
import trio

from tests.network.people import Json, Node, Person, Program, same_files
from tests.releases import MIB

SLACK = 64 * MIB  # what two kills may cost: what was on its way, and leaves not yet whole
SHORT_SLACK = 16 * MIB  # the same where nothing is on its way any more


def write_noise(file: Path, size: int) -> None:
    """A large file, written piece by piece."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        for _ in range(size // MIB):
            stream.write(os.urandom(MIB))


async def reached(fetch: Program, size: int, share: float) -> None:
    """Wait until a fetch, perhaps resumed, says that so much of the whole release is here."""

    def enough(event: Json) -> bool:
        seen = event.get("progress")
        if not seen or seen["phase"] != "fetch":
            return False
        return bool(size - (seen["total"] - seen["done"]) >= share * size)

    await fetch.event(enough)


async def finish(reader: Person, ref: str, source: Node, folder: Path, slack: int) -> None:
    """The last run of the command: it brings the rest, and all in all little came twice."""
    size = (folder / "model.bin").stat().st_size
    answer = await reader.run("fetch", ref, "--peer", source.address)
    assert answer["bytes"]["local"] >= 0.8 * size - slack
    assert answer["bytes"]["local"] + answer["bytes"]["fetched"] == size
    same_files(Path(answer["path"]), folder)
    assert (await reader.run("verify"))["leaves"]["bad"] == 0
    assert size <= await source.sent() <= size + slack


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_fetch_of_a_gibibyte_killed_twice(tmp_path: Path) -> None:
    """SIGKILL at 50 % and at 80 % of 1 GiB in full flow: at most 64 MiB are sent again."""
    size = 1024 * MIB
    with trio.fail_after(590):
        await trio.to_thread.run_sync(write_noise, tmp_path / "big" / "model.bin", size)
        alice, reader = Person(tmp_path / "alice"), Person(tmp_path / "reader")
        release = (await alice.publish(tmp_path / "big", "big"))["manifest"]
        async with alice.hostile("honest") as source:
            for share in (0.5, 0.8):
                async with reader.start("fetch", release, "--peer", source.address) as fetch:
                    await reached(fetch, size, share)
                    await fetch.kill()
            await finish(reader, release, source, tmp_path / "big", SLACK)


async def test_a_fetch_killed_twice(tmp_path: Path) -> None:
    """SIGKILL at 50 % and at 80 % of 128 MiB: the rest comes, and little of it twice."""
    size = 128 * MIB
    with trio.fail_after(110):
        await trio.to_thread.run_sync(write_noise, tmp_path / "big" / "model.bin", size)
        alice, reader = Person(tmp_path / "alice"), Person(tmp_path / "reader")
        release = (await alice.publish(tmp_path / "big", "big"))["manifest"]
        async with alice.hostile("honest", "--gate", str(size // 2)) as source:
            for number, more in ((1, 0.3 * size), (2, size)):
                async with reader.start("fetch", release, "--peer", source.address) as fetch:
                    # The gate keeps a quick machine from being done before it is killed.
                    assert await source.running.answer(number) == {"did": "honest"}
                    await fetch.kill()
                await source.running.tell(f"gate {int(more)}")
            await source.running.tell("go")
            await finish(reader, release, source, tmp_path / "big", SHORT_SLACK)
