"""The health page: what a monitor asks (``/health``, JSON) and what a person reads (``/``).

It tells numbers only: whoever can read it learns of no peer and no key.
"""

import html
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import trio

from p2p.discovery import Discovery
from p2p.errors import NetworkError, NotFound, PeerFault
from p2p.host import Host
from p2p.http import Request, Response, serve_http
from p2p.listening import open_listeners
from p2p.relay.relaying import Relaying

MAX_CONNECTIONS = 32
"""Open connections to the page: monitors and a few people."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="30">
<title>Allod bootstrap server</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem }}
body {{ margin: 3rem auto; padding: 0 1rem }}
dt {{ font-weight: 600 }} dd {{ margin: 0 0 .6rem; overflow-wrap: anywhere }}
</style>
<h1>Allod bootstrap server</h1>
<p>It helps nodes to find and to reach each other. It stores no files, and serves none.</p>
<dl>{facts}</dl>
<p>The same for programs: <a href="/health">/health</a></p>
</html>
"""


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a running server, asked for anew each time."""

    host: Host
    discovery: Discovery
    relaying: Relaying
    started: float
    """Unix time."""

    def facts(self) -> dict[str, object]:
        """Return what ``/health`` answers."""
        return {
            "ok": True,
            "peer": self.host.peer_id,
            "addresses": self.host.addresses,
            "peers": len(self.host.peers()),
            "table": len(self.discovery.kad.table),
            "records": len(self.discovery.kad.records),
            "places": len(self.relaying.relay.places),
            "circuits": self.relaying.relay.places.circuits,
            "uptime": int(time.time() - self.started),
            "version": version("allod"),
        }

    async def answer(self, request: Request) -> Response:
        """Answer ``/health`` and ``/``."""
        headers = {
            "cache-control": "no-store",
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
            "x-content-type-options": "nosniff",
        }
        if request.path == "/health":
            body = json.dumps(self.facts()).encode()
            return Response(200, {**headers, "content-type": "application/json"}, body)
        if request.path == "/":
            page = _PAGE.format(facts=_rows(self.facts())).encode()
            return Response(200, {**headers, "content-type": "text/html; charset=utf-8"}, page)
        raise NotFound("There is /health, and a page at /.")


def _rows(facts: Mapping[str, object]) -> str:
    rows = []
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        shown = "<br>".join(html.escape(str(line)) for line in lines)
        rows.append(f"<dt>{html.escape(name)}</dt><dd>{shown}</dd>")
    return "".join(rows)


async def serve_health(
    health: Health,
    hosts: tuple[str, ...],
    port: int,
    *,
    task_status: Any = trio.TASK_STATUS_IGNORED,  # trio.TaskStatus[tuple[str, int]]
) -> None:
    """Serve the page on plain HTTP; PortInUse. Never returns; ``started`` gets host and port."""
    listeners = await open_listeners(hosts, port)
    room = trio.Semaphore(MAX_CONNECTIONS)

    async def serve(stream: trio.SocketStream) -> None:
        try:
            room.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            await serve_http(stream, health.answer, peer=str(stream.socket.getpeername()[0]))
        except (NetworkError, PeerFault, OSError):
            pass  # whoever asked went away or spoke no HTTP: there is nothing to keep
        finally:
            room.release()

    host, bound = listeners[0].socket.getsockname()[:2]
    task_status.started((host, bound))
    await trio.serve_listeners(serve, listeners)
