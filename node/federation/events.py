"""What a stranger's events say, as far as it concerns who passes them on. Pure."""

import json
from typing import Final

_DONE: Final = b"[DONE]"


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
