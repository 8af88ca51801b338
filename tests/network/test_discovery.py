"""Finding each other and each other's files, on real hosts in one process."""

import gc
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from p2p import discovery as module
from p2p.address import Address
from p2p.cid import CID, Codec, Hash
from p2p.discovery import dht_key
from p2p.kad import PROTOCOL
from p2p.keys import SecretKey
from p2p.mdns import open_mdns, read_record
from p2p.references import publisher_cid
from p2p.routing import ALPHA
from tests.network.hosts import LOOPBACK, Crew, Running, crew


def cid(text: str) -> CID:
    """A CID of its own for each text."""
    return CID.of(text.encode(), Codec.RAW)


async def nodes(hosts: Crew, count: int, **settings: Any) -> tuple[Running, list[Running]]:
    """A bootstrap node and ``count`` nodes that joined by it."""
    boot = await hosts.host(dht=True)
    crowd = [
        await hosts.host(dht=True, bootstrap=tuple(boot.host.addresses), **settings)
        for _ in range(count)
    ]
    for node in crowd:
        await node.dht.wait_ready()
    return boot, crowd


async def test_ten_nodes_and_no_bootstrap_any_more() -> None:
    """A key announced on one of ten nodes is found by all, before and after the bootstrap stops."""
    async with crew() as hosts:
        boot, crowd = await nodes(hosts, 10)
        await crowd[3].dht.announce([cid("before")])
        assert await crowd[3].dht.wait_announced([cid("before")], timeout=10)
        for node in crowd:
            found = await node.dht.providers(cid("before"))
            expected = [] if node is crowd[3] else [crowd[3].host.peer_id]
            assert [info.peer for info in found] == expected
        await boot.stop()
        await crowd[7].dht.announce([cid("after")])
        assert await crowd[7].dht.wait_announced([cid("after")], timeout=10)
        for key, holder in (("before", crowd[3]), ("after", crowd[7])):
            for node in crowd:
                found = await node.dht.providers(cid(key))
                expected = [] if node is holder else [holder.host.peer_id]
                assert [info.peer for info in found] == expected


async def test_several_providers_each_once_and_connected_ones_first() -> None:
    """All providers are found, each once, with full addresses; a limit is kept."""
    async with crew() as hosts:
        _, crowd = await nodes(hosts, 4)
        for node in crowd[:3]:
            await node.dht.announce([cid("x"), str(cid("x"))])
            assert await node.dht.wait_announced([cid("x")], timeout=10)
        found = await crowd[3].dht.providers(cid("x"))
        assert sorted(info.peer for info in found) == sorted(n.host.peer_id for n in crowd[:3])
        for info in found:
            assert info.addresses
            assert all(Address.parse(text).peer == info.peer for text in info.addresses)
        assert len(await crowd[3].dht.providers(cid("x"), limit=1)) == 1
        await crowd[3].host.ban(found[0].peer, "a test", 60)
        left = await crowd[3].dht.providers(cid("x"))
        assert found[0].peer not in {info.peer for info in left}


async def test_announced_before_anybody_is_there() -> None:
    """A key announced by a lonely node is stored as soon as the first neighbour comes."""
    async with crew() as hosts:
        a = await hosts.host(dht=True)
        await a.dht.announce([cid("early")])
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not a.dht.announced(cid("early"))
        assert not await a.dht.wait_announced([cid("early")], timeout=0)
        b = await hosts.host(dht=True, bootstrap=tuple(a.host.addresses))
        assert await a.dht.wait_announced([cid("early")], timeout=10)
        assert [info.peer for info in await b.dht.providers(cid("early"))] == [a.host.peer_id]


async def test_new_neighbours_are_given_the_records() -> None:
    """Records reach nodes that come later, so they outlive the nodes that held them first."""
    async with crew() as hosts:
        boot = await hosts.host(dht=True)
        a = await hosts.host(dht=True, bootstrap=tuple(boot.host.addresses))
        await a.dht.announce([cid("x")])
        assert await a.dht.wait_announced([cid("x")], timeout=10)
        b = await hosts.host(dht=True, bootstrap=tuple(boot.host.addresses))
        await b.dht.wait_ready()
        while not b.dht.kad.records.get(dht_key(cid("x")), trio.current_time()):
            await trio.testing.wait_all_tasks_blocked(0.02)
        await boot.stop()
        assert [info.peer for info in await b.dht.providers(cid("x"))] == [a.host.peer_id]


