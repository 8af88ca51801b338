"""The one table of configuration keys: kind, default and help of each stand here and nowhere else.

The section classes are what the code reads (``config.p2p.port``); their fields are the table's
rows, and the reference page, ``allod config list`` and the error messages are read off them.
A new key is one new field. Pure: knows no file and no environment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from node.kinds import (
    ANNOUNCED,
    COUNT,
    ENDPOINTS,
    FILE,
    FLAG,
    FOLDER,
    HOSTS,
    HOURS,
    LICENSE_RULES,
    LIMIT,
    MULTIADDRS,
    PEER_IDS,
    PEERS,
    PORT,
    RATE,
    RATIO,
    SIZE,
    TIME,
    WORD,
    WORDS,
    Kind,
    one_of,
)
from p2p.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: everything that is known about a key."""

    key: str
    kind: Kind
    default: Any
    help: str
    default_text: str
    variables: tuple[str, ...]  # of the environment, the first one wins


def _key(
    kind: Kind, default: Any, help: str, *, shown: str | None = None, variable: str | None = None
) -> Any:
    """Declare a key: ``shown`` is the default as written, ``variable`` a short name for it."""
    about = {"kind": kind, "help": help, "shown": shown, "variable": variable}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The store: where it lies and how much it may take."""

    folder: Path = _key(  # noqa: RUF009 - declares a field, makes no default
        FOLDER, None, "where models and datasets are kept", shown="the data folder's `store`"
    )
    quota: int | None = _key(
        LIMIT, 200 << 30, "the most that the store may take; none lifts it", shown="200GiB"
    )
    reserve: int = _key(
        SIZE, 1 << 30, "room that the store always leaves free on its disk", shown="1GiB"
    )


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The peer-to-peer side."""

    port: int = _key(PORT, 9770, "TCP port for peers; 0 picks a free one")
    listen: tuple[str, ...] = _key(
        HOSTS, ("0.0.0.0",), "IP addresses of this machine that peers may reach", shown="0.0.0.0"
    )
    bootstrap: tuple[str, ...] = _key(
        MULTIADDRS, (), "nodes through which the network is entered", shown="empty"
    )
    peers: tuple[str, ...] = _key(
        MULTIADDRS, (), "nodes to connect to at every start", shown="empty"
    )
    dht: str = _key(
        one_of("server", "client"), "server", "server answers the DHT's questions, client only asks"
    )
    mdns: bool = _key(FLAG, True, "look for nodes on the local network and be seen by them")
    upnp: bool = _key(FLAG, True, "ask the router to pass the ports of peers and lanes on")
    announce: tuple[str, ...] = _key(
        ANNOUNCED, (), "what others are told instead of the addresses found", shown="empty"
    )
    swarm_key: Path | None = _key(  # noqa: RUF009 - declares a field, makes no default
        FILE, None, "file with the key of the private network that this node is in", shown="none"
    )
    members: tuple[str, ...] = _key(
        PEER_IDS, (), "peer ids that alone may connect; none named: everybody", shown="empty"
    )
    offline: bool = _key(FLAG, False, "touch no network at all", variable="ALLOD_OFFLINE")


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Reaching and being reached through other nodes, where nobody can dial this one."""

    use: str = _key(
        one_of("auto", "always", "never"),
        "auto",
        "be reached through relays; auto: while no address of this node's own leads here",
    )
    at: tuple[str, ...] = _key(
        MULTIADDRS, (), "the relays to use; empty: any that the network offers", shown="empty"
    )
    serve: str = _key(
        one_of("auto", "always", "never"),
        "auto",
        "be a relay for others; auto: while this node can be reached from everywhere",
    )
    places: int | None = _key(COUNT, 128, "peers that may be reached through this relay")
    circuits: int | None = _key(COUNT, 32, "circuits that it carries at the same time")
    rate: int | None = _key(
        RATE, 2 << 20, "bytes a second that all its circuits take together", shown="2MiB"
    )
    data: int = _key(SIZE, 1 << 30, "bytes each way after which a circuit ends", shown="1GiB")


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """Direct connections for payload."""

    enabled: bool = _key(FLAG, True, "offer fast direct connections to peers, and use theirs")
    port: int = _key(PORT, 0, "TCP port for lanes; 0 picks a free one")
    encryption: str = _key(
        one_of("tls", "off"), "tls", "off leaves lanes plain between nodes that both say so"
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much of the line this node may take; a second, for payload."""

    up: int | None = _key(RATE, None, "bytes a second sent, to all peers together", shown="none")
    down: int | None = _key(
        RATE, None, "bytes a second received, from all peers together", shown="none"
    )
    up_per_peer: int | None = _key(RATE, None, "bytes a second sent to any one peer", shown="none")
    down_per_peer: int | None = _key(
        RATE, None, "bytes a second received from any one peer", shown="none"
    )
    uploads: int | None = _key(
        COUNT, None, "how many peers are sent files at the same time", shown="none"
    )


