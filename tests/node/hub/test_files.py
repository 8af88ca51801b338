"""HEAD and GET of files: true names, ranges, and bytes that come while they are fetched."""

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from node.hub.origin import own_commit
from node.hub.sums import Sums
from node.model_sig import sign_model
from node.reading import OpenRelease, open_reader
from p2p.cid import CID
from p2p.errors import AllodError, NoSources, NotFound, StoreError
from p2p.manifest import FileEntry
from tests.hub import git_sha1
from tests.node.door import request
from tests.node.hub.conftest import COMMIT, FILES, WEIGHTS, Served, World, etag, in_thread
from tests.releases import MIB, Published, noise

FILE = "/alice/tiny/resolve/main/"
LARGE = FILE + "model.safetensors"
PICKLE = b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93."


def entry(release: Published, path: str) -> FileEntry:
    return next(one for one in release.manifest.files if one.path == path)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_every_file_by_its_true_name(world: World, method: str) -> None:
    """The ETag is git's hash of a small file and the SHA-256 of a large one; nothing is encoded."""
    release = await world.publish()
    for path, data in FILES.items():
        answer = await world.holder.ask(method, FILE + path, headers={"accept_encoding": "gzip"})
        head = answer.headers
        assert answer.status_code == 200
        assert answer.content == (data if method == "GET" else b"")
        assert head["etag"] == etag(path)
        assert head["content-length"] == str(len(data))
        assert head["x-repo-commit"] == own_commit(release.manifest.cid)
        assert head["accept-ranges"] == "bytes"
        large = path == "model.safetensors"
        assert head.get("x-linked-etag") == (etag(path) if large else None)
        assert head.get("x-linked-size") == (str(len(data)) if large else None)
        for unwanted in ("content-encoding", "location", "x-xet-hash", "link", "x-hf-warning"):
            assert unwanted not in head


async def test_ranges(world: World) -> None:
    """A part of a file, from the front or the end; what lies outside is 416, and says the size."""
    await world.publish()
    size = len(WEIGHTS)
    for said, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        (f"bytes={size - 5}-", size - 5, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=10-{size + 10}", 10, size),
    ):
        answer = await world.holder.get(LARGE, range=said)
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert answer.content == WEIGHTS[start:stop]
        assert answer.headers["etag"] == etag("model.safetensors")
    for said in (f"bytes={size}-", "bytes=-0"):
        answer = await world.holder.get(LARGE, range=said)
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{size}"
        assert answer.headers["x-repo-commit"]
    for said in ("lines=1-2", "bytes=5-2", "bytes=0-1,4-5", "bytes=x-"):  # RFC 9110 14.2
        answer = await world.holder.get(LARGE, range=said)
        assert answer.status_code == 200
    empty = await world.holder.get(FILE + "empty.txt", range="bytes=0-")
    assert empty.status_code == 416


async def test_what_the_client_has_is_not_sent(world: World) -> None:
    """304 for a name that it gives, among others too; the whole file for another."""
    await world.publish()
    mine = etag("config.json")
    for said in (mine, f"W/{mine}", f'"other", {mine}', "*"):
        for method in ("GET", "HEAD"):
            answer = await world.holder.ask(
                method, FILE + "config.json", headers={"if_none_match": said}
            )
            assert answer.status_code == 304
            assert answer.headers["etag"] == mine
            assert answer.content == b""
    answer = await world.holder.get(FILE + "config.json", if_none_match=mine.strip('"'))
    assert answer.content == FILES["config.json"]


async def test_no_other_header_counts(world: World) -> None:
    """What else clients send changes nothing."""
    await world.publish()
    answer = await world.holder.get(
        FILE + "config.json",
        authorization="Bearer hf_secret",
        if_range='"other"',
        if_match='"other"',
        if_modified_since="Sun, 22 Nov 2099 00:00:00 GMT",
        x_forwarded_host="evil.example",
        cookie="token=hf_secret",
        user_agent="unknown/None; hf_hub/2.4.0",
    )
    assert answer.status_code == 200
    assert answer.content == FILES["config.json"]


