"""What a client is told when it gets no answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.openai.errors import (
    CODES,
    MAX_TOLD,
    Problem,
    declined,
    engine_problem,
    error_body,
    problem_of,
)
from node.moderation import Flagged, ModeratorDown
from p2p import errors
from tests.inference import TOO_LONG, engine_error


@pytest.mark.parametrize(
    ("exc", "code", "status"),
    [
        (errors.NotFound("x"), "model_not_found", 404),
        (errors.Refused("x"), "model_refused", 403),
        (errors.Untrusted("x"), "model_refused", 403),
        (errors.VerificationFailed("x"), "model_refused", 403),
        (errors.OverLimit("x", retry_after=1.2), "rate_limit_exceeded", 429),
        (errors.Busy("x", retry_after=1.2), "server_busy", 429),
        (errors.NoMemory("x"), "insufficient_memory", 503),
        (errors.Unsupported("x"), "unsupported_parameter", 400),
        (errors.NoEngine("x"), "engine_error", 502),
        (errors.EngineError("x"), "engine_error", 502),
        (errors.PeerGone("x"), "engine_error", 502),
        (errors.StoreError("x"), "store_error", 503),
        (errors.UsageError("x"), "invalid_request", 400),
        (errors.AllodError("x"), "internal_error", 500),
        (Flagged("x"), "content_filter", 400),
        (ModeratorDown("x"), "moderation_unavailable", 503),
        (declined("model_not_allowed", "x"), "model_not_allowed", 403),
    ],
)
def test_every_error_of_ours_has_its_word(exc: errors.AllodError, code: str, status: int) -> None:
    """The class decides the code and the status."""
    problem = problem_of(exc)
    assert (problem.code, problem.status) == (code, status)


def test_an_error_is_in_openais_shape() -> None:
    """A body has message, type, param and code, and the next step stands in the message."""
    exc = errors.OverLimit("Too many.", retry_after=1.2, next="Wait.")
    problem = problem_of(exc)
    assert json.loads(error_body(problem)) == {
        "error": {
            "message": "Too many. Wait.",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
    assert problem.headers() == {"retry-after": "2"}
    assert Problem("invalid_api_key", "x").headers() == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("code", CODES)
def test_the_type_says_whose_fault_it_is(code: str) -> None:
    """5xx are the server's, 429 limits, all others the request's."""
    kind = Problem(code, "x").kind
    status = CODES[code]
    assert kind == (
        "rate_limit_error"
        if status == 429
        else "server_error"
        if status >= 500
        else "invalid_request_error"
    )


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, TOO_LONG, "context_length_exceeded"),
        (400, b'{"error":{"message":"maximum context length is 5"}}', "context_length_exceeded"),
        (400, engine_error(400, "invalid_request_error", "bad"), "invalid_request"),
        (422, b'{"detail":"bad"}', "invalid_request"),
        (501, engine_error(501, "not_supported_error", "no"), "model_not_supported"),
        (503, engine_error(503, "unavailable_error", "Loading model"), "server_busy"),
        (429, b"", "server_busy"),
        (500, engine_error(500, "server_error", "oops"), "engine_error"),
        (401, engine_error(401, "authentication_error", "key"), "engine_error"),
        (404, b"<html>", "engine_error"),
        (302, b"[" * 100_000, "engine_error"),
        (500, b'{"error": "words"}', "engine_error"),
    ],
)
def test_an_engines_error_is_put_in_our_words(status: int, body: bytes, code: str) -> None:
    """Whatever an engine answers becomes one of our codes, its own codes never go out."""
    problem = engine_problem(status, body)
    assert problem.code == code
    assert problem.message


def test_an_engines_words_are_cut() -> None:
    """A message of an engine's is passed on, but not a trace of any length."""
    problem = engine_problem(400, engine_error(400, "x", "a" * 100_000))
    assert problem.message == "a" * MAX_TOLD


@given(st.integers(100, 599), st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_no_answer_of_an_engine_crashes(status: int, body: bytes) -> None:
    """Any status and any bytes are a problem with a code of the table."""
    assert engine_problem(status, body).code in CODES
