"""What a client is told when it gets no answer: OpenAI's error object, and its words.

    {"error": {"message", "type", "param", "code"}}

``CODES`` is the one table of codes and their status. ``problem_of`` finds the words for an error of
ours, ``engine_problem`` for the answer of an engine that said no: an engine's own body, with its
number codes, never goes out. Pure: knows no request and no socket.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.moderation import Flagged, ModeratorDown
from p2p.errors import (
    AllodError,
    Busy,
    EngineError,
    NetworkError,
    NoMemory,
    NotFound,
    OverLimit,
    Refused,
    StoreError,
    Unsupported,
    UsageError,
    VerificationFailed,
)

CODES: Final[Mapping[str, int]] = {
    "invalid_json": 400,
    "invalid_value": 400,
    "missing_required_parameter": 400,
    "unsupported_parameter": 400,
    "unsupported_content": 400,
    "model_not_supported": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_request": 400,
    "invalid_api_key": 401,
    "model_not_allowed": 403,
    "model_refused": 403,
    "model_not_found": 404,
    "receipt_not_found": 404,
    "unknown_url": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "rate_limit_exceeded": 429,
    "server_busy": 429,
    "internal_error": 500,
    "not_offered": 501,
    "engine_error": 502,
    "insufficient_memory": 503,
    "moderation_unavailable": 503,
    "store_error": 503,
}
"""Every code that a client can meet, with its HTTP status."""

MAX_TOLD: Final = 500
"""Characters of an engine's own words that are passed on: a sentence, not a trace."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request gets no answer, as a client is told."""

    code: str
    message: str
    param: str | None = None
    retry_after: float = 0.0
    """Seconds after which it may try again; 0: nobody knows."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        return CODES[self.code]

    @property
    def kind(self) -> str:
        """OpenAI's ``type``: whose fault it is."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def fields(self) -> dict[str, Any]:
        """Return the inside of the error object."""
        return {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to it."""
        found = {}
        if self.retry_after > 0:
            found["retry-after"] = str(math.ceil(self.retry_after))
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


class Declined(UsageError):
    """A door says no to a request; ``problem`` is what the client is told."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def declined(code: str, message: str, param: str | None = None) -> Declined:
    """Make the error for a request that a door turns down; ``code`` is one of ``CODES``."""
    return Declined(Problem(code, message, param))


def error_body(problem: Problem) -> bytes:
    """Write the body of an error answer."""
    return json.dumps({"error": problem.fields()}).encode() + b"\n"


_WORDS: Final[tuple[tuple[type[AllodError], str], ...]] = (
    (Flagged, "content_filter"),
    (ModeratorDown, "moderation_unavailable"),
    (OverLimit, "rate_limit_exceeded"),
    (Busy, "server_busy"),
    (NoMemory, "insufficient_memory"),
    (Unsupported, "unsupported_parameter"),
    (EngineError, "engine_error"),
    (NetworkError, "engine_error"),
    (Refused, "model_refused"),
    (VerificationFailed, "model_refused"),
    (NotFound, "model_not_found"),
    (StoreError, "store_error"),
    (UsageError, "invalid_request"),
)
"""The first class that fits names the code."""


def problem_of(exc: AllodError) -> Problem:
    """Return what a client is told of ``exc``."""
    if isinstance(exc, Declined):
        return exc.problem
    code = next((word for kind, word in _WORDS if isinstance(exc, kind)), "internal_error")
    after = exc.retry_after if isinstance(exc, Busy) else 0.0
    return Problem(code, f"{exc.message} {exc.next}".strip(), retry_after=after)


def engine_problem(status: int, body: bytes) -> Problem:
    """Return what a client is told of an engine's answer that is not 200."""
    told = _told(body)
    message = str(told.get("message") or "")[:MAX_TOLD]
    words = f"{told.get('type')} {told.get('code')}"
    if _is_too_long(words, message):
        return Problem("context_length_exceeded", message or "The prompt is too long.")
    if status == 501 or "not_supported" in words:
        return Problem("model_not_supported", message or "The model cannot do that.", "model")
    if status in (400, 422):
        return Problem("invalid_request", message or "The engine did not take the request.")
    if status in (429, 503):
        return Problem("server_busy", message or "The engine is busy.", retry_after=1.0)
    tail = f": {message}" if message else "."
    return Problem("engine_error", f"Expected an answer of the engine, came status {status}{tail}")


def _is_too_long(words: str, message: str) -> bool:
    known = ("exceed_context_size_error", "context_length_exceeded")
    return any(one in words for one in known) or "maximum context length" in message


def _told(body: bytes) -> dict[str, Any]:
    """Read an engine's error: {"error": {...}}, {"error": "..."} or {"detail": ...}, or nothing."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    error = value.get("error", value.get("detail", value))
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}