async def test_a_token_leaves_no_trace(
    world: World, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Not in the log, not on the disk, and not in what other nodes are asked."""
    caplog.set_level("DEBUG")
    await world.publish()
    source = world.source()
    token = "hf_" + "s3cret" * 6
    for path in (LARGE, FILE + "no.bin", "/api/models/alice/tiny", "/api/models/nobody/x"):
        for served in (world.holder, world.empty):
            await served.get(path, authorization=f"Bearer {token}")
    assert token not in caplog.text
    assert not any(token in one for one in source.asked)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]  # noqa: ASYNC240
    assert written
    assert not [file for file in written if token.encode() in file.read_bytes()]


# -- of a file that is not here


async def test_a_small_file_has_its_true_name_at_once(world: World) -> None:
    """It is brought here first, and nothing else is."""
    release = await world.publish()
    source = world.source()
    for path in ("config.json", "data/words.txt", "empty.txt"):
        answer = await world.empty.head(FILE + path)
        assert answer.status_code == 200
        assert answer.headers["etag"] == etag(path)
        assert answer.headers["content-length"] == str(len(FILES[path]))
        if FILES[path]:
            assert await world.empty.machine.store.has(entry(release, path).cid)
    assert not await world.empty.machine.store.has(entry(release, "model.safetensors").cid)
    assert source.sent < 100


async def test_a_large_file_goes_by_its_cid_until_it_is_here(world: World) -> None:
    """Where nobody said its SHA-256; a HEAD moves nothing of it."""
    release = await world.publish()
    source = world.source()
    answer = await world.empty.head(LARGE)
    cid = entry(release, "model.safetensors").cid
    assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{cid}"'
    assert source.sent == 0
    answer = await world.empty.get(LARGE)
    assert answer.content == WEIGHTS
    assert (await world.empty.head(LARGE)).headers["etag"] == etag("model.safetensors")


@pytest.mark.parametrize("by", ["manifest", "model.sig"])
async def test_a_large_file_has_its_true_name_if_its_publisher_said_it(
    world: World, by: str
) -> None:
    """In the manifest, or in the signature for other tools."""
    release = await world.publish(stated=["model.safetensors"] if by == "manifest" else [])
    if by == "model.sig":
        store = world.holder.machine.store
        cid, signer = release.manifest.cid, world.alice.signer
        assert await sign_model(cid, signer, store, lambda event: None)
    source = world.source()
    answer = await world.empty.head(LARGE)
    assert answer.headers["etag"] == etag("model.safetensors")
    assert source.sent == 0
    tree = await world.empty.json("/api/models/alice/tiny/tree/main")
    [large] = [one for one in tree if "lfs" in one]
    assert large["lfs"]["oid"] == etag("model.safetensors").strip('"')


async def test_a_word_on_a_sum_is_only_a_word(world: World) -> None:
    """Once the bytes were hashed here, their hash is the name, whatever their publisher said."""
    release = await world.publish(stated=["model.safetensors"])
    lie, cid = "ab" * 32, entry(release, "model.safetensors").cid
    files = [replace(one, sha256=lie) if one.cid == cid else one for one in release.manifest.files]
    store, opened = world.holder.machine.store, await world.holder.reader.open("alice/tiny")
    [liar] = [one for one in files if one.cid == cid]
    sums = Sums(store, world.holder.reader.nursery)
    assert (await sums.of(opened, files))[liar.path].digest == lie
    await store.sha256([cid])
    assert (await sums.of(opened, files))[liar.path].etag == etag("model.safetensors")


async def test_downloads_from_the_swarm(world: World, tmp_path: Path) -> None:
    """The real library gets every file, verified, by its hash, and the node keeps what came."""
    release = await world.publish()
    world.source()
    world.source()
    cache = tmp_path / "cache"
    folder = await in_thread(
        lambda: snapshot_download(
            "alice/tiny", endpoint=world.empty.url, token=False, cache_dir=cache
        )
    )
    assert Path(folder).name == own_commit(release.manifest.cid)
    for path, data in FILES.items():
        assert (Path(folder) / path).read_bytes() == data
        if data:
            assert await world.empty.machine.store.has(entry(release, path).cid)
    blobs = {file.name for file in (cache / "models--alice--tiny" / "blobs").iterdir()}
    assert {etag(path).strip('"') for path in FILES if path != "model.safetensors"} < blobs


async def test_many_clients_share_one_fetch(world: World) -> None:
    """Three that ask for a file move it once."""
    await world.publish()
    source = world.source()
    got: list[bytes] = []

    async def get() -> None:
        got.append((await world.empty.get(LARGE)).content)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(get)
    assert got == [WEIGHTS] * 3
    assert source.sent == len(WEIGHTS)


async def test_a_range_moves_little(world: World) -> None:
    """Only what a client asks for comes here."""
    await world.publish({"big.bin": noise(8 * MIB)})
    source = world.source()
    answer = await world.empty.get(FILE + "big.bin", range=f"bytes={5 * MIB}-{5 * MIB + 99}")
    assert answer.content == noise(8 * MIB)[5 * MIB : 5 * MIB + 100]
    assert source.sent == MIB


@pytest.mark.parametrize("error", [NotFound("Nobody has it."), NoSources("Nobody answers.")])
async def test_what_nobody_has_is_no_missing_file(
    world: World, error: AllodError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client gets 504, so that it tries again, and remembers nothing."""
    await world.publish()
    world.source()

    async def read(*args: Any) -> AsyncGenerator[bytes, None]:
        await trio.lowlevel.checkpoint()
        raise error
        yield

    monkeypatch.setattr(OpenRelease, "read", read)
    for method, path in (("HEAD", FILE + "config.json"), ("GET", LARGE)):
        answer = await world.empty.ask(method, path)
        assert answer.status_code == 504
        assert answer.headers["x-error-message"] == error.message
        assert "x-error-code" not in answer.headers


# -- what goes wrong on the way


async def test_an_error_in_the_middle_cuts_the_connection(world: World, tmp_path: Path) -> None:
    """A pickle in disguise is refused at its end: no client takes what came for the file."""
    bad = PICKLE.ljust(3 * MIB, b"\0")
    await world.publish({"model.safetensors": bad})
    world.source()
    with pytest.raises(httpx.RemoteProtocolError):
        await world.empty.get(LARGE)
    answer = await world.empty.get(LARGE)
    assert answer.status_code == 403
    assert "pickle" in answer.headers["x-error-message"]
    with pytest.raises(LocalEntryNotFoundError) as caught:
        await in_thread(
            lambda: hf_hub_download(
                "alice/tiny",
                "model.safetensors",
                endpoint=world.empty.url,
                token=False,
                cache_dir=tmp_path / "cache",
            )
        )
    assert "pickle" in str(caught.value.__cause__)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()
                and file.stat().st_size >= len(bad) - 1]  # fmt: skip


