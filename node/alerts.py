"""What the owner of a running node should know, each with the command that mends it.

Unlike ``doctor``, which looks at everything once and takes its time, this is asked every few
seconds by whoever watches: it reads what the node has in memory, and two numbers of the store.
Levels: ``problem`` (something is broken), ``warning`` (it will be, or somebody is missed) and
``note``.
"""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from node.jobs import Jobs
from node.keyring import Keyring
from node.lookout import Lookout, Lost
from p2p.errors import AllodError
from p2p.naming import draft

if TYPE_CHECKING:
    from node.serving.fleet import Fleet
    from node.store import Store

NEAR: Final = 0.9
"""The share of the quota from which on it is told."""
EXPIRES_WITHIN: Final = timedelta(days=14)
"""What expires later is nobody's concern yet; a signature by several people takes days."""

Json = dict[str, Any]


class WatchedNode(Protocol):
    """What is looked at."""

    @property
    def store(self) -> "Store": ...
    @property
    def keyring(self) -> Keyring: ...
    @property
    def fleet(self) -> "Fleet | None": ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def lookout(self) -> Lookout: ...


async def find_alerts(node: WatchedNode) -> Json:
    """Return the JSON object of the operation ``alerts``, what is worst first."""
    usage = await node.store.usage()
    found = [
        *_room(usage.bytes, usage.quota),
        *_models(node.fleet),
        *_jobs(node.jobs),
        *(_lost(one) for one in node.lookout.lost()),
        *await trio.to_thread.run_sync(lambda: list(_keys(node.keyring))),
    ]
    order = ("problem", "warning", "note")
    found.sort(key=lambda one: order.index(one["level"]))
    return {"ok": True, "alerts": found}


def _alert(level: str, kind: str, text: str, fix: str, *, at: float | None = None) -> Json:
    """``kind`` and what it is about make the ``id``, by which a reader sees what is new."""
    return {"id": f"{kind}: {text}"[:200], "level": level, "kind": kind, "text": text,
            "fix": fix, "at": at}  # fmt: skip


def _room(used: int, quota: int | None) -> Iterator[Json]:
    if quota is not None and used >= quota * NEAR:
        share = 100 * used // max(1, quota)
        text = f"The store takes {share} % of its quota of {quota:,} bytes."
        yield _alert("problem" if used >= quota else "warning", "quota", text, "allod gc")


def _models(fleet: "Fleet | None") -> Iterator[Json]:
    if fleet is None:
        return
    for model in fleet.served():
        why = fleet.failure(model.name)
        if why:
            fix = f"allod serve {shlex.quote(str(model.manifest))}"
            yield _alert("problem", "engine", f"{model.name}: {why}", fix)
    for name, why in fleet.lost().items():
        fix = f"allod stop {shlex.quote(name)}"
        yield _alert("problem", "model", f"{name} cannot be served now: {why}", fix)


def _jobs(jobs: Jobs) -> Iterator[Json]:
    """The last end of each thing that was done, if it was a bad one."""
    seen = {(one.operation, one.subject) for one in jobs.running()}
    for job in jobs.all():
        what = (job.operation, job.subject)
        if what in seen:
            continue
        seen.add(what)
        if job.state == "failed" and job.error is not None:
            text = f"{job.operation} {job.subject[:60]}: {job.error.message}"
            yield _alert("warning", "job", text, job.error.next, at=job.ended)


def _lost(one: Lost) -> Json:
    text = (
        f"The peer {one.peer} went away"
        + {
            "": ".",
            "configured": "; the configuration names it.",
            "source": " while it was a source; the others go on.",
        }[one.missed]
    )
    level = "warning" if one.missed else "note"
    return _alert(level, "peer", text, "allod peers", at=one.at)


def _keys(keyring: Keyring) -> Iterator[Json]:
    """What this machine's publishers say and will not be renewed by itself in time."""
    soon = datetime.now(UTC) + EXPIRES_WITHIN
    for name in keyring.names():
        repository = keyring.repository(name)
        fix = f"allod key renew {shlex.quote(name)}"
        try:
            if not repository.founded:
                continue
            metadata = repository.metadata()
        except AllodError as exc:
            yield _alert("problem", "publisher", f"{name}: {exc.message}", exc.next)
            continue
        expires = min(map(draft.expires_of, (metadata.roots[-1], metadata.targets)))
        if expires < soon:
            gone = expires < datetime.now(UTC)
            text = f"What {name} says {'expired' if gone else 'expires'} on {expires:%Y-%m-%d}."
            yield _alert("problem" if gone else "warning", "publisher", text, fix)
