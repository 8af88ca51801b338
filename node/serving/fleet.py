"""The served models of one node, and their engines: ``Inference`` for everything that runs here.

A model is cold until somebody asks. Then it is loaded, once however many ask, when the policy, its
bytes and the memory allow it; others that nobody uses go for it. It is unloaded after a time
without requests, when its release is refused, and when its engine burns a processor with nothing to
do (a hostile template that never ends: nobody else can tell). An engine that dies is started again
by the next request, but not again and again.

Each engine runs in a task of the fleet's nursery; leaving ``open_fleet`` ends them all.
"""

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import trio

from node.engine.engines import Engine, Plan
from node.engine.supervisor import RunningEngine, open_engine, run_folder
from node.inference import Answer, Call, Served, State
from node.messages import Note, Report
from node.serving.line import Line, Load
from node.serving.loading import Loader, Material, Proof, ServingNode
from node.serving.room import Resident, make_room
from node.serving.roster import Entry, read_roster, write_roster
from node.serving.shown import show
from node.serving.upstream import (
    SILENT,
    EngineUpstream,
    Renaming,
    ServerUpstream,
    Upstream,
    server_client,
)
from p2p.errors import AllodError, EngineError, NotFound, StoreError, Unsupported, culprit

log = logging.getLogger(__name__)

CRASHES: Final = 3
"""Times that an engine may die, or fail to start, within CRASHES_WITHIN seconds; then it rests."""
CRASHES_WITHIN: Final = 300.0
REST: Final = 60.0
"""Seconds without another try."""
WATCH_EVERY: Final = 5.0
"""Seconds between two looks at an engine: is it still wanted, and is it sane?"""
DYING: Final = 1.0
"""Seconds between an engine's breaking off an answer and its end, if that is why."""
STUCK: Final = 0.5
"""Share of a processor that an engine with nothing to do may use, between two looks."""
STUCK_LOOKS: Final = 3
"""Looks in a row before it is stopped: a cancelled answer may take some seconds to end."""


class Model:
    """One served release as it stands now."""

    def __init__(self, entry: Entry, served: Served, line: Line) -> None:
        self.entry = entry
        self.served = served
        self.line = line
        self.state: State = served.state
        self.upstream: Upstream | None = None
        self.loading = trio.Lock()
        self.memory = served.memory
        self.used = trio.current_time()
        self.stop = trio.Event()
        """Set to unload it."""
        self.gone = trio.Event()
        """Set once the engine that ran last has ended."""
        self.gone.set()
        self.failed = ""
        """What its engine said when it last failed."""
        self.crashes: deque[float] = deque(maxlen=CRASHES)

    @property
    def busy(self) -> bool:
        """Whether a request is answered, or waits."""
        load = self.line.load()
        return bool(load.busy or load.waiting)

    def unload(self) -> None:
        """Have its engine stopped; who asks from now on waits for the next one."""
        if not isinstance(self.upstream, ServerUpstream):
            self.upstream = None
        self.stop.set()


