"""What the owner of this machine chose: folders, ports, limits.

One frozen ``Config`` is made at the start of a process and handed down; nothing below asks again.
Four layers, each beating the one before: the defaults here, ``config.toml``, the environment,
the flags of the command line.
Which keys there are stands in ``node/settings.py``.

This is the only module that reads ``os.environ``.
It opens no network, no store and no key, and it never writes but through ``set_value`` and
``unset_value``, which keep the owner's comments.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from node.settings import (
    SECTIONS,
    GatewaySettings,
    HttpSettings,
    LaneSettings,
    LimitSettings,
    LogSettings,
    PeerSettings,
    PledgeSettings,
    PublishSettings,
    RelaySettings,
    SeedingSettings,
    ServeSettings,
    Setting,
    StoreSettings,
    find_setting,
    settings,
    show_value,
)
from p2p.errors import ConfigError

MAX_CONFIG_FILE = 1 << 20  # bytes; a hand-written file is some KiB, a wrong path may be a model
MAX_TEXT = 4096  # characters of one value: longer than any path or multiaddr that works
MIN_TOKEN = 16  # characters of ALLOD_TOKEN: fewer could be guessed by a local program


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the node's own files lie; ``run`` holds what only a running node has."""

    config_file: Path
    data: Path
    keys: Path
    logs: Path
    run: Path


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that was chosen, and by which layer (``origins``: key -> a few words)."""

    folders: Folders
    store: StoreSettings
    p2p: PeerSettings
    relay: RelaySettings
    lane: LaneSettings
    limits: LimitSettings
    seeding: SeedingSettings
    http: HttpSettings
    gateway: GatewaySettings
    serve: ServeSettings
    pledge: PledgeSettings
    publish: PublishSettings
    log: LogSettings
    token: str = field(default="", repr=False)  # ALLOD_TOKEN: a secret, so never in the file
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    def value(self, key: str) -> Any:
        """Return the value of ``section.name``; ConfigError if there is no such key."""
        find_setting(key)
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)


# -- reading the layers


def find_folders(environ: Mapping[str, str] | None = None) -> Folders:
    """Return where this node's files lie: under ALLOD_HOME if set, else where XDG puts them."""
    env = os.environ if environ is None else environ
    home = env.get("ALLOD_HOME", "")
    if home:
        top = Path(home).expanduser().absolute()
        config, data, state = top, top, top
    else:
        config = _xdg(env, "XDG_CONFIG_HOME", ".config")
        data = _xdg(env, "XDG_DATA_HOME", ".local/share")
        # Not XDG_RUNTIME_DIR: a cron job or a service has none, and must find the same node.
        state = _xdg(env, "XDG_STATE_HOME", ".local/state")
    chosen = env.get("ALLOD_CONFIG", "")
    return Folders(
        config_file=Path(chosen).expanduser().absolute() if chosen else config / "config.toml",
        data=data,
        keys=data / "keys",
        logs=state / "logs",
        run=state / "run",
    )


def _xdg(env: Mapping[str, str], variable: str, usual: str) -> Path:
    # The XDG specification: a relative path in these variables is to be ignored.
    chosen = Path(env.get(variable, ""))
    top = chosen if chosen.is_absolute() else Path("~").expanduser() / usual
    return top / "allod"


def load_config(
    flags: Mapping[str, str | Sequence[str]] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    read_file: bool = True,
) -> Config:
    """Put the four layers together; without ``read_file`` all but the file.

    ``flags`` maps keys to text, or to a sequence of texts for a key that holds many.
    ConfigError names the key, what it expects, what came, and where that stands.
    """
    env = os.environ if environ is None else environ
    folders = find_folders(env)
    table = {setting.key: setting for setting in settings()}
    values: dict[str, Any] = {key: setting.default for key, setting in table.items()}
    values["store.folder"] = folders.data / "store"
    origins = dict.fromkeys(table, "default")

    file = _read_file(folders.config_file) if read_file else {}
    for key, raw in file.items():
        place = f"in {folders.config_file}"
        values[key] = _convert(find_setting(key), raw, place, from_text=False)
        origins[key] = place
    for key, setting in table.items():
        for variable in setting.variables:
            if env.get(variable):  # empty counts as not set, as in most programs
                place = f"in the environment variable {variable}"
                values[key] = _convert(setting, env[variable], place, from_text=True)
                origins[key] = place
                break
    for key, given in (flags or {}).items():
        text = given if isinstance(given, str) else " ".join(given)
        values[key] = _convert(find_setting(key), text, "on the command line", from_text=True)
        origins[key] = "on the command line"

    sections = {
        name: cls(**{one.name: values[f"{name}.{one.name}"] for one in fields(cls)})
        for name, cls in SECTIONS.items()
    }
    return Config(folders=folders, token=_read_token(env), origins=origins, **sections)