class Reads:
    """Notes when the reading of a file begins, and when it is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.over = trio.Event(), trio.Event()
        read = OpenRelease.read

        async def spy(*args: Any) -> AsyncGenerator[bytes, None]:
            self.begun.set()
            pieces = read(*args)
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()
                self.over.set()

        monkeypatch.setattr(OpenRelease, "read", spy)


async def hang_up(served: Served, path: str, after: trio.Event) -> None:
    """Ask, and go away."""
    port = urlsplit(served.url).port or 0
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request(path, b"", port, method="GET", connection=None))
        await after.wait()


async def test_a_client_that_hangs_up_early(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the first bytes ends with the client that wanted them."""
    await world.publish()
    source = world.source(stalls=True)
    reads = Reads(monkeypatch)
    with trio.fail_after(60):
        await hang_up(world.empty, LARGE, source.stalled)
        await reads.over.wait()
    assert (await world.empty.get("/api/models/alice/tiny")).status_code == 200


async def test_a_client_that_hangs_up_in_the_middle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is not read on for a client that is gone."""
    await world.publish({"big.bin": noise(24 * MIB)})
    reads = Reads(monkeypatch)
    with trio.fail_after(60):
        await hang_up(world.holder, FILE + "big.bin", reads.begun)
        await reads.over.wait()
    assert (await world.holder.get(FILE + "big.bin")).content == noise(24 * MIB)


async def test_an_import_keeps_the_hubs_division(world: World) -> None:
    """Of an import, large is what its publisher states SHA-256 of, whatever it is called."""
    files = {"big.txt": b"as lfs", "model.safetensors": WEIGHTS}
    await world.imported(files=files, stated=["big.txt"])
    head = (await world.holder.head("/org/repo/resolve/main/big.txt")).headers
    assert head["etag"] == head["x-linked-etag"] == f'"{hashlib.sha256(b"as lfs").hexdigest()}"'
    head = (await world.holder.head("/org/repo/resolve/main/model.safetensors")).headers
    assert head["etag"] == f'"{git_sha1(WEIGHTS)}"'
    assert "x-linked-etag" not in head
    assert head["x-repo-commit"] == COMMIT


async def test_a_disk_that_fails_while_nobody_waits(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is hashed later and cannot be read is logged, and ends nothing else."""
    release = await world.publish()
    store = world.holder.machine.store

    async def broken(cids: list[CID]) -> dict[CID, str]:
        if cids:
            raise StoreError("The disk is gone.")
        return {}

    monkeypatch.setattr(store, "sha256", broken)
    monkeypatch.setattr("node.hub.sums.AT_ONCE", 0)
    async with open_reader(world.holder.machine) as reader:
        opened = await reader.open(str(release.manifest.cid))
        entry = opened.entry("model.safetensors")
        async with trio.open_nursery() as nursery:
            found = await Sums(store, nursery).of(opened, [entry])
    assert not found[entry.path].known
    assert "The disk is gone." in caplog.text
