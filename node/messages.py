"""What the command line and the daemon say to each other: requests, events, results, failures.

A request is one JSON object, the params of one operation.
The answer is a stream of lines (NDJSON), each an object with one key that says what it is:
``progress`` and ``note`` while the work goes on, then exactly one ``result`` or ``error``.
The same events are what a command with ``--json`` prints on stderr.

Pure: knows no socket, clock or file. Both sides are the same person's, but a wrong program may
listen on the port, so everything that is decoded is bounded and checked first.
Fields that a reader doesn't know are ignored, so a newer node and an older command get along.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin

from p2p.errors import AllodError, Busy, PeerFault, PeerRefused, UsageError, culprit

MAX_REQUEST = 1 << 20  # bytes of one request: thousands of patterns fit, a wrong upload doesn't
MAX_LINE = 256 << 20  # bytes of one answer line: `publish` lists a million files in about 150 MB
MAX_ITEMS = 10_000  # values of one list in a request
MAX_WORD = 65_536  # characters of one text in a request: a description, a path

P = TypeVar("P")


# -- events


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one phase of the work is; ``unit`` says what done and total count."""

    phase: str  # "read", "hash", "fetch", "verify", ...
    done: int = 0
    total: int | None = None  # None while nobody knows
    rate: float = 0.0  # units a second; 0 lets the reader's end work it out
    sources: int = 0  # how many sources deliver right now
    unit: str = "B"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person wants to know while the work goes on, in one sentence."""

    text: str
    level: str = "info"  # or "warning"


Event = Progress | Note
Report = Callable[[Event], None]  # may be called from any thread, never blocks


# -- ends


@dataclass(frozen=True, slots=True)
class Result:
    """The work is done; ``value`` is what ``--json`` prints."""

    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """The work failed: the stable word, the sentence, what to do next, the exit code."""

    code: str
    message: str
    next: str = ""
    exit_code: int = 1
    peer: str = ""  # the peer whose fault it was, if one's

    @classmethod
    def of(cls, exc: AllodError) -> "Failure":
        """Put an error of our own into words."""
        peer = exc.peer if isinstance(exc, PeerFault) else ""
        return cls(exc.code, exc.message, exc.next, exc.exit_code, peer)

    @classmethod
    def of_any(cls, exc: BaseException) -> "Failure":
        """Put any error into words, those in a nursery's group too; ours unless one is a bug."""
        one = culprit(exc) if isinstance(exc, BaseExceptionGroup) else exc
        if isinstance(one, AllodError):
            return cls.of(one)
        return cls(
            "OTHER",
            f"Something went wrong that should not: {type(one).__name__}: {one!s:.300}",
            "Run it again with ALLOD_LOG=debug to see where, and report it.",
        )

    def error(self) -> AllodError:
        """Make the error again that this failure tells of; an unknown code gives the root."""
        kind = _error_classes().get(self.code, AllodError)
        if issubclass(kind, PeerRefused):
            return kind(self.message, status=0, peer=self.peer, next=self.next)
        if issubclass(kind, PeerFault):
            return kind(self.message, peer=self.peer, next=self.next)
        if issubclass(kind, Busy):
            return kind(self.message, retry_after=0.0, next=self.next)
        return kind(self.message, next=self.next)

    def json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints for a failure."""
        shown = {"code": self.code, "message": self.message, "next": self.next}
        return {"ok": False, "error": shown | ({"peer": self.peer} if self.peer else {})}


def _error_classes() -> dict[str, type[AllodError]]:
    found: dict[str, type[AllodError]] = {}
    waiting: list[type[AllodError]] = [AllodError]
    while waiting:
        kind = waiting.pop()
        found[kind.code] = kind
        waiting.extend(kind.__subclasses__())
    return found


Message = Progress | Note | Result | Failure
_NAMES: dict[str, type[Progress] | type[Note] | type[Failure]] = {
    "progress": Progress,
    "note": Note,
    "error": Failure,
}


def encode(message: Message) -> bytes:
    """Write one message as one line of NDJSON."""
    if isinstance(message, Result):
        shown: dict[str, Any] = {"result": message.value}
    else:
        name = next(name for name, cls in _NAMES.items() if isinstance(message, cls))
        shown = {name: to_json(message)}
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """Read one line; None for a blank one (a heartbeat) or a message that is not known here.

    UsageError if it is too long, no JSON object, or a known message with fields of a wrong kind.
    """
    if len(line) > MAX_LINE:
        raise UsageError(f"An answer line has at most {MAX_LINE} bytes, but more came.")
    if not line.strip():
        return None
    value = _object(line, "An answer line")
    if "result" in value:
        result = value["result"]
        if not isinstance(result, dict):
            raise UsageError(f"A result is a JSON object, but {type(result).__name__} came.")
        return Result(result)
    for name, cls in _NAMES.items():
        if name in value:
            return from_json(cls, value[name])
    return None


def decode_request(cls: type[P], body: bytes) -> P:
    """Read the params of an operation from a request's body; UsageError says what is wrong."""
    if len(body) > MAX_REQUEST:
        raise UsageError(f"A request has at most {MAX_REQUEST} bytes, but more came.")
    return from_json(cls, _object(body or b"{}", "A request"))


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{what} is one JSON object, but that is no JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise UsageError(f"{what} is one JSON object, but {type(value).__name__} came.")
    return value


