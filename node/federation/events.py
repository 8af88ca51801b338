"""A stranger's server-sent events, cut where they end; a model's name in what goes by. Pure."""

import json
import re
from typing import Final

from p2p.errors import TooMuch

MAX_EVENT: Final = 4 << 20
"""Bytes of one event: a whole answer in one, with twenty odds for each token, fits."""

_DONE: Final = b"[DONE]"
_GAP: Final = re.compile(rb"\n\r?\n")


class Events:
    """Cuts a stream into whole events."""

    def __init__(self, peer: str = "") -> None:
        self._peer = peer
        self._rest = bytearray()

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that end in ``data``, with what ends them; ``TooMuch`` for a long one.

        The search goes on where it stopped, so that an event in crumbs costs no more than one.
        """
        rest = self._rest
        start = max(0, len(rest) - 2)
        rest += data
        ends = [gap.end() for gap in _GAP.finditer(rest, start)]
        found = [bytes(rest[at:end]) for at, end in zip([0, *ends], ends, strict=False)]
        del rest[: ends[-1] if ends else 0]
        if len(rest) > MAX_EVENT:
            raise TooMuch(
                f"Expected events of at most {MAX_EVENT} bytes, came a longer one.", peer=self._peer
            )
        return found


def is_comment(event: bytes) -> bool:
    """Say whether an event is nothing but a sign of life."""
    return all(line[:1] in (b":", b"") for line in event.splitlines())


def is_last(event: bytes) -> bool:
    """Say whether an event says that the answer is whole: what a client waits for."""
    if _DONE not in event:
        return False
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) == _DONE


def renamed(data: bytes, theirs: str, ours: str) -> bytes:
    """Return an answer, or whole events of one, with our name of the model in the place of theirs.

    What a model says is JSON within JSON: its quotes are escaped, so it is never taken for a field.
    """
    if theirs == ours:
        return data
    there, here = json.dumps(theirs).encode(), json.dumps(ours).encode()
    for gap in (b"", b" "):
        data = data.replace(b'"model":' + gap + there, b'"model":' + gap + here)
    return data
