"""The power goes at every step of a publish and of a fetch: no promise is broken."""

import json
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import trio

from node.store import Store, durable, open_store
from p2p.cid import CID
from tests.faults.power import (
    DECISIVE,
    STATES,
    Disk,
    Promises,
    Recorder,
    State,
    Step,
    cuts,
    promises,
)
from tests.faults.story import ALL, cid_of, release, story, write_outside

ROOT = Path(__file__).parents[2]


async def check(store: Store, kept: Promises) -> None:
    """Nothing acknowledged is lost; nothing half-written is served."""
    for key, value in kept.items():
        kind, _, text = key.partition(":")
        if kind == "publisher":
            names = await store.publishers.names(text)
            assert names is not None
            assert names.version >= int(str(value))
            continue
        cid = CID.parse(text)
        if kind == "file":
            assert await store.has(cid) is value, key
        else:
            found = await store.release(cid)
            assert (None if found is None else [found.pinned, found.complete]) == value, key
    for path, data in ALL.items():
        held = await store.held(cid_of(path))
        if held is not None:
            assert held.path.read_bytes() == data
    for name in ("published", "fetched"):
        built, bundle = release(name)
        found = await store.release(built.manifest.cid)
        if found is not None:
            statement = await store.manifest(built.manifest.cid)
            assert statement == (built.manifest.payload, (bundle,), None)
            assert await store.block(built.manifest.root) is not None
        if found is not None and found.complete:
            cids = {file.cid for file in built.manifest.files}
            assert await store.has_many(cids) == cids
    assert (await store.verify()).bad == []


async def check_folder(folder: Path, kept: Promises) -> None:
    """Open what is left, and look."""
    async with open_store(folder, quota=None, reserve=0) as store:
        await check(store, kept)


async def check_goes_on(folder: Path, outside: Path) -> None:
    """The same commands again do all that they should, whatever they find."""
    write_outside(outside)
    told: list[tuple[object, ...]] = []
    await story(folder, outside, told.append)
    await check_folder(folder, promises(told))


def record(memory: Path) -> list[Step]:
    """Tell the story once without a cut, and return every step of it."""
    root, outside = memory / "recorded" / "store", memory / "outside"
    root.mkdir(parents=True)
    write_outside(outside)
    recorder = Recorder(root)
    with recorder.recording():
        trio.run(story, root, outside, recorder.tell)
    shutil.rmtree(memory / "recorded")
    return recorder.steps


def try_cut(
    memory: Path, disk: Disk, kept: Promises, state: State, number: int, *, index: bool, again: bool
) -> None:
    """Cut, open, look; and do it all again, if wanted."""
    folder = memory / "left"
    try:
        disk.leave(folder, state, number, index=index)
        trio.run(check_folder, folder, kept)
        if again:
            trio.run(check_goes_on, folder, memory / "outside")
    except BaseException as exc:
        exc.add_note(f"after step {number}, state {state}, index {index}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_cut_of_the_power_after_any_step(memory: Path) -> None:
    """After every other step, one of the states that a cut can leave, with and without index."""
    turn = count()
    steps = record(memory)
    for number, disk, kept in cuts(steps):
        if steps[number][0] in DECISIVE and (one := next(turn)) % 2:
            state = STATES[one // 2 % 4]
            try_cut(memory, disk, kept, state, number, index=one % 16 < 8, again=one % 20 == 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_cut_of_the_power_after_any_step(memory: Path) -> None:
    """After each step every state that a cut can leave, and then all again."""
    for number, disk, kept in cuts(record(memory)):
        for state in STATES:
            for index in (True, False):
                again = number % 5 == 0
                try_cut(memory, disk, kept, state, number, index=index, again=again)


@pytest.mark.parametrize("forgotten", ["sync_file", "sync_folder"])
def test_the_model_catches_a_store_that_forgets_to_sync(
    memory: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """Without the syncs of files, or of folders, the very same check finds a broken promise."""
    monkeypatch.setattr(durable, "sync_disk", lambda path: False)
    steps = [step for step in record(memory) if step[0] != forgotten]

    def look() -> None:
        for number, disk, kept in cuts(steps):
            if steps[number][0] == "tell" and kept:
                try_cut(memory, disk, kept, "strict", number, index=False, again=False)

    with pytest.raises(AssertionError):
        look()


def kill(base: Path, first: int, step: int, last: int) -> None:
    """Let children run the story and kill themselves at these steps."""
    arguments = [
        sys.executable,
        "-m",
        "tests.faults.story",
        str(base),
        *map(str, (first, step, last)),
    ]
    subprocess.run(arguments, check=True, cwd=ROOT, capture_output=True)


def told(base: Path) -> list[Path]:
    """What each of them had told before it died."""
    return sorted(base.glob("*.told"))


async def check_killed(base: Path, *, again: bool) -> int:
    """Look at what each of them left; return how many there were."""
    runs = 0
    for file in told(base):
        said = [tuple(json.loads(line)) for line in file.read_text().splitlines()]
        folder = file.with_suffix("")
        try:
            await check_folder(folder, promises(said))
            if again:
                await check_goes_on(folder, file.with_suffix(".outside"))
        except BaseException as exc:
            exc.add_note(f"killed at step {folder.name}")
            raise
        runs += 1
        shutil.rmtree(folder)
    return runs


async def test_the_process_is_killed(tmp_path: Path) -> None:
    """SIGKILL at every 8th step, in the middle of a write too: opened again, all is well."""
    await trio.to_thread.run_sync(kill, tmp_path, 3, 8, 160)
    assert await check_killed(tmp_path, again=False) == 20


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_the_process_is_killed_anywhere(tmp_path: Path) -> None:
    """SIGKILL at every step, and then the same commands again."""
    await trio.to_thread.run_sync(kill, tmp_path, 1, 1, 170)
    assert await check_killed(tmp_path, again=True) == 170


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
async def test_the_process_is_killed_at_a_system_call(tmp_path: Path) -> None:
    """SIGKILL at the n-th write, sync or rename of all, SQLite's own included."""
    calls = "pwrite64,fsync,fdatasync,syncfs,rename,link,unlink,ftruncate"
    for number in range(1, 400, 9):
        arguments = [
            *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"),
            *("-e", f"inject={calls}:signal=KILL:when={number}"),
            *(sys.executable, "-m", "tests.faults.story", str(tmp_path), "9999", "1", "9999"),
        ]
        await trio.run_process(
            arguments, check=False, capture_stdout=True, capture_stderr=True,
            cwd=ROOT,
        )  # fmt: skip
        if (tmp_path / "9999.told").exists():
            assert await check_killed(tmp_path, again=number % 5 == 0) == 1
            (tmp_path / "9999.told").unlink()
            shutil.rmtree(tmp_path / "9999.outside")
