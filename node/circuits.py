"""What the owner says of relays, in the words of ``p2p.relay``."""

import sys

from node.config import Config
from p2p.address import Address
from p2p.relay.places import RelayLimits
from p2p.relay.relaying import RelaySettings


def relay_settings(config: Config) -> RelaySettings:
    """Return when this node uses relays, which, and what it is as one itself."""
    chosen = config.relay
    limits = RelayLimits(
        places=_most(chosen.places),
        circuits=_most(chosen.circuits),
        rate=chosen.rate,
        circuit_bytes=chosen.data,
    )
    relays = tuple(Address.parse(text) for text in chosen.at)
    return RelaySettings(chosen.use, chosen.serve, relays, limits)  # type: ignore[arg-type]


def _most(count: int | None) -> int:
    return sys.maxsize if count is None else count
