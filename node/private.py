"""The private network that this node is in: its swarm key, its members, and the verbs on both.

Two means, each of its own: a key, without which nobody gets a byte, and a list of peers, besides
whom nobody stays connected. A node that is told of a key and does not find it starts nowhere: it
must not end up in the public network by a lost file.

The key is a secret. It is in its file, and nowhere else: no status, no log, no answer of the
control API has it. All functions but ``change_members`` block for some disk accesses.
"""

import ipaddress
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from node import config as configuration
from node.config import Config, load_config
from node.keyfiles import make_folder, read_secret, write_secret
from node.kinds import split_endpoint
from node.messages import NetworkJoinParams, NetworkMembersParams
from p2p.errors import ConfigError, StoreError, UsageError
from p2p.swarmkey import SwarmKey

if TYPE_CHECKING:
    from p2p.host import Host

log = logging.getLogger(__name__)

Json = dict[str, Any]

FILE: Final = "swarm.key"
KEY: Final = "p2p.swarm_key"
MEMBERS: Final = "p2p.members"


class Node(Protocol):
    """What the verbs need of a node; one that runs has a ``host`` besides."""

    @property
    def config(self) -> Config: ...


def read_swarm_key(path: Path | None) -> SwarmKey | None:
    """Read the key that the configuration names; None without one, ConfigError when it is gone."""
    if path is None:
        return None
    data = read_secret(path)
    if data is None:
        raise ConfigError(
            f"{KEY} names {path}, which is not there.",
            next=f"Put the network's key there again, or leave it: allod config unset {KEY}",
        )
    try:
        return SwarmKey.parse(data.decode("ascii"))
    except (UsageError, UnicodeDecodeError):
        # Without the cause: a traceback must not show what may be most of a secret.
        raise StoreError(
            f"The file {path} is not a swarm key.",
            next="Put a backup of the key there; `allod network join` takes one from elsewhere.",
        ) from None


def open_private(config: Config) -> SwarmKey | None:
    """Return the key of this node's network, and log that it is in one, in one line.

    ConfigError where the gateway would give to everybody what the network is to keep.
    """
    key = read_swarm_key(config.p2p.swarm_key)
    text = describe(key, config.p2p.members)
    if text:
        log.info("%s", text)
        for endpoint in config.gateway.listen:
            host = ipaddress.ip_address(split_endpoint(endpoint)[0])
            if host.is_unspecified or host.is_global:
                raise ConfigError(
                    f"This node is in a private network, but gateway.listen, {endpoint}, would "
                    "give everybody what it holds.",
                    next="allod config unset gateway.listen, or name a private address of this "
                    "machine there.",
                )
    return key


def describe(key: SwarmKey | None, members: Sequence[str]) -> str:
    """Say in one line which private network this is; empty for the public one."""
    said = []
    if key is not None:
        said.append(f"swarm key {key.fingerprint}")
    if members:
        said.append(f"{len(members)} member{'s' * (len(members) != 1)}")
    return f"In a private network: {', '.join(said)}." if said else ""


def peers_file(config: Config, key: SwarmKey | None) -> Path:
    """Where the peers of earlier runs are kept; those of another network are not dialled."""
    name = f"peers-{key.fingerprint[:8]}.json" if key is not None else "peers.json"
    return config.folders.data / name


# -- the verbs


def new_network(config: Config) -> Json:
    """Make a new key and have this node in its network from the next start on."""
    return _enter(config, SwarmKey.generate())


def join_network(config: Config, params: NetworkJoinParams) -> Json:
    """Take over the key of a network that exists."""
    return _enter(config, SwarmKey.parse(params.key))


def _enter(config: Config, key: SwarmKey) -> Json:
    path = config.folders.keys / FILE
    make_folder(config.folders.keys)
    if not write_secret(path, key.text.encode()) and read_swarm_key(path) != key:
        raise UsageError(
            f"There is a swarm key already, {path}: it is not written over.",
            next=f"To leave that network for good: rm {shlex.quote(str(path))}",
        )
    configuration.set_value(config.folders.config_file, KEY, [str(path)])
    return {"ok": True, "file": str(path), "fingerprint": key.fingerprint}


def show_network(config: Config) -> Json:
    """Say which network this node is in, by the key's fingerprint."""
    key = read_swarm_key(config.p2p.swarm_key)
    return {
        "ok": True,
        "private": bool(key or config.p2p.members),
        "fingerprint": key.fingerprint if key is not None else None,
        "file": str(config.p2p.swarm_key) if key is not None else None,
        "members": list(config.p2p.members),
    }


async def change_members(node: Node, params: NetworkMembersParams) -> Json:
    """Add members and take some away, in config.toml and in the node that runs.

    The connections of who is no member any more end at once.
    """
    members = await trio.to_thread.run_sync(_write_members, node.config, params)
    host: Host | None = getattr(node, "host", None)  # what stands in for a node has none
    if host is not None:
        await host.set_members(members)
    return {"ok": True, "members": list(members), "running": host is not None}


def _write_members(config: Config, params: NetworkMembersParams) -> tuple[str, ...]:
    file = config.folders.config_file
    now = load_config()  # not what the node began with: members were added since
    origin = now.origins[MEMBERS]
    if origin not in ("default", f"in {file}"):
        raise ConfigError(
            f"{MEMBERS} stands {origin}, which beats {file}.", next="Change it there."
        )
    kept = [one for one in now.p2p.members if one not in params.remove]
    members = tuple(dict.fromkeys([*kept, *params.add]))
    if not members:
        raise UsageError(
            "Without any member everybody may connect.",
            next=f"If you want that: allod config unset {MEMBERS}, and start the node again.",
        )
    configuration.set_value(file, MEMBERS, members)
    return members
