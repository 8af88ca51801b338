"""Deny lists: what a node neither takes nor passes on, whatever anybody has signed.

Two notations, which one file may mix; lines that begin with ``#`` and empty ones are passed over:

    bafk... the reason in free words        ours: a CID of a file, folder or release, the id of a
    did:key:z6Mk... the reason              publisher, or a key

    /ipfs/CID                               Kubo's compact ``.deny`` format, version 1
    /ipfs/CID/path  /ipfs/CID/pre*          a path below a folder; all paths that begin so
    !/ipfs/CID/path                         an exception; the last line that matches counts
    //HASH                                  the hash of what is denied, so that the list tells
                                            nobody what to look for

A CID denies by its hash, so a codec or a base makes no difference.
What can't be here in the first place (IPNS names, hashes that no CID of ours has) is counted in
``foreign``; a line that is none of all this is counted in ``wrong``, and the others still hold.

Pure. Specification: docs/reference/policy.md; specs.ipfs.tech, Compact Denylist Format.
"""

import re
from base64 import b32decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from p2p.cid import CID, Hash
from p2p.errors import ConfigError, UsageError
from p2p.keys import PublicKey

MAX_DENY_LIST: Final = 256 << 20
"""Bytes of a list: the largest public one has some 50 MB."""
MAX_LINES: Final = 4_000_000
"""Lines of a list: some 500 bytes of memory each."""
MAX_LINE: Final = 64 << 10
"""Characters of a line that is looked at: a path has at most some thousand."""
MAX_HEADER: Final = 1 << 20
"""Characters in which a header must end, as the specification says."""
MAX_REASON: Final = 300
"""Characters of a reason that are kept: a sentence, shown to whoever asks."""

_VERSION: Final = re.compile(r"^version:\s*[\"']?(\d{1,9})", re.MULTILINE)
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SHA256_HEX: Final = re.compile("[0-9a-fA-F]{64}")
_DIGEST: Final = 32  # bytes of the hashes that CIDs here have
_MAX_CID: Final = 200  # characters of a CID in any base: a hash has at most 64 bytes


@dataclass(frozen=True, slots=True)
class Denied:
    """A line of a list that forbids something: which list, which line, and why."""

    list: str
    line: int
    what: str
    reason: str = ""

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.what} is on the deny list {self.list}, line {self.line}{why}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line: a path below the CID, or its beginning; an entry that ``allows`` is an exception."""

    line: int
    reason: str
    path: str = ""
    prefix: bool = False
    allows: bool = False

    def matches(self, path: str) -> bool:
        return path.startswith(self.path) if self.prefix else path == self.path


_Key = tuple[Hash, bytes]


@dataclass(frozen=True)
class DenyList:
    """A list that was read; ask it by CID, by path below a folder, by key."""

    name: str
    _cids: Mapping[_Key, list[_Entry]] = field(default_factory=dict)
    _hashed: Mapping[_Key, _Entry] = field(default_factory=dict)
    _keys: Mapping[PublicKey, _Entry] = field(default_factory=dict)
    foreign: int = 0
    wrong: int = 0

    def __len__(self) -> int:
        return sum(map(len, self._cids.values())) + len(self._hashed) + len(self._keys)

    def denies(self, cid: CID, path: str = "") -> Denied | None:
        """Say whether this CID, or what lies at ``path`` below it, is denied."""
        found = self._plain(cid, path)
        if found is None and self._hashed:
            found = self._hidden(cid, path)
        if found is None or found.allows:
            return None
        what = f"{cid}/{path}" if path else str(cid)
        return Denied(self.name, found.line, what, found.reason)

    def denies_key(self, key: PublicKey) -> Denied | None:
        """Say whether what this key signed is denied."""
        found = self._keys.get(key)
        return None if found is None else Denied(self.name, found.line, key.did, found.reason)

    @property
    def has_paths(self) -> bool:
        """Whether there is anything to ask about paths: most lists name none."""
        return bool(self._hashed) or any(
            entry.path or entry.prefix for entries in self._cids.values() for entry in entries
        )

    def _plain(self, cid: CID, path: str) -> _Entry | None:
        entries = self._cids.get((cid.hash, cid.digest), ())
        found = None
        for entry in entries:  # in the order of the lines: the last one counts
            if entry.matches(path):
                found = entry
        return found

    def _hidden(self, cid: CID, path: str) -> _Entry | None:
        below = f"/{path}" if path else ""
        modern = (_base58(bytes([cid.hash, _DIGEST]) + cid.digest) + below).encode()
        legacy = f"{cid}/{path}".encode()
        for hash, text in (
            (Hash.SHA2_256, modern), (Hash.SHA2_256, legacy), (Hash.BLAKE3, modern),
        ):  # fmt: skip
            found = self._hashed.get((hash, hash.digest(text)))
            if found is not None:
                return found
        return None


def read_deny_list(text: str, name: str) -> DenyList:
    """Read a list in either notation; ``ConfigError`` only where it is too large or too new."""
    if len(text) > MAX_DENY_LIST:
        raise ConfigError(
            f"The deny list {name} has {len(text):,} characters, the limit is {MAX_DENY_LIST:,}."
        )
    reading = _Reading(name)
    for number, line in _body(text, name):
        if number > MAX_LINES:
            raise ConfigError(f"The deny list {name} has more than {MAX_LINES:,} lines.")
        reading.take(number, line)
    return reading.finish()


def write_entry(what: str, reason: str) -> str:
    """Write a line of our own notation, so that ``read_deny_list`` reads it back."""
    words = " ".join(reason.split())[:MAX_REASON]
    return f"{what} {words}".rstrip() + "\n"


class _Reading:
    """A list while it is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cids: dict[_Key, list[_Entry]] = {}
        self.hashed: dict[_Key, _Entry] = {}
        self.keys: dict[PublicKey, _Entry] = {}
        self.foreign = self.wrong = 0

    def finish(self) -> DenyList:
        return DenyList(
            self.name, self.cids, self.hashed, self.keys, foreign=self.foreign, wrong=self.wrong
        )

    def take(self, number: int, line: str) -> None:
        """Take one line."""
        what, _, rest = line.partition(" ")
        try:
            if what.startswith("did:key:"):
                self.keys[PublicKey.from_did(what)] = _Entry(number, _reason(rest))
            elif what[0] in "/!+-":
                self._kubo(number, what, rest)
            else:
                self._deny(_key(what), _Entry(number, _reason(rest)))
        except (ValueError, UsageError):
            self.wrong += 1

    def _kubo(self, number: int, what: str, hints: str) -> None:
        allows = what[0] in "!+-"
        what = what[1:] if allows else what
        reason = _hint(hints)
        if what.startswith("//"):
            key = _hashed_key(what.removeprefix("//"))
            if key is None:
                self.foreign += 1
            else:
                self.hashed[key] = _Entry(number, reason, allows=allows)
        elif what.startswith(("/ipfs/", "/ipld/")):
            cid, _, path = what[6:].partition("/")
            prefix = path.endswith("*")
            path = unquote(path.removesuffix("*")).strip("/")
            self._deny(_key(cid), _Entry(number, reason, path, prefix, allows))
        elif what.startswith("/ipns/"):
            self.foreign += 1
        else:
            self.wrong += 1

    def _deny(self, key: _Key | None, entry: _Entry) -> None:
        if key is None:
            self.foreign += 1
        else:
            self.cids.setdefault(key, []).append(entry)


