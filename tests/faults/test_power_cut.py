"""The power goes at every step of a whole publish and of a whole fetch, as people call them.

The store's own promises are tested in test_store_power.py; here it is what the verbs promise: once
one has answered, its release is there, whole; before, nothing that is not whole is served.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from node.api.peer import PeerApi
from node.claims import Claims
from node.fetch import fetch
from node.keyring import Keyring
from node.messages import FetchParams, PublishParams
from node.publish import publish
from node.store import Store, durable, open_store
from p2p.cid import CID
from p2p.errors import NotFound
from p2p.http import FileBody, Request
from p2p.manifest import parse_manifest
from p2p.naming import authenticate
from tests.fakes import FakeNetwork, FakeSource, gate_for
from tests.faults.power import DECISIVE, STATES, Disk, Recorder, State, Step, cuts
from tests.network.people import Person, same_files
from tests.releases import MIB, noise, write_folder

FILES = {
    "model.bin": noise(2 * MIB + 100, 1),
    "data/shard.bin": noise(MIB + 7, 2),
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
}


@dataclass
class Machine:
    """A node on the simulated network."""

    store: Store
    keyring: Keyring
    wire: FakeNetwork = field(default_factory=FakeNetwork)
    claims: Claims = field(default_factory=Claims)
    default_key: str = "alice"

    def __post_init__(self) -> None:
        # Beside the store: what is remembered of publishers is no promise of the store's.
        self.gate = gate_for(self.store, self.keyring, self.store.folder.with_suffix(".trust"))

    def network(self) -> FakeNetwork:
        return self.wire

    def sign_later(self, cid: CID) -> bool:
        return False

    def petnames(self) -> dict[str, str]:
        return {}

    def spread(self, cids: list[CID]) -> list[str]:
        return []


class Verb:
    """One verb, run in a folder of its own as often as is wanted."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.keyring = Keyring(memory / "keys")
        self.folder = write_folder(memory / "folder", FILES)

    def prepare(self) -> None:
        """Make what has to be there before."""
        self.keyring.new("alice")

    async def publish(self, store: Store) -> dict[str, Any]:
        """Publish the folder."""
        params = PublishParams(folder=str(self.folder), name="alice/tiny")
        return await publish(params, Machine(store, self.keyring), lambda event: None)

    async def run(self, root: Path, recorder: Recorder | None = None) -> str:
        """Do it in the store at ``root``, its steps recorded if wanted; the manifest's CID."""
        if recorder is None:
            async with open_store(root, quota=None, reserve=0) as store:
                return str((await self.publish(store))["manifest"])
        with recorder.recording():
            async with open_store(root, quota=None, reserve=0) as store:
                result = await self.publish(store)
                recorder.tell(("ack", result["manifest"], True))
        return str(result["manifest"])


class Fetch(Verb):
    """The other verb; what it fetches is held by a store that is not recorded."""

    def prepare(self) -> None:
        super().prepare()
        self.release = trio.run(super().run, self.memory / "source")

    async def run(self, root: Path, recorder: Recorder | None = None) -> str:
        async with open_store(self.memory / "source", quota=None, reserve=0) as source:
            wire = FakeNetwork(known=[FakeSource("alice", source)])

            async def work() -> None:
                async with open_store(root, quota=None, reserve=0) as store:
                    machine = Machine(store, self.keyring, wire)
                    result = await fetch(FetchParams(self.release), machine, lambda event: None)
                    assert result["ok"]
                    if recorder is not None:
                        recorder.tell(("ack", self.release, True))

            if recorder is None:
                await work()
            else:
                with recorder.recording():
                    await work()
        return self.release


VERBS: dict[str, Callable[[Path], Verb]] = {"publish": Verb, "fetch": Fetch}


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest, memory: Path) -> Verb:
    """Each verb, ready to run."""
    made = VERBS[request.param](memory)
    made.prepare()
    return made


def record(verb: Verb) -> list[Step]:
    """Run a verb once without a cut; every step of it."""
    root = verb.memory / "recorded" / "store"
    root.mkdir(parents=True)
    recorder = Recorder(root)
    trio.run(verb.run, root, recorder)
    shutil.rmtree(root.parent)
    # What has no name happened elsewhere: the other's store may look at its own files again.
    return [step for step in recorder.steps if None not in step]


async def check(root: Path, acknowledged: list[str]) -> None:
    """What was acknowledged is there; what is served is whole and right."""
    async with open_store(root, quota=None, reserve=0) as store:
        held = {str(release.manifest_cid): release for release in await store.releases()}
        for cid in acknowledged:
            assert held[cid].complete
            assert held[cid].pinned
        for release in held.values():
            await check_served(store, release.manifest_cid, complete=release.complete)
        assert (await store.verify()).bad == []


