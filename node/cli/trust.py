"""Commands about who may say what: publishers, their keys, and what several people sign."""

from pathlib import Path
from typing import Any

import click

from node.cli.run import Run, verb
from node.cli.text import table
from node.messages import (
    KeyFileParams,
    KeyMembersParams,
    KeyNewParams,
    KeyParams,
    KeySignParams,
)

_ROLES = click.Choice(["root", "targets", "online"])
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(epilog="\b\nExample:\n  allod key new alice")
def key() -> None:
    """Make publishers; keep, replace and share their keys."""


@verb(example="allod key new alice", group=key)
@click.argument("name")
@click.option("--member", "members", multiple=True, help="The did:key of another who may sign.")
@click.option("--threshold", type=int, default=1, help="How many of all have to sign.")
def new(run: Run, name: str, members: tuple[str, ...], threshold: int) -> int:
    """Make a publisher; prints its publisher id."""
    found = run.call("key.new", KeyNewParams(name, members, threshold))
    if not found["publisher"]:
        run.note("It has an id once enough have signed this file with `allod key sign`:")
    return run.show(found, [found["publisher"] or found["proposal"]])


@verb(example="allod key list", group=key)
def list_(run: Run) -> int:
    """List this machine's publishers; secrets are not shown."""
    found = run.call("key.list")
    if not found["keys"]:
        run.note("None yet: `allod key new NAME` makes one.")
    rows = [(one["name"], one["publisher"] or "waits for signatures") for one in found["keys"]]
    return run.show(found, table(("NAME", "PUBLISHER"), rows))


@verb(example="allod key show alice", group=key)
@click.argument("name")
def show(run: Run, name: str) -> int:
    """Show who speaks for a publisher, until when, and which of its keys are here."""
    found = run.call("key.show", KeyParams(name))
    rows = [
        (role, f"{one['threshold']} of {len(one['keys'])}", one["expires"][:10], key_, here)
        for role, one in found["roles"].items()
        for key_ in one["keys"]
        for here in ["here" if key_ == one["here"] else ""]
    ]
    head = [found["publisher"] or "not founded yet", *_waiting(found)]
    return run.show(found, [*head, *table(("ROLE", "TAKES", "UNTIL", "KEY", ""), rows)])


@verb(example="allod key export alice > alice.key", group=key)
@click.argument("name")
@click.option("--role", type=_ROLES, default="targets", help="Which of its keys.")
def export(run: Run, name: str, role: str) -> int:
    """Print a publisher's secret key, for a backup; whoever has it can sign as you."""
    # A secret crosses no socket, so a node that runs is not asked.
    found = run.call("key.export", KeyParams(name, role), here_only=True)
    return run.show(found, found["secret"].splitlines())


@verb(example="allod key lock alice /media/stick/alice-root.key", group=key)
@click.argument("name")
@click.argument("file", type=_FILE)
def lock(run: Run, name: str, file: Path) -> int:
    """Move a publisher's root key into a file elsewhere, so that it is kept offline."""
    params = KeyFileParams(str(file.absolute()), name)
    found = run.call("key.lock", params, here_only=True)
    run.note("Take the medium out, and make a copy: without this key no other can be replaced.")
    return run.show(found, [found["root"]])


@verb(example="allod key rotate alice --role targets", group=key)
@click.argument("name")
@click.option("--role", type=_ROLES, default="targets", help="Which key is replaced.")
def rotate(run: Run, name: str, role: str) -> int:
    """Replace a key of a publisher: the old one signs nothing more, the id stays."""
    return _tell(run, run.call("key.rotate", KeyParams(name, role)))


@verb(example="allod key members acme --add did:key:z6Mk... --threshold 2", group=key)
@click.argument("name")
@click.option("--add", multiple=True, help="The did:key of one who may sign from now on.")
@click.option("--remove", multiple=True, help="The did:key of one who no longer may.")
@click.option("--threshold", type=int, default=0, help="How many of all have to sign.")
def members(
    run: Run, name: str, add: tuple[str, ...], remove: tuple[str, ...], threshold: int
) -> int:
    """Change who signs for a publisher, and how many it takes."""
    return _tell(run, run.call("key.members", KeyMembersParams(name, add, remove, threshold)))


@verb(example="allod key renew alice", group=key)
@click.argument("name")
def renew(run: Run, name: str) -> int:
    """Sign all that a publisher says anew, before it expires."""
    return _tell(run, run.call("key.renew", KeyParams(name)))


@verb(example="allod key sign tiny@1.proposal.json --key bob", group=key)
@click.argument("file", type=_FILE)
@click.option("--key", "keys", multiple=True, help="The publisher of this machine that signs.")
@click.option("--secret", "secrets", multiple=True, type=_FILE, help="A file with a secret key.")
@click.option("--show", is_flag=True, help="Only show what would be signed.")
def sign(run: Run, file: Path, keys: tuple[str, ...], secrets: tuple[Path, ...], show: bool) -> int:
    """Show what a proposal changes, and add your signature to it."""
    paths = tuple(str(one.absolute()) for one in secrets)
    params = KeySignParams(str(file.absolute()), keys, paths, show)
    found = run.call("key.sign", params, here_only=True)
    missing = found["missing"]
    run.note(f"It needs {missing} more." if missing else "It has enough: `allod key apply`.")
    who = found["publisher"] or "a publisher that is not founded yet"
    return run.show(found, [f"for {who}", *found["changes"]])


@verb(example="allod key apply tiny@1.proposal.json", group=key)
@click.argument("file", type=_FILE)
@click.option("--as", "name", default="", help="The publisher of this machine that it is about.")
def apply(run: Run, file: Path, name: str) -> int:
    """Put a proposal into force that enough have signed."""
    found = run.call("key.apply", KeyFileParams(str(file.absolute()), name))
    return run.show(found, found["changes"])


def _tell(run: Run, found: dict[str, Any]) -> int:
    """Say what came of a change."""
    return run.show(found, _waiting(found) or [found["publisher"]])


def _waiting(found: dict[str, Any]) -> list[str]:
    """Say what others have to do."""
    if not found["proposal"]:
        return []
    missing = found.get("missing", 0)
    count = f"{missing} more signature{'s' if missing > 1 else ''}" if missing else "signatures"
    return [f"It waits for {count}: allod key sign {found['proposal']}"]
