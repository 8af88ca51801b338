"""What a node works on now, and what it worked on lately: the jobs.

A job is one operation that takes long (a fetch, a publication, a look at every byte), whoever asked
for it: a command, a program, the page. It says how far it is, who sends the bytes, and how it
ended; and the owner can end it. Work that nobody waits for on a connection is done here, too.

Knows operations by their name only; knows no socket, store or peer. What ended is kept in memory,
the last ``MAX_ENDED``.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import trio

from node.messages import Event, Failure, Note, Progress, to_json
from p2p.errors import Busy, Cancelled, NotFound

log = logging.getLogger(__name__)

MAX_ENDED: Final = 50
"""Jobs that are remembered after their end: a few kB in all."""
MAX_BACKGROUND: Final = 64
"""Jobs at once that nobody waits for: who asks for more has made a mistake."""
MAX_TEXT: Final = 500
"""Characters of what a job is about: links are long, and some of them come from strangers."""

Json = dict[str, Any]
Work = Callable[[], Awaitable[Any]]
State = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Feed:
    """A source of a job's bytes: who, by what (stream, lane, web), how many verified bytes."""

    peer: str
    kind: str
    bytes: int


def _nobody() -> Sequence[Feed]:
    return ()


@dataclass(eq=False)
class Job:
    """One operation at work; times are Unix times."""

    number: int
    operation: str
    subject: str
    since: float
    state: State = "running"
    ended: float | None = None
    progress: Progress | None = None
    note: str = ""
    error: Failure | None = None
    feeds: Callable[[], Sequence[Feed]] = _nobody
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _fed: Sequence[Feed] = ()

    def hear(self, event: Event) -> None:
        """Take note of an event that the operation reported."""
        if isinstance(event, Note):
            self.note = event.text[:MAX_TEXT]
        else:
            self.progress = event

    def end_with(self, result: Json) -> None:
        """Write down that it is done; a result may say that what was looked for was not found."""
        self.end("done" if result.get("ok", True) else "failed")
        if isinstance(said := result.get("error"), dict):
            self.error = Failure(str(said["code"]), str(said["message"]), str(said["next"]))

    def end(self, state: State, exc: BaseException | None = None) -> None:
        """Write down how it ended."""
        self.state, self.ended = state, time.time()
        self._fed, self.feeds = tuple(self.feeds()), _nobody  # lets go of the sources themselves
        if isinstance(exc, Exception):
            self.error = Failure.of_any(exc)

    def sources(self) -> Sequence[Feed]:
        """Who sent bytes for it, until now or in all."""
        return self._fed or self.feeds()

    def json(self) -> Json:
        """Return the job as ``--json`` shows it."""
        return {
            "job": self.number,
            "operation": self.operation,
            "subject": self.subject,
            "state": self.state,
            "since": self.since,
            "ended": self.ended,
            "progress": None if self.progress is None else to_json(self.progress),
            "note": self.note,
            "sources": [to_json(one) for one in self.sources()],
            "error": None if self.error is None else self.error.json()["error"],
        }


_mine: ContextVar[Job | None] = ContextVar("job", default=None)


def tell_sources(feeds: Callable[[], Sequence[Feed]]) -> None:
    """Let the job that this task works for, if it is one's, show who sends the bytes."""
    job = _mine.get()
    if job is not None:
        job.feeds = feeds


class Jobs:
    """The jobs of one node. Touched by trio's thread alone."""

    def __init__(self) -> None:
        self._count = 0
        self._running: dict[int, Job] = {}
        self._ended: deque[Job] = deque(maxlen=MAX_ENDED)
        self._background = 0
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """How often an operation ended in a state, and by which error (its code)."""
        self._waiting: deque[tuple[Job, Work]] = deque()
        self._woken = trio.Event()

    def all(self) -> list[Job]:
        """Those that run, and those that ended, the newest first."""
        return sorted((*self._running.values(), *self._ended), key=lambda one: -one.number)

    def running(self) -> list[Job]:
        """Those that run."""
        return list(self._running.values())

    def open(self, operation: str, subject: str) -> Job:
        """Make a job; whoever does is to run it."""
        self._count += 1
        job = Job(self._count, operation, subject[:MAX_TEXT], time.time())
        self._running[job.number] = job
        return job

    @contextmanager
    def at_work(self, job: Job) -> Iterator[Job]:
        """Do a job's work in this block; Cancelled when the owner ended it."""
        before = _mine.set(job)
        try:
            with job.scope:
                yield job
            if job.state == "running":
                raise Cancelled(
                    f"This {job.operation} was cancelled before it was done.",
                    next="The same command goes on where it was.",
                )
        except Cancelled:
            job.end("cancelled")
            raise
        except BaseException as exc:
            job.end("failed" if isinstance(exc, Exception) else "cancelled", exc)
            raise
        finally:
            _mine.reset(before)
            self._running.pop(job.number, None)
            self._ended.append(job)
            self.counts[job.operation, job.state, job.error.code if job.error else ""] += 1

    def cancel(self, number: int) -> Job:
        """End a job; NotFound if none of that number runs."""
        job = self._running.get(number)
        if job is None:
            raise NotFound(
                f"No job {number} runs here.", next="`allod jobs` shows what this node works on."
            )
        job.scope.cancel()
        return job

    def later(self, job: Job, work: Work) -> None:
        """Have a job done that nobody waits for; ``work`` ends it. Busy if there are too many."""
        if self._background >= MAX_BACKGROUND:
            del self._running[job.number]
            raise Busy(
                f"This node does {MAX_BACKGROUND} jobs in the background already.",
                retry_after=60.0,
                next="`allod jobs` shows them.",
            )
        self._background += 1
        self._waiting.append((job, work))
        self._woken.set()

    async def run(self) -> None:
        """Do what ``later`` is given, until cancelled."""

        async def do(job: Job, work: Work) -> None:
            try:
                await work()
            # The boundary of the background: what went wrong stands in the job.
            except Exception:
                if job.error is not None and job.error.code == "OTHER":
                    log.exception("operation %s failed", job.operation)
            finally:
                self._background -= 1

        async with trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                while self._waiting:
                    nursery.start_soon(do, *self._waiting.popleft())
                await self._woken.wait()


def subject_of(params: object) -> str:
    """What an operation is about, out of its params: a reference, a folder, a file."""
    for name in ("ref", "folder", "file", "model"):
        value = getattr(params, name, "")
        if isinstance(value, str) and value:
            return value
    return ""
