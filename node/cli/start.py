"""Commands to start with: demo, up, status, peers."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from node.cli import INTERRUPTED
from node.cli.run import Run, verb
from node.cli.text import count_text, size_text, table

if TYPE_CHECKING:
    from node.config import Config
    from node.node import Node

LOG_FILE_SIZE = 5 << 20  # bytes; three files of it tell of weeks and never fill a disk
LOG_FILES = 3


@verb(example="allod demo")
@click.option("--chat/--no-chat", default=True,
              help="Whether a real model of 100 MB is downloaded, served and asked.")  # fmt: skip
def demo(run: Run, chat: bool) -> int:
    """Show the whole story in a minute.

    A few nodes on this machine publish, find and fetch; a damaged copy is caught; a small model
    answers a question.
    """
    from node.demo import main

    return main(as_json=run.as_json, quiet=run.quiet, chat=chat)


@verb(example="allod up --peer /ip4/192.0.2.7/tcp/9770/p2p/12D3KooW...")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR",
              help="Connect to this node; may be given several times.")  # fmt: skip
@click.option("--bootstrap", multiple=True, metavar="MULTIADDR",
              help="Enter the network through this node; may be given several times.")  # fmt: skip
@click.option("--port", metavar="PORT", help="TCP port for peers; 0 picks a free one.")
@click.option("--http-port", metavar="PORT", help="HTTP port on loopback; 0 picks a free one.")
@click.option("--up", "up_", metavar="RATE", help="Bytes a second sent, such as 10MB, or none.")
@click.option("--down", metavar="RATE", help="Bytes a second received, such as 10MB, or none.")
@click.option("--offline", is_flag=True, help="Touch no network; answer on loopback only.")
@click.option("--install-service", is_flag=True,
              help="Have this machine run it, with these options, from now on.")  # fmt: skip
def up(
    run: Run, peers: tuple[str, ...], bootstrap: tuple[str, ...],
    port: str | None, http_port: str | None, up_: str | None, down: str | None, offline: bool,
    install_service: bool,
) -> int:  # fmt: skip
    """Run the node until Ctrl-C or SIGTERM.

    Prints one line that starts with "ready" as soon as it serves.
    """
    from node.presence import find_node
    from p2p.errors import StoreBusy

    given: dict[str, str | Sequence[str] | None] = {
        "p2p.peers": peers,
        "p2p.bootstrap": bootstrap,
        "p2p.port": port,
        "http.port": http_port,
        "limits.up": up_,
        "limits.down": down,
        "p2p.offline": "true" if offline else None,
    }
    config = run.config({key: value for key, value in given.items() if value})
    if install_service:
        from node.cli.service import install_for

        return install_for(run, config)
    running = find_node(config.folders)
    if running is not None:
        raise StoreBusy(
            f"A node runs here already, as process {running.pid} at {running.http}.",
            next="`allod status` asks it; a second one needs an ALLOD_HOME of its own.",
        )
    start_logging(config)

    def ready(status: dict[str, Any]) -> None:
        shown = ",".join(status["addresses"])
        line = f"ready peer={status['peer']} http={status['http']} addresses={shown}"
        if status["gateway"]:
            line += f" gateway={','.join(status['gateway'])}"
        run.show(status, [line])
        sys.stdout.flush()  # a script waits for the line

    return run_node(config, ready)


def run_node(
    config: "Config",
    ready: Callable[[dict[str, Any]], None],
    then: "Callable[[Node], Awaitable[None]] | None" = None,
) -> int:
    """Run the daemon; the first signal ends it in order, a second one at once.

    ``then``: what is done once it serves; what that raises ends the node.
    """
    import logging
    import os
    import signal

    import trio

    from node.client import unwrap
    from node.config import service_manager
    from node.daemon import run_daemon
    from node.service import Manager

    code = 0
    log = logging.getLogger(__name__)
    manager = Manager(*service_manager())

    def serves(status: dict[str, Any]) -> None:
        ready(status)
        manager.tell("READY=1", f"STATUS=Answers at {status['http']}")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            work = trio.CancelScope()

            async def watch(task_status: Any) -> None:
                nonlocal code
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    task_status.started()
                    async for number in signals:
                        if work.cancel_called:
                            os._exit(INTERRUPTED)
                        code = INTERRUPTED if number == signal.SIGINT else 0
                        log.info("ending, by %s", signal.Signals(number).name)
                        manager.tell("STOPPING=1")
                        work.cancel()

            await nursery.start(watch)
            nursery.start_soon(manager.keep_alive)
            with work:
                await run_daemon(config, ready=serves, then=then)
            nursery.cancel_scope.cancel()
            log.info("stopped in order")

    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        raise unwrap(group) from group
    return code


def start_logging(config: "Config") -> None:
    """Log to stderr and to a file that is bounded."""
    import logging
    from logging.handlers import RotatingFileHandler

    from node.logs import log_layout

    layout = log_layout(config.log.format)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    try:
        config.folders.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers.append(
            RotatingFileHandler(
                config.folders.logs / "allod.log",
                maxBytes=LOG_FILE_SIZE,
                backupCount=LOG_FILES - 1,
                delay=True,
            )
        )
    except OSError:  # a node that can't write its log can still serve
        logging.getLogger(__name__).warning("no log file can be written")
    top = logging.getLogger()
    top.setLevel(logging.WARNING)
    for handler in handlers:
        handler.setFormatter(layout)
        top.addHandler(handler)
    for name in ("node", "p2p"):
        logging.getLogger(name).setLevel(config.log.level.upper())


@verb(example="allod status --json")
@click.argument("ref", default="")
def status(run: Run, ref: str) -> int:
    """Say who this node is and what it holds.

    With a release: how many healthy copies of it were seen, and whose. Those that are pledged are
    looked at all the time, others now.
    """
    if ref:
        from node.cli.pledge import show_copies

        return show_copies(run, ref)
    found = run.call("status")
    store = found["store"]
    quota = "no quota" if store["quota"] is None else f"quota {size_text(store['quota'])}"
    lines = [
        f"node       {'runs, ' + found['http'] if found['http'] else 'does not run'}",
        f"peer id    {found['peer']}",
        *(f"address    {address}" for address in found["addresses"]),
        *(f"gateway    {url}" for url in found["gateway"]),
        *_reach(found["reach"]),
        f"peers      {found['peers']}",
        f"store      {size_text(store['bytes'])}, {quota}",
        f"serves     {count_text(len(found['serving']), 'release')}",
        *_seeding(found["seeding"]),
    ]
    return run.show(found, lines)


def _reach(found: "dict[str, Any] | None") -> list[str]:
    """Write whether strangers get through to a running node."""
    if found is None:
        return []
    said = {
        "public": "from everywhere, as others have tried",
        "private": "not from outside, as others have tried",
        "unknown": "nobody has tried yet",
    }[found["verdict"]]
    if found["mapped"]:
        said += "; the router passes a port on"
    if found["relays"]:
        said += f"; by {count_text(len(found['relays']), 'relay')}"
    return [f"reached    {said}"]


def _seeding(found: "dict[str, Any] | None") -> list[str]:
    """Write to whom a running node gives, and how much of its month is used."""
    if found is None:
        return []
    month, allowed = size_text(found["month"]["sent"]), found["month"]["allowed"]
    used = month if allowed is None else f"{month} of {size_text(allowed)}"
    lines = [f"gives to   {found['audience']}, {used} sent this month"]
    return lines + ([f"           {found['closed']}"] if found["closed"] else [])


@verb(example="allod peers")
def peers(run: Run) -> int:
    """List the nodes that the running node is connected to."""
    found = run.call("peers", only_running=True)
    if not found["peers"]:
        run.note("Nobody yet. `allod up --peer` or `--bootstrap` names somebody to begin with.")
    rows = [(one["peer"], one["path"], " ".join(one["addresses"])) for one in found["peers"]]
    return run.show(found, table(("PEER", "PATH", "ADDRESSES"), rows))


@verb(example="allod limits --up 2MB --down none")
@click.option("--up", metavar="RATE", help="Bytes a second sent, to all peers together.")
@click.option("--down", metavar="RATE", help="Bytes a second received, from all peers together.")
@click.option("--up-per-peer", metavar="RATE", help="Bytes a second sent to any one peer.")
@click.option("--down-per-peer", metavar="RATE", help="Bytes a second received from any one peer.")
@click.option("--uploads", metavar="COUNT", help="How many peers are sent files at the same time.")
def limits(
    run: Run, up: str | None, down: str | None, up_per_peer: str | None,
    down_per_peer: str | None, uploads: str | None,
) -> int:  # fmt: skip
    """Show or change the limits of the running node.

    They hold until it ends; `allod config set` makes them last. The word none lifts a limit.
    """
    from node.messages import LimitsParams

    params = LimitsParams(
        up or "", down or "", up_per_peer or "", down_per_peer or "", uploads or ""
    )
    found = run.call("limits", params, only_running=True)
    lines = [
        f"{key.replace('_', ' '):14} {_limit(key, found[key])}"
        for key in ("up", "down", "up_per_peer", "down_per_peer", "uploads")
    ]
    return run.show(found, lines)


def _limit(key: str, value: int | None) -> str:
    if value is None:
        return "none"
    return str(value) if key == "uploads" else f"{size_text(value)} a second"