async def test_refused_announcements_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that no peer would take is offered again until one does (stock says True)."""
    monkeypatch.setattr(module, "RETRY_FIRST", 0.05)
    async with crew() as hosts:
        boot, (a,) = await nodes(hosts, 1)
        add = boot.dht.kad.records.add
        refused: list[bytes] = []

        def refuse(key: bytes, *rest: object) -> bool:
            refused.append(key)
            return len(refused) > 3 and add(key, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(boot.dht.kad.records, "add", refuse)
        await a.dht.announce([cid("x")])
        assert await a.dht.wait_announced([cid("x")], timeout=10)
        assert len(refused) == 4


async def test_a_lie_about_storing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that confirms a record and does not have it when asked is no holder."""
    async with crew() as hosts:
        boot, (a,) = await nodes(hosts, 1)
        monkeypatch.setattr(boot.dht.kad.records, "add", lambda *_: True)
        assert (await a.dht.kad.provide(dht_key(cid("x")))).holders == ()


async def test_announcements_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is announced again before it expires."""
    monkeypatch.setattr(module, "ANNOUNCE_AGAIN", 0.1)
    async with crew() as hosts:
        boot, (a,) = await nodes(hosts, 1)
        await a.dht.announce([cid("x")])
        assert await a.dht.wait_announced([cid("x")], timeout=10)
        key = dht_key(cid("x"))
        first = boot.dht.kad.records.get(key, trio.current_time())[0].expires
        while boot.dht.kad.records.get(key, trio.current_time())[0].expires == first:
            await trio.testing.wait_all_tasks_blocked(0.02)
        a.dht.withdraw([cid("x"), str(cid("never announced"))])
        assert not a.dht.announced(cid("x"))
        assert not await a.dht.wait_announced([cid("x")], timeout=1)


async def test_addresses_that_go_on_changing_starve_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each move has all announced anew; those whose turn has come keep it, or the last ones would
    never have theirs. Who was told an old address meanwhile is told again."""
    monkeypatch.setattr(module, "MOVED_FIRST", 0.01)
    monkeypatch.setattr(module, "ANNOUNCERS", 1)
    async with crew() as hosts:
        boot = await hosts.host(dht=True)
        a = await hosts.host(dht=True, bootstrap=tuple(boot.host.addresses))
        keys = [cid(str(i)) for i in range(4)]
        await a.dht.announce(keys)
        assert await a.dht.wait_announced(keys, timeout=10)
        told: list[bytes] = []
        provide = a.dht.kad.provide
        done = trio.Event()

        async def moving(key: bytes) -> Any:
            told.append(key)
            if len(told) <= 3 * len(keys):
                moves = a.dht._moves
                a.host.moved()
                while a.dht._moves == moves:  # noqa: ASYNC110  what no event tells of
                    await trio.sleep(0.005)
            elif len(told) == 4 * len(keys):
                done.set()
            return await provide(key)

        monkeypatch.setattr(a.dht.kad, "provide", moving)
        monkeypatch.setattr(module, "MOVED_LAST", 0.01)
        a.host.moved()
        with trio.fail_after(60):
            await done.wait()
        for start in range(0, len(told), len(keys)):
            assert set(told[start : start + len(keys)]) == {dht_key(key) for key in keys}


