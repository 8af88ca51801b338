"""Fields of a request: what passes, what doesn't, and that nothing else does."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.openai.errors import Declined
from node.api.openai.fields import (
    MAX_DEPTH,
    MAX_SCHEMA,
    biases,
    choice,
    flag,
    is_shallow,
    number,
    only,
    parse_object,
    schema,
    seed,
    stops,
    take,
    text,
    whole,
)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"1",
        b"null",
        b"\xff\xfe{\x00}\x00",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 100_000,
        b'{"a": [' + b"[]," * 600_000 + b"0]}",
        json.dumps(nested(MAX_DEPTH)).encode(),
        '{"a": "\N{LATIN SMALL LETTER E WITH ACUTE}"}'.encode("latin-1"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """A body that is not JSON, no object, too deep or no Unicode is one clear refusal."""
    with pytest.raises(Declined) as caught:
        parse_object(body)
    assert caught.value.problem.code == "invalid_json"
    assert caught.value.problem.status == 400


@given(st.binary(max_size=200))
def test_no_body_crashes_the_reader(body: bytes) -> None:
    """Any bytes are an object or a refusal."""
    try:
        found: object = parse_object(body)
    except Declined as exc:
        found = exc.problem.code
    assert isinstance(found, dict) or found == "invalid_json"


@pytest.mark.parametrize(
    ("value", "depth", "good"),
    [(1, 1, True), ({}, 1, True), ({"a": 1}, 1, True), ({"a": []}, 1, False), ([[1]], 2, True)],
)
def test_depth_counts_levels(value: object, depth: int, good: bool) -> None:
    """The bound of nesting is exact."""
    assert is_shallow(value, depth) is good


TABLE = {"a": number(0, 2), "b": flag}


def test_known_fields_pass_and_null_is_nothing() -> None:
    """Fields of the table are checked and kept; null and the ignored ones are dropped."""
    found = take({"a": 1, "b": None, "user": "x"}, TABLE, ignored={"user"})
    assert found == {"a": 1}


@pytest.mark.parametrize("value", [1, None, False, "x"])
def test_unknown_fields_are_refused_by_name(value: object) -> None:
    """What no table names is refused whatever its value, and named, at most 60 characters of it."""
    with pytest.raises(Declined) as caught:
        take({"grammar" * 20: value}, TABLE)
    assert caught.value.problem.code == "unsupported_parameter"
    assert caught.value.problem.param == ("grammar" * 20)[:60]


@pytest.mark.parametrize(("value", "passes"), [(None, True), (False, True), ([], True), (1, False)])
def test_refused_fields_pass_when_they_ask_for_nothing(value: object, passes: bool) -> None:
    """A known field that can't be honoured may be there as long as it wants nothing."""
    if passes:
        assert take({"echo": value}, TABLE, refused={"echo": "No."}) == {}
        return
    with pytest.raises(Declined) as caught:
        take({"echo": value}, TABLE, refused={"echo": "No."})
    assert caught.value.problem.message == "No."


GOOD: list[tuple[Any, object, object]] = [
    (number(0, 2), 0, 0),
    (number(0, 2), 1.5, 1.5),
    (whole(1, 5), 5, 5),
    (flag, True, True),
    (text(3), "abc", "abc"),
    (choice("a", "b"), "b", "b"),
    (stops, "x", ["x"]),
    (stops, ["x", "", "y"], ["x", "y"]),
    (stops, [], []),
    (biases, {"12": -100, "7": 0.5}, {"12": -100, "7": 0.5}),
    (seed, 5, 5),
    (seed, -1, 0x7FFFFFFF),
    (seed, (1 << 63) - 1, 0x7FFFFFFF),
    (schema, {"$ref": "#/x", "a": [{"$ref": {"type": "string"}}]}, None),
]


@pytest.mark.parametrize(("check", "value", "kept"), GOOD)
def test_good_values_pass(check: Any, value: object, kept: object) -> None:
    """A value within its bounds is kept as an engine takes it."""
    assert check(value, "x") == (value if kept is None else kept)


BAD: list[tuple[Any, object]] = [
    (number(0, 2), 2.1),
    (number(0, 2), True),
    (number(0, 2), "1"),
    (number(0, 2), float("nan")),
    (number(0, 2), float("inf")),
    (number(0, 2), 10**400),
    (whole(1, 5), 6),
    (whole(1, 5), 1.0),
    (whole(1, 5), False),
    (flag, 1),
    (flag, "true"),
    (text(3), "abcd"),
    (text(3), 1),
    (choice("a", "b"), "c"),
    (choice("a", "b"), ["a"]),
    (stops, ["x"] * 17),
    (stops, ["x" * 1025]),
    (stops, [1]),
    (biases, {"x": 1}),
    (biases, {"1": 101}),
    (biases, {str(i): 1 for i in range(2000)}),
    (biases, {"\N{SUPERSCRIPT TWO}": 1}),
    (seed, 1 << 63),
    (seed, 1.5),
    (schema, []),
    (schema, {"$ref": "https://example.org/x"}),
    (schema, {"properties": {"a": [{"$ref": "file:///etc/passwd"}]}}),
    (schema, {"a": "x" * MAX_SCHEMA}),
]


@pytest.mark.parametrize(("check", "value"), BAD)
def test_bad_values_are_refused_without_being_repeated(check: Any, value: object) -> None:
    """A value out of bounds is refused by the field's name; what it was is not said."""
    with pytest.raises(Declined) as caught:
        check(value, "field")
    assert caught.value.problem.code == "invalid_value"
    assert caught.value.problem.param == "field"
    assert "x" * 40 not in caught.value.problem.message


def test_only_what_is_the_case_anyway() -> None:
    """A field that can have one value here passes with it, and no engine hears of it."""
    check = {"truncation": only("disabled", "No.")}
    assert take({"truncation": "disabled"}, check) == {}
    with pytest.raises(Declined):
        take({"truncation": "auto"}, check)
    with pytest.raises(Declined):
        only(0, "No.")(False, "x")
