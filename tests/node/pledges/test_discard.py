"""What the store deletes when one release is let go: what nobody else needs, and no more."""

from pathlib import Path

import pytest

from p2p.cid import CID, Codec
from p2p.errors import NotFound
from tests.node.conftest import Stores
from tests.releases import noise, publish_into, write_folder

SHARED, MINE = noise(5000, 1), noise(7000, 2)


async def test_what_others_name_stays(new_store: Stores, tmp_path: Path) -> None:
    """Whether they are pinned or not; what gc would delete besides is left to gc."""
    store = await new_store()
    other = await publish_into(
        store, write_folder(tmp_path / "other", {"shared.bin": SHARED}), name="other"
    )
    gone = await publish_into(
        store,
        write_folder(tmp_path / "gone", {"shared.bin": SHARED, "mine.bin": MINE}),
        name="gone",
    )
    cids = {entry.path: entry.cid for entry in gone.manifest.files}
    await store.unpin(other.manifest.cid)
    assert not await store.discard(gone.manifest.cid)  # it is pinned
    await store.unpin(gone.manifest.cid)
    with store.using(gone.manifest.cid):
        assert not await store.discard(gone.manifest.cid)  # somebody runs it
    assert await store.discard(gone.manifest.cid)
    assert await store.release(gone.manifest.cid) is None
    assert not await store.has(cids["mine.bin"])
    assert await store.has(cids["shared.bin"])
    assert await store.release(other.manifest.cid) is not None
    assert (await store.verify()).bad == []


async def test_what_is_not_there_is_said(new_store: Stores) -> None:
    """As for every verb on one release."""
    store = await new_store()
    with pytest.raises(NotFound):
        await store.discard(CID.of(b"nothing", Codec.JSON))


async def test_a_pin_is_kept_where_nothing_is_said(new_store: Stores, tmp_path: Path) -> None:
    """Recording a release anew with ``pin=None`` leaves the owner's pin, and makes none."""
    store = await new_store()
    release = await publish_into(store, write_folder(tmp_path / "f", {"a": MINE}))
    for pinned in (True, False):
        await (store.pin if pinned else store.unpin)(release.manifest.cid)
        await store.record(release.manifest, [release.bundle], pin=None, complete=True)
        found = await store.release(release.manifest.cid)
        assert found is not None
        assert found.pinned is pinned
