"""The node that the package runs where none does: ``allod up`` that ends with who started it.

Its stdin is a pipe whose other end the starting process holds, and the processes forked from it:
once the last of them is gone, however it ended, the node ends in order.
"""

import os
import signal
import sys
import threading


def main() -> int:
    """Run ``allod up`` with the configuration keys of the command line (-c KEY=VALUE)."""
    from node.cli import main as run

    threading.Thread(target=_end_with_stdin, daemon=True).start()
    return run([*sys.argv[1:], "up", "--json"])


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
