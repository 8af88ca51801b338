"""Who may read and write the node's own files: keys, tokens and the ledger are this user's alone.

The only check that mends: modes of what belongs to this user, and folders that are missing.
All functions block for some disk accesses.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.config import Config
from node.doctor.finding import Finding, Level
from node.keyfiles import SUFFIX
from node.ledger import FILE as LEDGER
from node.rulebook import OWN_LIST, POLICY

NOBODY_ELSE: Final = 0o077
"""Bits that secrets must not have: others may not even read them."""
NOT_WRITABLE: Final = 0o002
"""The bit that the rest must not have. Where a group may write, its owner chose that."""
MAX_SHOWN: Final = 20
"""Findings of one kind that are listed one by one."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A file or folder: what it is, and which bits of its mode it must not have."""

    path: Path
    what: str
    never: int
    level: Level = "problem"


def look_at_files(config: Config, *, mend: bool) -> Iterator[Finding]:
    """Look at modes and owners; with ``mend`` put right what is safe."""
    found = list(_folders(config, mend=mend))
    for one in _guarded(config):
        found += _look(one, mend=mend)
    yield from found[:MAX_SHOWN]
    if len(found) > MAX_SHOWN:
        text = f"{len(found) - MAX_SHOWN:,} more files have a wrong mode or owner."
        yield Finding("permissions", "problem", text, "allod doctor --fix")
    if not found:
        text = "Secrets are this user's alone, and the node's folders can be written."
        yield Finding("permissions", "ok", text)


def _guarded(config: Config) -> Iterator[Guarded]:
    """Yield what there is to guard; what is not there needs no guard."""
    folders, keys = config.folders, config.folders.keys
    yield Guarded(keys, "folder of the keys", NOBODY_ELSE)
    if keys.is_dir():
        for path in sorted(keys.rglob("*")):
            if path.suffix == SUFFIX:
                yield Guarded(path, "secret key", NOBODY_ELSE)
            elif path.is_dir():
                yield Guarded(path, "folder of a publisher", NOBODY_ELSE)
    for suffix in ("", "-wal", "-shm"):
        yield Guarded(folders.data / f"{LEDGER}{suffix}", "ledger of tokens", NOBODY_ELSE)
    yield Guarded(folders.run, "folder of the running node", NOBODY_ELSE)
    for name in ("control.token", "node.json"):
        yield Guarded(folders.run / name, "file of the running node", NOBODY_ELSE)
    yield Guarded(folders.logs, "folder of the logs", NOT_WRITABLE, "warning")
    for path in (folders.config_file, *(folders.config_file.with_name(n) for n in _RULES)):
        yield Guarded(path, "file that the node obeys", NOT_WRITABLE)
    for path in {folders.data, config.store.folder, folders.config_file.parent}:
        yield Guarded(path, "folder of the node", NOT_WRITABLE)


_RULES: Final = (POLICY, OWN_LIST)


def _look(one: Guarded, *, mend: bool) -> Iterator[Finding]:
    try:
        facts = one.path.lstat()
        link = stat.S_ISLNK(facts.st_mode)
        facts = one.path.stat() if link else facts
    except FileNotFoundError:
        return
    except PermissionError:
        text = f"The {one.what} {one.path} cannot be looked at."
        yield Finding("permissions", "problem", text, f"sudo chown -R $USER {quoted(one.path)}")
        return
    mine = facts.st_uid == os.geteuid()
    if not mine and (os.geteuid() != 0 or one.never == NOBODY_ELSE):
        text = f"The {one.what} {one.path} belongs to user {facts.st_uid}, not to this one."
        yield Finding("permissions", "problem", text, f"sudo chown $USER {quoted(one.path)}")
    mode = stat.S_IMODE(facts.st_mode)
    if not mode & one.never:
        return
    right = mode & ~one.never
    said = f"The {one.what} {one.path} has mode {mode:04o}"
    fix = f"chmod {right:04o} {quoted(one.path)}"
    if mend and mine and not link:
        one.path.chmod(right)
        yield Finding("permissions", "note", f"{said}; it has {right:04o} now.")
        return
    danger = "others can read or write it" if one.never == NOBODY_ELSE else "anybody can write it"
    yield Finding("permissions", one.level, f"{said}: {danger}.", fix)


def _folders(config: Config, *, mend: bool) -> Iterator[Finding]:
    """Look whether the node's folders are there and can be written."""
    folders = config.folders
    wanted = (folders.data, folders.keys, folders.logs, folders.run, config.store.folder)
    missing = [path for path in wanted if not path.exists()]
    for path in wanted:
        if path.exists() and not path.is_dir():
            text = f"{path} should be a folder."
            yield Finding("permissions", "problem", text, f"Move {quoted(path)} away.")
        elif path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            text = f"The node may not write into {path}."
            yield Finding("permissions", "problem", text, f"sudo chown -R $USER {quoted(path)}")
    if not missing:
        return
    if mend:
        for path in missing:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = f"These folders were made: {', '.join(map(str, missing))}."
        yield Finding("folders", "note", text)
    else:
        text = f"These folders are not there yet: {', '.join(map(str, missing))}."
        yield Finding("folders", "note", text, "allod doctor --fix, or the first `allod up`.")


def quoted(path: Path) -> str:
    """Write a path for a shell."""
    return shlex.quote(str(path))
