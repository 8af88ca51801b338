"""The gateway answers as the trustless gateway specification says, and never more than is held."""

from collections.abc import AsyncIterable
from pathlib import Path

import pytest

from node.api.gateway import Gateway
from node.store import Store
from p2p.car import read_car
from p2p.chunking import Profile
from p2p.cid import CID, Codec, Hash
from p2p.errors import NotFound, PeerRefused, UsageError
from p2p.http import FileBody, Request, Response
from tests.node.conftest import Stores
from tests.releases import MIB, Published, noise, publish_into, write_folder

FILES = {
    "big.bin": noise(3 * MIB + 5, 1),
    "sub/small.txt": b"small",
    "empty": b"",
}


@pytest.fixture
async def store(new_store: Stores) -> Store:
    return await new_store()


@pytest.fixture
async def release(store: Store, tmp_path: Path) -> Published:
    return await publish_into(store, write_folder(tmp_path / "files", FILES))


async def ask(
    store: Store, path: str, query: dict[str, str] | None = None, **headers: str
) -> Response:
    return await Gateway(store)(Request("GET", path, query or {}, headers, "test"))


async def body_of(response: Response) -> bytes:
    body = response.body
    if isinstance(body, bytes):
        return body
    if isinstance(body, FileBody):
        data = body.path.read_bytes()
        return data[body.offset : body.offset + body.length]
    assert isinstance(body, AsyncIterable)
    return b"".join([piece async for piece in body])


def cid_of(release: Published, path: str) -> CID:
    return next(entry.cid for entry in release.manifest.files if entry.path == path)


async def test_a_file_comes_whole_and_in_ranges(store: Store, release: Published) -> None:
    """Bytes, Content-Range, ETag and immutability are as clients expect."""
    cid = cid_of(release, "big.bin")
    whole = await ask(store, f"/ipfs/{cid}")
    assert whole.status == 200
    assert await body_of(whole) == FILES["big.bin"]
    assert whole.headers["etag"] == f'"{cid}"'
    assert "immutable" in whole.headers["cache-control"]
    part = await ask(store, f"/ipfs/{cid}", range="bytes=1000000-2000000")
    assert part.status == 206
    assert await body_of(part) == FILES["big.bin"][1000000:2000001]
    assert part.headers["content-range"] == f"bytes 1000000-2000000/{3 * MIB + 5}"
    with pytest.raises(PeerRefused) as caught:
        await ask(store, f"/ipfs/{cid}", range="bytes=9000000-")
    assert caught.value.status == 416


async def test_paths_lead_through_directories(store: Store, release: Published) -> None:
    """A path below a directory names the file there, or nothing."""
    root = release.manifest.root
    response = await ask(store, f"/ipfs/{root}/sub/small.txt")
    assert await body_of(response) == b"small"
    for wrong in (f"/ipfs/{root}/sub/none", f"/ipfs/{root}/big.bin/x", f"/ipfs/{root}/none/x"):
        with pytest.raises(NotFound):
            await ask(store, wrong)


async def test_sharded_directories_are_walked_too(store: Store, tmp_path: Path) -> None:
    """A directory of thousands of names is sharded, and every name is found."""
    files = {f"a-name-that-takes-its-room-{n:05}.txt": b"%d" % (n % 7) for n in range(6000)}
    release = await publish_into(store, write_folder(tmp_path / "many", files))
    for name in list(files)[::1500]:
        response = await ask(store, f"/ipfs/{release.manifest.root}/{name}")
        assert await body_of(response) == files[name]
    with pytest.raises(NotFound):
        await ask(store, f"/ipfs/{release.manifest.root}/no-such-name")
    name = next(iter(files))
    car = await ask(store, f"/ipfs/{release.manifest.root}/{name}", {"format": "car"})
    blocks = dict(read_car(await body_of(car), release.manifest.root))
    assert files[name] in blocks.values()
    assert len(blocks) >= 3  # root, at least one shard, the file


@pytest.mark.parametrize("how", ["query", "header"])
async def test_a_block_comes_raw(store: Store, release: Published, how: str) -> None:
    """Every block of the tree can be had alone, and matches its CID."""
    root, big = release.manifest.root, cid_of(release, "big.bin")
    leaf = CID.of(FILES["big.bin"][:MIB], Codec.RAW)
    for cid in (root, big, leaf, cid_of(release, "empty"), release.manifest.cid):
        if how == "query":
            response = await ask(store, f"/ipfs/{cid}", {"format": "raw"})
        else:
            response = await ask(store, f"/ipfs/{cid}", accept="application/vnd.ipld.raw")
        assert cid.matches(await body_of(response))
        assert response.headers["content-type"] == "application/vnd.ipld.raw"


