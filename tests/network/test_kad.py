"""The DHT on real hosts, and next to py-libp2p's own."""

from dataclasses import replace

import pytest
import trio
import trio.testing
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2p.cid import CID, Codec
from p2p.delimited import frame
from p2p.discovery import dht_key
from p2p.errors import NetworkError
from p2p.kad import PROTOCOL, Kind, _message, name_of
from p2p.keys import SecretKey
from p2p.limits import PeerLimits
from p2p.routing import MAX_KEY, Provider
from p2p.streams import PeerStream
from tests.network.hosts import LOOPBACK, Crew, Running, crew

KEY = dht_key(CID.of(b"a model", Codec.RAW))


async def dht_pair(hosts: Crew) -> tuple[Running, Running]:
    """Two DHT nodes that know each other."""
    a = await hosts.host(dht=True)
    b = await hosts.host(dht=True, bootstrap=tuple(a.host.addresses))
    await a.dht.wait_ready()
    await b.dht.wait_ready()
    return a, b


async def exchange(asker: Running, peer: str, message: Message) -> Message | None:
    """One DHT message and its answer; None when the stream was reset or closed instead."""
    stream = await asker.host.open_stream(peer, PROTOCOL)
    try:
        await stream.send_all(frame(message))
        return await _message(stream, peer)
    except (trio.BrokenResourceError, NetworkError):
        return None
    finally:
        await stream.abort()


async def ends(stream: PeerStream) -> bool:
    """Wait for what comes next, and say whether it is the end or a reset."""
    try:
        return not await stream.receive_some(1)
    except trio.BrokenResourceError:
        return True


async def test_provide_and_find() -> None:
    """What one node provides the other finds, once, with addresses that can be dialled."""
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        provided = await a.dht.kad.provide(KEY)
        assert provided.holders == (b.host.peer_id,)
        await a.dht.kad.provide(KEY)
        found: dict[str, Provider] = {}
        await b.dht.kad.find(KEY, 5, found)
        assert list(found) == [a.host.peer_id]
        assert [str(each) for each in found[a.host.peer_id].addresses] == [
            address.split("/p2p/")[0] for address in a.host.addresses
        ]
        await b.dht.kad.find(KEY, 5, found)
        assert list(found) == [a.host.peer_id]


async def test_own_protocol_id() -> None:
    """The DHT speaks under our id and not under that of the public IPFS network."""
    async with crew() as hosts:
        a, _ = await dht_pair(hosts)
        served = a.host._basic.get_mux().get_protocols()
        assert PROTOCOL in served
        assert not any("/ipfs/kad" in str(each) for each in served)


async def test_clients_do_not_enter_tables() -> None:
    """A client-mode node asks and is answered, and nobody lists it."""
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        c = await hosts.host(dht=True, bootstrap=tuple(a.host.addresses))
        as_client = replace(LOOPBACK, dht="client", bootstrap=tuple(a.host.addresses))
        client = await hosts.host(dht=True, settings=as_client)
        await client.dht.wait_ready()
        await c.dht.wait_ready()
        assert (await client.dht.kad.provide(KEY)).holders
        found: dict[str, Provider] = {}
        await b.dht.kad.find(KEY, 5, found)
        assert list(found) == [client.host.peer_id]
        for server in (a, b, c):
            assert client.host.peer_id not in server.dht.kad.table
        assert await exchange(a, b.host.peer_id, Message(type=Kind.PING)) is not None
        with pytest.raises(NetworkError, match="doesn't speak"):
            await a.host.open_stream(client.host.peer_id, PROTOCOL)


async def test_many_streams_at_once() -> None:
    """Forty DHT streams of one peer at once are all answered (stock resets all past twelve)."""
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        answers: list[Message | None] = []

        async def one() -> None:
            answers.append(await exchange(a, b.host.peer_id, Message(type=Kind.PING)))

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(one)
        assert None not in answers


async def test_a_record_is_only_taken_from_its_provider() -> None:
    """Nobody can say that somebody else provides something."""
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        message = Message(type=Kind.ADD_PROVIDER, key=KEY)
        slot = message.providerPeers.add()
        slot.id = name_of(SecretKey.generate().public.peer_id)
        slot.addrs.append(bytes(a.host.own_addresses()[0].at(None)))
        await exchange(a, b.host.peer_id, message)
        assert len(b.dht.kad.records) == 0


