"""Numbers and tables as people read them, and nothing that a terminal would obey."""

import re
from collections.abc import Iterable, Sequence

# Controls but tab and newline, and what turns the direction of text or breaks a line.
_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Write out what a terminal would obey: strangers choose names, and peers what they answer."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def size_text(size: float) -> str:
    """Write a number of bytes: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def exact_size_text(size: int) -> str:
    """Write a number of bytes as the configuration takes it, nothing rounded: 200GiB, 500GB."""
    for power in (4, 3, 2):
        for step, unit in ((1024, "iB"), (1000, "B")):
            if size and size % step**power == 0:
                return f"{size // step**power}{'MGT'[power - 2]}{unit}"
    return str(size)


def count_text(number: int, noun: str) -> str:
    """Write how many of something: 1 file, 2 files."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration_text(seconds: float) -> str:
    """Write a time: 45 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay rows out in columns; nothing at all where there are no rows."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    if len(lines) == 1:
        return []
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
