"""The DHT's pure half: table, lookup, records; with time passed in."""

import base58
from hypothesis import given
from hypothesis import strategies as st

from p2p.address import Address
from p2p.routing import (
    ALPHA,
    KEY_BITS,
    MAX_ASKED,
    MAX_CANDIDATES,
    MAX_PROVIDERS,
    MAX_RECORDS_PER_PEER,
    RECORD_TIME,
    STALE_AFTER,
    SUBNET_IN_BUCKET,
    SUBNET_IN_TABLE,
    K,
    Lookup,
    Provider,
    ProviderRecords,
    RoutingTable,
    Search,
    fairly,
    place,
    subnet,
)

OWN = b"own"
LOOPBACK = Address.parse("/ip4/127.0.0.1/tcp/1")


def public(a: int, b: int = 1) -> Address:
    """A public address in the /24 number ``a``."""
    return Address.parse(f"/ip4/9.9.{a}.{b}/tcp/1")


def names_in_bucket(table: RoutingTable, index: int, count: int) -> list[bytes]:
    """Names whose places fall into one bucket of the table."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        name = b"%d" % number
        if KEY_BITS - (place(name) ^ table.place).bit_length() == index:
            found.append(name)
        number += 1
    return found


def test_closest_are_the_closest() -> None:
    """The table gives the nearest peers by the XOR of their places."""
    table = RoutingTable(OWN)
    names = [b"%d" % number for number in range(60)]
    entered = [name for name in names if table.answered(name.decode(), name, [LOOPBACK], 0.0)]
    target = place(b"target")
    expected = sorted(entered, key=lambda name: place(name) ^ target)[:7]
    assert [entry.peer for entry in table.closest(target, 7)] == [n.decode() for n in expected]
    assert len(table) == len(entered)
    assert entered[0].decode() in table
    assert "nobody" not in table


def test_own_name_never_enters() -> None:
    """A node is not in its own table."""
    table = RoutingTable(OWN)
    assert not table.answered("own", OWN, [LOOPBACK], 0.0)
    assert len(table) == 0


def test_full_bucket_keeps_whom_it_knows() -> None:
    """A full bucket takes a newcomer only in place of one that failed or fell silent."""
    table = RoutingTable(OWN)
    names = names_in_bucket(table, 0, K + 3)
    for name in names[:K]:
        assert table.answered(name.decode(), name, [], 0.0)
    late = names[K].decode()
    assert not table.answered(late, names[K], [], 1.0)
    assert table.answered(late, names[K], [], STALE_AFTER)  # the first has been silent so long
    assert names[0].decode() not in table
    table.failed(names[5].decode())
    assert table.answered(names[K + 1].decode(), names[K + 1], [], STALE_AFTER)
    assert names[5].decode() not in table


def test_two_failures_in_a_row() -> None:
    """A peer leaves after two unanswered questions in a row, and an answer in between counts."""
    table = RoutingTable(OWN)
    table.answered("a", b"a", [public(1)], 0.0)
    table.failed("a")
    assert not table.answered("a", b"a", [public(1, 2)], 1.0)
    assert table.entries()[0].addresses == (public(1, 2),)
    table.failed("a")
    assert "a" in table
    table.failed("a")
    assert "a" not in table
    table.failed("a")


def test_a_peer_cannot_move_to_another_subnet() -> None:
    """A known peer's addresses are not replaced by ones that the subnet bound never saw."""
    table = RoutingTable(OWN)
    table.answered("a", b"a", [public(1)], 0.0)
    table.answered("a", b"a", [public(2)], 1.0)
    assert table.entries()[0].addresses == (public(1),)