def _body(text: str, name: str) -> Iterator[tuple[int, str]]:
    """Yield the lines behind the header, with their numbers; what says nothing is left out."""
    begin = 0
    end = text.find("\n---\n", 0, MAX_HEADER)
    header = text.startswith("---\n")
    if header or end >= 0:
        head = "" if header else text[: end + 1]
        begin = 4 if header else end + 5
        version = _VERSION.search(head)
        if version is not None and version[1] != "1":
            raise ConfigError(
                f"The deny list {name} is of version {version[1]}, version 1 was expected."
            )
    number = text.count("\n", 0, begin)
    while begin < len(text):
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        number += 1
        line = text[begin : min(end, begin + MAX_LINE)].replace("\t", " ").strip()
        if line and line[0] != "#":
            yield number, line
        begin = end + 1


def _reason(words: str) -> str:
    return words.strip().removeprefix("#").strip()[:MAX_REASON]


def _hint(hints: str) -> str:
    """Return the hint that says why; its words may be joined by ``_`` or percent-encoded."""
    for hint in hints.split():
        name, _, value = hint.partition("=")
        if name in ("reason", "comment"):
            return unquote(value).replace("_", " ")[:MAX_REASON]
    return ""


def _key(text: str) -> _Key | None:
    """Return the hash in a CID of any version and base; None for one that none here has."""
    if len(text) > _MAX_CID or len(text) < 2:
        raise ValueError
    base, digits = text[0], text[1:]
    if text.startswith(("Qm", "gW")) or base not in "bfkz":  # a bare multihash, such as a CIDv0
        return _multihash(_base58_bytes(text))
    # Not CID.parse: it takes our spelling only, and explains at length what it refuses.
    if base == "b":
        raw = b32decode(digits.upper() + "=" * (-len(digits) % 8))
    elif base == "f":
        raw = bytes.fromhex(digits)
    elif base == "k":
        raw = _bytes(int(digits, 36))
    else:
        raw = _base58_bytes(digits)
    if raw[:1] != b"\x01":  # the version
        raise ValueError
    _, rest = _varint(raw[1:])  # the codec
    return _multihash(rest)


def _multihash(raw: bytes) -> _Key | None:
    code, rest = _varint(raw)
    size, digest = _varint(rest)
    if size != len(digest):
        raise ValueError
    try:
        hash = Hash(code)
    except ValueError:
        return None
    return (hash, digest) if size == _DIGEST else None


def _hashed_key(text: str) -> _Key | None:
    if _SHA256_HEX.fullmatch(text):
        return Hash.SHA2_256, bytes.fromhex(text)
    if len(text) > _MAX_CID:
        raise ValueError
    return _multihash(_base58_bytes(text))


def _varint(raw: bytes) -> tuple[int, bytes]:
    value = 0
    for index, byte in enumerate(raw[:9]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, raw[index + 1 :]
    raise ValueError


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base58_bytes(text: str) -> bytes:
    number = 0
    for digit in text:
        number = number * 58 + _BASE58.index(digit)
    zeros = len(text) - len(text.lstrip(_BASE58[0]))
    return b"\0" * zeros + _bytes(number)


def _base58(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return _BASE58[0] * (len(raw) - len(raw.lstrip(b"\0"))) + digits
