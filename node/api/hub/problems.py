"""Errors in the Hub's words: what makes its clients say the right thing, and try again or not.

404  with X-Error-Code: there is no such repository, revision or file
403  the owner's policy does not let it in; why, as a warning too
451  its publisher took it back; the client's own sentence for that, and ours as a warning
416  the range lies outside of the file
504  nobody could be asked, or nobody has it now
507  it does not fit into the store
"""

from collections.abc import Sequence
from typing import Final

from starlette.responses import JSONResponse, Response

from node.api.streamed import status_of
from node.hub.resolving import Missing
from p2p.errors import AllodError, NotFound, PeerRefused, Refused

DISABLED: Final = "Access to this resource is disabled."
"""By this sentence clients know what was taken down."""
MAX_HEADER: Final = 500
"""Characters of a sentence in a header."""


def header_text(text: str) -> str:
    """Return a sentence that may stand in a header: one line, plain letters, not long."""
    plain = text.encode("ascii", "replace").decode()
    return "".join(one if " " <= one < "\x7f" else " " for one in plain)[:MAX_HEADER].strip()


def warnings(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the headers that a client prints as warnings, each topic once."""
    return [("x-hf-warning", f"allod-{n}; {header_text(text)}") for n, text in enumerate(texts)]


def missing(exc: Missing, commit: str = "") -> Response:
    """Answer 404; with the ``commit``, a client remembers that the file is not there."""
    headers = {"x-error-message": header_text(exc.message)}
    if exc.what:
        headers["x-error-code"] = exc.what
    if commit:
        headers["x-repo-commit"] = commit
    return JSONResponse({"error": exc.message}, 404, headers)


def problem(exc: AllodError, size: int = 0) -> Response:
    """Answer for an error; ``size`` is the file's, where one was asked for."""
    sentence = f"{exc.message} {exc.next}".strip()
    if isinstance(exc, NotFound):
        return missing(Missing("RepoNotFound", sentence))
    if isinstance(exc, PeerRefused) and exc.status == 416:
        range_ = {"content-range": f"bytes */{size}"}
        return JSONResponse({"error": sentence}, 416, range_)
    headers = {"x-error-message": header_text(sentence)}
    status = status_of(exc)
    if isinstance(exc, Refused):  # clients print warnings, but not always why they failed
        headers["x-hf-warning"] = f"allod; {header_text(sentence)}"
        if exc.taken_back:
            status, headers["x-error-message"] = 451, DISABLED
    return JSONResponse({"error": sentence}, status, headers)
