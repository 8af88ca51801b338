"""The index: an SQLite database that remembers what lies on disk, so that nobody has to look.

It is a cache: whatever it says can be found out again from the files (see rebuild.py), and a row is
written only after what it speaks of is safe on disk.
WAL and ``synchronous=FULL``: with NORMAL, a power cut takes the last commits with it.

This is the only module that knows asyncio, aiosqlite and trio_asyncio, so the other databases of a
node (ledger/) are opened here too, each with steps of its own.
The index brings an event loop of its own, so it works from every trio task, system tasks included.
Each method is one whole transaction, takes its turn, and is shielded from there on: a cancel comes
before BEGIN or after COMMIT, never between them.
A statement costs a tenth of a millisecond: nothing here is called once a leaf.
"""

import os
import sqlite3
import stat
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
import trio
import trio_asyncio

from node.store import durable
from node.store.migrations import STEPS
from p2p.errors import DiskFull, ReadOnly, StoreError

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

CLEAN: Final = "clean"
"""Set when the store was closed in order: then the index needs no comparison with the disk."""
COPY: Final = ".bak-v"
"""Stands before the version in the name of the copy that is kept when a database is upgraded."""
_BATCH: Final = 20_000  # rows given to one executemany: some MB of Python objects


class IndexBroken(StoreError):
    """The database is damaged or newer than this program: throw it away and rebuild it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, next="Start again: the index will be rebuilt from the files.")


@contextmanager
def _sqlite_errors(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest is the extended code
        # A broken constraint: the tables contradict each other, for our changes keep them.
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT):
            raise IndexBroken(f"The {what} is damaged: {exc}.") from exc
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(
                f"The disk is full: the {what} could not be written.",
                next="Free some room on this disk, or let `allod gc` delete what nobody pinned.",
            ) from exc
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise ReadOnly(
                f"The {what} may not be written: {exc}.",
                next="Check the owner and the mount options of the folder that it is in.",
            ) from exc
        if code == sqlite3.SQLITE_ERROR or isinstance(exc, sqlite3.ProgrammingError):
            raise  # our own mistake
        raise StoreError(f"The {what} could not be used: {exc}.") from exc


class Transaction:
    """What may be done between BEGIN and COMMIT; lives in the index's own event loop."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def run(self, sql: str, *parameters: object) -> Rows:
        """Run one statement and return its rows."""
        rows = await self._database.execute_fetchall(sql, parameters)
        return [tuple(row) for row in rows]

    async def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row of parameters."""
        batch: list[Sequence[object]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                await self._database.executemany(sql, batch)
                batch = []
        if batch:
            await self._database.executemany(sql, batch)


class Index:
    """The open database; file_rows.py and release_rows.py know its tables."""

    def __init__(
        self, loop: trio_asyncio.TrioEventLoop, database: aiosqlite.Connection, what: str
    ) -> None:
        self._loop = loop
        self._database = database
        self._what = what  # what errors call it
        self._turn = trio.Lock()
        self.suspect = False  # it may say less than the disk: then it is not marked as clean

    async def _run(self, work: Callable[["Transaction"], Awaitable[T]]) -> T:
        """Have ``work`` done in the event loop of the database, when it is its turn."""
        async with self._turn:
            with trio.CancelScope(shield=True):
                try:
                    with _sqlite_errors(self._what):
                        result: T = await self._loop.run_aio_coroutine(
                            work(Transaction(self._database))
                        )
                except StoreError:
                    self.suspect = True
                    raise
        return result

    async def write(self, work: Callable[["Transaction"], Awaitable[T]]) -> T:
        """Run ``work`` as one transaction that changes something."""
        database = self._database

        async def change(transaction: Transaction) -> T:
            await database.execute_fetchall("BEGIN IMMEDIATE")
            try:
                result = await work(transaction)
                await database.commit()
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    await database.rollback()
                raise
            return result

        return await self._run(change)

    async def ask(self, sql: str, *parameters: object) -> Rows:
        """Return the rows of one question; one statement is a transaction by itself."""
        return await self._run(lambda transaction: transaction.run(sql, *parameters))

    @contextmanager
    def trailing(self) -> Iterator[None]:
        """Surround a change that goes to the disk first and to the index after it."""
        try:
            yield
        except BaseException:
            self.suspect = True
            raise

    async def mark(self, name: str, value: int) -> None:
        """Remember a number."""

        await self.write(
            lambda transaction: transaction.run(
                "INSERT OR REPLACE INTO marks VALUES (?, ?)", name, value
            )
        )

    async def marked(self, name: str) -> int:
        """Return the number remembered, or 0."""
        rows = await self.ask("SELECT value FROM marks WHERE name = ?", name)
        return int(rows[0][0]) if rows else 0

    async def check(self) -> None:
        """Read the whole database; ``IndexBroken`` if it contradicts itself."""
        rows = await self.ask("PRAGMA quick_check(1)")
        if rows != [("ok",)]:
            raise IndexBroken(f"The {self._what} is damaged: {rows[0][0]}.")


async def _connect(path: Path, steps: Sequence[str], what: str) -> aiosqlite.Connection:
    """Open the database and bring it to the present shape; a copy of an older one is kept."""
    database = await aiosqlite.connect(path, isolation_level=None)
    try:
        await database.execute_fetchall("PRAGMA journal_mode = WAL")
        await database.execute_fetchall("PRAGMA synchronous = FULL")
        await database.execute_fetchall("PRAGMA foreign_keys = ON")
        # unhex() is in SQLite since 3.41 only.
        await database.create_function("unhex_", 1, bytes.fromhex, deterministic=True)
        [[version]] = await database.execute_fetchall("PRAGMA user_version")
        if version > len(steps):
            raise IndexBroken(f"The {what} has version {version}, this program knows {len(steps)}.")
        if 0 < version < len(steps):
            await _keep_copy(database, path, version)
        for number, step in enumerate(steps[version:], version + 1):
            await database.executescript(
                f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;"
            )
    except BaseException:
        await database.close()
        raise
    return database


async def _keep_copy(database: aiosqlite.Connection, path: Path, version: int) -> None:
    """Keep the database as it is beside it, before it changes its shape; older copies go.

    Who goes back to the program of before finds there what it can read.
    """
    with durable.disk_errors("keep a copy of a database before its upgrade"):
        new = _begin_copy(path)
        await database.execute_fetchall("VACUUM INTO ?", (str(new),))
        _end_copy(path, new, version)


def _begin_copy(path: Path) -> Path:
    """Make the empty file that the copy goes into, as secret as the database is."""
    new = path.with_name(f"{path.name}.new")
    durable.unlink(new)
    os.close(durable.create(new, stat.S_IMODE(path.stat().st_mode)))
    return new


def _end_copy(path: Path, new: Path, version: int) -> None:
    """Wait for the copy's bytes, give it its name, and take older ones away."""
    fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    try:
        durable.sync_file(fd)
    finally:
        os.close(fd)
    copy = path.with_name(f"{path.name}{COPY}{version}")
    durable.rename(new, copy)
    durable.sync_folder(path.parent)
    for old in path.parent.glob(f"{path.name}{COPY}*"):
        if old != copy:
            durable.unlink(old)


@asynccontextmanager
async def open_index(
    path: Path, steps: Sequence[str] = STEPS, *, what: str = "store's index"
) -> AsyncIterator[Index]:
    """Open the database at ``path``, or make it; ``IndexBroken`` when it is of no use.

    ``steps`` lead to its present shape, as in migrations.py; ``what`` is what errors call it.
    """
    failure: BaseException | None = None
    async with trio_asyncio.open_loop() as loop:
        # An error that passes through the loop's nurseries would come out wrapped in groups.
        try:
            with trio.CancelScope(shield=True), _sqlite_errors(what):
                database = await loop.run_aio_coroutine(_connect(path, steps, what))
            try:
                yield Index(loop, database, what)
            finally:
                with trio.CancelScope(shield=True), _sqlite_errors(what):
                    await loop.run_aio_coroutine(database.close())
        except (Exception, KeyboardInterrupt) as exc:  # whatever it is: raised again below
            failure = exc
    if failure is not None:
        raise failure
