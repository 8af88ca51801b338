"""A disk that forgets: what may be left of a folder when the power goes.

``Recorder`` stands in for the single steps of node/store/durable.py, does them, and writes down
what they do to the folder. ``Disk`` takes the steps again, keeps apart what was synced from what
was only written, and builds the states that a cut could leave (the idea of ALICE and CrashMonkey):

    strict   nothing but what was synced
    names    every name, but of the bytes only the synced ones, the rest zeros
    all      everything, as after the death of the process alone
    torn     a throw of dice for every name, and for every block of every file
"""

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiosqlite
import pytest

from node.store import durable

State = Literal["strict", "names", "all", "torn"]
STATES: tuple[State, ...] = ("strict", "names", "all", "torn")
BLOCK = 4096
DECISIVE = {"sync_file", "sync_folder", "sync_all", "rename", "tell", "index"}
"""Steps that change which states a cut can leave, or what must be kept."""

Step = tuple[Any, ...]
Promises = dict[str, object]


@dataclass(eq=False)
class File:
    """A file: what is on disk for sure, and what a reader sees now."""

    synced: bytes = b""
    now: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class Folder:
    """A folder: the names on disk for sure, and those that are seen now."""

    synced: "dict[str, File | Folder]" = field(default_factory=dict)
    now: "dict[str, File | Folder]" = field(default_factory=dict)


class Disk:
    """The folder ``root`` as the steps so far have made it."""

    def __init__(self) -> None:
        self.root = Folder()
        self.index: dict[str, bytes] = {}  # the database's files after its last commit

    def take(self, step: Step) -> None:
        """Do what a recorded step did."""
        name, *arguments = step
        getattr(self, f"_{name}")(*arguments)

    def _find(self, path: str) -> "tuple[Folder, str]":
        folder = self.root
        *parts, last = path.split("/")
        for part in parts:
            inner = folder.now[part]
            assert isinstance(inner, Folder)
            folder = inner
        return folder, last

    def _get(self, path: str) -> "File | Folder":
        if path == ".":
            return self.root
        folder, name = self._find(path)
        return folder.now[name]

    def _file(self, path: str) -> File:
        found = self._get(path)
        assert isinstance(found, File)
        return found

    def _create(self, path: str) -> None:
        folder, name = self._find(path)
        folder.now[name] = File()

    def _link_outside(self, data: bytes, path: str) -> None:
        """A file of the owner's, which nobody has ever synced, gets a name here."""
        folder, name = self._find(path)
        folder.now[name] = File(now=bytearray(data))

    def _link(self, source: str, path: str) -> None:
        folder, name = self._find(path)
        folder.now[name] = self._get(source)

    def _write(self, path: str, data: bytes, offset: int) -> None:
        now = self._file(path).now
        now.extend(bytes(max(0, offset + len(data) - len(now))))
        now[offset : offset + len(data)] = data

    def _truncate(self, path: str, size: int) -> None:
        now = self._file(path).now
        del now[size:]
        now.extend(bytes(size - len(now)))

    def _rename(self, source: str, target: str) -> None:
        folder, name = self._find(source)
        other, new = self._find(target)
        if other.now.get(new) is not folder.now[name]:  # else POSIX does nothing
            other.now[new] = folder.now.pop(name)

    def _unlink(self, path: str) -> None:
        folder, name = self._find(path)
        folder.now.pop(name, None)

    def _make_folder(self, path: str) -> None:
        folder, name = self._find(path)
        folder.now.setdefault(name, Folder())

    def _sync_file(self, path: str) -> None:
        file = self._file(path)
        file.synced = bytes(file.now)

    def _sync_folder(self, path: str) -> None:
        folder = self._get(path)
        assert isinstance(folder, Folder)
        folder.synced = dict(folder.now)

    def _sync_all(self) -> None:
        due: list[File | Folder] = [self.root]
        while due:
            found = due.pop()
            if isinstance(found, File):
                found.synced = bytes(found.now)
            else:
                found.synced = dict(found.now)
                due += found.now.values()

    def _index(self, files: dict[str, bytes]) -> None:
        self.index = files

    def _tell(self, *what: object) -> None:
        """Nothing happens to the disk when the store says something."""

    def leave(self, target: Path, state: State, seed: int, *, index: bool) -> None:
        """Write down what a cut of the power leaves."""
        dice = random.Random(seed)
        target.mkdir(parents=True)
        done: dict[int, Path] = {}

        def put(found: "File | Folder", path: Path) -> None:
            if isinstance(found, Folder):
                path.mkdir(exist_ok=True)
                for name, inner in sorted(_names(found, state, dice).items()):
                    put(inner, path / name)
            elif id(found) in done:
                os.link(done[id(found)], path)
            else:
                done[id(found)] = path
                path.write_bytes(_bytes(found, state, dice))

        put(self.root, target)
        if index:
            for name, data in self.index.items():
                (target / name).write_bytes(data)


