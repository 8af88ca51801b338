"""The header of a safetensors file, walked entry by entry.

Each entry has bounded length and is parsed alone, so a header that is made of something else costs
no memory beyond its own bytes.
Stricter than the reference implementation: no key twice, nothing before the brace, 16 MiB.
Specification: huggingface.co/docs/safetensors (format).
"""

import json
import math
import re
from collections.abc import Collection
from typing import Final

from p2p.errors import UsageError, VerificationFailed
from p2p.tensors.layout import (
    MAX_METADATA,
    MAX_OFFSET,
    MAX_TENSORS,
    ReadAt,
    Tensor,
    TensorFile,
    shown,
)

MAX_SAFETENSORS_HEADER: Final = 16 << 20
"""Bytes of JSON: room for 100,000 tensors; the largest models have a few thousand in a file.

The reference implementation takes 100 MB, and 12 s and 1.7 GB over 69 of them.
"""

MAX_ENTRY: Final = 4096
"""Characters of one tensor's JSON object: dtype, some dimensions and two offsets."""

MAX_DIMS: Final = 32
"""Dimensions of a tensor, as in NumPy before version 2; real ones have up to five."""

_BITS: Final = {
    dtype: bits
    for bits, dtypes in {
        4: "F4",
        6: "F6_E2M3 F6_E3M2",
        8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
        16: "U16 I16 F16 BF16",
        32: "U32 I32 F32",
        64: "U64 I64 F64 C64",
    }.items()
    for dtype in dtypes.split()
}
_DTYPE: Final = re.compile("[A-Z][A-Z0-9_]{0,31}")
_COLON: Final = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_NEXT: Final = re.compile(r"[ \t\r\n]*([,}])[ \t\r\n]*")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_ENTRY: Final = re.compile(rf"\{{[^{{}}]{{0,{MAX_ENTRY - 2}}}\}}")
_METADATA: Final = "__metadata__"


def read_safetensors(read_at: ReadAt, size: int) -> TensorFile:
    """Read the header of a safetensors file of ``size`` bytes; ``VerificationFailed`` if malformed.

    The JSON object is walked entry by entry, each of bounded length, so a header that is made of
    something else costs no memory beyond its own bytes.
    """
    prefix = read_at(0, 9)
    if len(prefix) < 9 or prefix[8:] != b"{":
        raise VerificationFailed("A safetensors file begins with 8 bytes of length and then '{'.")
    length = int.from_bytes(prefix[:8], "little")
    if length > min(MAX_SAFETENSORS_HEADER, size - 8):
        raise VerificationFailed(
            f"A safetensors header has at most {MAX_SAFETENSORS_HEADER} bytes and lies within the "
            f"file of {size}, this one says {length}."
        )
    raw = read_at(8, length)
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        raise VerificationFailed("A safetensors header is not UTF-8.") from exc
    if len(raw) != length:
        raise VerificationFailed(f"A file of {size} bytes ended within its header of {length}.")
    metadata: dict[str, str] = {}
    tensors: list[Tensor] = []
    seen: set[str] = set()
    at, more = _open(text, 0)
    while more:
        name, at = _key(text, at, seen)
        if name == _METADATA:
            metadata, at = _strings(text, at)
        else:
            tensor, at = _tensor(text, at, name, 8 + length)
            tensors.append(tensor)
        if len(tensors) > MAX_TENSORS:
            raise VerificationFailed(f"A safetensors file has at most {MAX_TENSORS} tensors.")
        at, more = _more(text, at)
    if at != len(text):
        raise VerificationFailed("A safetensors header goes on after its JSON object.")
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop, tensor.name))
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise VerificationFailed(
                f"The tensor {shown(tensor.name)} starts at byte {tensor.start}, the one before it "
                f"ends at {end}."
            )
        end = tensor.stop
    if end != size:
        raise VerificationFailed(f"The last tensor ends at byte {end}, the file has {size}.")
    return TensorFile("safetensors", 8 + length, tuple(tensors), dict(metadata))