async def car(store: Store, cid: CID, **query: str) -> dict[CID, bytes]:
    response = await ask(store, f"/ipfs/{cid}", {"format": "car"} | query)
    assert response.headers["content-type"].startswith("application/vnd.ipld.car")
    return dict(read_car(await body_of(response), cid))


async def test_a_car_holds_the_whole_tree_verified(store: Store, release: Published) -> None:
    """From the directory down, depth first, every block once or more, all right."""
    blocks = await car(store, release.manifest.root)
    leaves = [FILES["big.bin"][at : at + MIB] for at in range(0, 3 * MIB + 5, MIB)]
    for data in (*leaves, b"small", b""):
        assert data in blocks.values()
    assert next(iter(blocks)) == release.manifest.root


async def test_scopes_and_byte_ranges_bound_a_car(store: Store, release: Published) -> None:
    """dag-scope and entity-bytes give just the blocks that they name."""
    root, big = release.manifest.root, cid_of(release, "big.bin")
    assert list(await car(store, root, **{"dag-scope": "block"})) == [root]
    assert list(await car(store, root, **{"dag-scope": "entity"})) == [root]
    assert list(await car(store, big, **{"dag-scope": "block"})) == [big]
    inner = {"dag-scope": "entity", "entity-bytes": f"{MIB}:{MIB + 1}"}
    assert list((await car(store, big, **inner)).values())[1:] == [FILES["big.bin"][MIB : 2 * MIB]]
    tail = await car(store, big, **{"entity-bytes": f"{3 * MIB}:*"})
    assert list(tail.values())[1:] == [FILES["big.bin"][3 * MIB :]]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/ipfs/bafybad", {}),
        ("/ipfs/", {}),
        ("/ipfs/{root}", {"format": "tar"}),
        ("/ipfs/{root}", {"format": "car", "dag-scope": "some"}),
        ("/ipfs/{root}", {"format": "car", "entity-bytes": "-5:*"}),
        ("/ipfs/{root}", {"format": "car", "entity-bytes": "1:x"}),
        ("/ipfs/{root}" + "/a" * 100, {}),
    ],
)
async def test_nonsense_is_the_callers_fault(
    store: Store, release: Published, path: str, query: dict[str, str]
) -> None:
    """Malformed requests are UsageErrors, which become status 400."""
    with pytest.raises(UsageError):
        await ask(store, path.format(root=release.manifest.root), query)


async def test_what_is_not_held_is_not_found(store: Store, release: Published) -> None:
    """A CID that this node does not hold is 404 in every format."""
    nowhere = CID.of(b"nowhere", Codec.RAW, Hash.SHA2_256)
    for query in ({}, {"format": "raw"}, {"format": "car"}):
        with pytest.raises(NotFound):
            await ask(store, f"/ipfs/{nowhere}", query)


async def test_a_partial_file_is_served_as_far_as_it_is_there(
    store: Store, new_store: Stores, release: Published
) -> None:
    """While a file is fetched its verified ranges are served, and nothing else."""
    outline = await store.outline(cid_of(release, "big.bin"))
    assert outline is not None
    reader = await new_store()
    async with reader.open_partial(outline) as partial:
        await partial.accept(1, FILES["big.bin"][MIB : 2 * MIB])
        path = f"/ipfs/{outline.root}"
        here = await ask(reader, path, range=f"bytes={MIB}-{2 * MIB - 1}")
        assert await body_of(here) == FILES["big.bin"][MIB : 2 * MIB]
        with pytest.raises(NotFound):
            await ask(reader, path, range="bytes=0-10")
        with pytest.raises(NotFound):
            await ask(reader, path)
        query = {"format": "car", "entity-bytes": f"{MIB}:{2 * MIB - 1}"}
        blocks = dict(read_car(await body_of(await ask(reader, path, query)), outline.root))
        assert FILES["big.bin"][MIB : 2 * MIB] in blocks.values()


async def test_a_file_that_was_changed_on_disk_is_not_served(store: Store, tmp_path: Path) -> None:
    """A linked file that its owner edits in place is noticed before a byte of it goes out."""
    folder = write_folder(tmp_path / "edit", {"a.bin": noise(2 * MIB, 5)})
    release = await publish_into(store, folder, profile=Profile.FIXED_1M)
    with (folder / "a.bin").open("r+b") as file:
        file.write(b"changed")
    held = await store.held(release.manifest.files[0].cid)
    if held is not None:  # a reflink or a copy: the store's own bytes are as they were
        assert held.path.read_bytes()[:7] != b"changed"
    else:
        with pytest.raises(NotFound):
            await ask(store, f"/ipfs/{release.manifest.files[0].cid}")
