"""Fields of a request, checked one by one: what a client may send, and within which bounds.

A table names each field with its check; ``take`` walks a JSON object through it. What no table
names is refused, since an engine has knobs (grammars, adapters, slots, templates) that are not a
client's to turn. Pure.
"""

import json
from collections.abc import Callable, Mapping, Set
from typing import Any, Final

from node.api.openai.errors import declined

MAX_BODY: Final = 8 << 20
"""Bytes of a request: a context of a million tokens fits."""

MAX_DEPTH: Final = 64
"""Levels of nesting; a JSON schema in a tool has some twenty."""

MAX_BRACKETS: Final = 1 << 19
"""Lists and objects of a request, brackets in text counted along: one takes up to 250 bytes of
memory for three of JSON."""

MAX_NAME: Final = 256
"""Characters of a model's name: a publisher's id, a path and a version fit."""

MAX_SCHEMA: Final = 64 << 10
"""Bytes of a JSON schema: engines make a grammar of it, which grows faster than it does."""

Check = Callable[[object, str], Any]
"""Takes a value and the field's name; returns it as an engine gets it, or raises ``Declined``."""

_UNTOLD: Final = object()  # a check returns it for what an engine need not hear


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a request's body: one JSON object, not too deep, all text in it valid Unicode."""
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise declined("invalid_json", f"Expected at most {MAX_BRACKETS} lists and objects.")
    try:
        value = json.loads(body.decode(), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise declined("invalid_json", "Expected the body to be JSON, in UTF-8.") from exc
    if not isinstance(value, dict):
        raise declined("invalid_json", "Expected the body to be a JSON object.")
    if not is_shallow(value, MAX_DEPTH):
        raise declined("invalid_json", f"Expected at most {MAX_DEPTH} levels of nesting.")
    return value


def is_shallow(value: object, depth: int) -> bool:
    """Say whether a JSON value has at most ``depth`` levels."""
    level = [value]
    for _ in range(depth):
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        if not below:
            return True
        level = below
    return not any(isinstance(one, dict | list) for one in level)


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are no JSON


def take(
    raw: Mapping[str, Any],
    table: Mapping[str, Check],
    *,
    ignored: Set[str] = frozenset(),
    refused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Walk ``raw`` through the table: the checked fields, those that are null left out.

    ``ignored`` names fields that change nothing here, ``refused`` says why others are not taken.
    """
    found: dict[str, Any] = {}
    for name, value in raw.items():
        if name in table:
            if value is None:
                continue
            kept = table[name](value, name)
            if kept is not _UNTOLD:
                found[name] = kept
        elif name not in ignored:
            why = (refused or {}).get(name)
            if why is not None and (value is None or value is False or value == []):
                continue  # it says that it does not want it
            short = name[:60]
            raise declined(
                "unsupported_parameter", why or f"This door knows no parameter {short!r}.", short
            )
    return found


def must(found: Mapping[str, Any], name: str) -> Any:
    """Return a field that has to be there."""
    if name not in found:
        raise declined("missing_required_parameter", f"Expected the parameter {name!r}.", name)
    return found[name]


def wrong(param: str, expected: str) -> Exception:
    """Make the error for a value of the wrong kind; the value itself is not repeated."""
    return declined("invalid_value", f"Expected {param} to be {expected}.", param)


# -- checks


def number(low: float, high: float) -> Check:
    """A number within bounds."""

    def check(value: object, param: str) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return value  # NaN is within no bounds
        raise wrong(param, f"a number from {low:g} to {high:g}")

    return check


def whole(low: int, high: int) -> Check:
    """A whole number within bounds."""

    def check(value: object, param: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(param, f"a whole number from {low} to {high}")
        return value

    return check


def flag(value: object, param: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong(param, "true or false")
    return value


def text(limit: int = MAX_BODY) -> Check:
    """A string of at most ``limit`` characters."""

    def check(value: object, param: str) -> str:
        if not isinstance(value, str) or len(value) > limit:
            bound = "" if limit == MAX_BODY else f" of at most {limit} characters"
            raise wrong(param, f"a string{bound}")
        return value

    return check


def choice(*words: str) -> Check:
    """One of a few words."""

    def check(value: object, param: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise wrong(param, " or ".join(repr(word) for word in words))
        return value

    return check


def only(value: object, why: str) -> Check:
    """A value that says what is the case anyway; the engine does not hear it."""

    def check(given: object, param: str) -> object:
        if given != value or isinstance(given, bool) is not isinstance(value, bool):
            raise declined("unsupported_parameter", why, param)
        return _UNTOLD

    return check


def items(value: object, param: str, limit: int) -> list[Any]:
    """Return a list of 1 to ``limit`` entries."""
    if not isinstance(value, list) or not 1 <= len(value) <= limit:
        raise wrong(param, f"a list of 1 to {limit} entries")
    return value


def mapping(value: object, param: str) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise wrong(param, "an object")
    return value


def schema(value: object, param: str) -> dict[str, Any]:
    """A JSON schema: of bounded size, and with no reference to other places."""
    found = mapping(value, param)
    written = json.dumps(found)
    if len(written) > MAX_SCHEMA:
        raise wrong(param, f"a JSON schema of at most {MAX_SCHEMA} bytes")
    waiting: list[object] = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            place = one.get("$ref")
            if isinstance(place, str) and not place.startswith("#"):
                raise wrong(param, "a JSON schema whose references stay inside it")
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return found


def stops(value: object, param: str) -> list[str]:
    """A text at which the answer ends, or a few of them."""
    given = [value] if isinstance(value, str) else value
    if given == []:
        return []
    check = text(MAX_STOP)
    return [check(one, param) for one in items(given, param, MAX_STOPS) if one != ""]


MAX_STOPS: Final = 16
"""Stop texts: OpenAI takes four, Ollama's clients send more."""

MAX_STOP: Final = 1024
"""Characters of a stop text."""


def biases(value: object, param: str) -> dict[str, float]:
    """Token ids with what is added to their odds."""
    found = mapping(value, param)
    if len(found) > MAX_BIASES or not all(
        name.isascii() and name.isdecimal() and len(name) < 8 for name in found
    ):
        raise wrong(param, f"an object of at most {MAX_BIASES} token ids with numbers")
    check = number(-100, 100)
    return {name: check(one, param) for name, one in found.items()}


MAX_BIASES: Final = 1024
"""Tokens with a bias."""


def seed(value: object, param: str) -> int:
    """A seed: any whole number of 64 bits, folded into the 31 that every engine takes."""
    found: int = whole(-(1 << 63), (1 << 63) - 1)(value, param)
    return found & 0x7FFFFFFF