def test_one_subnet_does_not_fill_a_bucket_or_the_table() -> None:
    """Peers of one public /24 are bounded; loopback and private addresses are not."""
    table = RoutingTable(OWN)
    names = names_in_bucket(table, 0, 6)
    entered = [table.answered(name.decode(), name, [public(1)], 0.0) for name in names[:4]]
    assert sum(entered) == SUBNET_IN_BUCKET
    assert table.answered(names[4].decode(), names[4], [public(2)], 0.0)
    assert table.answered(names[5].decode(), names[5], [LOOPBACK], 0.0)
    crowd = RoutingTable(OWN)
    for number in range(5000):
        name = b"%d" % number
        crowd.answered(name.decode(), name, [public(7, number % 250 + 1)], 0.0)
    assert len(crowd) == SUBNET_IN_TABLE
    for entry in crowd.entries():
        crowd.failed(entry.peer)
        crowd.failed(entry.peer)
    assert crowd.answered("new", b"new", [public(7)], 0.0)  # room again


def test_subnets() -> None:
    """A subnet is the /24 or /48 of the first public address."""
    assert subnet([LOOPBACK, public(3)]) == "9.9.3.0/24"
    assert subnet([Address.parse("/ip6/2a00:1:2:3::4/tcp/1")]) == "2a00:1:2::/48"
    assert subnet([LOOPBACK]) is None
    assert subnet([Address.parse("/dns/example.org/tcp/1")]) is None


def test_stale_buckets() -> None:
    """Buckets up to the deepest one are stale until a lookup went there."""
    table = RoutingTable(OWN)
    assert table.stale(0.0) == []
    for name in names_in_bucket(table, 3, 1):
        table.answered(name.decode(), name, [], 0.0)
    assert table.stale(0.0) == [0, 1, 2, 3]
    table.looked_up(table.place_in(2, 12345), 100.0)
    table.looked_up(table.place, 100.0)
    assert table.stale(101.0) == [0, 1, 3]
    assert table.stale(100.0 + STALE_AFTER) == [0, 1, 2, 3]


@given(st.integers(0, 200), st.integers(0, 2**255))
def test_place_in_bucket(index: int, salt: int) -> None:
    """place_in gives a place of the bucket that was asked for."""
    table = RoutingTable(OWN)
    where = table.place_in(index, salt)
    assert KEY_BITS - (where ^ table.place).bit_length() == index


@given(st.integers(1, 120), st.integers(1, 30), st.randoms(use_true_random=False))
def test_lookup_finds_the_nearest(size: int, degree: int, random: object) -> None:
    """In a network where each peer knows its nearest neighbours, a lookup ends at the nearest."""
    names = [b"%d" % number for number in range(size)]
    target = place(b"target")

    def knows(name: bytes) -> list[bytes]:
        return (
            sorted(names, key=lambda other: place(other) ^ place(name))[: degree + 1]
            + sorted(names, key=lambda other: place(other) ^ target)[:1]
        )

    lookup = Lookup(target, "own")
    lookup.hear(names[0].decode(), names[0], [])
    in_flight = lookup.next()
    while in_flight:
        assert len(in_flight) <= ALPHA
        assert not lookup.done
        asked = in_flight.pop()
        for closer in knows(asked.peer.encode()):
            lookup.hear(closer.decode(), closer, [LOOPBACK])
        lookup.answered(asked.peer)
        in_flight += lookup.next()
    assert lookup.done
    nearest = min(names, key=lambda name: place(name) ^ target)
    assert lookup.results()[0].peer == nearest.decode()


def test_lookup_survives_failures_and_itself() -> None:
    """Failed peers are passed over, our own id is never asked, reports nobody waits for are nil."""
    lookup = Lookup(place(b"target"), "own")
    lookup.hear("own", b"own", [])
    for number in range(3):
        lookup.hear(f"{number}", b"%d" % number, [LOOPBACK])
        lookup.hear(f"{number}", b"%d" % number, [public(1)])
    asked = [each.peer for each in lookup.next()]
    assert sorted(asked) == ["0", "1", "2"]
    lookup.failed("0")
    lookup.failed("0")
    lookup.answered("nobody")
    lookup.answered("1")
    lookup.answered("2")
    assert lookup.done
    assert {each.peer for each in lookup.results()} == {"1", "2"}
    assert lookup.results()[0].addresses == [LOOPBACK, public(1)]


