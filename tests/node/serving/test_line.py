"""Slots, and the queue before them."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.serving.line import MAX_RETRY, Line, Load
from p2p.errors import Busy


async def test_slots_then_places_then_no() -> None:
    """One is answered, three wait in turn, the next is told when to come again."""
    line, order, release = Line("m", 1, 3), [], trio.Event()

    async def one(number: int) -> None:
        async with line.slot():
            order.append(number)
            await release.wait()

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(one, number)
            await wait_all_tasks_blocked()
        assert line.load() == Load(1, 1, 3)
        with pytest.raises(Busy, match="1 requests are answered and 3 wait") as caught:
            async with line.slot():
                pass
        assert 1 <= caught.value.retry_after <= MAX_RETRY
        release.set()
    assert order == [0, 1, 2, 3]
    assert line.load() == Load(1, 0, 0)


async def test_who_gives_up_leaves_its_place() -> None:
    """A cancelled request frees its slot, or its place in the queue."""
    line, held = Line("m", 1, 1), trio.CancelScope()

    async def hold() -> None:
        with held:
            async with line.slot():
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        waiting = trio.CancelScope()

        async def wait() -> None:
            with waiting:
                async with line.slot():
                    raise AssertionError("nobody left")

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        waiting.cancel()
        await wait_all_tasks_blocked()
        assert line.load() == Load(1, 1, 0)
        held.cancel()
        await wait_all_tasks_blocked()
        async with line.slot():
            assert line.load() == Load(1, 1, 0)


async def test_the_wait_is_guessed_from_the_last_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Who is refused hears how long a place takes, by how long the last answers took."""
    line = Line("m", 1, 0)
    async with line.slot():
        await trio.sleep(20)
    assert line.retry_after() == 20
    for _ in range(3):
        async with line.slot():
            await trio.sleep(1000)
    assert line.retry_after() == MAX_RETRY