@dataclass(frozen=True, slots=True)
class SeedingSettings:
    """What this node gives to others, and when; besides ``limits``."""

    audience: str = _key(
        one_of("public", "lan", "group", "none"), "public", "who is given what is held here"
    )
    group: tuple[str, ...] = _key(
        PEER_IDS, (), "peer ids that are given to by any audience but none", shown="empty"
    )
    by_license: tuple[str, ...] = _key(
        LICENSE_RULES,
        (),
        "narrower audiences of some licences or families: non-commercial=group",
        shown="empty",
    )
    hours: str = _key(HOURS, "always", "hours of the day in which it gives, by local time")
    month: int | None = _key(
        LIMIT, None, "the most that it sends in a calendar month", shown="none"
    )
    ratio: float | None = _key(
        RATIO, None, "sent by fetched bytes at which it stops giving what others published",
        shown="none",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The HTTP door on loopback."""

    port: int = _key(PORT, 9771, "HTTP port on loopback; 0 picks a free one")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The IPFS gateway for the public."""

    listen: tuple[str, ...] = _key(
        ENDPOINTS,
        (),
        "where everybody may read what is held, as from an IPFS gateway: 0.0.0.0:8080",
        shown="empty",
    )


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Models behind the OpenAI-compatible door."""

    engine: str = _key(
        one_of("auto", "llama-server", "xllamacpp", "transformers", "vllm"),
        "auto",
        "what runs models; auto takes the first that is installed and can",
    )
    context: int | None = _key(
        COUNT, 4096, "tokens of one request, prompt and answer; none: all that the model can"
    )
    slots: int | None = _key(COUNT, 2, "requests that one model answers at the same time")
    queue: int | None = _key(COUNT, 32, "requests to one model that may wait for a slot")
    threads: int | None = _key(
        COUNT, None, "threads of one engine; none: one less than there are cores", shown="none"
    )
    memory: int | None = _key(
        LIMIT, None, "memory of all engines together; none: 85 % of what is free", shown="none"
    )
    idle: float | None = _key(
        TIME, 900.0, "time without a request after which a model is unloaded", shown="15m"
    )
    start_within: float | None = _key(
        TIME, 120.0, "time in which an engine must be ready", shown="2m"
    )
    answer_within: float | None = _key(
        TIME,
        300.0,
        "time in which the next part of an answer must come, besides a second a token",
        shown="5m",
    )
    auth: str = _key(
        one_of("open", "token"), "open", "open: programs on this machine need no token"
    )
    origins: tuple[str, ...] = _key(
        WORDS, (), "web pages that may use the door: https://chat.example.org", shown="empty"
    )
    peers: tuple[str, ...] = _key(
        PEERS, (), "peer ids that may use what is shared; all: everybody", shown="empty"
    )
    moderation: str = _key(
        WORD, "none", "model, or URL of one, that is asked about prompts and answers"
    )
    convert: str = _key(
        one_of("auto", "f16", "bf16", "q8_0"), "auto", "what safetensors become for llama.cpp"
    )


@dataclass(frozen=True, slots=True)
class PledgeSettings:
    """Copies that this node helps to keep."""

    check: float | None = _key(
        TIME, 300.0, "time between two looks at what is pledged; none: it is not kept", shown="5m"
    )


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """What ``allod publish`` assumes."""

    key: str = _key(WORD, "default", "the publisher key that signs when none is named")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the node writes down."""

    level: str = _key(
        one_of("debug", "info", "warning", "error"),
        "info",
        "how much the node logs",
        variable="ALLOD_LOG",
    )
    format: str = _key(
        one_of("text", "json"), "text", "json: one object a line, for programs that read logs"
    )


SECTIONS: Mapping[str, type] = {
    "store": StoreSettings,
    "p2p": PeerSettings,
    "relay": RelaySettings,
    "lane": LaneSettings,
    "limits": LimitSettings,
    "seeding": SeedingSettings,
    "http": HttpSettings,
    "gateway": GatewaySettings,
    "serve": ServeSettings,
    "pledge": PledgeSettings,
    "publish": PublishSettings,
    "log": LogSettings,
}


def settings() -> Iterator[Setting]:
    """Yield the whole table, in the order of the reference page."""
    for section, cls in SECTIONS.items():
        for one in fields(cls):
            about, key = one.metadata, f"{section}.{one.name}"
            long = "ALLOD_" + key.replace(".", "_").upper()
            short = about["variable"]
            yield Setting(
                key=key,
                kind=about["kind"],
                default=one.default,
                help=about["help"],
                default_text=about["shown"] or show_value(one.default),
                variables=(short, long) if short else (long,),
            )


def find_setting(key: str) -> Setting:
    """Return the row of ``key``; ConfigError with the nearest name if there is none."""
    table = {setting.key: setting for setting in settings()}
    if key in table:
        return table[key]
    import difflib

    close = difflib.get_close_matches(key, table, n=1)
    raise ConfigError(
        f"There is no configuration key {key[:80]!r}.",
        next=f"Did you mean {close[0]}?" if close else "`allod config list` shows every key.",
    )


def show_value(value: object) -> str:
    """Write a value the way ``config set`` would take it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value)
    return str(value)
