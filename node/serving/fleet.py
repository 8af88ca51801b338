"""The served models of one node, and their engines: ``Inference`` for everything that runs here.

A model is cold until somebody asks. Then it is loaded, once however many ask, when the policy, its
bytes and the memory allow it; others that nobody uses go for it. It is unloaded when its release is
refused, and for the reasons of ``running``. An engine that dies is started again, but not again and
again.

Each engine runs in a task of the fleet's nursery; leaving ``open_fleet`` ends them all.
"""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import trio

from node.engine.supervisor import clean_runs
from node.inference import Answer, Call, Served
from node.messages import Note, Report
from node.serving.line import Line, Load
from node.serving.loading import Loader, ServingNode, Start
from node.serving.model import Attempt, Model
from node.serving.room import Resident, make_room
from node.serving.roster import Entry, read_roster, write_roster
from node.serving.running import Terms, run_engine
from node.serving.shown import show
from node.serving.upstream import Renaming, ServerUpstream, Upstream, server_client
from node.store import durable
from p2p.cid import CID
from p2p.errors import AllodError, EngineError, NotFound, StoreError, Unsupported

log = logging.getLogger(__name__)


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
        self._terms = Terms(
            start_within=self._config.start_within,
            answer_within=self._config.answer_within,
            idle=self._config.idle,
            runs=self._loader.runs,
            peer_id=peer_id,
        )
        self._models: dict[str, Model] = {}
        self._lost: dict[str, tuple[Entry, str]] = {}
        """What was served before and cannot be now, and why: it may be again at the next start."""
        self.starts: Counter[tuple[str, str]] = Counter()
        """By model, how often its engine was started, failed to start, or died and came again."""
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

    def lost(self) -> Mapping[str, str]:
        """Return the models that were served before and cannot be now, and why."""
        return {name: why for name, (_, why) in self._lost.items()}

    async def forget(self, name: str) -> CID | None:
        """Give up a model that cannot be served any more; None if there is none of that name."""
        entry, _ = self._lost.pop(name, (None, ""))
        if entry is None:
            return None
        await self._keep()
        return entry.manifest

    def entry(self, name: str) -> Entry | None:
        """Return how a model of exactly that name is served now."""
        model = self._models.get(name)
        return model.entry if model is not None else None

    def load(self, name: str) -> Load:
        """Say how busy a model is. ``NotFound``."""
        model = self._find(name)
        return replace(model.line.load(), down=model.down)

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
        before = self._models.get(entry.name)
        if before is not None and before.adopt(entry):
            await self._keep()
            return self._show(before)
        model = await self._model(entry)
        if before is not None:
            before.retire()
        self._models[entry.name] = model
        self._lost.pop(entry.name, None)
        await self._keep()
        return self._show(model)

    async def remove(self, name: str) -> Served:
        """Serve a model no longer, and wait until its engine has ended. ``NotFound``.

        What peers may answer for goes on being served, by them; removed again, it is gone.
        """
        model = self._find(name)
        left = replace(self._show(model), state="cold")
        other: Model | None = None
        if model.entry.via_peers and model.state != "remote":
            with suppress(AllodError):  # then it is served no more at all
                other = await self._model(replace(model.entry, remote=True, share=False))
        del self._models[model.entry.name]
        if other is not None:
            self._models[other.entry.name] = other
            left = self._show(other)
        model.retire()
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
        entries = [one.entry for one in self._models.values()]
        entries += [entry for entry, _ in self._lost.values()]
        await write_roster(self._roster, entries)

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
        await clean_runs(self._terms.runs)  # of a node that was killed
        held = [release.manifest_cid for release in await self._node.store.releases()]
        await trio.to_thread.run_sync(self._loader.derived.clean, held)
        try:
            entries = await trio.to_thread.run_sync(read_roster, self._roster)
        except StoreError as exc:
            log.error("%s %s", exc.message, exc.next)
            aside = self._roster.with_suffix(".damaged")  # the next list does not overwrite it
            await durable.on_disk("set a damaged list aside", lambda: self._roster.rename(aside))
            return
        for entry in entries:
            try:
                self._models[entry.name] = await self._model(entry)
            except AllodError as exc:
                self._lost[entry.name] = entry, exc.message
                log.warning("%s is not served now: %s", entry.name, exc.message)

    # --- answering -------------------------------------------------------------------------------

    @asynccontextmanager
    async def ask(self, model: Served, call: Call) -> AsyncIterator[Answer]:
        """See Inference."""
        mine = self._find(model.name)
        if mine.entry.manifest != model.manifest:
            raise NotFound(
                f"{model.name} means another release since this was asked.",
                next="Ask again: the next answer is the other's.",
            )
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
        """Return the way to a model's engine, loading it if need be; once for all who wait.

        The load is nobody's: whoever asked first may leave, and the others still get it.
        """
        while model.upstream is None:
            if model.attempt is None:
                model.attempt = Attempt()
                self._nursery.start_soon(self._attempt, model, model.attempt, report)
            attempt = model.attempt
            await attempt.over.wait()
            if attempt.error is not None:
                raise attempt.error
        return model.upstream

    # --- loading ---------------------------------------------------------------------------------

    async def _attempt(self, model: Model, attempt: Attempt, report: Report) -> None:
        """Load a model, and tell those who wait how it went."""
        try:
            await self._load(model, report)
            self.starts[model.entry.name, "started"] += 1
        except AllodError as exc:
            self.starts[model.entry.name, "failed"] += 1
            attempt.error = exc
        finally:
            model.attempt = None
            attempt.over.set()

    async def _load(self, model: Model, report: Report) -> None:
        if model.state == "remote":
            raise EngineError(
                f"{model.entry.name} is not here, and no peer answers for it.",
                next=f"`allod fetch {model.entry.manifest}` brings it.",
            )
        model.check_start()
        await model.gone.wait()
        model.state = "loading"
        try:
            with self._node.store.using(model.entry.manifest):  # gc leaves its files alone
                start = await self._loader.prepare(model.entry, report)
                async with self._admitting:
                    await self._make_room(model, start.plan.estimate)
                    model.check_start()  # it may have been stopped meanwhile
                    model.memory = start.plan.estimate
                    model.stop, model.gone = trio.Event(), trio.Event()
                report(Note(f"{start.engine.name} loads {model.entry.name}."))
                failure: list[AllodError] = []
                await self._nursery.start(self._run, model, start, failure)
            if failure:
                if not model.stop.is_set():
                    model.crashes.append(trio.current_time())
                raise failure[0]
        finally:
            if model.upstream is None:
                model.state = "failed" if model.crashes else "cold"

    async def _make_room(self, model: Model, need: int) -> None:
        """Unload what must go for it, one by one, each only if it is idle then. ``NoMemory``."""
        while True:
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
            if not going:
                return
            [victim] = [one for one in others if one.entry.name == going[0]]
            victim.unload()
            await victim.gone.wait()

    async def _run(
        self, model: Model, start: Start, failure: list[AllodError], *, task_status: Any
    ) -> None:
        """Run a model's engine to its end, in a task of its own; one that died starts again."""
        with self._node.store.using(model.entry.manifest):  # gc leaves its files alone
            died = await run_engine(model, start, self._terms, failure, task_status=task_status)
        if died and not model.retired:
            self.starts[model.entry.name, "died"] += 1
            await self._revive(model)

    async def _revive(self, model: Model) -> None:
        """Start an engine again that has died, unless it has done so too often.

        So the next request need not wait for it; what goes wrong, that request is told.
        """
        try:
            await self._ready(model)
        except AllodError as exc:
            log.warning("%s", exc.message)

    async def follow_policy(self) -> None:
        """Stop the engines of releases that are refused from now on; never returns."""
        while True:
            change = self._node.gate.next_change()
            for model in [one for one in self._models.values() if not one.gone.is_set()]:
                refused = await self._node.gate.refuses(model.entry.manifest)
                if refused is not None:
                    log.warning("%s is stopped: %s", model.entry.name, refused.reason)
                    model.unload()
            await change.wait()


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
