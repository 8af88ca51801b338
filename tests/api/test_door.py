"""Where no node runs the package runs one: for as long as its program lives, and no longer."""

import os
import sys
from pathlib import Path

import psutil
import pytest
import trio

from tests.network.people import Json, Person, Program, program
from tests.releases import write_folder

# Answers each line of stdin with the pid of the node that did the work, and ends with stdin.
PROGRAM = """
import json, sys
import allod
from node.config import load_config
from node.presence import find_node

for line in sys.stdin:
    try:
        done = allod.publish(line.strip(), "alice/x", sha256=False)
        pid = find_node(load_config().folders).pid
        print(json.dumps({"pid": pid, "new": done.new}), flush=True)
    except allod.Error as exc:
        print(json.dumps({"code": exc.code, "next": exc.next}), flush=True)
"""


@pytest.fixture
async def alice(tmp_path: Path) -> Person:
    """Somebody with a publisher's key, and no node."""
    person = Person(tmp_path / "alice")
    await person.run("key", "new", "alice")
    return person


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """What is published."""
    return str(write_folder(tmp_path / "x", {"a.txt": b"a"}))


async def ask(running: Program, line: str) -> Json:
    """Have the program do its work once more."""
    number = len(running.printed)
    await running.tell(line)
    return await running.answer(number)


async def wait_gone(pid: int) -> None:
    """Wait until a process, which is nobody's child here, has ended."""
    try:
        handle = os.pidfd_open(pid)  # type: ignore[attr-defined,unused-ignore]  # Linux
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(handle)
    finally:
        os.close(handle)


async def test_a_node_lives_as_long_as_the_program(alice: Person, folder: str) -> None:
    """It is started once, does all the work, and is gone when the program has ended."""
    with trio.fail_after(90):
        async with program(["-c", PROGRAM], alice.environ) as running:
            first = await ask(running, folder)
            again = await ask(running, folder)
            assert first["pid"] == again["pid"]
            assert (first["new"], again["new"]) == (1, 0)
            assert running.process.stdin is not None
            await running.process.stdin.aclose()
            assert await running.ended() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(first["pid"], 0)


async def test_programs_share_a_node(alice: Person, folder: str) -> None:
    """Of two that begin at once one starts a node; the other goes on when that has gone."""
    with trio.fail_after(110):
        async with (
            program(["-c", PROGRAM], alice.environ) as one,
            program(["-c", PROGRAM], alice.environ) as two,
        ):
            found: dict[Program, int] = {}

            async def work(running: Program) -> None:
                found[running] = (await ask(running, folder))["pid"]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, one)
                nursery.start_soon(work, two)
            assert found[one] == found[two]
            mine = psutil.Process(found[one]).ppid() == one.process.pid
            owner, other = (one, two) if mine else (two, one)
            assert owner.process.stdin is not None
            await owner.process.stdin.aclose()
            answer = await ask(other, folder)
            assert answer["pid"] != found[one]
            await owner.ended()


async def test_a_node_ends_with_a_killed_program(alice: Person, folder: str) -> None:
    """Nothing is left behind by a program that had no time to tidy up."""
    with trio.fail_after(90):
        async with program(["-c", PROGRAM], alice.environ) as running:
            pid = (await ask(running, folder))["pid"]
            await running.kill()
        await wait_gone(pid)


async def test_a_node_that_cannot_start_says_why(alice: Person, folder: str) -> None:
    """The error of the node that did not start is the program's."""
    with (alice.home / "config.toml").open("a") as config:
        config.write("[nonsense]\nx = 1\n")
    with trio.fail_after(60):
        async with program(["-c", PROGRAM], alice.environ) as running:
            assert (await ask(running, folder))["code"] == "CONFIG"


async def test_the_package_is_cheap_to_import() -> None:
    """Importing it brings no network, no server, no trio, and nothing that only some need."""
    script = "import sys, allod; print(*{name.partition('.')[0] for name in sys.modules})"
    done = await trio.run_process([sys.executable, "-c", script], capture_stdout=True)
    heavy = {
        "asyncio", "click", "fsspec", "httpx", "hypercorn", "libp2p", "multiformats", "starlette",
        "tqdm", "trio", "yaml",
    }  # fmt: skip
    assert not set(done.stdout.decode().split()) & heavy
