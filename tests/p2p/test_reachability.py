"""Which addresses work: many votes, a few liars, and what others are told then."""

import pytest

from p2p.address import Address
from p2p.reachability import (
    ASK_AGAIN,
    ENOUGH,
    MAX_ASKED,
    MAX_VOTES,
    VOTE_TIME,
    Reachability,
    Vote,
    neighbourhood,
)

OURS = Address.parse("/ip4/93.184.216.34/tcp/9770")
OTHER = Address.parse("/ip4/93.184.216.34/tcp/1")
LAN = Address.parse("/ip4/192.168.1.7/tcp/9770")
SIX = Address.parse("/ip6/2606:4700::1/tcp/9770")


def vote(peer: str, worked: Address | None, network: str = "", at: float = 0.0) -> Vote:
    """A vote of a peer, in a network of its own unless one is named."""
    return Vote(peer, network or f"net {peer}", "ip4", worked, at)


def after(*votes: Vote, named: tuple[str, ...] = ()) -> Reachability:
    """What is believed after these votes."""
    reach = Reachability(named=named)
    for one in votes:
        reach.vote(one)
    return reach


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("93.184.216.34", "93.184.0.0/16"),
        ("::ffff:93.184.216.34", "93.184.0.0/16"),
        ("2606:4700::1", "2606:4700::/32"),
        ("192.168.1.1", None),
        ("127.0.0.1", None),
        ("100.64.0.1", None),
        ("224.0.0.1", None),
        ("example.org", None),
    ],
)
def test_neighbourhood(host: str, network: str | None) -> None:
    """Public addresses count by their /16 or /32; others, and names, not at all."""
    assert neighbourhood(host) == network


@pytest.mark.parametrize(
    ("answers", "verdict", "confirmed"),
    [
        ("", "unknown", ()),
        ("y", "unknown", ()),
        ("yy", "unknown", ()),
        ("nn", "unknown", ()),
        ("yyy", "public", (OURS,)),
        ("nnn", "private", ()),
        ("yyn", "public", (OURS,)),
        ("nny", "private", ()),
        ("yynn", "public", (OURS,)),  # a tie leaves it as the first three had it
        ("nnyy", "private", ()),
        ("yyo", "public", (OURS,)),  # what one alone came in by is not confirmed
        ("yoo", "public", (OTHER,)),
        ("yon", "unknown", ()),  # two came in, by two different ways: neither is confirmed
    ],
)
def test_three_networks_decide(answers: str, verdict: str, confirmed: tuple[Address]) -> None:
    """A majority of at least three, and an address by which two of them came in."""
    worked = {"y": OURS, "o": OTHER, "n": None}
    votes = [vote(str(number), worked[one]) for number, one in enumerate(answers)]
    reach = after(*votes)
    assert (reach.verdict, reach.confirmed) == (verdict, confirmed)


@pytest.mark.parametrize("truth", [OURS, None])
def test_a_liar_alone_flips_nothing(truth: Address | None) -> None:
    """However often he votes, and with however many peers in his network."""
    lie = None if truth is not None else OURS
    reach = after(*(vote(str(number), truth) for number in range(3)))
    before = reach.verdict
    for number in range(MAX_VOTES // 2):
        reach.vote(vote(f"liar {number}", lie, network="his"))
        assert reach.verdict == before
    assert reach.confirmed == ((OURS,) if truth is not None else ())


def test_a_liar_cannot_be_the_third() -> None:
    """Two honest answers and his lie are what two honest answers are."""
    assert after(vote("a", None), vote("b", None), vote("liar", OURS)).verdict == "private"
    assert after(vote("a", OURS), vote("b", OURS), vote("liar", None)).verdict == "public"


def test_a_network_that_disagrees_with_itself_says_nothing() -> None:
    """Who shares a network with an honest peer can take its voice, and not turn it."""
    reach = after(vote("a", OURS, "x"), vote("b", OURS), vote("c", OURS), vote("liar", None, "x"))
    assert reach.verdict == "unknown"  # two opinions are left


def test_named_peers_decide_alone() -> None:
    """In a network of a bootstrap server and a few homes, that server is believed."""
    assert after(vote("a", None), named=("a",)).verdict == "private"
    reach = after(vote("a", OURS), vote("liar", None), named=("a",))
    assert (reach.verdict, reach.confirmed) == ("public", (OURS,))
    assert after(vote("liar", None), named=("a",)).verdict == "unknown"


def test_named_peers_are_one_among_many() -> None:
    """Once three networks have voted, the owner's peers weigh as much as others."""
    votes = (vote("a", OURS), vote("b", None), vote("c", None))
    assert after(*votes, named=("a",)).verdict == "private"


def test_a_later_vote_takes_the_place_of_an_earlier_one() -> None:
    """A peer that tries again changes its mind."""
    reach = after(*(vote(one, None) for one in "abc"), *(vote(one, OURS) for one in "ab"))
    assert (reach.verdict, reach.confirmed) == ("public", (OURS,))


def test_votes_end() -> None:
    """What was true an hour ago is not known to be true now."""
    reach = after(*(vote(one, OURS) for one in "abc"))
    reach.expire(VOTE_TIME)
    assert reach.verdict == "public"
    reach.expire(VOTE_TIME + 1)
    assert (reach.verdict, reach.confirmed) == ("unknown", ())


def test_memory_is_bounded() -> None:
    """Peer ids are free, so neither votes nor questions are kept without end."""
    reach = after(*(vote(str(number), OURS) for number in range(3 * MAX_VOTES)))
    for number in range(2 * MAX_ASKED):
        reach.asked(str(number), 0.0)
    assert len(reach._votes) == MAX_VOTES
    assert len(reach._asked) == MAX_ASKED


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("", [LAN, OURS, SIX]),  # nobody could be asked: as it always was
        ("yyy", [OURS, LAN, SIX]),
        ("nnn", [LAN, SIX]),  # nobody tried IPv6, so nothing is known of it
    ],
)
def test_what_others_are_told(answer: str, told: list[Address]) -> None:
    """What leads into the LAN, what was seen to work, and what nobody has tried."""
    worked = {"y": OURS, "n": None}
    votes = [vote(str(number), worked[one]) for number, one in enumerate(answer)]
    assert after(*votes).told([LAN, OURS, SIX]) == told


