"""To whom and when this node gives: what closes it now, and how much of the month is left."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from node.doctor.finding import Finding, size_text

if TYPE_CHECKING:
    from node.seeding import Seeding

NEAR: Final = 0.9
"""The share of the month's bytes from which on it is told."""

_FIXES: Final = {
    "hours": "`allod config set seeding.hours always` has it give all day.",
    "month": "`allod config set seeding.month SIZE` raises it, from the next start on.",
    "ratio": "`allod config set seeding.ratio none` lifts it, from the next start on.",
}


def look_at_seeding(seeding: "Seeding") -> Iterator[Finding]:
    """Say whether something is given now, to whom, and what was sent in this month."""
    rules, sent = seeding.rules, seeding.tally.counts().month
    shut = seeding.closed()
    used = f"{size_text(sent)} were sent in this month"
    if rules.month is not None:
        used += f", of {size_text(rules.month)}"
    if shut is not None:
        said = shut.sentence.removesuffix(".")
        yield Finding("seeding", "note", f"{said}; {used}.", _FIXES[shut.reason])
    elif rules.audience == "none":
        fix = "`allod config set seeding.audience public` has it give to others."
        yield Finding("seeding", "note", f"Nothing is given to others (seeding.audience); {used}.",
                      fix)  # fmt: skip
    elif rules.month is not None and sent >= NEAR * rules.month:
        yield Finding("seeding", "note", f"Nearly all of the month is given: {used}.",
                      _FIXES["month"])  # fmt: skip
    else:
        whom = {"public": "everybody", "lan": "the local network and the group"}
        text = f"What is held is given to {whom.get(rules.audience, 'the group')}; {used}."
        yield Finding("seeding", "ok", text)
