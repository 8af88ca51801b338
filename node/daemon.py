"""The daemon: a node with its HTTP door, running until it is cancelled.

Leaving the block stops everything, in order: the door, the network, the store. There is no stop().
"""

import gc
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from node.api.control import control_routes
from node.api.gateway import Gateway
from node.api.hub import hub_routes
from node.api.loopback import loopback_app, serve_loopback
from node.api.metrics import behind, counted, counted_handler, metrics_routes
from node.api.mount import peer_routes
from node.api.ollama import ollama_routes
from node.api.openai import openai_routes
from node.api.page import page_routes
from node.api.peer import PeerApi
from node.api.public import serve_public
from node.api.read import read_routes
from node.config import Config
from node.messages import NoParams
from node.metrics import HttpCounts, LogCounts, counting_logs
from node.node import Node, open_node
from node.operations import OPERATIONS
from node.presence import announce_node, make_token
from node.reading import open_reader
from node.seeding import near_gateway
from node.serving.desk import open_serving
from p2p.licenses import check_expression


async def run_daemon(
    config: Config,
    *,
    ready: Callable[[dict[str, Any]], None],
    then: Callable[[Node], Awaitable[None]] | None = None,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node with its HTTP door until cancelled; ``ready`` gets its status once it serves.

    ``then`` is done after that; what it raises ends the node.
    """
    with counting_logs() as logs:
        await _run(config, ready, then, logs, task_status)


async def _run(
    config: Config,
    ready: Callable[[dict[str, Any]], None],
    then: Callable[[Node], Awaitable[None]] | None,
    logs: LogCounts,
    task_status: Any,
) -> None:
    token, http = make_token(config), HttpCounts()
    network = not config.p2p.offline
    async with (
        open_node(config, network=network, control_token=token) as node,
        open_reader(node) as node.reader,
        open_serving(node) as desk,
    ):
        routes = [
            *behind("control", control_routes(node, token)),
            *behind("read", read_routes(node.reader, token)),
            *behind("content", peer_routes(PeerApi(node.store, gate=node.gate))),
            *behind("metrics", metrics_routes(node, http, logs)),
            *behind("openai", openai_routes(desk)),
            *behind("page", page_routes()),  # before Ollama's, which has / for everybody else
            *behind("ollama", ollama_routes(desk)),
            *behind("hub", hub_routes(node, node.reader)),
        ]
        app = counted(loopback_app(routes, origins=config.serve.origins), http)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.jobs.run)
            url = await nursery.start(serve_loopback, app, config.http.port)
            node.http_url = url
            if config.gateway.listen and node.host is not None:
                gateway = partial(serve_public, listen=config.gateway.listen, budget=node.host)
                assert node.seeding is not None  # it came with the host
                given = node.seeding.guarded(Gateway(node.store, node.gate), near_gateway)
                public = counted_handler(given, "gateway", http)
                node.gateway_urls = tuple(await nursery.start(gateway, public))
            with announce_node(config, http=url, token=token):
                ready(await OPERATIONS["status"].run(node, NoParams(), lambda event: None))
                task_status.started()
                if then is not None:
                    await then(node)
                await trio.to_thread.run_sync(_warm_up)
                await trio.sleep_forever()


def _warm_up() -> None:
    """Have done what takes long once, before somebody waits for it: a cold command pays much."""
    import node.fetch
    import node.publish  # noqa: F401
    import p2p.naming.chain  # noqa: F401

    check_expression("MIT")  # which reads SPDX's list
    # What is there now stays for good. Looking through it for garbage, as the interpreter does now
    # and then, holds up every thread for a tenth of a second.
    gc.collect()
    gc.freeze()