@pytest.mark.parametrize(
    "message",
    [
        Message(type=Kind.FIND_NODE),
        Message(type=Kind.GET_PROVIDERS, key=b"k" * (MAX_KEY + 1)),
        Message(type=Kind.ADD_PROVIDER, key=b""),
        Message(type=Kind.PUT_VALUE, key=b"k"),
    ],
)
async def test_nonsense_is_a_fault(message: Message) -> None:
    """A message that no node sends resets its stream and is counted, and the next is answered."""
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        assert await exchange(a, b.host.peer_id, message) is None
        assert await exchange(a, b.host.peer_id, Message(type=Kind.PING)) is not None


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff\x7f", b"\x05abc", b"\x03\xff\xff\xff", b"\x85"])
async def test_malformed_frames(raw: bytes) -> None:
    """A frame that is too long, cut off or no protobuf ends the stream and nothing else."""
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        stream = await a.host.open_stream(b.host.peer_id, PROTOCOL)
        await stream.send_all(raw)
        await stream.aclose()
        assert await ends(stream)
        assert await exchange(a, b.host.peer_id, Message(type=Kind.PING)) is not None


async def test_a_flood_of_messages_is_cut_off() -> None:
    """A peer past its budget of DHT messages has its stream reset."""
    async with crew() as hosts:
        a = await hosts.host(dht=True, limits=PeerLimits(dht_rate=0.001, dht_burst=5))
        b = await hosts.host()
        await b.host.connect(a.host.addresses[0])
        stream = await b.host.open_stream(a.host.peer_id, PROTOCOL)
        for _ in range(5):
            await stream.send_all(frame(Message(type=Kind.PING)))
            assert await _message(stream, a.host.peer_id) is not None
        await stream.send_all(frame(Message(type=Kind.PING)))
        assert await ends(stream)


async def test_hostile_peers_in_answers_are_left_out() -> None:
    """Malformed ids and addresses in an answer are skipped, and good ones beside them are used."""
    from p2p.kad import _peers

    message = Message()
    for raw in (b"", b"\x00" * 36, b"\x12\x20" + b"x" * 31, b"y" * 40):
        message.closerPeers.add(id=raw)
    good = SecretKey.generate().public.peer_id
    slot = message.closerPeers.add(id=name_of(good))
    slot.addrs.extend([b"junk", b"\x04\x01\x02\x03\x04\x06\x00\x01", b"\x91\x02" * 20])
    peers = list(_peers(message.closerPeers, 20))
    assert [(peer, [str(each) for each in its]) for peer, its in peers] == [
        (good, ["/ip4/1.2.3.4/tcp/1"])
    ]
    assert list(_peers([slot] * 100, 20)) == peers * 20


async def test_a_dead_neighbour_leaves_the_table() -> None:
    """A peer that no longer answers is dropped after two questions."""
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        await b.stop()
        for _ in range(2):
            with pytest.raises(NetworkError):
                await a.dht.kad.meet(b.host.peer_id)
        assert b.host.peer_id not in a.dht.kad.table


async def test_next_to_the_stock_dht(monkeypatch: pytest.MonkeyPatch) -> None:
    """py-libp2p's own KadDHT, told our protocol id, finds our records and we find its."""
    from libp2p.kad_dht import kad_dht, peer_routing, provider_store
    from libp2p.tools.anyio_service import background_trio_service

    for module in (kad_dht, peer_routing, provider_store):
        monkeypatch.setattr(module, "PROTOCOL_ID", PROTOCOL)
    async with crew() as hosts:
        a, b = await dht_pair(hosts)
        stock_host = await hosts.host()
        stock = kad_dht.KadDHT(stock_host.host._basic, kad_dht.DHTMode.SERVER)
        async with background_trio_service(stock):
            await stock_host.host.connect(a.host.addresses[0])
            await stock.add_peer(stock_host.host._network.get_connections()[0].muxed_conn.peer_id)
            await a.dht.kad.meet(stock_host.host.peer_id)
            provided = await b.dht.kad.provide(KEY)
            assert {a.host.peer_id, stock_host.host.peer_id} == set(provided.holders)
            theirs = await stock.provider_store.find_providers(KEY)
            assert b.host.peer_id in {str(each.peer_id) for each in theirs}
            other = dht_key(CID.of(b"theirs", Codec.RAW))
            assert await stock.provider_store.provide(other)
            found: dict[str, Provider] = {}
            await b.dht.kad.find(other, 5, found)
            assert list(found) == [stock_host.host.peer_id]
