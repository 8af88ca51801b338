"""Which source reads which leaves next: the decisions of a fetch, without the fetch.

Pure: no clock, no randomness, no network.
A driver (node/transfer.py) asks ``next`` for work, tells ``advance`` of every verified leaf and
``release`` when a task ends, well or badly; every call is synchronous, so that between two awaits
of the driver the picture is always whole and needs no lock.

The rules:

* A worker gets one contiguous run of leaves of one file, about ``TASK_SECONDS`` of its source's
  measured rate, so a fast source gets more and no source is asked in crumbs.
* Towards the end runs get shorter, so that the workers of one source end together.
* Runs are taken from ``origin`` on, wrapping round: nodes that fetch the same release at the same
  time begin in different places and so have something to give each other.
* Files of one leaf are handed out several at once, so that they can be asked for in one breath.
* When nothing is unassigned any more, an idle worker takes the tail of the task that would end
  last, in proportion to the two rates; so the end does not wait for the slowest, and a stalled
  source loses its range.
* The last leaf of a task cannot be split: once all who read it are clearly late it is read once
  more, and whoever comes first wins.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from p2p.dag import Outline
from p2p.ranges import RangeSet

TASK_SECONDS = 1.0  # long enough that a request's round trip is lost in it
FIRST_TASK = 4 << 20  # bytes; what an unmeasured source is asked for
MAX_TASK = 64 << 20  # bytes; so that a source that dies takes little with it
FEW = 1 << 20  # bytes of small files that are read in one go even when hardly more are left
TAIL_SHARE = 8  # a run is at most this part of what is left: the last one then is short
NOMINAL_RATE = 8 << 20  # bytes/s; assumed of a source until it has been measured
MIN_THEFT = 0.25  # seconds a victim must still need before its tail is worth taking
LATE_FACTOR = 2.0  # a last leaf is read twice once its source needs this many times ours
RATE_MEMORY = 0.7  # weight of the past in a source's rate
RATE_WINDOW = 0.1  # seconds; shorter samples say nothing on a noisy machine


@dataclass(slots=True, eq=False)
class Task:
    """A run of leaves that one worker reads: ``first <= position <= stop``, leaf indexes."""

    source: str
    file: int
    first: int
    stop: int
    position: int
    touched: float  # when it last made progress, seconds
    leads: bool = True  # False: read after another one, by the same worker


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to read now; ask again when the swarm changes, or at ``until`` (seconds)."""

    until: float
    starved: bool  # nothing of what is left is known to be at this source


@dataclass(slots=True)
class _Source:
    """What is known of one source: what it has, how fast it was."""

    have: RangeSet | None  # in the row of all leaves; None: everything
    rate: float = 0.0  # bytes/s of one worker; 0: not measured yet
    sample_bytes: int = 0
    sample_start: float = -1.0
    tasks: list[Task] = field(default_factory=list)

    @property
    def expected_rate(self) -> float:
        return self.rate or NOMINAL_RATE


