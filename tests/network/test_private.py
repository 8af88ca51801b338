"""Private networks on loopback: without the key nobody gets a byte, strangers do not stay."""

from pathlib import Path

import pytest
import trio
import trio.testing

from p2p.errors import NoSources
from p2p.http import HttpClient
from p2p.keys import SecretKey
from p2p.limits import PeerLimits
from p2p.swarmkey import SwarmKey
from tests.network.hosts import LOOPBACK, Running, crew, hello
from tests.network.people import Person

KEY = SwarmKey.generate()


async def asked(asker: Running, peer: Running) -> int:
    """The status of one request over a stream of its own."""
    stream = await asker.host.open_stream(peer.host.peer_id)
    async with HttpClient(stream, peer=peer.host.peer_id) as client:
        return (await client.get("/x", limit=10_000))[0]


async def test_nodes_with_the_key_talk() -> None:
    """They connect, ask and answer, and know the round trip, as in the public network."""
    async with crew() as hosts:
        a, b = await hosts.host(swarm_key=KEY), await hosts.host(swarm_key=KEY)
        a.host.set_handler(hello)
        await b.host.connect(a.host.addresses[0])
        assert await asked(b, a) == 200
        [info] = b.host.peers()
        assert info.round_trip is not None
        assert b.host.hosts_of(a.host.peer_id) == ["127.0.0.1"]


async def test_the_dht_is_that_of_the_network() -> None:
    """Providers are found by those who have the key."""
    async with crew() as hosts:
        a = await hosts.host(swarm_key=KEY, dht=True)
        b = await hosts.host(swarm_key=KEY, dht=True, bootstrap=(a.host.addresses[0],))
        while not b.host.connected(a.host.peer_id):
            await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (SwarmKey.generate(), KEY, "private network"),
        (None, KEY, "private network"),
        (KEY, None, "could not be reached"),
    ],
)
async def test_without_the_key_nobody_gets_in(
    theirs: SwarmKey | None, ours: SwarmKey | None, said: str
) -> None:
    """A key of another network, or none on one side, ends the dial with a clear word."""
    async with crew() as hosts:
        a, b = await hosts.host(swarm_key=theirs), await hosts.host(swarm_key=ours)
        with pytest.raises(NoSources, match=said):
            await b.host.connect(a.host.addresses[0])
        assert a.host.peers() == b.host.peers() == []


@pytest.mark.parametrize("sent", [b"\x13/multistream/1.0.0\n", bytes(24) + b"x" * 40, b"GET / "])
async def test_a_stranger_is_told_nothing(sent: bytes) -> None:
    """Not one byte comes back but a nonce, and the socket closes within the handshake's time."""
    async with crew() as hosts:
        limits = PeerLimits(handshake_time=0.5)
        a = await hosts.host(swarm_key=KEY, settings=LOOPBACK, limits=limits)
        port = int(a.host.addresses[0].split("/")[4])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(sent)
            got = b""
            try:
                async for data in stream:
                    got += data
            except trio.BrokenResourceError:  # it was closed with bytes unread
                pass
        assert len(got) == (24 if len(sent) > 24 else 0)
        assert a.host.peers() == []


async def test_members_alone_connect() -> None:
    """Both ends look, each at its own list, whoever dials."""
    async with crew() as hosts:
        a, b, stranger = [await hosts.host() for _ in range(3)]
        await a.host.set_members([b.host.peer_id])
        await b.host.connect(a.host.addresses[0])
        await stranger.host.connect(a.host.addresses[0])  # it hears of it by the end
        while stranger.host.connected(a.host.peer_id):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not a.host.connected(stranger.host.peer_id)
        with pytest.raises(NoSources, match="no member of this network"):
            await a.host.connect(stranger.host.addresses[0])
        assert a.host.banned(stranger.host.peer_id)
        assert a.host.connected(b.host.peer_id)


async def test_who_is_no_member_any_more_is_gone_at_once() -> None:
    """Open connections of others end with the change, and lanes with them."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        await b.host.connect(a.host.addresses[0])
        while not a.host.connected(b.host.peer_id):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not a.host.banned(b.host.peer_id)
        await a.host.set_members([SecretKey.generate().public.peer_id])
        assert not a.host.connected(b.host.peer_id)
        assert a.host.banned(b.host.peer_id)


async def test_a_node_of_a_private_network(tmp_path: Path) -> None:
    """By commands: a key is made, the node says which network it is in, members change at once."""
    alice = Person(tmp_path / "alice")
    made = await alice.run("network", "new")
    key = SwarmKey.parse(await trio.Path(made["file"]).read_text())
    async with alice.node() as node, crew(90) as hosts:
        friend, stranger = await hosts.host(swarm_key=key), await hosts.host()
        await friend.host.connect(node.address)
        with pytest.raises(NoSources):
            await stranger.host.connect(node.address)
        changed = await alice.run("network", "add", node.peer)
        assert changed == {"ok": True, "members": [node.peer], "running": True}
        while friend.host.connected(node.peer):
            await trio.testing.wait_all_tasks_blocked(0.01)
        said = "\n".join(node.running.logged + node.running.printed)
        assert f"In a private network: swarm key {made['fingerprint']}." in said
        assert key.secret.hex() not in said
