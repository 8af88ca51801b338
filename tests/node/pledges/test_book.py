"""The book of pledges: durable, within its budgets, and honest about damage."""

from functools import partial
from pathlib import Path

import pytest
import trio

from node.pledges import Book, Pledge, Taken
from node.store import durable
from p2p.cid import CID, Codec
from p2p.errors import StoreError, UsageError

ONE, TWO = (CID.of(text, Codec.JSON) for text in (b"one", b"two"))


def pledge(limit: int | None = 100, keep: int = 2) -> Pledge:
    return Pledge(str(ONE), False, "alice/tiny", keep, limit, ("/ip4/192.0.2.1/tcp/1",), 1.5)


def taken(manifest: CID = ONE, size: int = 60) -> Taken:
    return Taken(manifest, str(ONE), size, 2.5)


async def opened(folder: Path) -> Book:
    book = Book(folder)
    await book.open()
    return book


async def test_what_was_promised_is_found_again(tmp_path: Path) -> None:
    """By the next process, with all that was taken."""
    book = await opened(tmp_path / "new")
    await book.put(pledge())
    assert await book.take(taken())
    again = await opened(tmp_path / "new")
    assert again.pledges() == [pledge()]
    assert again.taken() == [taken()]
    await again.remove(str(ONE))
    assert (await opened(tmp_path / "new")).pledges() == []


async def test_the_budget_is_never_passed(tmp_path: Path) -> None:
    """Not even by many that begin at the same moment; what was let go gives its room back."""
    book = await opened(tmp_path)
    await book.put(pledge(limit=100))
    answers: list[bool] = []

    async def take(number: int) -> None:
        manifest = CID.of(str(number).encode(), Codec.JSON)
        answers.append(await book.take(taken(manifest, 30)))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(take, number)
    assert sorted(answers) == [False] * 7 + [True] * 3
    assert sum(one.size for one in book.taken()) == 90
    await book.drop(book.taken()[0].manifest)
    assert await book.take(taken(TWO, 30))


async def test_what_counts_already_is_not_counted_twice(tmp_path: Path) -> None:
    """A fetch that goes on needs no further room."""
    book = await opened(tmp_path)
    await book.put(pledge(limit=100))
    assert await book.take(taken())
    assert await book.take(taken())
    assert len(book.taken()) == 1


async def test_no_limit_is_the_store_s(tmp_path: Path) -> None:
    """None leaves it to the quota."""
    book = await opened(tmp_path)
    await book.put(pledge(limit=None))
    assert await book.take(taken(size=1 << 60))


async def test_nothing_is_taken_for_nobody(tmp_path: Path) -> None:
    """A pledge that was taken back meanwhile has no budget."""
    book = await opened(tmp_path)
    assert not await book.take(taken())


async def test_what_is_not_on_disk_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the book as it was, in memory too."""
    book = await opened(tmp_path)
    await book.put(pledge())

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "replace_file", full)
    for change in (
        partial(book.take, taken()),
        partial(book.put, pledge(keep=5)),
        partial(book.remove, str(ONE)),
    ):
        with pytest.raises(StoreError):
            await change()
    assert book.pledges() == [pledge()]
    assert book.taken() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "pledges": [], "taken": []}',
        '{"version": 1, "pledges": [{"id": "x"}], "taken": []}',
        '{"version": 1, "pledges": [], "taken": [{"manifest": "x", "pledge": "", "size": 1}]}',
    ],
)
async def test_a_damaged_book_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    """And never thrown away."""
    (tmp_path / "pledges.json").write_text(text)
    with pytest.raises(StoreError, match="cannot be read") as info:
        await opened(tmp_path)
    assert "move it away" in info.value.next
    assert (tmp_path / "pledges.json").read_text() == text


async def test_there_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pledges of one node."""
    monkeypatch.setattr("node.pledges.book.MAX_PLEDGES", 1)
    book = await opened(tmp_path)
    await book.put(pledge())
    await book.put(pledge(keep=3))
    with pytest.raises(UsageError):
        await book.put(Pledge(str(TWO), False, "bob/tiny", 1, None, (), 0.0))
