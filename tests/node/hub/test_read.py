"""GET /control/v1/read: ranges of files that are not fetched, for programs of the owner's."""

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from p2p.references import share_link
from tests.node.door import TOKEN
from tests.node.hub.conftest import FILES, WEIGHTS, Served, World

LARGE = "model.safetensors"


async def read(served: Served, ref: str, path: str, **more: Any) -> httpx.Response:
    """Ask as a program does; ``peer`` and ``range`` may be given, and another ``token``."""
    url = f"/control/v1/read?ref={quote(ref)}&path={quote(path)}"
    for peer in more.get("peers", ()):
        url += f"&peer={quote(peer)}"
    headers = {"authorization": f"Bearer {more.get('token', TOKEN)}"}
    if "range" in more:
        headers["range"] = more["range"]
    return await served.get(url, **headers)


async def test_bytes_and_ranges(world: World) -> None:
    """All of a file, or what was asked for of it, held here or not; its CID is its name."""
    release = await world.publish()
    world.source()
    cids = {entry.path: entry.cid for entry in release.manifest.files}
    for served in (world.empty, world.holder):
        answer = await read(served, "alice/tiny", LARGE, range="bytes=1000-1999")
        assert answer.status_code == 206
        assert answer.content == WEIGHTS[1000:2000]
        assert answer.headers["content-range"] == f"bytes 1000-1999/{len(WEIGHTS)}"
        for path, data in FILES.items():
            answer = await read(served, str(release.manifest.cid), path)
            assert answer.status_code == 200
            assert answer.content == data
            assert answer.headers["content-length"] == str(len(data))
            assert answer.headers["etag"] == f'"{cids[path]}"'
            assert answer.headers["x-allod-manifest"] == str(release.manifest.cid)
            assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("token", ["0", "wrong", TOKEN + "x", "ünicode".encode().decode("latin-1")])
async def test_it_wants_the_token(world: World, token: str) -> None:
    """Nobody else learns whether there is such a release."""
    for ref in ("alice/tiny", "x"):
        url = f"/control/v1/read?ref={ref}&path=config.json"
        answer = await world.holder.client.get(
            url, headers=[(b"authorization", b"Bearer " + token.encode("latin-1"))]
        )
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "REFUSED"
    assert (await world.holder.get(url)).status_code == 401
    assert (await world.holder.get(url, authorization=f"Basic {TOKEN}")).status_code == 401


@pytest.mark.parametrize(
    ("ref", "path", "more", "status", "code"),
    [
        ("alice/tiny", "no.bin", {}, 404, "NOT_FOUND"),
        ("alice/tiny", "", {}, 404, "NOT_FOUND"),
        ("alice/tiny", "../config.json", {}, 404, "NOT_FOUND"),
        ("alice/tiny", "a" * 9000, {}, 404, "NOT_FOUND"),
        ("alice/nothing", "config.json", {}, 404, "NOT_FOUND"),
        ("nobody/tiny", "config.json", {}, 404, "NOT_FOUND"),
        ("", "config.json", {}, 400, "USAGE"),
        ("a b", "config.json", {}, 400, "USAGE"),
        ("alice/tiny", LARGE, {"range": f"bytes={len(WEIGHTS)}-"}, 416, "USAGE"),
        ("alice/tiny", "empty.txt", {"range": "bytes=0-"}, 416, "USAGE"),
    ],
)
async def test_errors(
    world: World, ref: str, path: str, more: dict[str, Any], status: int, code: str
) -> None:
    """An error is an object with a stable word and a sentence."""
    await world.publish()
    world.source()
    answer = await read(world.empty, ref, path, **more)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert "next" in error
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(FILES[path])}"


async def test_what_is_refused(world: World) -> None:
    """The policy's no is 403 here too, and so is the publisher's."""
    release = await world.publish()
    await world.take_back(release, "revoked", "the weights are broken")
    answer = await read(world.holder, "alice/tiny", "config.json")
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "REFUSED"
    assert "the weights are broken" in answer.json()["error"]["message"]


async def test_peers_that_are_asked_first(world: World) -> None:
    """A program may say where to ask; what is no address is its fault."""
    release = await world.publish()
    source = world.source()
    wire = world.empty.machine.wire
    wire.known.remove(source)
    address = "/ip4/127.0.0.1/tcp/1/p2p/somebody"
    wire.by_address[address] = source
    cid = release.manifest.cid
    link = share_link(release.manifest.publisher, "tiny", cid, ())
    answer = await read(world.empty, link, "config.json", peers=["nonsense"])
    assert answer.status_code == 400
    answer = await read(world.empty, link, "config.json", peers=[address])
    assert answer.content == FILES["config.json"]
    assert source.asked


async def test_nothing_but_get(world: World) -> None:
    """There is nothing to write."""
    for method in ("POST", "PUT", "DELETE"):
        answer = await world.holder.ask(method, "/control/v1/read?ref=a&path=b")
        assert answer.status_code == 405
