"""An engine's life for a served model: started, watched, ended; a task of the fleet's.

It ends when it is to be unloaded, when nobody has asked for a while, when it burns a processor with
nothing to do (a hostile template that never ends: nobody else can tell), or by itself.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil
import trio

from node.engine.supervisor import RunningEngine, open_engine, run_folder
from node.serving.loading import Start
from node.serving.model import Model
from node.serving.upstream import SILENT, EngineUpstream, Renaming, Upstream
from p2p.errors import AllodError, EngineError, culprit

log = logging.getLogger(__name__)

WATCH_EVERY: Final = 5.0
"""Seconds between two looks at an engine: is it still wanted, and is it sane?"""
DYING: Final = 1.0
"""Seconds between an engine's breaking off an answer and its end, if that is why."""
STUCK: Final = 0.5
"""Share of a processor that an engine with nothing to do may use, between two looks."""
STUCK_LOOKS: Final = 3
"""Looks in a row before it is stopped: a cancelled answer may take some seconds to end."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the owner grants an engine: seconds, None for no bound; and where its socket lies."""

    start_within: float | None
    answer_within: float | None
    idle: float | None
    runs: Path
    peer_id: str


async def run_engine(
    model: Model, start: Start, terms: Terms, failure: list[AllodError], *, task_status: Any
) -> bool:
    """Run an engine until it is to stop or ends by itself; True if it died after it was ready.

    ``task_status.started`` is called when it is ready, or will not be: then ``failure`` says why.
    """
    ready = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, model.stop, nursery.cancel_scope)
            async with run_folder(terms.runs) as folder:
                plan = replace(start.plan, folder=folder)
                within = float("inf") if terms.start_within is None else terms.start_within
                async with open_engine(start.engine, plan, start_within=within) as running:
                    await start.proof.still_holds()
                    model.upstream = _way(model, running, terms)
                    model.state, model.used, model.failed = "ready", trio.current_time(), ""
                    ready = True
                    task_status.started()
                    await _watch(model, running, terms.idle)
                    model.upstream = None  # before anything is awaited: nobody is sent there now
            nursery.cancel_scope.cancel()
    # The boundary of one engine: its failure is its model's, and the others go on.
    except (Exception, BaseExceptionGroup) as exc:
        error = culprit(exc) if isinstance(exc, BaseExceptionGroup) else exc
        if not isinstance(error, AllodError):
            raise
        model.failed = error.message
        failure.append(error)
    finally:
        model.upstream = None
        if ready:
            model.state = "cold"
        model.gone.set()
    if ready:
        if failure:
            log.warning("%s", failure[0].message)
        return bool(failure)
    if not failure:
        failure.append(EngineError(f"{model.entry.name} was stopped before it was ready."))
    task_status.started()
    return False


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _way(model: Model, running: RunningEngine, terms: Terms) -> Upstream:
    name, engine = model.entry.name, running.engine.name

    async def failed(what: str) -> EngineError:
        if what == SILENT:
            model.unload()
            return EngineError(
                f"{engine} {SILENT} {name}, and was stopped.",
                next="The next request starts it again; serve.answer_within gives it longer.",
            )
        with trio.move_on_after(DYING):
            await running.ended.wait()
            model.upstream = None  # who asks next is not sent to a dead engine
            return running.failure("ended in the middle of an answer for")
        return EngineError(
            f"{engine} {what} {name}.",
            next="Ask again; if it happens again, `allod stop` and serve it anew.",
        )

    theirs, renaming = running.model_field, None
    if theirs and theirs != name:
        renaming = Renaming(theirs, name, running.says_done)
    return EngineUpstream(running.socket, terms.answer_within, terms.peer_id, failed, renaming)


async def _watch(model: Model, running: RunningEngine, idle: float | None) -> None:
    """Wait until the engine is wanted no more; ``EngineError`` if it ended by itself."""
    burned, looks = 0.0, 0
    while True:
        with trio.move_on_after(WATCH_EVERY):
            await running.ended.wait()
            model.crashes.append(trio.current_time())
            raise running.failure("ended while it ran")
        if model.busy:
            burned, looks = await _processor_time(running.pid), 0
            continue
        if idle is not None and trio.current_time() - model.used > idle:
            return
        now = await _processor_time(running.pid)
        looks = looks + 1 if now - burned > STUCK * WATCH_EVERY else 0
        burned = now
        if looks >= STUCK_LOOKS:
            log.warning("the engine of %s ran with nothing to do: stopped", model.entry.name)
            return


async def _processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process and its children have used."""

    def measure() -> float:
        total = 0.0
        try:
            keeper = psutil.Process(pid)
            for one in [keeper, *keeper.children(recursive=True)]:
                times = one.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            pass  # it is ending
        return total

    return await trio.to_thread.run_sync(measure)
