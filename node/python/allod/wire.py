"""What goes to the node to read a range of a file, and whether what comes back is that. Pure.

The request and its answer stand in docs/reference/http.md, "Control". The node gives no byte that
it has not verified; here is only checked that it is this node, and that it answers this question.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from allod.errors import Error, NodeUnavailable, make_error

READ: Final = "/control/v1/read"
CONNECT_TIMEOUT: Final = 5.0
"""Seconds; a live node on loopback accepts at once."""
SILENCE: Final = 300.0
"""Seconds without a byte: the node itself gives up on its sources long before."""
KEPT: Final = 4.0
"""Seconds that an idle connection is kept; the node closes its end after five."""
MAX_ERROR: Final = 65_536
"""Bytes of an error's body."""

_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/\d{1,19}")


def range_header(start: int, stop: int) -> dict[str, str]:
    """Return the header that asks for the bytes ``start <= i < stop``, as they are."""
    return {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}


def is_range(status: int, headers: Mapping[str, str], start: int, stop: int, size: int) -> bool:
    """Say whether an answer has just these bytes of a file of ``size`` bytes.

    False for one that refuses: see ``refusal``. ``NodeUnavailable`` for one that makes no sense.
    """
    if status == 200:
        right = start == 0 and stop == size
    elif status == 206:
        found = _RANGE.fullmatch(headers.get("content-range", ""))
        right = found is not None and (int(found[1]), int(found[2])) == (start, stop - 1)
    else:
        return False
    if not right:
        raise stranger()
    return True


def refusal(status: int, body: bytes) -> Error:
    """Turn an answer that refuses into the error that it tells of."""
    if status == 401:
        return NodeUnavailable(
            "The running node does not accept this token.",
            code="NO_NODE",
            next="Unset ALLOD_TOKEN, or give it the value that the node was started with.",
        )
    try:
        error = json.loads(body)["error"]
        return make_error(str(error["code"]), str(error["message"]), str(error["next"]))
    except (ValueError, RecursionError, TypeError, KeyError):
        return stranger()


def stranger() -> Error:
    """Return the error for an answer that no node of ours gives."""
    return NodeUnavailable(
        "Another program answers where the node of this machine should.",
        code="NO_NODE",
        next="Start the node again with `allod up`.",
    )


def went_away() -> Error:
    """Return the error for a node that is gone before it was done."""
    return NodeUnavailable(
        "The node of this machine went away before the work was done.",
        code="NO_NODE",
        next="The same again goes on where it was; `allod up` keeps a node running.",
    )
