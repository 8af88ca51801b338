"""Commands about the private network that this node is in."""

import sys
from pathlib import Path

import click

from node.cli.run import Run, verb
from node.cli.text import count_text
from node.messages import NetworkJoinParams, NetworkMembersParams

MAX_KEY = 4096  # bytes of a key file that are read: a key has 95


@click.group(epilog="\b\nExample:\n  allod network show")
def network() -> None:
    """Keep this node among its own, by a key or by a list."""


@verb(example="allod network new", group=network)
def new(run: Run) -> int:
    """Make the key of a new private network.

    Whoever is to be in the network needs the file; this node is in it from its next start on.
    """
    found = run.call("network.new", here_only=True)
    run.note(f"Give {found['file']} to the other nodes, on a way that you trust:")
    run.note("`allod network join FILE` there. Whoever has it is in the network.")
    _tell_of_node(run)
    return run.show(found, [f"swarm key {found['fingerprint']}", f"file      {found['file']}"])


@verb(example="allod network join swarm.key", group=network)
@click.argument("file", metavar="FILE|-")
def join(run: Run, file: str) -> int:
    """Enter a private network by its key: a file, or - for standard input.

    Kubo's swarm.key is one too. The node is in the network from its next start on.
    """
    found = run.call("network.join", NetworkJoinParams(_read(file)), here_only=True)
    _tell_of_node(run)
    return run.show(found, [f"swarm key {found['fingerprint']}", f"file      {found['file']}"])


@verb(example="allod network show", group=network)
def show(run: Run) -> int:
    """Say which network this node is in: the fingerprint of its key, and its members."""
    found = run.call("network.show")
    if not found["private"]:
        return run.show(found, ["public: everybody may connect"])
    lines = [f"swarm key {found['fingerprint'] or 'none: connections are not closed to strangers'}"]
    if found["file"]:
        lines.append(f"file      {found['file']}")
    lines += [f"member    {peer}" for peer in found["members"]]
    if not found["members"]:
        lines.append("members   whoever has the key")
    return run.show(found, lines)


@verb(example="allod network add 12D3KooW...", group=network)
@click.argument("peers", nargs=-1, required=True, metavar="PEER...")
def add(run: Run, peers: tuple[str, ...]) -> int:
    """Let these peers connect, and nobody who is not named; takes effect at once.

    Both ends of a connection look, each at its own list.
    """
    return _change(run, NetworkMembersParams(add=peers))


@verb(example="allod network rm 12D3KooW...", group=network)
@click.argument("peers", nargs=-1, required=True, metavar="PEER...")
def rm(run: Run, peers: tuple[str, ...]) -> int:
    """Let these peers connect no longer; their open connections end at once."""
    return _change(run, NetworkMembersParams(remove=peers))


def _change(run: Run, params: NetworkMembersParams) -> int:
    found = run.call("network.members", params)
    return run.show(found, [f"{count_text(len(found['members']), 'member')} may connect"])


def _read(file: str) -> str:
    from p2p.errors import UsageError

    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_KEY)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(MAX_KEY)
    except OSError as exc:
        raise UsageError(f"The file {file} cannot be read: {exc.strerror}.") from exc
    return data.decode("ascii", errors="replace")


def _tell_of_node(run: Run) -> None:
    """Say that a node that runs is not in the network yet."""
    from node.presence import find_node

    if find_node(run.config().folders) is not None:
        run.note("The node that runs is in the network when it is started again.")
