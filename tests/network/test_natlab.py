"""The NAT lab is what it says: each kind of router, and which pairs of homes can meet over TCP.

Plain sockets, no node: what fails here can't be expected of the nodes (test_nat.py).
"""

import errno
import select
import socket
import time
from itertools import combinations_with_replacement

import pytest

from tests.natlab import KINDS, Home, Kind, Lab, Machine

PATIENCE = 20.0
"""Seconds for what must come; it comes at once."""
SILENCE = 0.5
"""Seconds without an answer that pass for silence."""
AT_HOME = 5000

MEET = {
    pair: "symmetric" not in pair or "full-cone" in pair
    for pair in combinations_with_replacement(KINDS, 2)
}
"""Whether two homes can have a connection without a relay, by the kinds of their routers."""
EACH_TIME = {("port-restricted", "port-restricted"), ("full-cone", "symmetric")}
"""The pairs that are tried in every run; the others say nothing that changes with our code."""


def listening(machine: Machine, port: int = 0) -> socket.socket:
    """A socket that accepts on a port from which may also be dialled."""
    found = machine.socket(port, shared=True)
    found.listen()
    found.settimeout(PATIENCE)
    return found


def seen_from(home: Home, public: socket.socket) -> tuple[tuple[str, int], list[socket.socket]]:
    """Where a public host sees port AT_HOME of a home, and the connection that is to stay."""
    dial = home.socket(AT_HOME, shared=True)
    dial.settimeout(PATIENCE)
    dial.connect(public.getsockname())
    accepted, address = public.accept()
    return address, [dial, accepted]


def answers(machine: Machine, address: tuple[str, int]) -> bool:
    """Whether somebody lets a machine in at an address."""
    with machine.socket() as dial:
        dial.settimeout(SILENCE)
        return dial.connect_ex(address) == 0


def meet(homes: list[Home], targets: list[tuple[str, int]], seconds: float) -> bool:
    """Dial from both homes at the same time; whether a connection comes of it, either way."""
    listeners = [listening(home, AT_HOME) for home in homes]
    dials = [home.socket(AT_HOME, shared=True) for home in homes]
    waits = set(dials)
    until = time.monotonic() + seconds
    try:
        for dial, target in zip(dials, targets, strict=True):
            dial.setblocking(False)
            code = dial.connect_ex(target)
            # EADDRNOTAVAIL: the other one was quicker, and the connection exists.
            assert code in (errno.EINPROGRESS, errno.EADDRNOTAVAIL), code
            if code == errno.EADDRNOTAVAIL:
                waits.discard(dial)
        while (left := until - time.monotonic()) > 0:
            accepted, ended, _ = select.select(listeners, waits, [], left)
            if accepted:
                return True
            for dial in ended:
                waits.discard(dial)
                if dial.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    return True
        return False
    finally:
        for each in listeners + dials:
            each.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_of_each_kind(lab: Lab, kind: Kind) -> None:
    """Its ports are the same for all or not, and it lets in everybody or only who was asked."""
    home, one, two = lab.home(kind), lab.host(), lab.host()
    at_one, at_two = listening(one), listening(two)
    inner = listening(home, AT_HOME)
    first, _kept = seen_from(home, at_one)
    second, _kept2 = seen_from(home, at_two)
    assert first[0] == second[0] == home.outside
    assert (first == second) is (kind != "symmetric")
    if kind != "symmetric":
        assert first[1] == AT_HOME
    assert answers(lab.host(), first) is (kind == "full-cone")
    assert answers(one, first) is (kind == "full-cone")  # from another port than the one asked
    assert answers(one, (home.outside, 1)) is False
    inner.close()


def test_an_unwanted_call_is_refused_or_unheard(lab: Lab) -> None:
    """Both habits of routers are there: silence, and a reset."""
    stranger = lab.host()
    for rejects, code in ((True, errno.ECONNREFUSED), (False, errno.EAGAIN)):
        home = lab.home("port-restricted", rejects=rejects)
        with stranger.socket() as dial:
            dial.settimeout(SILENCE)
            assert dial.connect_ex((home.outside, AT_HOME)) == code


@pytest.mark.parametrize(
    ("one", "two"),
    [pytest.param(*pair, marks=() if pair in EACH_TIME else pytest.mark.long) for pair in MEET],
)
def test_which_homes_can_meet(lab: Lab, one: Kind, two: Kind) -> None:
    """Two that dial each other at once meet, unless one is symmetric and the other no full cone."""
    public = listening(lab.host())
    homes = [lab.home(one), lab.home(two)]
    seen = [seen_from(home, public) for home in homes]
    targets = [seen[1][0], seen[0][0]]
    can = MEET[one, two]
    assert meet(homes, targets, PATIENCE if can else 1.5) is can


def test_a_port_is_shared_with_what_listens_there(lab: Lab) -> None:
    """A listener that takes on SO_REUSEPORT once it is bound lets dials in and keeps others out."""
    home = lab.host()
    with home.socket(AT_HOME) as listener:
        listener.listen()
        with pytest.raises(OSError, match="in use"):
            home.socket(AT_HOME, shared=True)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        home.socket(AT_HOME, shared=True).close()
        with pytest.raises(OSError, match="in use"):
            home.socket(AT_HOME)


def test_nothing_is_left_of_a_lab(lab: Lab) -> None:
    """Machines of one lab don't reach those of another, and this machine is not changed."""
    with Lab() as other:
        there = listening(other.host(), AT_HOME)
        assert answers(other.host(), there.getsockname())
        assert not answers(lab.host(), there.getsockname())
    names = [name for _, name in socket.if_nameindex()]
    assert "bridge" not in names
    assert "p1" not in names