def to_json(message: object) -> dict[str, Any]:
    """Return a dataclass's fields as a JSON object."""
    values = {one.name: getattr(message, one.name) for one in fields(message)}  # type: ignore[arg-type]
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def from_json(cls: type[P], value: object) -> P:
    """Build a dataclass of texts, numbers, flags and lists of texts from a JSON object.

    Unknown fields are ignored; UsageError names the field that is missing or of a wrong kind.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{cls.__name__} expects a JSON object, but {value!r:.60} came.")
    found: dict[str, Any] = {}
    for one in fields(cls):  # type: ignore[arg-type]
        if one.name in value:
            found[one.name] = _checked(f"{cls.__name__}.{one.name}", one.type, value[one.name])
        elif one.default is MISSING and one.default_factory is MISSING:
            raise UsageError(f"{cls.__name__} expects a field {one.name!r}, but none came.")
    return cls(**found)


def _checked(name: str, kind: Any, value: Any) -> Any:
    wrong = UsageError(f"{name} expects {_words(kind)}, but {value!r:.60} came.")
    if get_origin(kind) is tuple:  # tuple[str, ...] is the only list that there is
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise wrong
        if len(value) > MAX_ITEMS or any(len(item) > MAX_WORD for item in value):
            raise UsageError(f"{name} holds at most {MAX_ITEMS} texts, but more came.")
        return tuple(value)
    kinds = get_args(kind) or (kind,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, bool) and bool not in kinds:
        raise wrong
    if float in kinds and isinstance(value, int) and abs(value) < 1 << 53:
        return float(value)
    if not isinstance(value, kinds):
        raise wrong
    if isinstance(value, str) and len(value) > MAX_WORD:
        raise UsageError(f"{name} has at most {MAX_WORD} characters, but {len(value)} came.")
    return value


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "a list of texts"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return " or ".join(names.get(one, "null") for one in get_args(kind) or (kind,))


# -- the params of the operations


@dataclass(frozen=True, slots=True)
class NoParams:
    """An operation that needs to be told nothing."""


@dataclass(frozen=True, slots=True)
class PublishParams:
    """What ``publish`` is told; an empty text means: work it out, or leave it out."""

    folder: str  # absolute: a folder, or a single file
    name: str  # the release's name
    kind: str = ""  # "model", "dataset"; empty: told from the content
    version: str = ""
    license: str = ""  # SPDX expression; empty: from the model card
    base: tuple[str, ...] = ()  # references or hf:// URIs of base models
    data: tuple[str, ...] = ()  # references or hf:// URIs of datasets it was trained on
    consent_basis: str = ""  # why these data may be used
    personal_data: str = ""  # "none", or what there is
    allowed_uses: tuple[str, ...] = ()
    redistribution: bool | None = None  # None: the publisher says nothing
    contact: str = ""
    profile: str = ""  # empty: tensor-1m
    description: str = ""
    key: str = ""  # the publisher key's name; empty: the configuration's
    web_seeds: tuple[str, ...] = ()  # https URLs that hold the same files
    sha256: bool = True  # make a model.sig, which takes the SHA-256 of every file
    offline: bool = False  # record it here, announce nothing
    croissant: bool = True  # describe a dataset that has no croissant.json
    consent_expires: str = ""  # the last day on which the data may be used: 2030-12-31


@dataclass(frozen=True, slots=True)
class ImportParams:
    """What ``import`` is told; an empty text means: work it out, or leave it out."""

    ref: str  # hf:[datasets/]ORG/REPO[@REVISION]
    name: str = ""  # [PUBLISHER/]NAME; empty: ORG--REPO
    include: tuple[str, ...] = ()  # patterns of paths; none means all
    exclude: tuple[str, ...] = ()
    license: str = ""  # SPDX expression; empty: from the card
    description: str = ""
    key: str = ""  # the publisher key's name; empty: the configuration's
    profile: str = ""  # empty: tensor-1m
    sha256: bool = True  # make a model.sig
    dry_run: bool = False
    offline: bool = False  # record it here, announce nothing
    cached_only: bool = False  # ask no Hub: what its clients' cache holds
    cache: str = ""  # absolute folder of that cache; empty: huggingface_hub's own
    endpoint: str = ""  # URL of the Hub; empty: huggingface_hub's own


@dataclass(frozen=True, slots=True)
class FetchParams:
    """What ``fetch`` is told."""

    ref: str
    peers: tuple[str, ...] = ()  # multiaddrs to ask first
    include: tuple[str, ...] = ()  # patterns of paths; none means all
    exclude: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()  # patterns of tensor names
    local_dir: str = ""  # absolute folder to put the files into, too
    dry_run: bool = False
    yes: bool = False  # answers trust on first use with yes
    offline: bool = False  # only what this store holds
    revision: str = ""  # a version, or a manifest CID
    pin: bool | None = True  # what was asked for by name stays until unpinned; None: as it was
    ask: bool = False  # somebody can be asked about a publisher who is new here
    statement_only: bool = False  # what the publisher signed, and no file
    hf_cache: str = ""  # absolute folder: Hugging Face's cache to put the files into, too
    explain: bool = False  # the result says who sent what, and what was slow


@dataclass(frozen=True, slots=True)
class ServeParams:
    """What ``serve`` is told; 0, None and empty texts mean: as before, else as configured."""

    ref: str
    name: str = ""  # what clients call it; empty: petname/name
    file: str = ""  # which of several GGUF files
    context: int = 0  # tokens of one request
    slots: int = 0
    engine: str = ""
    share: bool | None = None  # peers whom serve.peers names may ask it
    via_peers: bool | None = None  # peers may answer when this node cannot
    upstream: str = ""  # URL of a server that answers in an engine's place
    upstream_model: str = ""
    upstream_key_file: str = ""  # absolute
    lazy: bool = False  # load it when somebody asks
    peers: tuple[str, ...] = ()  # multiaddrs to fetch it from
    yes: bool = False  # answers trust on first use with yes
    ask: bool = False


@dataclass(frozen=True, slots=True)
class JobParams:
    """What ``cancel`` is told."""

    job: int


@dataclass(frozen=True, slots=True)
class ModelParams:
    """A served model, by its name or a reference to its release."""

    model: str


@dataclass(frozen=True, slots=True)
class LimitsParams:
    """What ``limits`` is told: text as in the configuration; what is empty stays as it is."""

    up: str = ""  # bytes a second, or none
    down: str = ""
    up_per_peer: str = ""
    down_per_peer: str = ""
    uploads: str = ""  # peers that are sent files at the same time, or none


@dataclass(frozen=True, slots=True)
class PledgeParams:
    """What ``pledge.add`` is told."""

    ref: str  # a release, or a publisher by id, petname or own key
    keep: int = 3  # healthy copies that there are to be
    max: str = "200GB"  # bytes that may be taken for it, or none
    peers: tuple[str, ...] = ()  # multiaddrs to ask first


@dataclass(frozen=True, slots=True)
class RefParams:
    """An operation on one release of this store."""

    ref: str


@dataclass(frozen=True, slots=True)
class FilesParams:
    """What ``files`` is told."""

    ref: str
    peers: tuple[str, ...] = ()  # multiaddrs to ask first


@dataclass(frozen=True, slots=True)
class EndorseParams:
    """What ``endorse`` is told: an evaluation or a review, else an endorsement."""

    ref: str
    result: str = ""  # "passed", "failed"; a review needs none, an evaluation may have its own
    policy: str = ""  # URI of the policy that was applied; empty: the signer's own judgement
    note: str = ""  # a line for people
    key: str = ""  # the publisher key's name; empty: the only one, or the configuration's
    evaluation: str = ""  # JSON: an in-toto test result
    review: str = ""


@dataclass(frozen=True, slots=True)
class WithdrawParams:
    """What ``revoke`` and ``consent.withdraw`` are told."""

    ref: str  # of a publisher of this machine
    reason: str
    all_versions: bool = False


@dataclass(frozen=True, slots=True)
class VerifyParams:
    """What ``verify`` is told; an empty ref means the whole store."""

    ref: str = ""


@dataclass(frozen=True, slots=True)
class DoctorParams:
    """What ``doctor`` is told."""

    fix: bool = False  # put modes and missing folders right


@dataclass(frozen=True, slots=True)
class GcParams:
    """What ``gc`` is told."""

    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ProvenanceParams:
    """What ``provenance`` is told."""

    ref: str
    save: str = ""  # absolute folder for the files that other tools verify


@dataclass(frozen=True, slots=True)
class SearchParams:
    """What ``search`` is told."""

    words: tuple[str, ...]
    kind: str = ""  # "model", "dataset"; empty: both
    all: bool = False  # earlier versions too, and what was taken back


@dataclass(frozen=True, slots=True)
class BundleExportParams:
    """What ``bundle export`` is told."""

    ref: str
    file: str  # absolute; must not be there yet
    lean: bool = False  # of the ancestors the statements alone
    partial: bool = False  # leave out what this store lacks


@dataclass(frozen=True, slots=True)
class BundleImportParams:
    """What ``bundle import`` is told."""

    file: str  # absolute
    pin: bool = True
    dry_run: bool = False  # check the file, keep nothing
    lean: bool = False  # of the ancestors keep the statements alone
    yes: bool = False  # answers trust on first use with yes
    ask: bool = False  # somebody can be asked about a publisher who is new here


@dataclass(frozen=True, slots=True)
class KeyParams:
    """The name of a publisher of this machine, and a role of it."""

    name: str
    role: str = "targets"  # or root, online


@dataclass(frozen=True, slots=True)
class KeyNewParams:
    """What ``key new`` is told."""

    name: str
    members: tuple[str, ...] = ()  # did:keys of the others
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class KeyMembersParams:
    """What ``key members`` is told."""

    name: str
    add: tuple[str, ...] = ()  # did:keys
    remove: tuple[str, ...] = ()
    threshold: int = 0  # 0: as it was


@dataclass(frozen=True, slots=True)
class KeyFileParams:
    """A file, absolute, and the publisher that it is about."""

    file: str
    name: str = ""  # empty: whose proposal it is


@dataclass(frozen=True, slots=True)
class KeySignParams:
    """What ``key sign`` is told."""

    file: str  # absolute, as the others
    keys: tuple[str, ...] = ()  # publishers of this machine; none means all
    secrets: tuple[str, ...] = ()  # files with secret keys in PEM
    show: bool = False  # sign nothing


@dataclass(frozen=True, slots=True)
class TrustAddParams:
    """Whom ``trust add`` is about: a publisher's id, a link or a held release; and the petname."""

    ref: str
    petname: str


