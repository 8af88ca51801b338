"""The store and the ledger: their databases, what is unfinished or damaged, the quota.

Reads the databases beside whoever has them open, and changes nothing.
All functions block: as long as SQLite takes to read a database, where nobody has it open.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from node.config import Config
from node.doctor.finding import Finding, Level, count_text, size_text
from node.ledger import FILE as LEDGER
from node.ledger import STEPS as LEDGER_STEPS
from node.store.damage import allocated
from node.store.index import COPY
from node.store.layout import Layout
from node.store.migrations import STEPS

OLD: Final = 30 * 86_400.0
"""Seconds after which an unfinished file is told of: nobody waits for it any more."""
MAX_CHECKED: Final = 256 << 20
"""Bytes of a database that is read as a whole, a second's work; `allod verify` takes its time."""


def look_at_store(config: Config, *, running: bool) -> Iterator[Finding]:
    """Look at the store's database, files and quota; ``running``: this process has it open."""
    layout = Layout(config.store.folder)
    if not layout.index.exists():
        if layout.manifests.is_dir() and any(layout.manifests.iterdir()):
            text = "The store has no index; it is made anew from the files at the next start."
            yield Finding("store", "note", text)
        else:
            yield Finding("store", "ok", "There is no store yet.")
        return
    yield from _database(layout.index, len(STEPS), "store", running=running)
    yield from _unfinished(layout)
    yield from _damaged(layout)
    yield from _quota(config, layout)


def look_at_ledger(config: Config, *, running: bool) -> Iterator[Finding]:
    """Look at the ledger of tokens and usage, if there is one."""
    path = config.folders.data / LEDGER
    if path.exists():
        yield from _database(path, len(LEDGER_STEPS), "ledger", running=running)


def newest_record(folder: Path) -> datetime | None:
    """Return when the store took in its latest release, by this machine's own clock then."""
    index = Layout(folder).index
    if not index.exists():
        return None
    try:
        [[added]] = _ask(index, "SELECT MAX(added) FROM releases")
    except (sqlite3.Error, ValueError):
        return None
    return None if added is None else datetime.fromtimestamp(added, UTC)


def _ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Ask a database one question, read-only.

    Without a log beside it nobody has it open, and a reader that takes it as it is leaves no new
    log behind.
    """
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    address = f"file:{quote(str(path))}?{how}"
    with closing(sqlite3.connect(address, uri=True, timeout=2.0)) as database:
        return database.execute(sql).fetchall()


def _database(path: Path, newest: int, what: str, *, running: bool) -> Iterator[Finding]:
    rebuilt = what == "store"
    fix = "Start the node: it makes the index anew from the files." if rebuilt else (
        f"Stop the node and put a backup of {path} there (docs/how-to/backup-and-restore.md)."
    )  # fmt: skip
    level: Level = "warning" if rebuilt else "problem"
    size = path.stat().st_size
    try:
        [[version]] = _ask(path, "PRAGMA user_version")
        good = running or size > MAX_CHECKED or _ask(path, "PRAGMA quick_check(1)") == [("ok",)]
        clean = running or not rebuilt or _ask(path, _CLEAN) == [(1,)]
    except sqlite3.OperationalError as exc:  # locked, or a folder that may not be written
        yield Finding(what, "note", f"The database of the {what} could not be asked: {exc}.")
        return
    except sqlite3.Error as exc:
        text = f"The database {path} is damaged: {exc}."
        yield Finding(what, level, text, fix)
        return
    kept = [one.name for one in sorted(path.parent.glob(f"{path.name}{COPY}*"))]
    more = f" Copies from before an upgrade: {', '.join(kept)}." if kept else ""
    if not good:
        text = f"The database {path} is damaged."
        yield Finding(what, level, text, fix)
    elif version > newest:
        text = f"The database {path} is of a newer Allod: version {version}, known are {newest}."
        yield Finding(what, level, text + more,
                      "pip install --upgrade allod")  # fmt: skip
    elif not clean:
        text = "The store was not closed in order: its next start looks through all files."
        yield Finding(what, "note", text)
    else:
        text = f"The database of the {what} is good: version {version}, {size_text(size)}.{more}"
        yield Finding(what, "ok", text)


_CLEAN: Final = "SELECT COALESCE(MAX(value), 0) FROM marks WHERE name = 'clean'"


def _unfinished(layout: Layout) -> Iterator[Finding]:
    files = [layout.partial(cid) for cid in layout.partials_there()]
    old, size = 0, 0
    for path in files:
        try:
            aged = time.time() - path.stat().st_mtime > OLD
        except FileNotFoundError:  # it was finished meanwhile
            continue
        old += aged
        size += allocated(path) if aged else 0
    if old:
        text = f"{count_text(old, 'unfinished file')} of {size_text(size)} did not grow for"
        text += f" {OLD / 86_400:.0f} days."
        fix = "Fetch their releases again to finish them; `allod gc` deletes what nothing needs."
        yield Finding("store.unfinished", "note", text, fix)
    else:
        text = f"{count_text(len(files), 'unfinished file')}, none of them old."
        yield Finding("store.unfinished", "ok", text)


def _damaged(layout: Layout) -> Iterator[Finding]:
    try:
        aside = os.listdir(layout.quarantine)
    except OSError:
        aside = []
    if aside:
        text = f"{count_text(len(aside), 'damaged thing')} was set aside in {layout.quarantine}."
        fix = "Look at the disk (`smartctl -a`), run `allod verify`, and fetch again what it names."
        yield Finding("store.damage", "warning", text, fix)
    else:
        yield Finding("store.damage", "ok", "No damaged file was met since the last `allod gc`.")


def _quota(config: Config, layout: Layout) -> Iterator[Finding]:
    quota = config.store.quota
    try:
        [[held]] = _ask(layout.index, "SELECT COALESCE(SUM(charged), 0) FROM files")
    except sqlite3.Error:
        return  # told above
    used = held + sum(allocated(layout.partial(cid)) for cid in layout.partials_there())
    if quota is None:
        yield Finding("store.quota", "ok", f"{size_text(used)} are used; there is no quota.")
    elif used > quota:
        text = (
            f"{size_text(used)} are used, the quota is {size_text(quota)}: nothing more comes in."
        )
        yield Finding("store.quota", "warning", text, "allod gc, or allod config set store.quota")
    else:
        text = f"{size_text(used)} of the quota of {size_text(quota)} are used."
        yield Finding("store.quota", "ok", text)
