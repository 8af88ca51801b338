"""How a command finds the node that runs on this machine: two small files in the ``run`` folder.

``node.json`` says where the node answers, ``control.token`` holds the secret that it wants to hear;
both are readable by their owner only and go away with the node.
The token is new at every start (unless ALLOD_TOKEN fixes it), so what a crashed node left behind
is worth nothing. Knows nothing of HTTP; whether the node really answers, the client finds out.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from node.config import Config, Folders
from p2p.errors import ReadOnly, StoreError

MAX_CARD = 65_536  # bytes of node.json: a URL, a path and a number
MAX_TOKEN = 1024  # bytes of the token's file


@dataclass(frozen=True, slots=True)
class Presence:
    """A running node: its loopback URL without a final slash, its token's file, its process."""

    http: str
    token_file: Path
    pid: int

    def token(self) -> str:
        """Read the secret; empty if the file is gone or not ours to read."""
        try:
            with self.token_file.open("rb") as stream:
                return stream.read(MAX_TOKEN).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""


def card_file(folders: Folders) -> Path:
    """Return where the running node of these folders says that it is there."""
    return folders.run / "node.json"


def find_node(folders: Folders) -> Presence | None:
    """Return the node that runs with these folders, or None; what a dead one left doesn't count."""
    try:
        with card_file(folders).open("rb") as stream:
            card = json.loads(stream.read(MAX_CARD))
        found = Presence(str(card["http"]), Path(str(card["token"])), int(card["pid"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if found.http.startswith("http://") and _lives(found.pid) else None


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it lives and is somebody else's
        return True
    return True


def make_token(config: Config) -> str:
    """Return the secret for this run of the node: ALLOD_TOKEN, or 256 fresh random bits."""
    import secrets

    return config.token or secrets.token_urlsafe(32)


@contextmanager
def announce_node(config: Config, *, http: str, token: str) -> Iterator[Presence]:
    """Let commands find this process as the running node for as long as the block runs.

    ``http`` is the URL on which it already listens. Raises ReadOnly or StoreError.
    """
    run = config.folders.run
    presence = Presence(http, run / "control.token", os.getpid())
    card = {"http": http, "token": str(presence.token_file), "pid": presence.pid}
    try:
        run.mkdir(parents=True, exist_ok=True, mode=0o700)
        run.chmod(0o700)
        _write_private(presence.token_file, token)
        _write_private(card_file(config.folders), json.dumps(card))
    except PermissionError as exc:
        raise ReadOnly(
            f"{run} is where a running node leaves its address, but it cannot be "
            f"written: {exc.strerror}."
        ) from exc
    except OSError as exc:
        raise StoreError(f"{run} cannot be written: {exc.strerror}.") from exc
    try:
        yield presence
    finally:
        # A second node may have taken the place since: then the files are its own.
        mine = find_node(config.folders)
        if mine == presence:
            with suppress(OSError):
                card_file(config.folders).unlink()
                presence.token_file.unlink()


def _write_private(file: Path, text: str) -> None:
    """Write the file whole or not at all, mode 0600 from its first byte on."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(file)
