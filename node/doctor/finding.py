"""What a check found. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: Final[Sequence[Level]] = ("ok", "note", "warning", "problem")
"""note: good to know. warning: it will be a problem, or is one for some. problem: it does not work,
or is not safe."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence on one thing; ``fix``: a command, or a sentence, that mends it."""

    name: str
    level: Level
    found: str
    fix: str = ""


def size_text(size: float) -> str:
    """Write a number of bytes: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def count_text(number: int, noun: str) -> str:
    """Write how many of something: 1 file, 2 files."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
