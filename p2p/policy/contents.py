"""What a file is by its bytes, once they are here: a name may say anything.

Looked for is what runs code when it is opened: pickles, bare, packed or inside the archives that
torch and numpy write; Keras models; and settings that make transformers import code.
What is none of that is not named: a file is only ever held against itself here.

Everything that is read is a stranger's: each look is bounded, and where a bound ends it, the file
is taken for the worse. Pure: reads through ``Content``, which the caller has opened.
"""

import ast
import bz2
import json
import lzma
import tarfile
import zipfile
import zlib
from typing import Any, Final, Protocol, cast

from p2p.policy.evidence import Finding
from p2p.policy.pickles import OutOfSightError, Read, is_pickle

MAX_SETTINGS: Final = 4 << 20
"""Bytes of a ``config.json`` that is read: ordinary ones have some KiB."""
MAX_UNPACKED: Final = 64 << 10
"""Bytes that are unpacked of a packed file: what a pickle is shows in the first hundred."""
MAX_ALL_UNPACKED: Final = 1 << 30
"""Bytes that are unpacked of all files in an archive: some seconds' worth."""
MAX_PACKED: Final = 1 << 20
"""Packed bytes that are given to the unpacker: a block of bzip2 gives nothing before its end."""
MAX_ENTRIES: Final = 100_000
"""Files in an archive that is looked through: torch writes one a tensor."""
MAX_INDEX: Final = 16 << 20
"""Bytes that are read of an archive in one go: the index of MAX_ENTRIES. It takes 20 times that."""
MAX_TAPE_HEADER: Final = 2 << 10
"""Bytes of a tar file's header that extends another, with a long name in it: tarfile searched such
a header in a time that grows with its square until 2024."""
MAX_ARRAY_HEADER: Final = 64 << 10
"""Bytes of the header of a numpy array: numpy itself takes 10,000."""
MAX_PACKED_MEMORY: Final = 128 << 20
"""Bytes of memory that unpacking may take: xz asks for 65 MB at its highest level."""

_ZIP: Final = b"PK\x03\x04"
_ZIP_END: Final = b"PK\x05\x06"
_BURSTING: Final = (12, 14, 93)  # bzip2, LZMA, zstd: zipfile unpacks all that a few KiB give
_FIRST: Final = 4096  # bytes of a file in an archive that mostly show what it is
_ZIP_TAIL: Final = 22 + 65_535  # bytes in which an archive's end must begin
_NUMPY: Final = b"\x93NUMPY"
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_HDF5_PLACES: Final = (0, 512, 1024, 2048, 4096, 8192)  # a user block may come before it


_PICKLE_NAMES: Final = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_BAD_ARCHIVE: Final = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, RuntimeError, ValueError,
    OSError, EOFError, OverflowError, KeyError,
)  # fmt: skip


class Content(Protocol):
    """A file that can be read."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on, fewer at its end."""


def look_into(path: str, content: Content) -> Finding | None:
    """Return what a file is that should not just be opened; None for all others."""
    head = content.read(0, 16)
    if path.endswith("config.json"):
        found = _settings(content)
        if found is not None:
            return found
    if any(content.read(place, 8) == _HDF5 for place in _HDF5_PLACES if place < content.size):
        return Finding("keras", "it is an HDF5 file, in which Keras keeps code")
    if head.startswith(_NUMPY):
        return _array(content.read)
    if _ZIP_END in content.read(max(0, content.size - _ZIP_TAIL), _ZIP_TAIL):
        found = _archive(content)
        if found is not None:
            return found
    if is_pickle(content.read):
        return Finding("pickle", "its bytes are a pickle")
    return _tape(content) or _packed(head, content)


def _settings(content: Content) -> Finding | None:
    """Look for the code that a ``config.json`` makes transformers import."""
    if content.size > MAX_SETTINGS:
        return Finding("code", f"it has more than the {MAX_SETTINGS:,} bytes that are looked at")
    try:
        value = json.loads(content.read(0, content.size), parse_int=str)
    except RecursionError:
        return Finding("code", "it is nested too deep to look through")
    except ValueError:
        return None  # nobody else reads it either
    names: set[str] = set()
    waiting: list[Any] = [value]
    named = False
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            named = named or bool(one.get("auto_map"))
            names |= _modules(one.get("auto_map"))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    if not named:
        return None
    return Finding("code", "its auto_map names code to import", tuple(sorted(names)))


def _modules(value: Any) -> set[str]:
    """Return the files that an ``auto_map`` names: ``modeling_x.XModel`` is in modeling_x.py."""
    waiting, found = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            module = one.rpartition(".")[0] or one
            found.add(f"{module}.py" if "--" not in one else one)
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found


def _array(read: Read) -> Finding | None:
    """Look whether a numpy array holds objects, which are pickled; or doesn't say so clearly."""
    start = read(0, 12)
    width = 2 if start[6:7] == b"\x01" else 4
    length = int.from_bytes(start[8 : 8 + width], "little")
    objects = Finding("pickle", "it is a numpy array of objects, which are pickled")
    if length > MAX_ARRAY_HEADER:
        return objects
    try:
        header = ast.literal_eval(read(8 + width, length).decode("utf-8").strip())
        kinds = _texts(header["descr"])
    except (ValueError, SyntaxError, RecursionError, MemoryError, KeyError, TypeError):
        return objects  # numpy refuses it, or understands what we don't
    return objects if any(kind.lstrip("|<>=@!")[:1] in ("O", "o") for kind in kinds) else None


