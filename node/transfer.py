"""Moving the missing leaves of a fetch from many sources into the store.

The Swarm (p2p/schedule.py) decides; this module does what it says: a few workers for each source,
each on a lane or a stream of its own (haul.py), reading one run of leaves at a time.
Every leaf is verified before it is written. When a lane breaks, a stream reads on where it ended.
A source that sends a wrong leaf is banned at once; one that fails is tried again a little later,
and left alone when it goes on failing; whoever is found meanwhile joins.
One that is found anew, again and again, and breaks each time before it gave anything, rests longer
each time, so that a fetch of which nothing comes ends.

Web seeds are the last resort (webseeds.py). One is taken to have every file until it answers that
one is not there.
"""

import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import trio

from node.assembly import Assembly, leaf_ranges
from node.crew import Crew, Member
from node.haul import Ways, haul, haul_small, open_ways
from node.messages import Note, Progress, Report
from node.webseeds import LastResort
from p2p import canonical
from p2p.cid import CID
from p2p.dag import Outline
from p2p.errors import (
    AllodError,
    BadBytes,
    NetworkError,
    PeerFault,
    PeerGone,
    PeerRefused,
    each_error,
)
from p2p.ranges import RangeSet
from p2p.schedule import Swarm, Task, Wait
from p2p.web import ABSENT

if TYPE_CHECKING:
    from p2p.lane import Lane
    from p2p.sources import Session

log = logging.getLogger(__name__)

WORKERS = 3  # streams for each source: while one waits for an answer, the others read
LANES = 2  # lanes to a source that is alone: two threads keep two cores busy, a third gains nothing
STREAM_PIECE = 1 << 20  # bytes that a stream gathers for one trip to a thread: any leaf fits
STREAM_TIME = 0.2  # seconds between two trips on a slow line: else it is taken for a dead one
SMALL = 64  # files of one leaf that are asked for in one breath: a far peer's round trip is shared
RETRY_AFTER = 0.5  # seconds before a source that failed is asked again, doubled each time
MAX_RETRY_AFTER = 15.0  # seconds; longer pauses that a busy source asks for are not waited out
REST_AFTER = 2.0  # seconds that one who broke before it gave anything rests, doubled each time
MAX_REST = 64.0  # seconds; longer than PATIENCE, so that a fetch from nobody else ends
MAX_LACKS = 8  # files that a web seed may lack before it gave any: it has another folder
PATIENCE = 60.0  # seconds in which nobody has anything to give before the fetch gives up
WORD_AFTER = 5.0  # seconds of that until the person is told
MAX_HAVE = 16 << 20  # bytes of a have answer: 100,000 files
HAVE_WITHIN = 10.0  # seconds
RENEW_HAVE = 2.0  # seconds between two looks at what a partial holder has got meanwhile