async def check_served(store: Store, release: CID, *, complete: bool) -> None:
    """Ask as another node would."""
    api = PeerApi(store)

    async def ask(target: str) -> bytes:
        response = await api(Request("GET", target, {}, {}, "tester"))
        assert response.status == 200
        body = response.body
        if isinstance(body, FileBody):
            data = body.path.read_bytes()[body.offset : body.offset + body.length]
            assert len(data) == body.length
            return data
        assert isinstance(body, bytes)
        return body

    payload = await ask(f"/allod/v1/manifest/{release}")
    manifest = parse_manifest(payload)
    metadata = await store.publishers.get(manifest.publisher)
    assert metadata is not None
    authenticate(payload, (await ask(f"/allod/v1/bundles/{release}")).splitlines(), metadata)
    assert {entry.path for entry in manifest.files} == FILES.keys()
    for entry in manifest.files:
        try:
            assert await ask(f"/ipfs/{entry.cid}") == FILES[entry.path]
            if complete:
                assert await ask(f"/ipfs/{manifest.root}/{entry.path}") == FILES[entry.path]
        except NotFound:
            assert not complete, entry.path


async def check_goes_on(verb: Verb, root: Path) -> None:
    """The same command again does all that it should."""
    write_folder(verb.folder, FILES)
    await check(root, [await verb.run(root)])


def try_cut(
    verb: Verb, disk: Disk, kept: list[str], state: State, number: int, *, index: bool, again: bool
) -> None:
    """Cut, look, and run the verb again, if wanted."""
    root = verb.memory / "left"
    try:
        disk.leave(root, state, number, index=index)
        trio.run(check, root, kept)
        if again:
            trio.run(check_goes_on, verb, root)
    except BaseException as exc:
        exc.add_note(f"after step {number}, state {state}, index {index}")
        raise
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_a_cut_of_the_power_during_a_verb(verb: Verb) -> None:
    """After every other decisive step, one of the states that a cut can leave."""
    turn, tried = count(), 0
    steps = record(verb)
    for number, disk, kept in cuts(steps):
        if steps[number][0] in DECISIVE and (one := next(turn)) % 2:
            state = STATES[one // 2 % 4]
            try_cut(verb, disk, [*kept], state, number, index=one % 16 < 8, again=one % 6 == 1)
            tried += 1
    assert tried > 15
    assert any(step[0] == "tell" for step in steps)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_cut_of_the_power_during_a_verb(verb: Verb) -> None:
    """After each step every state that a cut can leave, and the same command again."""
    for number, disk, kept in cuts(record(verb)):
        for state in STATES:
            for index in (True, False):
                try_cut(verb, disk, [*kept], state, number, index=index, again=number % 3 == 0)


@pytest.mark.parametrize("forgotten", ["sync_file", "sync_folder"])
def test_a_verb_that_forgets_to_sync_is_caught(
    verb: Verb, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """Without the syncs of files, or of folders, the very same check finds a broken promise."""
    monkeypatch.setattr(durable, "sync_disk", lambda path: False)
    steps = [step for step in record(verb) if step[0] != forgotten]
    *_, (number, disk, kept) = cuts(steps)
    with pytest.raises((AssertionError, KeyError)):
        try_cut(verb, disk, [*kept], "strict", number, index=False, again=False)


CALLS = "pwrite64,fsync,fdatasync,syncfs,rename,link,unlink,ftruncate"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("name", ["publish", "fetch"])
async def test_a_command_is_killed_at_a_system_call(tmp_path: Path, name: str) -> None:
    """SIGKILL at the n-th write, sync or rename of the real command; the same again succeeds."""
    folder = write_folder(tmp_path / "folder", FILES)
    alice = Person(tmp_path / "alice")
    release = await alice.publish(folder, "tiny")
    async with alice.node() as source:
        for number in range(1, 120, 7):
            bob = Person(tmp_path / f"bob-{number}")
            await bob.run("key", "new", "bob")
            words = ["publish", str(folder), "--as", "bob/tiny"]
            if name == "fetch":
                words = ["fetch", release["manifest"], "--peer", source.address]
            strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}"]
            strace += ["-e", f"inject={CALLS}:signal=KILL:when={number}"]
            command = [*strace, sys.executable, "-m", "node.cli", *words]
            await trio.run_process(
                command, env=bob.environ, check=False, capture_stdout=True, capture_stderr=True
            )
            assert (await bob.run("verify"))["leaves"]["bad"] == 0
            await bob.run(*words)
            [held] = (await bob.run("ls"))["releases"]
            assert held["complete"]
            assert held["pinned"]
            again = await bob.run("fetch", held["manifest"], "--offline")
            same_files(Path(again["path"]), folder)
            assert (await bob.run("verify"))["leaves"]["bad"] == 0
            shutil.rmtree(bob.home)
