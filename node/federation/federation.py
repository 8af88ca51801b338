"""``Inference`` for a node that has peers: its own engines first, then peers that serve the same.

A peer is asked when the model's files are not here, or when this node's engine is down or full (if
one that is free can be had; else the request waits here), and then only if both the owner
(``via_peers`` of the model) and the token (``may_leave`` of the call) let the prompt leave this
node. Until the first byte of an answer the next peer may be tried; after it nobody else is, since
no client could tell two halves of different answers from one.

Peers answer with engines of their own only, so no request goes round in circles.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final, Protocol

import trio

from node.federation.asking import PATIENCE, Way, ask_peer
from node.federation.choose import Standings, late
from node.federation.survey import Network, Survey
from node.inference import Answer, Call, Local, Served
from p2p.cid import CID
from p2p.errors import (
    AllodError,
    BadBytes,
    Busy,
    EngineError,
    NetworkError,
    NoEngine,
    NoMemory,
    OverLimit,
    PeerFault,
    PeerGone,
    PeerRefused,
    Refused,
    Unsupported,
)
from p2p.serving import PLACES

log = logging.getLogger(__name__)

AGAIN: Final = 1.0
"""Seconds after which a client may ask again when all peers work for this node already."""
FREE_STREAM_WITHIN: Final = 5.0
"""Seconds for peers that said they are free to begin a stream in the place of this node's full
engine: then the request waits here, as it would without peers. They read the prompt meanwhile."""
FREE_WHOLE_WITHIN: Final = 30.0
"""Seconds for the same with an answer in one piece, which begins when it has been made."""
MAX_TOLD: Final = 5
"""Peers whose failures an error names."""
SHARED_NO_MORE: Final = (403, 404, 410)
"""Statuses of a peer that does not answer for a model, or not for us."""


class Gate(Protocol):
    """The owner's policy, as ``node.gate.Gate``."""

    async def check(self, cid: CID) -> None:
        """Raise ``Refused``, with the reason, for what is not to be used."""


