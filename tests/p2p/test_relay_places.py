"""What a relay gives: places and circuits, bounded, and taken back."""

from p2p.relay.places import Places, RelayLimits

LIMITS = RelayLimits(
    places=3, places_per_address=2, place_time=100.0, circuits=3, circuits_per_peer=2
)


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
    assert places.open_circuit("a", "x")
    assert places.open_circuit("a", "y")
    assert not places.open_circuit("a", "z")
    assert not places.open_circuit("z", "a")
    assert places.open_circuit("b", "y")
    assert not places.open_circuit("c", "d")
    places.close_circuit("a", "x")
    assert places.circuits == 2
    assert places.open_circuit("c", "d")