async def test_what_is_withdrawn_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it stays until it would have been due, and this node names itself no more."""
    monkeypatch.setattr(module, "TIDY", 4)
    async with crew() as hosts:
        _, (a,) = await nodes(hosts, 1)
        await a.dht.announce([cid("kept")])
        for number in range(20):
            one = cid(f"{number}")
            await a.dht.announce([one])
            assert await a.dht.wait_announced([one], timeout=10)
            assert a.dht.kad.records.get(dht_key(one), trio.current_time())
            a.dht.withdraw([one])
            assert not a.dht.kad.records.get(dht_key(one), trio.current_time())
        assert a.dht.announcing()[0] == 1
        assert len(a.dht._due) <= 2 + 4
        for _ in range(20):  # its addresses change, and everything is due at once
            a.dht._schedule(a.dht._announcements[dht_key(cid("kept"))], trio.current_time())
        assert len(a.dht._due) <= 2 + 4
        assert a.dht.announced(cid("kept"))


async def test_what_is_withdrawn_while_it_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The announcement ends, and leaves no record of this node at this node."""
    async with crew() as hosts:
        _, (a,) = await nodes(hosts, 1)
        key, ended = dht_key(cid("x")), trio.Event()
        provide = a.dht.kad.provide

        async def meanwhile(key: bytes) -> Any:
            a.dht.withdraw([cid("x")])
            try:
                return await provide(key)
            finally:
                ended.set()

        monkeypatch.setattr(a.dht.kad, "provide", meanwhile)
        await a.dht.announce([cid("x")])
        await ended.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not a.dht.kad.records.get(key, trio.current_time())
        assert a.dht._due == []


async def test_announcements_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys beyond the burst wait for their turn instead of flooding the neighbours."""
    monkeypatch.setattr(module, "ANNOUNCE_BURST", 5.0)
    monkeypatch.setattr(module, "ANNOUNCE_RATE", 10.0)
    async with crew() as hosts:
        _, (a,) = await nodes(hosts, 1)
        keys = [cid(f"{number}") for number in range(15)]
        start = trio.current_time()
        await a.dht.announce(keys)
        assert await a.dht.wait_announced(keys, timeout=10)
        assert trio.current_time() - start > 0.8


async def test_restart_without_bootstrap() -> None:
    """A node comes back by the peers that it knew, though the bootstrap is gone."""
    async with crew() as hosts:
        boot, (a, b) = await nodes(hosts, 2)
        await a.dht.announce([cid("x")])
        assert await a.dht.wait_announced([cid("x")], timeout=10)
        known = tuple(b.dht.snapshot())
        assert any(a.host.peer_id in text for text in known)
        await boot.stop()
        await b.stop()
        again = await hosts.host(
            dht=True, key=b.key, known_peers=known, bootstrap=(*boot.host.settings.bootstrap, "bad")
        )
        await again.dht.wait_ready()
        assert [info.peer for info in await again.dht.providers(cid("x"))] == [a.host.peer_id]


async def test_late_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose bootstrap is not there yet joins when it comes."""
    monkeypatch.setattr(module, "JOIN_FIRST", 0.05)
    async with crew() as hosts:
        early = await hosts.host()
        port, key = early.host.own_addresses()[0].port, early.key
        address = early.host.addresses[0]
        await early.stop()
        a = await hosts.host(dht=True, bootstrap=(address,))
        await trio.testing.wait_all_tasks_blocked(0.1)
        await hosts.host(dht=True, key=key, listen_port=port)
        await a.dht.wait_ready()


