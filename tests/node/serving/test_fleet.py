"""The fleet when things happen at once: stops, new names, refusals and hang-ups around a load.

The engine is a real process under a real keeper, which answers as a script says; what is prepared
for it is scripted too. The whole, with real releases, is in tests/network/test_serving.py.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from node.engine.confine import QUIET_DEVICES, Confinement, usual_places
from node.engine.engines import Launch, Plan
from node.inference import Call, Served
from node.messages import Report
from node.serving import fleet as fleets
from node.serving.fleet import Fleet, open_fleet
from node.serving.loading import Loader, Start
from node.serving.roster import Entry, read_roster
from p2p.cid import CID, Codec
from p2p.errors import AllodError, NotFound, Refused, VerificationFailed

HANG = 60  # seconds; only stops a hang
FIRST, SECOND = (CID.of(text, Codec.JSON) for text in (b'{"a":1}', b'{"a":2}'))
CALL = Call("chat/completions", b'{"model":"m"}', stream=True)
ENGINE = """
import os, socket, sys, threading
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()
print("ready", flush=True)
def answer(client):
    data = b""
    while not data.endswith(b"}"):
        data += client.recv(65536)
    if b"die" in data:
        os._exit(1)
    client.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\n"
                   b"content-length: 5\\r\\n\\r\\nhello")
    client.close()
while True:
    client, _ = server.accept()
    threading.Thread(target=answer, args=(client,), daemon=True).start()
"""


class ScriptedEngine:
    """Runs the script."""

    name = "scripted"
    format = "gguf"

    def __init__(self, script: Path) -> None:
        self._script = script

    def launch(self, plan: Plan) -> Launch:
        rules = Confinement(
            memory=None,
            readable=usual_places(more=(str(self._script.parent),)),
            writable=(str(plan.folder),),
            devices=QUIET_DEVICES,
        )
        return Launch([sys.executable, "-I", str(self._script), str(plan.socket)], rules)


class Proof:
    """Nothing changed."""

    async def still_holds(self) -> None: ...


@dataclass
class Scene:
    """What the loader and the policy do in a test."""

    engine: ScriptedEngine
    prepared: int = 0
    wait: trio.Event | None = None
    """What a preparation waits for."""
    preparing: trio.Event = field(default_factory=trio.Event)
    refusal: AllodError | None = None
    damage: AllodError | None = None

    async def prepare(self, loader: Loader, entry: Entry, report: Report) -> Start:
        self.prepared += 1
        self.preparing.set()
        if self.wait is not None:
            await self.wait.wait()
        nothing: Any = None
        plan = Plan(Path("/x"), entry.name, nothing, 512, 1, 1, 1 << 20, Path())
        engine: Any = self.engine
        proof: Any = Proof()
        return Start(engine, plan, proof)

    async def notice(self, loader: Loader, entry: Entry) -> None:
        if self.damage:
            raise self.damage

    async def admit(self, loader: Loader, entry: Entry) -> None:
        if self.refusal:
            raise self.refusal


class Gate:
    """A policy that lets everything in."""

    async def refuses(self, cid: CID, path: str = "") -> None: ...

    def next_change(self) -> trio.Event:
        return trio.Event()


class Store:
    """A store that holds nothing; what is used is noted."""

    @contextmanager
    def using(self, cid: CID) -> Iterator[None]:
        yield

    async def releases(self) -> list[Any]:
        return []


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The stage, with an engine that answers at once."""
    script = tmp_path / "engine" / "engine.py"
    script.parent.mkdir()
    script.write_text(ENGINE)
    made = Scene(ScriptedEngine(script))
    for name in ("prepare", "notice", "admit"):
        method = getattr(made, name)
        monkeypatch.setattr(Loader, name, lambda self, *words, method=method: method(self, *words))

    async def show(entry: Entry, node: Any, loader: Loader) -> Served:
        state: Any = "remote" if entry.remote else "cold"
        return Served(
            entry.name, (), entry.manifest, "p", 0, 1, frozenset({"chat"}), 512,
            via_peers=entry.via_peers, state=state,
        )  # fmt: skip

    monkeypatch.setattr(fleets, "show", show)
    return made


@pytest.fixture
def node(tmp_path: Path) -> Any:
    """As much of a node as a fleet needs."""
    serve = SimpleNamespace(
        slots=2, queue=8, idle=None, memory=None, answer_within=20.0, start_within=30.0, threads=1
    )
    folders = SimpleNamespace(data=tmp_path / "data", run=tmp_path / "run")
    config = SimpleNamespace(serve=serve, folders=folders)
    return SimpleNamespace(config=config, store=Store(), gate=Gate(), petnames=dict)


async def ask(fleet: Fleet, served: Served) -> bytes:
    """Ask, and read all of the answer."""
    async with fleet.ask(served, CALL) as answer:
        return b"".join([piece async for piece in answer.body])


def fresh(fleet: Fleet) -> Served:
    return fleet.find("m")


async def test_many_wait_for_one_load(scene: Scene, node: Any) -> None:
    """However many ask, it is prepared once; who asked first may leave, and the others get it."""
    scene.wait = trio.Event()
    async with open_fleet(node, "peer") as fleet:
        await fleet.add(Entry("m", FIRST))
        answers: list[bytes] = []

        async def one() -> None:
            answers.append(await ask(fleet, fresh(fleet)))

        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as impatient:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(one)
                        await scene.preparing.wait()
                        impatient.cancel()
                nursery.start_soon(one)
                nursery.start_soon(one)
                await trio.testing.wait_all_tasks_blocked()
                scene.wait.set()
        assert answers == [b"hello"] * 2
        assert scene.prepared == 1


