"""Why a fetch took as long as it did: what is written down on the way, and what it comes to.

``Trace`` has the phases of one fetch, ``Record`` what one of its sources did; crew and transfer
write into both, a number at a time. ``explain`` makes of them what ``--explain`` shows: who sent
what and how fast, who waited, who left, and in a sentence each what was slow and why.

Pure: times are seconds of any clock, handed in. A source's rate is that of the time in which it
was being read from, so who waits for work is not taken for slow.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SLOW: Final = 0.5
"""Share of the fastest source's rate below which another is called slow."""
MEASURED: Final = 0.25
"""Seconds of reading below which a rate says nothing."""
IDLE: Final = 0.5
"""Share of its time from which on it is told that a source waited."""
WORTH_TELLING: Final = 1.0
"""Seconds: what took less needs no explanation."""
FAR: Final = 0.3
"""Seconds for a small answer from which on a source is called far, or busy."""

PHASES: Final = {
    "name": "finding out what the name means",
    "statement": "getting the signed statement",
    "policy": "asking the policy",
    "outlines": "getting the hashes of the files",
    "survey": "looking what is here already",
    "transfer": "moving the files",
    "record": "checking and recording them",
}
"""The phases of a fetch, in their order, and what they are."""

Json = dict[str, Any]


@dataclass(slots=True)
class Span:
    """Time in which at least one of several was at something."""

    _total: float = 0.0
    _count: int = 0
    _since: float = 0.0

    def enter(self, now: float) -> None:
        """One more is at it."""
        if not self._count:
            self._since = now
        self._count += 1

    def leave(self, now: float) -> None:
        """One is at it no more."""
        self._count -= 1
        if not self._count:
            self._total += now - self._since

    def seconds(self, now: float) -> float:
        """Return the time until now."""
        return self._total + (now - self._since if self._count else 0.0)


@dataclass(slots=True)
class Record:
    """What one source did in a fetch."""

    joined: float | None = None  # when it was first asked for files
    left: float | None = None  # when it was last let go
    present: Span = field(default_factory=Span)
    busy: Span = field(default_factory=Span)  # being read from
    paused: Span = field(default_factory=Span)  # left alone for a moment, after a fault
    faults: int = 0
    stolen: int = 0  # leaves that others read in its place
    twice: int = 0  # leaves of it that others read, too, since they were late
    answers: int = 0  # small things that it was asked for, and gave
    answering: float = 0.0  # seconds that those took, added up

    def hire(self, now: float) -> None:
        """It is asked for files from now on."""
        if self.joined is None:
            self.joined = now
        self.present.enter(now)

    def let_go(self, now: float) -> None:
        """It is asked for files no more, or another transfer has ended."""
        self.left = now
        self.present.leave(now)

    def answered(self, seconds: float) -> None:
        """It gave something small after so many seconds."""
        self.answers += 1
        self.answering += seconds


@dataclass(slots=True)
class Trace:
    """The time line of one fetch."""

    started: float | None = None
    found: float | None = None  # when the first source was met
    phases: dict[str, float] = field(default_factory=dict)  # seconds
    _phase: str = ""
    _since: float = 0.0

    def begin(self, phase: str, now: float) -> None:
        """Another phase begins, and with it the one before ends."""
        if self.started is None:
            self.started = now
        elif self._phase:
            spent = self.phases.get(self._phase, 0.0)
            self.phases[self._phase] = spent + now - self._since
        self._phase, self._since = phase, now

    def met(self, now: float) -> None:
        """A source was met."""
        if self.found is None:
            self.found = now


@dataclass(frozen=True, slots=True)
class Seen:
    """A source as it stood at the end: its bytes by what carried them, and why it left."""

    peer: str
    kind: str
    carried: Mapping[str, int]
    gone: str
    failed: str
    record: Record


def explain(trace: Trace, sources: Iterable[Seen], now: float) -> Json:
    """Return the object ``explain`` of a fetch's result (cli.md); seconds, bytes, bytes/s."""
    trace.begin("", now)
    start = now if trace.started is None else trace.started
    seconds = now - start
    shown = [_shown(one, start, now) for one in sources]
    shown.sort(key=lambda one: -one["bytes"])
    return {
        "seconds": _round(seconds),
        "found": None if trace.found is None else _round(max(0.0, trace.found - start)),
        "phases": [
            {"name": name, "seconds": _round(trace.phases[name])}
            for name in PHASES
            if name in trace.phases
        ],
        "sources": shown,
        "why": list(_why(trace, start, seconds, shown)),
    }


