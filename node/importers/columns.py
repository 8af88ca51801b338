"""Which columns a table has, told by its beginning or, of Parquet, by its end.

    CSV, TSV     the names in the first line; all of them text, which is what such a file holds
    JSON lines   the names and types in the first lines
    Parquet      its schema

A hint for readers, never a promise: whatever cannot be told in one look is left out, and a file
that is not what its name says has no columns. Blocks for a disk access.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from node.importers.parquet import parquet_columns

MAX_HEAD: Final = 256 << 10
"""Bytes of a file's beginning that are looked at."""
MAX_LINES: Final = 100
"""Lines of JSON that are looked at."""
MAX_COLUMNS: Final = 500
"""Columns of a table: of one that has more, none are told."""
MAX_NAME: Final = 256
"""Characters of a column's name."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its type in Croissant's words, whether each value is a list of such."""

    name: str
    type: str = "sc:Text"
    many: bool = False


def read_columns(file: Path, format: str) -> tuple[Column, ...]:
    """Return the columns of a file: ``csv``, ``tsv``, ``jsonl`` or ``parquet``; none of others."""
    read = _READERS.get(format)
    if read is None:
        return ()
    try:
        with file.open("rb") as stream:
            found = read(stream)
    except (OSError, ValueError, RecursionError, csv.Error):
        return ()
    names = [column.name for column in found]
    good = all(name and len(name) <= MAX_NAME and name.isprintable() for name in names)
    return tuple(found) if good and len(set(names)) == len(names) <= MAX_COLUMNS else ()


def _separated(delimiter: str) -> Callable[[IO[bytes]], list[Column]]:
    def read(stream: IO[bytes]) -> list[Column]:
        lines = _lines(stream)
        return [Column(name) for name in next(csv.reader(lines, delimiter=delimiter), [])]

    return read


def _json_lines(stream: IO[bytes]) -> list[Column]:
    types: dict[str, set[tuple[str, bool]]] = {}
    for line in _lines(stream)[:MAX_LINES]:
        row = json.loads(line)
        if not isinstance(row, dict):
            return []
        for name, value in row.items():
            seen = types.setdefault(name, set())
            if value not in (None, []):  # which say nothing
                seen.add(_json_type(value))
    found = []
    for name, seen in types.items():
        if seen == {("sc:Integer", False), ("sc:Float", False)}:
            seen = {("sc:Float", False)}
        if len(seen) == 1 and ("", False) not in seen:
            [(kind, many)] = seen
            found.append(Column(name, kind, many))
    return found


def _json_type(value: object) -> tuple[str, bool]:
    """Return what Croissant calls a value; an empty name for what it has no word for."""
    if isinstance(value, list):
        kinds = {_json_type(item) for item in value}
        kind, deeper = kinds.pop() if len(kinds) == 1 else ("", False)
        return ("", False) if deeper or not kind else (kind, True)
    kinds_of = {bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float", str: "sc:Text"}
    return kinds_of.get(type(value), ""), False


def _parquet(stream: IO[bytes]) -> list[Column]:
    return [Column(*found) for found in parquet_columns(stream)]


def _lines(stream: IO[bytes]) -> list[str]:
    """Return the whole lines at the beginning of a text."""
    data = stream.read(MAX_HEAD)
    if len(data) == MAX_HEAD:
        data = data[: data.rfind(b"\n") + 1]
    return [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]


_READERS: Final[dict[str, Callable[[IO[bytes]], list[Column]]]] = {
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "jsonl": _json_lines,
    "parquet": _parquet,
}
