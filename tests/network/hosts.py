"""Real hosts in one process, each in a task of its own, so that they end in any order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

from p2p.discovery import Discovery, open_discovery
from p2p.host import Host, HostSettings, open_host
from p2p.http import Request, Response
from p2p.keys import SecretKey

LOOPBACK = HostSettings(listen_hosts=("127.0.0.1",), mdns=False)


@dataclass
class Running:
    """A host, and its discovery if it has one, that ``stop`` ends."""

    key: SecretKey
    host: Host
    discovery: Discovery | None
    scope: trio.CancelScope
    ended: trio.Event

    @property
    def dht(self) -> Discovery:
        """The discovery, which is there."""
        assert self.discovery is not None
        return self.discovery

    async def stop(self) -> None:
        """End the host and wait until it is gone."""
        self.scope.cancel()
        await self.ended.wait()


class Crew:
    """Hosts that live until the end of the test."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def host(
        self,
        *,
        dht: bool = False,
        key: SecretKey | None = None,
        settings: HostSettings = LOOPBACK,
        **changes: Any,
    ) -> Running:
        """Start a host on loopback, with a DHT node over it if ``dht``."""
        started: list[Running] = []
        up = trio.Event()
        key = key or SecretKey.generate()

        async def run() -> None:
            ended = trio.Event()
            try:
                with trio.CancelScope() as scope:
                    async with open_host(key, replace(settings, **changes)) as host:
                        if not dht:
                            started.append(Running(key, host, None, scope, ended))
                            up.set()
                            await trio.sleep_forever()
                        async with open_discovery(host) as discovery:
                            started.append(Running(key, host, discovery, scope, ended))
                            up.set()
                            await trio.sleep_forever()
            finally:
                ended.set()

        self._nursery.start_soon(run)
        await up.wait()
        return started[0]


@asynccontextmanager
async def crew(seconds: float = 40) -> AsyncIterator[Crew]:
    """A crew, whose hosts end with the block; the block has so many seconds."""
    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            yield Crew(nursery)
            nursery.cancel_scope.cancel()


async def hello(request: Request) -> Response:
    """Answer with the path and who asked."""
    return Response(200, {}, f"{request.path} {request.peer}".encode())