def _convert(setting: Setting, raw: object, place: str, *, from_text: bool) -> Any:
    try:
        if isinstance(raw, str) and len(raw) > MAX_TEXT * (16 if setting.kind.many else 1):
            raise ValueError
        return setting.kind.parse(str(raw)) if from_text else setting.kind.read(raw)
    except (ValueError, RuntimeError) as exc:  # RuntimeError: no home folder for ~
        usual = "" if setting.key == "store.folder" else setting.default_text
        raise ConfigError(
            f"{setting.key} expects {setting.kind.expects}, but {_clip(raw)!r} came ({place}).",
            next=f"The default is {usual}." if usual else "`allod config list` shows every key.",
        ) from exc


def _clip(value: object) -> object:
    text = str(value)
    return value if len(text) <= 80 else text[:77] + "..."


def _read_token(env: Mapping[str, str]) -> str:
    token = env.get("ALLOD_TOKEN", "")
    if token and not re.fullmatch(rf"[\x21-\x7e]{{{MIN_TOKEN},256}}", token):
        raise ConfigError(
            f"ALLOD_TOKEN expects {MIN_TOKEN} to 256 printable ASCII characters without spaces, "
            f"but {len(token)} characters came that do not fit.",
            next="`openssl rand -hex 32` makes a good one.",
        )
    return token


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_CONFIG_FILE + 1)
        if len(data) > MAX_CONFIG_FILE:
            raise ConfigError(
                f"{file} is larger than the {MAX_CONFIG_FILE >> 20} MiB that a config.toml may be."
            )
        return data.decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} cannot be read as text: {exc}.") from exc


def _read_file(file: Path) -> dict[str, object]:
    """Return the keys that the file sets, as ``section.name`` -> the TOML value."""
    text = _read_text(file)
    if not text.strip():
        return {}
    import tomllib

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(
            f"{file} is not valid TOML: {exc}.", next="Mend that line, or remove the file."
        ) from exc
    found: dict[str, object] = {}
    for section, content in document.items():
        if not isinstance(content, dict):
            find_setting(section)
        else:
            found |= {f"{section}.{name}": value for name, value in content.items()}
    return found


# -- writing the file


def set_value(file: Path, key: str, words: Sequence[str]) -> str:
    """Write ``key`` into the file, comments kept; return the value as it now reads."""
    setting = find_setting(key)
    if not words or (len(words) > 1 and not setting.kind.many):
        raise ConfigError(f"{key} expects {setting.kind.expects}, but {len(words)} values came.")
    text = " ".join(words)
    value = _convert(setting, text, "on the command line", from_text=True)

    def change(document: Any) -> None:
        section, _, name = key.partition(".")
        if section not in document:
            import tomlkit

            document[section] = tomlkit.table()
        document[section][name] = setting.kind.write(text)

    _edit(file, change)
    return show_value(value)


def unset_value(file: Path, key: str) -> None:
    """Take ``key`` out of the file, so that the default holds again."""
    find_setting(key)

    def change(document: Any) -> None:
        section, _, name = key.partition(".")
        if name in document.get(section, {}):
            del document[section][name]

    _edit(file, change)


def _edit(file: Path, change: Callable[[Any], None]) -> None:
    """Change the file's TOML in place, whole or not at all."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(_read_text(file))
        change(document)
        text = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, KeyError) as exc:
        raise ConfigError(
            f"{file} is not valid TOML: {exc}.", next="Mend that line, or remove the file."
        ) from exc
    try:
        # A symbolic link (dotfiles) keeps being one: its target is what is replaced.
        target = file.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    except OSError as exc:
        raise ConfigError(f"{file} cannot be written: {exc.strerror}.") from exc


def child_environ(home: Path) -> dict[str, str]:
    """Return the environment for a node of its own in ``home``: ours, all ALLOD_ words left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALLOD_")}
    return kept | {"ALLOD_HOME": str(home)}


# -- the little of the environment that is no key

PLACES = ("ALLOD_HOME", "ALLOD_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


def place_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that are set and say where this node's files lie."""
    env = os.environ if environ is None else environ
    return {name: env[name] for name in PLACES if env.get(name)}


def user_units(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder in which systemd looks for this user's units."""
    env = os.environ if environ is None else environ
    return _xdg(env, "XDG_CONFIG_HOME", ".config").parent / "systemd" / "user"


def service_manager(environ: Mapping[str, str] | None = None) -> tuple[str, float]:
    """Return the socket of the systemd that started this process, and its watchdog's seconds.

    Empty and 0 where there is none, or it means another process.
    """
    env = os.environ if environ is None else environ
    address, micros = env.get("NOTIFY_SOCKET", ""), env.get("WATCHDOG_USEC", "")
    mine = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    good = mine and micros.isascii() and micros.isdecimal() and len(micros) < 16
    return (address if address[:1] in ("/", "@") else ""), int(micros) / 1e6 if good else 0.0


def wants_trace(environ: Mapping[str, str] | None = None) -> bool:
    """Say whether ALLOD_LOG=debug asks for the trace of an unexpected error."""
    env = os.environ if environ is None else environ
    return env.get("ALLOD_LOG", "") == "debug"


def terminal_is_dumb(environ: Mapping[str, str] | None = None) -> bool:
    """Say whether the terminal can't move its cursor (TERM is ``dumb`` or not set)."""
    env = os.environ if environ is None else environ
    return env.get("TERM", "") in ("", "dumb", "unknown")
