"""AutoNAT between real hosts: who is dialled, who is not, and what nodes make of it."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import base58
import pytest
import trio
from libp2p.host.autonat.pb.autonat_pb2 import Message

from p2p.address import Address
from p2p.autonat import BURST, MAX_ASKERS, MAX_MESSAGE, PROTOCOL, Answer, AutoNat
from p2p.delimited import frame, read_message
from p2p.errors import NetworkError
from p2p.host import Host
from tests.natlab import Home, Lab, Machine
from tests.network.hosts import Crew, crew
from tests.network.people import Json, Person


async def pair(people: Crew) -> tuple[Host, Host, AutoNat, AutoNat]:
    """Two connected hosts that answer; the second is to be tried by the first."""
    server, asker = (await people.host()).host, (await people.host()).host
    answering, asking = AutoNat(server), AutoNat(asker)
    answering.serve()
    asking.serve()
    await asker.connect(server.addresses[0])
    return server, asker, answering, asking


def own(host: Host) -> Address:
    return host.own_addresses()[0].at(None)


async def raw_answer(asker: Host, server: str, data: bytes) -> Message | None:
    """What the server answers to these bytes."""
    stream = await asker.open_stream(server, PROTOCOL)
    try:
        await stream.send_all(data)
        return await read_message(
            stream, Message, limit=MAX_MESSAGE, peer=server, name="AutoNAT message"
        )
    finally:
        await stream.abort()


def question(peer: str, *addresses: bytes) -> Message:
    found = Message(type=Message.DIAL)
    found.dial.peer.id = base58.b58decode(peer)
    found.dial.peer.addrs.extend(addresses)
    return found


async def test_an_address_that_works() -> None:
    """It is found among those that don't, by a connection that leaves nothing behind."""
    async with crew() as people:
        server, asker, answering, asking = await pair(people)
        dead = Address("ip4", "127.0.0.1", 9)
        assert await asking.ask(server.peer_id, [dead, own(asker)]) == Answer(own(asker))
        assert answering.counts == {"worked": 1}
        assert len(server.peers()) == len(asker.peers()) == 1


async def test_an_address_that_does_not() -> None:
    """Nobody there, and somebody else there, are the same: not the asker."""
    async with crew() as people:
        server, asker, answering, asking = await pair(people)
        dead = Address("ip4", "127.0.0.1", 9)
        assert await asking.ask(server.peer_id, [dead]) == Answer(None)
        assert await asking.ask(server.peer_id, [own(server)]) == Answer(None)
        assert answering.counts == {"failed": 2}
        assert asker.reachability.verdict == "unknown"  # an answer alone is no vote


async def test_nobody_else_is_knocked_at() -> None:
    """Only the asker's own IP address is dialled, and nothing that is no plain address of it."""
    async with crew() as people:
        server, asker, answering, _ = await pair(people)
        other = socket.create_server(("127.0.0.2", 0))
        other.setblocking(False)
        port = other.getsockname()[1]
        near = Address("ip4", "127.0.0.1", port)
        told = [
            bytes(Address("ip4", "127.0.0.2", port)),
            bytes(Address("dns4", "localhost", port)),
            bytes(near.at(server.peer_id).through(asker.peer_id)),
            b"\x04\x7f",
            b"",
        ]
        answer = await raw_answer(asker, server.peer_id, frame(question(asker.peer_id, *told)))
        assert answer is not None
        assert answer.dialResponse.status == Message.E_DIAL_REFUSED
        assert answering.counts == {"refused": 1}
        with other, pytest.raises(BlockingIOError):  # nobody has knocked there
            other.accept()


async def test_many_names_from_one_address_fill_no_memory() -> None:
    """Each is refused for its network's sake, and is remembered no longer than others."""
    async with crew() as people:
        answering = AutoNat((await people.host()).host)
        admitted = sum(answering._admit(f"peer {i}", "9.9.9.9") for i in range(2 * MAX_ASKERS))
        assert admitted == BURST
        assert len(answering._askers) <= MAX_ASKERS


async def test_nobody_asks_for_somebody_else() -> None:
    """The peer id of a question is that of the connection."""
    async with crew() as people:
        server, asker, answering, _ = await pair(people)
        asked = question(server.peer_id, bytes(own(asker)))
        answer = await raw_answer(asker, server.peer_id, frame(asked))
        assert answer is not None
        assert answer.dialResponse.status == Message.E_BAD_REQUEST
        assert not answering.counts


