"""Who went away: the peers whose last connection ended, until they are back.

On a large network peers come and go all day, and nobody needs to hear of it. So those are told
apart whom the owner would miss: peers that the configuration names, and sources of a running job.
Kept are the last ``MAX_LOST``, in memory.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.jobs import Jobs

if TYPE_CHECKING:
    from p2p.host import Host

MAX_LOST: Final = 50
"""Peers that are remembered as gone."""
TELL_FOR: Final = 900.0
"""Seconds for which it is told that a peer went away whom nobody missed."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A peer that went away: when (Unix time), why it is missed, if it is."""

    peer: str
    at: float
    missed: str = ""  # "configured", "source"


class Lookout:
    """Watches a host, once ``watch`` has been called; touched by trio's thread alone."""

    def __init__(self, jobs: Jobs, configured: Iterable[str] = ()) -> None:
        """``configured``: multiaddrs of peers that the owner named."""
        self._jobs = jobs
        self._configured = {one.rpartition("/p2p/")[2] for one in configured if "/p2p/" in one}
        self._host: Host | None = None
        self._lost: OrderedDict[str, Lost] = OrderedDict()

    def watch(self, host: "Host") -> None:
        """Hear of the peers that part from this host from now on."""
        self._host = host
        host.parted.append(self._parted)

    def lost(self) -> list[Lost]:
        """Those who are gone still, the latest first."""
        host = self._host
        if host is None:
            return []
        now = time.time()
        for peer, lost in list(self._lost.items()):
            if host.connected(peer) or (not lost.missed and now > lost.at + TELL_FOR):
                del self._lost[peer]
        return list(reversed(self._lost.values()))

    def _parted(self, peer: str) -> None:
        missed = ""
        if peer in self._configured:
            missed = "configured"
        elif any(peer == feed.peer for job in self._jobs.running() for feed in job.sources()):
            missed = "source"
        self._lost.pop(peer, None)
        self._lost[peer] = Lost(peer, time.time(), missed)
        while len(self._lost) > MAX_LOST:
            self._lost.popitem(last=False)
