"""Telling a pickle by its bytes, whatever its name is.

A pickle is a program of one-byte instructions with their arguments. It has no sure mark at its
beginning: protocols 2 and up begin with one, older ones begin like any text does. So the program is
walked as an unpickler would, with what kinds of things lie on its stack, and nothing of it done,
until

- it calls something it got by name: loading it runs code, so this is a pickle for sure;
- it ends, after it began with the mark or where the file ends;
- an unpickler would have stopped with an error: there was nothing to load.

Where it is not known what an unpickler would find, the worse is assumed, so a pickle that loads is
always seen; noise and text nearly never look like one.
Pure: reads through a function that is passed in, a bounded number of bytes at a time.
Specification: the comments of CPython's pickletools.
"""

import pickletools
import re
from collections.abc import Callable
from typing import Final

MAX_STEPS: Final = 20_000
"""Instructions that are walked: no text and no noise is that many valid ones in a row."""
MAX_LINE: Final = 1 << 20
"""Bytes that are looked through for the end of an argument that ends with its line."""
MAX_PROTOCOL: Final = b"\x07"
"""The highest protocol that the mark may name: there are five."""
_PIECE: Final = 4096  # bytes that are read at once

Read = Callable[[int, int], bytes]
"""Returns ``size`` bytes from ``start`` on, fewer at the end; may raise ``OutOfSightError``."""


class OutOfSightError(Exception):
    """The bytes are there, but not within what the reader may look at."""


_OPCODES: Final = {op.code.encode("latin-1")[0]: op for op in pickletools.opcodes}
_SIZES: Final = {-2: 1, -3: 4, -4: 4, -5: 8}  # pickletools' codes: bytes of the argument's length

# What lies on the stack, as far as it matters: a text; what was got by name, or made by calling
# that; a tuple; anything, for it came out of the memo; a mark; or something else.
_TEXT, _NAMED, _TUPLE, _ANY, _MARK, _OTHER = "text", "named", "tuple", "any", "mark", "other"
_MAKES: Final = {
    "STRING": _TEXT, "BINSTRING": _TEXT, "SHORT_BINSTRING": _TEXT, "UNICODE": _TEXT,
    "SHORT_BINUNICODE": _TEXT, "BINUNICODE": _TEXT, "BINUNICODE8": _TEXT,
    "TUPLE": _TUPLE, "TUPLE1": _TUPLE, "TUPLE2": _TUPLE, "TUPLE3": _TUPLE, "EMPTY_TUPLE": _TUPLE,
    "GLOBAL": _NAMED, "STACK_GLOBAL": _NAMED, "EXT1": _ANY, "EXT2": _ANY, "EXT4": _ANY,
    "GET": _ANY, "BINGET": _ANY, "LONG_BINGET": _ANY, "PERSID": _ANY, "BINPERSID": _ANY,
    "MARK": _MARK,
}  # fmt: skip
_GETS: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_CALLS: Final = {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "BUILD": 2}
"""What calls something: how far below the top that lies."""

# Beginnings of arguments without which an unpickler stops; they hold more than it would take.
_ARGUMENTS: Final = {
    "INT": re.compile(rb"[\s0-9a-fA-FxXoO_+-]*$"),
    "LONG": re.compile(rb"[\s0-9a-fA-FxXoOlL_+-]*$"),
    "FLOAT": re.compile(rb"[\s0-9a-zA-Z._+-]*$"),
    "STRING": re.compile(rb"['\"]"),
    "GET": re.compile(rb"[\s0-9_+-]*$"),
    "PUT": re.compile(rb"[\s0-9_+-]*$"),
    "GLOBAL": re.compile(rb"[\w.\x80-\xff]+\r?$"),
    "INST": re.compile(rb"[\w.\x80-\xff]+\r?$"),
}


class _BrokenError(Exception):
    """An unpickler would have stopped here."""


def is_pickle(read: Read) -> bool:
    """Say whether an unpickler that is given these bytes would load something."""
    try:
        mark = read(0, 2)
        return _walk(_Tape(read), marked=mark[:1] == b"\x80" and mark[1:] <= MAX_PROTOCOL)
    except _BrokenError:
        return False
    except OutOfSightError:
        return True


