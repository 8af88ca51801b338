"""Commands about the running node's page, and about what it works on: page, jobs, cancel."""

import time

import click

from node.cli.run import Run, verb
from node.cli.text import duration_text, size_text, table
from node.messages import JobParams
from node.presence import find_node
from p2p.errors import NoNode


@verb(example="allod page")
@click.option("--open", "open_", is_flag=True, help="Open it in a browser, too.")
def page(run: Run, open_: bool) -> int:
    """Print the link of the running node's page.

    The link has the node's token behind the #, which no browser sends anywhere: who has it may do
    all that the owner may, until the node ends.
    """
    from urllib.parse import quote

    config = run.config()
    presence = find_node(config.folders)
    token = "" if presence is None else config.token or presence.token()
    if presence is None or not token:
        raise NoNode(
            "The page is a running node's, but none runs here.",
            next="Start one with `allod up` in another terminal.",
        )
    url = f"{presence.http}/#token={quote(token, safe='')}"
    opened = False
    if open_:
        import webbrowser

        opened = webbrowser.open(url)
        if not opened:
            run.note("No browser could be started here; open the link yourself.")
    return run.show({"ok": True, "url": url, "opened": opened}, [url])


@verb(example="allod jobs")
def jobs(run: Run) -> int:
    """List what the running node works on, and what it worked on lately."""
    found = run.call("jobs", only_running=True)
    if not found["jobs"]:
        run.note("Nothing since it started.")
    now = time.time()
    rows = [
        (
            str(one["job"]),
            one["operation"],
            one["state"],
            _done(one),
            duration_text((one["ended"] or now) - one["since"]),
            one["subject"],
        )
        for one in found["jobs"]
    ]
    return run.show(found, table(("JOB", "OPERATION", "STATE", "DONE", "TOOK", "WHAT"), rows))


def _done(one: dict[str, object]) -> str:
    progress = one["progress"]
    if not isinstance(progress, dict):
        return "-"
    done, total = progress["done"], progress["total"]
    if progress["unit"] != "B":
        return f"{done}/{total} {progress['unit']}" if total else f"{done} {progress['unit']}"
    return f"{size_text(done)} of {size_text(total)}" if total else size_text(done)


@verb(example="allod cancel 7")
@click.argument("job", type=int)
def cancel(run: Run, job: int) -> int:
    """End a job of the running node, by its number in `allod jobs`.

    What has come is kept: the same command goes on where it was.
    """
    found = run.call("cancel", JobParams(job), only_running=True)
    what = f"{found['operation']} {found['subject']}".strip()
    return run.show(found, [] if run.quiet else [f"cancelled {what}"])
