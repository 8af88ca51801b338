"""What an operation tells its reader: all in order, but no more progress than can be read."""

import trio
import trio.testing

from node.api.outbox import EVERY, MAX_WAITING, Outbox
from node.messages import Event, Message, Note, Progress, Result

END = Result({"ok": True})


async def _rest(outbox: Outbox) -> list[tuple[float, Message]]:
    """Everything that comes until the end, and when."""
    found = []
    while (message := await outbox.take()) is not None:
        found.append((trio.current_time(), message))
    return found


async def test_messages_come_in_order_and_an_end_is_the_last(autojump_clock: object) -> None:
    outbox = Outbox()
    messages: list[Event] = [
        Note("first"),
        Progress("hash", 1, 2),
        Note("second"),
        Progress("fetch", 1, 2),
    ]
    for one in messages:
        outbox.put(one)
    outbox.end(END)
    assert [message for _, message in await _rest(outbox)] == [*messages, END]


async def test_a_phase_is_told_at_most_some_times_a_second_and_then_the_latest(
    autojump_clock: object,
) -> None:
    outbox = Outbox()

    async def work() -> None:
        for done in range(1, 1001):
            outbox.put(Progress("fetch", done, 1000))
            await trio.sleep(0.001)
        outbox.end(END)

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        came = await _rest(outbox)
    assert len(came) <= 1 / EVERY + 3
    assert came[0][1] == Progress("fetch", 1, 1000)
    assert came[-2][1] == Progress("fetch", 1000, 1000)
    assert came[-1][1] == END
    for when, message in came[:-2]:
        assert isinstance(message, Progress)
        assert abs(message.done - 1000 * (when - begin)) <= 2  # it is the latest of its time


async def test_what_is_no_progress_waits_for_nothing(autojump_clock: object) -> None:
    outbox = Outbox()
    begin = trio.current_time()
    outbox.put(Progress("hash", 1, 3))
    assert await outbox.take() == Progress("hash", 1, 3)
    outbox.put(Progress("hash", 2, 3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say, outbox, Note("a word"))
        assert await outbox.take() == Progress("hash", 2, 3)  # it comes before what is behind it
        assert await outbox.take() == Note("a word")
    outbox.put(Progress("fetch", 1, 3))
    assert await outbox.take() == Progress("fetch", 1, 3)  # another phase begins at once
    assert trio.current_time() - begin < EVERY


async def _say(outbox: Outbox, note: Note) -> None:
    await trio.testing.wait_all_tasks_blocked()
    outbox.put(note)


async def test_a_reader_that_takes_nothing_costs_bounded_memory_and_still_gets_the_end(
    autojump_clock: object,
) -> None:
    outbox = Outbox()
    for number in range(10 * MAX_WAITING):
        outbox.put(Note(str(number)))
    outbox.end(END)
    came = [message for _, message in await _rest(outbox)]
    assert came == [*(Note(str(number)) for number in range(MAX_WAITING)), END]
