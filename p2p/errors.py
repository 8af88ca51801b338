"""Every error that Allod raises on purpose, in one tree.

The class says whose fault it was and so who can mend it; ``code`` is the stable word that
``--json`` and the HTTP answers carry, ``exit_code`` is what the command line ends with.

    AllodError                      1  OTHER
    ├── UsageError                  2  USAGE                the caller asked for what cannot be
    │   └── ConfigError             2  CONFIG               a configuration key or value is wrong
    ├── NotFound                    3  NOT_FOUND            nobody, or not this store, has it
    ├── VerificationFailed          4  VERIFICATION_FAILED  bytes and their promise differ
    │   └── SourceChanged           4  SOURCE_CHANGED       a file changed while it was read
    ├── Refused                     5  REFUSED              a policy, licence, consent or revocation
    │   ├── Untrusted               5  UNTRUSTED            nobody has said yes to the publisher yet
    │   └── BadToken                5  BAD_TOKEN            a token that is not good here
    ├── NetworkError                6  NETWORK              the network, or all of it that was tried
    │   ├── NoSources               6  NO_SOURCES           nobody who has it could be reached
    │   ├── PortInUse               6  PORT_IN_USE          another program listens there
    │   └── PeerFault               6  PEER_FAULT           one peer broke the protocol or a limit
    │       ├── BadBytes            6  BAD_BYTES            it sent bytes that do not verify
    │       ├── TooMuch             6  TOO_MUCH             it sent more than was asked for
    │       ├── PeerGone            6  PEER_GONE            it closed, reset or fell silent
    │       └── PeerRefused         6  PEER_REFUSED         it answered, and the answer was no
    ├── NoNode                      7  NO_NODE              the command needs a running node
    ├── EngineError                 1  ENGINE               an engine did not start, died or hung
    │   ├── NoEngine                1  NO_ENGINE            nothing here can run that model
    │   ├── Unsupported             2  UNSUPPORTED          the model's engine cannot do that
    │   └── NoMemory                8  NO_MEMORY            it would take more memory than there is
    ├── Cancelled                   1  CANCELLED            the owner ended it before it was done
    ├── Busy                        1  BUSY                 all places, also for waiting, are taken
    │   └── OverLimit               1  OVER_LIMIT           a token has used up what it was given
    └── StoreError                  8  STORE                the disk, or what is on it
        ├── QuotaExceeded           8  QUOTA                it would pass what the owner gave
        ├── DiskFull                8  DISK_FULL            the file system has no room
        ├── ReadOnly                8  READ_ONLY            the store may not be written
        └── StoreBusy               8  STORE_BUSY           another process holds the store

A message is one sentence that says what was expected and what came; ``next`` is the next thing
that the person can do, again one sentence, or empty where there is nothing to do.
"""

from typing import ClassVar


class AllodError(Exception):
    """The root of everything that Allod raises on purpose."""

    code: ClassVar[str] = "OTHER"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, next: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next = next


class UsageError(AllodError):
    """The caller asked for something that cannot be: a malformed CID, an unknown option."""

    code, exit_code = "USAGE", 2


class ConfigError(UsageError):
    """A configuration key is unknown, or its value is of the wrong kind."""

    code = "CONFIG"


class NotFound(AllodError):
    """What was named is not in this store, or nobody on the network is known to have it."""

    code, exit_code = "NOT_FOUND", 3


class VerificationFailed(AllodError):
    """Bytes do not match the hash, the signature or the statement that promised them."""

    code, exit_code = "VERIFICATION_FAILED", 4


class SourceChanged(VerificationFailed):
    """A file that was being published changed under the reader."""

    code = "SOURCE_CHANGED"


class Refused(AllodError):
    """A policy, a licence, a consent or a revocation says no.

    ``taken_back``: its own publisher does, by a revocation or a withdrawal.
    """

    code, exit_code = "REFUSED", 5

    def __init__(self, message: str, *, next: str = "", taken_back: bool = False) -> None:
        super().__init__(message, next=next)
        self.taken_back = taken_back


