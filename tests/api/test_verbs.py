"""The verbs against a door: what they ask, what they give back, what a program hears meanwhile."""

import logging
from pathlib import Path

import pytest
import trio

import allod
import allod.trio
from tests.api.conftest import FILES
from tests.api.fake import CID, FakeDoor

X = FILES["dir/x.bin"]
PEER = "/ip4/192.0.2.1/tcp/9770/p2p/12D3KooWQ"
LINK = f"allod:{CID}/data@{CID}"


def test_a_fetch_gives_a_release(door: FakeDoor, caplog: pytest.LogCaptureFixture) -> None:
    """Its folder, its facts, its files; progress and notes are heard in between."""
    caplog.set_level(logging.INFO, "allod")
    seen: list[allod.Progress] = []
    release = allod.fetch(
        "alice/data", include="*.bin", peers=[PEER], local_dir="x", progress=seen.append
    )
    assert release.path == Path("/somewhere")
    assert (release.name, release.version, release.kind) == ("data", "1", "dataset")
    assert (release.license, release.manifest, release.fetched) == ("MIT", CID, 7)
    assert [one.path for one in release.files] == list(FILES)
    assert release.file("a.txt").size == 13
    assert seen == [allod.Progress("fetch", 1, 2, 0.0, 0, "B")]
    assert (caplog.records[0].levelno, caplog.records[0].message) == (30, "It is new.")
    (name, asked), (after, then) = door.performed
    assert (name, after) == ("fetch", "files")
    assert asked["include"] == ["*.bin"]  # one text is one pattern
    assert asked["peers"] == [PEER]
    assert asked["local_dir"] == str(Path("x").absolute())
    assert asked["pin"] is True
    assert then == {"ref": LINK, "peers": []}
    assert release.ref == f"{LINK}?peer={PEER}"


def test_a_fetch_can_fill_the_cache_of_hugging_faces_clients(
    door: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """True means the cache of whoever runs the program, a folder that one; else none is filled."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/cache/of/mine")
    for given in (None, False, True, "there"):
        allod.fetch("alice/data", hf_cache=given)
    asked = [params["hf_cache"] for name, params in door.performed if name == "fetch"]
    assert asked == ["", "", "/cache/of/mine", str(Path("there").absolute())]


def test_a_release_is_looked_at(door: FakeDoor) -> None:
    """Its files without its bytes; the peers that were named stay in its ref."""
    release = allod.release("alice/data", revision="1")
    assert door.performed == [("files", {"ref": "alice/data@1", "peers": []})]
    assert release.path is None
    assert allod.files(release) == release.files  # asks nobody
    door.performed.clear()
    release = allod.release(f"{LINK}?peer={PEER}x", peers=[PEER])
    assert release.ref == f"{LINK}?peer={PEER}x&peer={PEER}"
    assert door.performed == [("files", {"ref": f"{LINK}?peer={PEER}x", "peers": [PEER]})]
    door.performed.clear()
    allod.release("alice/data", yes=True)
    (name, asked), (after, _) = door.performed
    assert (name, asked["statement_only"], asked["pin"], after) == ("fetch", True, False, "files")
    assert asked["yes"] is True
    with allod.open_file(release, "a.txt") as file:
        assert file.read() == FILES["a.txt"]


def test_what_cannot_be_said_is_refused(door: FakeDoor) -> None:
    """publish() knows its options, and says which it does not know."""
    with pytest.raises(allod.InvalidRequest, match="no option 'licence'"):
        allod.publish("x", "alice/x", licence="MIT")  # type: ignore[call-arg]
    assert door.performed == []


def test_a_wrong_token_is_told_apart(door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that the node does not know is an error that names it."""
    monkeypatch.setenv("ALLOD_TOKEN", "w" * 20)
    with pytest.raises(allod.NodeUnavailable, match="Unset ALLOD_TOKEN"):
        allod.files("alice/data")


def test_a_bar_can_be_shown(door: FakeDoor, capfd: pytest.CaptureFixture[str]) -> None:
    """progress=True shows what the command line shows, on stderr."""
    allod.fetch("alice/data", progress=True)
    assert "It is new." in capfd.readouterr().err


async def test_trio_has_the_same(door: FakeDoor, caplog: pytest.LogCaptureFixture) -> None:
    """The same names, results and errors, under trio."""
    seen: list[allod.Progress] = []
    release = await allod.trio.fetch("alice/data", exclude=["*.txt"], progress=seen.append)
    assert release.path == Path("/somewhere")
    assert len(seen) == 1
    assert door.performed[0][1]["exclude"] == ["*.txt"]
    assert await allod.trio.files("alice/data") == release.files
    again = await allod.trio.release(LINK, peers=[PEER])
    assert again.ref == f"{LINK}?peer={PEER}"
    with pytest.raises(allod.Missing):
        await allod.trio.files("alice/nothing")


async def test_a_file_is_read_under_trio(door: FakeDoor) -> None:
    """Reads at any place, small ones from a kept block, lost connections made good."""
    async with allod.trio.open_file("alice/data", "dir/x.bin") as file:
        assert file.size == len(X)
        assert await file.read(1000) == X[:1000]
        assert await file.read(1000) == X[1000:2000]
        assert len(door.asked) == 1
        file.seek(-100, 2)
        assert await file.read() == X[-100:]
        assert await file.read() == b""
        assert file.seek(len(X) + 5) == len(X) + 5
        assert await file.read(5) == b""
        assert await file.read_range(5, 3_000_000) == X[5:3_000_000]
        for fault in ("half", "drop"):
            file.seek(500)
            door.faults = [fault]
            assert await file.read() == X[500:]
        door.faults = ["drop"] * 2
        with pytest.raises(allod.NodeUnavailable, match="went away"):
            await file.read_range(0, 10)
        door.faults = ["refuse"]
        with pytest.raises(allod.Unreachable, match="Nobody"):
            await file.read_range(0, 10)


async def test_a_verb_can_be_cancelled(door: FakeDoor) -> None:
    """Cancelled while the node works: the node sees the connection close, and ends the work."""
    with trio.fail_after(60), trio.CancelScope() as scope:
        await allod.trio.fetch("alice/slow", progress=lambda progress: scope.cancel())
    assert scope.cancelled_caught
    assert await trio.to_thread.run_sync(door.hung_up.wait, 30)


async def test_a_read_can_be_cancelled(door: FakeDoor) -> None:
    """Cancelled before anything came: the file still works afterwards."""
    async with allod.trio.open_file("alice/data", "dir/x.bin") as file:
        with trio.CancelScope() as scope:
            scope.cancel()
            await file.read(10)
        assert scope.cancelled_caught
        assert await file.read(10) == X[:10]
