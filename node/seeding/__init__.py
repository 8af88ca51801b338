"""What this node gives, to whom, when, and how much of it: the owner's rules of ``seeding``.

    rules    the rules, and the one function that decides (pure)
    tally    how much was sent, this month and ever, kept over restarts
    usher    asks both for every request of content, on streams, lanes and the public gateway

The gate (gate.py) says what may be given at all, and means everybody; this says to whom and when.
Statements, signatures and what publishers say are always given, so that revocations travel.
The door on loopback is the owner's own and knows none of this.
"""

from node.seeding.rules import (
    REASONS,
    Asker,
    Counts,
    Refusal,
    Release,
    Rules,
    closed,
    decide,
    is_near,
)
from node.seeding.tally import Tally, open_tally
from node.seeding.usher import Seeding, near_gateway

__all__ = [
    "REASONS",
    "Asker",
    "Counts",
    "Refusal",
    "Release",
    "Rules",
    "Seeding",
    "Tally",
    "closed",
    "decide",
    "is_near",
    "near_gateway",
    "open_tally",
]