def _shown(one: Seen, start: float, now: float) -> Json:
    record = one.record
    present, busy = record.present.seconds(now), record.busy.seconds(now)
    paused, moved = record.paused.seconds(now), sum(one.carried.values())
    share = {"busy": busy, "paused": paused, "waiting": max(0.0, present - busy - paused)}
    return {
        "peer": one.peer,
        "kind": max(one.carried, key=lambda kind: one.carried[kind], default=one.kind),
        "bytes": moved,
        "carried": dict(one.carried),
        "rate": round(moved / busy) if busy > 0 else 0,
        "reading": _round(busy),
        **{name: round(took / present, 3) if present else 0.0 for name, took in share.items()},
        "joined": None if record.joined is None else _round(record.joined - start),
        "left": None if record.left is None or not one.gone else _round(record.left - start),
        "reason": one.gone,
        "faults": record.faults,
        "fault": one.failed if record.faults else "",
        "stolen": record.stolen,
        "twice": record.twice,
        "answer": _round(record.answering / record.answers) if record.answers else None,
    }


def _why(trace: Trace, start: float, seconds: float, sources: list[Json]) -> Iterator[str]:
    """What was slow, and why; the sentence on the time line comes first."""
    yield _where_time_went(trace, start, seconds)
    best = max(sources, key=lambda one: one["rate"], default=None)
    for one in sources:
        measured = one["reading"] >= MEASURED
        if best is not None and measured and one["rate"] < SLOW * best["rate"]:
            yield _slow(one, best)
    for one in sources:
        present = one["joined"] is not None and seconds - one["joined"] >= WORTH_TELLING
        if present and one["waiting"] >= IDLE:
            yield (
                f"{one['peer']} waited for {_percent(one['waiting'])} of its time: it had nothing "
                "of what was left, or others were reading it."
            )
        if one["reason"]:
            when = f" after {one['left']:.1f} s" if one["left"] is not None else ""
            yield f"{one['peer']} was left alone{when}: {one['reason']}"
        elif one["faults"]:
            yield f"{one['peer']} failed {_times(one['faults'])}, the last time so: {one['fault']}"
    giving = [one for one in sources if one["bytes"]]
    if len(giving) == 1:
        [one] = giving
        yield f"All of it came from one source, {one['peer']}, by {one['kind']}."


def _where_time_went(trace: Trace, start: float, seconds: float) -> str:
    found = 0.0 if trace.found is None else max(0.0, trace.found - start)
    if found >= WORTH_TELLING and found > seconds / 2:
        return f"{found:.1f} of {seconds:.1f} s went by until the first source was found."
    phase = max(trace.phases, key=lambda one: trace.phases[one], default="")
    if not phase:
        return f"It took {seconds:.1f} s."
    return f"{trace.phases[phase]:.1f} of {seconds:.1f} s went into {PHASES.get(phase, phase)}."


def _slow(one: Json, best: Json) -> str:
    """Name a slow source, and the likeliest reason that is known of it."""
    gave = _rate(one["rate"])
    if not one["bytes"]:
        gave = f"in {one['reading']:.1f} s nothing of it came in time"
    said = f"{one['peer']} was slow: {gave}, where {best['peer']} gave {_rate(best['rate'])}"
    if one["faults"]:
        said += f"; it failed {_times(one['faults'])}"
    elif one["answer"] is not None and one["answer"] >= FAR:
        said += f"; it is far or busy, for it took {one['answer']:.1f} s to answer a small question"
    elif set(one["carried"]) == {"stream"} and best["kind"] == "lane":
        said += "; no lane could be opened to it, so its bytes came by the slower stream"
    else:
        said += "; its line is slower, it serves others too, or its owner limits what it sends"
    if one["stolen"] or one["twice"]:
        leaves = one["stolen"] + one["twice"]
        said += f". {leaves} of its leaves were read elsewhere"
    return f"{said}."


def _rate(rate: float) -> str:
    return f"{rate / 1e6:.1f} MB/s" if rate >= 1e5 else f"{rate / 1e3:.1f} kB/s"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _round(seconds: float) -> float:
    return round(seconds, 3)
