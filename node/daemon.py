"""The daemon: a node with its HTTP door, running until it is cancelled.

Leaving the block stops everything, in order: the door, the network, the store. There is no stop().
"""

from collections.abc import Callable
from typing import Any

import trio

from node.api.control import control_routes
from node.api.loopback import loopback_app, serve_loopback
from node.api.mount import peer_routes
from node.api.peer import PeerApi
from node.config import Config
from node.messages import NoParams
from node.node import open_node
from node.operations import OPERATIONS
from node.presence import announce_node, make_token


async def run_daemon(
    config: Config,
    *,
    ready: Callable[[dict[str, Any]], None],
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node with its HTTP door until cancelled; ``ready`` gets its status once it serves."""
    async with open_node(config, network=not config.p2p.offline) as node:
        token = make_token(config)
        routes = [*control_routes(node, token), *peer_routes(PeerApi(node.store, gate=node.gate))]
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_loopback, loopback_app(routes), config.http.port)
            node.http_url = url
            with announce_node(config, http=url, token=token):
                ready(await OPERATIONS["status"].run(node, NoParams(), lambda event: None))
                task_status.started()
                await trio.to_thread.run_sync(_import_verbs)
                await trio.sleep_forever()


def _import_verbs() -> None:
    """Have the long imports done before somebody waits for them; they cost a cold command much."""
    import node.fetch
    import node.publish  # noqa: F401
