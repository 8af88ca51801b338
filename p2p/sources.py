"""Sources: whoever answers byte ranges of a file, each an untrusted stranger.

Knows the requests of the HTTP protocol and what a right answer looks like; must not know hashes.
A session checks what can be checked without them: status, Content-Range, every length, silence.
Whether the bytes are the right ones is the reader's to verify, leaf by leaf.

``Source`` and ``Session`` are Protocols: a peer, a web server and a fake satisfy them alike.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Literal, Protocol

import trio

from p2p.address import Address
from p2p.cid import CID
from p2p.errors import NetworkError, PeerFault, PeerGone, PeerRefused, TooMuch
from p2p.host import Host
from p2p.http import ClientResponse, HttpClient, HttpLimits, parse_content_range
from p2p.http.client import MAX_REFUSAL, exactly, reason_of, retry_after
from p2p.lane.client import Lane, open_lane
from p2p.lane.offer import MAX_OFFER, PATH, TICKET_TIME, Encryption, Offer
from p2p.streams import PeerStream

log = logging.getLogger(__name__)

EXPLAINED = (403, 410, 429)
"""Statuses of what a node holds and by its owner's choice does not give, to this one, or now."""
LANE_AGAIN = 15.0
"""Seconds before a lane is tried again where there was none."""


