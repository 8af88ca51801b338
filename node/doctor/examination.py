"""All checks, one after the other; what one of them meets keeps none of the others from looking.

A node in need of a doctor is one where anything may be wrong: a check that cannot look says so, and
that is a finding too.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from node.config import Config
from node.doctor.disk import look_at_disk
from node.doctor.engines import look_at_engines
from node.doctor.files import look_at_files
from node.doctor.finding import LEVELS, Finding, count_text
from node.doctor.giving import look_at_seeding
from node.doctor.machine import (
    look_at_clock,
    look_at_libraries,
    look_at_memory,
    look_at_open_files,
)
from node.doctor.network import listening, look_at_dht, look_at_peers, look_at_ports, look_at_reach
from node.doctor.private import look_at_private
from node.doctor.publishers import look_at_keys
from node.doctor.rules import look_at_config, look_at_policy
from node.doctor.store import look_at_ledger, look_at_store
from node.keyring import Keyring
from node.messages import DoctorParams
from p2p.errors import AllodError

if TYPE_CHECKING:
    from node.seeding import Seeding
    from p2p.discovery import Discovery
    from p2p.host import Host

log = logging.getLogger(__name__)

Json = dict[str, Any]
Check = Callable[[], Iterable[Finding]]

MAX_TEXT: Final = 500
"""Characters of what a check says that failed: errors of the system may be long."""


class Patient(Protocol):
    """What is examined: a node, or its configuration and keys where none runs."""

    @property
    def config(self) -> Config: ...
    @property
    def keyring(self) -> Keyring: ...


@dataclass(frozen=True, slots=True)
class _Life:
    """What only a running node has."""

    running: bool
    host: "Host | None"
    discovery: "Discovery | None"
    seeding: "Seeding | None"


async def examine(params: DoctorParams, node: Patient) -> Json:
    """Return the JSON object of ``allod doctor --json``; not ok where there is a problem."""
    life = _Life(
        getattr(node, "http_url", None) is not None,
        getattr(node, "host", None),
        getattr(node, "discovery", None),
        getattr(node, "seeding", None),
    )
    found: list[Finding] = []
    for name, check in _on_disk(node, life, fix=params.fix):
        found += await trio.to_thread.run_sync(_looked, name, check)
    for name, check in _in_memory(node.config, life):
        found += _looked(name, check)
    return report(found, running=life.running)


def report(found: Sequence[Finding], *, running: bool) -> Json:
    """Put findings into the JSON object of the operation ``doctor``."""
    counts = {level: sum(one.level == level for one in found) for level in LEVELS}
    problems = [one for one in found if one.level == "problem"]
    result: Json = {"ok": not problems, "running": running, "counts": counts,
                    "checks": [asdict(one) for one in found]}  # fmt: skip
    if problems:
        message = f"{count_text(len(problems), 'problem')} was found."
        if len(problems) > 1:
            message = f"{len(problems)} problems were found."
        result["error"] = {"code": "OTHER", "message": message, "next": problems[0].fix}
    return result


def _on_disk(node: Patient, life: _Life, *, fix: bool) -> Iterable[tuple[str, Check]]:
    """Yield what blocks."""
    config, keyring, now, running = node.config, node.keyring, datetime.now(UTC), life.running
    yield "config", partial(look_at_config, config, running=running)
    yield "permissions", partial(look_at_files, config, mend=fix)
    yield "disk", partial(look_at_disk, config)
    yield "store", partial(look_at_store, config, running=running)
    yield "ledger", partial(look_at_ledger, config, running=running)
    yield "clock", partial(look_at_clock, config, keyring, now)
    yield "publisher", partial(look_at_keys, config, keyring, now, running=running)
    yield "policy", partial(look_at_policy, config)
    yield "network", partial(look_at_private, config)
    yield "memory", look_at_memory
    yield "open-files", partial(look_at_open_files, running=running)
    yield "libraries", look_at_libraries
    yield "engines", partial(look_at_engines, config)
    yield "port", lambda: look_at_ports(config, listening(), running=running)


def _in_memory(config: Config, life: _Life) -> Iterable[tuple[str, Check]]:
    """Yield what looks at trio's objects, and so must run in its thread."""
    host, discovery = life.host, life.discovery
    if not life.running:
        text = "No node runs here, so nothing can be said of reach, the DHT and peers."
        yield "node", lambda: [Finding("node", "note", text, "allod up")]
    elif host is None or discovery is None:
        text = "This node runs offline: it has no peers."
        yield "node", lambda: [Finding("node", "note", text, "allod config unset p2p.offline")]
    else:
        yield "reach", partial(look_at_reach, host)
        yield "dht", partial(look_at_dht, config, discovery, trio.current_time())
        yield "peers", partial(look_at_peers, config, host)
        if life.seeding is not None:
            yield "seeding", partial(look_at_seeding, life.seeding)


def _looked(name: str, check: Check) -> list[Finding]:
    """Run one check to its end."""
    found: list[Finding] = []
    try:
        for one in check():
            found.append(one)  # noqa: PERF402  what it said before it failed counts
    except AllodError as exc:
        found.append(Finding(name, "problem", exc.message, exc.next))
    # Whatever it is: the owner asked because something is wrong, and the others are to look too.
    except Exception as exc:
        log.debug("the check %s failed", name, exc_info=True)
        text = f"This could not be looked at: {type(exc).__name__}: {exc!s:.{MAX_TEXT}}"
        found.append(Finding(name, "warning", text))
    return found