async def test_a_search_ends_at_its_timeout() -> None:
    """Silent neighbours cost a search its timeout and no more; what came before is returned."""
    async with crew() as hosts:
        _, (a, b) = await nodes(hosts, 2)
        await b.dht.announce([cid("x")])
        assert await b.dht.wait_announced([cid("x")], timeout=10)

        async def deaf(stream: object) -> None:
            await trio.sleep_forever()

        for _ in range(ALPHA // 2):
            silent = await hosts.host()
            silent.host.set_stream_handler(PROTOCOL, deaf)
            a.dht.kad.table.answered(
                silent.host.peer_id,
                silent.host.peer_id.encode(),
                [address.at(None) for address in silent.host.own_addresses()],
                trio.current_time(),
            )
        start = trio.current_time()
        found = await a.dht.providers(cid("x"), timeout=1.0)
        assert trio.current_time() - start < 10  # a request that is not answered lasts longer
        assert [info.peer for info in found] == [b.host.peer_id]


def test_keys() -> None:
    """A DHT key is the multihash, so a raw and a dag-pb CID of one digest share it."""
    raw = CID.of(b"x", Codec.RAW, Hash.SHA2_256)
    assert dht_key(raw) == b"\x12\x20" + raw.digest
    assert dht_key(CID(Codec.DAG_PB, raw.hash, raw.digest)) == dht_key(raw)
    assert publisher_cid(str(CID.of(b"root", Codec.JSON))) == CID.of(b"root", Codec.JSON)


PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
OTHER = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        ([f"/ip4/192.168.1.2/tcp/1/p2p/{PEER}".encode()], 1),
        ([f"/ip4/192.168.1.{n}/tcp/1/p2p/{PEER}".encode() for n in range(50)], 8),
        ([b"junk", None, b"\xff" * 300, f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}".encode()], 1),
        ([f"/ip4/10.0.0.1/tcp/1/p2p/{peer}".encode() for peer in (PEER, OTHER)], 0),
        ([b"/ip4/10.0.0.1/tcp/1"], 0),
        ([f"/ip4/0.0.0.0/tcp/1/p2p/{PEER}".encode()], 0),
        ([], 0),
    ],
)
def test_records_of_the_local_network(texts: list[bytes | None], count: int) -> None:
    """A record names one peer and a few addresses that lead somewhere, or it is none."""
    found = read_record(texts)
    assert (len(found[1]) if found else 0) == count
    assert found is None or found[0] == PEER


async def test_neighbours_on_the_local_network() -> None:
    """Two nodes with mDNS and no bootstrap meet, and what one announces the other finds."""
    async with crew() as hosts:
        own = [Address.parse(f"/ip4/127.0.0.1/tcp/1/p2p/{SecretKey.generate().public.peer_id}")]
        async with open_mdns(own, lambda peer, addresses: None) as works:
            if not works:
                pytest.skip("this machine has no multicast")
        settings = replace(LOOPBACK, mdns=True)
        a = await hosts.host(dht=True, settings=settings)
        b = await hosts.host(dht=True, settings=settings)
        with trio.fail_after(60):
            await a.dht.wait_ready()
            await b.dht.wait_ready()
        assert a.host.peer_id in {info.peer for info in b.dht.lan_peers()}
        only_here = cid(a.host.peer_id)  # the local network may have other nodes on it
        await a.dht.announce([only_here])
        assert await a.dht.wait_announced([only_here], timeout=10)
        found = await b.dht.providers(only_here)
        assert [info.peer for info in found] == [a.host.peer_id]


async def test_the_local_network_beside_trio_asyncio() -> None:
    """mDNS opens and closes in a process that has trio_asyncio loaded, as every node has."""
    import trio_asyncio

    own = [Address.parse(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}")]
    async with (
        trio_asyncio.open_loop(),
        open_mdns(own, lambda peer, addresses: None) as works,
    ):
        if not works:
            pytest.skip("this machine has no multicast")


@pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")
async def test_no_multicast_is_no_error() -> None:
    """Where multicast does not work, discovery goes on without it."""
    own = [Address.parse(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}")]
    async with open_mdns(own, lambda peer, addresses: None, interfaces=["192.0.2.1"]) as works:
        assert not works
    gc.collect()  # zeroconf forgets to close a socket when it fails: here, where it is expected
    async with open_mdns([], lambda peer, addresses: None) as works:
        assert not works


async def test_the_crowd_on_the_local_network_is_bounded() -> None:
    """However many nodes are heard, so many are kept."""
    async with crew() as hosts:
        a = await hosts.host(dht=True)
        address = [Address.parse("/ip4/127.0.0.1/tcp/1")]
        for _ in range(module.MAX_LAN + 10):
            a.dht._heard_on_lan(SecretKey.generate().public.peer_id, address)
        a.dht._heard_on_lan(a.host.peer_id, address)
        assert len(a.dht.lan_peers()) == module.MAX_LAN