class Fleet:
    """See the module; made by ``open_fleet``. Satisfies ``node.inference.Inference``."""

    def __init__(self, node: ServingNode, peer_id: str, nursery: trio.Nursery) -> None:
        self._node = node
        self._peer_id = peer_id
        self._nursery = nursery
        self._config = node.config.serve
        state = node.config.folders.data / "serving"
        self._roster = state / "served.json"
        self._loader = Loader(node, state)
        self._models: dict[str, Model] = {}
        self._admitting = trio.Lock()
        self._changed = trio.Event()

    # --- what is served --------------------------------------------------------------------------

    @property
    def peer_id(self) -> str:
        """See Inference."""
        return self._peer_id

    def served(self) -> Sequence[Served]:
        """See Inference."""
        return [self._show(model) for _, model in sorted(self._models.items())]

    def find(self, name: str) -> Served:
        """See Inference."""
        return self._show(self._find(name))

    def _find(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            model = next((one for one in self._models.values() if name in one.served.aliases), None)
        if model is None:
            names = ", ".join(sorted(self._models)[:10]) or "nothing yet"
            raise NotFound(
                f"No model {name[:200]!r} is served here; served: {names}.",
                next="`allod serve REF` serves a release.",
            )
        return model

    def load(self, name: str) -> Load:
        """Say how busy a model is. ``NotFound``."""
        model = self._find(name)
        fell = bool(model.crashes) and model.crashes[-1] > trio.current_time() - REST
        return replace(model.line.load(), down=fell and model.upstream is None)

    def failure(self, name: str) -> str:
        """Return what its engine said when it last failed; empty if it did not."""
        return self._find(name).failed

    def _show(self, model: Model) -> Served:
        idle = self._config.idle
        until = 0.0
        if model.state == "ready" and idle is not None:
            until = time.time() + idle - (trio.current_time() - model.used)
        return replace(model.served, state=model.state, memory=model.memory, until=until)

    async def add(self, entry: Entry) -> Served:
        """Serve a release from now on, in the place of what had its name. ``Refused``, ..."""
        model = await self._model(entry)
        before = self._models.get(entry.name)
        if before is not None:
            before.unload()
        self._models[entry.name] = model
        await self._keep()
        return self._show(model)

    async def remove(self, name: str) -> Served:
        """Serve a model no longer, and wait until its engine has ended. ``NotFound``.

        What peers may answer for goes on being served, by them; removed again, it is gone.
        """
        model = self._find(name)
        del self._models[model.entry.name]
        left = replace(self._show(model), state="cold")
        if model.entry.via_peers and left.state != "remote" and not model.entry.remote:
            other = await self._model(replace(model.entry, remote=True, share=False))
            self._models[other.entry.name] = other
            left = self._show(other)
        model.unload()
        await self._keep()
        await model.gone.wait()
        if isinstance(model.upstream, ServerUpstream):
            await model.upstream.aclose()
        return left

    def next_change(self) -> trio.Event:
        """Return what is set when other models are served; take it before you look."""
        return self._changed

    async def _keep(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        await write_roster(self._roster, [one.entry for one in self._models.values()])

    async def _model(self, entry: Entry) -> Model:
        """Look at a release that is to be served."""
        await self._loader.notice(entry)
        await self._loader.admit(entry)
        slots = entry.slots or self._config.slots or 1
        line = Line(entry.name, slots, self._config.queue or 0)
        served = await show(entry, self._node, self._loader)
        model = Model(entry, served, line)
        if entry.upstream:
            model.upstream = await self._elsewhere(entry)
        return model

    async def _elsewhere(self, entry: Entry) -> ServerUpstream:
        key = ""
        if entry.upstream_key_file:
            key = await trio.to_thread.run_sync(_read_key, Path(entry.upstream_key_file))
        client = server_client(entry.upstream, key, answer_within=self._config.answer_within)
        renaming = Renaming(entry.upstream_model, entry.name) if entry.upstream_model else None

        async def failed(what: str) -> EngineError:
            return EngineError(
                f"{entry.upstream} {what} {entry.name}.",
                next="Look at that server; `allod stop` ends the use of it.",
            )

        return ServerUpstream(client, self._peer_id, failed, renaming)

    async def restore(self) -> None:
        """Serve again what was served when the node last ran; what cannot be is said in the log."""
        held = [release.manifest_cid for release in await self._node.store.releases()]
        await trio.to_thread.run_sync(self._loader.derived.clean, held)
        try:
            entries = await trio.to_thread.run_sync(read_roster, self._roster)
        except StoreError as exc:
            log.error("%s %s", exc.message, exc.next)
            return
        for entry in entries:
            try:
                self._models[entry.name] = await self._model(entry)
            except AllodError as exc:
                log.warning("%s is not served any more: %s", entry.name, exc.message)

    # --- answering -------------------------------------------------------------------------------

    @asynccontextmanager
    async def ask(self, model: Served, call: Call) -> AsyncIterator[Answer]:
        """See Inference."""
        mine = self._find(model.name)
        missing = call.needs - mine.served.capabilities
        if missing:
            raise Unsupported(
                f"{model.name} does not do {', '.join(sorted(missing))}.",
                next=f"It does {', '.join(sorted(mine.served.capabilities))}.",
            )
        refused = await self._node.gate.refuses(mine.entry.manifest)
        if refused is not None:
            mine.unload()
            await self._loader.admit(mine.entry)
        async with mine.line.slot():
            mine.used = trio.current_time()
            upstream = await self._ready(mine)
            try:
                async with upstream.ask(call) as answer:
                    yield answer
            finally:
                mine.used = trio.current_time()

    async def warm(self, name: str, report: Report) -> Served:
        """Load a model now. What it raises is what ``ask`` would."""
        model = self._find(name)
        await self._ready(model, report)
        return self._show(model)

    async def _ready(self, model: Model, report: Report = lambda event: None) -> Upstream:
        """Return the way to a model's engine, loading it if need be; once for all who wait."""
        while model.upstream is None:
            async with model.loading:
                if model.upstream is None:
                    await self._load(model, report)
        return model.upstream

    # --- loading ---------------------------------------------------------------------------------

    async def _load(self, model: Model, report: Report) -> None:
        if model.state == "remote":
            raise EngineError(
                f"{model.entry.name} is not here, and no peer answers for it.",
                next=f"`allod fetch {model.entry.manifest}` brings it.",
            )
        self._check_rest(model)
        await model.gone.wait()
        model.state = "loading"
        try:
            engine, plan, proof = await self._loader.prepare(model.entry, report)
            async with self._admitting:
                await self._make_room(model, plan.estimate)
                model.memory = plan.estimate
                model.stop, model.gone = trio.Event(), trio.Event()
            report(Note(f"{engine.name} loads {model.entry.name}."))
            run = partial(self._run, model, engine, plan, proof)
            failure: list[AllodError] = []
            await self._nursery.start(run, failure)
            if failure:
                model.crashes.append(trio.current_time())
                raise failure[0]
        finally:
            if model.upstream is None:
                model.state = "failed" if model.crashes else "cold"

    def _check_rest(self, model: Model) -> None:
        now = trio.current_time()
        crashes = model.crashes
        if len(crashes) == CRASHES and crashes[0] > now - CRASHES_WITHIN:
            left = crashes[-1] + REST - now
            if left > 0:
                raise EngineError(
                    f"The engine of {model.entry.name} failed {CRASHES} times; it is tried again "
                    f"in {left:.0f} s.",
                    next="`allod ps` shows what it said; `allod verify` checks the files.",
                )

    async def _make_room(self, model: Model, need: int) -> None:
        """Unload what must go for it, and wait until it has gone. ``NoMemory``."""
        others = [one for one in self._models.values() if not one.gone.is_set()]
        residents = [
            Resident(one.entry.name, one.memory, one.busy, one.used, one.state == "loading")
            for one in others
        ]
        going = make_room(
            model.entry.name,
            need,
            residents,
            budget=self._config.memory,
            free=psutil.virtual_memory().available,
        )
        for one in others:
            if one.entry.name in going:
                one.unload()
                await one.gone.wait()

    async def _run(
        self,
        model: Model,
        engine: Engine,
        plan: Plan,
        proof: Proof,
        failure: list[AllodError],
        *,
        task_status: Any,
    ) -> None:
        """Run a model's engine until it is to stop or ends by itself; a task of its own.

        What goes wrong before it is ready is put into ``failure``, for whoever waits.
        """
        started = False
        try:
            async with run_folder(self._loader.runs) as folder:
                within = self._config.start_within or float("inf")
                placed = replace(plan, folder=folder)
                async with open_engine(engine, placed, start_within=within) as running:
                    await proof.still_holds()
                    model.upstream = self._way(model, running)
                    model.state, model.used = "ready", trio.current_time()
                    started, model.failed = True, ""
                    task_status.started()
                    await self._watch(model, running)
                    model.upstream = None
        # The boundary of one engine: its failure is its model's, and the others go on.
        except (Exception, BaseExceptionGroup) as exc:
            error = culprit(exc) if isinstance(exc, BaseExceptionGroup) else exc
            if not isinstance(error, AllodError):
                raise
            if started:
                log.warning("%s", error.message)
                self._nursery.start_soon(self._revive, model)
            model.failed = error.message
            failure.append(error)
        finally:
            model.upstream = None
            if started:
                model.state = "cold"
            model.gone.set()
        if not started:
            task_status.started()

    def _way(self, model: Model, running: RunningEngine) -> Upstream:
        async def failed(what: str) -> EngineError:
            if what == SILENT:
                model.unload()
                return EngineError(
                    f"{running.engine.name} gave no answer for {model.entry.name} in "
                    f"{self._config.answer_within:g} s, and was stopped.",
                    next="The next request starts it again; serve.answer_within gives it longer.",
                )
            with trio.move_on_after(DYING):
                await running.ended.wait()
                model.upstream = None  # who asks next is not sent to a dead engine
                return running.failure("ended in the middle of an answer for")
            return EngineError(
                f"{running.engine.name} {what} {model.entry.name}.",
                next="Ask again; if it happens again, `allod stop` and serve it anew.",
            )

        name = model.entry.name
        theirs = running.model_field
        renaming = None
        if theirs and theirs != name:
            renaming = Renaming(theirs, name, running.says_done)
        within = self._config.answer_within
        return EngineUpstream(running.socket, within, self._peer_id, failed, renaming)

    async def _revive(self, model: Model) -> None:
        """Start an engine again that has died, unless it has done so too often, or nobody wants it.

        So the next request need not wait for it; what goes wrong, that request is told.
        """
        await model.gone.wait()
        if self._models.get(model.entry.name) is model and not model.stop.is_set():
            try:
                await self._ready(model)
            except AllodError as exc:
                log.warning("%s", exc.message)

    async def _watch(self, model: Model, running: RunningEngine) -> None:
        """Wait until the engine is to stop; ``EngineError`` if it ended by itself."""
        idle = self._config.idle
        burned, looks = 0.0, 0
        while not model.stop.is_set():
            with trio.move_on_after(WATCH_EVERY):
                await _either(model.stop, running.ended)
            if running.ended.is_set():
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

    async def follow_policy(self) -> None:
        """Stop the engines of releases that are refused from now on; never returns."""
        while True:
            change = self._node.gate.next_change()
            for model in [one for one in self._models.values() if one.upstream is not None]:
                refused = await self._node.gate.refuses(model.entry.manifest)
                if refused is not None:
                    log.warning("%s is stopped: %s", model.entry.name, refused.reason)
                    model.unload()
            await change.wait()


async def _either(*events: trio.Event) -> None:
    """Wait for the first of some events."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


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


def _read_key(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(4096).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreError(
            f"{file} should hold the secret for a server, but cannot be read: {exc}."
        ) from exc


@asynccontextmanager
async def open_fleet(node: ServingNode, peer_id: str) -> AsyncIterator[Fleet]:
    """Serve what was served before; leaving the block ends all engines."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet(node, peer_id, nursery)
        await fleet.restore()
        nursery.start_soon(fleet.follow_policy)
        yield fleet
        nursery.cancel_scope.cancel()


__all__ = ["Fleet", "Material", "Model", "open_fleet"]
