"""Whether the files that the store took in are those that the Hub has.

Asked before anything is signed. The Hub says SHA-256 of its large files, and what git calls the
bytes of all others; the store finds both out in a pass of its own, and keeps them, so that they
need not be found out again for Hugging Face's clients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.hub.repository import Repository
from node.importers.hub import HubFile
from node.messages import Progress, Report
from node.store import Store
from p2p.cid import CID
from p2p.errors import AllodError, SourceChanged, VerificationFailed


@dataclass(frozen=True, slots=True)
class Promised:
    """What must be true: files and their hashes, where their bytes came from, who says so.

    ``listed``: the Hub itself; else the names that its clients' cache has for them.
    """

    files: Sequence[HubFile]
    where: Mapping[str, Path]
    listed: bool
    named: Repository


class Check:
    """Compares; it is what ``node.publish`` calls a Check."""

    def __init__(self, promised: Promised, store: Store, report: Report) -> None:
        self._promised = promised
        self._store = store
        self._report = report

    async def __call__(self, cids: Mapping[str, CID]) -> Mapping[str, str]:
        """Return SHA-256 of the large files; ``VerificationFailed`` names the first bad one."""
        files = self._promised.files
        large = [file for file in files if file.sha256]
        total, done = sum(file.size for file in large), 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            self._report(Progress("check", done=done, total=total))

        sha256 = await self._store.sha256({cids[file.path] for file in large}, count)
        sha1 = await self._store.git_sha1({cids[file.path] for file in files if not file.sha256})
        for file in files:
            found = (sha256 if file.sha256 else sha1).get(cids[file.path])
            if found != file.etag:
                raise self._wrong(file, found)
        return {file.path: file.sha256 for file in large if file.sha256}

    def _wrong(self, file: HubFile, found: str | None) -> AllodError:
        place = self._promised.where[file.path]
        if found is None:
            return SourceChanged(
                f"{place} changed while it was read.",
                next="Import again when nothing writes to it any more.",
            )
        hash = "SHA-256" if file.sha256 else "git blob SHA-1"
        said = "the Hub lists" if self._promised.listed else "its name in the cache says"
        return VerificationFailed(
            f"{file.path} of {self._promised.named} is not what {said}: its {hash} is {found}, "
            f"{file.etag} was expected.",
            next=f"Delete {place} and import again; if it comes out the same, the Hub or the "
            "mirror in HF_ENDPOINT is wrong.",
        )
