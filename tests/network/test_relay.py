"""Circuits through a relay: real hosts on loopback, who know of each other's place only."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
import trio

from p2p.address import Address
from p2p.delimited import frame
from p2p.errors import NetworkError, NoSources
from p2p.host import Host
from p2p.http import HttpClient, Request, Response
from p2p.relay import knock as knocking
from p2p.relay import observed as observing
from p2p.relay.messages import HOP, STOP, HopMessage, Status, StopMessage, named, receive, send
from p2p.relay.places import RelayLimits
from p2p.relay.relaying import Relaying, RelaySettings, open_relaying
from p2p.streams import PeerStream
from tests.network.hosts import Crew, crew

LONG = 30
"""Seconds after which something hangs."""
BODY = bytes(range(256)) * 4096


@dataclass
class Street:
    """A relay, somebody who has a place at it, and somebody who calls; none knows another yet."""

    relay: Host
    relays: Relaying
    home: Host
    home_relaying: Relaying
    caller: Host
    caller_relaying: Relaying
    crew: Crew

    async def circuit(self) -> Address:
        """Where the home is reached, once it has its place."""
        with trio.fail_after(LONG):
            while not self.home.circuits():
                await self.home.on_moved.wait()
        [address, *_] = self.home.circuits()
        return address


@asynccontextmanager
async def street(limits: RelayLimits | None = None, serve: str = "always") -> AsyncIterator[Street]:
    async with crew() as hosts, AsyncExitStack() as stack:
        relay, home, caller = [(await hosts.host()).host for _ in range(3)]
        offer = RelaySettings("never", serve, limits=limits or RelayLimits())  # type: ignore[arg-type]
        use = RelaySettings("always", "never", (Address.parse(relay.addresses[0]),))
        home.set_handler(answer)
        yield Street(
            relay,
            await stack.enter_async_context(open_relaying(relay, offer)),
            home,
            await stack.enter_async_context(open_relaying(home, use)),
            caller,
            await stack.enter_async_context(open_relaying(caller, RelaySettings("auto", "never"))),
            hosts,
        )


async def answer(request: Request) -> Response:
    """Say who asked, or a megabyte."""
    return Response(200, {}, BODY if request.path == "/much" else request.peer.encode())


async def get(host: Host, peer: str, path: str) -> bytes:
    stream = await host.open_stream(peer)
    response = await HttpClient(stream).ask(path)
    return b"".join([bytes(piece) async for piece in response])


async def drained(stream: PeerStream) -> None:
    """Read until the other side has ended the stream, by a reset or in order."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    with trio.fail_after(LONG):
        while not happened():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_request_through_a_relay() -> None:
    """The caller knows a place at a relay, and gets there; both ends know each other's key."""
    async with street() as town:
        address = await town.circuit()
        assert town.home.addresses[-1] == str(address)
        with trio.fail_after(LONG):
            assert await town.caller.connect(str(address)) == town.home.peer_id
            said = await get(town.caller, town.home.peer_id, "/")
            assert said == town.caller.peer_id.encode()
            assert await get(town.caller, town.home.peer_id, "/much") == BODY
        [there] = [one for one in town.caller.peers() if one.peer == town.home.peer_id]
        [here] = [one for one in town.home.peers() if one.peer == town.caller.peer_id]
        assert (there.path, here.path) == ("relay", "relay")
        assert (there.inbound, here.inbound) == (False, True)
        assert town.relays.relay.places.circuits == 1
        assert town.relays.relay.counts["bytes"] > len(BODY)
        await town.caller.disconnect(town.home.peer_id)
        await until(lambda: not town.relays.relay.places.circuits)


async def test_the_home_gets_another_place_when_the_relay_comes_back() -> None:
    """Its connection to the relay ends: it dials again and has its place again."""
    async with street() as town:
        await town.circuit()
        taken = town.relays.relay.counts["places"]
        await town.relay.disconnect(town.home.peer_id)
        await until(lambda: town.relays.relay.counts["places"] > taken)
        # What the home dialled while the old connection was still closing may be closed with it:
        # then it dials once more.
        await until(
            lambda: (
                town.home.peer_id in town.relays.relay.places
                and bool(town.relay.hosts_of(town.home.peer_id))
            )
        )
        assert await town.caller.connect(str(await town.circuit())) == town.home.peer_id


