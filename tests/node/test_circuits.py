"""What the owner says of relays, and what can't be meant."""

from types import SimpleNamespace
from typing import Any

import pytest

from node.circuits import relay_settings
from node.settings import RelaySettings
from p2p.address import Address
from p2p.errors import ConfigError
from p2p.keys import SecretKey

PEER, OTHER = (SecretKey.generate().public.peer_id for _ in range(2))
ENDPOINT = "/ip4/192.0.2.7/tcp/9770"


def config(at: str) -> Any:
    """A configuration that names one relay."""
    return SimpleNamespace(relay=RelaySettings(at=(at,)))


def test_a_relay_is_named_by_its_own_address() -> None:
    """With its key: else anybody who answers there could be it."""
    named = f"{ENDPOINT}/p2p/{PEER}"
    assert relay_settings(config(named)).relays == (Address.parse(named),)


@pytest.mark.parametrize(
    "at", [ENDPOINT, f"{ENDPOINT}/p2p/{PEER}/p2p-circuit/p2p/{OTHER}", "/ip4/192.0.2.7/udp/1"]
)
def test_what_is_no_relay(at: str) -> None:
    """An address without a key, a place at another relay, and what this node can't dial."""
    with pytest.raises(ConfigError, match=r"relay\.at"):
        relay_settings(config(at))
