"""A repository at the Hugging Face Hub, as huggingface_hub has it: online, or out of its cache.

What the Hub says is believed of nothing but the Hub: which files a commit has, how many bytes each,
and what they hash to. The bytes come from the library's cache or through the library, and whoever
takes them in checks them against those hashes.

    list_files   the commit behind a revision and its files, asked of the Hub
    cached       the same out of the cache: of large files and small ones the hash is in the names
    find         a file in the cache
    download     a file, into the cache
    remember     which commit the revision was

The library finds its cache, its Hub and the user's token itself, and speaks to nobody but its Hub;
its own bars and warnings are silenced, since they would tell a person in a daemon.
Everything here blocks: call it in a worker thread.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from threading import Event, RLock
from typing import Any, Final

from node.hub.origin import COMMIT
from node.hub.repository import Repository
from node.importers.hub_errors import Stopped, hub_errors
from p2p.errors import NetworkError, NotFound, Refused, UsageError, VerificationFailed
from p2p.manifest import MAX_FILES
from p2p.paths import check_path

ASK_WITHIN: Final = 30.0
"""Seconds for the Hub to answer what a revision is: three times what the library gives a HEAD."""

_SHA1: Final = re.compile("[0-9a-f]{40}")
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit: ``sha256`` if the Hub keeps it as a large one, else git's ``sha1``."""

    path: str
    size: int
    sha256: str | None = None
    sha1: str | None = None

    @property
    def etag(self) -> str:
        """Its name in the cache."""
        return self.sha256 or self.sha1 or ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit and its files by path; ``closed``: not everybody may have it from the Hub."""

    commit: str
    files: tuple[HubFile, ...]
    closed: bool = False


class Hub:
    """One repository at one Hub, and one cache. ``cache``, ``endpoint``: the library's if empty."""

    def __init__(self, repository: Repository, cache: str = "", endpoint: str = "") -> None:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import logging
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        logging.set_verbosity(50)  # critical; what goes wrong is ours to tell
        self.repository = repository
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.cache = Path(os.path.realpath(cache or constants.HF_HUB_CACHE))
        self._folder = Path(os.path.realpath(self.cache / repository.folder))
        self._api = HfApi(endpoint=self.endpoint, library_name="allod")

    # --- what there is ---------------------------------------------------------------------------

    def list_files(self) -> Snapshot:
        """Ask the Hub; ``Unreachable``, ``NotFound``, ``Refused``, ``NetworkError``."""
        named = self.repository
        with hub_errors(named, self.endpoint, self.cache):
            info = self._api.repo_info(
                named.repo, repo_type=named.kind, revision=named.revision, timeout=ASK_WITHIN
            )
            commit = _text(info.sha, COMMIT, "commit")
            closed = bool(getattr(info, "private", False) or getattr(info, "gated", False))
            files: list[HubFile] = []
            folders = 0
            for entry in self._api.list_repo_tree(
                named.repo, recursive=True, revision=commit, repo_type=named.kind
            ):
                if hasattr(entry, "blob_id"):  # else it is a folder
                    files.append(_listed(entry))
                else:
                    folders += 1
                if max(len(files), folders) > MAX_FILES:
                    raise UsageError(f"{named} has more than the {MAX_FILES} files of a release.")
        return Snapshot(commit, tuple(sorted(files, key=lambda file: file.path)), closed)

    def cached(self) -> Snapshot:
        """Return what the cache holds of the revision, as the library last met it; ``NotFound``.

        Which of the commit's files are not in the cache it does not say.
        """
        named = self.repository
        commit = named.revision
        if COMMIT.fullmatch(commit) is None:
            try:
                with (self._folder / "refs" / commit).open("rb") as stream:
                    commit = stream.read(64).decode("ascii", "replace").strip()
            except OSError:
                commit = ""
        folder = self._folder / "snapshots" / commit
        if COMMIT.fullmatch(commit) is None or not folder.is_dir():
            raise NotFound(
                f"The cache {self.cache} has no snapshot of {named} at {named.revision}.",
                next="Import it once where the Hub can be reached, or name a revision that is "
                "there.",
            )
        files: list[HubFile] = []
        for path in _walk(folder):
            if len(files) >= MAX_FILES:
                raise UsageError(f"{folder} has more than the {MAX_FILES} files of a release.")
            blob, etag = self._blob(folder / path)
            large, small = _SHA256.fullmatch(etag), _SHA1.fullmatch(etag)
            if not large and not small:
                raise Refused(
                    f"Nothing in the cache {self.cache} says what {path} of {named} must be.",
                    next="Import it where the Hub can be reached.",
                )
            size = blob.stat().st_size
            files.append(HubFile(path, size, etag if large else None, etag if small else None))
        return Snapshot(commit, tuple(files))

    # --- files -----------------------------------------------------------------------------------

    def find(self, commit: str, file: HubFile) -> Path | None:
        """Return the bytes of a file that the cache has under this commit; None if it has not.

        ``Refused`` if what lies there leads out of the repository's own blobs.
        """
        check_path(file.path)
        place = self._folder / "snapshots" / commit / file.path
        if not os.path.lexists(place):
            return None
        blob, _ = self._blob(place)
        return blob

    def download(
        self, commit: str, file: HubFile, told: Callable[[int], None], stop: Event
    ) -> Path:
        """Have the library put a file into its cache; returns where its bytes are.

        ``told`` hears of bytes; once ``stop`` is set the next piece ends it with ``Stopped``.
        ``NotFound``, ``Refused``, ``NetworkError``, ``DiskFull``, ``ReadOnly``.
        """
        from huggingface_hub import hf_hub_download

        check_path(file.path)
        named, heard = self.repository, 0

        def hear(size: int) -> None:
            nonlocal heard
            if stop.is_set():
                raise Stopped
            heard += size
            told(size)

        options: dict[str, Any] = {}
        if "tqdm_class" in signature(hf_hub_download).parameters:  # else whole files are counted
            options["tqdm_class"] = _bar(hear)
        with hub_errors(named, self.endpoint, self.cache, file.path):
            hf_hub_download(
                named.repo,
                file.path,
                repo_type=named.kind,
                revision=commit,
                cache_dir=self.cache,
                endpoint=self.endpoint,
                library_name="allod",
                **options,
            )
        hear(file.size - heard)
        blob = self.find(commit, file)
        if blob is None:
            raise NetworkError(f"{self.endpoint} gave {file.path} under another commit.")
        return blob

    def remember(self, commit: str) -> None:
        """Note in the cache which commit the revision is, as the library does; or leave it.

        Files that are asked for by their commit, as here, leave no such note.
        """
        revision = self.repository.revision
        if revision == commit or not self._folder.is_dir():
            return
        ref = self._folder / "refs" / revision
        new = ref.with_name(f".allod-{secrets.token_hex(8)}")
        with suppress(OSError):
            if not ref.is_file() or ref.read_bytes()[:64] != commit.encode():
                ref.parent.mkdir(parents=True, exist_ok=True)
                new.write_text(commit)
                new.replace(ref)

    def _blob(self, place: Path) -> tuple[Path, str]:
        """Return the bytes that a snapshot's file stands for, and the ETag that names them.

        The library links it to the repository's ``blobs``, and those, of late, to the cache's own;
        where there are no links it is the file itself, and has no ETag.
        """
        snapshots, blobs = self._folder / "snapshots", self._folder / "blobs"
        folder = Path(os.path.realpath(place.parent))
        etag = ""
        try:
            first = folder / place.name
            if place.is_symlink():
                first = Path(os.path.normpath(folder / place.readlink()))
                etag = first.name
            last = Path(os.path.realpath(first, strict=True))
        except OSError as exc:
            raise NotFound(
                f"{place} leads to nothing: the cache is damaged.",
                next="Delete it, and import again.",
            ) from exc
        good = folder.is_relative_to(snapshots) and last.is_file()
        if etag:
            shared = self.cache / "blobs"
            good = good and first.parent == blobs
            good = good and (last.parent == blobs or last.parent.parent == shared)
        if not good:
            raise Refused(
                f"{place} leads out of its cache, to {last}, which may be anything.",
                next="Delete it, and import again.",
            )
        return last, etag


