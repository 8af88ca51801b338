"""Asks the rules for every request of content, and holds room in the month for what is under way.

Content is what stands under ``/ipfs/`` and what ``have`` says of it. A manifest is a statement,
even as a block; so are Outlines, signatures and what publishers say: given whatever the rules.
What is not held is a plain 404 at any time, so that who looks for it asks elsewhere at once.
"""

import ipaddress
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from node.gate import Gate
from node.seeding.rules import Asker, Refusal, Release, Rules, closed, decide, is_near
from node.seeding.tally import Clock, Tally, local_now
from node.store import Store
from p2p.cid import CID, Codec
from p2p.errors import Busy, PeerRefused, UsageError
from p2p.http import FileBody, Handler, Request, Response

KNOWN_FOR: Final = 5.0
"""Seconds for which it stands to which releases something belongs: others may come, or go."""
PROMISED_FOR: Final = 60.0
"""Seconds after which to ask again where answers under way may leave some of the month."""
MAX_KNOWN: Final = 1 << 16
"""CIDs of which that is remembered, some 300 bytes each."""

_PROMISED: Final = Refusal(
    "month",
    429,
    "What this node still gives in this month is promised to answers under way.",
    PROMISED_FOR,
)

Near = Callable[[str], bool]
"""Says of who asks whether that is over a connection of the local network."""


class Seeding:
    """The rules of one node at work."""

    def __init__(
        self, rules: Rules, tally: Tally, gate: Gate, store: Store, clock: Clock = local_now
    ) -> None:
        self.rules = rules
        self.tally = tally
        self._gate = gate
        self._store = store
        self._clock = clock
        self._pending = 0
        """Bytes of answers under way, of those of which the length is known."""
        self._known: dict[CID, tuple[float, tuple[Release, ...]]] = {}
        self.refused: Counter[str] = Counter()
        """How often something was not given, by the reason."""

    def guarded(self, handler: Handler, near: Near) -> Handler:
        """The same handler, but content is given only as the rules say."""

        async def answer(request: Request) -> Response:
            cid = None if self.rules.open else _content(request.path)
            if cid is None:
                return await handler(request)
            asker = Asker(request.peer, near(request.peer))
            releases = await self._releases(cid) if self.rules.asks_releases else ()
            refusal = self._decide(asker, releases)
            if refusal is not None:
                if not (releases or await self._releases(cid)):
                    await _drop(await handler(request))  # NotFound comes first
                raise self._refuse(refusal, request.peer)
            response = await handler(request)
            if self.rules.month is None or request.method != "GET":
                return response
            return self._charge(response, partial(self._decide, asker, releases), request.peer)

        return answer

    def closed(self) -> Refusal | None:
        """Say why nobody is given anything now; own publications are exempt from the ratio."""
        return closed(self.rules, self._clock(), self.tally.counts())

    async def hidden(self, cid: CID) -> bool:
        """Say whether something is held, and not for everybody: so nobody is told of it."""
        if self.rules.public:
            return False
        releases = await self._releases(cid)
        audiences = [self.rules.audience_of(one) for one in releases]
        return bool(audiences) and "public" not in audiences

    def report(self) -> dict[str, Any]:
        """Return what ``allod status`` says of it."""
        counts, shut = self.tally.counts(), self.closed()
        return {
            "audience": self.rules.audience,
            "month": {"sent": counts.month, "allowed": self.rules.month},
            "ever": {"sent": counts.sent, "fetched": counts.fetched, "ratio": self.rules.ratio},
            "closed": shut.sentence if shut is not None else None,
        }

    def _decide(self, asker: Asker, releases: tuple[Release, ...], size: int = 0) -> Refusal | None:
        counts, now = self.tally.counts(), self._clock()
        held = replace(counts, month=counts.month + self._pending)
        refusal = decide(self.rules, asker, releases, now, held, size)
        if refusal is None or refusal.reason != "month":
            return refusal
        # Who asks for much and takes it slowly must not send everybody away until next month.
        sent = decide(self.rules, asker, releases, now, counts, size)
        return _PROMISED if sent is None else sent

    def _refuse(self, refusal: Refusal, peer: str) -> PeerRefused:
        self.refused[refusal.reason] += 1
        return PeerRefused(
            refusal.sentence, status=refusal.status, retry_after=refusal.retry_after, peer=peer
        )

    def _charge(
        self, response: Response, decide: Callable[[int], Refusal | None], peer: str
    ) -> Response:
        """Hold room in the month for an answer; one of unknown length ends where there is none."""
        body = response.body
        if isinstance(body, AsyncIterable):
            return replace(response, body=_until(body, decide))
        if not isinstance(body, FileBody | bytes):
            return response
        size = body.length if isinstance(body, FileBody) else len(body)
        refusal = decide(size)
        if refusal is not None:
            raise self._refuse(refusal, peer)
        self._pending += size
        return replace(response, done=partial(self._sent, size, response.done))

    def _sent(self, size: int, then: Callable[[], None] | None) -> None:
        self._pending -= size
        if then is not None:
            then()

    async def _releases(self, cid: CID) -> tuple[Release, ...]:
        """Return the held releases to which something belongs: itself, a file, a single block."""
        now = trio.current_time()
        known = self._known.get(cid)
        if known is not None and now < known[0]:
            return known[1]
        manifests = [cid]
        if cid.codec is not Codec.JSON:
            named = await self._store.named(cid)
            if not named:
                for file in await self._store.files_with(cid):
                    named += await self._store.named(file) if file != cid else []
            manifests = list(dict.fromkeys(manifest for manifest, _ in named))
        found = [await self._gate.about(one) for one in manifests]
        releases = dict.fromkeys(
            Release(facts.license, own) for facts, own in (one for one in found if one is not None)
        )
        if not releases:  # it may come at any moment, and is not to be told of or given then
            return ()
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[cid] = trio.current_time() + KNOWN_FOR, tuple(releases)
        return tuple(releases)


def near_gateway(asker: str) -> bool:
    """Say whether the public gateway is asked from the local network, by what it calls its askers.

    This machine is not: there a proxy asks, most likely, for the whole world.
    """
    network = ipaddress.ip_network(asker)
    return not network.is_loopback and is_near(str(network.network_address))


def _content(path: str) -> CID | None:
    """Return the CID whose content a request asks for; None where it asks for none."""
    match path.split("/"):
        case ["", "ipfs", *parts]:  # the gateway passes over empty parts
            text, *rest = [part for part in parts if part] or [""]
        case ["", "allod", "v1", "have", text]:
            rest = [""]
        case _:
            return None
    try:
        cid = CID.parse(text)
    except UsageError:  # the handler says what is wrong with it
        return None
    return None if cid.codec is Codec.JSON and not rest else cid


async def _until(
    body: AsyncIterable[bytes], decide: Callable[[int], Refusal | None]
) -> AsyncGenerator[bytes, None]:
    """Pass pieces on for as long as they may be given."""
    async with AsyncExitStack() as stack:
        if isinstance(body, AsyncGenerator):
            await stack.enter_async_context(aclosing(body))
        async for piece in body:
            refusal = decide(len(piece))
            if refusal is not None:  # the head is out: a broken stream is all that can be told
                raise Busy(refusal.sentence, retry_after=refusal.retry_after)
            yield piece


async def _drop(response: Response) -> None:
    """End an answer that is not sent."""
    if isinstance(response.body, AsyncGenerator):
        async with aclosing(response.body):
            async for _ in response.body:  # one that was not begun would leave open what it holds
                break