async def test_who_asks_too_often_is_refused() -> None:
    """Refused, and not told that it cannot be reached: that would be a vote."""
    async with crew() as people:
        server, asker, answering, asking = await pair(people)
        for _ in range(int(BURST)):
            assert await asking.ask(server.peer_id, [own(asker)]) == Answer(own(asker))
        assert await asking.ask(server.peer_id, [own(asker)]) is None
        assert answering.counts == {"worked": BURST, "refused": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\xff",
        b"\xff\x7f" + bytes(100),
        b"\x04\xff\xff\xff\xff",
        frame(Message(type=Message.DIAL_RESPONSE)),
    ],
    ids=["endless", "too long", "no protobuf", "no question"],
)
async def test_nonsense_is_a_fault(data: bytes) -> None:
    """A malformed question ends its stream, and is counted against its peer."""
    async with crew() as people:
        server, asker, _, asking = await pair(people)
        with pytest.raises(trio.BrokenResourceError):
            await raw_answer(asker, server.peer_id, data)
        assert server.counts["faults"] == 1
        assert await asking.ask(server.peer_id, [own(asker)]) == Answer(own(asker))


@pytest.mark.parametrize("lie", ["elsewhere", "nonsense", "silence"])
async def test_an_answer_that_makes_no_sense(lie: str) -> None:
    """A server that lies in form is found out; its answer is no vote."""
    async with crew() as people:
        server, asker, _, asking = await pair(people)

        async def answer(stream: object) -> None:
            ours = server.wrap(stream, asker.peer_id)  # type: ignore[arg-type]
            said = Message(type=Message.DIAL_RESPONSE if lie == "elsewhere" else Message.DIAL)
            said.dialResponse.status = Message.OK
            said.dialResponse.addr = bytes(own(server))
            if lie != "silence":
                await ours.send_all(frame(said))
            await ours.aclose()

        server.set_stream_handler(PROTOCOL, answer)
        with pytest.raises(NetworkError):
            await asking.ask(server.peer_id, [own(asker)])


async def test_nothing_is_asked_on_loopback() -> None:
    """A host that only this machine can reach has nothing to find out."""
    async with crew() as people:
        server, asker, answering, asking = await pair(people)
        asking._look_at_interfaces()
        await asking._round()
        assert not answering.counts
        assert await asking.candidates(server.peer_id) == []
        assert asker.own_addresses()[0].host == "127.0.0.1"


# -- real nodes, on an internet in a box (natlab.py)

PORT = 9770


def resident(home: Path, machine: Machine, *bootstrap: str) -> Person:
    """Somebody with a machine of the lab, who listens on all of its addresses."""
    person = Person(home, *bootstrap)
    person.within = machine.within
    file = home / "config.toml"
    config = file.read_text().replace("port = 0", f"port = {PORT}", 1)
    file.write_text(config.replace('["127.0.0.1"]', '["0.0.0.0"]'))
    return person


async def reach_of(lab: Lab, folder: Path, machine: Home, **environ: str) -> tuple[Json, Json]:
    """The status of a node there, and what doctor says of its reach."""
    boot = resident(folder / "boot", lab.host())
    with trio.fail_after(120):
        async with boot.node() as known:
            home = resident(folder / "home", machine, known.address)
            home.environ |= {"ALLOD_LOG_FORMAT": "json", **environ}
            async with home.node() as node:
                await node.running.event(lambda one: "reach: p" in one.get("message", ""))
                status = await home.run("status")
                checks = (await home.run("doctor"))["checks"]
                return status, next(one for one in checks if one["name"] == "reach")


def direct(status: Json) -> list[str]:
    """The endpoints that a node tells of, without those at relays."""
    told = [one for one in status["addresses"] if "p2p-circuit" not in one]
    return [one.partition("/p2p/")[0] for one in told]


