"""Jobs: what a node works on is seen, can be ended, and goes on without whoever asked for it."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.api.control import control_routes
from node.api.loopback import loopback_app, serve_loopback
from node.config import child_environ, load_config
from node.jobs import MAX_BACKGROUND, MAX_ENDED, Feed, Job, Jobs, subject_of, tell_sources
from node.messages import FetchParams, JobParams, NoParams, Note, Progress, RefParams, Report
from node.node import Node, open_node
from node.operations import OPERATIONS, Operation, perform
from node.operations import Node as AnyNode
from node.presence import announce_node
from p2p.errors import Busy, Cancelled, NotFound
from tests.node.door import TOKEN, Door, Story

# -- the list


async def test_a_job_tells_how_far_it_is_and_how_it_ended() -> None:
    """Progress, the last note, who sent the bytes, and the end."""
    jobs = Jobs()
    job = jobs.open("fetch", "alice/tiny")
    with jobs.at_work(job):
        tell_sources(lambda: [Feed("12D3", "lane", 7)])
        job.hear(Progress("fetch", 7, 10, 3.5, 1))
        job.hear(Note("The policy lets it in."))
        shown = job.json()
        assert (shown["state"], shown["ended"], shown["error"]) == ("running", None, None)
        assert shown["progress"]["rate"] == 3.5
        assert shown["sources"] == [{"peer": "12D3", "kind": "lane", "bytes": 7}]
        assert shown["note"] == "The policy lets it in."
        assert jobs.running() == [job]
        job.end_with({"ok": True})
    assert jobs.running() == []
    [shown] = [one.json() for one in jobs.all()]
    assert (shown["state"], shown["sources"][0]["bytes"]) == ("done", 7)
    tell_sources(lambda: [Feed("12D3", "lane", 8)])  # nobody's work any more
    assert job.sources()[0].bytes == 7


async def test_a_job_that_fails_says_why() -> None:
    """Our own errors, and a result that says that what was looked for is damaged."""
    jobs = Jobs()
    with pytest.raises(NotFound), jobs.at_work(jobs.open("fetch", "x")):
        raise NotFound("Nobody has it.", next="Wait.")
    with jobs.at_work(jobs.open("verify", "")) as job:
        bad = {"code": "VERIFICATION_FAILED", "message": "Two leaves are bad.", "next": "Fetch."}
        job.end_with({"ok": False, "error": bad})
    verify, fetch = (one.json() for one in jobs.all())
    assert (fetch["state"], fetch["error"]["code"]) == ("failed", "NOT_FOUND")
    assert (verify["state"], verify["error"]) == ("failed", bad)


async def test_no_more_than_so_many_are_remembered() -> None:
    """The oldest are forgotten; texts are cut."""
    jobs = Jobs()
    for number in range(MAX_ENDED + 5):
        with jobs.at_work(jobs.open("gc", "x" * 10_000)) as job:
            job.end_with({"ok": True})
        assert job.number == number + 1
    assert len(jobs.all()) == MAX_ENDED
    assert len(json.dumps([one.json() for one in jobs.all()])) < 100_000


async def test_the_owner_can_end_a_job() -> None:
    """It ends as cancelled, with an error that says so; one that does not run is not found."""
    jobs = Jobs()
    job = jobs.open("fetch", "x")

    async def work() -> None:
        with jobs.at_work(job):
            assert jobs.cancel(job.number) is job
            await trio.sleep_forever()

    with pytest.raises(Cancelled) as told:
        await work()
    assert told.value.exit_code == 1
    assert (job.state, job.error) == ("cancelled", None)
    with pytest.raises(NotFound):
        jobs.cancel(job.number)


async def test_a_job_whose_asker_left_is_cancelled() -> None:
    """Cancellation from outside goes on outwards."""
    jobs = Jobs()
    job = jobs.open("fetch", "x")
    with trio.CancelScope() as scope, jobs.at_work(job):
        scope.cancel()
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert job.state == "cancelled"


async def test_the_background_has_its_bound(autojump_clock: MockClock) -> None:
    """So many jobs at once, then Busy; they run together, and one that fails harms no other."""
    jobs = Jobs()
    ended: list[int] = []

    async def work(job: Job) -> None:
        with jobs.at_work(job):
            await trio.sleep(job.number)
            ended.append(job.number)
            if job.number == 1:
                raise NotFound("It is not here.")
            job.end_with({"ok": True})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run)
        for _ in range(MAX_BACKGROUND):
            job = jobs.open("fetch", "x")
            jobs.later(job, lambda job=job: work(job))  # type: ignore[misc]
        with pytest.raises(Busy):
            jobs.later(jobs.open("fetch", "x"), trio.sleep_forever)
        assert len(jobs.running()) == MAX_BACKGROUND
        await trio.sleep(MAX_BACKGROUND + 1)
        assert ended == list(range(1, MAX_BACKGROUND + 1))
        assert {one.state for one in jobs.all()[:-1]} == {"done"}
        jobs.later(job := jobs.open("fetch", "x"), lambda: work(job))
        nursery.cancel_scope.cancel()


def test_a_job_is_about_what_its_params_name() -> None:
    assert subject_of(FetchParams("alice/tiny")) == "alice/tiny"
    assert subject_of(NoParams()) == ""


# -- over HTTP


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[tuple[Node, Door]]:
    """A node without a network whose ``fetch`` waits for the test."""
    story = Story()

    async def wait(node: AnyNode, params: RefParams, report: Report) -> dict[str, object]:
        report(Progress("fetch", 5, 10, sources=2))
        story.started.set()
        try:
            await story.go_on.wait()
        except trio.Cancelled:
            story.cancelled.set()
            raise
        return {"ok": True, "ref": params.ref}

    waits = Operation("fetch", RefParams, wait, "store", long=True)
    config = load_config(environ={"ALLOD_HOME": str(home)})
    async with open_node(config, network=False) as node, trio.open_nursery() as nursery:
        nursery.start_soon(node.jobs.run)
        routes = control_routes(node, TOKEN, operations={**OPERATIONS, "fetch": waits})
        url = await nursery.start(serve_loopback, loopback_app(routes), 0)
        yield node, Door(urlsplit(url).port or 0, story)
        nursery.cancel_scope.cancel()


async def test_who_prefers_it_gets_a_jobs_number_and_may_leave(tmp_path: Path) -> None:
    """202 at once; the work goes on without a connection, is listed, and ends."""
    async with serving(tmp_path) as (node, door):
        status, body = await door.post("fetch", b'{"ref": "alice/tiny"}', prefer="respond-async")
        assert (status, json.loads(body)) == (202, {"ok": True, "job": 1})
        with trio.fail_after(60):
            await door.story.started.wait()
        found = await perform(node, OPERATIONS["jobs"], NoParams(), lambda event: None)
        [shown] = found["jobs"]
        assert (shown["operation"], shown["subject"]) == ("fetch", "alice/tiny")
        assert (shown["state"], shown["progress"]["sources"]) == ("running", 2)
        door.story.go_on.set()
        await wait_all_tasks_blocked()
        assert node.jobs.all()[0].state == "done"
        # A short one is done as always.
        status, body = await door.post("jobs", prefer="respond-async")
        assert status == 200
        assert b'"result"' in body


async def test_a_job_is_cancelled_over_http(tmp_path: Path) -> None:
    """By its number, from another connection."""
    async with serving(tmp_path) as (node, door):
        await door.post("fetch", b'{"ref": "alice/tiny"}', prefer="respond-async")
        with trio.fail_after(60):
            await door.story.started.wait()
        _, body = await door.post("cancel", b'{"job": 1}')
        assert b'"subject":"alice/tiny"' in body
        with trio.fail_after(60):
            await door.story.cancelled.wait()
        await wait_all_tasks_blocked()
        assert node.jobs.all()[0].state == "cancelled"
        _, body = await door.post("cancel", b'{"job": 1}')
        assert b"NOT_FOUND" in body
    assert JobParams(1).job == 1


# -- as commands


async def test_the_commands_show_jobs_and_end_one(tmp_path: Path) -> None:
    """`jobs` lists what runs in words, `cancel` ends it, `page` prints the link with the token."""
    async with serving(tmp_path) as (node, door):
        url = f"http://127.0.0.1:{door.port}"
        with announce_node(node.config, http=url, token="a token/with+signs"):
            assert await told(tmp_path, "page") == f"{url}/#token=a%20token%2Fwith%2Bsigns\n"
        with announce_node(node.config, http=url, token=TOKEN):
            assert await told(tmp_path, "jobs") == ""
            await door.post("fetch", b'{"ref": "alice/tiny"}', prefer="respond-async")
            with trio.fail_after(60):
                await door.story.started.wait()
            head, row = (await told(tmp_path, "jobs")).splitlines()
            assert head.split() == ["JOB", "OPERATION", "STATE", "DONE", "TOOK", "WHAT"]
            assert row.startswith("1    fetch      running  5 B of 10 B")
            assert row.endswith("alice/tiny")
            assert await told(tmp_path, "cancel", "1") == "cancelled fetch alice/tiny\n"
            assert "cancelled" in await told(tmp_path, "jobs")
    assert "none runs here" in await told(tmp_path, "page", code=7)


async def told(home: Path, *words: str, code: int = 0) -> str:
    """Run a command of the node of ``home``: what it prints, or complains of."""
    done = await trio.run_process(
        [sys.executable, "-m", "node.cli", *words],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=child_environ(home),
    )
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).decode()