async def test_a_place_that_is_not_needed_any_longer_ends_gently() -> None:
    """Nobody is told of it now, and whoever was told before still gets through."""
    async with street() as town:
        address = await town.circuit()
        town.home_relaying.client.wanted = lambda: False
        town.home_relaying.client.look_again()
        await until(lambda: not town.home.circuits())
        with trio.fail_after(LONG):
            assert await town.caller.connect(str(address)) == town.home.peer_id
        town.home_relaying.client.wanted = lambda: True
        town.home_relaying.client.look_again()
        assert await town.circuit() == address


async def test_who_has_no_place_is_not_reached() -> None:
    """The relay refuses, and the error of the dial says why."""
    async with street() as town:
        await town.circuit()
        relay = Address.parse(town.relay.addresses[0])
        nobody = (await town.crew.host()).host
        with trio.fail_after(LONG), pytest.raises(NoSources, match="has no place there"):
            await town.caller.connect(str(relay.through(nobody.peer_id)))
        itself = relay.through(town.relay.peer_id)
        with pytest.raises(NoSources, match="through no relay"):
            await town.caller_relaying.client.through(itself, town.relay.peer_id)


async def test_a_relay_that_is_full() -> None:
    """Places and circuits are refused with the specification's words, and nothing breaks."""
    async with street(RelayLimits(places=1, circuits=1)) as town:
        address = await town.circuit()
        other = (await town.crew.host()).host
        late = (await town.crew.host()).host
        async with open_relaying(late, RelaySettings("always", "never", (address.endpoint,))):
            await until(lambda: town.relays.relay.counts["refused"] > 0)
            assert late.circuits() == []
        with trio.fail_after(LONG):
            await town.caller.connect(str(address))
        async with open_relaying(other, RelaySettings("auto", "never")):
            with trio.fail_after(LONG), pytest.raises(NoSources, match="as many circuits"):
                await other.connect(str(address))


async def test_a_circuit_ends_at_its_bound_and_another_goes_on() -> None:
    """Bytes past the bound end the circuit: whoever still needs it dials again."""
    async with street(RelayLimits(circuit_bytes=len(BODY) + 100_000)) as town:
        address = await town.circuit()
        with trio.fail_after(LONG):
            await town.caller.connect(str(address))
            assert await get(town.caller, town.home.peer_id, "/much") == BODY
            with pytest.raises((NetworkError, trio.BrokenResourceError)):
                await get(town.caller, town.home.peer_id, "/much")
            await until(lambda: not town.caller.connected(town.home.peer_id))
            await town.caller.connect(str(address))
            assert await get(town.caller, town.home.peer_id, "/much") == BODY


async def test_a_call_from_whom_it_has_no_place_at() -> None:
    """Anybody may speak STOP; only a relay that gave a place is believed."""
    async with street() as town:
        await town.circuit()
        stranger = (await town.crew.host()).host
        await stranger.connect(town.home.addresses[0])
        call = StopMessage(type=StopMessage.CONNECT, peer=named(town.caller.peer_id))
        with trio.fail_after(LONG):
            stream = await stranger.open_stream(town.home.peer_id, STOP)
            await send(stream, call, town.home.peer_id)
            said = await receive(stream, StopMessage, town.home.peer_id)
            assert said.status == Status.PERMISSION_DENIED
            assert await stream.receive_some() == b""


async def test_a_relay_that_lies_about_who_calls() -> None:
    """The connection inside is authenticated: another peer than was named is hung up on."""
    async with street() as town:
        await town.circuit()
        call = StopMessage(type=StopMessage.CONNECT, peer=named(town.caller.peer_id))
        with trio.fail_after(LONG):
            stream = await town.relay.open_stream(town.home.peer_id, STOP)
            await send(stream, call, town.home.peer_id)
            assert (await receive(stream, StopMessage, town.home.peer_id)).status == Status.OK
            await stream.send_all(b"\x13/multistream/1.0.0\n" + b"\x00" * 64)
            await drained(stream)
        assert not town.home.connected(town.caller.peer_id)


