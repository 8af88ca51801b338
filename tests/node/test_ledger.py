"""The ledger: what was used is added up, written in time, and never thrown away."""

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from node import ledger as module
from node.ledger import STEPS, Counts, Token, UsageKey, open_ledger
from p2p.errors import DiskFull, StoreBusy, StoreError
from tests.node.conftest import Heard

DAY = "2026-11-22"
KEY = UsageKey(DAY, "local", "alice/tiny", "bagaaiera")
ONE = Counts(1, 10, 5, 0, 0.5)


def on_disk(folder: Path) -> list[tuple[object, ...]]:
    """The usage that another process would find, were this one killed now."""
    with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT token, requests, prompt_tokens FROM usage ORDER BY token")
        return rows.fetchall()


def token(id: str, name: str, created: float = 0.0) -> Token:
    return Token(id, name, ("alice/*", "bob/tiny"), 60, None, True, created, expires=9.5)


async def test_tokens_are_kept(tmp_path: Path) -> None:
    """What a token is good for comes back as it was, in the order in which they were made."""
    later, first = token("bb", "two", 2.0), Token("aa", "one", (), None, 7, False, 1.0)
    async with open_ledger(tmp_path) as ledger:
        await ledger.add_token(later, b"2")
        await ledger.add_token(first, b"1")
        await ledger.revoke("bb", 3.0)
    async with open_ledger(tmp_path) as ledger:
        [one, two] = await ledger.tokens()
    assert one == (first, b"1")
    assert two == (
        Token("bb", "two", ("alice/*", "bob/tiny"), 60, None, True, 2.0, 9.5, 3.0),
        b"2",
    )


async def test_usage_is_added_up(tmp_path: Path) -> None:
    """Rows are by day, token, model and manifest, the newest day first; asking writes first."""
    other = UsageKey("2026-11-23", "bb", "alice/tiny", "bagaaiera")
    async with open_ledger(tmp_path) as ledger:
        await ledger.add_token(token("bb", "two"), b"2")
        for _ in range(3):
            await ledger.count(KEY, ONE)
        assert await ledger.usage(DAY) == [(KEY, Counts(3, 30, 15, 0, 1.5))]
        await ledger.count(KEY, Counts(1, 1, 0, 1, 0.25))
        await ledger.count(other, ONE)
    async with open_ledger(tmp_path) as ledger:
        assert await ledger.used(DAY) == {"local": 46}
        both = [
            (other._replace(token="two"), ONE),
            (KEY, Counts(4, 31, 15, 1, 1.75)),
        ]
        assert await ledger.usage("0000") == both
        assert await ledger.usage("2026-11-23") == both[:1]
        assert await ledger.usage("2026-11-24") == []


async def test_usage_is_asked_for_by_token_and_model(tmp_path: Path) -> None:
    """A token by name or id, a model by name, pattern or manifest; same names are one."""
    async with open_ledger(tmp_path) as ledger:
        for id in ("aa", "bb"):
            await ledger.add_token(token(id, "ci"), id.encode())
            await ledger.count(UsageKey(DAY, id, f"alice/{id}", f"cid-{id}"), ONE)
        await ledger.count(UsageKey(DAY, "bb", "alice/aa", "cid-aa"), ONE)
        names = [(key.token, key.model, n.requests) for key, n in await ledger.usage(DAY, "ci")]
        assert names == [("ci", "alice/aa", 2), ("ci", "alice/bb", 1)]
        assert [n.requests for _, n in await ledger.usage(DAY, "aa")] == [1]
        assert await ledger.usage(DAY, "cc") == []
        for model, count in (("alice/*", 2), ("alice/aa", 1), ("cid-bb", 1), ("*/cc", 0)):
            assert len(await ledger.usage(DAY, model=model)) == count


