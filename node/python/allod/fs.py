"""The filesystem of URLs like ``allod://alice/data/x.parquet``, for fsspec and all that use it.

Read-only; what is read comes over the network leaf by leaf, verified, and no more of it than the
leaves that hold it. A name is looked up once for the life of a filesystem, so that the files of
one program are of one version; ``invalidate_cache`` looks again. ``tree`` says what paths mean.

Filesystems and files may be pickled, and used after a fork: connections are made anew.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NoReturn, cast

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from allod import verbs
from allod.errors import Missing, StorageFailed
from allod.leaves import LeavesCache
from allod.reading import BLOCK, Remote
from allod.tree import Info, Place, Tree, find_place, grow

__all__ = ["AllodFile", "AllodFileSystem"]

AT_ONCE = 8  # ranges that are asked for at the same time


class AllodFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Releases as folders. ``peers``: multiaddrs to ask first; ``yes`` trusts new publishers."""

    protocol = "allod"
    root_marker = ""
    blocksize = BLOCK

    def __init__(self, *, peers: Iterable[str] = (), yes: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._peers = (peers,) if isinstance(peers, str) else tuple(peers)
        self._yes = yes
        self._trees: dict[str, Tree] = {}  # by the path of the release

    @property
    def fsid(self) -> str:
        """Return ``allod``: the same URL means the same everywhere, but for petnames."""
        return "allod"

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what names mean; the next use looks them up again."""
        self._trees = {}
        super().invalidate_cache(path)

    # -- looking

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List a folder; above the releases, what this machine holds."""
        path = self._strip_protocol(path)
        place = find_place(path)
        if place.ref:
            tree = self._tree(path, place)
            one = tree.info(path)
            found = [one] if one["type"] == "file" else list(tree.folders[path].values())
        else:
            found = _held(place.owner)
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **kwargs: Any) -> Info:
        """Describe a file (``size``, ``cid``, ``sha256`` if it is known) or a folder."""
        path = self._strip_protocol(path)
        place = find_place(path)
        if place.ref:
            return dict(self._tree(path, place).info(path))
        if path and not _held(path):
            raise Missing(f"Nothing by {path!r} is held here.", code="NOT_FOUND")
        return {"name": path, "size": 0, "type": "directory"}

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        """List all files below a path."""
        path = self._strip_protocol(path)
        place = find_place(path)
        if not place.ref:
            return super().find(path, maxdepth, withdirs, detail, **kwargs)
        try:
            tree = self._tree(path, place)
            here = tree.info(path)
        except Missing:
            return {} if detail else []
        found = tree.below(path, maxdepth)
        if withdirs:
            found |= {path: here}
        else:
            found = {name: one for name, one in found.items() if one["type"] == "file"}
        return {name: found[name] for name in sorted(found)} if detail else sorted(found)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Say whether there is such a file or folder; what cannot be looked up is an error."""
        return self._kind(path) is not None

    def isfile(self, path: str) -> bool:
        """Say whether there is such a file."""
        return self._kind(path) == "file"

    def isdir(self, path: str) -> bool:
        """Say whether there is such a folder."""
        return self._kind(path) == "directory"

    def _kind(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except Missing:
            return None

    def ukey(self, path: str) -> str:
        """Return the CID of a file: the same bytes have the same."""
        return self._remote(path).file.cid

    def checksum(self, path: str) -> int:
        """Return a number that is another for other bytes."""
        return int.from_bytes(self.ukey(path).encode(), "big")

    def _tree(self, path: str, place: Place) -> Tree:
        root = path[: len(path) - len(place.inner)].rstrip("/")
        tree = self._trees.get(root)
        if tree is None:
            found = verbs.release(place.ref, peers=self._peers, yes=self._yes)
            tree = self._trees[root] = grow(found, root)
        return tree

    def _remote(self, path: str) -> Remote:
        path = self._strip_protocol(path)
        place = find_place(path)
        if not place.ref:
            raise Missing(f"{path!r} is no file of a release.", code="NOT_FOUND")
        tree = self._tree(path, place)
        return Remote(tree.release.ref, tree.file(path))

    # -- reading

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return bytes of a file by one request; negative numbers count from its end."""
        remote = self._remote(path)
        return remote.read(*_span(start, end, remote.file.size))

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Return bytes of several files, or several of one, some at the same time.

        Ranges of one file that lie at most ``max_gap`` bytes apart are one request.
        """
        starts = list(starts) if isinstance(starts, Iterable) else [starts] * len(paths)
        ends = list(ends) if isinstance(ends, Iterable) else [ends] * len(paths)
        if len({len(paths), len(starts), len(ends)}) != 1:
            raise ValueError("paths, starts and ends are equally many")
        found: list[Any] = [None] * len(paths)
        spans: dict[str, list[tuple[int, int, int]]] = {}
        for index, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
            try:
                span = _span(start, end, self._remote(path).file.size)
                spans.setdefault(path, []).append((*span, index))
            except Exception as exc:  # what the caller asked to have returned
                if on_error == "raise":
                    raise
                found[index] = exc

        def read(path: str, group: list[tuple[int, int, int]]) -> None:
            try:
                first, last = group[0][0], max(stop for _, stop, _ in group)
                data = self._remote(path).read(first, last)
                for start, stop, index in group:
                    found[index] = data[start - first : stop - first]
            except Exception as exc:  # as above
                if on_error == "raise":
                    raise
                for _, _, index in group:
                    found[index] = exc

        groups = [(path, group) for path, all_ in spans.items() for group in _groups(all_, max_gap)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda one: read(*one), groups):
                pass
        return found

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        """Copy a file to the local disk, or into ``outfile``, by one request."""
        if self.isdir(rpath):
            Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        remote = self._remote(rpath)
        callback.set_size(remote.file.size)
        given = outfile or (lpath if hasattr(lpath, "write") else None)
        if given is None:
            target = Path(fspath(cast("str | PathLike[str]", lpath)))
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                self._copy(remote, file, callback)
        else:
            self._copy(remote, given, callback)

    @staticmethod
    def _copy(remote: Remote, file: Any, callback: Any) -> None:
        for piece in remote.chunks(0, remote.file.size):
            file.write(piece)
            callback.relative_update(len(piece))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        cache_type: str = LeavesCache.name,
        **kwargs: Any,
    ) -> "AllodFile":
        if mode != "rb":
            _read_only()
        size = self._remote(path).file.size
        kwargs["size"] = size
        return AllodFile(
            self, path, mode, block_size or BLOCK, autocommit,
            cache_type=cache_type, cache_options=cache_options, **kwargs,
        )  # fmt: skip

    # -- writing, which there is not

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise ``StorageFailed``: a release never changes."""
        _read_only()

    mkdir = makedirs = mkdirs = rmdir = rm = rm_file = _rm = cp_file = copy = mv = _refuse
    put_file = put = pipe_file = pipe = touch = write_text = write_bytes = _refuse


class AllodFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """One file, open for reading; ``block_size`` bytes are read at least."""

    def __init__(self, fs: AllodFileSystem, path: str, *args: Any, **kwargs: Any) -> None:
        # Made first, so that a file stays of the version that it was opened in.
        self._remote = fs._remote(path)
        super().__init__(fs, path, *args, **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._remote.read(start, end)


def _read_only() -> NoReturn:
    raise StorageFailed(
        "A release never changes, so nothing can be written below allod://.",
        code="READ_ONLY",
        next="allod.publish() makes a new version.",
    )


def _span(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """Return what a slice of a file means, as ``start <= i < stop``."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)


def _groups(
    spans: list[tuple[int, int, int]], max_gap: int | None
) -> list[list[tuple[int, int, int]]]:
    """Put ranges that lie close together into one group; without ``max_gap`` each is its own."""
    found: list[list[tuple[int, int, int]]] = []
    reached = 0
    for span in sorted(spans):
        if found and max_gap is not None and span[0] - reached <= max_gap:
            found[-1].append(span)
            reached = max(reached, span[1])
        else:
            found.append([span])
            reached = span[1]
    return found


def _held(owner: str) -> list[Info]:
    """List the publishers of what is held here, or the releases of one of them, by name."""
    from node.messages import NoParams

    names = {
        f"{one['petname']}/{one['name']}" if owner else one["petname"]
        for one in verbs.perform("ls", NoParams())["releases"]
        if one.get("petname") and owner in ("", one["petname"])
    }
    return [{"name": name, "size": 0, "type": "directory"} for name in sorted(names)]
