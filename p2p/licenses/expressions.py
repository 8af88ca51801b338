"""SPDX licence expressions: ``MIT``, ``GPL-2.0-only WITH Classpath-exception-2.0 OR Apache-2.0``.

An expression is read into choices: a licensee takes one of them, and then every licence in it
holds. ``A AND (B OR C)`` has the choices {A, B} and {A, C}. Each licence is the text of one
operand, in SPDX's spelling, with the exception that stands behind its WITH.

Names are matched in any case, as SPDX asks; LicenseRef-... stays as it was written. A trailing
``+`` ("or later") is kept on names that SPDX lists.

Pure. Knows nothing of what the licences say.
Specification: SPDX 3.0, annex B, "SPDX license expressions".
"""

import difflib
import re
from functools import cache, lru_cache
from typing import Any, Final

from p2p.errors import UsageError

MAX_EXPRESSION: Final = 512
"""Characters of an expression: as in a manifest, and more than any that people read."""
MAX_CHOICES: Final = 64
"""Choices that one expression may leave: they double with each OR between ANDs."""

Choices = tuple[frozenset[str], ...]

_REFERENCE: Final = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
_WITH: Final = " WITH "


def spdx_id(name: str) -> str | None:
    """Return SPDX's spelling of one licence's name, or None where SPDX lists no such licence.

    Names that SPDX has replaced give the new ones: GPL-3.0 is GPL-3.0-only.
    """
    found = _spelled(name)
    return None if found is None or found in _exceptions() else found


def check_expression(text: str) -> str:
    """Return an expression in its one spelling; ``UsageError`` names what SPDX does not know."""
    if len(text) > MAX_EXPRESSION:
        raise UsageError(
            f"A licence expression has at most {MAX_EXPRESSION} characters, this one {len(text)}."
        )
    tree = _parse(text)
    if tree is None:
        raise UsageError(
            f"{text[:80]!r} is no SPDX licence expression.",
            next="Write one licence such as Apache-2.0, or join several by AND, OR and WITH.",
        )
    spelled, unknown = _render(tree)
    if unknown:
        near = _nearest(unknown[0])
        raise UsageError(
            f"SPDX lists no licence {unknown[0][:80]!r}.",
            next=(f"Did you mean {near}? " if near else "")
            + "A licence of its own is written LicenseRef-NAME.",
        )
    return spelled


@lru_cache(maxsize=1024)  # a chain of releases names the same few again and again
def choices(text: str) -> Choices | None:
    """Return the choices that an expression leaves; None where it cannot be weighed.

    That is one which is malformed, has more than ``MAX_CHOICES`` choices, or is too long.
    Names that nobody knows are kept: what they mean is for the caller to say.
    """
    tree = _parse(text) if len(text) <= MAX_EXPRESSION else None
    return None if tree is None else _expand(tree)


def _parse(text: str) -> Any:
    """Return the library's tree of an expression, or None."""
    try:
        return _licensing().parse(text, strict=True)
    except Exception:  # the library's own errors, and failed asserts where parentheses hold nothing
        return None


def _expand(tree: Any) -> Choices | None:
    """Return the choices of a tree."""
    args = getattr(tree, "args", ())
    if not args:
        return (frozenset({_operand(tree)[0]}),)
    parts = [_expand(arg) for arg in args]
    found: set[frozenset[str]] = set()
    if tree.operator.strip().upper() == "OR":
        for part in parts:
            found.update(part or ())
    else:
        found.add(frozenset())
        for part in parts:
            found = {one | other for one in found for other in part or ()}
            if len(found) > MAX_CHOICES:
                return None
    if None in parts or len(found) > MAX_CHOICES:
        return None
    return tuple(sorted(found, key=sorted))


def _render(tree: Any, inside: str = "") -> tuple[str, list[str]]:
    """Return a tree as text, and the names in it that SPDX does not know."""
    args = getattr(tree, "args", ())
    if not args:
        return _operand(tree)
    operator = tree.operator.strip().upper()
    parts = [_render(arg, operator) for arg in args]
    text = f" {operator} ".join(part for part, _ in parts)
    unknown = [name for _, names in parts for name in names]
    return (f"({text})" if inside not in ("", operator) else text), unknown


def _operand(symbol: Any) -> tuple[str, list[str]]:
    """Return one licence, with its exception, and what of it SPDX does not know."""
    exception = getattr(symbol, "exception_symbol", None)
    if exception is None:
        return _license(str(symbol.key))
    text, unknown = _license(str(symbol.license_symbol.key))
    key = str(exception.key)
    listed = _spelled(key)
    if listed not in _exceptions():
        unknown = [*unknown, key]
    return text + _WITH + (listed or key), unknown


def _license(name: str) -> tuple[str, list[str]]:
    """Return the name of one licence, and itself again where SPDX does not know it."""
    if _REFERENCE.fullmatch(name):
        return _spelled(name) or name, []
    later = name.endswith("+")
    listed = spdx_id(name) or (spdx_id(name[:-1]) if later else None)
    if listed is None:
        return name, [name]
    return listed + "+" * (later and not listed.endswith("-or-later")), []


def _nearest(name: str) -> str:
    """Return the listed licence that is spelled most like a name, or nothing."""
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    known = {one.lower(): one for one in _names().values() if not one.startswith("LicenseRef-")}
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.7)
    return known[near[0]] if near else ""


def _spelled(name: str) -> str | None:
    return _names().get(name.lower())


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@cache
def _names() -> dict[str, str]:
    """Return SPDX's spelling of every name, old names included, by its lower case."""
    found: dict[str, str] = {}
    for symbol in _licensing().known_symbols.values():
        for alias in (*symbol.aliases, symbol.key):
            found[str(alias).lower()] = str(symbol.key)
    return found


@cache
def _exceptions() -> frozenset[str]:
    """Return the names that may only stand behind WITH."""
    symbols = _licensing().known_symbols.values()
    return frozenset(str(symbol.key) for symbol in symbols if symbol.is_exception)
