"""The private network, as far as this machine can see it: the key, the list of members."""

import shlex
from collections.abc import Iterator

from node.config import Config
from node.doctor.finding import Finding
from node.private import FILE, KEY, describe, read_swarm_key


def look_at_private(config: Config) -> Iterator[Finding]:
    """Say which private network this node is in, if any, and what does not fit it.

    Blocks for a disk access; ConfigError and StoreError as ``read_swarm_key``.
    """
    key = read_swarm_key(config.p2p.swarm_key)
    members = config.p2p.members
    if text := describe(key, members):
        yield Finding("network", "ok", text)
    left = config.folders.keys / FILE
    if key is None and left.exists():
        said = f"There is a swarm key, {left}, that is not used: this node's network is not closed."
        fix = f"allod config set {KEY} {shlex.quote(str(left))}, or remove the file."
        yield Finding("network", "warning", said, fix)
    for address in (*config.p2p.bootstrap, *config.p2p.peers):
        peer = address.rpartition("/p2p/")[2]
        if members and peer not in members:
            said = f"{address} is named as a way into the network, and is no member of it."
            yield Finding("network", "warning", said, f"allod network add {peer}")
