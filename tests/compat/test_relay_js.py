"""Relays against js-libp2p's circuit relay v2: it uses ours, we use its, each calls the other."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.address import Address
from p2p.errors import NetworkError, NoSources
from p2p.host import Host
from p2p.http import HttpClient, Request, Response
from p2p.relay.messages import HOP
from p2p.relay.relaying import RelaySettings, open_relaying
from tests.compat.npm import NODE, install_or_skip, started
from tests.network.hosts import crew

FOLDER = Path(__file__).parent / "js_libp2p"
ECHO = "/echo"
LONG = 40
"""Seconds after which something hangs; Node starts in one or two."""
SIZE = 300_000
"""Bytes that relay.mjs sends: more than one window of a stream."""
USE = RelaySettings("auto", "never")
"""Calls through relays, and needs none itself on loopback."""


@pytest.fixture(scope="module")
def js() -> list[str]:
    """The command that runs a JavaScript node; its packages are installed at the first use."""
    install_or_skip(FOLDER)
    return [NODE, str(FOLDER / "relay.mjs")]


@asynccontextmanager
async def js_node(command: list[str]) -> AsyncIterator[Address]:
    """A JavaScript node that runs to the end of the block: its address."""
    async with started(command) as line:
        yield Address.parse(line)


async def js_calls(command: list[str], *addresses: Address) -> list[dict[str, Any]]:
    """What a JavaScript node found at each of the addresses."""
    done = await trio.run_process([*command, "call", *map(str, addresses)], capture_stdout=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def echo(host: Host, peer: str) -> int:
    """Have the peer echo SIZE bytes: the number that came back as they went."""
    stream = await host.open_stream(peer, ECHO)
    body = (bytes((i * 7) % 251 for i in range(251)) * (SIZE // 251 + 1))[:SIZE]

    async def send() -> None:
        await stream.send_all(body)
        await stream.aclose()

    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while piece := await stream.receive_some():
            got += piece
    assert got == body
    return len(got)


async def answer(request: Request) -> Response:
    """Say who asked, or more than js relays carry."""
    return Response(200, {}, bytes(SIZE) if request.path == "/much" else request.peer.encode())


async def get(host: Host, peer: str, path: str) -> bytes:
    """What the peer answers."""
    response = await HttpClient(await host.open_stream(peer)).ask(path)
    return b"".join([bytes(piece) async for piece in response])


async def place(host: Host) -> Address:
    """The first place that the host has at a relay, once it has one."""
    while not host.circuits():
        await host.on_moved.wait()
    return host.circuits()[0]


async def test_js_has_a_place_at_our_relay(js: list[str]) -> None:
    """A js node takes a place at our relay; there another js node reaches it, and so do we."""
    async with crew(LONG) as hosts:
        relay, caller = [(await hosts.host()).host for _ in range(2)]
        async with (
            open_relaying(relay, RelaySettings("never", "always")) as relaying,
            open_relaying(caller, USE),
            js_node([*js, "home", relay.addresses[0]]) as home,
        ):
            assert (home.relay, home.endpoint) == (relay.peer_id, Address.parse(relay.addresses[0]))
            assert home.peer is not None
            nobody = home.at(caller.peer_id)
            said, refused = await js_calls(js, home, nobody)
            assert said.get("peer") == home.peer, said
            assert (said["ping"], said["echoed"]) == (32, SIZE)
            assert said["limited"]  # it knows the bounds that our relay told it
            assert "NO_RESERVATION" in refused["error"]
            await caller.connect(str(home))
            assert [one.path for one in caller.peers() if one.peer == home.peer] == ["relay"]
            assert await echo(caller, home.peer) == SIZE
            assert relaying.relay.counts["places"] == 1
            assert relaying.relay.counts["circuits"] == 2
            assert relaying.relay.counts["bytes"] > 3 * SIZE
            assert relay.counts["faults"] == caller.counts["faults"] == 0


async def test_we_have_a_place_at_a_js_relay(js: list[str]) -> None:
    """Our node takes a place at a js relay; there another reaches it, circuit by circuit."""
    async with crew(LONG) as hosts, js_node([*js, "relay"]) as relay:
        home, caller, nobody = [(await hosts.host()).host for _ in range(3)]
        home.set_handler(answer)
        ended = trio.Event()
        caller.parted.append(lambda _: ended.set())
        async with (
            open_relaying(home, RelaySettings("always", "never", (relay,))),
            open_relaying(caller, USE),
        ):
            address = await place(home)
            assert (address.relay, address.peer) == (relay.peer, home.peer_id)
            await caller.connect(str(address))
            assert await get(caller, home.peer_id, "/") == caller.peer_id.encode()
            [there] = [one for one in caller.peers() if one.peer == home.peer_id]
            [here] = [one for one in home.peers() if one.peer == caller.peer_id]
            assert (there.path, here.path) == ("relay", "relay")
            with pytest.raises(NoSources, match="has no place there"):
                await caller.connect(str(relay.through(nobody.peer_id)))
            with pytest.raises((NetworkError, trio.BrokenResourceError)):
                await get(caller, home.peer_id, "/much")  # it ends circuits at 128 KiB
            await ended.wait()
            assert not caller.connected(home.peer_id)
            await caller.connect(str(address))
            assert await get(caller, home.peer_id, "/") == caller.peer_id.encode()
            assert home.counts["faults"] == caller.counts["faults"] == 0


async def test_js_calls_us_through_our_relay(js: list[str]) -> None:
    """A js node dials ours through our relay, pings it and hears what it speaks."""
    async with crew(LONG) as hosts:
        relay, home = [(await hosts.host()).host for _ in range(2)]
        home.set_handler(answer)
        use = RelaySettings("always", "never", (Address.parse(relay.addresses[0]),))
        async with (
            open_relaying(relay, RelaySettings("never", "always")) as relaying,
            open_relaying(home, use),
        ):
            [said] = await js_calls(js, await place(home))
            assert said["peer"] == home.peer_id
            assert said["limited"]
            assert said["ping"] == 32
            assert "/http/1.1" in said["protocols"]
            assert HOP not in said["protocols"]
            assert relaying.relay.counts["circuits"] == 1
            assert relay.counts["faults"] == home.counts["faults"] == 0
