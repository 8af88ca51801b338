"""From a served release to an engine's plan: everything that is asked before it sees a byte.

1  the policy        it may have changed since the release was fetched
2  the bytes         hashed again, unless nothing about the files has changed
3  the headers       read by us first: no code, no pickles, nothing absurd
4  the engine        the first that is installed and can
5  the conversion    safetensors into GGUF, once
6  the estimate      of the memory that it will take; whether there is room is the fleet's question
"""

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from node.config import Config
from node.engine.convert import supported
from node.engine.converting import convert
from node.engine.derived import Derived
from node.engine.engines import Engine, Plan, choose
from node.engine.memory import estimate
from node.engine.weights import Weights, inspect
from node.gate import Gate
from node.messages import Note, Report
from node.serving.checking import Checker, look
from node.serving.roster import Entry
from node.store import Release, Store, durable
from p2p.errors import DiskFull, NotFound, Refused, SourceChanged, VerificationFailed
from p2p.manifest import parse_manifest

DEFAULT_CONTEXT: Final = 4096
"""Tokens, where neither the owner nor the model says anything."""


class ServingNode(Protocol):
    """What serving needs of a node."""

    @property
    def config(self) -> Config: ...
    @property
    def store(self) -> Store: ...
    @property
    def gate(self) -> Gate: ...
    def petnames(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Material:
    """A served release as it lies here: what it is, and the folder in which its files are."""

    release: Release
    folder: Path
    weights: Weights
    template: str
    created: int
    """Unix seconds."""


class Loader:
    """Prepares releases for engines; ``state``: the node's folder for what it derives and notes."""

    def __init__(self, node: ServingNode, state: Path) -> None:
        self._node = node
        self._checker = Checker(node.store, state / "verified")
        self.derived = Derived(state / "derived")
        self.runs = node.config.folders.run / "engines"

    async def notice(self, entry: Entry) -> None:
        """Have the store notice what was changed on disk. ``VerificationFailed`` names it.

        Asked first: the store sets a changed file aside, and then the release is just not whole.
        """
        release = await self._node.store.release(entry.manifest)
        if release is None or not release.complete:
            return
        files = await self._node.store.release_files(entry.manifest)
        here = await self._node.store.has_many({file.cid for file in files})
        for file in files:
            if file.cid not in here:
                raise VerificationFailed(
                    f"{file.path} of {entry.name} is not what was signed any more: no engine may "
                    "see it.",
                    next=f"`allod fetch {entry.manifest}` repairs just that.",
                )

    async def material(self, entry: Entry) -> Material:
        """Look at a release: ``NotFound`` if it is not here, ``Refused`` for what is in it."""
        store = self._node.store
        release = await store.release(entry.manifest)
        statement = await store.statement(entry.manifest)
        if release is None or statement is None or not release.complete:
            raise NotFound(
                f"{entry.name} is not here" + (" as a whole." if release else "."),
                next=f"`allod fetch {entry.manifest}` brings it.",
            )
        manifest = await trio.to_thread.run_sync(parse_manifest, statement.payload)
        folder = await store.view(manifest)
        weights = await durable.on_disk("look at a model", partial(inspect, folder, entry.file))
        created = int(datetime.fromisoformat(manifest.created).timestamp())
        return Material(release, folder, weights, weights.template, created)

    async def prepare(self, entry: Entry, report: Report) -> "Start":
        """Do the six steps."""
        await self.notice(entry)
        await self.admit(entry)
        material = await self.material(entry)
        facts = await self._checker.check(material.release, material.folder, report)
        weights = material.weights
        wanted = entry.engine or self._node.config.serve.engine
        engine = choose(weights, wanted, convertible=supported(weights))
        model = material.folder / weights.paths[0] if weights.format == "gguf" else material.folder
        if engine.format != weights.format:
            model, weights = await self._converted(entry, material, report)
        plan = self.plan(entry, weights, model)
        admit = partial(self.admit, entry)
        proof = Proof(material.release, material.folder, facts, self._node.store, admit)
        return Start(engine, plan, proof)

    async def admit(self, entry: Entry) -> None:
        """Ask the policy. ``Refused`` with its rule."""
        verdict = await self._node.gate.opinion(entry.manifest)
        if verdict is not None and not verdict.admitted:
            raise Refused(
                f"{entry.name} is refused by {verdict.rule}: {verdict.reason}", next=verdict.next
            )

    def plan(self, entry: Entry, weights: Weights, model: Path) -> Plan:
        """Settle the sizes, and estimate what they take."""
        config = self._node.config.serve
        trained = weights.context or DEFAULT_CONTEXT
        context = min(entry.context or config.context or trained, trained)
        slots = entry.slots or config.slots or 1
        threads = config.threads or max(1, (os.cpu_count() or 2) - 1)
        need = estimate(weights, context, slots)
        return Plan(model, entry.name, weights, context, slots, threads, need, Path())

    async def _converted(
        self, entry: Entry, material: Material, report: Report
    ) -> tuple[Path, Weights]:
        """Return the GGUF file that was made of a safetensors release, making it if need be."""
        kind = self._node.config.serve.convert
        files = await self._node.store.release_files(entry.manifest)
        source = {file.path: file.cid for file in files}
        find = partial(self.derived.find, entry.manifest, kind, source)
        made = await durable.on_disk("look for a converted model", find)
        if made is None:
            report(Note(f"{entry.name} is made into GGUF, once."))
            self._check_room(material.weights)
            target = await durable.on_disk(
                "make room for a model", partial(self.derived.prepare, entry.manifest, kind)
            )
            await convert(material.folder, target, kind, material.weights, report)
            note = partial(self.derived.note, entry.manifest, kind, source)
            made = await durable.on_disk("note a converted model", note)
        converted = await durable.on_disk(
            "look at a model", partial(inspect, made.parent, made.name)
        )
        # What it is for, and how it is spoken to, the release says better than the conversion.
        weights = replace(
            converted,
            template=material.weights.template,
            purpose=material.weights.purpose,
            pooling=material.weights.pooling,
        )
        return made, weights

    def _check_room(self, weights: Weights) -> None:
        folder = self._node.config.folders.data
        free = shutil.disk_usage(folder).free - self._node.config.store.reserve
        if weights.size > free:
            raise DiskFull(
                f"The converted model needs {weights.size:,} bytes of disk, but {max(0, free):,} "
                "are free.",
                next="Free some, or serve a release that has GGUF files.",
            )


@dataclass(frozen=True, slots=True)
class Proof:
    """How the files of a release looked when they were right."""

    release: Release
    folder: Path
    facts: Mapping[str, list[int]]
    store: Store
    admit: Callable[[], Awaitable[None]]
    """Asks the policy once more: a load may take minutes."""

    async def still_holds(self) -> None:
        """Raise ``SourceChanged`` if a file was changed since, ``Refused`` if the policy was.

        A new name for a file changes its inode's time and nothing else: then it is hashed again.
        """
        await self.admit()
        cid = self.release.manifest_cid
        files = await self.store.release_files(cid)
        now = await durable.on_disk("look at a release", lambda: look(self.folder, files))
        if now == self.facts:
            return
        same = {path: facts[:3] for path, facts in now.items()}
        renamed = same == {path: facts[:3] for path, facts in self.facts.items()}
        if renamed and not (await self.store.verify(cid)).bad:
            return
        raise SourceChanged(
            f"Files of {self.release.name} changed while its engine started: it was stopped.",
            next="`allod verify` says what is wrong with them.",
        )


@dataclass(frozen=True, slots=True)
class Start:
    """All that is prepared for one start of an engine; the plan's folder is still to be made."""

    engine: Engine
    plan: Plan
    proof: Proof
