"""The sources of one fetch: found, asked, counted, banned.

A source is whoever answers our HTTP: a node over libp2p today, a mirror tomorrow.
The crew takes them from the network as they are found, keeps for each what it sent and how it
failed, and asks small things (a manifest, an outline) of whichever answers first.
It never believes an answer: the asker gives the check, and a source whose answer fails it is
banned and named. Where one answer is not enough, it visits as many as are wanted.

``Network`` is what the crew needs of the world; the real one joins host and discovery, the one in
the tests is simulated, and the same tests run on both.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from node.explaining import Record, Trace
from node.messages import Note, Report
from p2p.cid import CID
from p2p.errors import (
    BadBytes,
    NetworkError,
    NoSources,
    NotFound,
    PeerFault,
    PeerRefused,
    Refused,
    VerificationFailed,
)

if TYPE_CHECKING:  # the real sources bring libp2p, which takes more than a second to import
    from p2p.policy import Web
    from p2p.sources import Session, Source
    from p2p.web import Url

T = TypeVar("T")
Get = Callable[[str, int], Awaitable[bytes]]
"""Asks one source for a target; the answer has at most so many bytes."""

LOOKUP_EVERY = 15.0  # seconds between two rounds of looking for more sources
LOOKUP_AGAIN = 3.0  # seconds, while there is nobody to ask
LOOKUP_PAUSE = 1.0  # seconds at least: a source that always fails is found anew, and fails, at once
HEDGE = 1.0  # seconds before the next source is asked the same small thing
ASK_WITHIN = 20.0  # seconds; a source that cannot send a few MiB in that is asked no more
MAX_MEMBERS = 20  # more sources would not be faster, and each may hold some MiB in memory
LARGE = 64 << 10  # bytes from which on an answer is checked in a thread: it may take a second
MAX_NEAR = 32  # of them neighbours: who connects to this node has chosen himself
GONE = 410  # the HTTP status of what a node holds and, by its owner's policy, gives to nobody
FORBIDDEN = 403  # of what it gives to others, but not to this node
FORBIDDEN_FOR = 300.0  # seconds for which it is believed: its owner may let this node in meanwhile
MAX_FAULTS = 4  # in a row, before a source is left alone
MAX_IDLE = 2  # sessions with one source that wait for the next question
CLOSE_WITHIN = 1.0  # seconds to close those that are left; what lasts longer breaks
MAX_SEEDS = 3  # web servers that are asked at once: the last resort is no reason to ask all


class Network(Protocol):
    """What a fetch needs of the network."""

    def hinted(self, multiaddr: str) -> "Source":
        """Make a source of an address that a person or a link gave; UsageError if malformed."""

    def web(
        self,
        bases: "Sequence[Url]",
        files: Mapping[CID, Sequence[tuple[str, int]]],
        web: "Web",
    ) -> "Source":
        """Make a source of a web server: its folders, paths and sizes by CID, the policy."""

    def neighbours(self) -> Sequence["Source"]:
        """The nodes on this LAN and those that are connected: worth a question."""

    async def providers(self, cid: CID) -> Sequence["Source"]:
        """Look in the DHT for nodes that say they hold ``cid``."""

    def ban(self, peer: str, reason: str) -> None:
        """Have nothing to do with a peer for a while; of a web server only the fetch is rid."""

    def announce(self, cids: Sequence[CID]) -> None:
        """Tell the DHT, in the background, that this node holds these: what it gives to others."""

    def withdraw(self, cids: Sequence[CID]) -> None:
        """Tell the DHT no longer that this node holds these."""


class Unproved(VerificationFailed):
    """What a source gave does not do, though nothing shows that it lies: it is not banned."""


@dataclass(slots=True, eq=False)
class Member:
    """One source and its record."""

    source: "Source"
    bytes: int = 0  # verified
    by_kind: Counter[str] = field(default_factory=Counter)  # the same, by what carried them
    faults: int = 0  # in a row
    failed: str = ""  # what its last fault was
    gone: str = ""  # why it is asked no more
    again: float = 0.0  # when it is worth asking once more, if it is found anew
    refuses: str = ""  # what it said when its owner's policy did not let it give something
    banned: bool = False
    lacks: set[CID] = field(default_factory=set)  # what a web server answered that it has not
    record: Record = field(default_factory=Record)  # for who asks afterwards why it took so long

    @property
    def peer(self) -> str:
        return self.source.peer

    @property
    def is_web(self) -> bool:
        """Whether it is a web server: it has files alone, and tells nothing."""
        return self.source.kind == "web"


@dataclass(eq=False)
class Crew:
    """All sources of one fetch of ``keys``: CIDs under which they may be found.

    ``every``: seconds between two rounds of looking for more, also while there is nobody; by
    default it is done as often as somebody who waits for a fetch wants it.
    ``reuse`` leaves sessions open for the next question: for who asks many in a row, not for hours.
    ``seeds`` makes the web seeds of the release when they are first needed. They are asked for
    files alone, by a transfer that had them join by ``call_seeds``.
    """

    network: Network
    report: Report
    hints: Sequence[str] = ()
    keys: list[CID] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    rounds: int = 0  # how often every way to find a source has been tried
    every: float | None = None
    reuse: bool = False
    seeds: "Callable[[], Sequence[Source]]" = tuple
    resorted: float = -math.inf  # when web seeds were last called
    trace: Trace = field(default_factory=Trace)

    def __post_init__(self) -> None:
        self._changed = trio.Event()
        self._lonely = trio.Event()
        self._hinted = [self.network.hinted(text) for text in self.hints]
        self._seeds: tuple[object, list[Source]] = None, []  # and what made them
        self._recruiting = False
        self._idle: defaultdict[str, list[tuple[AsyncExitStack, Session]]] = defaultdict(list)

    # -- finding --------------------------------------------------------------------------

    async def recruit(self) -> None:
        """Look for sources until cancelled: hints first, then the LAN, then the DHT, again."""
        self._recruiting = True
        try:
            await self._recruit()
        finally:
            self._recruiting = False
            await self._close_idle()

    async def _recruit(self) -> None:
        self._meet(self._hinted)
        while True:
            self._meet_near()
            for key in tuple(self.keys):
                if len(list(self.active)) >= MAX_MEMBERS:
                    break
                try:
                    self._meet(await self.network.providers(key))
                except NetworkError as exc:
                    self.report(Note(f"The DHT could not be asked: {exc.message}", "warning"))
            self._meet_near()  # who was heard of meanwhile
            self.rounds += 1
            self.notify()
            self._lonely = trio.Event()
            pause = LOOKUP_EVERY if any(self.active) else LOOKUP_AGAIN
            looked = trio.current_time()
            with trio.move_on_after(self.every or pause):
                await self._lonely.wait()
            if self.rounds:  # else somebody wants it done now
                await trio.sleep_until(looked + LOOKUP_PAUSE)

    def hint(self, hints: Sequence[str]) -> None:
        """Take further sources by their addresses; UsageError for what is none."""
        self._meet([self.network.hinted(text) for text in hints])

    def _meet_near(self) -> None:
        """Meet neighbours, a bounded number at a time; those that were never met come first."""
        near = list(self.network.neighbours())
        busy = {member.peer for member in self.active}
        free = [source for source in near if source.peer not in busy]
        random.shuffle(free)
        free.sort(key=lambda source: source.peer in self.members)
        self._meet(free[: max(0, MAX_NEAR - (len(near) - len(free)))])

    def _meet(self, sources: Sequence["Source"]) -> None:
        if sources:
            self.trace.met(trio.current_time())
        for source in sources:
            known = self.members.get(source.peer)
            if known is None:
                self.members[source.peer] = Member(source)
            elif known.gone and not known.banned and trio.current_time() >= known.again:
                known.gone = ""  # found anew: one more chance
                known.faults = min(known.faults, MAX_FAULTS - 1)
        if sources:
            self.notify()

    def call_seeds(self, called: set[str], spent: Collection[str] = ()) -> None:
        """Have web seeds join a transfer, a few at a time, each once; ``called`` is who has.

        ``spent``: those of them that have nothing more for it.
        """
        working = called.difference(spent)
        room = MAX_SEEDS - sum(member.peer in working for member in self.active)
        fresh = [
            seed
            for seed in self._all_seeds()
            if seed.peer not in called
            and not (seed.peer in self.members and self.members[seed.peer].banned)
        ][: max(0, room)]
        if fresh:
            self.resorted = trio.current_time()
            called |= {seed.peer for seed in fresh}
            new = [seed.peer for seed in fresh if seed.peer not in self.members]
            if new:
                self.report(Note(f"No node gives the rest now; it is asked of {', '.join(new)}."))
            self._meet(fresh)

    async def _close_idle(self) -> None:
        """Close the sessions that wait for a question, all at once: some peers take their time."""
        idle = [owner for each in self._idle.values() for owner, _ in each]
        self._idle.clear()

        async def close(owner: AsyncExitStack) -> None:
            with suppress(NetworkError):
                await owner.aclose()

        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_WITHIN):
            async with trio.open_nursery() as nursery:
                for owner in idle:
                    nursery.start_soon(close, owner)

    def _all_seeds(self) -> "list[Source]":
        if self._seeds[0] is not self.seeds:
            self._seeds = self.seeds, list(self.seeds())
        return self._seeds[1]

    def begin(self, phase: str) -> None:
        """Note that the fetch has come to another phase."""
        self.trace.begin(phase, trio.current_time())

    def notify(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = trio.Event()

    def seek(self, key: CID) -> None:
        """Look for sources under one more key, now; until that is done nobody gives up."""
        self.keys.insert(0, key)
        self.rounds = 0
        self._lonely.set()

    async def wait_change(self) -> None:
        """Wait until a source came, went, or something was verified."""
        await self._changed.wait()

    @property
    def active(self) -> Iterator[Member]:
        """Those that may be asked."""
        return (member for member in self.members.values() if not member.gone)

    @property
    def nodes(self) -> Iterator[Member]:
        """Those of them that are nodes, and so can be asked for more than files."""
        return (member for member in self.active if not member.is_web)

    # -- judging --------------------------------------------------------------------------

    def ban(self, member: Member, reason: str) -> None:
        """Take nothing from a source any more, here and elsewhere: it sent what does not verify."""
        if not member.banned:
            member.banned, member.gone = True, reason
            self.network.ban(member.peer, reason)
            self.report(Note(f"{member.peer} is banned: {reason}", "warning"))
        self._left()

    def fault(self, member: Member, exc: NetworkError) -> None:
        """Count a fault of a source; too many in a row, or out of reach, and it is left alone."""
        if isinstance(exc, PeerRefused) and exc.status == GONE:  # it holds it, and means it
            member.refuses = exc.message
            self.leave(member, exc.message)
            return
        if isinstance(exc, PeerRefused) and exc.status == FORBIDDEN:
            self.leave(member, exc.message, again=FORBIDDEN_FOR)
            return
        member.faults += 1
        member.record.faults += 1
        member.failed = exc.message
        if isinstance(exc, BadBytes):
            self.ban(member, exc.message)
        elif member.faults >= MAX_FAULTS or not isinstance(exc, PeerFault):
            self.leave(member, exc.message)

    def leave(self, member: Member, reason: str, again: float = 0.0) -> None:
        """Ask a source no more, unless it is found anew in ``again`` seconds or later."""
        member.gone = member.gone or reason
        member.again = trio.current_time() + again
        self._left()

    def _left(self) -> None:
        if not any(self.nodes):
            self._lonely.set()
        self.notify()

    def failure(self, what: str, *, nodes: bool = False) -> NetworkError | NotFound | Refused:
        """The error that says why ``what`` could not be had from anybody; ``nodes``: of them."""
        members = [one for one in self.members.values() if not (nodes and one.is_web)]
        tried = [
            member.refuses
            or f"{member.peer}: {member.gone or member.failed or 'it does not have it'}"
            for member in members
        ]
        but = self._but_seeds() if nodes else ""
        if not tried:
            return NoSources(
                f"Nobody was found who has {what}.{but}",
                next="Check that a node that holds it is running; --peer or a share link names it.",
            )
        if all(member.refuses for member in members):
            return Refused(
                f"Whoever was found who has {what} gives it to nobody: {tried[0]}",
                next="Ask its publisher, or name another source with --peer.",
            )
        shown = "; ".join(tried[:5]) + ("; ..." if len(tried) > 5 else "")
        return NoSources(
            f"None of {len(tried)} sources could give {what} ({shown}).{but}"
            if len(tried) > 1
            else f"The one source that was found could not give {what} ({shown}).{but}",
            next="Try again later, or name another source with --peer.",
        )

    def _but_seeds(self) -> str:
        """What a person must know of web seeds where a document is missing, not a file."""
        names = ", ".join(seed.peer for seed in self._all_seeds()[:MAX_SEEDS])
        return f" The web seeds ({names}) have the files, and nothing else." if names else ""

    # -- asking ---------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self, member: Member) -> "AsyncIterator[Session]":
        """A session with a source: a new one, or one that an earlier question left.

        Opening costs a round trip. What is left open in the end ``recruit`` closes.
        """
        idle, keep = self._idle[member.peer], False
        if idle:
            owner, session = idle.pop()
        else:
            owner = AsyncExitStack()
            session = await owner.enter_async_context(member.source.open())
        try:
            yield session
            keep = self.reuse and self._recruiting and len(idle) < MAX_IDLE and not member.gone
        finally:
            if keep:
                idle.append((owner, session))
            else:
                await owner.aclose()

    async def ask(self, what: str, target: str, limit: int, check: Callable[[bytes], T]) -> T:
        """Get a small document, at most ``limit`` bytes, from the first source that has it right.

        ``check`` turns the bytes into what is returned, or raises VerificationFailed: then the
        source is banned. NoSources, or NotFound if all said 404, once nobody is left to be asked.
        """

        async def read(get: Get) -> T:
            data = await get(target, limit)
            if len(data) < LARGE:
                return check(data)
            return await trio.to_thread.run_sync(check, data)

        return (await self.visit(what, read))[0]

    async def visit(
        self,
        what: str,
        visit: Callable[[Get], Awaitable[T]],
        *,
        wanted: int = 1,
        linger: float = 0.0,
        leave: bool = False,
    ) -> list[T]:
        """Visit sources until ``wanted`` of them gave what they were visited for; their answers.

        ``visit`` gets a function that asks the source, and raises VerificationFailed for one that
        lies, which is banned, and Unproved for one that may be honest. With fewer answers than
        wanted, the others are waited for ``linger`` seconds at most. With ``leave`` those who do
        not have it are asked no more until they are found anew. Errors as ``ask`` where there is
        no answer at all.
        """
        answers: list[T] = []
        wrong: list[VerificationFailed] = []
        asked: set[str] = set()
        running = 0
        missing = 0

        async def attempt(member: Member) -> None:
            nonlocal running, missing
            begun = trio.current_time()
            try:
                with trio.fail_after(ASK_WITHIN):
                    async with self.session(member) as session:
                        answers.append(await visit(partial(_get, session)))
                member.record.answered(trio.current_time() - begun)
                member.faults, member.refuses = 0, ""
                scope.deadline = min(scope.deadline, trio.current_time() + linger)
            except Unproved as exc:
                wrong.append(exc)
                self.report(Note(f"{member.peer} was not believed: {exc.message}", "warning"))
            except VerificationFailed as exc:
                wrong.append(exc)
                self.ban(member, exc.message)
            except PeerRefused as exc:
                missing += exc.status == 404
                if exc.status != 404:
                    self.fault(member, exc)
                elif leave:
                    self.leave(member, "it does not have it")
            except NetworkError as exc:
                self.fault(member, exc)
            except trio.TooSlowError:
                self.leave(member, f"it did not answer within {ASK_WITHIN:.0f} s")
            finally:
                running -= 1
                self.notify()

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                while len(answers) < wanted:
                    fresh = [member for member in self.nodes if member.peer not in asked]
                    if fresh:
                        member = self._choose(fresh, wanted)
                        asked.add(member.peer)
                        running += 1
                        nursery.start_soon(attempt, member)
                        if running < wanted - len(answers):
                            continue
                        with trio.move_on_after(HEDGE):
                            await self.wait_change()
                    elif running or not self.rounds:
                        await self.wait_change()
                    else:
                        break
            nursery.cancel_scope.cancel()
        if answers:
            return answers
        if wrong:
            raise wrong[0]
        if missing and missing == len(asked):
            raise NotFound(
                f"None of the {missing} nodes that were asked has {what}.{self._but_seeds()}"
                if missing > 1
                else f"The one node that was asked does not have {what}.{self._but_seeds()}",
                next="Check the link or the CID; the nodes that hold it may be offline.",
            )
        raise self.failure(what, nodes=True)

    async def poll(self, target: str, limit: int, *, count: int, within: float) -> list[bytes]:
        """Get a small document from several of the sources that are there now, all at once.

        Nobody is looked for, and nobody blamed: who does not have it, or not in time, is passed
        over. The answers are not checked.
        """
        answers: list[bytes] = []

        async def attempt(member: Member) -> None:
            with suppress(NetworkError):
                async with self.session(member) as session:
                    answers.append(await session.get(target, limit=limit))

        members = list(self.nodes)
        with trio.move_on_after(within):
            async with trio.open_nursery() as nursery:
                for member in random.sample(members, min(count, len(members))):
                    nursery.start_soon(attempt, member)
        return answers

    @staticmethod
    def _choose(fresh: Sequence[Member], wanted: int) -> Member:
        """The best of those who were not asked; any of them where several opinions are wanted."""
        if wanted > 1:
            return random.choice(fresh)
        return max(fresh, key=lambda member: (member.bytes, -member.faults))


async def _get(session: "Session", target: str, limit: int) -> bytes:
    """Ask one source, again if it is busy and says when."""
    while True:
        try:
            return await session.get(target, limit=limit)
        except PeerRefused as exc:
            if exc.status != 429 or not exc.retry_after:
                raise
            await trio.sleep(exc.retry_after)
