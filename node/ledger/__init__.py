"""The ledger: to whom the owner gave tokens, and what was used of the models that are served.

An SQLite database beside the store. The store's index can be found out again from the files; this
can be found out from nothing, so a ledger that is damaged, or of a newer program, is an error that
says what to do, and never thrown away.

Of a token only its hash is kept: who reads the file can use none of them.
No prompt and no answer is in here, only numbers: by day, token, model and manifest.

A request does not wait for the disk: what it used is added up in memory, and written by one
transaction a second later, with all that came meanwhile. A power cut loses at most that second.
Tokens are few, and each change of them is on disk before it is spoken of.

One process has a ledger open at a time, so what it remembers of it is the truth.
The tables stand in rows.py.
"""

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

from node.ledger.rows import STEPS, Counts, Token, UsageKey
from node.store import durable
from node.store.index import Index, IndexBroken, Transaction, open_index
from p2p.errors import StoreBusy, StoreError

__all__ = ["STEPS", "Counts", "Ledger", "Token", "UsageKey", "open_ledger"]

_log = logging.getLogger(__name__)

FILE: Final = "ledger.db"
"""Its name in the data folder."""
WRITE_AFTER: Final = 1.0
"""Seconds from the first use that is not written to the transaction that writes it."""
MAX_PENDING: Final = 4096
"""Different (day, token, model, manifest) that wait to be written: some 2 MB, and far more than
are used in a second. Above, requests wait for the disk; where that fails they are not counted."""
MAX_ROWS: Final = 500_000
"""Rows that one question about usage returns: about 100 MB as JSON, and it fits a control line."""


class Ledger:
    """The open ledger; see ``open_ledger``."""

    def __init__(self, index: Index, path: Path) -> None:
        self._index = index
        self._path = path
        self._pending: dict[UsageKey, Counts] = {}
        self._unwritten = trio.Event()  # set while something is pending
        self._writing = trio.Lock()
        self._failed = False
        self._lost = 0

    # --- tokens ----------------------------------------------------------------------------------

    async def tokens(self) -> list[tuple[Token, bytes]]:
        """Return all tokens that there ever were, each with its hash, the oldest first."""
        with _broken(self._path):
            rows = await self._index.ask(
                "SELECT id, name, models, rpm, tpd, via_peers, created, expires, revoked, hash "
                "FROM tokens ORDER BY created, id"
            )
        return [
            (Token(id, name, tuple(models.split()), rpm, tpd, bool(peers), *times), digest)
            for id, name, models, rpm, tpd, peers, *times, digest in rows
        ]

    async def add_token(self, token: Token, digest: bytes) -> None:
        """Keep a new token, whose id and hash are nobody else's."""
        row = (
            token.id, digest, token.name, " ".join(token.models), token.rpm, token.tpd,
            int(token.via_peers), token.created, token.expires, token.revoked,
        )  # fmt: skip
        with _broken(self._path):
            await self._index.write(
                lambda transaction: transaction.run(
                    "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", *row
                )
            )

    async def revoke(self, id: str, now: float) -> None:
        """Remember that a token is good no more."""
        with _broken(self._path):
            await self._index.write(
                lambda transaction: transaction.run(
                    "UPDATE tokens SET revoked = ? WHERE id = ?", now, id
                )
            )

    # --- usage -----------------------------------------------------------------------------------

    async def count(self, key: UsageKey, counts: Counts) -> None:
        """Add what a request used; it waits for the disk only where very much is not yet written.

        Never fails: what cannot be written is kept for later, as far as there is room, and logged.
        """
        if key not in self._pending and len(self._pending) >= MAX_PENDING:
            await self._try_to_flush()
            if len(self._pending) >= MAX_PENDING:
                self._lost += counts.requests
                return
        self._add(key, counts)

    async def flush(self) -> None:
        """Write what is pending; it stays pending where that fails, with ``StoreError``."""
        async with self._writing:  # so that no more than one batch is ever outside _pending
            if not self._pending:
                return
            batch, self._pending = self._pending, {}
            self._unwritten = trio.Event()

            async def write(transaction: Transaction) -> None:
                await transaction.many(
                    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (day, token, model, manifest) DO UPDATE SET "
                    "requests = requests + excluded.requests, "
                    "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
                    "completion_tokens = completion_tokens + excluded.completion_tokens, "
                    "errors = errors + excluded.errors, seconds = seconds + excluded.seconds",
                    [(*key, *_columns(counts)) for key, counts in batch.items()],
                )

            try:
                with _broken(self._path):
                    await self._index.write(write)
            except BaseException:
                for key, counts in batch.items():
                    self._add(key, counts)
                raise

    async def keep_written(self) -> None:
        """Write what is pending a second after it came; never ends."""
        while True:
            await self._unwritten.wait()
            await trio.sleep(WRITE_AFTER)
            await self._try_to_flush()

    async def used(self, day: str) -> dict[str, int]:
        """Return the tokens of models, prompts and answers, that each account used on a day."""
        await self.flush()
        with _broken(self._path):
            rows = await self._index.ask(
                "SELECT token, SUM(prompt_tokens + completion_tokens) FROM usage "
                "WHERE day = ? GROUP BY token",
                day,
            )
        return dict(rows)

    async def usage(
        self, since: str, token: str = "", model: str = "*"
    ) -> list[tuple[UsageKey, Counts]]:
        """Return what was used since a day, by day, name of the token, model and manifest.

        ``token``: a name or an id, empty for all; ``model``: a pattern of its name, or a manifest.
        The newest day comes first, and at most ``MAX_ROWS`` rows.
        """
        await self.flush()
        with _broken(self._path):
            rows = await self._index.ask(
                "SELECT day, COALESCE(name, token) AS who, model, manifest, SUM(requests), "
                "SUM(prompt_tokens), SUM(completion_tokens), SUM(errors), SUM(seconds) "
                "FROM usage LEFT JOIN tokens ON tokens.id = usage.token "
                "WHERE day >= ? AND (? = '' OR ? IN (token, name)) "
                "AND (model GLOB ? OR manifest = ?) "
                "GROUP BY day, who, model, manifest ORDER BY day DESC, who, model, manifest "
                "LIMIT ?",
                *(since, token, token, model, model, MAX_ROWS),
            )
        return [(UsageKey(*row[:4]), Counts(*row[4:])) for row in rows]

    def _add(self, key: UsageKey, counts: Counts) -> None:
        self._pending.setdefault(key, Counts()).add(counts)
        self._unwritten.set()

    async def write_last(self) -> None:
        """Write what is pending before the ledger closes."""
        await self._try_to_flush()
        if self._pending:
            lost = self._lost + sum(counts.requests for counts in self._pending.values())
            _log.error("the usage of %d requests is lost", lost)

    async def _try_to_flush(self) -> None:
        """Write what is pending; log the first failure of a row, and the end of the row."""
        try:
            await self.flush()
        except StoreError as exc:
            if not self._failed:
                _log.error("usage is not written: %s %s", exc, exc.next)
            self._failed = True
            return
        if self._failed:
            _log.info("usage is written again; %d requests were not counted", self._lost)
        self._failed, self._lost = False, 0


