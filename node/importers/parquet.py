"""The columns of a Parquet file, from its footer, with nothing but a look at its schema.

The footer is a Thrift struct in the compact protocol; its second field is the schema, a list of
elements that make a tree in the order in which one walks it. Only that list is read, with bounds,
since files to be published come from strangers too; what is nested deeper than a list of values is
left out, for a column of it could not be described in a word.

``ValueError`` for what is no Parquet file. Pure but for the reading of the file's end.
Specifications: Apache Parquet format, "File format" and parquet.thrift; Thrift compact protocol.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

MAGIC: Final = b"PAR1"
MAX_FOOTER: Final = 16 << 20
"""Bytes of a footer: it grows with row groups, and the schema stands at its beginning."""
MAX_ELEMENTS: Final = 10_000
"""Elements of a schema."""
MAX_DEPTH: Final = 16
"""Levels of structs that are skipped."""

_BOOL, _INT32, _INT64, _INT96, _FLOAT, _DOUBLE, _BYTES = range(7)
_UTF8, _DECIMAL, _DATE, _MILLIS, _MICROS, _JSON = 0, 5, 6, 9, 10, 19  # converted types
_STRING, _LOGICAL_DATE, _TIMESTAMP, _LOGICAL_JSON = 1, 6, 8, 11  # fields of LogicalType
_REPEATED: Final = 2


@dataclass(slots=True)
class _Element:
    """One element of the schema, as far as it is looked at."""

    name: str = ""
    type: int = -1
    repetition: int = 0
    children: int = 0
    converted: int = -1
    logical: int = -1


def parquet_columns(file: IO[bytes]) -> list[tuple[str, str, bool]]:
    """Return the columns: name, what Croissant calls their type, whether each is a list."""
    file.seek(0, 2)
    size = file.tell()
    if size < 12:
        raise ValueError("too short")
    file.seek(size - 8)
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length > min(size - 12, MAX_FOOTER):
        raise ValueError("no Parquet footer")
    file.seek(size - 8 - length)
    elements = _schema(_Reader(file.read(length)))
    walk = iter(elements)
    root = next(walk, _Element())
    found = []
    for _ in range(root.children):
        column = _column(walk)
        if column is not None:
            found.append(column)
    return found


def _column(walk: Iterator[_Element], depth: int = 0) -> tuple[str, str, bool] | None:
    """Take one column, with all that is below it, from the walk; None for what is nested."""
    element = next(walk, None)
    if element is None or depth > MAX_DEPTH:
        raise ValueError("the schema ends early")
    if not element.children:
        kind = _type(element)
        return (element.name, kind, element.repetition == _REPEATED) if kind else None
    inner = [_column(walk, depth + 1) for _ in range(element.children)]
    if len(inner) == 1 and inner[0] is not None and depth < 2:
        # LIST: a group of a repeated group of the value, or in old files of the repeated value.
        many = element.repetition == _REPEATED or inner[0][2]
        return (element.name, inner[0][1], True) if many else None
    return None


def _type(element: _Element) -> str:
    """Return what Croissant calls the type of a leaf; empty for bytes without a meaning."""
    if element.converted == _DATE or element.logical == _LOGICAL_DATE:
        return "sc:Date"
    if element.converted in (_MILLIS, _MICROS) or element.logical == _TIMESTAMP:
        return "sc:DateTime"
    if element.converted == _DECIMAL:
        return "sc:Float"
    if element.type == _BYTES:
        text = element.converted in (_UTF8, _JSON) or element.logical in (_STRING, _LOGICAL_JSON)
        return "sc:Text" if text else ""
    return {
        _BOOL: "sc:Boolean",
        _INT32: "sc:Integer",
        _INT64: "sc:Integer",
        _INT96: "sc:DateTime",  # what it was used for
        _FLOAT: "sc:Float",
        _DOUBLE: "sc:Float",
    }.get(element.type, "")


def _schema(reader: "_Reader") -> list[_Element]:
    """Return the list of elements in the footer."""
    for field, kind in reader.fields():
        if field == 2 and kind == _Reader.LIST:
            inner, count = reader.list_head()
            if inner != _Reader.STRUCT or count > MAX_ELEMENTS:
                raise ValueError("no schema, or too large a one")
            return [_element(reader) for _ in range(count)]
        reader.skip(kind)
    raise ValueError("no schema")


def _element(reader: "_Reader") -> _Element:
    found = _Element()
    for field, kind in reader.fields():
        if field == 4 and kind == _Reader.BINARY:
            found.name = reader.binary().decode(errors="replace")
        elif field in (1, 3, 5, 6) and kind == _Reader.I32:
            name = {1: "type", 3: "repetition", 5: "children", 6: "converted"}[field]
            setattr(found, name, reader.number())
        elif field == 10 and kind == _Reader.STRUCT:
            for inner, of in reader.fields():  # a union: one field, whose number is what it means
                found.logical = inner
                reader.skip(of)
        else:
            reader.skip(kind)
    if not 0 <= found.children <= MAX_ELEMENTS:
        raise ValueError("an element with an impossible number of children")
    return found


class _Reader:
    """Reads the compact protocol."""

    I32, BINARY, LIST, STRUCT = 5, 8, 9, 12

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield (number, type) of each field of a struct; the caller reads or skips its value."""
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self.number()
            yield number, kind

    def number(self) -> int:
        """Read a zigzag varint."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        """Read a text."""
        size = self._varint()
        self._at += size
        if self._at > len(self._data):
            raise ValueError("it ends early")
        return self._data[self._at - size : self._at]

    def list_head(self) -> tuple[int, int]:
        """Read the head of a list: the type of its items, and how many."""
        head = self._byte()
        count = head >> 4
        return head & 15, self._varint() if count == 15 else count

    def skip(self, kind: int, depth: int = 0) -> None:
        """Skip a value; the lengths of lists are bounded by the bytes that there are."""
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deep")
        if kind in (1, 2):  # true and false, told by the type alone
            return
        if kind == 3:
            self._byte()
        elif kind in (4, self.I32, 6):
            self._varint()
        elif kind == 7:
            self._at += 8
        elif kind == self.BINARY:
            self.binary()
        elif kind in (self.LIST, 10):
            inner, count = self.list_head()
            for _ in range(count):
                self._byte() if inner in (1, 2) else self.skip(inner, depth + 1)
                if self._at >= len(self._data):
                    raise ValueError("it ends early")
        elif kind == self.STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise ValueError("a type that a footer does not have")

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise ValueError("it ends early")
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number that does not end")