class Untrusted(Refused):
    """The publisher is new here, and a person has to say yes first."""

    code = "UNTRUSTED"


class BadToken(Refused):
    """A token for inference is unknown, revoked, expired, or not for that model."""

    code = "BAD_TOKEN"


class NetworkError(AllodError):
    """The network failed as a whole."""

    code, exit_code = "NETWORK", 6


class NoSources(NetworkError):
    """Nobody who has it could be reached, or all who were reached failed."""

    code = "NO_SOURCES"


class PortInUse(NetworkError):
    """Another program listens on the address that the configuration names."""

    code = "PORT_IN_USE"


class PeerFault(NetworkError):
    """One peer broke the protocol or passed a limit; the others are not concerned."""

    code = "PEER_FAULT"

    def __init__(self, message: str, *, peer: str = "", next: str = "") -> None:
        super().__init__(message, next=next)
        self.peer = peer


class BadBytes(PeerFault):
    """A peer sent bytes that do not verify: it is banned and named."""

    code = "BAD_BYTES"


class TooMuch(PeerFault):
    """A peer sent more than was asked for, or more than anybody reads of it."""

    code = "TOO_MUCH"


class PeerGone(PeerFault):
    """A peer closed the connection, reset it, or sent nothing for too long."""

    code = "PEER_GONE"


class PeerRefused(PeerFault):
    """A peer answered with a refusal; ``status`` is its HTTP status."""

    code = "PEER_REFUSED"

    def __init__(
        self, message: str, *, status: int, retry_after: float = 0.0, peer: str = "", next: str = ""
    ) -> None:
        super().__init__(message, peer=peer, next=next)
        self.status = status
        self.retry_after = retry_after  # seconds


class NoNode(AllodError):
    """The command needs a running node and none answers."""

    code, exit_code = "NO_NODE", 7


class EngineError(AllodError):
    """An engine did not start, died, gave no answer in time, or a wrong one."""

    code = "ENGINE"


class NoEngine(EngineError):
    """No engine that is installed here can run that model."""

    code = "NO_ENGINE"


class Unsupported(EngineError):
    """The engine, or the model, cannot do what a request asks for."""

    code, exit_code = "UNSUPPORTED", 2


class NoMemory(EngineError):
    """A model would take more memory than this machine can give."""

    code, exit_code = "NO_MEMORY", 8


class Cancelled(AllodError):
    """The owner of the node ended the work before it was done."""

    code = "CANCELLED"


class Busy(AllodError):
    """All slots of a model are taken, and all places of those who wait."""

    code = "BUSY"

    def __init__(self, message: str, *, retry_after: float, next: str = "") -> None:
        super().__init__(message, next=next)
        self.retry_after = retry_after  # seconds


class OverLimit(Busy):
    """A token has used up its requests of this minute, or its tokens of this day."""

    code = "OVER_LIMIT"


class StoreError(AllodError):
    """The disk, or what is on it, does not let the store do its work."""

    code, exit_code = "STORE", 8


class QuotaExceeded(StoreError):
    """It would take more room than the owner gave."""

    code = "QUOTA"


class DiskFull(StoreError):
    """The file system has no room left."""

    code = "DISK_FULL"


class ReadOnly(StoreError):
    """The store, or its file system, may not be written."""

    code = "READ_ONLY"


class StoreBusy(StoreError):
    """Another process holds the store's lock."""

    code = "STORE_BUSY"


def each_error(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the errors of a group in their order, without the groups around them."""
    found: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        exc = waiting.pop()
        if isinstance(exc, BaseExceptionGroup):
            waiting.extend(reversed(exc.exceptions))
        else:
            found.append(exc)
    return found


def culprit(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error of a group that a person should hear of.

    Several tasks can fail for one reason; what is no error of ours (a bug) is heard first, then
    the caller's and the store's faults, the network's last.
    """
    return min(
        each_error(group),
        key=lambda exc: (
            isinstance(exc, AllodError),
            isinstance(exc, NetworkError),
            isinstance(exc, PeerFault),
        ),
    )