def _names(folder: Folder, state: State, dice: random.Random) -> "dict[str, File | Folder]":
    if state == "strict":
        return folder.synced
    if state in ("names", "all"):
        return folder.now
    names: dict[str, File | Folder] = {}
    for name in sorted(folder.synced.keys() | folder.now.keys()):
        chosen = (folder.synced if dice.random() < 0.5 else folder.now).get(name)
        if chosen is not None:
            names[name] = chosen
    return names


def _bytes(file: File, state: State, dice: random.Random) -> bytes:
    if state == "strict":
        return file.synced
    if state == "all":
        return bytes(file.now)
    if bytes(file.now) == file.synced:
        return file.synced
    old = file.synced.ljust(len(file.now), b"\0")[: len(file.now)]
    if state == "names":
        return old
    blocks = [
        (old if dice.random() < 0.5 else file.now)[at : at + BLOCK]
        for at in range(0, len(file.now), BLOCK)
    ]
    return b"".join(blocks)


class Recorder:
    """Writes down the steps that are taken below the folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Step] = []

    def tell(self, what: tuple[object, ...]) -> None:
        """Write down what the store has answered for."""
        self.steps.append(("tell", *what))

    def _name(self, path: Path) -> str | None:
        """Return a path below the root, or None."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else None

    def _name_of(self, fd: int) -> str | None:
        return self._name(Path(os.readlink(f"/proc/self/fd/{fd}")))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Stand in for the steps of durable.py for as long as this lasts."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (
                "create", "write_at", "truncate", "sync_file", "sync_folder", "sync_disk", "rename",
                "link", "unlink", "make_folder",
            ):  # fmt: skip
                original = getattr(durable, name)
                patch.setattr(durable, name, self._step(getattr(self, f"_{name}"), original))
            patch.setattr(durable, "clone", lambda source, target: False)
            commit = aiosqlite.Connection.commit

            async def commit_and_copy(database: aiosqlite.Connection) -> None:
                await commit(database)
                files = {path.name: path.read_bytes() for path in self.root.glob("index.sqlite*")}
                files.pop("index.sqlite-shm", None)
                self.steps.append(("index", files))

            patch.setattr(aiosqlite.Connection, "commit", commit_and_copy)
            yield

    @staticmethod
    def _step(note: Callable[..., None], original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            result = original(*arguments)
            note(result, *arguments)
            return result

        return step

    def _create(self, result: int, path: Path, mode: int = 0) -> None:
        self.steps.append(("create", self._name(path)))

    def _write_at(self, result: None, fd: int, data: Any, offset: int) -> None:
        """A write may be cut in the middle, so it is two."""
        data, name = bytes(data), self._name_of(fd)
        half = len(data) // 2
        self.steps.append(("write", name, data[:half], offset))
        self.steps.append(("write", name, data[half:], offset + half))

    def _truncate(self, result: None, fd: int, size: int) -> None:
        self.steps.append(("truncate", self._name_of(fd), size))

    def _sync_file(self, result: None, fd: int) -> None:
        self.steps.append(("sync_file", self._name_of(fd)))

    def _sync_folder(self, result: None, path: Path) -> None:
        name = self._name(path)
        if name is not None:
            self.steps.append(("sync_folder", name))

    def _sync_disk(self, result: bool, path: Path) -> None:
        if result:
            self.steps.append(("sync_all",))

    def _rename(self, result: None, source: Path, target: Path) -> None:
        self.steps.append(("rename", self._name(source), self._name(target)))

    def _link(self, result: bool, source: Path, target: Path) -> None:
        name = self._name(source)
        if not result:
            return
        if name is None:
            self.steps.append(("link_outside", source.read_bytes(), self._name(target)))
        else:
            self.steps.append(("link", name, self._name(target)))

    def _unlink(self, result: None, path: Path) -> None:
        self.steps.append(("unlink", self._name(path)))

    def _make_folder(self, result: None, path: Path, mode: int = 0) -> None:
        self.steps.append(("make_folder", self._name(path)))


def promises(told: Iterable[tuple[object, ...]]) -> Promises:
    """What the store must keep: what it has answered for and was not asked to change since."""
    kept: Promises = {}
    for what, key, *value in told:
        assert isinstance(key, str)
        if what == "ack":
            [kept[key]] = value
        else:
            kept.pop(key, None)
    return kept


def cuts(steps: list[Step]) -> Iterator[tuple[int, Disk, Promises]]:
    """Give the disk, and what was promised, after each step."""
    disk, told = Disk(), []
    for number, step in enumerate(steps):
        disk.take(step)
        if step[0] == "tell":
            told.append(step[1:])
        yield number, disk, promises(told)
