"""The web seeds of a release: the web servers that its manifest names, as sources of last resort.

A web server is asked for files alone; the statement and the Outlines come from nodes, so that a
release which nobody holds any more cannot be fetched from its web seeds only.
When they are asked is said by ``LastResort``; which ones, by the policy (``[web]`` of
policy.toml): https only, and by default no host but the Hub's own.

A server that sends wrong bytes is out of this fetch, and of no other: it never promised them, only
the publisher said that they are there. Else a release with false web seeds could keep a node from
everything at the Hub.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from node.crew import Network
from node.messages import Note, Report
from p2p.cid import CID
from p2p.errors import NoSources
from p2p.manifest import Manifest
from p2p.policy import Policy
from p2p.web.url import Url, check_hop, read_base

if TYPE_CHECKING:
    from p2p.sources import Source

SEEDS_AFTER: Final = 3.0
"""Seconds in which nobody reads before web seeds join: a node that failed may be back by then."""
STALLED: Final = 20.0
"""Seconds in which nothing comes before they do: a leaf of a MiB at 50 KB/s."""
AGAIN: Final = 60.0
"""Seconds after a transfer that needed them in which the next one of the same release, where a
program reads a file here and there, does not wait so long again ..."""
AGAIN_AFTER: Final = 0.25
"""... but only so many: a node that is connected and has it has begun by then."""


class LastResort:
    """When the web seeds of a transfer join it; pure, times are seconds.

    They join when no node is there after a look round, when nobody has read anything for
    ``SEEDS_AFTER`` (nothing of what is left is at any node, or all of them failed), or when those
    who read have brought nothing for ``STALLED``. Then they stay to the end of the transfer,
    beside the nodes that come.
    """

    def __init__(self, now: float, remaining: int, resorted: float = -math.inf) -> None:
        """``remaining``: the bytes that have not come; ``resorted``: when seeds last joined."""
        self.patience = AGAIN_AFTER if now < resorted + AGAIN else SEEDS_AFTER
        self._read = self._came = now
        self._remaining = remaining

    def due(self, now: float, *, reading: bool, remaining: int, alone: bool) -> bool:
        """Say whether it is time; ``alone``: a look round was done, and no node is there."""
        if reading:
            self._read = now
        if remaining < self._remaining:
            self._came, self._remaining = now, remaining
        return alone or now > self._read + self.patience or now > self._came + STALLED


def web_sources(
    manifest: Manifest, policy: Policy, network: Network, report: Report
) -> "list[Source]":
    """Return the web seeds of a release that the policy lets be asked, one for each server.

    Those that are passed over are reported, with the reason. Asks nobody anything.
    """
    servers: dict[str, list[Url]] = {}
    for text in manifest.web_seeds:
        try:
            base = read_base(text)
            check_hop(base, policy.web)
        except NoSources as exc:
            report(Note(f"The web seed {text[:200]} is not asked: {exc.message}", "warning"))
            continue
        bases = servers.setdefault(base.origin, [])
        if base not in bases:
            bases.append(base)
    if not servers:
        return []
    files: dict[CID, list[tuple[str, int]]] = {}
    for entry in manifest.files:
        files.setdefault(entry.cid, []).append((entry.path, entry.size))
    return [network.web(bases, files, policy.web) for bases in servers.values()]


def seeds_of(
    manifest: Manifest, policy: Policy, network: Network, report: Report
) -> "Callable[[], list[Source]]":
    """Return what makes the web seeds of a release when a crew first needs them."""
    return lambda: web_sources(manifest, policy, network, report)