def _texts(value: Any) -> list[str]:
    waiting, found = [value], []
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, list):  # of fields: (name, kind) or (name, kind, shape)
            waiting += [each[1] if isinstance(each, tuple) else each for each in one]
        elif isinstance(one, tuple):  # a kind and its shape
            waiting += one[:1]
    return found


def _archive(content: Content) -> Finding | None:
    """Look through a zip file: torch keeps a pickle in it, numpy arrays, Keras a model."""
    try:
        with zipfile.ZipFile(cast(Any, _File(content, MAX_INDEX))) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES:
                return Finding("pickle", f"it is an archive of more than {MAX_ENTRIES:,} files")
            names = {entry.filename for entry in entries}
            if names >= {"config.json", "model.weights.h5"}:
                return Finding("keras", "it is a Keras archive")
            for entry in entries:
                if entry.filename.endswith(_PICKLE_NAMES):
                    return Finding("pickle", f"it is an archive with the pickle {entry.filename}")
            left = MAX_ALL_UNPACKED
            for entry in entries:
                found, size = _entry(archive, entry)
                left -= size
                if found is not None:
                    return found
                if left < 0:
                    return Finding("pickle", "it is an archive of more than is looked through")
    except (*_BAD_ARCHIVE, _TooLargeError):
        # Other programs may be less strict, or have more time. Noise may end like an archive.
        if content.read(0, 4) in (_ZIP, _ZIP_END):
            return Finding("pickle", "it is an archive that cannot be looked through")
    return None


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[Finding | None, int]:
    """Look at a file in an archive; return how many bytes of it were unpacked, too."""
    if entry.compress_type in _BURSTING:
        return Finding("pickle", f"{entry.filename} in it is packed too well to look into"), 0
    try:
        with archive.open(entry) as stream:
            data = stream.read(_FIRST)
            found = _inside(data, cut=len(data) < entry.file_size)
            if found is not None and len(data) == _FIRST:  # perhaps only for want of more
                data += stream.read(MAX_UNPACKED - _FIRST)
                found = _inside(data, cut=len(data) < entry.file_size)
    except _BAD_ARCHIVE:
        return None, 0  # encrypted, or packed as no loader knows: nobody opens it unasked
    return found and Finding(found.format, f"{entry.filename} in it: {found.why}"), len(data)


def _tape(content: Content) -> Finding | None:
    """Look through a tar file: the oldest files of torch are some, with a member ``pickle``."""
    try:
        tape = _File(content, MAX_TAPE_HEADER)
        with tarfile.open(fileobj=cast(Any, tape), mode="r:") as archive:
            for count, entry in enumerate(archive):
                if entry.name.endswith(_PICKLE_NAMES) or entry.name == "pickle":
                    return Finding("pickle", f"it is an archive with the pickle {entry.name}")
                if count > MAX_ENTRIES:
                    return Finding("pickle", f"it is an archive of more than {count:,} files")
    except _BAD_ARCHIVE:
        return None
    except _TooLargeError:
        return Finding("pickle", "it is an archive with headers too large to look through")
    return None


def _packed(head: bytes, content: Content) -> Finding | None:
    """Look into what joblib and others have packed."""
    unpacker: Any = None
    if head.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(31)
    elif head.startswith(b"BZh"):
        unpacker = bz2.BZ2Decompressor()
    elif head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        unpacker = lzma.LZMADecompressor(memlimit=MAX_PACKED_MEMORY)
    elif head[:1] == b"\x78" and int.from_bytes(head[:2], "big") % 31 == 0:
        unpacker = zlib.decompressobj()
    if unpacker is None:
        return None
    try:
        plain = unpacker.decompress(content.read(0, MAX_PACKED), MAX_UNPACKED)
    except lzma.LZMAError as exc:
        if "limit" in str(exc):
            return Finding("pickle", "it is packed so that looking into it takes too much memory")
        return None
    except (zlib.error, OSError, EOFError, ValueError):
        return None
    found = _inside(plain, cut=not unpacker.eof)
    return found and Finding(found.format, f"unpacked, {found.why}")


def _inside(data: bytes, *, cut: bool) -> Finding | None:
    """Say what the beginning of a packed file, or all of it where nothing was cut off, is."""

    def read(start: int, size: int) -> bytes:
        if cut and start + min(size, 8) > len(data):
            raise OutOfSightError
        return data[start : start + size]

    if data.startswith(_NUMPY):
        return _array(lambda start, size: data[start : start + size])
    return Finding("pickle", "its bytes are a pickle") if is_pickle(read) else None


class _TooLargeError(Exception):
    """More is asked for at once than is ever read."""


class _File:
    """A Content as the file that zipfile wants: it reads, seeks, and knows where it is."""

    def __init__(self, content: Content, largest: int) -> None:
        self._content = content
        self._largest = largest
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        size = self._content.size - self._at if size < 0 else size
        if size > self._largest:
            raise _TooLargeError
        data = self._content.read(self._at, max(0, size))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, self._content.size)[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing was opened."""
