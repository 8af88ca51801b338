"""A release and the repository at the Hugging Face Hub that it stands for.

A release that was imported says so in its lineage, by an entry of the role ``origin`` with a URI
like ``hf://org/repo@COMMIT`` or ``hf://datasets/org/repo@COMMIT``. Towards clients of the Hub it
then has the Hub's own commit, so that pins and caches agree; any other release has one made of its
manifest's digest. Whoever imports ``org/repo`` calls the release ``org--repo`` and its version by
the commit, so that a node which has nothing yet finds it in a list of names.

Pure: knows manifests, and nothing of stores, networks or the Hub's server.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from p2p.cid import CID
from p2p.manifest import FileEntry, Kind, Manifest
from p2p.terms import ORIGIN, is_origin

ROLE: Final = ORIGIN
"""The role of the lineage entry that says from where a release was imported."""
HUB: Final = "https://huggingface.co"
"""The Hub; another server with its API may stand in its place."""
SHORT: Final = 16
"""Characters of a publisher's id, its last ones, for a publisher whom nobody here gave a name."""
MAX_REGULAR: Final = 10 << 20
"""Bytes from which on the Hub keeps any file as a large one."""

REPO: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?/)?"
    r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?"
)
"""A repository's id: NAME, or OWNER/NAME."""
COMMIT: Final = re.compile("[0-9a-f]{40}")
"""A revision that never changes."""

_URI: Final = re.compile(rf"hf://(datasets/)?({REPO.pattern})@({COMMIT.pattern})")
_LARGE: Final = frozenset({
    ".7z", ".arrow", ".avi", ".bin", ".bz2", ".ckpt", ".flac", ".ftz", ".gguf", ".gif", ".gz",
    ".h5", ".jpeg", ".jpg", ".joblib", ".lz4", ".mlmodel", ".model", ".mov", ".mp3", ".mp4",
    ".msgpack", ".npy", ".npz", ".onnx", ".ogg", ".ot", ".parquet", ".pb", ".pickle", ".pkl",
    ".png", ".pt", ".pth", ".rar", ".safetensors", ".sqlite", ".tar", ".tflite", ".tgz", ".wasm",
    ".wav", ".webp", ".xz", ".zip", ".zst",
})  # fmt: skip
"""What the Hub keeps as large files by their names, whatever their size."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A revision of a repository at the Hub: ``repo`` is OWNER/NAME, ``commit`` 40 hex digits."""

    kind: Kind
    repo: str
    commit: str

    @property
    def uri(self) -> str:
        """How a lineage entry names it."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.repo}@{self.commit}"

    def url(self, endpoint: str = HUB) -> str:
        """Return the folder that a web server of the Hub answers files from."""
        return f"{endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{quote(self.repo)}" + (
            f"/resolve/{self.commit}/"
        )


def parse_origin(uri: str) -> Origin | None:
    """Read the URI of a lineage entry; None for one that names no fixed revision at the Hub."""
    found = _URI.fullmatch(uri)
    if found is None:
        return None
    return Origin("dataset" if found[1] else "model", found[2], found[3])


def origin_of(manifest: Manifest) -> Origin | None:
    """Return what a release says it was imported from; its publisher's word, nothing more."""
    for parent in manifest.lineage:
        if is_origin(parent):
            origin = parse_origin(str(parent.get("uri", "")))
            if origin is not None and origin.kind == manifest.kind:
                return origin
    return None


def commit_of(manifest: Manifest) -> str:
    """Return the commit that clients of the Hub see: 40 hex digits."""
    origin = origin_of(manifest)
    return origin.commit if origin is not None else own_commit(manifest.cid)


def own_commit(manifest: CID) -> str:
    """Return the commit of a release that is from nowhere else: of its digest the first half."""
    return manifest.digest.hex()[:40]


def mirror_name(repo: str) -> str:
    """Return what a release is called that stands for a repository at the Hub."""
    return repo.replace("/", "--")


def is_large(manifest: Manifest, entry: FileEntry) -> bool:
    """Say whether the Hub keeps such a file as a large one, known by SHA-256, else by git's SHA-1.

    Of an imported release it is what the Hub did: whoever imports states SHA-256 of those alone.
    """
    if origin_of(manifest) is not None:
        return entry.sha256 is not None
    name = entry.path.rpartition("/")[2].lower()
    return entry.size >= MAX_REGULAR or name[name.rfind(".") :] in _LARGE
