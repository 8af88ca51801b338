"""Names in addresses: what they lead to is judged before anything is dialled."""

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from p2p.address import Address, Reach
from p2p.dialling import open_tcp, resolve
from p2p.errors import NoSources
from tests.network.hosts import crew

NAME = Address("dns4", "node.example.org", 0)


class Names(trio.abc.HostnameResolver):
    """A resolver that gives what the test says, once for each question, and counts them."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [_entry(ip, port) for ip in answer]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


def _entry(ip: str, port: int) -> tuple[int, int, int, str, tuple[Any, ...]]:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    bare, _, zone = ip.partition("%")
    tail: tuple[Any, ...] = (0, 3 if zone else 0) if ":" in ip else ()
    return family, socket.SOCK_STREAM, 6, "", (ip if zone else bare, port, *tail)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody on loopback whom nobody invited."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def knocked(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def at(server: socket.socket, kind: str = "dns4", host: str = "node.example.org") -> Address:
    return Address(kind, host, server.getsockname()[1])


def world(address: Address) -> bool:
    return address.reach is Reach.WORLD


async def opened(address: Address, names: Names, reaches: Any) -> bool:
    trio.socket.set_custom_hostname_resolver(names)
    try:
        stream = await open_tcp(address, reaches)
    except OSError:
        return False
    await stream.aclose()
    return True


async def test_a_name_that_leads_home_is_not_dialled(listener: socket.socket) -> None:
    """However it is written: loopback, IPv4 in the clothes of IPv6, nowhere, a neighbour's zone."""
    inside = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "fe80::1%eth0", "10.0.0.1"]
    assert not await opened(at(listener), Names(inside), world)
    assert not knocked(listener)


async def test_what_was_judged_is_what_is_dialled(listener: socket.socket) -> None:
    """A name that leads elsewhere at the second question is asked for once (DNS rebinding)."""
    names = Names(["127.0.0.1"], ["9.9.9.9"])
    judged: list[str] = []

    def reaches(address: Address) -> bool:
        judged.append(address.host)
        return True

    assert await opened(at(listener), names, reaches)
    assert (names.asked, judged) == (1, ["127.0.0.1"])
    assert knocked(listener)


async def test_the_good_addresses_of_a_name_are_tried(listener: socket.socket) -> None:
    """One where nobody listens does not hide the next."""
    names = Names(["127.0.0.9", "127.0.0.1"])
    assert await opened(at(listener), names, lambda _: True)


async def test_when_nobody_answers_it_says_why(listener: socket.socket) -> None:
    """The first refusal, or that there is no such name."""
    trio.socket.set_custom_hostname_resolver(Names(["127.0.0.9", "127.0.0.8"], []))
    with pytest.raises(OSError, match=r"127\.0\.0") as refused:
        await open_tcp(at(listener), lambda _: True)
    assert refused.value.errno != errno.ETIMEDOUT
    with pytest.raises(socket.gaierror):
        await open_tcp(at(listener), lambda _: True)


async def test_an_address_with_a_zone_is_none() -> None:
    """And what comes twice counts once."""
    trio.socket.set_custom_hostname_resolver(Names(["fe80::1%3", "9.9.9.9", "9.9.9.9"]))
    assert await resolve(NAME) == [Address("ip4", "9.9.9.9", 0)]


async def test_a_stranger_cannot_point_a_public_host_at_itself(listener: socket.socket) -> None:
    """The machine's own resolver: localhost, told as the place where some peer is."""
    async with crew() as hosts:
        public = await hosts.host(announce=("/ip4/9.9.9.9/tcp/9770",))
        other = await hosts.host()
        public.host.remember(other.host.peer_id, [at(listener, "dns", "localhost")])
        with pytest.raises(NoSources, match="may be asked"):
            await public.host.reach(other.host.peer_id)
    assert not knocked(listener)


async def test_a_host_on_loopback_knows_its_neighbours_by_name() -> None:
    """Which is what people try first."""
    async with crew() as hosts:
        a, b = await hosts.host(), await hosts.host()
        address = a.host.addresses[0].replace("/ip4/127.0.0.1/", "/dns4/localhost/")
        with trio.fail_after(60):
            assert await b.host.connect(address) == a.host.peer_id
