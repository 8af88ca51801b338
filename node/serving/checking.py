"""That the bytes which an engine will see are the ones that were signed.

Between two loads a file may have been changed, by a failing disk or by whoever owns the original of
a hard link. So a release is hashed again before an engine opens it, unless inode, size, and the
times of the last change of each file's bytes and of its inode are those after the last look.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from node.messages import Progress, Report
from node.store import NamedFile, Release, Store, durable
from p2p.errors import SourceChanged, VerificationFailed

MAX_FILE: Final = 16 << 20
"""Bytes of what is remembered of one release: 100,000 files."""

Facts = dict[str, list[int]]


def look(folder: Path, files: Sequence[NamedFile]) -> Facts:
    """Return size, inode and both times of each file of a release, in its folder; blocks."""
    found: Facts = {}
    for file in files:
        try:
            stat = os.stat(folder / file.path)
        except OSError as exc:
            raise SourceChanged(
                f"{file.path} should lie in the release's folder, but is gone.",
                next="`allod fetch` brings it back.",
            ) from exc
        found[file.path] = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
    return found


class Checker:
    """Remembers, in a folder of its own, how files looked when their bytes were right."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder

    async def check(self, release: Release, folder: Path, report: Report) -> Facts:
        """Make sure of a release's files, hashing them if need be; return how they look now.

        ``VerificationFailed`` names the first file and offset that is not what was signed.
        """
        files = await self._store.release_files(release.manifest_cid)
        note = self._folder / f"{release.manifest_cid}.json"
        facts = await durable.on_disk("look at a release", lambda: look(folder, files))
        if await durable.on_disk("read what was verified", lambda: _read(note)) == facts:
            return facts
        done = 0

        def hashed(size: int) -> None:
            nonlocal done
            done += size
            report(Progress("verify", done, max(done, release.size)))

        found = await self._store.verify(release.manifest_cid, hashed)
        if found.bad:
            bad = found.bad[0]
            raise VerificationFailed(
                f"{bad.path} of {release.name} is not what was signed, at byte {bad.offset}: "
                "no engine may see it.",
                next="`allod fetch` repairs just that.",
            )
        facts = await durable.on_disk("look at a release", lambda: look(folder, files))
        await durable.on_disk("note what was verified", lambda: _write(note, facts))
        return facts


def _read(file: Path) -> object:
    try:
        with file.open("rb") as stream:
            return json.loads(stream.read(MAX_FILE))
    except (OSError, ValueError, RecursionError):
        return None  # then it is hashed once more


def _write(file: Path, facts: Facts) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    durable.replace_file(file, json.dumps(facts).encode(), file.parent)
