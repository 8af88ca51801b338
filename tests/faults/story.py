"""What a store does in a day, told so that it can be cut off anywhere: one publish, one fetch.

Everything that the store has answered for is told to ``tell`` before the next thing begins:
``("begin", key)`` - from here on the old promise about ``key`` may be kept or not;
``("ack", key, value)`` - from here on the new one must be.
Keys are ``file:CID`` (value: whether it is held), ``release:CID`` (value: pinned, complete; or
None when it is removed) and ``publisher:ID`` (value: the version of its list of releases).

    python -m tests.faults.story FOLDER FIRST STEP LAST

runs the story again and again, each time in a folder of its own, and ends run n with SIGKILL at its
n-th step. What it had told by then is in a file beside the folder.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import trio

from node.store import Store, durable, open_store
from p2p.chunking import Profile
from p2p.cid import CID
from p2p.dag import Outline
from p2p.envelope import sign_bundle
from p2p.manifest import Built, FileEntry, build_manifest
from p2p.naming import Metadata
from tests.node.store.outlines import outline_of
from tests.publishers import Publisher
from tests.releases import KEY, MIB, PUBLISHER, noise

Tell = Callable[[tuple[object, ...]], None]

LINKED = {"model.bin": noise(2 * MIB + 100, 1), "config.json": b'{"a": 1}'}
COPIED = {"notes.txt": b"some notes", "big.txt": noise(MIB + 50, 2)}
FETCHED = {"weights.bin": noise(3 * MIB + 7, 3), "readme.md": b"# read me"}
ALL = {**LINKED, **COPIED, **FETCHED}

STEPS = (
    "create", "write_at", "truncate", "seal", "sync_file", "sync_folder", "sync_disk", "rename",
    "link", "unlink", "make_folder",
)  # fmt: skip


def cid_of(path: str) -> CID:
    """The CID of one of the story's files."""
    return outline(path).root


@cache
def outline(path: str) -> Outline:
    """The Outline of one of the story's files."""
    return outline_of(ALL[path])


@cache
def release(name: str) -> tuple[Built, bytes]:
    """The story's two releases: what is published, and what is fetched."""
    files = FETCHED if name == "fetched" else {**LINKED, **COPIED}
    built = build_manifest(
        kind="model",
        publisher=PUBLISHER,
        name=name,
        version="1",
        created="2026-11-22T00:00:00Z",
        files=[
            FileEntry(path, len(data), cid_of(path), outline(path).dag_size)
            for path, data in files.items()
        ],
        profile=Profile.FIXED_1M,
        license={"spdx": "MIT"},
    )
    return built, sign_bundle(built.manifest.payload, KEY)


@cache
def listed(name: str) -> tuple[int, Metadata]:
    """What the publisher says once it has listed a release: the version of its list, and all."""
    publisher = Publisher()
    publisher.add(release("published")[0].manifest)
    if name == "fetched":
        publisher.add(release("fetched")[0].manifest)
    return publisher.names().version, publisher.metadata


async def list_release(store: Store, name: str, tell: Tell) -> None:
    """Hear from the publisher that a release is listed."""
    version, metadata = listed(name)
    tell(("begin", f"publisher:{PUBLISHER}"))
    await store.publishers.put(PUBLISHER, metadata)
    tell(("ack", f"publisher:{PUBLISHER}", version))


async def publish(store: Store, outside: Path, tell: Tell) -> None:
    """Take files in, record the release, show it."""
    built, bundle = release("published")
    for path in (*LINKED, *COPIED):
        tell(("begin", f"file:{cid_of(path)}"))
    added = await store.add_many([(outside / path, path) for path in LINKED], Profile.FIXED_1M)
    for one in added:
        tell(("ack", f"file:{one.outline.root}", True))
    await store.add_bytes(COPIED["big.txt"], Profile.FIXED_1M)
    tell(("ack", f"file:{cid_of('big.txt')}", True))
    await store.put_many([(outline("notes.txt"), COPIED["notes.txt"])])
    tell(("ack", f"file:{cid_of('notes.txt')}", True))
    await list_release(store, "published", tell)
    key = f"release:{built.manifest.cid}"
    tell(("begin", key))
    await store.record(
        built.manifest, [bundle], pin=True, complete=True, directory_blocks=built.tree.blocks
    )
    tell(("ack", key, [True, True]))
    await store.view(built.manifest)