def slice_safetensors(
    file: TensorFile, names: Collection[str]
) -> tuple[bytes, list[tuple[int, int]]]:
    """Make a smaller safetensors file of some tensors: (new header, spans to copy after it).

    The header includes its 8 bytes of length and is padded to a multiple of 8; spans are byte
    offsets in the old file, in order, joined where they touch. Metadata is kept.
    ``UsageError`` for a name that the file does not have, or a file of another format.
    """
    if file.format != "safetensors":
        raise UsageError(f"Tensors are taken out of safetensors files, not {file.format}.")
    wanted = set(names)
    missing = wanted.difference(tensor.name for tensor in file.tensors)
    if missing:
        raise UsageError(f"The file has no tensor {shown(min(missing))}.")
    header: dict[str, object] = {_METADATA: file.metadata} if file.metadata else {}
    spans: list[tuple[int, int]] = []
    offset = 0
    for tensor in file.tensors:
        if tensor.name not in wanted:
            continue
        stop = offset + tensor.stop - tensor.start
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (offset, stop),
        }
        offset = stop
        if spans and spans[-1][1] == tensor.start:
            spans[-1] = spans[-1][0], tensor.stop
        elif tensor.start < tensor.stop:
            spans.append((tensor.start, tensor.stop))
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw, spans


def _open(text: str, at: int) -> tuple[int, bool]:
    """Step into an object: (where its first key begins or what follows it, whether it has any)."""
    if text[at : at + 1] != "{":
        raise VerificationFailed(f"A safetensors header has no object at character {at}.")
    at = _skip(text, at + 1)
    return (_skip(text, at + 1), False) if text[at : at + 1] == "}" else (at, True)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _more(text: str, at: int) -> tuple[int, bool]:
    """Step past the comma or the brace that follows a value."""
    found = _NEXT.match(text, at)
    if found is None:
        raise VerificationFailed(f"A safetensors header has no ',' or '}}' at character {at}.")
    return found.end(), found[1] == ","


_DECODER: Final = json.JSONDecoder()


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise VerificationFailed(f"A safetensors header has no string at character {at}.")
    try:
        value, end = _DECODER.raw_decode(text, at)
        value.encode()  # half of a surrogate pair is JSON, but no text
    except ValueError as exc:
        raise VerificationFailed(f"A safetensors header has a broken string at {at}.") from exc
    return value, end


def _key(text: str, at: int, seen: set[str]) -> tuple[str, int]:
    """Read a key that was not there before, and the colon after it."""
    name, at = _string(text, at)
    if name in seen:
        raise VerificationFailed(f"A safetensors header has the key {shown(name)} twice.")
    seen.add(name)
    found = _COLON.match(text, at)
    if found is None:
        raise VerificationFailed(f"A safetensors header has no ':' at character {at}.")
    return name, found.end()


def _strings(text: str, at: int) -> tuple[dict[str, str], int]:
    """Read the metadata: an object of strings."""
    result: dict[str, str] = {}
    seen: set[str] = set()
    at, more = _open(text, at)
    while more:
        key, at = _key(text, at, seen)
        result[key], at = _string(text, at)
        if len(result) > MAX_METADATA:
            raise VerificationFailed(
                f"A safetensors file has over {MAX_METADATA} metadata entries."
            )
        at, more = _more(text, at)
    return result, at


def _tensor(text: str, at: int, name: str, data: int) -> tuple[Tensor, int]:
    """Read one tensor's object and check what it says against itself."""
    found = _ENTRY.match(text, at)
    try:
        entry = json.loads(found[0], object_pairs_hook=_unique) if found else None
    except ValueError as exc:
        raise VerificationFailed(f"The tensor {shown(name)} is described by broken JSON.") from exc
    except RecursionError as exc:
        raise VerificationFailed(f"The tensor {shown(name)} is described too deeply.") from exc
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop], **rest}:
            whole = all(type(n) is int and 0 <= n <= MAX_OFFSET for n in (*shape, start, stop))
            if rest or not whole or _DTYPE.fullmatch(dtype) is None or len(shape) > MAX_DIMS:
                raise VerificationFailed(f"The tensor {shown(name)} is described wrongly.")
        case _:
            raise VerificationFailed(
                f"The tensor {shown(name)} has no dtype, shape and data_offsets as it should."
            )
    assert found is not None
    bits = _BITS.get(dtype)
    if start > stop or (bits is not None and math.prod(shape) * bits != (stop - start) * 8):
        raise VerificationFailed(
            f"The tensor {shown(name)}, {dtype} {shape}, can't fill bytes {start} to {stop}."
        )
    return Tensor(name, dtype, tuple(shape), data + start, data + stop), found.end()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result
