"""Canonical JSON: one spelling, RFC 8785's, and a reader that leaves no doubt and no bomb."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import canonical
from p2p.canonical import MAX_CONTAINERS, MAX_DEPTH, MAX_INTEGER, MAX_ITEM, decode, encode, parse
from p2p.errors import UsageError, VerificationFailed

LIMIT = 1 << 22
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


def items(data: bytes, *, limit: int = LIMIT) -> list[Any]:
    """Read a whole array by its items."""
    return list(canonical.decode_items(data, limit=limit))


@settings(deadline=None)
@given(VALUES)
def test_is_rfc8785(value: Any) -> None:
    """What is written is what the reference implementation writes, and it is read back."""
    data = encode(value)
    assert data == rfc8785.dumps(value)
    assert decode(data, limit=LIMIT) == value
    assert parse(json.dumps(value, indent=1).encode(), limit=LIMIT) == value


def test_sorts_by_utf16() -> None:
    """Keys outside the basic plane sort before U+E000 and above, as UTF-16 has it."""
    value = {"\ue000": 1, "\U00010000": 2, "a": 3}
    assert encode(value) == '{"a":3,"\U00010000":2,"\ue000":1}'.encode()
    assert decode(encode(value), limit=LIMIT) == value


def test_example_of_the_standard() -> None:
    """The sorting example of RFC 8785 section 3.2.3 comes out as it says."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(decode(encode(dict.fromkeys(keys, 0)), limit=LIMIT)) == order


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        2**53,
        -(2**53),
        {1: 2},
        {None: 2},
        b"bytes",
        {1, 2},
        "\ud800",
        {"\udfff": 1},
        {"\ud800": {"\U00010000": 1}},
        object(),
    ],
)
def test_refuses_to_write(value: Any) -> None:
    """A value that JSON readers would not agree on is not written."""
    with pytest.raises(UsageError):
        encode(value)


def test_refuses_to_write_deep_or_endless_values() -> None:
    """Depth is bounded, and a value that holds itself ends too."""
    deep: Any = 0
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert decode(encode(deep), limit=LIMIT) == deep
    with pytest.raises(UsageError, match="levels"):
        encode([deep])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="levels"):
        encode(endless)


NOT_STRICT = [
    b"",
    b"{",
    b"nul",
    b"[1,]",
    b"{}{}",
    b"1.0",
    b"1e3",
    b"NaN",
    b"-Infinity",
    b"9007199254740992",
    b"-9007199254740992",
    b"1" * 10_000,
    b'{"a":1,"a":1}',
    b'{"a":1,"\\u0061":2}',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\\ud800"',
    b'"\\ud800 \\udc00"',
    b'"a\nb"',
    b"\xef\xbb\xbf{}",
    '"ä"'.encode("utf-16"),
    b"[" * 100_000,
    b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" + b"[]," * MAX_CONTAINERS + b"0]",
    b"[" + b"{}," * MAX_CONTAINERS + b"0]",
]


@pytest.mark.parametrize("data", NOT_STRICT, ids=lambda data: repr(data[:20]))
@pytest.mark.parametrize("read", [parse, decode])
def test_refuses_to_read(data: bytes, read: Callable[..., Any]) -> None:
    """Whatever leaves a doubt or costs more than it should is refused, in one sentence."""
    with pytest.raises(VerificationFailed, match="The thing") as caught:
        read(data, limit=LIMIT, what="thing")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "data",
    [
        b" {}",
        b"{}\n",
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'"\\u0061"',
        b'"\\/"',
        b'"\\u001F"',
        b"-0",
        b"[1, 2]",
        '{"\ue000":1,"\U00010000":2}'.encode(),
        b'"\\u00e4"',
    ],
)
def test_other_spellings(data: bytes) -> None:
    """Another spelling of a good value can be parsed, and is not canonical."""
    parse(data, limit=LIMIT)
    with pytest.raises(VerificationFailed, match="canonical form"):
        decode(data, limit=LIMIT)


def test_the_size_comes_first() -> None:
    """Nothing longer than the limit is looked at, and the sentence says both numbers."""
    for read in (parse, decode, lambda data, limit: items(data, limit=limit)):
        with pytest.raises(VerificationFailed, match="11 bytes, and the limit is 10"):
            read(b"[0000000000", limit=10)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=6))
def test_items_are_the_arrays(value: list[Any]) -> None:
    """Reading an array by its items gives the same as reading it whole."""
    assert items(encode(value)) == value


def test_items_over_many_windows() -> None:
    """An array of many windows is read, wherever their ends cut a character."""
    value = [{"path": "ä€\U0001f600" * (i % 50), "n": i} for i in range(20_000)]
    data = encode(value)
    assert len(data) > 3 << 20
    assert items(data, limit=len(data)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[",
        b"]",
        b"{}",
        b"[,1]",
        b"[1",
        b"[1,",
        b"[1,]",
        b"[1]]",
        b"[1] ",
        b"[1 ]",
        b"[1, 2]",
        b"[ 1]",
        b"[1][2]",
        b"[1;2]",
        b'["\\u0061"]',
        b'[{"b":1,"a":1}]',
        b'["\xff"]',
        b'["\xc3"]',
        b"[1.5]",
        b"[" * 10_000,
        b'["' + b"a" * MAX_ITEM + b'"]',
        b'[0,"' + b"a" * (40 * MAX_ITEM),
        b"[[" + b"[]," * (40 * MAX_ITEM // 3),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_refuses_items(data: bytes) -> None:
    """An array that is not canonical to its last byte is refused, whatever its length."""
    with pytest.raises(VerificationFailed):
        items(data)


@settings(deadline=None, max_examples=300)
@given(st.lists(VALUES, min_size=1, max_size=4), st.data())
def test_no_second_spelling(value: list[Any], data: st.DataObject) -> None:
    """Canonical bytes with some bytes changed are refused, or mean something else."""
    good = bytearray(encode(value))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    changed = bytes(good)
    for read in (lambda raw: decode(raw, limit=LIMIT), items):
        try:
            other = read(changed)
        except VerificationFailed:
            continue
        assert encode(other) == changed
