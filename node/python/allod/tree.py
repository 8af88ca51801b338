"""Where a path below ``allod://`` leads: which release, which file in it, what a folder has. Pure.

alice                       a publisher, by this machine's name for it
alice/data                  the newest release of that name
alice/data@1.2.0/dir/x      a file of a version; a CID may stand in the version's place
PUBLISHER_ID/data@V/dir/x   the same by the publisher's id, which needs the ``@``
MANIFEST_CID/dir/x          a file of exactly that release
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from allod.errors import InvalidRequest, Missing
from allod.releases import File, Release

_CID: Final = re.compile("b[a-z0-9]{40,}")

Info = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A path, taken apart; ``ref`` is empty where it ends above any release."""

    ref: str  # as `allod fetch` takes it
    inner: str  # the path within the release; empty for its root
    owner: str = ""  # the publisher, where no release is named


def find_place(path: str) -> Place:
    """Take a path apart; it has no protocol, and no slash at its end."""
    first, _, rest = path.partition("/")
    second, _, inner = rest.partition("/")
    if _CID.fullmatch(first) and "@" not in second:
        return Place(first, rest)
    if not second:
        return Place("", "", first)
    return Place(f"{first}/{second}", inner)


@dataclass(frozen=True, slots=True)
class Tree:
    """A release with its folders: for each the infos of what lies in it, by full path."""

    release: Release
    root: str  # the release's own path
    files: dict[str, File] = field(repr=False)
    folders: dict[str, dict[str, Info]] = field(repr=False)

    def info(self, path: str) -> Info:
        """Describe a file or a folder; ``Missing``."""
        if path in self.files:
            return self.folders[path.rpartition("/")[0]][path]
        if path in self.folders:
            return _folder(path)
        raise Missing(
            f"{self.release.name} {self.release.version} has nothing at {path!r}.",
            code="NOT_FOUND",
        )

    def file(self, path: str) -> File:
        """Return a file; ``Missing``, or ``InvalidRequest`` for a folder."""
        if path not in self.files and path in self.folders:
            raise InvalidRequest(f"{path!r} is a folder, not a file.", code="USAGE")
        self.info(path)
        return self.files[path]

    def below(self, path: str, depth: int | None) -> dict[str, Info]:
        """Return what lies below a folder, at most so many levels; the file, for a file's path."""
        if path in self.files:
            return {path: self.info(path)}
        found = dict(self.folders.get(path, {}))
        if depth is None or depth > 1:
            for name, one in self.folders.get(path, {}).items():
                if one["type"] == "directory":
                    found |= self.below(name, None if depth is None else depth - 1)
        return found


def grow(release: Release, root: str) -> Tree:
    """Make the folders that the paths of a release's files imply, below ``root``."""
    tree = Tree(release, root, {}, {root: {}})
    for file in release.files:
        path = f"{root}/{file.path}"
        tree.files[path] = file
        folder = path.rpartition("/")[0]
        tree.folders.setdefault(folder, {})[path] = _file(path, file)
        while folder != root:
            above = folder.rpartition("/")[0]
            tree.folders.setdefault(above, {}).setdefault(folder, _folder(folder))
            folder = above
    return tree


def _file(path: str, file: File) -> Info:
    # The ETag is what `datasets`, and others that keep a cache, tell versions apart by.
    info = {"name": path, "size": file.size, "type": "file", "cid": file.cid, "ETag": file.cid}
    return info | ({"sha256": file.sha256} if file.sha256 else {})


def _folder(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}
