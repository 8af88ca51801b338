"""Answers of the door: the range that was asked for, or a clear error."""

import json

import pytest

import allod
from allod import wire


def test_a_range_is_asked_for_by_its_ends() -> None:
    """HTTP counts the last byte in."""
    assert wire.range_header(10, 20)["Range"] == "bytes=10-19"


@pytest.mark.parametrize(
    ("status", "header", "right"),
    [
        (206, "bytes 10-19/100", True),
        (200, "", None),
        (206, "bytes 10-20/100", None),
        (206, "bytes 0-9/100", None),
        (206, "", None),
        (404, "", False),
        (502, "bytes 10-19/100", False),
    ],
)
def test_the_answer_must_be_that_range(status: int, header: str, right: bool | None) -> None:
    """206 with just these bytes; anything else refuses, or is from somebody else (None)."""
    headers = {"content-range": header} if header else {}
    if right is None:
        with pytest.raises(allod.NodeUnavailable, match="Another program"):
            wire.is_range(status, headers, 10, 20, 100)
    else:
        assert wire.is_range(status, headers, 10, 20, 100) is right
    assert wire.is_range(200, {}, 0, 100, 100)


def test_a_refusal_says_why() -> None:
    """The error of the body, whatever the status; a body that has none is no node's."""
    body = json.dumps({"error": {"code": "REFUSED", "message": "No.", "next": "Ask."}}).encode()
    error = wire.refusal(403, body)
    assert isinstance(error, allod.Denied)
    assert error.next == "Ask."
    assert "ALLOD_TOKEN" in wire.refusal(401, body).next
    for junk in (b"", b"<html>", b"[]", b'{"error": 1}', b"[" * 60_000):
        assert isinstance(wire.refusal(500, junk), allod.NodeUnavailable)
