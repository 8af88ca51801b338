"""Addresses: text and binary forms, and what is no address of ours."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.address import Address, Reach, check_peer_id
from p2p.errors import UsageError

PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
RSA_PEER = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.7/tcp/9770",
        f"/ip4/192.0.2.7/tcp/9770/p2p/{PEER}",
        f"/ip6/2001:db8::1/tcp/1/p2p/{RSA_PEER}",
        "/dns/boot.example.org/tcp/65535",
        f"/dns4/a/tcp/0/p2p/{PEER}",
        "/dns6/xn--bcher-kva.example/tcp/443",
        f"/ip4/192.0.2.7/tcp/9770/p2p/{RSA_PEER}/p2p-circuit",
        f"/dns4/relay.example/tcp/9770/p2p/{RSA_PEER}/p2p-circuit/p2p/{PEER}",
    ],
)
def test_text_and_bytes_round_trip(text: str) -> None:
    """An address of the profile comes back from its text and from its bytes."""
    address = Address.parse(text)
    assert str(address) == text
    assert Address.from_bytes(bytes(address)) == address
    assert str(address.at(None)) == text.removesuffix(f"/p2p/{address.peer}")


def test_a_place_at_a_relay() -> None:
    """The endpoint of a circuit is the relay's, and its peer whoever has a place there."""
    relay = Address.parse(f"/ip4/9.9.9.9/tcp/9770/p2p/{RSA_PEER}")
    circuit = relay.through(PEER)
    assert str(circuit) == f"/ip4/9.9.9.9/tcp/9770/p2p/{RSA_PEER}/p2p-circuit/p2p/{PEER}"
    assert (circuit.relay, circuit.peer) == (RSA_PEER, PEER)
    assert circuit.endpoint == relay
    assert relay.endpoint is relay
    assert circuit.reach is Reach.WORLD


def test_other_libraries_agree() -> None:
    """The binary form is that of the multiaddr library."""
    multiaddr = pytest.importorskip("multiaddr")
    relayed = f"/ip4/1.2.3.4/tcp/9770/p2p/{PEER}/p2p-circuit"
    for text in (
        f"/ip4/1.2.3.4/tcp/9770/p2p/{PEER}",
        "/ip6/::1/tcp/5",
        "/dns4/a.example/tcp/80",
        relayed,
        f"{relayed}/p2p/{RSA_PEER}",
    ):
        assert bytes(Address.parse(text)) == multiaddr.Multiaddr(text).to_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ip4/1.2.3.4/tcp/1",
        "/ip4/1.2.3/tcp/1",
        "/ip4/1.2.3.4/tcp/65536",
        "/ip4/1.2.3.4/tcp/-1",
        "/ip4/1.2.3.4/tcp/٣",
        "/ip4/1.2.3.4/udp/1",
        "/ip4/1.2.3.4/udp/1/quic-v1/x",
        "/ip6/fe80::1%eth0/tcp/1",
        "/ip6/zz/tcp/1",
        "/dns/a b/tcp/1",
        "/dns/-a/tcp/1",
        "/dns/" + "a" * 128 + "/tcp/1",
        "/unix/x/tcp/1",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER[:-8]}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/xyz/{PEER}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/http/p2p/{PEER}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}/p2p-circuit",
        "/ip4/1.2.3.4/tcp/1/p2p-circuit",
        f"/ip4/1.2.3.4/tcp/1/xyz/{PEER}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER[:-8]}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER[:-1]}0",
        "/ip4/1.2.3.4/tcp/1/p2p/" + "1" * 45,
        "/ip4/1.2.3.4/tcp/1/" + "a" * 1000,
    ],
)
def test_not_in_the_profile(text: str) -> None:
    """Anything else is refused with a sentence."""
    with pytest.raises(UsageError):
        Address.parse(text)


@given(st.binary(max_size=80))
def test_any_bytes_are_refused_or_come_back(raw: bytes) -> None:
    """Binary junk is a UsageError, never another exception; what is taken has one binary form."""
    try:
        address = Address.from_bytes(raw)
    except UsageError:
        return
    assert Address.from_bytes(bytes(address)) == address


@pytest.mark.parametrize(
    "raw",
    [
        b"\x04\x01\x02\x03\x04",
        b"\x04\x01\x02\x03\x04\x06\x00",
        b"\x29" + b"\x00" * 10,
        b"\x35\x05abc",
        b"\x35\x02a/\x06\x00\x01",
        b"\x04\x01\x02\x03\x04\x06\x00\x01\xa5",
        b"\x04\x01\x02\x03\x04\x06\x00\x01\xa5\x03\x02ab",
        b"\x04\x01\x02\x03\x04\x06\x00\x01\xa5\x03\x05ab",
        bytes(Address.parse(f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit")) + b"\xa5",
        bytes(Address.parse(f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit")) + b"\xa2\x02",
        bytes(Address.parse(f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}")) + b"\x00",
        b"\x04" * 500,
    ],
)
def test_cut_off_bytes(raw: bytes) -> None:
    """A binary address that is cut off or goes on is refused."""
    with pytest.raises(UsageError):
        Address.from_bytes(raw)


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("/ip4/127.0.0.1/tcp/1", Reach.MACHINE),
        ("/ip6/::1/tcp/1", Reach.MACHINE),
        ("/ip6/::ffff:127.0.0.1/tcp/1", Reach.MACHINE),
        ("/ip4/10.0.0.1/tcp/1", Reach.NETWORK),
        ("/ip4/169.254.1.1/tcp/1", Reach.NETWORK),
        ("/ip4/9.9.9.9/tcp/1", Reach.WORLD),
        ("/dns/example.org/tcp/1", Reach.WORLD),
        ("/ip4/9.9.9.9/tcp/0", Reach.NOWHERE),
        ("/ip4/0.0.0.0/tcp/1", Reach.NOWHERE),
        ("/ip6/::/tcp/1", Reach.NOWHERE),
        ("/ip4/224.0.0.251/tcp/1", Reach.NOWHERE),
        ("/ip4/255.255.255.255/tcp/1", Reach.NOWHERE),
        ("/ip6/fe80::1/tcp/1", Reach.NOWHERE),
    ],
)
def test_reach(text: str, reach: Reach) -> None:
    """An address says whether it leads to this machine, this network, the world or nowhere."""
    assert Address.parse(text).reach is reach


@pytest.mark.parametrize(
    "name", ["a" * 64, "a" * 100 + "!", "a_" * 50 + "-", "a." * 50 + "!", "a..b", ".a"]
)
def test_names_that_no_resolver_takes(name: str) -> None:
    """A DNS name with a label that is too long, empty or malformed is refused, and at once."""
    raw = b"\x36" + bytes([len(name)]) + name.encode() + b"\x06\x00\x01"
    start = time.process_time()
    with pytest.raises(UsageError):
        Address.parse(f"/dns4/{name}/tcp/1")
    with pytest.raises(UsageError):
        Address.from_bytes(raw)
    assert time.process_time() - start < 0.1


def test_longest_names() -> None:
    """Names up to the longest label, and with a dot at their end, are addresses."""
    for name in ("a" * 63 + ".example", "example.org.", "_x.a-b.c"):
        assert Address.parse(f"/dns/{name}/tcp/1").host == name


def test_peer_ids() -> None:
    """A peer id is accepted in its one spelling."""
    assert check_peer_id(PEER) == PEER
    assert check_peer_id(RSA_PEER) == RSA_PEER
    for bad in ("", "x" * 50, "1" + PEER, PEER + "1", PEER + " "):
        with pytest.raises(UsageError):
            check_peer_id(bad)
