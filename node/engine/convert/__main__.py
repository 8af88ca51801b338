"""``python -m node.engine.convert FOLDER OUT [--type auto]``: one conversion, one process.

On stdout, NDJSON as node/messages.py has it: ``progress`` while it goes on, then one ``result``
with what was made, or one ``error``. It uses no network and no environment, and of the disk only
FOLDER, to read, and OUT with OUT.part beside it, to write.
"""

import argparse
import errno
import sys
from pathlib import Path

from node.engine.convert.conversion import convert
from node.messages import Failure, Message, Progress, Result, encode
from p2p.errors import AllodError, DiskFull, NoMemory, StoreError

REPORT_EVERY = 32 << 20
"""Bytes written between two words on how far it is."""


def main(words: list[str]) -> int:
    """Convert as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m node.engine.convert")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="auto")
    given = parser.parse_args(words)
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        if done == total or done >= told + REPORT_EVERY:
            told = done
            _say(Progress("convert", done, total))

    try:
        _say(Result(convert(given.folder, given.out, given.type, progress)))
    except (AllodError, OSError, MemoryError) as exc:
        failure = Failure.of(_ours(exc))
        _say(failure)
        return failure.exit_code
    return 0


def _ours(exc: AllodError | OSError | MemoryError) -> AllodError:
    if isinstance(exc, AllodError):
        return exc
    if isinstance(exc, MemoryError):
        return NoMemory("The conversion took more memory than it may have.")
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    kind = DiskFull if full else StoreError
    return kind(f"The model could not be converted: {exc.strerror} ({exc.filename}).")


def _say(message: Message) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