def _columns(counts: Counts) -> tuple[object, ...]:
    return (
        counts.requests, counts.prompt_tokens, counts.completion_tokens, counts.errors,
        counts.seconds,
    )  # fmt: skip


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Say of a damaged ledger what can be done: the index's own advice would be wrong here."""
    try:
        yield
    except IndexBroken as exc:
        raise StoreError(
            exc.message,
            next=f"Stop the node and move {path} away, with its -wal and -shm; put a backup or the "
            "copy of before an upgrade (.bak-v) there, or a new one is made, without the tokens "
            "and the usage in it.",
        ) from exc


@asynccontextmanager
async def open_ledger(folder: Path) -> AsyncIterator[Ledger]:
    """Open the ledger in ``folder``, or make it there; what is pending is written at the end.

    ``StoreBusy`` if another process has it open, ``StoreError`` where it is of no use.
    """
    path = folder / FILE
    async with AsyncExitStack() as stack:
        lock = await durable.on_disk("open its ledger", lambda: _prepare(path))
        stack.callback(os.close, lock)
        with _broken(path):
            index = await stack.enter_async_context(open_index(path, STEPS, what="ledger"))
        ledger = Ledger(index, path)
        try:
            yield ledger
        finally:
            with trio.CancelScope(shield=True):
                await ledger.write_last()


def _prepare(path: Path) -> int:
    """Make the folder, and a file that only this user may read; take the lock, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own: closing any descriptor of the database would drop SQLite's locks.
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StoreBusy(
                f"Another process has the ledger {path} open.",
                next="Let the command talk to the node that runs, or try again in a moment.",
            ) from exc
        if not path.exists():  # SQLite would give it the usual mode; -wal and -shm get the file's
            os.close(durable.create(path, 0o600))
            durable.sync_folder(path.parent)
    except BaseException:
        os.close(lock)
        raise
    return lock