def abort_downloads() -> None:
    """End what the library's Rust extension has in flight, in this whole process.

    What goes by plain HTTP ends at the next piece by itself, as ``download`` says. This is what the
    library does for Ctrl-C, since 2.0; it has no public name, so where it is missing nothing is
    done, and the extension finishes the file that it is at.
    """
    with suppress(ImportError):
        from huggingface_hub.utils._xet import abort_xet_session

        abort_xet_session()  # type: ignore[no-untyped-call]


def _listed(entry: Any) -> HubFile:
    """Read an entry of the Hub's list; what does not look like one is the Hub's fault."""
    path, size, large = entry.path, entry.size, entry.lfs
    if not isinstance(path, str) or not isinstance(size, int) or size < 0:
        raise VerificationFailed(f"The Hub's list of files is malformed at {path!r:.80}.")
    if large is None:
        return HubFile(path, size, sha1=_text(entry.blob_id, _SHA1, path))
    return HubFile(path, size, sha256=_text(large.sha256, _SHA256, path))


def _text(value: object, form: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise VerificationFailed(
            f"The Hub says {json.dumps(str(value)[:80])} for the hash of {what!r:.80}, "
            "which is none."
        )
    return value


def _walk(folder: Path) -> Iterator[str]:
    """Yield the paths of the files below a folder, sorted; no link to a folder is followed."""
    found = []
    for top, folders, names in os.walk(folder):
        base = Path(top)
        links = [name for name in folders if (base / name).is_symlink()]
        found += [(base / name).relative_to(folder).as_posix() for name in [*names, *links]]
        if len(found) > MAX_FILES:
            break
    yield from sorted(found)


def _bar(told: Callable[[int], None]) -> type:
    """Make a class that the library takes for tqdm's, and that shows nothing."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread of its own
        _lock = RLock()  # and no lock between processes

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            told(int(n or 0))
            return None

        # Without these two, bytes that come by Xet would have a second bar, and be counted twice.
        def update_transfer(self, n: float | None = 1) -> None:
            pass

        def set_transfer_postfix_str(self, *args: Any, **options: Any) -> None:
            pass

    return Bar
