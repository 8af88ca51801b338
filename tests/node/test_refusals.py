"""What goes wrong on a machine or comes wrong from others: one clear sentence, and all stays well.

Every command is a process of its own, every disk a real one. After each refusal the same store and
the same node do a normal piece of work.
"""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from p2p import canonical
from p2p.chunking import Profile
from p2p.cid import CID, Codec
from p2p.envelope import sign_bundle
from p2p.manifest import MAX_MANIFEST, FileEntry, build_manifest
from tests.network.people import Person, same_files, well_made
from tests.releases import KEY, MIB, PUBLISHER, noise, write_folder

FILES = {"model.bin": noise(5 * MIB, 1), "README.md": b"# Tiny\n"}

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs mounts, signals, file modes")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a release."""
    return write_folder(tmp_path / "tiny", FILES)


@contextmanager
def mounted(place: Path, *words: str) -> Iterator[None]:
    """Mount something; skip where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(file: Path) -> None:
    """Write a file until its disk is full."""
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


async def healthy(person: Person, folder: Path, *, name: str = "after") -> None:
    """Publishing works, and what is in the store is as it should be."""
    published = await person.publish(folder, name)
    answer = await person.run("fetch", published["manifest"], "--offline")
    same_files(Path(answer["path"]), folder)
    assert (await person.run("verify"))["leaves"]["bad"] == 0


async def test_a_disk_that_fills_up(tmp_path: Path, folder: Path) -> None:
    """A full disk ends fetch and publish with one sentence; with room again both go on."""
    large = write_folder(tmp_path / "large", {"model.bin": noise(20 * MIB, 3)})
    other = write_folder(tmp_path / "other", {"model.bin": noise(20 * MIB, 4)})
    with trio.fail_after(100):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        release = await alice.publish(large, "large")
        await bob.run("key", "new", "bob")
        store = bob.home / "store"
        ballast = store / "ballast"
        with mounted(store, "-t", "tmpfs", "-o", "size=40m", "none"):
            async with alice.hostile("honest", "--gate", str(6 * MIB)) as source, bob.node():
                words = ("fetch", release["manifest"], "--peer", source.address)
                async with bob.start(*words) as fetch:  # somebody fills the disk meanwhile
                    assert await source.running.answer(1) == {"did": "honest"}
                    fill_up(ballast)
                    await source.running.tell("go")
                    assert await fetch.ended() == 8, fetch.tail()
                    assert well_made(await fetch.answer(), fetch)["code"] == "DISK_FULL"
                for again in (words, ("publish", str(other), "--as", "bob/other")):
                    error = await bob.refused(*again, code=8)
                    assert error["code"] == "DISK_FULL"
                    assert "gc" in error["next"]
                ballast.unlink()
                answer = await bob.run(*words)
                assert answer["bytes"]["local"] > 0
                same_files(Path(answer["path"]), large)
                await healthy(bob, folder)


async def test_a_store_that_is_read_only(tmp_path: Path, folder: Path) -> None:
    """Nothing is tried on a store that may not be written; afterwards it is as it was."""
    with trio.fail_after(100):
        alice = Person(tmp_path / "alice")
        await alice.publish(folder, "tiny")
        store = alice.home / "store"
        with mounted(store, "--bind", str(store)):
            await trio.run_process(["mount", "-o", "remount,ro,bind", str(store)])
            for words in (["publish", str(folder), "--as", "alice/other"], ["ls"], ["up"]):
                error = await alice.refused(*words, code=8)
                assert error["code"] == "READ_ONLY"
                assert str(store) in error["message"]
        await healthy(alice, folder)


async def test_a_port_in_use(tmp_path: Path) -> None:
    """Either port taken by another program is named, with exit code 6, and another one works."""
    with trio.fail_after(60), socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        alice = Person(tmp_path / "alice")
        for words in (["--port", str(port)], ["--http-port", str(port), "--offline"]):
            error = await alice.refused("up", *words, code=6)
            assert error["code"] == "PORT_IN_USE"
            assert str(port) in error["message"]
        async with alice.node():
            assert (await alice.run("status"))["running"]


async def test_wrong_references(tmp_path: Path, folder: Path) -> None:
    """A wrong link, a CID with a flipped letter, another publisher: refused at once."""
    with trio.fail_after(100):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        async with alice.node() as source, bob.node():
            release = await alice.publish(folder, "tiny")
            cid, link = release["manifest"], release["ref"]
            letter = "a" if cid[20] != "a" else "b"
            flipped = cid[:20] + letter + cid[21:]
            for wrong in (
                "allod://nobody",
                link.replace("allod:bagaa", "allod:bagax"),
                cid[:-1],
                "../x",
            ):
                error = await bob.refused("fetch", wrong, code=2)
                assert error["next"], wrong
            # It is a CID, but nobody has what it names, and those who were asked are no liars.
            error = await bob.refused("fetch", flipped, "--peer", source.address, code=3)
            assert flipped in error["message"]
            other = PUBLISHER
            forged = link.replace(release["publisher"], other)
            error = await bob.refused("fetch", forged, code=4)
            assert other in error["message"]
            assert (await bob.run("ls"))["releases"] == []
            answer = await bob.run("fetch", link)
            same_files(Path(answer["path"]), folder)


def unsafe_release(path: str) -> tuple[bytes, bytes]:
    """The manifest of a release with a path that no node would state, and its valid signature."""
    data = FILES["README.md"]
    built = build_manifest(
        kind="model",
        publisher=PUBLISHER,
        name="unsafe",
        version="1",
        created="2026-11-22T00:00:00Z",
        files=[FileEntry("safe/path", len(data), CID.of(data, Codec.RAW), len(data))],
        profile=Profile.TENSOR_1M,
        license={"spdx": "MIT"},
    )
    payload = built.manifest.payload.replace(b'"safe/path"', json.dumps(path).encode())
    assert payload != built.manifest.payload
    return payload, sign_bundle(payload, KEY)


def served(folder: Path, payload: bytes, bundle: bytes) -> tuple[str, list[str]]:
    """The CID of a release, and the words that make a hostile node serve it."""
    cid = str(CID.of(payload, Codec.JSON))
    words = []
    for kind, data in (("manifest", payload), ("bundles", bundle + b"\n")):
        file = folder / f"{kind}-{cid}"
        file.write_bytes(data)
        words += ["--serve", f"/allod/v1/{kind}/{cid}", str(file)]
    return cid, words


async def test_hostile_manifests(tmp_path: Path, folder: Path) -> None:
    """A manifest of 5 MiB is refused, and validly signed ones with paths that lead elsewhere."""
    large = canonical.encode({"padding": "x" * (5 * MIB)})
    releases = {"large": served(tmp_path, large, sign_bundle(large, KEY))}
    for path in ("../x", "/etc/x", "con", "x\\y"):
        releases[path] = served(tmp_path, *unsafe_release(path))
    with trio.fail_after(100):
        alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
        release = await alice.publish(folder, "tiny")
        words = [word for _, more in releases.values() for word in more]
        async with (
            alice.hostile("honest", *words) as source,
            bob.node("--bootstrap", source.address),
        ):
            for path, (cid, _) in releases.items():
                wanted = ("fetch", cid, "--peer", source.address)
                if path == "large":
                    error = await bob.refused(*wanted, code=6)
                    assert str(MAX_MANIFEST) in error["message"]
                else:
                    error = await bob.refused(*wanted, code=4)
                    assert path in error["message"] or repr(path) in error["message"]
            assert (await bob.run("ls"))["releases"] == []
            # The publisher of nonsense is not the node that passed it on: that one is still good.
            answer = await bob.run("fetch", release["manifest"], "--peer", source.address)
            same_files(Path(answer["path"]), folder)
        assert not (tmp_path / "x").exists()


async def test_a_file_that_changes_while_it_is_published(tmp_path: Path, folder: Path) -> None:
    """It is named, nothing is published, and once it rests publishing works."""
    growing = tmp_path / "tiny" / "growing.bin"
    with trio.fail_after(100):
        alice = Person(tmp_path / "alice")
        await alice.run("key", "new", "alice")
        async with alice.node():
            with growing.open("wb") as stream:
                stream.truncate(1 << 30)  # a hole: long to hash, quick to make
                async with alice.start("publish", str(folder), "--as", "alice/tiny") as command:
                    await command.event(lambda event: "progress" in event)
                    stream.write(b"changed")
                    stream.flush()
                    assert await command.ended() == 4, command.tail()
                    error = well_made(await command.answer(), command)
            assert error["code"] == "SOURCE_CHANGED"
            assert "growing.bin" in error["message"]
            assert (await alice.run("ls"))["releases"] == []
            growing.write_bytes(b"at rest")
            await healthy(alice, folder)
