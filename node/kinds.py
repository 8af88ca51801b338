"""The kinds of values that a configuration key can have: how each is read, parsed and written.

Pure text work: knows no key, no file and no environment.
A kind refuses what it doesn't understand; it never guesses and never rounds a value into range.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p.address import Address
from p2p.errors import UsageError

_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,6})?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|m|h|d|)")
_HOURS = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d|24:00)")
_LICENSE_RULE = re.compile(r"([A-Za-z0-9.+-]{1,100})=(public|lan|group|none)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: its name, what it expects in words, and how it is read and written.

    ``read`` takes what a TOML file may hold and ``parse`` the words of a flag or of the
    environment; both raise ValueError. ``write`` gives what ``config set`` puts into the file.
    """

    name: str
    expects: str
    read: Callable[[object], Any]
    parse: Callable[[str], Any]
    write: Callable[[str], object]
    many: bool = False


def one_of(*choices: str) -> Kind:
    """Make the kind whose values are exactly these words."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return Kind("choice", f"one of {', '.join(choices)}", read, read, str)


def _read_port(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise ValueError
    return value


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError
    return _read_port(int(text[:6]))


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _parse_flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError


def _read_size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str) or not (match := _SIZE.fullmatch(value.strip())):
        raise ValueError
    number, unit, binary = match.groups()
    step = 1024 if binary else 1000
    return int(float(number) * step ** _POWERS[unit.lower()]) if unit else int(float(number))


def _read_limit(value: object) -> int | None:
    return None if value == "none" else _read_size(value)


def _read_rate(value: object) -> int | None:
    return _read_limit(value.strip().removesuffix("/s") if isinstance(value, str) else value)


def _read_count(value: object) -> int | None:
    if value == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
        raise ValueError
    return value


def _parse_count(text: str) -> int | None:
    if text != "none" and not (text.isascii() and text.isdecimal() and len(text) < 8):
        raise ValueError
    return _read_count(text if text == "none" else int(text))


def _write_count(text: str) -> object:
    return text if _parse_count(text) is None else int(text)


def _read_folder(value: object) -> Path:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    folder = Path(value).expanduser()
    if not folder.is_absolute():
        raise ValueError
    return folder


def _read_file(value: object) -> Path | None:
    return None if value == "none" else _read_folder(value)


def _read_word(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError
    return value


def _list_of(name: str, expects: str, read_one: Callable[[object], str]) -> Kind:
    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError
        return tuple(read_one(item) for item in value)

    def words(text: str) -> list[str]:
        return text.replace(",", " ").split()

    return Kind(name, expects, read, lambda text: read(words(text)), words, many=True)


def _read_multiaddr(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(/[\x21-\x2e\x30-\x7e]+)+", value):
        raise ValueError
    return value


def _read_own_address(value: object) -> str:
    try:
        return str(Address.parse(_read_multiaddr(value)).at(None))
    except UsageError as exc:
        raise ValueError from exc


def _read_seconds(value: object) -> float | None:
    if value == "none":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e8:
        return float(value)
    if not isinstance(value, str) or not (match := _TIME.fullmatch(value.strip())):
        raise ValueError
    return _read_seconds(float(match[1]) * _UNITS[match[2]])


def _read_ratio(value: object) -> float | None:
    if value == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise ValueError
    return float(value)


def _parse_ratio(text: str) -> float | None:
    if text != "none" and not re.fullmatch(r"\d{1,7}(\.\d{1,3})?", text):
        raise ValueError
    return _read_ratio(text if text == "none" else float(text))


def _write_ratio(text: str) -> object:
    return text if _parse_ratio(text) is None else _parse_ratio(text)


def _read_hours(value: object) -> str:
    if value in ("", "always"):
        return "always"
    if not isinstance(value, str) or not (match := _HOURS.fullmatch(value)):
        raise ValueError
    if match[1] == match[2].replace("24:00", "00:00"):  # all day, or never?
        raise ValueError
    return value


def _read_license_rule(value: object) -> str:
    from p2p.licenses import FAMILIES, spdx_id

    if not isinstance(value, str) or not (match := _LICENSE_RULE.fullmatch(value)):
        raise ValueError
    name, audience = match.groups()
    if not (name in FAMILIES or name.startswith("LicenseRef-")):
        name = spdx_id(name) or ""  # a misspelt name would hold back nothing
    if not name:
        raise ValueError
    return f"{name}={audience}"


def _read_peer_id(value: object) -> str:
    if value == "all":
        raise ValueError
    return _read_peer(value)


def _read_peer(value: object) -> str:
    # Ed25519 keys, and the hashes of older ones, in base58: p2p/keys.py writes the first.
    if not isinstance(value, str) or not re.fullmatch(
        r"all|(12D3KooW|Qm)[1-9A-HJ-NP-Za-km-z]{44}", value
    ):
        raise ValueError
    return value


def split_endpoint(text: str) -> tuple[str, int]:
    """Return the IP address and the port of ``192.0.2.1:80`` or ``[::]:80``; ValueError."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    if ipaddress.ip_address(bare).version != (4 if bare == host else 6):
        raise ValueError
    return bare, _parse_port(port)


def _read_endpoint(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    split_endpoint(value)
    return value


PORT = Kind("port", "a whole number from 0 to 65535", _read_port, _parse_port, _parse_port)
FLAG = Kind("true or false", "true or false", _read_flag, _parse_flag, _parse_flag)
SIZE = Kind("size", "a size such as 500MB or 20GiB", _read_size, _read_size, str)
LIMIT = Kind(
    "size or none", "a size such as 500MB or 20GiB, or none", _read_limit, _read_limit, str
)
RATE = Kind("rate or none", "bytes a second such as 5MB/s, or none", _read_rate, _read_rate, str)
COUNT = Kind("count or none", "a whole number, or none", _read_count, _parse_count, _write_count)
TIME = Kind(
    "time or none", "a time such as 90s, 15m or 2h, or none", _read_seconds, _read_seconds, str
)
RATIO = Kind("number or none", "a number such as 2 or 1.5, or none", _read_ratio, _parse_ratio,
             _write_ratio)  # fmt: skip
HOURS = Kind(
    "hours", "hours of the day such as 22:00-07:00, or always", _read_hours, _read_hours, str
)
FOLDER = Kind("folder", "an absolute folder, or one under ~", _read_folder, _read_folder, str)
FILE = Kind("file or none", "an absolute path of a file, or none", _read_file, _read_file, str)
WORD = Kind("word", "a short printable text", _read_word, _read_word, str)
WORDS = _list_of("words", "words, separated by spaces", _read_word)
PEER_IDS = _list_of("peer ids", "peer ids such as 12D3KooW...", _read_peer_id)
LICENSE_RULES = _list_of(
    "licence rules",
    "licences or families, each with public, lan, group or none: non-commercial=group",
    _read_license_rule,
)
PEERS = _list_of("peer ids", "peer ids such as 12D3KooW..., or all", _read_peer)
HOSTS = _list_of("addresses", "IP addresses such as 0.0.0.0", _read_word)
ENDPOINTS = _list_of(
    "endpoints", "IP addresses with ports such as 0.0.0.0:8080 or [::]:8080", _read_endpoint
)
ANNOUNCED = _list_of(
    "multiaddrs of this node", "multiaddrs such as /ip4/192.0.2.1/tcp/9770", _read_own_address
)
MULTIADDRS = _list_of(
    "multiaddrs", "multiaddrs such as /ip4/192.0.2.1/tcp/9770/p2p/12D3KooW...", _read_multiaddr
)
