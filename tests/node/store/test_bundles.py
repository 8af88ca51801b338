"""Bundles of a release: others' words are kept beside the publisher's signature, within bounds."""

from pathlib import Path

import pytest
import trio

from node.store import Store, open_store
from p2p.cid import CID, Codec
from p2p.envelope import MAX_BUNDLES
from p2p.errors import NotFound
from p2p.keys import SecretKey
from tests.p2p.statements import said
from tests.releases import KEY, publish_into, write_folder

OWNERS = {KEY.public}


async def bundles_of(store: Store, cid: CID) -> set[bytes]:
    """What the store would answer with."""
    statement = await store.statement(cid)
    assert statement is not None
    return set(statement.bundles)


async def test_are_kept(tmp_path: Path) -> None:
    """What others say is there after the store was closed, once each, and the rest is left out."""
    folder = tmp_path / "store"
    async with open_store(folder, quota=None, reserve=0) as store:
        release = await publish_into(store, write_folder(tmp_path / "in", {"a": b"1"}))
        cid = release.manifest.cid
        word = said(about=cid)
        assert await store.add_bundles(cid, [word, b"x", said(), word], OWNERS) == 1
        assert await store.add_bundles(cid, [word], OWNERS) == 0
    async with open_store(folder, quota=None, reserve=0) as store:
        assert await bundles_of(store, cid) == {release.bundle, word}
        with pytest.raises(NotFound):
            await store.add_bundles(CID.of(b"", Codec.JSON), [word], OWNERS)


async def test_a_later_word_replaces(store: Store, tmp_path: Path) -> None:
    """Who changes his mind is heard with his latest word, also after an index was lost."""
    release = await publish_into(store, write_folder(tmp_path / "in", {"a": b"1"}))
    cid = release.manifest.cid
    before, after = said(about=cid), said(about=cid, passed=False, at="2027-01-01T00:00:00Z")
    assert await store.add_bundles(cid, [before], OWNERS) == 1
    assert await store.add_bundles(cid, [after], OWNERS) == 1
    assert await store.add_bundles(cid, [before], OWNERS) == 0
    assert await bundles_of(store, cid) == {release.bundle, after}


async def test_never_too_many(store: Store, tmp_path: Path) -> None:
    """Floods from several sides at once leave the publisher's, and no more than an answer holds."""
    release = await publish_into(store, write_folder(tmp_path / "in", {"a": b"1"}))
    cid = release.manifest.cid
    floods = [
        [
            said(about=cid, key=SecretKey.from_seed(bytes([side, number]) * 16))
            for number in range(MAX_BUNDLES // 2)
        ]
        for side in range(3)
    ]
    async with trio.open_nursery() as nursery:
        for flood in floods:
            nursery.start_soon(store.add_bundles, cid, flood, OWNERS)
    kept = await bundles_of(store, cid)
    assert len(kept) == MAX_BUNDLES
    assert release.bundle in kept