def test_lookup_with_a_liar_ends() -> None:
    """Peers that invent ever nearer peers cannot make a lookup go on for ever."""
    lookup = Lookup(0, "own")
    number = 0

    def invent(count: int) -> None:
        nonlocal number
        for _ in range(count):
            number += 1
            name = base58.b58encode_int(number)
            lookup.hear(name.decode(), name, [])

    invent(1)
    asked = 0
    while batch := lookup.next():
        for each in batch:
            asked += 1
            invent(20)
            lookup.answered(each.peer)
    assert lookup.done
    assert asked <= MAX_ASKED
    assert len(lookup._candidates) <= MAX_CANDIDATES


def test_records_expire() -> None:
    """A record is good for its time, and again when it is announced again."""
    records = ProviderRecords()
    assert records.add(b"k", "a", [LOOPBACK], 0.0)
    assert records.add(b"k", "b", [LOOPBACK], 10.0)
    assert [each.peer for each in records.get(b"k", 10.0)] == ["b", "a"]
    assert [each.peer for each in records.get(b"k", RECORD_TIME)] == ["b"]
    assert records.add(b"k", "b", [public(1)], 20.0)
    assert records.get(b"k", 20.0)[0].addresses == (public(1),)
    assert records.expire(RECORD_TIME) == 1
    assert records.expire(RECORD_TIME) == 0
    assert records.expire(RECORD_TIME * 2) == 1
    assert len(records) == 0
    assert records.get(b"k", 0.0) == []


def test_records_are_bounded() -> None:
    """Neither one key, nor one peer, nor all together grow without end."""
    records = ProviderRecords()
    assert not records.add(b"", "a", [], 0.0)
    assert not records.add(b"k" * 81, "a", [], 0.0)
    for number in range(MAX_PROVIDERS + 5):
        records.add(b"k", f"{number}", [], float(number))
    assert len(records.get(b"k", 0.0)) == MAX_PROVIDERS
    assert records.get(b"k", 0.0)[-1].peer == "5"
    for number in range(MAX_RECORDS_PER_PEER):
        assert records.add(b"m%d" % number, "mirror", [], 0.0)
    assert not records.add(b"one more", "mirror", [], 0.0)
    assert records.add(b"m7", "mirror", [], 1.0)


def test_all_records_are_bounded() -> None:
    """When the store is full the oldest record makes way."""
    import p2p.routing

    records = ProviderRecords()
    for number in range(p2p.routing.MAX_RECORDS + 1):
        records.add(b"%d" % number, f"{number % 20}", [], float(number))
    assert len(records) == p2p.routing.MAX_RECORDS
    assert records.get(b"0", 0.0) == []
    assert records.get(b"1", 0.0)


def providers_named(tag: str, count: int) -> list[tuple[str, list[Address]]]:
    return [(f"{tag}-{number}", [public(number)]) for number in range(count)]


def test_one_liar_neither_ends_a_search_nor_fills_it() -> None:
    """Sixty-four invented providers in one answer leave room for the few that others name."""
    found: dict[str, Provider] = {}
    search = Search(found, 20)
    search.hear(providers_named("liar", 64))
    assert not search.done
    search.hear(providers_named("honest", 3))
    chosen = [each.peer for each in fairly(found.values(), 20)]
    assert len(chosen) == 20
    assert {"honest-0", "honest-1", "honest-2"} < set(chosen)
    for number in range(3):
        search.hear(providers_named(f"more{number}", 20))
    assert search.done


def test_invented_addresses_do_not_displace_those_that_others_name() -> None:
    """Where most answers say that a provider is comes first; a lie takes nobody's place."""
    found: dict[str, Provider] = {}
    search = Search(found, 20)
    real = public(200)
    search.hear([("holder", [public(number) for number in range(8)])])
    search.hear([("holder", [real])])
    assert real in found["holder"].addresses
    search.hear([("holder", [real, real]), ("holder", [public(7)])])
    assert found["holder"].addresses[0] == real
