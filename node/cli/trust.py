"""Commands about who may say what: keys."""

import click

from node.cli.run import Run, verb
from node.cli.text import table
from node.messages import KeyParams


@click.group(epilog="\b\nExample:\n  allod key new alice")
def key() -> None:
    """Make, list and back up the keys that sign what you publish."""


@verb(example="allod key new alice", group=key)
@click.argument("name")
def new(run: Run, name: str) -> int:
    """Make a publisher key; prints its publisher id."""
    found = run.call("key.new", KeyParams(name))
    return run.show(found, [found["publisher"]])


@verb(example="allod key list", group=key)
def list_(run: Run) -> int:
    """List this machine's publisher keys; secrets are not shown."""
    found = run.call("key.list")
    if not found["keys"]:
        run.note("None yet: `allod key new NAME` makes one.")
    rows = [(one["name"], one["publisher"]) for one in found["keys"]]
    return run.show(found, table(("NAME", "PUBLISHER"), rows))


@verb(example="allod key export alice > alice.key", group=key)
@click.argument("name")
def export(run: Run, name: str) -> int:
    """Print a publisher's secret key, for a backup; whoever has it can sign as you."""
    # A secret crosses no socket, so a node that runs is not asked.
    found = run.call("key.export", KeyParams(name), here_only=True)
    return run.show(found, found["secret"].splitlines())
