"""What the owner says of relays, in the words of ``p2p.relay``."""

import sys

from node.config import Config
from p2p.address import Address
from p2p.errors import ConfigError, UsageError
from p2p.relay.places import RelayLimits
from p2p.relay.relaying import RelaySettings


def relay_settings(config: Config) -> RelaySettings:
    """Return when this node uses relays, which, and what it is as one itself; ConfigError."""
    chosen = config.relay
    limits = RelayLimits(
        places=_most(chosen.places),
        circuits=_most(chosen.circuits),
        rate=chosen.rate,
        circuit_bytes=chosen.data,
    )
    relays = tuple(_relay(text) for text in chosen.at)
    return RelaySettings(chosen.use, chosen.serve, relays, limits)  # type: ignore[arg-type]


def _relay(text: str) -> Address:
    """Read the address of a relay: it must be known by its key, and be no place at another one."""
    try:
        address = Address.parse(text)
    except UsageError as exc:
        raise ConfigError(f"relay.at: {exc.message}", next=exc.next) from exc
    if address.peer is None or address.relay is not None:
        raise ConfigError(
            f"relay.at names {text}, which is no address of a relay.",
            next="Write it as the relay shows it when it starts: /ip4/.../tcp/.../p2p/PEER.",
        )
    return address


def _most(count: int | None) -> int:
    return sys.maxsize if count is None else count