class Federation:
    """See the module; wraps this node's own ``Inference``."""

    def __init__(self, local: Local, network: Network, gate: Gate) -> None:
        self.standings = Standings()
        """What peers have shown."""
        self._local = local
        self._gate = gate
        self._survey = Survey(network, self.standings, local.peer_id)
        self._asking: Counter[str] = Counter()
        """Requests that each peer answers for us now."""

    @property
    def peer_id(self) -> str:
        """See Inference."""
        return self._local.peer_id

    def served(self) -> Sequence[Served]:
        """See Inference; what only peers answer for is among them, as ``remote``."""
        return self._local.served()

    def find(self, name: str) -> Served:
        """See Inference."""
        return self._local.find(name)

    @asynccontextmanager
    async def ask(self, model: Served, call: Call) -> AsyncIterator[Answer]:
        """See Inference; ``NoEngine`` where nobody answers for a model that is not here."""
        async with AsyncExitStack() as stack:
            yield await self._open(stack, model, call)

    async def _open(self, stack: AsyncExitStack, model: Served, call: Call) -> Answer:
        """Open an answer, which ends with ``stack``."""
        may_leave = model.via_peers and call.may_leave
        if model.state == "remote":
            why: AllodError = NoEngine(
                f"{model.name} is not held here.",
                next=f"`allod fetch {model.manifest}` brings it.",
            )
            if not may_leave:
                raise Refused(
                    f"{model.name} is answered for by peers only, and this request may not leave "
                    "this node.",
                    next=why.next,
                )
        else:
            if may_leave and self._taken(model):
                with suppress(AllodError):  # then it waits here, as it would without peers
                    await self._gate.check(model.manifest)
                    return await self._ask_peers(stack, model, call, EngineError(""), free=True)
            try:
                return await self._ask_here(stack, model, call, may_leave)
            except (Busy, EngineError) as exc:
                if not may_leave or isinstance(exc, OverLimit):
                    raise
                why = exc
        await self._gate.check(model.manifest)
        return await self._ask_peers(stack, model, call, why)

    def _taken(self, model: Served) -> bool:
        """Say whether a request would have to wait here."""
        load = self._local.load(model.name)
        return load.down or load.busy >= load.slots

    async def _ask_here(
        self, stack: AsyncExitStack, model: Served, call: Call, may_leave: bool
    ) -> Answer:
        """Ask the node's own engine; with ``may_leave`` up to the first byte of its answer."""
        async with AsyncExitStack() as own:
            answer = await own.enter_async_context(self._local.ask(model, call))
            if may_leave:
                body = _Begun(answer.body)
                await body.begin()
                answer.body = body
            stack.push_async_exit(own.pop_all())
        return answer

    # --- peers -----------------------------------------------------------------------------------

    async def _ask_peers(
        self,
        stack: AsyncExitStack,
        model: Served,
        call: Call,
        why: AllodError,
        *,
        free: bool = False,
    ) -> Answer:
        """Ask those who serve it, the best first; what failed here, ``why``, if nobody answers.

        ``free``: only those who can answer at once.
        """
        found = await self._survey.look(model.manifest)
        offers = {
            peer: serving
            for peer, (_, serving) in found.items()
            if not free or (serving.state == "ready" and serving.load < 1)
        }
        tried: list[PeerFault] = []
        within = PATIENCE
        if free:
            within = FREE_STREAM_WITHIN if call.stream else FREE_WHOLE_WITHIN
        deadline = trio.current_time() + within
        for peer in self.standings.rank(offers, call.needs, trio.current_time()):
            if trio.current_time() >= deadline:
                break  # those who are left did no wrong
            try:
                return await self._ask_one(stack, found[peer][0], model, call, deadline)
            except NetworkError as exc:
                fault = exc if isinstance(exc, PeerFault) else PeerGone(exc.message, peer=peer)
                self._note(peer, model, fault)
                tried.append(fault)
        raise failure(model, why, tried)

    async def _ask_one(
        self, stack: AsyncExitStack, way: Way, model: Served, call: Call, deadline: float
    ) -> Answer:
        async with AsyncExitStack() as one:
            one.enter_context(self._place(way.peer))
            begin = trio.current_time()
            self._survey.took(way.peer, model.manifest)
            asking = ask_peer(way, model, call, partial(self._note, way.peer, model))
            with trio.CancelScope(deadline=deadline) as scope:
                answer = await one.enter_async_context(asking)
            if scope.cancelled_caught:
                raise late(way.peer, trio.current_time() - begin, PATIENCE)
            stack.push_async_exit(one.pop_all())
        return answer

    @contextmanager
    def _place(self, peer: str) -> Iterator[None]:
        """Keep to what a peer grants us at the same time."""
        if self._asking[peer] >= PLACES:
            raise PeerRefused(
                f"It already answers {PLACES} requests of this node.",
                status=429,
                retry_after=AGAIN,
                peer=peer,
            )
        self._asking[peer] += 1
        try:
            yield
        finally:
            self._asking[peer] -= 1
            if not self._asking[peer]:
                del self._asking[peer]

    def _note(self, peer: str, model: Served, exc: PeerFault | None) -> None:
        """Remember what a peer did; None: it answered to the end, and proved it."""
        now = trio.current_time()
        if exc is None:
            log.debug("%s answered for %s", peer, model.name)
            self.standings.answered(peer)
        elif isinstance(exc, BadBytes):
            log.warning("%s", exc.message)
            self.standings.lied(peer, now, exc.message)
        elif isinstance(exc, PeerRefused) and exc.status in SHARED_NO_MORE:
            self._survey.forget(peer, model.manifest)
        elif isinstance(exc, PeerRefused) and exc.status == 429:
            if self._asking[peer] < PLACES:  # else it is us who keep it busy
                self.standings.busy(peer, now, exc.retry_after)
        elif isinstance(exc, PeerRefused) and exc.status == 501:
            log.debug("%s cannot do what a request to %s needs", peer, model.name)
        else:
            self.standings.failed(peer, now, exc.message)


def failure(model: Served, why: AllodError, tried: Sequence[PeerFault]) -> AllodError:
    """Return the error that says why nobody answers: what is wrong here, and with each peer."""
    told = [f"{exc.peer}: {exc.message}" for exc in tried[:MAX_TOLD]]
    peers = "; ".join(told) + ("; ..." if len(tried) > MAX_TOLD else "")
    said = (
        f"No peer answers in its place ({peers})" if tried else "No peer was found that serves it"
    )
    message = f"{why.message.rstrip('.')}. {said}."
    busy = [exc for exc in tried if isinstance(exc, PeerRefused) and exc.status == 429]
    if isinstance(why, Busy):
        return Busy(message, retry_after=why.retry_after, next=why.next)
    if model.state == "remote" and busy and len(busy) == len(tried):
        return Busy(message, retry_after=min(max(exc.retry_after, 1.0) for exc in busy))
    for kind in (NoEngine, NoMemory, Unsupported):
        if isinstance(why, kind):
            return kind(message, next=why.next)
    return EngineError(message, next=why.next)


class _Begun:
    """A body of this node's engine whose first bytes have come."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._first = b""

    async def begin(self) -> None:
        """Wait for the first bytes."""
        self._first = await anext(self._body, b"")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, b""
        return first or await anext(self._body)

    async def aclose(self) -> None:
        """Close the body, if it can be closed."""
        close = getattr(self._body, "aclose", None)
        if close is not None:
            await close()