class Session(Protocol):
    """An open way to a source; one request at a time."""

    async def get(self, target: str, *, limit: int) -> bytes:
        """Return the body of ``target`` (status 200), at most ``limit`` bytes.

        Raises PeerRefused for another status, PeerFault for a malformed answer, TooMuch, PeerGone.
        """

    def read(self, cid: CID, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield exactly the bytes ``start <= i < stop`` of a file, in order, as they come.

        Raises PeerRefused, PeerFault for a wrong or short or long answer, PeerGone on silence.
        """


class Source(Protocol):
    """Somebody who may have a file."""

    @property
    def peer(self) -> str:
        """Who it is: a peer id, or the URL of a web server."""

    @property
    def kind(self) -> Literal["lane", "stream", "web"]:
        """What carries the bytes."""

    def open(self) -> AbstractAsyncContextManager[Session]:
        """Open a session; NoSources when the source can't be reached."""

    async def open_lane(self) -> Lane | None:
        """Open a lane to it, which the caller closes; None where there is none to be had now."""


class PeerSource:
    """A peer over libp2p streams."""

    kind: Literal["lane", "stream", "web"] = "stream"

    def __init__(
        self,
        host: Host,
        peer: str,
        addresses: Sequence[str] = (),
        limits: HttpLimits | None = None,
        lanes: Encryption | None = None,
    ) -> None:
        """``lanes``: what this node wants of a lane; None for no lanes."""
        self.peer = peer
        self._host = host
        self._lanes = lanes
        self._lane_again = 0.0
        """When a lane is worth another try."""
        self._offer: Offer | None = None
        self._tickets: list[str] = []
        self._tickets_end = 0.0
        self._asking = trio.Lock()
        self._addresses = [Address.parse(text) for text in addresses]
        self._limits = limits or host.settings.http

    @asynccontextmanager
    async def open(self, limits: HttpLimits | None = None) -> AsyncIterator["PeerSession"]:
        """Open a session, with other ``limits`` than usual: connects to the peer if need be."""
        if not self._host.connected(self.peer):
            await self._host.reach(self.peer, self._addresses)
        session = PeerSession(self._host, self.peer, limits or self._limits)
        try:
            await session.open()
            yield session
        finally:
            await session.aclose()

    async def open_lane(self) -> Lane | None:
        """See Source.open_lane. Never raises for what the peer does: there is the stream."""
        if self._lanes is None or trio.current_time() < self._lane_again:
            return None
        try:
            offer, ticket = await self._ticket(self._lanes)
            rates = self._host.rates.of(self.peer)
            return await open_lane(
                self.peer, offer, ticket, rates, self._limits, self._host.reaches
            )
        except NetworkError as exc:
            log.debug("no lane to %s: %s", self.peer, exc)
            self._tickets = []
            self._lane_again = trio.current_time() + LANE_AGAIN
            if isinstance(exc, PeerFault) and not isinstance(exc, PeerGone | PeerRefused):
                await self._host.fault(self.peer, exc)
            return None

    async def _ticket(self, wants: Encryption) -> tuple[Offer, str]:
        """A ticket and the offer that it came with, a new one if need be."""
        async with self._asking:
            if not self._tickets or trio.current_time() > self._tickets_end:
                asked = trio.current_time()
                async with self.open() as session:
                    data = await session.get(f"{PATH}?encryption={wants}", limit=MAX_OFFER)
                self._offer = Offer.decode(data, self.peer)
                if self._offer.encryption == "off" and wants != "off":
                    raise PeerFault("It offered a plain lane, unasked.", peer=self.peer)
                self._tickets = list(self._offer.tickets)
                self._tickets_end = asked + min(self._offer.expires, TICKET_TIME) / 2
            if not self._tickets:
                raise PeerRefused("It gave no ticket.", status=404, peer=self.peer)
            assert self._offer is not None
            return self._offer, self._tickets.pop()


class PeerSession:
    """One stream at a time to one peer; the next request replaces one that broke or was left."""

    def __init__(self, host: Host, peer: str, limits: HttpLimits) -> None:
        self._host = host
        self._peer = peer
        self._limits = limits
        self._stream: PeerStream | None = None
        self._client: HttpClient | None = None
        self._used = False

    async def open(self) -> None:
        """Open the first stream."""
        await self._fresh()

    async def aclose(self) -> None:
        """End the stream: in good order between requests, by a reset in the middle of one."""
        stream, client = self._stream, self._client
        self._stream = self._client = None
        if stream is not None and client is not None:
            if client.usable:
                await client.aclose()
            else:
                await stream.abort()

    async def get(self, target: str, *, limit: int) -> bytes:
        """See Session.get."""
        response = await self._ask(target)
        if response.status != 200:
            raise await self._refused(target, response)
        if (response.length or 0) > limit:
            raise TooMuch(
                f"Expected at most {limit} bytes, came {response.length}.", peer=self._peer
            )
        body = bytearray()
        async for piece in response:
            body += piece
            if len(body) > limit:
                raise TooMuch(f"Expected at most {limit} bytes, came more.", peer=self._peer)
        return bytes(body)

    async def post(self, target: str, body: bytes) -> ClientResponse:
        """Send ``body``, which is JSON, on a stream of its own; the answer, whatever its status.

        Raises PeerFault for a malformed answer, PeerGone; the caller reads the body, bounded.
        """
        client = await self._fresh()
        self._used = True
        headers = [("content-type", "application/json")]
        return await client.ask(target, method="POST", headers=headers, body=body)

    async def read(self, cid: CID, start: int, stop: int) -> AsyncIterator[bytes]:
        """See Session.read."""
        if not 0 <= start < stop:
            raise ValueError(f"an empty range: {start} to {stop}")
        target = f"/ipfs/{cid}"
        response = await self._ask(target, ("range", f"bytes={start}-{stop - 1}"))
        if response.status == 206:
            try:
                got = parse_content_range(response.headers.get("content-range"))
            except PeerFault as exc:
                raise self._fault(exc.message) from exc
            if got[:2] != (start, stop):
                raise self._fault(f"Expected bytes {start} to {stop}, came {got[0]} to {got[1]}.")
        elif response.status != 200:
            raise await self._refused(target, response)
        elif start:
            raise self._fault("Expected a range of a file, came all of it.")
        async with aclosing(exactly(response, stop - start, self._peer)) as pieces:
            async for piece in pieces:
                yield piece

    async def _ask(self, target: str, *headers: tuple[str, str]) -> ClientResponse:
        client = self._client
        stream = self._stream
        # Where a hole was punched since, the relay is not needed any longer.
        outdone = stream is not None and self._host.outdone(stream, self._peer)
        if client is not None and client.usable and self._used and not outdone:
            try:
                return await client.ask(target, headers=headers)
            except PeerGone:
                pass  # it was idle for too long: the peer may close such a stream at any time
        if client is None or not client.usable or outdone:
            client = await self._fresh()
        self._used = True
        return await client.ask(target, headers=headers)

    async def _fresh(self) -> HttpClient:
        await self.aclose()
        self._stream = await self._host.open_stream(self._peer)
        self._client = HttpClient(self._stream, peer=self._peer, limits=self._limits)
        self._used = False
        return self._client

    async def _refused(self, target: str, response: ClientResponse) -> PeerRefused:
        body = b""
        if response.length is not None and response.length <= MAX_REFUSAL:
            async for data in response:  # read to the end, the stream is good for the next request
                body += data
        said = f"{self._peer} answered {response.status} to {target}."
        if response.status in EXPLAINED:
            said = f"{self._peer} does not give {target}: {reason_of(body)}"
        return PeerRefused(
            said,
            status=response.status,
            retry_after=retry_after(response.headers),
            peer=self._peer,
        )

    def _fault(self, message: str) -> PeerFault:
        return PeerFault(message, peer=self._peer)