class Transfer:
    """One fetch's transfer: ``run()`` returns when every wanted leaf is verified and kept."""

    def __init__(
        self,
        release: CID,
        assembly: Assembly,
        missing: list[RangeSet],
        crew: Crew,
        report: Report,
        *,
        origin: int | None = None,
    ) -> None:
        """``origin``: with which of the missing leaves to begin; None for any."""
        self._release = release
        self._assembly = assembly
        self._crew = crew
        self._report = report
        self._outlines = [want.outline for want in assembly.wanted]
        self._by_cid = {outline.root: file for file, outline in enumerate(self._outlines)}
        # Nodes that fetch at the same time should begin in different places.
        begin = random.getrandbits(32) if origin is None else origin
        self.swarm = Swarm(self._outlines, missing, origin=begin)
        self.total = self.swarm.remaining
        self._hired: set[str] = set()
        self._called: set[str] = set()  # web seeds
        self._spent: set[str] = set()  # those that have nothing of what is left here
        self._vain: Counter[str] = Counter()  # how often in a row one broke and gave nothing
        self._rests: dict[str, float] = {}  # until when it is not asked again

    async def run(self) -> None:
        """Fetch everything; NoSources when nobody is left, or the store's own error."""
        busy, rounds, told = trio.current_time(), self._crew.rounds, False
        resort = LastResort(busy, self.swarm.remaining, self._crew.resorted)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._assembly.keep_on)
            while not self.swarm.finished:
                self._hire(nursery)
                now = trio.current_time()
                if any(self._mine()):
                    rounds = self._crew.rounds
                if self.swarm.busy:
                    busy, told = now, False
                if resort.due(
                    now,
                    reading=self.swarm.busy,
                    remaining=self.swarm.remaining,
                    alone=self._crew.rounds > 0 and not any(self._crew.nodes),
                ):
                    self._crew.call_seeds(self._called, self._spent)
                    self._hire(nursery)
                    if any(self._mine()):
                        rounds = self._crew.rounds
                if now > busy + WORD_AFTER and not told:
                    told = True
                    self._report(Note("Nobody who was found has the rest; waiting for others."))
                # Two whole looks round while nobody is there, the second begun after the last left.
                if self._crew.rounds >= rounds + 2 or now > busy + PATIENCE:
                    raise self._crew.failure("what is still missing")
                ends = [end - now for end in self._rests.values() if end > now]
                with trio.move_on_after(min(1.0, resort.patience, *ends)):
                    await self._crew.wait_change()
            nursery.cancel_scope.cancel()
        self._tell()
        for peer, member in self._crew.members.items():
            member.record.stolen += self.swarm.stolen[peer]
            member.record.twice += self.swarm.twice[peer]

    def _mine(self) -> Iterator[Member]:
        """Who may be asked in this transfer: the nodes, and the web seeds that it called."""
        seeds = self._called - self._spent
        return (one for one in self._crew.active if not one.is_web or one.peer in seeds)

    def _hire(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for member in self._mine():
            if member.peer not in self._hired and now >= self._rests.get(member.peer, now):
                self._hired.add(member.peer)
                nursery.start_soon(self._employ, member)

    async def _employ(self, member: Member) -> None:
        """Have one source read until there is no more to read, or it is no good."""
        member.record.hire(trio.current_time())
        came, broke = member.bytes, False
        try:
            while member in self._mine() and not self.swarm.finished:
                fault: NetworkError | None = None
                try:
                    async with trio.open_nursery() as workers:
                        learned = trio.Event()
                        known = bool(member.record.answers)  # else it may have nothing of all this
                        if not known:
                            await self._learn(member)
                        alone = sum(1 for _ in self._mine()) == 1
                        for _ in range(LANES if alone else 1):
                            workers.start_soon(self._work, member, workers, learned)
                        if known:  # its lanes open meanwhile
                            await self._learn(member)
                        learned.set()
                except* NetworkError as group:
                    fault = _first(group)
                if fault is not None:
                    broke = not isinstance(fault, PeerRefused)  # it answered: that is no break
                    await self._pause(member, fault)
            self._judge(member, in_vain=broke and member.bytes == came)
        finally:
            member.record.let_go(trio.current_time())
            self.swarm.leave(member.peer)
            self._hired.discard(member.peer)
            self._crew.notify()

    def _judge(self, member: Member, *, in_vain: bool) -> None:
        """Have a source that broke before it gave anything rest, longer each time in a row."""
        if in_vain:
            rest = min(MAX_REST, REST_AFTER * 2 ** self._vain[member.peer])
            self._rests[member.peer] = trio.current_time() + rest
            self._vain[member.peer] += 1
        else:
            del self._vain[member.peer]

    async def _pause(self, member: Member, fault: NetworkError) -> None:
        """Judge a source that failed, and wait until it may be asked again."""
        if isinstance(fault, PeerRefused) and fault.status == 429 and fault.retry_after:
            pause = fault.retry_after  # it is busy and says when it won't be: no fault
        else:
            self._crew.fault(member, fault)
            pause = RETRY_AFTER * 2**member.faults
        if pause > MAX_RETRY_AFTER:
            self._crew.leave(member, fault.message, again=pause)
        self.swarm.leave(member.peer)
        if not member.gone:
            member.record.paused.enter(trio.current_time())
            try:
                await trio.sleep(pause)
            finally:
                member.record.paused.leave(trio.current_time())

    async def _learn(self, member: Member) -> None:
        """Ask a source what it has, and tell the swarm."""
        if member.is_web:
            await trio.lowlevel.checkpoint()
            self.swarm.join(member.peer, self._at_web(member))
            self._crew.notify()
            return
        try:
            with trio.fail_after(HAVE_WITHIN):
                async with self._crew.session(member) as session:
                    answer = await session.get(f"/allod/v1/have/{self._release}", limit=MAX_HAVE)
        except trio.TooSlowError as exc:
            raise PeerFault(
                f"It did not say within {HAVE_WITHIN:.0f} s what it has.", peer=member.peer
            ) from exc
        except PeerRefused as exc:
            if exc.status == 404:  # found anew in a later round, when it may have begun to fetch
                self._crew.leave(member, "it holds nothing of the release")
            raise
        have = await trio.to_thread.run_sync(self._read_have, answer, member)
        self.swarm.join(member.peer, have)
        self._crew.notify()

    def _at_web(self, member: Member) -> dict[int, RangeSet] | None:
        """What a web seed has: everything, but for the files that it said it has not."""
        if not member.lacks:
            return None
        return {
            file: RangeSet([(0, len(outline))])
            for file, outline in enumerate(self._outlines)
            if outline.root not in member.lacks
        }

    def _lacks(self, member: Member, task: Task, exc: PeerRefused) -> bool:
        """Note that a web seed does not have a file; False for another refusal."""
        if not member.is_web or exc.status not in ABSENT:
            return False
        member.lacks.add(self._outlines[task.file].root)
        member.failed = exc.message
        if not member.bytes and len(member.lacks) >= MAX_LACKS:
            self._crew.leave(member, exc.message)
            self.swarm.leave(member.peer)
        else:
            self.swarm.join(member.peer, self._at_web(member))
        return True

    def _read_have(self, answer: bytes, member: Member) -> dict[int, RangeSet] | None:
        try:
            # Strict: no infinities, and few objects, for while json makes them nothing else runs.
            said = canonical.parse(answer, limit=MAX_HAVE, what="answer")
            if said["complete"] is True:
                return None
            have = {}
            for text, spans in said["files"].items():
                file = self._by_cid.get(CID.parse(text))
                if file is not None:
                    have[file] = _read_spans(self._outlines[file], spans)
        except (ValueError, KeyError, TypeError, AttributeError, AllodError) as exc:
            raise PeerFault(
                "It answered malformed JSON about what it has.", peer=member.peer
            ) from exc
        return have

    async def _work(
        self, member: Member, workers: trio.Nursery | None, learned: trio.Event
    ) -> None:
        """One worker of a source: take a task, read it, again; without a lane it gets help."""
        async with open_ways(member.source, lanes=workers is not None) as ways:
            await learned.wait()
            if workers is not None and ways.lane() is None:
                for _ in range(WORKERS - len(workers.child_tasks)):
                    workers.start_soon(self._work, member, None, learned)
            while not member.gone:
                task = self.swarm.next(member.peer, trio.current_time())
                if task is None:
                    return
                if isinstance(task, Wait):
                    await self._wait(member, task)
                    continue
                member.record.busy.enter(trio.current_time())
                try:
                    await self._carry(ways, member, task)
                except BadBytes as exc:
                    self._ban(member, task, exc)
                    raise
                except PeerRefused as exc:
                    if not self._lacks(member, task, exc):
                        raise
                finally:
                    member.record.busy.leave(trio.current_time())
                    self.swarm.release(task)
                    self._crew.notify()

    def _ban(self, member: Member, task: Task, exc: BadBytes) -> None:
        path = self._assembly.wanted[task.file].path
        self._crew.ban(member, f"{exc.message} (in {path})")
        self.swarm.leave(member.peer)

    async def _wait(self, member: Member, wait: Wait) -> None:
        if wait.starved and member.is_web:  # it gets nothing more here; others may be reading it
            self._spent.add(member.peer)
            self.swarm.leave(member.peer)
            return
        if wait.starved:
            await trio.sleep(RENEW_HAVE)
            self._tell()  # nothing else may come for long: whoever watches sees where it stands
            await self._learn(member)
            return
        with trio.move_on_at(wait.until):
            await self._crew.wait_change()

    async def _carry(self, ways: Ways, member: Member, task: Task) -> None:
        """Read one task by lane, and what a broken lane leaves of it by stream."""
        lane = ways.lane()
        if lane is not None:
            try:
                if self._assembly.in_memory(task.file):
                    await self._haul_small(lane, member, task)
                else:
                    await self._haul(lane, member, task)
                return
            except PeerGone as exc:
                log.debug("a lane of %s broke: %s", member.peer, exc.message)
        if task.position < task.stop and self.swarm.advance(task, 0, trio.current_time()):
            await self._read(await ways.session(), member, task)

    async def _haul(self, lane: "Lane", member: Member, task: Task) -> None:
        def report(leaves: int) -> bool:
            return self._count(member, task, leaves, "lane")

        partial = await self._assembly.partial(task.file)
        try:
            await haul(lane, partial, task, report)
        finally:
            if self.swarm.complete(task.file):
                await self._assembly.finish(task.file)

    async def _haul_small(self, lane: "Lane", member: Member, task: Task) -> None:
        """Read a file of one leaf, and the next ones like it, with one trip to a thread."""
        tasks = [task]
        size = self._outlines[task.file].size
        while len(tasks) < SMALL and self._assembly.in_memory(tasks[-1].file):
            more = self.swarm.more(tasks[-1], size, trio.current_time())
            if more is None:
                break
            tasks.append(more)
            size += self._outlines[more.file].size
        if not self._assembly.in_memory(tasks[-1].file):
            self.swarm.release(tasks.pop())
        try:
            came, error = await haul_small(lane, [self._outlines[one.file] for one in tasks])
            done = list(zip(tasks, came, strict=False))
            await self._assembly.keep_small([(one.file, data) for one, data in done])
            for one, _ in done:
                self._count(member, one, 1, "lane")
        finally:
            for one in tasks[1:]:
                self.swarm.release(one)
        if isinstance(error, BadBytes):
            self._ban(member, tasks[len(came)], error)
        if error is not None:
            raise error

    async def _read(self, session: "Session", member: Member, task: Task) -> None:
        """Read one task by stream; it may be cut short when another worker took its tail."""
        outline = self._outlines[task.file]
        start, stop = outline.span(task.position, task.stop)
        chunks = cast(AsyncGenerator[bytes, None], session.read(outline.root, start, stop))
        with memoryview(bytearray(min(stop - start, STREAM_PIECE))) as buffer:
            filled, due = 0, trio.current_time() + STREAM_TIME
            async with aclosing(chunks):
                async for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        count = min(len(rest), len(buffer) - filled)
                        buffer[filled : filled + count] = rest[:count]
                        filled, rest, start = filled + count, rest[count:], start + count
                        now = trio.current_time()
                        if filled < len(buffer) and start < stop and now < due:
                            continue
                        kept = await self._keep(member, task, buffer[:filled])
                        if kept is None:
                            return
                        buffer[: filled - kept] = buffer[kept:filled]
                        filled, due = filled - kept, now + STREAM_TIME

    async def _keep(self, member: Member, task: Task, data: memoryview) -> int | None:
        """Verify and write the whole leaves at the begin of ``data``: how many bytes that were.

        None when the task is over.
        """
        first, file = task.position, task.file
        outline = self._outlines[file]
        start = outline.span(first, first + 1)[0]
        ready = outline.leaves_in(start, start + len(data)).stop
        if outline.span(first, ready)[1] > start + len(data):
            ready -= 1
        if ready == first:
            return 0
        size = outline.span(first, ready)[1] - start
        await self._assembly.accept(file, first, data[:size])
        go_on = self._count(member, task, ready - first, member.source.kind)
        if self.swarm.complete(file):
            await self._assembly.finish(file)
        return size if go_on else None

    def _count(self, member: Member, task: Task, leaves: int, kind: str) -> bool:
        """Count verified leaves that are kept; whether to read on."""
        start, stop = self._outlines[task.file].span(task.position, task.position + leaves)
        member.bytes += stop - start
        member.by_kind[kind] += stop - start
        member.faults = 0
        go_on = self.swarm.advance(task, leaves, trio.current_time())
        self._tell()
        return go_on

    def _tell(self) -> None:
        self._report(
            Progress(
                "fetch",
                done=self.total - self.swarm.remaining,
                total=self.total,
                sources=len(self.swarm.sources),
            )
        )


def _read_spans(outline: Outline, spans: Any) -> RangeSet:
    """Read what a source says it has of a file; ValueError for what cannot be.

    Ranges that ascend are cheap to add; millions of others could keep a core busy for hours.
    """
    if len(spans) > len(outline):
        raise ValueError("more ranges than leaves")
    ranges, end = RangeSet(), 0
    for start, stop in spans:
        if not end <= int(start) <= int(stop) <= outline.size:
            raise ValueError("ranges that do not ascend")
        ranges.add(int(start), int(stop))
        end = int(stop)
    return leaf_ranges(outline, ranges)


def _first(group: BaseExceptionGroup[Any]) -> NetworkError:
    """The fault that matters most of those that several workers met at once."""
    faults = [exc for exc in each_error(group) if isinstance(exc, NetworkError)]
    return max(faults, key=lambda fault: isinstance(fault, BadBytes))