async def test_how_engines_fare_is_counted(scene: Scene, node: Any) -> None:
    """What started, what failed to, and what died and came again: metrics tell it."""
    async with open_fleet(node, "peer") as fleet:
        await fleet.add(Entry("m", FIRST))
        with trio.fail_after(HANG):
            with pytest.raises(AllodError):
                async with fleet.ask(fresh(fleet), replace(CALL, body=b'{"model":"die"}')):
                    pass
            await fleet.warm("m", lambda event: None)
        assert fleet.starts == {("m", "started"): 2, ("m", "died"): 1}
        await fleet.remove("m")
        scene.engine = ScriptedEngine(scene.engine._script.with_name("gone.py"))
        await fleet.add(Entry("m", FIRST))
        with trio.fail_after(HANG), pytest.raises(AllodError):
            await fleet.warm("m", lambda event: None)
        assert fleet.starts["m", "failed"] >= 1  # it may have tried again


async def test_a_stop_while_it_loads(scene: Scene, node: Any) -> None:
    """Who waits is told, nothing runs, and that is no failure of the engine's."""
    for _ in range(4):
        scene.wait, scene.preparing = trio.Event(), trio.Event()
        async with open_fleet(node, "peer") as fleet:
            await fleet.add(Entry("m", FIRST))
            async with trio.open_nursery() as nursery:

                async def refused(fleet: Fleet = fleet) -> None:
                    with pytest.raises(NotFound, match="served no longer"):
                        await ask(fleet, fresh(fleet))

                nursery.start_soon(refused)
                await scene.preparing.wait()
                await fleet.remove("m")
                scene.wait.set()
            assert fleet.served() == []


async def test_another_release_under_the_same_name(scene: Scene, node: Any) -> None:
    """Who found the first is not answered by the second."""
    async with open_fleet(node, "peer") as fleet:
        await fleet.add(Entry("m", FIRST))
        found = fresh(fleet)
        assert await ask(fleet, found) == b"hello"
        await fleet.add(Entry("m", SECOND))
        with pytest.raises(NotFound, match="another release"):
            await ask(fleet, found)
        assert await ask(fleet, fresh(fleet)) == b"hello"


async def test_what_changes_nothing_for_the_engine_leaves_it_running(
    scene: Scene, node: Any
) -> None:
    """Sharing a model, or serving it once more, does not load it again."""
    async with open_fleet(node, "peer") as fleet:
        entry = Entry("m", FIRST)
        await fleet.add(entry)
        await ask(fleet, fresh(fleet))
        await fleet.add(entry)
        shared = await fleet.add(replace(entry, share=True, aliases=("other",)))
        assert (shared.shared, shared.state) == (True, "ready")
        assert fleet.find("other").name == "m"
        assert scene.prepared == 1
        other = await fleet.add(replace(entry, context=9))
        assert other.state == "cold"


async def test_a_refusal_during_a_load_counts(
    scene: Scene, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that changes while a model loads is asked again before it answers."""

    async def still_holds(self: Proof) -> None:
        raise Refused("it was revoked meanwhile")

    monkeypatch.setattr(Proof, "still_holds", still_holds)
    async with open_fleet(node, "peer") as fleet:
        await fleet.add(Entry("m", FIRST))
        with pytest.raises(Refused, match="meanwhile"):
            await ask(fleet, fresh(fleet))
        assert fleet.find("m").state != "ready"


async def test_a_stopped_model_is_left_to_peers_or_gone(scene: Scene, node: Any) -> None:
    """Where the files are damaged meanwhile, stopping still stops it."""
    async with open_fleet(node, "peer") as fleet:
        await fleet.add(Entry("m", FIRST, via_peers=True))
        await ask(fleet, fresh(fleet))
        assert (await fleet.remove("m")).state == "remote"
        await fleet.remove("m")
        assert fleet.served() == []
        await fleet.add(Entry("m", FIRST, via_peers=True))
        await ask(fleet, fresh(fleet))
        scene.damage = VerificationFailed("a byte was flipped")
        assert (await fleet.remove("m")).state == "cold"
        assert fleet.served() == []


async def test_what_cannot_be_served_at_a_start_is_not_forgotten(scene: Scene, node: Any) -> None:
    """It stays in the list, with the reason, until it is stopped; a damaged list is kept aside."""
    file = node.config.folders.data / "serving" / "served.json"
    async with open_fleet(node, "peer") as fleet:
        await fleet.add(Entry("m", FIRST))
    scene.refusal = Refused("the policy cannot be read yet")
    async with open_fleet(node, "peer") as fleet:
        assert dict(fleet.lost()) == {"m": "the policy cannot be read yet"}
        scene.refusal = None
        await fleet.add(Entry("k", SECOND))
    assert {one.name for one in read_roster(file)} == {"m", "k"}
    async with open_fleet(node, "peer") as fleet:
        assert {one.name for one in fleet.served()} == {"m", "k"}
        assert await fleet.forget("m") is None
    file.write_text("{")
    async with open_fleet(node, "peer") as fleet:
        assert fleet.served() == []
        await fleet.add(Entry("n", SECOND))
    assert file.with_suffix(".damaged").read_text() == "{"