async def fetch(store: Store, tell: Tell) -> None:
    """Record what is to come, put it together, record it again."""
    built, bundle = release("fetched")
    await list_release(store, "fetched", tell)
    key = f"release:{built.manifest.cid}"
    if await store.release(built.manifest.cid) is None:
        tell(("begin", key))
        await store.record(built.manifest, [bundle], pin=True, complete=False)
        tell(("ack", key, [True, False]))
    for path, data in FETCHED.items():
        tell(("begin", f"file:{cid_of(path)}"))
        async with store.open_partial(outline(path)) as partial:
            for start, stop in partial.missing:
                for index in outline(path).leaves_in(start, stop):
                    first, end = outline(path).span(index, index + 1)
                    await partial.accept(index, data[first:end])
            await partial.commit()
        tell(("ack", f"file:{cid_of(path)}", True))
    tell(("begin", key))
    await store.record(built.manifest, [bundle], pin=True, complete=True)
    tell(("ack", key, [True, True]))


async def clean_up(store: Store, tell: Tell) -> None:
    """Unpin one release and collect the garbage; remove the other."""
    for name in ("published", "fetched"):
        manifest = release(name)[0].manifest
        key = f"release:{manifest.cid}"
        tell(("begin", key))
        if name == "published":
            await store.unpin(manifest.cid)
            tell(("ack", key, [False, True]))
            tell(("begin", key))
            for file in manifest.files:
                tell(("begin", f"file:{file.cid}"))
            await store.gc()
        else:
            await store.remove(manifest.cid)
        tell(("ack", key, None))


async def story(folder: Path, outside: Path, tell: Tell) -> None:
    """The whole day, with a night in the middle."""
    async with open_store(folder, quota=None, reserve=0) as store:
        await publish(store, outside, tell)
    async with open_store(folder, quota=None, reserve=0) as store:
        await fetch(store, tell)
        await clean_up(store, tell)


def write_outside(outside: Path) -> None:
    """What the publisher has, last changed long ago, and never synced."""
    outside.mkdir(parents=True, exist_ok=True)
    for path, data in LINKED.items():
        (outside / path).write_bytes(data)
        os.utime(outside / path, (1_700_000_000.5, 1_700_000_000.5))


def _die_at(number: int) -> Callable[[], int]:
    """Make the process kill itself at its n-th step; a write is torn in the middle first."""
    taken = 0

    def before(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal taken
        taken += 1
        if taken == number:
            if name == "write_at":
                fd, data, offset = arguments
                os.pwrite(fd, memoryview(data)[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)

    for name in STEPS:
        original = getattr(durable, name)

        @wraps(original)
        def step(*arguments: Any, name: str = name, original: Any = original) -> Any:
            before(name, arguments)
            return original(*arguments)

        setattr(durable, name, step)
    return lambda: taken


def _run(base: Path, number: int) -> None:
    """Be the process that dies."""
    steps = _die_at(number)
    told = os.open(base / f"{number}.told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(what: tuple[object, ...]) -> None:
        os.write(told, json.dumps(what).encode() + b"\n")

    write_outside(base / f"{number}.outside")
    trio.run(story, base / f"{number}", base / f"{number}.outside", tell)
    print(steps(), flush=True)


def main() -> None:
    """Fork a child for each run: importing takes longer than the story."""
    base, (first, step, last) = Path(sys.argv[1]), map(int, sys.argv[2:5])
    for name in ALL:
        outline(name)
    listed("published"), listed("fetched")
    for number in range(first, last + 1, step):
        child = os.fork()
        if not child:
            status = 1
            try:
                _run(base, number)
                status = 0
            finally:
                os._exit(status)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
