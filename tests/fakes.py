"""A simulated network for fetches: real stores and the real peer API, only the wire is missing.

A FakeSource answers from a store as a node would, and misbehaves on demand; FakeNetwork hands them
out as the DHT, the LAN and hints would. What holds on it is shown on real nodes in tests/network.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import trio

from node.api.peer import PeerApi
from node.claims import Claims
from node.crew import Network
from node.fetch import fetch
from node.gate import Gate
from node.keyring import Keyring
from node.messages import Event, FetchParams
from node.rulebook import Rulebook
from node.store import Store
from p2p.cid import CID
from p2p.errors import AllodError, NoSources, PeerGone, PeerRefused, TooMuch, UsageError
from p2p.http import FileBody, Request, Response, error_response
from p2p.policy import Web
from p2p.web import Url

CHUNK = 300_000  # bytes: no divisor of a leaf, so that leaves and chunks never fall together


@dataclass(eq=False)
class FakeSource:
    """A source that answers from ``store`` and can be told to misbehave."""

    peer: str
    store: Store
    kind: Literal["lane", "stream", "web"] = "stream"
    lies: bool = False  # flips a bit of every answer about content
    lies_about: str = ""  # ... only of answers to targets that hold this
    stalls: bool = False  # never sends the body of a range
    dies_after: int | None = None  # bytes of content after which every stream breaks
    refuses: int = 0  # how many requests are answered 429 first
    lacks: frozenset[CID] = frozenset()  # files that it answers 404 for
    delay: float = 0.0  # seconds a chunk
    cancels_after: int | None = None  # bytes of content after which ``scope`` is cancelled
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    unreachable: bool = False
    answers: dict[str, bytes] = field(default_factory=dict)  # to targets that begin with a key
    says: Mapping[str, bytes] | None = None  # the files of publishers' metadata, not the store's
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    opened: int = 0  # sessions
    closed: int = 0
    stalled: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["FakeSession"]:
        await trio.lowlevel.checkpoint()
        if self.unreachable:
            raise NoSources(f"{self.peer} cannot be reached.")
        self.opened += 1
        try:
            yield FakeSession(self)
        finally:
            self.closed += 1

    async def open_lane(self) -> None:
        """A simulated wire has no lanes."""
        await trio.lowlevel.checkpoint()


class FakeSession:
    """One open stream to a FakeSource."""

    def __init__(self, source: FakeSource) -> None:
        self._source = source
        self._api = PeerApi(source.store)

    async def get(self, target: str, *, limit: int) -> bytes:
        response = await self._answer(target, {})
        assert isinstance(response.body, bytes)
        body = response.body
        if response.status != 200:
            raise PeerRefused(
                f"It answered {response.status}.", status=response.status, peer=self._source.peer
            )
        if len(body) > limit:
            raise TooMuch("It sent more than was asked for.", peer=self._source.peer)
        return self._bent(target, body)

    async def read(self, cid: CID, start: int, stop: int) -> AsyncIterator[bytes]:
        source = self._source
        if cid in source.lacks:
            source.asked.append(f"/ipfs/{cid}")
            raise PeerRefused("It answered 404.", status=404, peer=source.peer)
        response = await self._answer(f"/ipfs/{cid}", {"range": f"bytes={start}-{stop - 1}"})
        if response.status != 206:
            raise PeerRefused(
                f"It answered {response.status}.", status=response.status, peer=source.peer
            )
        if source.stalls:
            source.stalled.set()
            await trio.sleep_forever()
        assert isinstance(response.body, FileBody)
        data = await trio.to_thread.run_sync(bytes_of, response.body)
        data = self._bent(f"/ipfs/{cid}", data)
        for at in range(0, len(data), CHUNK):
            await trio.sleep(source.delay)
            chunk = data[at : at + CHUNK]
            source.sent += len(chunk)
            if source.dies_after is not None and source.sent > source.dies_after:
                raise PeerGone(f"{source.peer} broke off.", peer=source.peer)
            if source.cancels_after is not None and source.sent > source.cancels_after:
                source.scope.cancel()
            yield chunk

    async def _answer(self, target: str, headers: dict[str, str]) -> Response:
        await trio.lowlevel.checkpoint()
        source = self._source
        source.asked.append(target)
        if source.refuses:
            source.refuses -= 1
            raise PeerRefused("It is busy.", status=429, retry_after=0.05, peer=source.peer)
        for start, answer in source.answers.items():
            if target.startswith(start):
                return Response(200, {}, answer)
        if source.says is not None and target.startswith("/allod/v1/publisher/"):
            said = source.says.get(target.rpartition("/")[2])
            return Response(404 if said is None else 200, {}, said or b"")
        path, _, query = target.partition("?")
        fields = dict(part.split("=", 1) for part in query.split("&") if part)
        try:
            return await self._api(Request("GET", path, fields, headers, "tester"))
        except AllodError as exc:
            return error_response(exc)

    def _bent(self, target: str, data: bytes) -> bytes:
        source = self._source
        if not data or not source.lies or source.lies_about not in target:
            return data
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@dataclass(eq=False)
class FakeNetwork:
    """Hands out sources: ``known`` by the DHT, ``near`` on the LAN, ``by_address`` as hints."""

    known: list[FakeSource] = field(default_factory=list)
    near: list[FakeSource] = field(default_factory=list)
    by_address: dict[str, FakeSource] = field(default_factory=dict)
    seeds: dict[str, FakeSource] = field(default_factory=dict)  # web servers by their first URL
    banned: dict[str, str] = field(default_factory=dict)
    announced: list[CID] = field(default_factory=list)
    looked_up: list[CID] = field(default_factory=list)

    def hinted(self, multiaddr: str) -> FakeSource:
        if multiaddr not in self.by_address:
            raise UsageError(f"{multiaddr} is no address.")
        return self.by_address[multiaddr]

    def web(
        self, bases: Sequence[Url], files: Mapping[CID, Sequence[tuple[str, int]]], web: Web
    ) -> FakeSource:
        return self.seeds[str(bases[0])]

    def neighbours(self) -> Sequence[FakeSource]:
        return list(self.near)

    async def providers(self, cid: CID) -> Sequence[FakeSource]:
        await trio.lowlevel.checkpoint()
        self.looked_up.append(cid)
        return list(self.known)

    def ban(self, peer: str, reason: str) -> None:
        self.banned[peer] = reason

    def announce(self, cids: Sequence[CID]) -> None:
        self.announced += cids

    def withdraw(self, cids: Sequence[CID]) -> None:
        self.announced = [cid for cid in self.announced if cid not in set(cids)]


@dataclass
class Machine:
    """A node without a wire of its own."""

    store: Store
    keyring: Keyring
    wire: FakeNetwork = field(default_factory=FakeNetwork)
    claims: Claims = field(default_factory=Claims)
    events: list[Event] = field(default_factory=list)
    called: dict[str, str] = field(default_factory=dict)  # petnames

    def __post_init__(self) -> None:
        self.trust = self.store.folder.with_suffix(".trust")
        self.gate = gate_for(self.store, self.keyring, self.trust)
        self.store.publishers.changed.append(lambda publisher: self.gate.changed())

    def petnames(self) -> dict[str, str]:
        return self.called

    def network(self) -> Network:
        return self.wire

    async def fetch(self, ref: object, **params: Any) -> dict[str, Any]:
        return await fetch(FetchParams(ref=str(ref), **params), self, self.events.append)


def gate_for(store: Store, keyring: Keyring, folder: Path) -> Gate:
    """A gate whose policy, and all that it remembers, lies in ``folder``."""
    return Gate(Rulebook(folder, folder / "communities"), store, keyring, folder)


def bytes_of(body: FileBody) -> bytes:
    """The bytes that a FileBody stands for."""
    with Path(body.path).open("rb") as file:
        file.seek(body.offset)
        return file.read(body.length)
