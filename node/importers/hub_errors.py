"""What goes wrong between huggingface_hub and its Hub, in our errors.

The library raises its own errors, its HTTP client's (httpx until 2.0, another since), a Rust
extension's and the system's. All of them end here; one that is not known is the network's fault.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.hub.repository import Repository
from p2p.errors import (
    AllodError,
    DiskFull,
    NetworkError,
    NotFound,
    ReadOnly,
    Refused,
    UsageError,
)

MAX_WORDS: Final = 200
"""Characters of another's error that are shown."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)


class Unreachable(Exception):
    """The Hub cannot be asked; ``why`` in a few words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Stopped(Exception):
    """Nobody waits for the download any more."""


@contextmanager
def hub_errors(named: Repository, endpoint: str, cache: Path, path: str = "") -> Iterator[None]:
    """Map the library's errors; ``path``: the file that is being downloaded, else it is asked."""
    try:
        yield
    except (AllodError, Stopped):
        raise
    # Which classes there are differs by the library's version: this is the seam that they end at.
    except Exception as exc:
        raise _Asked(named, endpoint, cache, path).error(exc) from exc


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was being done."""

    named: Repository
    endpoint: str
    cache: Path
    path: str

    def error(self, exc: Exception) -> Exception:
        """Say in our words what went wrong."""
        from huggingface_hub import errors

        if isinstance(exc, errors.LocalEntryNotFoundError) and isinstance(exc.__cause__, Exception):
            exc = exc.__cause__  # "not in the cache either"
        if isinstance(exc, errors.HfHubHTTPError):
            return self._answered(exc)
        if isinstance(exc, errors.HFValidationError):
            return UsageError(f"The Hub has no such names: {_words(exc)}.")
        if isinstance(exc, OSError) and exc.errno in _FULL:
            return DiskFull(
                f"The disk of the cache {self.cache} is full.",
                next="Free some room there, or set HF_HOME to a folder on another disk.",
            )
        if isinstance(exc, OSError) and exc.errno in _READ_ONLY:
            return ReadOnly(
                f"The cache {self.cache} may not be written: {exc.strerror}.",
                next="Check its owner, or set HF_HOME to another folder.",
            )
        # By name: the two HTTP clients have a class of that name each.
        kinds = {one.__name__ for one in type(exc).__mro__}
        if isinstance(exc, ConnectionError) or "TransportError" in kinds:
            if not self.path:
                return Unreachable(_words(exc))
            return NetworkError(
                f"The Hub went away while {self.path} was downloaded: {_words(exc)}.",
                next="The same command goes on with the files that are not there yet.",
            )
        return NetworkError(
            f"{self.path or self.named} could not be read from {self.endpoint}: {_words(exc)}.",
            next="Try again; if HF_ENDPOINT names a mirror, that may be what is wrong.",
        )

    def _answered(self, exc: Exception) -> AllodError:
        """Say what an answer of the Hub that is no means."""
        from huggingface_hub import errors

        named, page = self.named, f"{self.endpoint}/{self.named}"
        if isinstance(exc, errors.GatedRepoError):
            return Refused(
                f"{named} is gated: its owner lets in whom they choose, and not this user so far.",
                next=f"Ask for access at {page}, and log in with `hf auth login`.",
            )
        if isinstance(exc, errors.DisabledRepoError):
            return Refused(f"The Hub has closed {named} to everybody.")
        if isinstance(exc, errors.RepositoryNotFoundError):
            other = "hf:datasets/ORG/REPO" if named.kind == "model" else "hf:ORG/REPO"
            return NotFound(
                f"{self.endpoint} has no {named.kind} {named.repo} that this user may see.",
                next=f"Check the name; write {other} if it is no {named.kind}, and log in with "
                "`hf auth login` if it is private.",
            )
        if isinstance(exc, errors.RevisionNotFoundError):
            return NotFound(
                f"{named} has no revision {named.revision}.",
                next=f"Its branches and tags stand at {page}.",
            )
        if isinstance(exc, errors.EntryNotFoundError):
            return NotFound(
                f"{self.endpoint} lists {self.path} in {named}, but does not have it.",
                next="Leave it out with --exclude.",
            )
        status, what = getattr(exc, "response").status_code, self.path or str(named)  # noqa: B009
        if status in (401, 403):
            return Refused(
                f"{self.endpoint} does not let this user have {what} (HTTP {status}).",
                next="Log in with `hf auth login`, with a token that may read it.",
            )
        if status == 429:
            return NetworkError(
                f"{self.endpoint} takes no more requests from here for now (HTTP 429).",
                next="Wait some minutes, or log in with `hf auth login`, and try again.",
            )
        return NetworkError(
            f"{self.endpoint} could not answer about {what} (HTTP {status}).",
            next="Try again later.",
        )


def _words(exc: BaseException) -> str:
    """Put another's error into some words on one line."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    shown = "".join(one if one.isprintable() else "?" for one in text)
    return shown[:MAX_WORDS].rstrip(". ")
