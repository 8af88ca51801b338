"""What was made of a release here: converted weights, each with a record of what it came from.

    <root>/<manifest CID>/<type>-<version>.gguf     the weights
    <root>/<manifest CID>/<type>-<version>.json     the record

No release and given to nobody: it can be made again at any time, of the files that its record
names, by the program that it names. The record is written last, so a file without one, or of
another size than it says, or made of other files, is not believed, and made again.

Blocks: to be called in worker threads.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from node.engine.convert import ASKED, VERSION
from node.engine.documents import read_object
from node.store import durable
from p2p.cid import CID
from p2p.errors import UsageError, VerificationFailed

CONVERTER: Final = "allod convert"
MAX_RECORD: Final = 4 << 20
"""Bytes of a record: a line for each file of the release, of which there are 20,000 at most."""

_FIELDS: Final = {
    "manifest": str, "sources": dict, "type": str, "size": int, "blake3": str, "converter": str,
    "version": str, "gguf": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """Of what, by what and as what a file was made."""

    manifest: str
    """The CID of the release."""
    sources: Mapping[str, str]
    """The files of the release: path -> CID."""
    type: str
    """What was asked for: auto, f16, bf16 or q8_0."""
    size: int
    """Bytes of the file."""
    blake3: str
    """Of the file, hexadecimal digits."""
    converter: str
    version: str
    """The converter's."""
    gguf: str
    """The version of the package that wrote the file's header."""


class Derived:
    """Everything that was made of releases, in the folder ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def place(self, manifest: CID, type: str) -> Path:
        """Return where the weights of a release, made into ``type``, lie or are to lie.

        ``UsageError`` for a type that there is not.
        """
        if type not in ASKED:
            raise UsageError(f"Weights are made into {', '.join(ASKED)}, not {type[:40]!r}.")
        return self._root / str(manifest) / f"{type}-{VERSION}.gguf"

    def find(self, manifest: CID, type: str, sources: Mapping[str, CID]) -> Path | None:
        """Return the file that was made of exactly these files, if it can be believed."""
        record = self.record(manifest, type)
        if record is None or record.sources != _texts(sources):
            return None
        return self.place(manifest, type)

    def record(self, manifest: CID, type: str) -> Record | None:
        """Return the record of a file that can be believed; None if there is none."""
        file = self.place(manifest, type)
        try:
            value = read_object(_record_of(file), MAX_RECORD) or {}
            size = file.stat().st_size
        except (OSError, VerificationFailed):
            return None
        record = _parse(value)
        if record is None or record.size != size:
            return None
        said = (record.manifest, record.type, record.converter, record.version)
        return record if said == (str(manifest), type, CONVERTER, VERSION) else None

    def prepare(self, manifest: CID, type: str) -> Path:
        """Make the folder for a file that is to be made, and what was there before go."""
        file = self.place(manifest, type)
        with durable.disk_errors("make room for a converted model"):
            file.parent.mkdir(parents=True, exist_ok=True)
            for old in (_record_of(file), file):
                durable.unlink(old)
        return file

    def note(self, manifest: CID, type: str, sources: Mapping[str, CID]) -> Path:
        """Write the record of a file that lies, synced, at its place; return that place.

        Reads the whole file, for its hash.
        """
        file = self.place(manifest, type)
        with durable.disk_errors("note what was converted"):
            hasher = blake3(max_threads=blake3.AUTO)
            hasher.update_mmap(file)
            record = Record(
                manifest=str(manifest),
                sources=_texts(sources),
                type=type,
                size=file.stat().st_size,
                blake3=hasher.hexdigest(),
                converter=CONVERTER,
                version=VERSION,
                gguf=_gguf_version(),
            )
            data = json.dumps(asdict(record), indent=1).encode()
            durable.replace_file(_record_of(file), data, file.parent)
        return file

    def remove(self, manifest: CID) -> None:
        """Delete all that was made of a release."""
        shutil.rmtree(self._root / str(manifest), ignore_errors=True)

    def clean(self, held: Collection[CID]) -> int:
        """Delete what no release held here needs, and what was left half made; the bytes freed.

        To be asked when nothing is being converted.
        """
        if not self._root.is_dir():
            return 0
        before = _size(self._root)
        kept = {str(cid) for cid in held}
        with durable.disk_errors("delete what was converted"):
            for folder in sorted(self._root.iterdir()):
                if not folder.is_dir():
                    folder.unlink()
                elif folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    self._clean_folder(folder)
        return before - _size(self._root)

    def _clean_folder(self, folder: Path) -> None:
        manifest = CID.parse(folder.name)
        believed = {
            file
            for type in ASKED
            if self.record(manifest, type) is not None
            for file in (self.place(manifest, type), _record_of(self.place(manifest, type)))
        }
        for file in set(folder.iterdir()) - believed:
            file.unlink()


def _parse(value: Mapping[str, Any]) -> Record | None:
    """Read a record; None if it is not one. What a later version adds is left aside."""
    if any(type(value.get(name)) is not kind for name, kind in _FIELDS.items()):
        return None
    return Record(**{name: value[name] for name in _FIELDS})


def _record_of(file: Path) -> Path:
    return file.with_suffix(".json")


def _texts(sources: Mapping[str, CID]) -> dict[str, str]:
    return {path: str(cid) for path, cid in sorted(sources.items())}


def _gguf_version() -> str:
    try:
        return version("gguf")
    except PackageNotFoundError:  # it was there when the file was made
        return ""


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