@dataclass(frozen=True, slots=True)
class TrustRmParams:
    """What ``trust rm`` takes away: a petname, a publisher's id, or a subscription."""

    name: str


@dataclass(frozen=True, slots=True)
class TrustSubscribeParams:
    """Which community's policy ``trust subscribe`` follows."""

    ref: str
    peers: tuple[str, ...] = ()  # multiaddrs to ask first


@dataclass(frozen=True, slots=True)
class TrustDenyParams:
    """What ``trust deny`` denies: a CID, a publisher's id, a key or a held release."""

    what: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TokenNewParams:
    """What ``token.new`` is told: what the token is to be good for."""

    name: str = ""  # empty: its id
    models: tuple[str, ...] = ()  # names or patterns; none: every model
    rpm: int | None = None  # requests a minute
    tpd: int | None = None  # tokens of models a day
    expires: str = ""  # a time from now such as 30d; empty or none: never
    via_peers: bool = False  # its prompts may go to peers


@dataclass(frozen=True, slots=True)
class TokenParams:
    """The name, or the id, of a token."""

    name: str


@dataclass(frozen=True, slots=True)
class UsageParams:
    """What ``usage`` is told."""

    token: str = ""  # name or id; empty: all
    model: str = ""  # name, pattern or manifest CID; empty: all
    days: int = 30  # today is one of them


@dataclass(frozen=True, slots=True)
class ReceiptParams:
    """What ``receipt.check`` is told; files are absolute, an empty one is not compared."""

    file: str
    request: str = ""
    response: str = ""


@dataclass(frozen=True, slots=True)
class ConfigKeyParams:
    """The name of a configuration key."""

    key: str


@dataclass(frozen=True, slots=True)
class NetworkJoinParams:
    """The text of a swarm key; it never goes over a socket."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NetworkMembersParams:
    """Peer ids that are let in, and such as are let in no longer."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigSetParams:
    """A configuration key and the words of its new value."""

    key: str
    values: tuple[str, ...] = field(default=())
