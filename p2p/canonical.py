"""JSON of which there is only one spelling, and a strict reader for JSON that strangers send.

A signature is over bytes, so two readers must never see two meanings in the same bytes, and nobody
may make a second spelling of what was signed.
``encode`` writes RFC 8785's canonical form of the part of JSON that leaves no doubt; ``decode``
takes bytes that are exactly that; ``parse`` takes any spelling, with the same care:

- valid UTF-8, no byte order mark, no half of a surrogate pair;
- no key twice in one object;
- whole numbers only, between -(2**53 - 1) and 2**53 - 1: beyond, programs disagree on their value;
- at most ``MAX_DEPTH`` levels, at most ``MAX_CONTAINERS`` objects and arrays.

The size is the caller's to bound, and comes first: nothing longer than ``limit`` is looked at.

Pure. Knows nothing of what the values mean.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import rfc8785

from p2p.errors import UsageError, VerificationFailed

MAX_INTEGER: Final = 2**53 - 1
"""The largest whole number that every JSON reader holds exactly (RFC 8785 section 3.2.2.3)."""
MAX_DEPTH: Final = 32
"""Levels of values: a manifest needs seven, and an extension of it a few more."""
MAX_CONTAINERS: Final = 1 << 18
"""Objects and arrays in one text. An empty one takes 3 bytes to send and 64 to hold."""
MAX_ITEM: Final = 1 << 16
"""Bytes of one item of a long array: a file's entry has some hundreds."""

_MAX_DIGITS: Final = 17  # of MAX_INTEGER, and a sign; int() takes its time with millions of them
_WINDOW: Final = 16 * MAX_ITEM  # how much of a long array is turned into text at once


def encode(value: object) -> bytes:
    """Write dicts, lists, tuples, texts, whole numbers, truth and None in canonical form.

    ``UsageError`` for a value that has none. A tuple is read back as a list.
    """
    plain = _check(value)
    try:
        if not plain:
            return rfc8785.dumps(value)  # type: ignore[arg-type]  # _check has seen it
        # The C encoder escapes as RFC 8785 does. It sorts keys by code point, RFC 8785 by UTF-16
        # unit, which is the same as long as no key leaves the basic plane: then it is 4 x faster.
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode()
    except (UnicodeEncodeError, rfc8785.CanonicalizationError) as exc:
        raise UsageError("JSON cannot hold half of a surrogate pair.") from exc


def decode(data: bytes, *, limit: int, what: str = "JSON") -> Any:
    """Read at most ``limit`` bytes that are canonical.

    ``VerificationFailed``, which says ``what`` it was, if they are not.
    """
    value, canonical = _read(data, limit, what)
    if canonical != data:
        raise VerificationFailed(f"The {what} is not in canonical form (RFC 8785).")
    return value


def parse(data: bytes, *, limit: int, what: str = "JSON") -> Any:
    """Read at most ``limit`` bytes of JSON in any spelling.

    ``VerificationFailed``, which says ``what`` it was, where they leave a doubt.
    """
    return _read(data, limit, what)[0]


def decode_items(data: bytes, *, limit: int, what: str = "array") -> Iterator[Any]:
    """Read at most ``limit`` bytes that are a canonical array, item by item.

    For arrays that would be too large in memory as a whole; an item has at most ``MAX_ITEM`` bytes.
    ``VerificationFailed`` comes when the first wrong item is reached, not before.
    """
    _check_size(data, limit, what)
    if data == b"[]":
        return
    at = 1 if data[:1] == b"[" else len(data)  # where the next item begins
    text, cursor, enough, count = "", 0, 0, 0
    while at < len(data):
        if at >= enough:
            # What is not UTF-8, or a character that the window's end cuts, becomes half of a
            # surrogate pair, and no item that holds one can be written again.
            text, cursor = data[at : at + _WINDOW].decode(errors="surrogateescape"), 0
            enough = at + _WINDOW - MAX_ITEM if at + _WINDOW < len(data) else len(data)
        count += 1
        try:
            value, end = _DECODER.raw_decode(text, cursor)
            item = encode(value)
        except (ValueError, RecursionError, UsageError) as exc:
            raise VerificationFailed(f"Item {count} of the {what} is not strict JSON.") from exc
        if len(item) > MAX_ITEM or not data.startswith(item, at):
            raise VerificationFailed(
                f"Item {count} of the {what} is longer than {MAX_ITEM} bytes, or not in "
                "canonical form (RFC 8785)."
            )
        yield value
        at, cursor = at + len(item) + 1, end + 1
        if at == len(data) and data[-1:] == b"]":
            return
        if data[at - 1 : at] != b",":
            break
    raise VerificationFailed(f"The {what} is not an array in canonical form (RFC 8785).")


def _read(data: bytes, limit: int, what: str) -> tuple[Any, bytes]:
    """Read JSON in any spelling; return its value and its canonical form."""
    _check_size(data, limit, what)
    # Strings may hold brackets too, so this counts high; nothing honest comes near.
    if data.count(b"{") + data.count(b"[") > MAX_CONTAINERS:
        raise VerificationFailed(f"The {what} holds more than {MAX_CONTAINERS} objects and arrays.")
    try:
        value = _DECODER.decode(data.decode())
        return value, encode(value)
    except RecursionError as exc:
        raise VerificationFailed(f"The {what} has more than {MAX_DEPTH} levels.") from exc
    except UsageError as exc:
        raise VerificationFailed(f"The {what} is not strict JSON: {exc}") from exc
    except ValueError as exc:  # UnicodeDecodeError, JSONDecodeError, and those of the hooks
        raise VerificationFailed(f"The {what} is not strict JSON: {exc}.") from exc


def _check_size(data: bytes, limit: int, what: str) -> None:
    """Refuse to look at more bytes than the caller allows."""
    if len(data) > limit:
        raise VerificationFailed(f"The {what} has {len(data)} bytes, and the limit is {limit}.")


def _check(value: object) -> bool:
    """Refuse what has no canonical form; say whether all keys lie in the basic plane."""
    plain = True
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    if not isinstance(key, str):
                        raise UsageError(f"A key in JSON is a text, this is {key!r}.")
                    plain = plain and (key.isascii() or max(key) <= "\uffff")
                below.extend(item.values())
            elif isinstance(item, list | tuple):
                below.extend(item)
            elif isinstance(item, int):
                if not -MAX_INTEGER <= item <= MAX_INTEGER:
                    raise UsageError(f"A whole number in JSON is under 2**53, this is {item}.")
            elif item is not None and not isinstance(item, str):
                raise UsageError(f"JSON here holds no {type(item).__name__}.")
        if not below:
            return plain
        level = below
    raise UsageError(f"JSON here has at most {MAX_DEPTH} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, where no key comes twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} comes twice in one object")
    return value


def _integer(digits: str) -> int:
    """Read a whole number, which ``_check`` bounds more exactly."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} characters")
    return int(digits)


def _no_float(text: str) -> NoReturn:
    """Refuse fractions, exponents, NaN and infinities."""
    raise ValueError(f"{text[:60]} is not a whole number")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_no_float,
    parse_constant=_no_float,
)
