"""Limits hold on real nodes, and ten receivers get the same from one sender."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.network.people import MIB, Person, Program
from tests.releases import noise, write_folder

UP = 20_000_000  # bytes/s
SIZE = 48 * MIB
RECEIVERS = 10


def done(fetch: Program) -> int:
    """How many bytes a fetch has said that it has."""
    said = [event["progress"] for event in fetch.events() if "progress" in event]
    return max((one["done"] for one in said if one["phase"] == "fetch"), default=0)


@pytest.mark.long
@pytest.mark.parametrize("lane", ["true", "false"])
async def test_a_rate_is_kept_and_shared_fairly(tmp_path: Path, lane: str) -> None:
    """Ten fetches at once get 20 MB/s together, within a tenth, and each about as much."""
    folder = write_folder(tmp_path / "files", {"weights.bin": noise(SIZE)})
    with trio.fail_after(115):
        async with AsyncExitStack() as stack:
            sender = Person(tmp_path / "sender")
            with (sender.home / "config.toml").open("a") as config:
                config.write(f"[limits]\nup = '{UP}'\n[lane]\nenabled = {lane}\n")
            release = await sender.publish(folder, "tiny")
            node = await stack.enter_async_context(sender.node())
            people = [Person(tmp_path / f"r{number}") for number in range(RECEIVERS)]
            for person in people:
                await stack.enter_async_context(person.node())
            fetches = [
                await stack.enter_async_context(
                    person.start("fetch", release["manifest"], "--peer", node.address)
                )
                for person in people
            ]
            for fetch in fetches:
                await fetch.fetched(0.1)
            start, before = trio.current_time(), sum(map(done, fetches))
            await fetches[0].fetched(0.8)
            seconds, after = trio.current_time() - start, [done(fetch) for fetch in fetches]
    rate = (sum(after) - before) / seconds
    assert 0.88 * UP < rate < 1.12 * UP, f"{rate / 1e6:.1f} MB/s over {seconds:.0f} s"
    assert min(after) > 0.6 * max(after), [f"{size / SIZE:.2f}" for size in after]