async def test_nonsense_through_a_relay_is_not_the_relays_fault() -> None:
    """Whoever calls could have the relay dropped by everybody who has a place there."""
    async with street() as town:
        address = await town.circuit()
        call = StopMessage(type=StopMessage.CONNECT, peer=named(town.caller.peer_id))
        with trio.fail_after(LONG):
            stream = await town.relay.open_stream(town.home.peer_id, STOP)
            await send(stream, call, town.home.peer_id)
            assert (await receive(stream, StopMessage, town.home.peer_id)).status == Status.OK
            await stream.send_all(b"\x13/multistream/1.0.0\n\x03\xff\xfe\n")  # no UTF-8
            await drained(stream)
            assert not town.home.counts["faults"]
            assert await town.caller.connect(str(address)) == town.home.peer_id


async def test_a_bug_while_a_hole_is_punched_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attempt runs beside all that the node does: whatever it raises, the circuit stays."""
    ended = trio.Event()

    async def stumble(*_: object) -> None:
        ended.set()
        raise RuntimeError("nobody has met this")

    async with street() as town:
        address = await town.circuit()
        monkeypatch.setattr(town.home_relaying.puncher, "_begin", stumble)
        with trio.fail_after(LONG):
            await town.caller.connect(str(address))
            await ended.wait()
            said = await get(town.caller, town.home.peer_id, "/")
        assert said == town.caller.peer_id.encode()


async def test_a_listener_that_breaks_ends_only_itself(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more files are to be had while a hole is punched: the dials go on, and the node too."""

    class Broken:
        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        async def accept(self) -> None:
            raise OSError(24, "too many open files")

    async def listen(own: tuple[str, int]) -> Broken:
        return Broken()

    async def meet(stream: trio.SocketStream) -> object:
        return None

    monkeypatch.setattr(knocking, "_listen_at", listen)
    target = Address("ip4", "127.0.0.1", 9)
    found: object = await knocking.knock(("127.0.0.1", 0), [target], meet)
    assert found is None


async def test_a_relay_that_lies_about_where_it_sees_us() -> None:
    """Neither a name, which leads anywhere, nor anything nearer than the relay is believed."""
    async with street() as town:
        await town.circuit()
        observed = town.home_relaying.observed
        with trio.fail_after(LONG):
            await observed.ask(town.relay.peer_id)
        [conn] = observed._seen
        for host, kind in (("localhost", "dns4"), ("127.0.0.1", "ip4")):
            observed._seen[conn] = Address(kind, host, 22)
            assert observed.at(town.relay.peer_id) is None
        observed._seen[conn] = Address("ip4", "10.0.0.1", 22)
        assert observed.at(town.relay.peer_id) is not None
        # As if the relay were far away.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(observing, "far_host", lambda _: "9.9.9.9")
            assert observed.at(town.relay.peer_id) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\x7f",  # a length past any bound
        b"\x05abcde",  # no protobuf
        frame(HopMessage(type=HopMessage.STATUS)),
        frame(HopMessage(type=HopMessage.CONNECT)),  # to nobody
        b"",
    ],
)
async def test_nonsense_to_a_relay_ends_its_stream_only(sent: bytes) -> None:
    """Each is an error of whoever sent it, and the relay goes on."""
    async with street() as town:
        address = await town.circuit()
        await town.caller.connect(town.relay.addresses[0])
        with trio.fail_after(LONG):
            stream = await town.caller.open_stream(town.relay.peer_id, HOP)
            await stream.send_all(sent)
            await stream.aclose()
            await drained(stream)
            assert await town.caller.connect(str(address)) == town.home.peer_id


async def test_no_relay_behind_a_relay() -> None:
    """A circuit to a relay gives no place at it: chains would hide who takes what."""
    async with street() as town:
        address = await town.circuit()
        async with open_relaying(town.home, RelaySettings("never", "always")) as second:
            town.home.circuits = town.home_relaying.client.circuits
            with trio.fail_after(LONG):
                await town.caller.connect(str(address))
                stream = await town.caller.open_stream(town.home.peer_id, HOP)
                await send(stream, HopMessage(type=HopMessage.RESERVE), town.home.peer_id)
                said = await receive(stream, HopMessage, town.home.peer_id)
            assert said.status == Status.PERMISSION_DENIED
            assert len(second.relay.places) == 0


async def test_a_node_on_loopback_looks_for_no_relay() -> None:
    """Neither does it need one, nor is it one, where nobody else is."""
    async with street(serve="auto") as town:
        assert not town.relays.serving
        assert HOP not in town.relay.protocols_of(town.home.peer_id)
        assert not town.caller_relaying.client.wanted()
        assert replace(town.caller_relaying.settings, use="always").use == "always"
