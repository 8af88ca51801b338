"""One web server as a source: its folders, and how a range of a file is asked of it.

It has files and nothing else: neither statements nor outlines are asked for here, and what it has
is what the release says, until it answers that a file is not there.
Redirects are followed, each checked as the first address was; where one led is remembered for a
while, since the Hub's leads to the same place for an hour.
A session checks what can be checked without hashes, as one with a peer does (p2p/sources.py).
"""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final, Literal

import trio

from p2p.cid import CID
from p2p.errors import NoSources, PeerFault, PeerGone, PeerRefused
from p2p.http import ClientResponse, HttpClient, HttpLimits, parse_content_range
from p2p.http.client import MAX_REFUSAL, exactly, retry_after
from p2p.policy.web import Web
from p2p.rates import UNLIMITED, Meter
from p2p.web.dial import dial, trust
from p2p.web.url import Url, check_hop, read_redirect

MAX_REDIRECTS: Final = 5
"""Hops behind the first address: the Hub has two, a renamed repository one more."""
MAX_PLACES: Final = 1024
"""Files whose last hop is remembered."""
KEEP_PLACE: Final = 300.0
"""Seconds for that: the Hub's signed addresses hold for an hour."""
MAX_CLIENTS: Final = 4
"""Connections that one session keeps open, to different servers."""
MAX_NAMES: Final = 4
"""Addresses at which one content is looked for: folders times paths that it has in the release."""
ABSENT: Final = frozenset({401, 403, 404, 410, 416, 451})
"""Answers that say of a file that it is not to be had there; other files may be."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
HEADERS: Final = (("user-agent", "allod"), ("accept", "*/*"), ("accept-encoding", "identity"))
"""All that a server is told of who asks."""


class WebSource:
    """A server whose folders ``bases`` hold the ``files`` of a release: path and size by CID."""

    kind: Literal["lane", "stream", "web"] = "web"

    def __init__(
        self,
        bases: Sequence[Url],
        files: Mapping[CID, Sequence[tuple[str, int]]],
        web: Web,
        *,
        down: Meter = UNLIMITED.down,
        limits: HttpLimits | None = None,
    ) -> None:
        """``web``: the policy; ``down``: whose rate its bytes count on.

        NoSources where the policy has it not asked.
        """
        self.peer = bases[0].origin
        self.web = web
        self.down = down
        self.limits = limits or HttpLimits()
        self._bases = bases
        self._files = files
        self._places: dict[Url, tuple[Url, float]] = {}
        self._context: ssl.SSLContext | None = None
        for base in bases:
            check_hop(base, web)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["WebSession"]:
        """Open a session; it connects when it is asked for something."""
        session = WebSession(self)
        try:
            yield session
        finally:
            await session.aclose()

    async def open_lane(self) -> None:
        """See Source.open_lane: a web server has none."""
        await trio.lowlevel.checkpoint()

    def names(self, cid: CID) -> list[tuple[Url, int]]:
        """Return where a content may be, and its bytes; nothing for one that is in no folder."""
        found = self._files.get(cid, ())
        return [(base.file(path), size) for path, size in found for base in self._bases][:MAX_NAMES]

    def place(self, url: Url) -> Url | None:
        """Return where a URL led to a short time ago."""
        place, until = self._places.get(url, (None, 0.0))
        return place if trio.current_time() < until else None

    def remember(self, url: Url, place: Url | None) -> None:
        """Note where a URL leads; None to forget it."""
        self._places.pop(url, None)
        if place is not None and place != url:
            while len(self._places) >= MAX_PLACES:
                del self._places[next(iter(self._places))]
            self._places[url] = place, trio.current_time() + KEEP_PLACE

    async def trusted(self) -> ssl.SSLContext:
        """Return the certificates that are trusted, read when they are first needed."""
        if self._context is None:
            self._context = await trio.to_thread.run_sync(trust)
        return self._context


class WebSession:
    """One request at a time to a server, and to those to which it redirects."""

    def __init__(self, source: WebSource) -> None:
        self._source = source
        self._clients: dict[str, HttpClient] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        while self._clients:
            await self._clients.popitem()[1].aclose()

    async def get(self, target: str, *, limit: int) -> bytes:
        """See Session.get: a web server has none of what nodes tell each other."""
        await trio.lowlevel.checkpoint()
        raise PeerRefused(f"A web server has no {target}.", status=404, peer=self._source.peer)

    async def read(self, cid: CID, start: int, stop: int) -> AsyncIterator[bytes]:
        """See Session.read. PeerRefused with a status of ABSENT where it does not have the file.

        NoSources when it leads to where no node goes.
        """
        if not 0 <= start < stop:
            raise ValueError(f"an empty range: {start} to {stop}")
        response = await self._found(cid, start, stop)
        async with aclosing(exactly(response, stop - start, self._source.peer)) as pieces:
            async for piece in pieces:
                yield piece

    async def _found(self, cid: CID, start: int, stop: int) -> ClientResponse:
        """Return the answer with these bytes of a content, from the first of its addresses."""
        refused = PeerRefused(f"It has no {cid}.", status=404, peer=self._source.peer)
        for url, size in self._source.names(cid):
            response = await self._follow(url, ("range", f"bytes={start}-{stop - 1}"))
            try:
                self._check(url, response, start, stop, size)
            except PeerRefused as exc:
                await self._skip(response)
                if exc.status not in ABSENT:
                    raise
                refused = exc
            else:
                return response
        raise refused

    def _check(self, url: Url, response: ClientResponse, start: int, stop: int, size: int) -> None:
        """Raise for an answer that is not the range that was asked for."""
        if response.status not in (200, 206):
            raise PeerRefused(
                f"{url.authority} answered {response.status} to {url.target}.",
                status=response.status,
                retry_after=retry_after(response.headers),
                peer=self._source.peer,
            )
        coding = response.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise self._fault(f"Expected plain bytes, came {coding[:20]!r}.")
        if response.status == 200:
            if (start, stop) != (0, size):
                raise self._fault("Expected a range of a file, came all of it.")
            return
        try:
            first, last, total = parse_content_range(response.headers.get("content-range"))
        except PeerFault as exc:
            raise self._fault(exc.message) from exc
        if total not in (None, size):  # it has changed there: another file by that name
            raise PeerRefused(
                f"{url.target} has {total} bytes at {url.authority}, in the release {size}.",
                status=404,
                peer=self._source.peer,
            )
        if (first, last) != (start, stop):
            raise self._fault(f"Expected bytes {start} to {stop}, came {first} to {last}.")

    async def _follow(self, url: Url, header: tuple[str, str]) -> ClientResponse:
        """Ask a URL, and whatever it redirects to; the answer that is no redirect."""
        known = self._source.place(url)
        if known is not None:
            self._source.remember(url, None)  # unless it is as good as it was
            response = await self._ask(known, url, header)
            if response.status in (200, 206):
                self._source.remember(url, known)
                return response
            await self._skip(response)  # its signature may have expired: from the start
        current = url
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._ask(current, url, header)
            if response.status not in REDIRECTS:
                self._source.remember(url, current if response.status in (200, 206) else None)
                return response
            await self._skip(response)
            current = read_redirect(current, response.headers.get("location"))
        raise NoSources(f"{url.authority} redirected more than {MAX_REDIRECTS} times.")

    async def _ask(self, url: Url, base: Url, header: tuple[str, str]) -> ClientResponse:
        """Send one request, on a connection that is open or on a new one."""
        local = check_hop(url, self._source.web, None if url == base else base)
        client = self._clients.pop(url.authority, None)
        headers = (*HEADERS, header)
        if client is not None and client.usable:
            self._clients[url.authority] = client
            try:
                return await self._answer(client, url, headers)
            except PeerGone:  # it was idle for too long: the server may close it at any time
                del self._clients[url.authority]
        if client is not None:
            await client.aclose()
        while len(self._clients) >= MAX_CLIENTS:
            await self._clients.pop(next(iter(self._clients))).aclose()
        context = await self._source.trusted()
        stream = await dial(url, context, self._source.down, local=local)
        client = HttpClient(stream, peer=url.authority, limits=self._source.limits)
        self._clients[url.authority] = client
        return await self._answer(client, url, headers)

    async def _answer(
        self, client: HttpClient, url: Url, headers: Sequence[tuple[str, str]]
    ) -> ClientResponse:
        """Ask once; the whole head must come in the time that a peer has for its begin."""
        with trio.move_on_after(self._source.limits.answer):
            return await client.ask(url.target, headers=headers)
        raise PeerGone(
            f"{url.authority} did not answer within {self._source.limits.answer:g} s.",
            peer=self._source.peer,
        )

    async def _skip(self, response: ClientResponse) -> None:
        """Read a body that nobody wants, if it is short: the connection is then good for more."""
        if response.length is not None and response.length <= MAX_REFUSAL:
            with suppress(PeerFault), trio.move_on_after(self._source.limits.answer):
                async for _ in response:
                    pass

    def _fault(self, message: str) -> PeerFault:
        return PeerFault(message, peer=self._source.peer)
