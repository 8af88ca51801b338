"""What can go wrong, as a program meets it.

    Error                       OTHER, BUSY, ENGINE and the like
    ├── InvalidRequest          ValueError          USAGE, CONFIG, UNSUPPORTED
    ├── Missing                 FileNotFoundError   NOT_FOUND
    ├── NotVerified             OSError             VERIFICATION_FAILED, SOURCE_CHANGED, BAD_BYTES
    ├── Denied                  PermissionError     REFUSED, BAD_TOKEN
    │   └── UntrustedPublisher                      UNTRUSTED
    ├── Unreachable             ConnectionError     NETWORK, NO_SOURCES, PORT_IN_USE, PEER_...
    ├── NodeUnavailable         ConnectionError     NO_NODE
    └── StorageFailed           OSError             STORE, READ_ONLY, STORE_BUSY
        └── StorageFull                             QUOTA, DISK_FULL

The second column is the class of Python's own that ``except`` catches it by, too.
``code`` is the stable word of docs/reference/errors.md, the same as on the command line.
"""

import errno
from typing import ClassVar

from p2p.errors import AllodError


class Error(Exception):
    """The root: ``message`` says what was expected and what came, ``next`` what to do about it."""

    def __init__(self, message: str, *, code: str = "OTHER", next: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.next = next

    def __str__(self) -> str:
        return f"{self.message} {self.next}".strip()


class _Numbered(Error, OSError):
    """One that is an OSError, and has its number."""

    number: ClassVar[int] = errno.EIO

    def __init__(self, message: str, *, code: str = "OTHER", next: str = "") -> None:
        super().__init__(message, code=code, next=next)
        self.errno = self.number


class InvalidRequest(Error, ValueError):
    """It was asked for what cannot be: a malformed reference, a wrong configuration."""


class Missing(_Numbered, FileNotFoundError):
    """There is no such release or no such file in it, or nobody is known to have it."""

    number = errno.ENOENT


class NotVerified(_Numbered):
    """Bytes do not match the hash or the signature that promised them; nothing of it was given."""

    number = errno.EBADMSG


class Denied(_Numbered, PermissionError):
    """The policy, a licence, a consent or a revocation says no."""

    number = errno.EACCES


class UntrustedPublisher(Denied):
    """The publisher is new here, and nobody said yes to it; ``yes=True`` does."""


class Unreachable(_Numbered, ConnectionError):
    """Nobody who has it could be reached, or all who were reached failed."""

    number = errno.EHOSTUNREACH


class NodeUnavailable(_Numbered, ConnectionError):
    """The node of this machine does not answer, or went away in the middle."""

    number = errno.ECONNREFUSED


class StorageFailed(_Numbered):
    """The disk, or what is on it, does not let the store do its work."""


class StorageFull(StorageFailed):
    """It would take more room than there is, or than the owner gave."""

    number = errno.ENOSPC


_BY_CODE: dict[str, type[Error]] = {
    "USAGE": InvalidRequest,
    "CONFIG": InvalidRequest,
    "UNSUPPORTED": InvalidRequest,
    "NOT_FOUND": Missing,
    "VERIFICATION_FAILED": NotVerified,
    "SOURCE_CHANGED": NotVerified,
    "BAD_BYTES": NotVerified,
    "REFUSED": Denied,
    "BAD_TOKEN": Denied,
    "UNTRUSTED": UntrustedPublisher,
    "NETWORK": Unreachable,
    "NO_SOURCES": Unreachable,
    "PORT_IN_USE": Unreachable,
    "PEER_FAULT": Unreachable,
    "TOO_MUCH": Unreachable,
    "PEER_GONE": Unreachable,
    "PEER_REFUSED": Unreachable,
    "NO_NODE": NodeUnavailable,
    "STORE": StorageFailed,
    "READ_ONLY": StorageFailed,
    "STORE_BUSY": StorageFailed,
    "QUOTA": StorageFull,
    "DISK_FULL": StorageFull,
}


def make_error(code: str, message: str, next: str = "") -> Error:
    """Return the error for a code; one that is not known here gives the root."""
    return _BY_CODE.get(code, Error)(message, code=code, next=next)


def of_node(exc: AllodError) -> Error:
    """Return a node's error as one of this package's."""
    return make_error(exc.code, exc.message, exc.next)
