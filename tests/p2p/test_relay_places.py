"""What a relay gives: places and circuits, bounded, and taken back."""

from dataclasses import replace

from p2p.address import line_of
from p2p.relay.places import Places, RelayLimits

LIMITS = RelayLimits(
    places=3, places_per_address=2, place_time=100.0, circuits=3, circuits_per_peer=2
)
HERE = "9.9.9.9"


def test_a_place_is_kept_while_it_is_renewed() -> None:
    """A place ends after its time, counted from the last asking, or when its holder goes."""
    places = Places(LIMITS)
    assert places.take("a", "9.9.9.9", 0.0) == 100.0
    assert places.take("a", "9.9.9.9", 60.0) == 160.0
    assert places.has("a", 159.0)
    assert not places.has("a", 160.0)
    assert places.take("a", "9.9.9.9", 200.0) == 300.0
    places.leave("a")
    places.leave("a")
    assert not places.has("a", 201.0)
    assert len(places) == 0


def test_places_are_bounded() -> None:
    """So many in all, and so many from one address; who has one may renew it all the same."""
    places = Places(LIMITS)
    assert places.take("a", "9.9.9.9", 0.0) is not None
    assert places.take("b", "9.9.9.9", 0.0) is not None
    assert places.take("c", "9.9.9.9", 0.0) is None
    assert places.take("c", "8.8.8.8", 1.0) is not None
    assert places.take("d", "7.7.7.7", 1.0) is None
    assert places.take("a", "9.9.9.9", 2.0) is not None
    assert places.take("d", "7.7.7.7", 100.0) is not None  # the place of b has ended


def test_circuits_are_bounded() -> None:
    """So many in all, and so many of one peer at either end."""
    places = Places(LIMITS)
    assert places.open_circuit("a", "x", HERE)
    assert places.open_circuit("a", "y", HERE)
    assert not places.open_circuit("a", "z", HERE)
    assert not places.open_circuit("z", "a", HERE)
    assert places.open_circuit("b", "y", HERE)
    assert not places.open_circuit("c", "d", HERE)
    places.close_circuit("a", "x", HERE)
    assert places.circuits == 2
    assert places.open_circuit("c", "d", HERE)


def test_one_machine_with_many_names_takes_not_all_circuits() -> None:
    """Peer ids are free: what callers have is counted by their address too, an IPv6 line as one."""
    places = Places(replace(LIMITS, circuits_per_address=1))
    assert places.open_circuit("a", "x", "2a00:1::1")
    assert not places.open_circuit("b", "y", "2a00:1::2")
    assert places.open_circuit("c", "z", "2a00:1:0:1::1")
    places.close_circuit("a", "x", "2a00:1::1")
    assert places.open_circuit("b", "y", "2a00:1::2")
    assert line_of("::ffff:9.9.9.9") == line_of(HERE) == HERE
