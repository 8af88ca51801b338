"""What goes so that another model fits."""

import pytest

from node.serving.room import Resident, make_room
from p2p.errors import NoMemory

MIB = 1 << 20


def resident(
    name: str, mib: int, used: float, *, busy: bool = False, loading: bool = False
) -> Resident:
    return Resident(name, mib * MIB, busy, used, loading)


OLD, NEW = resident("old", 300, 1), resident("new", 300, 2)
BUSY = resident("busy", 300, 0, busy=True)
LOADING = resident("loading", 300, 0, loading=True)


@pytest.mark.parametrize(
    ("need", "residents", "budget", "free", "going"),
    [
        (100, [], 1000, 0, []),
        (100, [OLD, NEW], 1000, 0, []),
        (500, [OLD, NEW], 1000, 0, ["old"]),  # the one that was used longest ago
        (900, [NEW, OLD], 1000, 0, ["old", "new"]),
        (500, [BUSY, NEW], 1000, 0, ["new"]),  # a busy one stays
        (850, [], None, 1000, []),  # 85 % of what is free
        (500, [OLD], None, 500, ["old"]),
        (500, [LOADING], None, 1000, []),  # 300 of it are promised
    ],
)
def test_the_least_recently_used_goes(
    need: int, residents: list[Resident], budget: int | None, free: int, going: list[str]
) -> None:
    """As many as must go, and no busy one."""
    limit = None if budget is None else budget * MIB
    assert make_room("m", need * MIB, residents, budget=limit, free=free * MIB) == going


@pytest.mark.parametrize(
    ("residents", "budget", "free", "said"),
    [
        ([], 400, 0, "about 500 MiB of memory, but 400 MiB can be had."),
        ([BUSY], 600, 0, "but 300 MiB can be had, while busy answer requests"),
        ([], None, 500, "but 425 MiB can be had."),
        ([LOADING], None, 500, "but 125 MiB can be had"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_estimate(
    residents: list[Resident], budget: int | None, free: int, said: str
) -> None:
    """The error says what it would take, and what there is."""
    limit = None if budget is None else budget * MIB
    with pytest.raises(NoMemory) as caught:
        make_room("m", 500 * MIB, residents, budget=limit, free=free * MIB)
    assert said in caught.value.message
