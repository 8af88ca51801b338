"""One served release as it stands: where it is answered, how busy it is, how often it failed."""

from collections import deque
from dataclasses import replace
from typing import Any, Final

import trio

from node.inference import Served, State
from node.serving.line import Line
from node.serving.roster import Entry
from node.serving.upstream import ServerUpstream, Upstream
from p2p.errors import AllodError, EngineError, NotFound

CRASHES: Final = 3
"""Times that an engine may die, or fail to start, within CRASHES_WITHIN seconds; then it rests."""
CRASHES_WITHIN: Final = 300.0
REST: Final = 60.0
"""Seconds without another try; for as long peers are asked first."""


class Attempt:
    """A load that is under way, for those who wait for it."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.error: AllodError | None = None


class Model:
    """One served release as it stands now."""

    def __init__(self, entry: Entry, served: Served, line: Line) -> None:
        self.entry = entry
        self.served = served
        self.line = line
        self.state: State = served.state
        self.upstream: Upstream | None = None
        self.attempt: Attempt | None = None
        """The load that is under way."""
        self.memory = served.memory
        self.used = trio.current_time()
        self.stop = trio.Event()
        """Set to unload it."""
        self.gone = trio.Event()
        """Set once the engine that ran last has ended."""
        self.gone.set()
        self.failed = ""
        """What its engine said when it last failed."""
        self.crashes: deque[float] = deque(maxlen=CRASHES)
        self.retired = False
        """It is served no longer, or another has its name: no engine starts for it."""

    @property
    def down(self) -> bool:
        """Whether its engine has failed lately, and is not back."""
        fell = bool(self.crashes) and self.crashes[-1] > trio.current_time() - REST
        return fell and self.upstream is None

    def check_start(self) -> None:
        """Raise ``EngineError`` if its engine failed too often, ``NotFound`` if it is retired."""
        if self.retired:
            raise NotFound(
                f"{self.entry.name} is served no longer.",
                next="`allod serve REF` serves a release.",
            )
        now = trio.current_time()
        if len(self.crashes) == CRASHES and self.crashes[0] > now - CRASHES_WITHIN:
            left = self.crashes[-1] + REST - now
            if left > 0:
                raise EngineError(
                    f"The engine of {self.entry.name} failed {CRASHES} times; it is tried again "
                    f"in {left:.0f} s.",
                    next="`allod ps` shows what it said; `allod verify` checks the files.",
                )

    def retire(self) -> None:
        """Serve it no longer."""
        self.retired = True
        self.unload()

    @property
    def busy(self) -> bool:
        """Whether a request is answered, or waits."""
        load = self.line.load()
        return bool(load.busy or load.waiting)

    def adopt(self, entry: Entry) -> bool:
        """Take over what changes nothing for its engine; False if something else is different."""
        light: dict[str, Any] = {
            "share": entry.share,
            "via_peers": entry.via_peers,
            "aliases": entry.aliases,
        }
        if replace(self.entry, **light) != entry:
            return False
        self.entry = entry
        names = dict.fromkeys((*self.served.aliases, *entry.aliases))
        self.served = replace(
            self.served, aliases=tuple(names), shared=entry.share, via_peers=entry.via_peers
        )
        return True

    def unload(self) -> None:
        """Have its engine stopped; who asks from now on waits for the next one."""
        if not isinstance(self.upstream, ServerUpstream):
            self.upstream = None
        self.stop.set()