def test_a_confirmed_address_that_no_interface_has_is_told() -> None:
    """Behind a router with a forwarded port the address is the router's."""
    assert after(*(vote(one, OURS) for one in "abc")).told([LAN]) == [OURS, LAN]


def test_a_mapping_is_told_until_it_is_seen_to_fail() -> None:
    """The router is the owner's own; what peers find out counts for more."""
    reach = Reachability()
    reach.map(OURS, {9770: 9770, 40000: 40001})
    assert reach.told([LAN]) == [LAN, OURS]
    assert [reach.outside(OURS, 40000), reach.outside(LAN, 40000)] == [40001, 40000]
    assert reach.outside(OURS, 5) == 5
    for one in "abc":
        reach.vote(vote(one, None))
    assert reach.told([LAN]) == [LAN]
    assert reach.report() == {"verdict": "private", "confirmed": [], "mapped": str(OURS)}


def test_a_new_mapping_begins_anew() -> None:
    """Votes were about other addresses, so all may be asked again; the same one changes nothing."""
    reach = after(*(vote(one, None) for one in "abc"))
    reach.asked("a", 0.0)
    reach.map(OURS, {9770: 9770})
    assert (reach.verdict, reach.era) == ("unknown", 1)  # answers under way are no votes
    assert reach.to_ask([("a", "net a")], 0.0, 4) == ["a"]
    reach.vote(vote("a", OURS))
    changed = reach.changed
    reach.map(OURS, {9770: 9770})
    assert not changed.is_set()
    reach.map(None, {9770: 9770})
    assert (reach.mapped, reach.outside(OURS, 9770)) == (None, 9770)
    assert changed.is_set()


def test_changes_are_told_and_nothing_else_is() -> None:
    """Who waits wakes when the verdict or the addresses are others, not at each vote."""
    moved: list[str] = []
    reach = Reachability(moved=lambda: moved.append(reach.verdict))
    waiting = reach.changed
    for one in "abcde":
        reach.vote(vote(one, OURS))
    assert waiting.is_set()
    assert moved == ["public"]
    reach.forget()
    reach.forget()
    assert moved == ["public", "unknown"]


def test_one_peer_of_each_network_is_asked() -> None:
    """The owner's own first; nobody twice, nobody whose network has said it lately."""
    reach = Reachability(named=("boot",))
    peers = [("a", "x"), ("b", "x"), ("c", "y"), ("boot", "x")]
    assert reach.to_ask(peers, 0.0, 4) == ["boot", "c"]
    assert reach.to_ask(peers, 0.0, 1) == ["boot"]
    for one in ("boot", "c"):
        reach.asked(one, 0.0)
    assert reach.to_ask(peers, 1.0, 4) == ["a"]  # boot may not answer
    reach.vote(vote("boot", OURS, "x", at=1.0))
    assert reach.to_ask(peers, 2.0, 4) == []
    assert reach.to_ask(peers, ASK_AGAIN + 1.0, 4) == ["boot", "c"]


def test_enough_is_enough() -> None:
    """Five networks with a fresh opinion leave nobody to ask, until they are old."""
    reach = after(*(vote(str(number), OURS) for number in range(ENOUGH)))
    assert reach.to_ask([("new", "n")], 1.0, 4) == []
    assert reach.to_ask([("new", "n")], ASK_AGAIN, 4) == ["new"]