class Swarm:
    """The state of one fetch: what is wanted, who has it, who reads what.

    ``files`` are the Outlines of the files and ``wanted`` the leaves of each that are missing.
    ``origin`` is any integer; different nodes should choose different ones.

    Inside, the leaves of all files stand in one row, in which file ``f`` begins at ``_base[f]``:
    a hundred thousand missing small files are then one range.
    """

    def __init__(
        self, files: Sequence[Outline], wanted: Sequence[RangeSet], *, origin: int = 0
    ) -> None:
        self._files = files
        self._base = [0, *accumulate(len(outline) for outline in files)]
        self._todo = self._row(dict(enumerate(wanted)))  # neither verified nor being read
        self._left = self._todo.copy()  # not verified
        self._sources: dict[str, _Source] = {}
        self.stolen: Counter[str] = Counter()
        """By source, leaves that others read in its place; ``twice``: that others read, too."""
        self.twice: Counter[str] = Counter()
        self._cursor = self._place(origin)
        self.remaining = sum(
            self._bytes(file, first, stop)
            for file, leaves in enumerate(wanted)
            for first, stop in leaves
        )

    @property
    def finished(self) -> bool:
        """Whether every wanted leaf has been verified."""
        return not self._left

    @property
    def busy(self) -> bool:
        """Whether any worker is reading."""
        return any(source.tasks for source in self._sources.values())

    @property
    def sources(self) -> list[str]:
        """The sources that have joined and not left."""
        return list(self._sources)

    def complete(self, file: int) -> bool:
        """Whether every wanted leaf of a file has been verified."""
        start, stop = self._base[file], self._base[file + 1]
        nearest = self._left.first(start)
        return nearest is None or nearest[0] >= stop

    def rate(self, source: str) -> float:
        """The measured rate of one worker of a source, bytes/s; 0 when not measured."""
        return self._sources[source].rate if source in self._sources else 0.0

    def join(self, source: str, have: Mapping[int, RangeSet] | None) -> None:
        """Add a source, or renew what it has: leaf indexes by file, None for everything."""
        row = None if have is None else self._row(have)
        known = self._sources.get(source)
        if known is None:
            self._sources[source] = _Source(row)
        else:
            known.have = row

    def leave(self, source: str) -> None:
        """Take a source away; what it was reading is free again."""
        gone = self._sources.pop(source, None)
        for task in gone.tasks if gone else ():
            self._give_back(task)

    def next(self, source: str, now: float) -> Task | Wait | None:
        """Say what a worker of ``source`` does now: read, wait, or (None) stop: all is done."""
        if self.finished or source not in self._sources:
            return None
        mine = self._sources[source]
        task = self._fresh(source, mine, now) or self._stolen(source, mine, now)
        if task is not None:
            mine.tasks.append(task)
            return task
        return Wait(now + MIN_THEFT, starved=self._overlap(self._left, mine.have, 0) is None)

    def more(self, task: Task, size: int, now: float) -> Task | None:
        """The next file of one leaf for the worker of ``task``, which has ``size`` bytes already.

        None when the next unassigned file is larger, or elsewhere, or the worker has its share.
        """
        mine = self._sources.get(task.source)
        if mine is None or size >= min(FIRST_TASK, max(FEW, self.remaining // TAIL_SHARE)):
            return None
        found = self._overlap(self._todo, mine.have, self._base[task.file + 1])
        if found is None:
            return None
        file = bisect_right(self._base, found[0]) - 1
        if len(self._files[file]) > 1:
            return None
        self._todo.remove(found[0], found[0] + 1)
        self._cursor = found[0] + 1
        further = Task(task.source, file, 0, 1, 0, now, leads=False)
        mine.tasks.append(further)
        return further

    def advance(self, task: Task, leaves: int, now: float) -> bool:
        """Count ``leaves`` more verified leaves of a task; False: stop, the rest is another's."""
        first, stop = task.position, task.position + leaves
        base = self._base[task.file]
        for start, end in RangeSet([(base + first, base + stop)]).intersect(self._left):
            self.remaining -= self._bytes(task.file, start - base, end - base)
            self._left.remove(start, end)
            self._todo.remove(start, end)
        task.position = stop
        task.touched = now
        owner = self._sources.get(task.source)
        if owner is not None:
            self._measure(owner, self._bytes(task.file, first, stop), now)
        return self._unread(task).size > 0

    def release(self, task: Task) -> None:
        """End a task, finished or not; what it did not read is free for others."""
        owner = self._sources.get(task.source)
        if owner is not None and task in owner.tasks:
            owner.tasks.remove(task)
            if not owner.tasks:
                owner.sample_start = -1.0
            self._give_back(task)

    # -- choosing -------------------------------------------------------------------------

    def _fresh(self, source: str, mine: _Source, now: float) -> Task | None:
        """The first unassigned run at or after the cursor that this source has."""
        found = self._overlap(self._todo, mine.have, self._cursor)
        found = found or self._overlap(self._todo, mine.have, 0)
        if found is None:
            return None
        start, stop = found
        file = bisect_right(self._base, start) - 1
        base = self._base[file]
        budget = int(mine.rate * TASK_SECONDS) if mine.rate else FIRST_TASK
        budget = min(budget, MAX_TASK, max(FIRST_TASK, self.remaining // TAIL_SHARE))
        first = start - base
        last = min(stop, self._base[file + 1]) - base
        last = self._cut(file, first, last, budget)
        self._todo.remove(base + first, base + last)
        self._cursor = base + last
        return Task(source, file, first, last, first, now)

    def _stolen(self, source: str, mine: _Source, now: float) -> Task | None:
        """The tail of the task that would end last, or its only leaf once that is late."""
        latest, best = 0.0, None
        for victim, task in self._running():
            if victim is mine:
                continue
            start = self._theft(mine, victim, task, now)
            if start is not None and (eta := self._eta(victim, task, now)) > latest:
                latest, best = eta, (task, start)
        if best is None:
            return None
        task, start = best
        stolen = Task(source, task.file, start, task.stop, start, now)
        if start > task.position:
            self.stolen[task.source] += task.stop - start
            task.stop = start
        else:
            self.twice[task.source] += 1
        return stolen

    def _theft(self, mine: _Source, victim: _Source, task: Task, now: float) -> int | None:
        """Where to cut ``task`` in two; its position when its last leaf is to be read twice."""
        if not self._unread(task):
            return None
        eta = self._eta(victim, task, now)
        remaining = self._bytes(task.file, task.position, task.stop)
        late = self._late(mine, victim, task, now)
        if task.stop - task.position == 1:
            start = task.position
            worth = late and all(
                reader is not mine and self._late(mine, reader, other, now)
                for reader, other in self._running()
                if other.file == task.file and other.position <= start < other.stop
            )
        elif late:  # it keeps no more than the leaf that it is in
            start = task.position + 1
            worth = True
        else:
            pace = remaining / eta
            keep = int(remaining * pace / (pace + mine.expected_rate))
            start = self._cut(task.file, task.position, task.stop - 1, keep)
            worth = eta >= MIN_THEFT
        base = self._base[task.file]
        has = mine.have is None or mine.have.covers(base + start, base + task.stop)
        return start if worth and has else None

    def _late(self, mine: _Source, victim: _Source, task: Task, now: float) -> bool:
        """Whether ``mine`` would end a task long before the one that reads it."""
        remaining = self._bytes(task.file, task.position, task.stop)
        limit = LATE_FACTOR * remaining / mine.expected_rate + MIN_THEFT
        return self._eta(victim, task, now) > limit

    def _eta(self, victim: _Source, task: Task, now: float) -> float:
        """Seconds until a task ends, taking silence for slowness."""
        remaining = self._bytes(task.file, task.position, task.stop)
        leaf = max(1, self._bytes(task.file, task.position, task.position + 1))
        rate = victim.expected_rate
        silent = now - task.touched
        if silent > 2 * leaf / rate:
            rate = leaf / silent
        return max(remaining, 1) / rate

    # -- bookkeeping ----------------------------------------------------------------------

    def _running(self) -> Iterator[tuple[_Source, Task]]:
        return ((owner, task) for owner in self._sources.values() for task in owner.tasks)

    def _unread(self, task: Task) -> RangeSet:
        """What of a task nobody has verified yet, in the row of all leaves."""
        base = self._base[task.file]
        return RangeSet([(base + task.position, base + task.stop)]).intersect(self._left)

    def _give_back(self, task: Task) -> None:
        rest = self._unread(task)
        for _, other in self._running():
            if other is not task and other.file == task.file:
                base = self._base[other.file]
                rest.remove(base + other.position, base + other.stop)
        self._todo.update(rest)

    def _measure(self, owner: _Source, size: int, now: float) -> None:
        if owner.sample_start < 0:
            owner.sample_start, owner.sample_bytes = now, 0
            return
        owner.sample_bytes += size
        elapsed = now - owner.sample_start
        if elapsed >= RATE_WINDOW:
            workers = sum(task.leads for task in owner.tasks)
            rate = owner.sample_bytes / elapsed / max(1, workers)
            owner.rate = RATE_MEMORY * owner.rate + (1 - RATE_MEMORY) * rate if owner.rate else rate
            owner.sample_start, owner.sample_bytes = now, 0

    def _bytes(self, file: int, first: int, stop: int) -> int:
        if first >= stop:
            return 0
        start, end = self._files[file].span(first, stop)
        return end - start

    def _cut(self, file: int, first: int, stop: int, budget: int) -> int:
        """The last leaf boundary with at most ``budget`` bytes from ``first``; at least a leaf."""
        steps = range(first + 1, stop)
        return (
            first + 1 + bisect_right(steps, budget, key=lambda s: self._bytes(file, first, s + 1))
        )

    def _row(self, leaves: Mapping[int, RangeSet]) -> RangeSet:
        """Ranges of leaf indexes by file, as ranges in the row of all leaves."""
        row = RangeSet()
        for file, ranges in leaves.items():
            for first, stop in ranges:
                row.add(
                    self._base[file] + first, min(self._base[file] + stop, self._base[file + 1])
                )
        return row

    def _place(self, origin: int) -> int:
        """The missing leaf that ``origin`` names when they are counted round and round."""
        place = origin % max(1, self._todo.size)
        for first, stop in self._todo:
            if place < stop - first:
                return first + place
            place -= stop - first
        return 0

    @staticmethod
    def _overlap(wanted: RangeSet, have: RangeSet | None, start: int) -> tuple[int, int] | None:
        """The first range from ``start`` on that is in both sets (None stands for everything)."""
        while (mine := wanted.first(start)) is not None:
            theirs = mine if have is None else have.first(mine[0])
            if theirs is None:
                return None
            if theirs[0] < mine[1]:
                return theirs[0], min(mine[1], theirs[1])
            start = theirs[0]
        return None
