"""The runner of engines that listen on TCP: starts one, and brings it to a Unix socket.

``python -I -m node.engine.tcp_runner PLAN``, as a keeper's child in a network of its own: there the
engine has 127.0.0.1 for itself, and from outside only the socket leads to it.
Unix sockets know no network, so the runner gives them up once it has this one: what it starts makes
none, and reaches no program outside over theirs.
Bytes go through as they are, each connection by two threads; the engine's end is the runner's.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from node.engine.confine import forbid_unix_sockets

PIECE: Final = 1 << 16
BACKLOG: Final = 64


def main(plan: dict[str, Any]) -> int:
    """Run the engine, and serve the socket until the engine ends; its exit code."""
    os.umask(0o077)
    listener = socket.socket(socket.AF_UNIX)
    # A path longer than an address may be (108 bytes) is reached from its own folder.
    os.chdir(Path(plan["socket"]).parent)
    listener.bind(Path(plan["socket"]).name)
    listener.listen(BACKLOG)
    forbid_unix_sockets(but_streams=plan["needs_unix"])
    engine = subprocess.Popen(plan["argv"], stdin=subprocess.DEVNULL, cwd="/")
    serving = threading.Thread(target=_serve, args=(listener, plan["port"]), daemon=True)
    serving.start()
    return engine.wait()


def _serve(listener: socket.socket, port: int) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_join, args=(client, port), daemon=True).start()


def _join(client: socket.socket, port: int) -> None:
    with client:
        try:
            engine = socket.create_connection(("127.0.0.1", port))
        except OSError:
            return  # it does not listen yet, or no more
        with engine:
            engine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(client, engine), daemon=True).start()
            _pump(engine, client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(PIECE):
            sink.sendall(data)
    for one in (source, sink):  # whoever hung up, the other is to know
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
