"""The GGUF file: written beside its place, synced, and moved there whole.

``gguf`` writes the header; the tensors follow in the order of the recipe, piece by piece, so the
file is written, and hashed, from its beginning to its end.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from node.engine.convert import TYPES
from node.engine.convert.pieces import read_packed, stored_size, type_of
from node.engine.convert.recipe import Entry, Recipe
from node.engine.repository import Shard
from p2p.errors import VerificationFailed
from p2p.tensors import Tensor

ALIGNMENT: Final = 32
"""Bytes to which tensors are aligned: GGUF's default."""

_KINDS: Final = {
    "u32": GGUFValueType.UINT32,
    "f32": GGUFValueType.FLOAT32,
    "bool": GGUFValueType.BOOL,
    "text": GGUFValueType.STRING,
}
_ITEMS: Final = {
    "texts": GGUFValueType.STRING,
    "i32s": GGUFValueType.INT32,
    "f32s": GGUFValueType.FLOAT32,
}


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was made: its bytes, and their BLAKE3 in hexadecimal digits."""

    size: int
    blake3: str


class _Output:
    """A file that is hashed while it is written."""

    def __init__(self, file: Path) -> None:
        self.hash = blake3()
        self.size = 0
        with file.open("rb") as header:
            while part := header.read(1 << 20):
                self.hash.update(part)
                self.size += len(part)
        self._stream = file.open("ab")

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> None:
        """Write at the end."""
        self._stream.write(data)
        self.hash.update(data)
        self.size += len(data)

    def pad(self) -> None:
        """Fill up to where a tensor may begin."""
        self.write(bytes(-self.size % ALIGNMENT))

    def sync(self) -> None:
        """Return when all is on disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())


def write_model(
    out: Path,
    recipe: Recipe,
    shards: list[Shard],
    folder: Path,
    wanted: str,
    progress: Callable[[int, int], None],
) -> Written:
    """Write the whole model to ``out``, by way of ``out`` + ``.part``.

    ``progress`` is told how many bytes of how many are written. On any error nothing is left.
    """
    part = out.with_name(out.name + ".part")
    try:
        _write_header(part, recipe, wanted)
        with _Output(part) as output, ExitStack() as stack:
            sources = _sources(stack, folder, shards)
            _write_tensors(output, recipe, sources, wanted, progress)
            output.sync()
            written = Written(output.size, output.hash.hexdigest())
        os.rename(part, out)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    fd = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return written


def _write_header(part: Path, recipe: Recipe, wanted: str) -> None:
    writer = GGUFWriter(part, recipe.architecture)
    for one in (
        Entry("general.type", "text", "model"),
        Entry("general.file_type", "u32", TYPES[wanted]),
        Entry("general.quantization_version", "u32", 2),
        *recipe.entries,
    ):
        whole = one.key.startswith(("general.", "tokenizer."))
        key = one.key if whole else f"{recipe.architecture}.{one.key}"
        if one.kind in _KINDS:
            writer.add_key_value(key, one.value, _KINDS[one.kind])
        else:
            writer.add_key_value(key, one.value, GGUFValueType.ARRAY, _ITEMS[one.kind])
    for made in recipe.made:
        _describe(writer, made.target, (len(made.values),), GGMLQuantizationType.F32)
    for move in recipe.moves:
        _describe(writer, move.target, move.shape, type_of(move, wanted))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    except UnicodeEncodeError as exc:  # half of a surrogate pair is JSON, but no text
        raise VerificationFailed("A token or a template of the model is no text.") from exc
    finally:
        writer.close()


def _describe(
    writer: GGUFWriter, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType
) -> None:
    size = stored_size(shape, kind)
    writer.add_tensor_info(name, shape, np.dtype("<f4"), size, raw_dtype=kind)


def _sources(
    stack: ExitStack, folder: Path, shards: list[Shard]
) -> Mapping[str, tuple[int, Tensor]]:
    found: dict[str, tuple[int, Tensor]] = {}
    for shard in shards:
        fd = os.open(folder / shard.path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        found |= {tensor.name: (fd, tensor) for tensor in shard.tensors}
    return found


def _write_tensors(
    output: _Output,
    recipe: Recipe,
    sources: Mapping[str, tuple[int, Tensor]],
    wanted: str,
    progress: Callable[[int, int], None],
) -> None:
    kinds = {move.target: type_of(move, wanted) for move in recipe.moves}
    total = sum(stored_size(move.shape, kinds[move.target]) for move in recipe.moves)
    done = 0
    for made in recipe.made:
        output.pad()
        output.write(np.array(made.values, "<f4").tobytes())
    for move in recipe.moves:
        output.pad()
        fd, tensor = sources[move.source]
        for data in read_packed(fd, tensor, move, kinds[move.target]):
            output.write(data)
            done += len(data)
            progress(done, total)
    output.pad()