def _walk(tape: "_Tape", *, marked: bool) -> bool:
    stack: list[str] = []
    memo = False
    for _ in range(MAX_STEPS):
        op = _OPCODES.get(tape.byte())
        if op is None:
            raise _BrokenError
        _pass_argument(tape, op)
        memo |= op.name in _PUTS
        if op.name in _GETS and not memo:
            raise _BrokenError
        if _calls(stack, op.name):
            return True
        _step(stack, op)
        if op.name == "STOP":
            if marked or tape.ended():
                return True
            stack = []  # a loader may go on with the next one
    return True


def _pass_argument(tape: "_Tape", op: pickletools.OpcodeInfo) -> None:
    """Pass over what belongs to an instruction; _Broken if it cannot be that."""
    if op.arg is None:
        return
    if op.arg.n >= 0:
        tape.skip(op.arg.n)
    elif op.arg.n in _SIZES:
        tape.skip(int.from_bytes(tape.take(_SIZES[op.arg.n]), "little"))
    else:
        form = _ARGUMENTS.get(op.name)
        for _ in range(2 if op.name in ("GLOBAL", "INST") else 1):
            line = tape.line()
            if form is not None and form.match(line) is None:
                raise _BrokenError


def _calls(stack: list[str], name: str) -> bool:
    """Say whether an instruction calls something that came from outside."""
    if name == "INST":
        return _MARK in stack
    if name == "OBJ":
        mark = len(stack) - 1 - stack[::-1].index(_MARK) if _MARK in stack else len(stack)
        return stack[mark + 1 : mark + 2] in ([_NAMED], [_ANY])
    depth = _CALLS.get(name)
    if depth is None or len(stack) < depth or stack[-depth] not in (_NAMED, _ANY):
        return False
    return name == "BUILD" or stack[1 - depth] in (_TUPLE, _ANY)


def _step(stack: list[str], op: pickletools.OpcodeInfo) -> None:
    """Do to the stack what an instruction that calls nothing does."""
    if op.name in ("INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX"):
        raise _BrokenError  # it would call what is no function
    if op.name == "STACK_GLOBAL" and not all(one in (_TEXT, _ANY) for one in stack[-2:]):
        raise _BrokenError
    if op.name == "DUP":
        stack += stack[-1:] or _broken()
        return
    below = len(op.stack_before)
    if pickletools.markobject in op.stack_before:
        while (stack.pop() if stack else _broken()) != _MARK:
            pass
        below = op.stack_before.index(pickletools.markobject)
    if below > len(stack):
        raise _BrokenError
    kept = stack[len(stack) - below :]
    if _MARK in kept and op.name != "POP":
        raise _BrokenError
    del stack[len(stack) - below :]
    if op.name in ("MEMOIZE", "BUILD"):  # what is there stays what it was
        stack += kept[:1]
    else:
        stack += [_MAKES.get(op.name, _OTHER)] * len(op.stack_after)


def _broken() -> list[str]:
    raise _BrokenError


class _Tape:
    """Bytes that are read in order, some skipped."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._at = 0
        self._start = 0
        self._piece = b""

    def take(self, size: int) -> bytes:
        """Return the next few bytes, which must be there."""
        inside = self._at - self._start
        if not 0 <= inside <= len(self._piece) - size:
            self._start, self._piece, inside = self._at, self._read(self._at, _PIECE), 0
        data = self._piece[inside : inside + size]
        if len(data) < size:
            raise _BrokenError
        self._at += size
        return data

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def skip(self, size: int) -> None:
        """Pass over bytes, which must be there."""
        if size:
            self._at += size - 1
            self.take(1)

    def line(self) -> bytes:
        """Pass over the rest of the line; return its beginning. It must end, and not too late."""
        begin, first = self._at, b""
        while self._at - begin < MAX_LINE:
            piece = self._read(self._at, _PIECE)
            first = first or piece
            end = piece.find(b"\n")
            if end >= 0:
                self._at += end + 1
                return first[:end] if self._at - begin <= _PIECE else first
            self._at += len(piece)
            if not piece:
                raise _BrokenError
        raise OutOfSightError

    def ended(self) -> bool:
        """Say whether nothing follows."""
        return not self._read(self._at, 1)
