"""How one worker of a fetch gets its bytes: by lane where there is one, else by stream.

A thread receives a leaf, verifies it, writes it, and goes on to the next: the payload never touches
trio's thread, which only hears, some times a second, how far the thread has come.
What the scheduler decides meanwhile the thread reads off the task: where it stops is one number.

A worker waits a moment for its first lane, so that nearly all goes by it; where opening takes
longer it begins with a stream and changes over between two tasks.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from node.store import Partial
from p2p.errors import BadBytes, NetworkError
from p2p.schedule import Task

if TYPE_CHECKING:  # they bring libp2p, which takes more than a second to import
    from p2p.dag import Outline
    from p2p.lane import Lane
    from p2p.sources import Session, Source

LANE_PATIENCE = 0.5  # seconds a worker waits for its first lane: four round trips of a far peer
REPORT_TIME = 0.1  # seconds between two reports of the thread to trio's: each holds up both


@asynccontextmanager
async def open_ways(source: "Source", *, lanes: bool = True) -> AsyncIterator["Ways"]:
    """Open a worker's ways to one source; leaving the block closes them all."""
    async with AsyncExitStack() as sessions:
        ways: Ways | None = None
        try:
            async with trio.open_nursery() as nursery:
                ways = Ways(source, nursery, sessions, lanes=lanes)
                await ways.begin()
                yield ways
                nursery.cancel_scope.cancel()
        finally:
            if ways is not None:
                ways.close()


class Ways:
    """A worker's lane and stream to one source."""

    def __init__(
        self, source: "Source", nursery: trio.Nursery, sessions: AsyncExitStack, *, lanes: bool
    ) -> None:
        self._source = source
        self._lanes = lanes
        self._nursery = nursery
        self._sessions = sessions
        self._session: Session | None = None
        self._lane: Lane | None = None
        self._opened = trio.Event()  # one attempt to open a lane has ended, well or badly
        self._opened.set()

    async def begin(self) -> None:
        """Start to open a lane, and wait a moment for it."""
        if self._lanes:
            self._start_lane()
            with trio.move_on_after(LANE_PATIENCE):
                await self._opened.wait()

    def close(self) -> None:
        """Close the lane."""
        if self._lane is not None:
            self._lane.close()

    def _start_lane(self) -> None:
        self._opened = trio.Event()
        self._nursery.start_soon(self._open_lane, self._opened)

    async def _open_lane(self, opened: trio.Event) -> None:
        self._lane = await self._source.open_lane()
        opened.set()

    def lane(self) -> "Lane | None":
        """The lane if there is one now; a lost one is opened anew in the background."""
        if self._lane is not None and not self._lane.usable:
            self._lane.close()
            self._lane = None
        if self._lanes and self._lane is None and self._opened.is_set():
            self._start_lane()
        return self._lane

    async def session(self) -> "Session":
        """A session on a stream, opened when it is first needed."""
        if self._session is None:
            self._session = await self._sessions.enter_async_context(self._source.open())
        return self._session


async def haul(lane: "Lane", partial: Partial, task: Task, report: Callable[[int], bool]) -> None:
    """Read a task by lane; ``report`` hears of each run of leaves kept and says whether to go on.

    Raises BadBytes, PeerRefused, PeerFault, PeerGone when the lane broke, or the store's errors;
    ``task.position`` is how far it came.
    """
    token = trio.lowlevel.current_trio_token()
    outline = partial.outline
    go_on = True

    def tell(first: int, stop: int) -> None:
        nonlocal go_on
        partial.note_leaves(first, stop)
        go_on = report(stop - first) and go_on

    def work() -> None:
        at = told = task.position
        end = task.stop
        begin, stop = outline.span(at, end)
        due = time.monotonic() + REPORT_TIME
        buffer = lane.buffer
        lane.ask((outline.root, begin, stop))
        lane.answer()
        try:
            while at < min(end, task.stop) and go_on:
                upto = min(outline.leaves_in(begin, begin + len(buffer)).stop, end)
                if upto > at + 1 and outline.span(at, upto)[1] - begin > len(buffer):
                    upto -= 1
                stop = outline.span(at, upto)[1]
                data = buffer[: stop - begin]
                lane.fill(data)
                at, bad = partial.write_leaves(at, data)
                if bad is not None:
                    lane.usable = False
                    raise BadBytes(
                        f"Leaf {bad} of {outline.root} came with wrong bytes.", peer=lane.peer
                    )
                begin = stop
                if time.monotonic() >= due:
                    token.run_sync_soon(tell, told, at)
                    told, due = at, time.monotonic() + REPORT_TIME
        finally:
            if at > told:
                token.run_sync_soon(tell, told, at)
        lane.leave()

    await lane.in_thread(work)


async def haul_small(
    lane: "Lane", outlines: "Sequence[Outline]"
) -> tuple[list[memoryview], NetworkError | None]:
    """Read files of one leaf by lane, asked for in one breath.

    Returns those that came and are right, in this order, and what ended it if one did not come:
    BadBytes, PeerRefused, PeerFault, or PeerGone when the lane broke.
    """
    came: list[memoryview] = []

    def work() -> None:
        lane.ask(*((outline.root, 0, outline.size) for outline in outlines))
        for outline in outlines:
            data = memoryview(bytearray(lane.answer()))
            lane.fill(data)
            if not outline.verify(0, data):
                lane.usable = False
                raise BadBytes(f"{outline.root} came with wrong bytes.", peer=lane.peer)
            came.append(data)

    try:
        await lane.in_thread(work)
    except NetworkError as exc:
        return came, exc
    return came, None
