"""The Range and Content-Range headers of RFC 9110, one range at a time.

Pure.
Offsets are half-open here (``start``, ``stop``) and inclusive on the wire.
"""

import re

from p2p.errors import PeerFault, PeerRefused

# 15 digits reach a petabyte; more would only make int() slow.
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", re.ASCII)


def parse_range(value: str | None, size: int) -> tuple[int, int] | None:
    """Return the (start, stop) that a Range header asks of ``size`` bytes, or None for all.

    A header in another unit, with several ranges, or malformed is ignored, as RFC 9110 14.2
    lets a server do. Raises PeerRefused with status 416 when nothing of the range exists.
    """
    if value is None:
        return None
    match = _RANGE.fullmatch(value.strip())
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        start, stop = max(0, size - int(last)), size
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        stop = min(size, int(last) + 1) if last else size
    if start >= stop:
        raise PeerRefused(f"The range {value} lies outside of {size} bytes.", status=416)
    return start, stop


def content_range(start: int, stop: int, size: int) -> str:
    """Return the Content-Range value for ``start <= i < stop`` of ``size`` bytes."""
    return f"bytes {start}-{stop - 1}/{size}"


def parse_content_range(value: str | None) -> tuple[int, int, int | None]:
    """Return (start, stop, size or None) of a Content-Range header.

    Raises PeerFault when it is missing or malformed.
    """
    match = _CONTENT_RANGE.fullmatch(value.strip()) if value is not None else None
    if match is None:
        raise PeerFault(f"Expected a Content-Range header, came {value!r}.")
    first, last, size = match.groups()
    start, stop = int(first), int(last) + 1
    if stop <= start or (size != "*" and stop > int(size)):
        raise PeerFault(f"The Content-Range {value!r} contradicts itself.")
    return start, stop, None if size == "*" else int(size)
