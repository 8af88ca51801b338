"""Reading peers.toml: the other bootstrap servers of a network.

Pure, but for the one read of the file.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from p2p.address import Address
from p2p.errors import ConfigError, UsageError

MAX_FILE = 1 << 20
"""Bytes of a peers file: a network of thousands of bootstrap servers would fit."""


@dataclass(frozen=True, slots=True)
class Server:
    """One bootstrap server and who answers for it."""

    operator: str
    contact: str
    addresses: tuple[str, ...]


def parse_servers(text: str) -> tuple[Server, ...]:
    """Read the text of a peers file; ConfigError names the entry that is wrong."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"The peers file is not TOML: {exc}.") from exc
    entries = document.pop("server", [])
    if document or not isinstance(entries, list):
        raise ConfigError("The peers file holds [[server]] tables and nothing else.")
    return tuple(_server(number, entry) for number, entry in enumerate(entries, 1))


def _server(number: int, entry: object) -> Server:
    where = f"[[server]] number {number} of the peers file"
    if not isinstance(entry, dict) or set(entry) - {"operator", "contact", "addresses"}:
        raise ConfigError(f"{where} may have operator, contact and addresses.")
    addresses = entry.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        raise ConfigError(f"{where} has no list of addresses.")
    for address in addresses:
        try:
            named = Address.parse(str(address)).peer is not None
        except UsageError as exc:
            raise ConfigError(f"{where}: {exc.message}", next=exc.next) from exc
        if not named:
            raise ConfigError(f"{where}: the address {address} ends in no /p2p/ and peer id.")
    operator, contact = entry.get("operator", ""), entry.get("contact", "")
    if not isinstance(operator, str) or not isinstance(contact, str):
        raise ConfigError(f"{where}: operator and contact are text.")
    return Server(operator, contact, tuple(addresses))


def read_servers(file: Path) -> tuple[Server, ...]:
    """Read a peers file; ConfigError when it is missing, too long or malformed."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE + 1)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The peers file {file} can't be read ({exc}).") from exc
    if len(raw) > MAX_FILE:
        raise ConfigError(f"The peers file {file} is over {MAX_FILE} bytes.")
    return parse_servers(text)


def addresses_but(servers: Iterable[Server], own: str) -> tuple[str, ...]:
    """Return all addresses but those of the server whose peer id is ``own``."""
    return tuple(
        address
        for server in servers
        for address in server.addresses
        if Address.parse(address).peer != own
    )
