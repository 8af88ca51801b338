"""How ``fetch --explain`` is shown: the time line, a row for each source, and what was slow."""

from typing import Any

from node.cli.text import size_text, table

HEAD = ("SOURCE", "BY", "BYTES", "MB/S", "BUSY", "WAITING", "JOINED", "LEFT", "FAULTS", "TAKEN")


def explained(found: dict[str, Any]) -> list[str]:
    """Return the lines for the object ``explain`` of a fetch's result."""
    phases = ", ".join(f"{one['name']} {one['seconds']:.2f} s" for one in found["phases"])
    first = "nobody" if found["found"] is None else f"after {found['found']:.2f} s"
    lines = [f"took {found['seconds']:.2f} s: {phases}", f"first source found: {first}"]
    rows = [
        (
            one["peer"],
            "+".join(one["carried"]) or "-",
            size_text(one["bytes"]),
            f"{one['rate'] / 1e6:.1f}",
            f"{100 * one['busy']:.0f}%",
            f"{100 * one['waiting']:.0f}%",
            _moment(one["joined"]),
            _moment(one["left"]),
            str(one["faults"]),
            str(one["stolen"] + one["twice"]),
        )
        for one in found["sources"]
    ]
    return [*lines, *table(HEAD, rows), *found["why"]]


def _moment(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"
