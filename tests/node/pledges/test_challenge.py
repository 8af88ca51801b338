"""Challenges: who has the bytes passes, who only says so does not."""

from collections import Counter
from pathlib import Path

import pytest

from node.pledges.challenge import Had, Lots, ask_have, ask_leaf, own_leaf
from p2p.cid import CID, Codec
from p2p.errors import BadBytes, NetworkError, PeerFault, PeerRefused
from tests.fakes import FakeSource
from tests.node.conftest import Stores
from tests.releases import MIB, Published, noise, publish_into, write_folder

FILES = {"model.bin": noise(3 * MIB + 17, 1), "config.json": b'{"a": 1}', "empty.txt": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tiny", FILES)


def lots_of(release: Published) -> Lots:
    return Lots([(entry.cid, entry.size) for entry in release.manifest.files])


async def test_a_holder_passes(new_store: Stores, folder: Path) -> None:
    """It says that it has all, and gives whatever leaf is asked for."""
    holder, asker = await new_store(), await new_store()
    release = await publish_into(holder, folder)
    async with FakeSource("holder", holder).open() as session:
        assert await ask_have(session, release.manifest.cid, "holder") == Had(True, 0)
        for _ in range(10):
            await ask_leaf(session, lots_of(release), asker, "holder")
    big = max(release.manifest.files, key=lambda entry: entry.size)
    assert await asker.outline(big.cid) is not None  # for the next time


async def test_who_lies_is_caught_at_the_first_leaf(new_store: Stores, folder: Path) -> None:
    """Bytes and outlines alike are checked."""
    holder, asker = await new_store(), await new_store()
    release = await publish_into(holder, folder)
    large = max(release.manifest.files, key=lambda entry: entry.size)
    lots = Lots([(large.cid, large.size)])
    for about in ("/outline/", "/ipfs/"):
        source = FakeSource("liar", holder, lies=True, lies_about=about)
        async with source.open() as session:
            with pytest.raises(BadBytes):
                await ask_leaf(session, lots, asker, "liar")


async def test_who_has_the_statement_alone_fails(new_store: Stores, folder: Path) -> None:
    """It may say that it has all: it has no leaf to give."""
    holder, empty, asker = await new_store(), await new_store(), await new_store()
    release = await publish_into(holder, folder)
    await empty.record(release.manifest, [release.bundle], pin=False, complete=False)
    have = f"/allod/v1/have/{release.manifest.cid}"
    claims = FakeSource("claims", empty, answers={have: b'{"complete": true, "files": {}}'})
    async with claims.open() as session:
        assert await ask_have(session, release.manifest.cid, "claims") == Had(True, 0)
        with pytest.raises(PeerRefused):
            await ask_leaf(session, lots_of(release), asker, "claims")
    async with FakeSource("honest", empty).open() as session:
        assert await ask_have(session, release.manifest.cid, "honest") == Had(False, 0)
    async with FakeSource("other", asker).open() as session:
        assert await ask_have(session, release.manifest.cid, "other") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"complete": 1}',
        b'{"complete": false, "files": {"x": [[1]]}}',
        b'{"complete": false, "files": {"x": [["a", "b"]]}}',
        b'{"complete": false, "files": 5}',
        b"[" * 100_000,
    ],
)
async def test_nonsense_is_the_peer_s_fault(new_store: Stores, answer: bytes) -> None:
    """Whatever comes for an answer."""
    store = await new_store()
    cid = CID.of(b"m", Codec.JSON)
    source = FakeSource("mad", store, answers={"/allod/v1/have/": answer})
    async with source.open() as session:
        with pytest.raises(PeerFault):
            await ask_have(session, cid, "mad")


async def test_an_endless_answer_is_cut_off(
    new_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken for a part of the release, of unknown size."""
    monkeypatch.setattr("node.pledges.challenge.MAX_HAVE", 100)
    source = FakeSource("long", await new_store(), answers={"/allod/v1/have/": b" " * 101})
    async with source.open() as session:
        assert await ask_have(session, CID.of(b"m", Codec.JSON), "long") == Had(False, 0)


async def test_this_node_s_own_copy_is_looked_at_too(new_store: Stores, folder: Path) -> None:
    """A disk that lost bytes has no healthy copy."""
    store = await new_store()
    release = await publish_into(store, folder)
    lots = lots_of(release)
    assert all([await own_leaf(lots, store) for _ in range(10)])
    big = max(release.manifest.files, key=lambda entry: entry.size)
    held = await store.held(big.cid)
    assert held is not None
    held.path.chmod(0o644)
    held.path.write_bytes(bytes(big.size))
    assert not all([await own_leaf(lots, store) for _ in range(50)])


def test_neither_large_nor_small_files_can_hide() -> None:
    """Half are drawn by bytes, half by number; an empty file has nothing to ask for."""
    large, small, empty = (CID.of(text, Codec.RAW) for text in (b"large", b"small", b""))
    lots = Lots([(large, 1_000_000), (small, 10), (empty, 0), (large, 1_000_000)])
    drawn: Counter[CID] = Counter()
    for _ in range(400):
        found = lots.draw()
        assert found is not None
        cid, size, at = found
        assert 0 <= at < size
        drawn[cid] += 1
    assert drawn[empty] == 0
    assert drawn[large] > 200
    assert drawn[small] > 40


def test_what_has_no_bytes_is_not_asked_for() -> None:
    """A release of empty files is whole by word alone."""
    assert Lots([]).draw() is None
    assert issubclass(BadBytes, NetworkError)
