"""How a command gets its operation done: by the running node, or in this process where none runs.

The control API is spoken with the standard library's HTTP client, in the main thread: a command
that only asks a running node pays for no trio and no libp2p.
The same operations run here, under trio, where there is no node; the person is told so.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from node.config import Config
from node.messages import (
    MAX_LINE,
    Event,
    Failure,
    NoParams,
    Note,
    Progress,
    Result,
    decode,
    to_json,
)
from node.presence import Presence, card_file, find_node
from p2p.errors import AllodError, NoNode, culprit

if TYPE_CHECKING:
    from node.accounts import Accounts
    from node.keyring import Keyring
    from node.operations import Node, Operation

CONNECT_TIMEOUT = 5.0  # seconds; a live node on loopback accepts at once
SILENCE = 60.0  # seconds; a live node sends a blank line every ten (see api/control.py)
MAX_ERROR = 65_536  # bytes of an error's body

Json = dict[str, Any]
Listen = Callable[[Event], None]


def call(
    config: Config,
    name: str,
    params: object = NoParams(),
    *,
    listen: Listen = lambda event: None,
    only_running: bool = False,
    here_only: bool = False,
) -> Json:
    """Have one operation done and return its result's object.

    ``listen`` gets the events, in this thread. With ``only_running`` there is no fall-back to this
    process, with ``here_only`` no running node is asked. Raises the operation's own AllodError, or
    NoNode.
    """
    presence = None if here_only else find_node(config.folders)
    if presence is not None:
        try:
            return ask(presence, config, name, params, listen)
        except ConnectionRefusedError:
            presence = None  # it died without tidying up
    if only_running:
        raise NoNode(
            "This needs a running node, but none runs here.",
            next="Start one with `allod up` in another terminal.",
        )
    return run_here(config, name, params, listen)


def ask(presence: Presence, config: Config, name: str, params: object, listen: Listen) -> Json:
    """Have a running node do it. ConnectionRefusedError if nothing listens there any more."""
    import http.client
    from urllib.parse import urlsplit

    where = urlsplit(presence.http)
    token = config.token or presence.token()
    connection = http.client.HTTPConnection(
        where.hostname or "127.0.0.1", where.port, timeout=CONNECT_TIMEOUT
    )
    response: http.client.HTTPResponse | None = None
    try:
        connection.connect()
        connection.sock.settimeout(SILENCE)
        connection.request(
            "POST",
            f"/control/v1/{name}",
            json.dumps(to_json(params)).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
        )
        response = connection.getresponse()
        if response.status != 200:
            raise _refused(response.status, response.read(MAX_ERROR), config)
        if response.getheader("content-type") != "application/x-ndjson":
            raise _stranger(config)
        while line := response.readline(MAX_LINE + 1):
            message = decode(line)
            if isinstance(message, Progress | Note):
                listen(message)
            elif isinstance(message, Failure):
                raise message.error()
            elif isinstance(message, Result):
                return message.value
    except ConnectionRefusedError:
        raise
    except TimeoutError as exc:
        raise NoNode(
            f"The node should answer at {presence.http}, but it has been silent for too long.",
            next=f"Look at process {presence.pid}; stop it if it hangs, then `allod up` again.",
        ) from exc
    except (OSError, http.client.HTTPException) as exc:
        raise _died(presence) from exc
    finally:
        if response is not None:
            response.close()
        connection.close()
    raise _died(presence)


def _died(presence: Presence) -> NoNode:
    return NoNode(
        f"The node at {presence.http} went away before the work was done.",
        next="Start it again with `allod up`; the same command goes on where it was.",
    )


def _stranger(config: Config) -> NoNode:
    return NoNode(
        "Another program answers where the node of this machine should.",
        next=f"If no node runs, remove {card_file(config.folders)}.",
    )


def _refused(status: int, body: bytes, config: Config) -> AllodError:
    """Turn an answer other than 200 into the error that it tells of."""
    if status == 401:
        return NoNode(
            "The running node does not accept this token.",
            next="Unset ALLOD_TOKEN, or give it the value that the node was started with.",
        )
    with suppress(ValueError, RecursionError, TypeError, KeyError):
        error = json.loads(body)["error"]
        return Failure(str(error["code"]), str(error["message"]), str(error["next"])).error()
    return _stranger(config)


def run_here(config: Config, name: str, params: object, listen: Listen) -> Json:
    """Do it in this process, with as much of a node as the operation needs."""
    import trio

    from node.operations import OPERATIONS
    from p2p.references import parse_reference

    operation = OPERATIONS[name]
    if operation.needs == "network":
        ref = getattr(params, "ref", None)
        if ref is not None:  # a slip of the hand is told before a node starts for it
            parse_reference(ref)
        listen(Note("No node runs here, so this command runs one for as long as it needs it."))
    try:
        return trio.run(_run_here, config, operation, params, listen)
    except BaseExceptionGroup as group:
        raise unwrap(group) from group


class BareNode:
    """As much of a node as an operation gets that needs only the configuration and the keys."""

    accounts: "Accounts | None" = None  # who wants them opens the ledger itself

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def keyring(self) -> "Keyring":
        """The keys; their folder is made on first use."""
        from node.keyring import Keyring

        return Keyring(self.config.folders.keys)


async def _run_here(
    config: Config, operation: "Operation[Any]", params: object, listen: Listen
) -> Json:
    from node.operations import perform

    if operation.needs == "nothing":
        return await perform(cast("Node", BareNode(config)), operation, params, listen)
    from node.node import open_node

    network = operation.needs == "network" and not (
        config.p2p.offline or getattr(params, "offline", False)
    )
    async with open_node(config, network=network) as node:
        return await perform(node, operation, params, listen)


def unwrap(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error that a nursery's group stands for: Ctrl-C, ours, or the first bug."""
    if group.subgroup(KeyboardInterrupt):
        return KeyboardInterrupt()
    return culprit(group)
