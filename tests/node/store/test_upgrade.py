"""Databases that an earlier version wrote: brought up to date, and kept as they were beside."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from node.store import open_store
from node.store.index import COPY, open_index
from node.store.migrations import STEPS
from p2p.errors import StoreError

FIRST = ("CREATE TABLE things (name TEXT)",)
SECOND = (*FIRST, "ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 7")
THIRD = (*SECOND, "CREATE TABLE more (name TEXT)")


def rows(file: Path, sql: str) -> list[tuple[object, ...]]:
    """Ask a database that nobody has open."""
    with closing(sqlite3.connect(file)) as database:
        return database.execute(sql).fetchall()


def copies(folder: Path) -> list[str]:
    """Name the copies that were kept."""
    return [one.name for one in folder.glob("*.bak-*")]


async def test_an_upgrade_keeps_a_copy(tmp_path: Path) -> None:
    """What an earlier version wrote is there in the new shape, and beside it as it was."""
    file = tmp_path / "things.db"
    file.touch(0o600)
    async with open_index(file, FIRST, what="things") as index:
        await index.write(lambda transaction: transaction.run("INSERT INTO things VALUES ('one')"))
    assert copies(tmp_path) == []
    async with open_index(file, SECOND, what="things") as index:
        assert await index.ask("SELECT * FROM things") == [("one", 7)]
    copy = tmp_path / f"things.db{COPY}1"
    assert rows(copy, "SELECT * FROM things") == [("one",)]
    assert rows(copy, "PRAGMA user_version") == [(1,)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


async def test_the_program_of_before_can_read_the_copy(tmp_path: Path) -> None:
    """Put in the database's place, the copy is good for the version that wrote it."""
    file = tmp_path / "things.db"
    for steps in (FIRST, SECOND):
        async with open_index(file, steps, what="things"):
            pass
    (tmp_path / f"things.db{COPY}1").replace(file)
    async with open_index(file, FIRST, what="things") as index:
        assert await index.ask("SELECT COUNT(*) FROM things") == [(0,)]


async def test_only_the_last_copy_stays(tmp_path: Path) -> None:
    """Upgrades do not fill the disk, and an open that upgrades nothing copies nothing."""
    file = tmp_path / "things.db"
    for steps in (FIRST, SECOND, THIRD, THIRD):
        async with open_index(file, steps, what="things"):
            pass
    assert copies(tmp_path) == [f"things.db{COPY}2"]


async def test_an_upgrade_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    """Where no copy can be kept, nothing is changed."""
    file = tmp_path / "things.db"
    async with open_index(file, FIRST, what="things"):
        pass
    (tmp_path / "things.db.new").mkdir()
    with pytest.raises(StoreError, match="keep a copy"):
        async with open_index(file, SECOND, what="things"):
            pass
    assert rows(file, "PRAGMA user_version") == [(1,)]


async def test_a_store_of_an_earlier_version_opens(tmp_path: Path) -> None:
    """An index of the first version that was released is upgraded with what is in it."""
    async with open_store(tmp_path, quota=None):
        pass
    index = tmp_path / "index.sqlite"
    index.unlink()
    async with open_index(index, STEPS[:1]) as old:
        await old.mark("clean", 1)
    async with open_store(tmp_path, quota=None) as store:
        assert (await store.usage()).files == 0
    assert rows(index, "PRAGMA user_version") == [(len(STEPS),)]
    assert rows(tmp_path / f"index.sqlite{COPY}1", "SELECT value FROM marks") == [(1,)]