@pytest.mark.long
async def test_a_forwarded_port_is_found(lab: Lab, tmp_path: Path) -> None:
    """The router's address is told to others once somebody came in by it."""
    home = lab.home("full-cone")
    status, check = await reach_of(lab, tmp_path, home)
    outside = f"/ip4/{home.outside}/tcp/{PORT}"
    assert status["reach"]["verdict"] == "public"
    assert status["reach"]["confirmed"] == [outside]
    assert direct(status) == [outside, f"/ip4/{home.address}/tcp/{PORT}"]
    assert check["level"] == "ok"
    assert outside in check["found"]


@pytest.mark.long
async def test_a_closed_router_is_found(lab: Lab, tmp_path: Path) -> None:
    """What nobody gets through to is told to nobody."""
    home = lab.home("port-restricted", rejects=True)
    status, check = await reach_of(lab, tmp_path, home, ALLOD_RELAY_USE="never")
    assert status["reach"]["verdict"] == "private"
    assert direct(status) == [f"/ip4/{home.address}/tcp/{PORT}"]
    assert check["level"] == "warning"
    assert f"TCP port {PORT}" in check["fix"]


@pytest.mark.long
async def test_a_firewall_is_found(lab: Lab, tmp_path: Path) -> None:
    """A public address is none while nobody gets through to it."""
    home = lab.home("closed", rejects=True)
    status, check = await reach_of(lab, tmp_path, home, ALLOD_RELAY_USE="never")
    assert status["reach"]["verdict"] == "private"
    assert direct(status) == []
    assert "did not get through a firewall" in check["found"]


# The rules of a router whose forwarding is miniupnpd's to open, in place of the lab's own.
GATEWAY = """
delete table ip firewall_forward
table inet filter {
 chain miniupnpd {
 }
 chain prerouting_miniupnpd {
 }
 chain postrouting_miniupnpd {
 }
 chain forward {
  type filter hook forward priority 0; policy accept;
  iifname "eth0" ct state established,related accept
  iifname "eth0" jump miniupnpd
  iifname "eth0" reject with tcp reset
 }
 chain prerouting {
  type nat hook prerouting priority -100; policy accept;
  jump prerouting_miniupnpd
 }
 chain postrouting {
  type nat hook postrouting priority 100; policy accept;
  jump postrouting_miniupnpd
 }
}
"""
DAEMON = """
ext_ifname=eth0
listening_ip=eth1
port=5000
enable_natpmp=no
enable_upnp=yes
secure_mode=yes
allow 1024-65535 192.168.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
uuid=00000000-0000-0000-0000-000000000001
"""


@contextmanager
def miniupnpd(router: Machine, folder: Path) -> Iterator[None]:
    """A real UPnP router, as most of those sold have it; skipped where it is not installed."""
    if shutil.which("miniupnpd") is None:
        pytest.skip("miniupnpd is not installed (Debian: miniupnpd-nftables)")
    router.run("nft", "-f", "-", reads=GATEWAY)
    file = folder / "miniupnpd.conf"
    file.write_text(DAEMON)
    words = [*router.within, "miniupnpd", "-d", "-f", str(file), "-P", str(folder / "pid")]
    with (folder / "miniupnpd.log").open("w") as log:
        running = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            yield
        finally:
            running.terminate()
            running.wait()


def forwarded(router: Machine) -> list[str]:
    """The ports that the router passes on."""
    words = [*router.within, "nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"]
    rules = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [line.rpartition(":")[2] for line in rules.splitlines() if "dnat" in line]


@pytest.mark.long
async def test_a_router_with_upnp(lab: Lab, tmp_path: Path) -> None:
    """The node opens the router, is reached from outside, and closes it again when it ends."""
    machine = lab.home("port-restricted", rejects=True)
    router = lab._machines[-2]
    boot = resident(tmp_path / "boot", lab.host())
    with miniupnpd(router, tmp_path), trio.fail_after(120):
        async with boot.node() as known:
            home = resident(tmp_path / "home", machine, known.address)
            home.environ |= {"ALLOD_LOG_FORMAT": "json", "ALLOD_LANE_PORT": "9773"}
            async with home.node() as node:
                await node.running.event(lambda one: "reach: public" in one.get("message", ""))
                reach = (await home.run("status"))["reach"]
                outside = f"/ip4/{machine.outside}/tcp/{PORT}"
                assert (reach["mapped"], reach["confirmed"]) == (outside, [outside])
                assert sorted(forwarded(router)) == [str(PORT), "9773"]
                assert await node.running.stop() == 0
            assert forwarded(router) == []