async def test_a_request_does_not_wait_for_the_disk(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Counting returns at once; a second later one transaction has written all of it."""
    async with open_ledger(tmp_path) as ledger, trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep_written)
        for _ in range(2):
            for _ in range(100):
                await ledger.count(KEY, ONE)
            before = on_disk(tmp_path)
            await trio.sleep(1.01)
            await ledger._index.ask("SELECT 1")  # takes its turn after the write that goes on
            [(_, requests, _)] = on_disk(tmp_path)
            assert requests == sum(int(str(row[1])) for row in before) + 100
        nursery.cancel_scope.cancel()
    assert on_disk(tmp_path) == [("local", 200, 2000)]


async def test_what_is_pending_is_written_at_the_end(tmp_path: Path) -> None:
    """Neither a cancel nor an error loses what was counted."""
    for end in (trio.Cancelled, KeyError):
        with trio.CancelScope() as scope:
            try:
                async with open_ledger(tmp_path) as ledger:
                    await ledger.count(KEY, ONE)
                    if end is KeyError:
                        raise KeyError
                    scope.cancel()
                    await trio.sleep_forever()
            except KeyError:
                pass
    assert on_disk(tmp_path) == [("local", 2, 20)]


async def test_a_cancelled_write_loses_nothing(tmp_path: Path) -> None:
    """A flush that is cancelled before its turn leaves all of it for the next."""
    async with open_ledger(tmp_path) as ledger:
        await ledger.count(KEY, ONE)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ledger.flush()
        assert scope.cancelled_caught
        assert on_disk(tmp_path) == []
        await ledger.count(KEY, ONE)
        await ledger.flush()
        assert on_disk(tmp_path) == [("local", 2, 20)]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The ledger cannot write, until the test undoes it."""

    async def write(*words: object) -> None:
        raise DiskFull("The disk is full: the ledger could not be written.", next="Free some room.")

    with monkeypatch.context() as patch:
        patch.setattr("node.store.index.Index.write", write)
        yield patch


async def test_a_full_disk_stops_nobody(
    tmp_path: Path, full_disk: pytest.MonkeyPatch, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be written stays in memory, is told once, and is written when there is room."""
    async with open_ledger(tmp_path) as ledger, trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep_written)
        await ledger.count(KEY, ONE)
        await ledger._try_to_flush()
        await ledger._try_to_flush()
        with pytest.raises(DiskFull):
            await ledger.flush()
        full_disk.undo()
        await ledger.count(KEY, ONE)
        with trio.fail_after(60):
            await heard.wait(2)
        nursery.cancel_scope.cancel()
    assert [line.partition(":")[0] for line in heard.lines] == [
        "usage is not written",
        "usage is written again; 0 requests were not counted",
    ]
    assert [one.levelno for one in caplog.records] == [logging.ERROR, logging.INFO]
    assert on_disk(tmp_path) == [("local", 2, 20)]


async def test_memory_is_bounded(
    tmp_path: Path, full_disk: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    """While nothing can be written the last of too many keys are not counted, which is told."""
    monkeypatch.setattr(module, "MAX_PENDING", 3)
    keys = [KEY._replace(token=f"t{number}") for number in range(5)]
    async with open_ledger(tmp_path) as ledger:
        for key in [*keys, *keys]:
            await ledger.count(key, ONE)
        assert len(ledger._pending) == 3
        full_disk.undo()
        await ledger.count(keys[4], ONE)
    assert "4 requests were not counted" in heard.lines[-1]
    assert on_disk(tmp_path) == [("t0", 2, 20), ("t1", 2, 20), ("t2", 2, 20), ("t4", 1, 10)]


async def test_what_is_lost_at_the_end_is_told(
    tmp_path: Path, full_disk: pytest.MonkeyPatch, heard: Heard
) -> None:
    """A ledger that could not write to its end says how much is missing, and closes."""
    async with open_ledger(tmp_path) as ledger:
        await ledger.count(KEY, Counts(7))
    assert heard.lines[-1] == "the usage of 7 requests is lost"


async def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The database and what lies beside it have mode 0600 from the start."""
    async with open_ledger(tmp_path / "new" / "data") as ledger:
        await ledger.count(KEY, ONE)
        await ledger.flush()
        files = sorted((tmp_path / "new" / "data").iterdir())
        assert [file.name for file in files] == [
            "ledger.db", "ledger.db-shm", "ledger.db-wal", "ledger.lock",
        ]  # fmt: skip
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_one_process_has_it(tmp_path: Path) -> None:
    """A second one is told so, and the first goes on; when it is closed the next may."""
    async with open_ledger(tmp_path) as ledger:
        with pytest.raises(StoreBusy, match=r"ledger\.db open"):
            async with open_ledger(tmp_path):
                pass
        await ledger.count(KEY, ONE)
    async with open_ledger(tmp_path) as ledger:
        assert len(await ledger.usage(DAY)) == 1


def damage(file: Path) -> None:
    """Overwrite all but the first page."""
    data = file.read_bytes()
    file.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("garbage", "The ledger is damaged"),
        ("newer", f"The ledger has version {len(STEPS) + 1}"),
        ("pages", "The ledger is damaged"),
    ],
)
async def test_a_broken_ledger_is_never_thrown_away(tmp_path: Path, what: str, words: str) -> None:
    """The error says what is wrong and what to move where; not a byte is changed."""
    file = tmp_path / "ledger.db"
    if what == "garbage":
        file.write_bytes(b"no database " * 1000)
    else:
        async with open_ledger(tmp_path) as ledger:
            await ledger.add_token(token("aa", "one"), b"1")
    if what == "pages":
        damage(file)
    if what == "newer":
        with closing(sqlite3.connect(file)) as database:
            database.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    before = file.read_bytes()
    with pytest.raises(StoreError, match=words) as caught:
        async with open_ledger(tmp_path) as ledger:
            await ledger.tokens()
    assert f"move {file} away" in caught.value.next
    assert "rebuilt" not in str(caught.value) + caught.value.next
    assert file.read_bytes() == before
    file.unlink()
    async with open_ledger(tmp_path) as ledger:
        assert await ledger.tokens() == []


WRITER = """
import sys, trio
from pathlib import Path
from node.ledger import Counts, UsageKey, open_ledger

async def main():
    async with open_ledger(Path(sys.argv[1])) as ledger:
        for number in range(1, 1_000_000):
            for token in ("a", "b"):
                key = UsageKey("2026-11-22", token, "alice/tiny", "bagaaiera")
                await ledger.count(key, Counts(1, 10, 5, 0, 0.5))
            await ledger.flush()
            print(number, flush=True)

trio.run(main)
"""


def test_a_killed_process_leaves_a_whole_ledger(tmp_path: Path) -> None:
    """Killed while it writes: all that was flushed is there, and no half of a transaction."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 30:
                writer.kill()
                told = max(
                    int(line), *(int(more) for more in writer.stdout if more[-1:] == "\n"), 0
                )
                break
    assert writer.returncode != 0

    async def look() -> list[tuple[UsageKey, Counts]]:
        async with open_ledger(tmp_path) as ledger:
            await ledger.count(KEY, ONE)
            return await ledger.usage(DAY)

    [(_, a), (_, b), (_, mine)] = trio.run(look)
    assert told <= a.requests <= told + 1
    assert a == b == Counts(a.requests, a.requests * 10, a.requests * 5, 0, a.requests * 0.5)
    assert mine == ONE
