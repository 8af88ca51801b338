"""Which models must go so that another fits into memory. Pure: bytes and times are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from p2p.errors import NoMemory

SHARE: Final = 0.85
"""Of the memory that is free, what engines may take: the rest is for the page cache and others."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is loaded or being loaded: bytes, whether a request is under way, last use."""

    name: str
    memory: int
    busy: bool
    used: float
    loading: bool = False
    """Its bytes are promised and do not show in what is free yet."""


def make_room(
    name: str, need: int, residents: Sequence[Resident], *, budget: int | None, free: int
) -> list[str]:
    """Return the names of the models to unload, the least recently used first; none if it fits.

    ``budget``: bytes for all engines together, or None: a share of what is ``free`` on the machine.
    ``NoMemory`` with the estimate if it does not fit even then.
    """
    if budget is not None:
        room = budget - sum(one.memory for one in residents)
    else:
        room = int(free * SHARE) - sum(one.memory for one in residents if one.loading)
    going: list[str] = []
    for one in sorted(residents, key=lambda one: one.used):
        if need <= room:
            break
        if not one.busy and not one.loading:
            going.append(one.name)
            room += one.memory
    if need > room:
        busy = [one.name for one in residents if one.name not in going]
        held = f", while {', '.join(busy)} answer requests" if busy else ""
        raise NoMemory(
            f"{name} would take about {_mib(need)} of memory, but {_mib(max(0, room))} can be had"
            f"{held}.",
            next="Serve it with a smaller --context or fewer --slots, `allod stop` another model, "
            "or take a smaller or more strongly quantised one.",
        )
    return going


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
