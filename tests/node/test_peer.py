"""What a node answers to other nodes about releases."""

import json
from pathlib import Path

import pytest
import trio
import trio.testing

from node.api.peer import PeerApi
from node.store import Store
from p2p.cid import CID, Codec
from p2p.dag import Outline
from p2p.errors import NotFound, UsageError
from p2p.http import Request, Response
from p2p.naming import authenticate, files_of
from tests.node.conftest import Stores
from tests.releases import MIB, Published, noise, publish_into, write_folder

FILES = {"big.bin": noise(2 * MIB + 5, 1), "small.txt": b"small"}


@pytest.fixture
async def store(new_store: Stores) -> Store:
    return await new_store()


@pytest.fixture
async def release(store: Store, tmp_path: Path) -> Published:
    return await publish_into(store, write_folder(tmp_path / "files", FILES))


async def ask(store: Store, path: str) -> Response:
    return await PeerApi(store)(Request("GET", path, {}, {}, "test"))


async def text(store: Store, path: str) -> bytes:
    response = await ask(store, path)
    assert response.status == 200
    assert isinstance(response.body, bytes)
    return response.body


async def test_a_statement_and_its_signatures_verify(store: Store, release: Published) -> None:
    """The manifest's bytes hash to its CID and the bundles sign them."""
    payload = await text(store, f"/allod/v1/manifest/{release.manifest.cid}")
    assert release.manifest.cid.matches(payload)
    lines = await text(store, f"/allod/v1/bundles/{release.manifest.cid}")
    metadata = await store.publishers.get(release.manifest.publisher)
    assert metadata is not None
    assert authenticate(payload, lines.split(b"\n"), metadata) == (release.bundle,)


async def test_what_a_publisher_says_is_passed_on(store: Store, release: Published) -> None:
    """Each file of a publisher's metadata is there under its name in TUF, byte for byte."""
    publisher = release.manifest.publisher
    metadata = await store.publishers.get(publisher)
    assert metadata is not None
    for name, data in files_of(metadata).items():
        assert await text(store, f"/allod/v1/publisher/{publisher}/{name}") == data
    for path in (
        f"{publisher}/2.root.json",
        f"{publisher}/1.timestamp.json",
        f"{publisher}/taken.json",
        f"{publisher}/..",
        f"{CID.of(b'nobody', Codec.JSON)}/1.root.json",
        "../1.root.json",
        "nonsense/timestamp.json",
    ):
        with pytest.raises(NotFound):
            await ask(store, f"/allod/v1/publisher/{path}")


async def test_an_outline_verifies_against_the_file(store: Store, release: Published) -> None:
    """An Outline is all that a reader needs to check plain ranges."""
    entry = release.manifest.files[0]
    car = await text(store, f"/allod/v1/outline/{entry.cid}")
    outline = Outline.decode(entry.cid, car, entry.size)
    assert outline.verify(2, FILES["big.bin"][2 * MIB :])


async def test_have_says_what_is_here(store: Store, new_store: Stores, release: Published) -> None:
    """A whole release, a whole file, and parts of both."""
    manifest = release.manifest
    big, small = manifest.files
    assert json.loads(await text(store, f"/allod/v1/have/{manifest.cid}")) == {
        "complete": True,
        "files": {},
    }
    assert json.loads(await text(store, f"/allod/v1/have/{big.cid}")) == {
        "size": big.size,
        "have": [[0, big.size]],
    }
    outline = await store.outline(big.cid)
    assert outline is not None
    reader = await new_store()
    await reader.put_many([(Outline.single(small.cid, small.size), FILES["small.txt"])])
    await reader.record(manifest, [release.bundle], pin=False, complete=False)
    async with reader.open_partial(outline) as partial:
        await partial.accept(0, FILES["big.bin"][:MIB])
        assert json.loads(await text(reader, f"/allod/v1/have/{manifest.cid}")) == {
            "complete": False,
            "files": {str(small.cid): [[0, small.size]], str(big.cid): [[0, MIB]]},
        }
        assert json.loads(await text(reader, f"/allod/v1/have/{big.cid}"))["have"] == [[0, MIB]]


class SlowToCount(PeerApi):
    """A node whose release has so many files that counting them takes a second."""

    def __init__(self, store: Store, clock: trio.testing.MockClock) -> None:
        super().__init__(store)
        self.clock = clock
        self.counts = 0

    async def _count(self, cid: CID, withheld: frozenset[CID]) -> bytes:
        self.counts += 1
        body = await super()._count(cid, withheld)
        self.clock.jump(1.0)
        return body


async def test_have_costs_a_stranger_more_than_the_node(
    new_store: Stores, release: Published, mock_clock: trio.testing.MockClock
) -> None:
    """However many ask at once, the files are counted once, and again only after a pause."""
    reader = await new_store()
    await reader.record(release.manifest, [release.bundle], pin=False, complete=False)
    api = SlowToCount(reader, mock_clock)
    request = Request("GET", f"/allod/v1/have/{release.manifest.cid}", {}, {}, "test")
    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(api, request)
    assert api.counts == 1
    mock_clock.jump(20.0)
    assert (await api(request)).body == b'{"complete": false, "files": {}}'
    assert api.counts == 2


@pytest.mark.parametrize("what", ["manifest", "bundles", "have", "outline"])
async def test_what_is_not_held_is_not_found(store: Store, what: str) -> None:
    """An unknown CID is 404, a malformed one 400."""
    codec = Codec.RAW if what == "outline" else Codec.JSON
    with pytest.raises(NotFound):
        await ask(store, f"/allod/v1/{what}/{CID.of(b'nowhere', codec)}")
    with pytest.raises(NotFound):
        await ask(store, f"/allod/v1/have/{CID.of(b'nowhere', Codec.RAW)}")
    with pytest.raises(UsageError):
        await ask(store, f"/allod/v1/{what}/nonsense")


@pytest.mark.parametrize(
    "path", ["/", "/allod", "/allod/v1/x/y", "/allod/v2/have/x", "/etc/passwd"]
)
async def test_there_is_nothing_else(store: Store, path: str) -> None:
    """Other paths are 404, whatever they look like."""
    with pytest.raises(NotFound):
        await ask(store, path)
